"""What a token of a query would retrieve from the batch: the limit that XTR's score compares with,
over the documents of all ranks.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.collectives import gather, own_rows, ranks
from trainer.kernels.matmul import linear
from trainer.scores import exact

_PRODUCTS_AT_ONCE = 2**22
_ROUNDING = 1e-6
"""The last token retrieved must reach its own limit, however its product is rounded."""


@torch.no_grad()
def limits(
    queries: Float[Tensor, "query query_token dimension"],
    documents: Float[Tensor, "document document_token dimension"],
    top_k: int,
) -> Float[Tensor, "query query_token"]:
    """The `top_k`-th largest product of each query token with the document tokens of all ranks;
    minus infinity where there are no more than that.
    """
    everyone = gather(exact(queries), padding=0.0)
    rows, tokens = everyone.flatten(0, 1), exact(documents)[documents.any(-1)]
    most = min(top_k, len(tokens))
    largest = rows.new_full((len(rows), top_k), -torch.inf)
    step = max(1, _PRODUCTS_AT_ONCE // max(1, len(tokens)))
    for start in range(0, len(rows), step):
        largest[start : start + step, :most] = (
            linear(rows[start : start + step], tokens).topk(most).values
        )
    together = gather(largest).unflatten(0, (ranks(), -1)).transpose(0, 1).flatten(1)
    limit = together.topk(top_k).values[:, -1].unflatten(0, everyone.shape[:2])
    own = limit[own_rows(len(queries)), : queries.shape[1]]
    return own - _ROUNDING * own.abs().nan_to_num(posinf=0.0)


def with_limits(
    queries: Float[Tensor, "query query_token dimension"],
    documents: Float[Tensor, "document document_token dimension"],
    top_k: int,
) -> tuple[
    Float[Tensor, "query query_token dimension_and_limit"],
    Float[Tensor, "document document_token dimension_and_limit"],
]:
    """Embeddings as `trainer.scores.xtr` takes them: the limit behind each query token's vector, a
    zero behind each document token's.
    """
    limit = limits(queries, documents, top_k).masked_fill(~queries.any(-1), 0.0)
    return torch.cat([exact(queries), limit[..., None]], -1), torch.cat(
        [exact(documents), exact(documents).new_zeros(*documents.shape[:-1], 1)], -1
    )
