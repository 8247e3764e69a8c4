"""The divergence between two distributions over all documents of all ranks, in tiles: neither
matrix of scores ever exists as a whole.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.collectives import gather
from trainer.log_partition import gather_queries, log_partition, tiles
from trainer.scores import Score, exact

LogShares = Callable[[slice, slice], Float[Tensor, "query document"]]
"""(some queries of all ranks, some documents of this rank) to the logarithm of each document's
share in what the query is taught.
"""


def kl_over_batch(
    queries: Float[Tensor, "query ..."],
    documents: Float[Tensor, "document ..."],
    score: Score,
    temperature: Float[Tensor, ""] | float,
    taught: LogShares,
) -> Float[Tensor, " all_queries"]:
    """KL(taught || student) of every query of all ranks, over the documents of all ranks; the
    student's shares are the softmax of score / temperature.

    With p the shares taught and q the student's, KL = Z - sum of p s + sum of p log p, where Z is
    the student's `log_partition`; the sums fall off in one more pass over the tiles. O(B D) memory
    as there, and the gradient for a score is (q - p) / temperature.
    """
    partition = log_partition(queries, documents, score, temperature)
    everyone = gather_queries(queries, temperature)
    crossed = _Crossed.apply(everyone, exact(documents), score, taught)
    return partition.queries + gather(crossed[None]).sum(0)


def log_shares(
    of_teachers: list[tuple[Float[Tensor, "query ..."], Float[Tensor, "document ..."], Score]],
    temperature: float,
) -> LogShares:
    """The mean of the distributions of several teachers, of each the softmax of its score /
    temperature over the documents of all ranks.
    """
    with torch.no_grad():
        parts = [
            (
                gather_queries(queries, temperature),
                exact(documents),
                score,
                log_partition(queries, documents, score, temperature).queries,
            )
            for queries, documents, score in of_teachers
        ]

    def of_tile(some_queries: slice, some_documents: slice) -> Float[Tensor, "query document"]:
        with torch.no_grad():
            each = [
                score(queries[some_queries], documents[some_documents]) - whole[some_queries, None]
                for queries, documents, score, whole in parts
            ]
            return (
                torch.stack(each).logsumexp(0) - math.log(len(each)) if len(each) > 1 else each[0]
            )

    return of_tile


class _Crossed(torch.autograd.Function):
    """Of each query the sum over this rank's documents of p (log p - s), with p the shares taught;
    tile by tile, nothing of a tile is kept.
    """

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, documents: Tensor, score: Score, taught: LogShares
    ) -> Tensor:
        sums = queries.new_zeros(len(queries))
        for some_queries, some_documents in tiles(queries, documents, 0):
            logs = taught(some_queries, some_documents).to(queries)
            sums[some_queries] += (
                logs.exp() * (logs - score(queries[some_queries], documents[some_documents]))
            ).sum(1)
        ctx.save_for_backward(queries, documents)
        ctx.settings = score, taught
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sums: Tensor) -> tuple[Tensor | None, ...]:
        queries, documents = ctx.saved_tensors
        score, taught = ctx.settings
        of_queries, of_documents = torch.zeros_like(queries), torch.zeros_like(documents)
        for some_queries, some_documents in tiles(queries, documents, 0):
            inputs = (
                queries[some_queries].detach().requires_grad_(),
                documents[some_documents].detach().requires_grad_(),
            )
            with torch.enable_grad():
                scores = score(*inputs)
            shares = taught(some_queries, some_documents).to(queries).exp()
            of_tile = torch.autograd.grad(scores, inputs, -shares * of_sums[some_queries, None])
            of_queries[some_queries] += of_tile[0]
            of_documents[some_documents] += of_tile[1]
        return of_queries, of_documents, None, None
