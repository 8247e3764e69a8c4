"""The limit of XTR's score for each query token: the smallest product with a document token that it
retrieves from the documents of all ranks.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.collectives import gather, own_rows, ranks
from trainer.kernels.matmul import linear
from trainer.scores import exact

_PRODUCTS_AT_ONCE = 2**22
_ROUNDING = 1e-6
"""Relative tolerance, so that the last retrieved token reaches its own limit despite rounding of
its product.
"""


@torch.no_grad()
def limits(
    queries: Float[Tensor, "query query_token dimension"],
    documents: Float[Tensor, "document document_token dimension"],
    top_k: int,
) -> Float[Tensor, "query query_token"]:
    """Returns the `top_k`-th largest product of each query token with the tokens of all documents.

    The documents are those of all ranks. The limit is minus infinity if they have fewer tokens.
    """
    all_queries = gather(exact(queries), padding=0.0)
    rows, tokens = all_queries.flatten(0, 1), exact(documents)[documents.any(-1)]
    own_count = min(top_k, len(tokens))
    largest = rows.new_full((len(rows), top_k), -torch.inf)
    step = max(1, _PRODUCTS_AT_ONCE // max(1, len(tokens)))
    for start in range(0, len(rows), step):
        largest[start : start + step, :own_count] = (
            linear(rows[start : start + step], tokens).topk(own_count).values
        )
    largest_of_ranks = gather(largest).unflatten(0, (ranks(), -1)).transpose(0, 1).flatten(1)
    all_limits = largest_of_ranks.topk(top_k).values[:, -1].unflatten(0, all_queries.shape[:2])
    own_limits = all_limits[own_rows(len(queries)), : queries.shape[1]]
    return own_limits - _ROUNDING * own_limits.abs().nan_to_num(posinf=0.0)


def with_limits(
    queries: Float[Tensor, "query query_token dimension"],
    documents: Float[Tensor, "document document_token dimension"],
    top_k: int,
) -> tuple[
    Float[Tensor, "query query_token dimension_and_limit"],
    Float[Tensor, "document document_token dimension_and_limit"],
]:
    """Returns embeddings for `trainer.scores.xtr`, with one more component per token vector.

    It is the limit for a query token and zero for a document token.
    """
    limit = limits(queries, documents, top_k).masked_fill(~queries.any(-1), 0.0)
    return torch.cat([exact(queries), limit[..., None]], -1), torch.cat(
        [exact(documents), exact(documents).new_zeros(*documents.shape[:-1], 1)], -1
    )
