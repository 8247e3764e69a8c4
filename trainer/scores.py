"""Scores: how near a query is to a document. Leading axes broadcast, so one function serves the
batch and a query's own candidates.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.kernels.matmul import linear
from trainer.kernels.maxsim import tiled_maxsim

Score = Callable[
    [Float[Tensor, "..."], Float[Tensor, "..."]], Float[Tensor, "*#leading query document"]
]
"""Any function from embeddings of queries and documents to scores, before temperature; linear in
the length of the query.
"""


def exact(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """In float32 or better."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def dot(
    queries: Float[Tensor, "*#leading query dimension"],
    documents: Float[Tensor, "*#leading document dimension"],
) -> Float[Tensor, "*#leading query document"]:
    """The dot product of every query with every document, in float32 or better whatever the
    encoder's precision.

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

    A token vector of zeros is padding: it is not there, neither to be matched nor to be summed
    over. The products are formed a few documents at a time, and the backward pass needs the places
    of the maxima alone (`trainer.kernels.maxsim`); equal to `plain_maxsim` in value and gradient.

    >>> query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> maxsim(query, torch.tensor([[[2.0, 0.0], [0.0, 3.0]], [[-1.0, -1.0], [0.0, 0.0]]])).tolist()
    [[5.0, -2.0]]
    """
    return _in_groups(queries, documents)


def kernel_maxsim(
    queries: Float[Tensor, "*#leading query query_token dimension"],
    documents: Float[Tensor, "*#leading document document_token dimension"],
) -> Float[Tensor, "*#leading query document"]:
    """`maxsim` by the Triton kernels of the package late-interaction-kernels, on an NVIDIA GPU; in
    a batch, and of one query's own candidates.
    """
    import late_interaction_kernels as kernels

    with torch.autocast(queries.device.type, enabled=False):
        one, many = exact(queries), exact(documents)
        own_candidates = queries.ndim == 4
        if own_candidates:
            one = one.squeeze(1)
        found = kernels.maxsim(
            one, many, q_mask=one.any(-1), d_mask=many.any(-1), backward="unified"
        )  # its default may sum gradients in half precision
        return found.unsqueeze(1) if own_candidates else found


def xtr(
    queries: Float[Tensor, "*#leading query query_token dimension_and_limit"],
    documents: Float[Tensor, "*#leading document document_token dimension_and_limit"],
) -> Float[Tensor, "*#leading query document"]:
    """XTR's score: the mean over those tokens of the query that retrieve a token of the document,
    of the best they retrieve (Lee et al. 2023, eq. 5).

    A token is retrieved whose product reaches the limit of the query's token, which stands behind
    its vector (`trainer.objectives.xtr.with_limits`).

    >>> query = torch.tensor([[[1.0, 0.0, 1.5], [0.0, 1.0, 2.5]]])
    >>> xtr(query, torch.tensor([[[2.0, 2.0, 0.0]], [[1.0, 3.0, 0.0]], [[1.0, 1.0, 0.0]]])).tolist()
    [[2.0, 3.0, 0.0]]
    """
    return _in_groups(queries[..., :-1], documents[..., :-1], queries[..., -1].detach())


def _in_groups(
    queries: Float[Tensor, "*#leading query query_token dimension"],
    documents: Float[Tensor, "*#leading document document_token dimension"],
    limits: Float[Tensor, "*#leading query query_token"] | None = None,
) -> Float[Tensor, "*#leading query document"]:
    with torch.autocast(queries.device.type, enabled=False):
        leading = torch.broadcast_shapes(queries.shape[:-3], documents.shape[:-3])
        grouped = [
            exact(some).expand(*leading, *some.shape[-3:]).reshape(-1, *some.shape[-3:])
            for some in (queries, documents)
        ]
        if limits is not None:
            grouped.append(
                exact(limits).expand(*leading, *limits.shape[-2:]).reshape(-1, *limits.shape[-2:])
            )
        return tiled_maxsim(*grouped).reshape(*leading, queries.shape[-3], documents.shape[-3])


def plain_maxsim(
    queries: Float[Tensor, "*#leading query query_token dimension"],
    documents: Float[Tensor, "*#leading document document_token dimension"],
) -> Float[Tensor, "*#leading query document"]:
    """`maxsim` as its formula is read, with every product of tokens in memory: what the fast form
    is held against.
    """
    with torch.autocast(queries.device.type, enabled=False):
        similarities = torch.einsum("...qid,...kjd->...qkij", exact(queries), exact(documents))
        nobody = ~documents.any(-1)
        best = similarities.masked_fill(nobody[..., None, :, None, :], -torch.inf).max(-1).values
        # A query's padding has similarities of zero, but beside a document whose every token is
        # padding also minus infinity.
        return best.masked_fill(~queries.any(-1)[..., :, None, :], 0.0).sum(-1)


def own_scores(
    queries: Float[Tensor, "query ..."], documents: Float[Tensor, "document ..."], score: Score
) -> Float[Tensor, "query candidate"]:
    """The score of every query with its own candidates only: documents are query-major, the same
    number for each query.

    >>> queries, documents = torch.tensor([[1.0], [2.0]]), torch.tensor(
    ...     [[3.0], [4.0], [5.0], [6.0]]
    ... )
    >>> own_scores(queries, documents, dot).tolist()
    [[3.0, 4.0], [10.0, 12.0]]
    """
    return score(queries.unsqueeze(1), documents.unflatten(0, (len(queries), -1))).squeeze(1)
