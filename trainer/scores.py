"""Scores: how near a query is to a document. Leading axes broadcast, so one function serves the batch and a query's own candidates."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Score = Callable[
    [Float[Tensor, "*#leading query dimension"], Float[Tensor, "*#leading document dimension"]], Float[Tensor, "*#leading query document"]
]
"""Any function from embeddings of queries and documents to scores, before temperature."""


def dot(
    queries: Float[Tensor, "*#leading query dimension"], documents: Float[Tensor, "*#leading document dimension"]
) -> Float[Tensor, "*#leading query document"]:
    """The dot product of every query with every document, in float32 or better whatever the encoder's precision.

    >>> dot(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 4.0]])).tolist()
    [[3.0, 8.0]]
    """
    with torch.autocast(queries.device.type, enabled=False):
        exact = torch.promote_types(queries.dtype, torch.float32)
        return torch.einsum("...qd,...kd->...qk", queries.to(exact), documents.to(exact))


def own(queries: Float[Tensor, "query dimension"], documents: Float[Tensor, "document dimension"], score: Score) -> Float[Tensor, "query candidate"]:
    """The score of every query with its own candidates only: documents are query-major, the same number for each query.

    >>> queries, documents = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0], [5.0], [6.0]])
    >>> own(queries, documents, dot).tolist()
    [[3.0, 4.0], [10.0, 12.0]]
    """
    return score(queries.unsqueeze(1), documents.unflatten(0, (len(queries), -1))).squeeze(1)
