"""The divergence between two distributions over all documents of all ranks, computed in tiles. No
complete matrix of scores ever exists in memory.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.collectives import sum_with_gradient
from trainer.log_partition import gather_queries, log_partition, tiles
from trainer.scores import Score, exact

LogShares = Callable[[slice, slice], Float[Tensor, "query document"]]
"""A function from a tile to the logarithm of each document's probability under the teacher.

A tile is a slice of the queries of all ranks and a slice of the documents of this rank.
"""


def kl_over_batch(
    queries: Float[Tensor, "query ..."],
    documents: Float[Tensor, "document ..."],
    score: Score,
    temperature: Float[Tensor, ""] | float,
    teacher_shares: LogShares,
) -> Float[Tensor, " all_queries"]:
    """Returns KL(teacher || student) for every query of all ranks, over the documents of all ranks.

    The student's probabilities q are the softmax of s = score / temperature. With p the teacher's
    probabilities, KL = Z - sum of p s + sum of p log p, where Z is the student's `log_partition`.
    One more pass over the tiles computes the sums, in O(B D) memory. The gradient with respect to a
    score is (q - p) / temperature.
    """
    partition = log_partition(queries, documents, score, temperature)
    all_queries = gather_queries(queries, temperature)
    terms = _TeacherTerms.apply(all_queries, exact(documents), score, teacher_shares)
    return partition.queries + sum_with_gradient(terms)


def log_shares(
    teachers: list[tuple[Float[Tensor, "query ..."], Float[Tensor, "document ..."], Score]],
    temperature: float,
) -> LogShares:
    """Returns the mean of the distributions of several teachers.

    A teacher's distribution is the softmax of its score / temperature over the documents of all
    ranks.
    """
    with torch.no_grad():
        parts = [
            (
                gather_queries(queries, temperature),
                exact(documents),
                score,
                log_partition(queries, documents, score, temperature).queries,
            )
            for queries, documents, score in teachers
        ]

    def tile_shares(tile_queries: slice, tile_documents: slice) -> Float[Tensor, "query document"]:
        with torch.no_grad():
            shares = [
                score(queries[tile_queries], documents[tile_documents]) - log_z[tile_queries, None]
                for queries, documents, score, log_z in parts
            ]
            if len(shares) == 1:
                return shares[0]
            return torch.stack(shares).logsumexp(0) - math.log(len(shares))

    return tile_shares


class _TeacherTerms(torch.autograd.Function):
    """For each query the sum over this rank's documents of p (log p - s), where p are the teacher's
    probabilities. No scores are kept for the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, documents: Tensor, score: Score, teacher_shares: LogShares
    ) -> Tensor:
        sums = queries.new_zeros(len(queries))
        for tile_queries, tile_documents in tiles(queries, documents, 0):
            logs = teacher_shares(tile_queries, tile_documents).to(queries)
            sums[tile_queries] += (
                logs.exp() * (logs - score(queries[tile_queries], documents[tile_documents]))
            ).sum(1)
        ctx.save_for_backward(queries, documents)
        ctx.settings = score, teacher_shares
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
        queries, documents = ctx.saved_tensors
        score, teacher_shares = ctx.settings
        grad_queries, grad_documents = torch.zeros_like(queries), torch.zeros_like(documents)
        for tile_queries, tile_documents in tiles(queries, documents, 0):
            inputs = (
                queries[tile_queries].detach().requires_grad_(),
                documents[tile_documents].detach().requires_grad_(),
            )
            with torch.enable_grad():
                scores = score(*inputs)
            shares = teacher_shares(tile_queries, tile_documents).to(queries).exp()
            grad_tile = torch.autograd.grad(scores, inputs, -shares * grad_sums[tile_queries, None])
            grad_queries[tile_queries] += grad_tile[0]
            grad_documents[tile_documents] += grad_tile[1]
        return grad_queries, grad_documents, None, None
