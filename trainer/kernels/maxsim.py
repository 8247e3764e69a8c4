"""MaxSim in pieces: products of a few documents at a time, and of each only which token was best is
kept for the backward pass.

The plain form has every product of a query token with a document token in memory, forward and again
backward: 6 GB for 512 queries against 512 documents at 32 x 180 tokens. The gradient needs nothing
but the places of the maxima, one small integer for a query token and a document: 8 MB.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trainer.kernels.matmul import linear

PRODUCTS_AT_ONCE = {"cpu": 2**20, "cuda": 2**27}
"""Products of token vectors that are held at once."""
_PLACES_AT_ONCE = 2**22


def maxsim_in_pieces(
    queries: Float[Tensor, "group query query_token dimension"],
    documents: Float[Tensor, "group document document_token dimension"],
    limits: Float[Tensor, "group query query_token"] | None = None,
) -> Float[Tensor, "group query document"]:
    """For each group, the sum over a query's tokens of the largest product with a token of the
    document. Rows of zeros are not there.

    A document without any token scores minus infinity, a query without any zero. With `limits`, the
    mean over those tokens of the query whose largest product reaches the token's limit, zero where
    none does.
    """
    return _MaxSim.apply(queries, documents, limits)


class _MaxSim(torch.autograd.Function):
    """s_ij = sum over t of q_it . d_j,u(t);  dq_it = sum over j of g_ij d_j,u(t);  dd_ju = sum of
    g_ij q_it over the i, t whose best it is.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, documents: Tensor, limits: Tensor | None) -> Tensor:
        scores = queries.new_empty(*queries.shape[:2], documents.shape[1])
        of_tokens = (*queries.shape[:3], documents.shape[1])
        places = counted = None
        if any(ctx.needs_input_grad):
            small = next(
                kind
                for kind in (torch.uint8, torch.int16, torch.int32)
                if documents.shape[2] <= torch.iinfo(kind).max
            )
            places = torch.empty(of_tokens, dtype=small, device=queries.device)
            counted = (
                None
                if limits is None
                else torch.empty(of_tokens, dtype=torch.bool, device=queries.device)
            )
        real, absent = queries.any(-1, keepdim=True), ~documents.any(-1)
        for groups, some_queries, some, longest in _pieces(queries, absent):
            similarities = _similarities(
                queries[groups, some_queries],
                documents[groups, some, :longest],
                absent[groups, some, :longest],
            )
            if places is None:
                best = similarities.amax(-1)
            else:
                best, where = _max(similarities)
                places[groups, some_queries, :, some] = where.to(places.dtype)
            counts = real[groups, some_queries]
            if limits is not None:
                counts = (
                    counts
                    & (best >= limits[groups, some_queries, :, None])
                    & ~absent[groups, some].all(-1)[:, None, None]
                )
                if counted is not None:
                    counted[groups, some_queries, :, some] = counts
            total = best.masked_fill(~counts, 0.0).sum(2)
            scores[groups, some_queries, some] = (
                total if limits is None else total / counts.sum(2).clamp(min=1)
            )
        if limits is not None:
            scores.masked_fill_(absent.all(-1)[:, None], -torch.inf)
        ctx.save_for_backward(queries, documents, places, real if counted is None else counted)
        ctx.mean = limits is not None
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        queries, documents, places, counted = ctx.saved_tensors
        of_queries, of_documents = torch.empty_like(queries), torch.zeros_like(documents)
        for groups, some in _rows(places):
            counts, of_scores = counted[groups, some], gradient[groups, some, None]
            if ctx.mean:
                of_scores = of_scores / counts.sum(2, keepdim=True).clamp(min=1)
            of_some, of_group = _gradients(
                queries[groups, some],
                documents[groups],
                places[groups, some],
                (of_scores * counts).flatten(0, 2),
            )
            of_queries[groups, some] = of_some
            of_documents[groups] += of_group
        return of_queries, of_documents, None


def _similarities(
    queries: Float[Tensor, "group query query_token dimension"],
    documents: Float[Tensor, "group document document_token dimension"],
    absent: Bool[Tensor, "group document document_token"],
) -> Float[Tensor, "group query query_token document document_token"]:
    """All products, minus infinity where the document has no token."""
    rows, columns = queries.flatten(1, 2), documents.flatten(1, 2)
    nothing = (
        torch.zeros(absent.shape, dtype=rows.dtype, device=rows.device)
        .masked_fill_(absent, -torch.inf)
        .flatten(1)
        if absent.any()
        else None
    )
    if len(rows) == 1:
        products = linear(rows[0], columns[0], None if nothing is None else nothing[0])[None]
    else:
        products = (
            torch.bmm(rows, columns.mT)
            if nothing is None
            else torch.baddbmm(nothing[:, None], rows, columns.mT)
        )
    return products.unflatten(2, documents.shape[1:3]).unflatten(1, queries.shape[1:3])


def _max(
    similarities: Float[Tensor, "*row token"],
) -> tuple[Float[Tensor, "*row"], Integer[Tensor, "*row"]]:
    """The largest of each row and its place. NumPy's search is vectorised, PyTorch's is not and
    needs three threads to overtake it.
    """
    if similarities.device.type != "cpu" or torch.get_num_threads() > 2:
        return similarities.max(-1)
    where = torch.from_numpy(similarities.numpy().argmax(-1))
    return similarities.gather(-1, where[..., None]).squeeze(-1), where


def _gradients(
    queries: Float[Tensor, "group query query_token dimension"],
    documents: Float[Tensor, "group document document_token dimension"],
    places: Integer[Tensor, "group query query_token document"],
    weights: Float[Tensor, "row document"],
) -> tuple[
    Float[Tensor, "group query query_token dimension"],
    Float[Tensor, "group document document_token dimension"],
]:
    """Sums of rows, found by their places: of document tokens for each query token, and the other
    way round once the places are sorted.
    """
    each, longest = documents.shape[1:3]
    starts = (
        torch.arange(documents.shape[0] * each, device=places.device).view(-1, 1, 1, each) * longest
    )
    tokens = (places.long() + starts).flatten(0, 2)
    of_queries = functional.embedding_bag(
        tokens, documents.flatten(0, 2), per_sample_weights=weights, mode="sum"
    )
    ordered, order = tokens.flatten().sort()
    ends = torch.bincount(ordered, minlength=documents.shape[:3].numel()).cumsum(0)
    offsets = torch.cat([ends.new_zeros(1), ends])
    of_documents = functional.embedding_bag(
        order // each,
        queries.flatten(0, 2),
        offsets,
        per_sample_weights=weights.flatten()[order],
        mode="sum",
        include_last_offset=True,
    )
    return of_queries.view_as(queries), of_documents.view_as(documents)


def _pieces(
    queries: Float[Tensor, "group query query_token dimension"],
    absent: Bool[Tensor, "group document document_token"],
) -> Iterator[tuple[slice, slice, slice | Int[Tensor, " document"], int]]:
    """(groups, queries, documents, longest document) of a piece; in a single group documents of
    like length come together, so little is padded.
    """
    groups, of_query, tokens = len(queries), queries.shape[1:3].numel(), queries.shape[2]
    room = PRODUCTS_AT_ONCE.get(queries.device.type, PRODUCTS_AT_ONCE["cuda"])
    lengths = (
        (~absent * torch.arange(1, absent.shape[2] + 1, device=absent.device)).amax(2).clamp_(min=1)
    )
    if groups > 1:
        step = max(1, room // max(1, of_query * absent.shape[1:].numel()))
        for start in range(0, groups, step):
            some = slice(start, start + step)
            yield some, slice(None), slice(None), int(lengths[some].max())
        return
    order = lengths[0].argsort(stable=True)
    ordered = lengths[0][order].tolist()
    start = 0
    while start < len(ordered):
        rows = min(of_query, 512 // tokens * tokens or tokens)
        stop = start + 1
        while stop < len(ordered) and (stop + 1 - start) * ordered[stop] * rows <= room:
            stop += 1
        for row in range(0, queries.shape[1], rows // tokens):
            yield (
                slice(None),
                slice(row, row + rows // tokens),
                order[start:stop],
                ordered[stop - 1],
            )
        start = stop


def _rows(
    places: Integer[Tensor, "group query query_token document"],
) -> Iterator[tuple[slice, slice]]:
    """Groups and queries whose gradients are found together: some queries of one group, or some
    groups whole.
    """
    groups, count, *one = places.shape
    if groups == 1:
        step = max(1, _PLACES_AT_ONCE // (one[0] * one[1]))
        yield from ((slice(None), slice(start, start + step)) for start in range(0, count, step))
    else:
        step = max(1, _PLACES_AT_ONCE // (count * one[0] * one[1]))
        yield from ((slice(start, start + step), slice(None)) for start in range(0, groups, step))
