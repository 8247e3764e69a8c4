"""Alignment and uniformity of embeddings for the log (Wang & Isola 2020), without gradient."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from trainer.scores import exact

UNIFORMITY_QUERIES = 128
"""The first queries of the global batch, of which all pairs are compared."""


@torch.no_grad()
def squared_distances(
    queries: Float[Tensor, "query dimension"], positives: Float[Tensor, "query dimension"]
) -> Float[Tensor, ""]:
    """Returns the sum of |q - d|^2 over queries and their positives, all of length 1.

    Alignment is its mean: 0 if every query has the direction of its positive.

    >>> squared_distances(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])).item()
    2.0
    """
    cosines = functional.cosine_similarity(exact(queries), exact(positives))
    return (2 - 2 * cosines).sum()


@torch.no_grad()
def uniformity(queries: Float[Tensor, "query dimension"]) -> Float[Tensor, ""]:
    """Returns log(mean of exp(-2 |x - y|^2)) over pairs of queries, all of length 1.

    It is 0 if all queries have the same direction, and -4 for pairs at right angles. Only the first
    `UNIFORMITY_QUERIES` are compared; there must be two.

    >>> uniformity(torch.tensor([[2.0, 0.0], [0.0, 3.0]])).item()
    -4.0
    """
    directions = functional.normalize(exact(queries[:UNIFORMITY_QUERIES]), dim=1)
    exponents = 4 * directions @ directions.T - 4
    exponents.fill_diagonal_(-torch.inf)
    pairs = len(directions) * (len(directions) - 1)
    return exponents.flatten().logsumexp(0) - math.log(pairs)
