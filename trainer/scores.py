"""Scores: the similarity of a query and a document. Leading axes broadcast, so the same function
scores a whole batch or each query's own candidates.
"""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.kernels.matmul import linear
from trainer.kernels.maxsim import tiled_maxsim

Score = Callable[
    [Float[Tensor, "..."], Float[Tensor, "..."]], Float[Tensor, "*#leading query document"]
]
"""Any function from embeddings of queries and documents to scores, before the division by the
temperature. It is linear in the length of the query vectors.
"""


def exact(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Returns the values in float32, or in their own type if that is more precise."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def dot(
    queries: Float[Tensor, "*#leading query dimension"],
    documents: Float[Tensor, "*#leading document dimension"],
) -> Float[Tensor, "*#leading query document"]:
    """Returns the dot product of every query with every document.

    The result is at least float32, whatever the encoder's precision is.

    >>> dot(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 4.0]])).tolist()
    [[3.0, 8.0]]
    """
    with torch.autocast(queries.device.type, enabled=False):
        if documents.ndim == 2:
            return linear(exact(queries), exact(documents))
        return torch.einsum("...qd,...kd->...qk", exact(queries), exact(documents))


def maxsim(
    queries: Float[Tensor, "*#leading query query_token dimension"],
    documents: Float[Tensor, "*#leading document document_token dimension"],
) -> Float[Tensor, "*#leading query document"]:
    """Late interaction: the sum over the query's tokens of the largest dot product with any token
    of the document (Khattab and Zaharia 2020).

    A token vector of zeros is padding: it is neither matched nor summed over. On an NVIDIA GPU with
    Triton, one kernel computes the scores (`trainer.kernels.maxsim_triton`); elsewhere the products
    are computed for a few documents at a time (`trainer.kernels.maxsim`). The backward pass needs
    only the positions of the maxima. Value and gradient are equal to those of `plain_maxsim`.

    >>> query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> maxsim(query, torch.tensor([[[2.0, 0.0], [0.0, 3.0]], [[-1.0, -1.0], [0.0, 0.0]]])).tolist()
    [[5.0, -2.0]]
    """
    dtype = torch.promote_types(queries.dtype, documents.dtype)
    if not has_kernel(queries.device) or dtype == torch.float64:
        return maxsim_in_pieces(queries, documents)
    from trainer.kernels.maxsim_triton import triton_maxsim

    return _in_groups(triton_maxsim, queries.to(dtype), documents.to(dtype))


def has_kernel(device: torch.device) -> bool:
    """True where Triton computes MaxSim: on a GPU, if it is installed and right there."""
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    from trainer.kernels.maxsim_triton import is_right_on

    return is_right_on(device)


def maxsim_in_pieces(
    queries: Float[Tensor, "*#leading query query_token dimension"],
    documents: Float[Tensor, "*#leading document document_token dimension"],
) -> Float[Tensor, "*#leading query document"]:
    """`maxsim` computed in tiles, on a GPU too."""
    return _in_groups(tiled_maxsim, exact(queries), exact(documents))


def xtr(
    queries: Float[Tensor, "*#leading query query_token dimension_and_limit"],
    documents: Float[Tensor, "*#leading document document_token dimension_and_limit"],
) -> Float[Tensor, "*#leading query document"]:
    """XTR's score: the mean of each query token's largest retrieved product, over the query tokens
    that retrieve a token of the document (Lee et al. 2023, eq. 5).

    A query token retrieves a document token if their product reaches the query token's limit. The
    limit is the last component of the query token's vector (`trainer.objectives.xtr.with_limits`).

    >>> query = torch.tensor([[[1.0, 0.0, 1.5], [0.0, 1.0, 2.5]]])
    >>> xtr(query, torch.tensor([[[2.0, 2.0, 0.0]], [[1.0, 3.0, 0.0]], [[1.0, 1.0, 0.0]]])).tolist()
    [[2.0, 3.0, 0.0]]
    """
    # The kernel's products are rounded otherwise than those that gave the limits.
    return _in_groups(
        tiled_maxsim,
        exact(queries[..., :-1]),
        exact(documents[..., :-1]),
        exact(queries[..., -1].detach()),
    )


def _in_groups(
    score: Callable[..., Float[Tensor, "group query document"]],
    queries: Float[Tensor, "*#leading query query_token dimension"],
    documents: Float[Tensor, "*#leading document document_token dimension"],
    *limits: Float[Tensor, "*#leading query query_token"],
) -> Float[Tensor, "*#leading query document"]:
    """Calls a function of groups of texts, with all leading axes as one."""
    leading = torch.broadcast_shapes(queries.shape[:-3], documents.shape[:-3])
    groups = [
        vectors.expand(*leading, *vectors.shape[-axes:]).reshape(-1, *vectors.shape[-axes:])
        for vectors, axes in ((queries, 3), (documents, 3), *((limit, 2) for limit in limits))
    ]
    with torch.autocast(queries.device.type, enabled=False):
        return score(*groups).reshape(*leading, queries.shape[-3], documents.shape[-3])


def plain_maxsim(
    queries: Float[Tensor, "*#leading query query_token dimension"],
    documents: Float[Tensor, "*#leading document document_token dimension"],
) -> Float[Tensor, "*#leading query document"]:
    """`maxsim` computed directly from its formula, with every product of tokens in memory. Tests
    compare the fast functions with it.
    """
    with torch.autocast(queries.device.type, enabled=False):
        similarities = torch.einsum("...qid,...kjd->...qkij", exact(queries), exact(documents))
        padding = ~documents.any(-1)
        best = similarities.masked_fill(padding[..., None, :, None, :], -torch.inf).max(-1).values
        # The padding of a query has similarities of zero, except with a document that is all
        # padding, where they are minus infinity.
        return best.masked_fill(~queries.any(-1)[..., :, None, :], 0.0).sum(-1)


def own_scores(
    queries: Float[Tensor, "query ..."], documents: Float[Tensor, "document ..."], score: Score
) -> Float[Tensor, "query candidate"]:
    """Returns the scores of every query with its own candidates only.

    Documents are query-major, with the same number for each query.

    >>> queries, documents = torch.tensor([[1.0], [2.0]]), torch.tensor(
    ...     [[3.0], [4.0], [5.0], [6.0]]
    ... )
    >>> own_scores(queries, documents, dot).tolist()
    [[3.0, 4.0], [10.0, 12.0]]
    """
    return score(queries.unsqueeze(1), documents.unflatten(0, (len(queries), -1))).squeeze(1)
