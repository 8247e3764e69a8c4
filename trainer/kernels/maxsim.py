"""MaxSim in tiles: products of a few documents at a time, of which only the best tokens are stored.

The plain form stores every product of a query token and a document token, in the forward and again
in the backward pass: 6 GB for 512 queries and 512 documents of 32 x 180 tokens. The gradient needs
only the positions of the maxima, one small integer per query token and document: 8 MB.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trainer.kernels.matmul import linear

TILE_PRODUCTS = {"cpu": 2**20, "cuda": 2**27}
"""The largest number of products of token vectors per tile."""
_TILE_POSITIONS = 2**22
"""The largest number of positions per tile of the backward pass."""


def tiled_maxsim(
    queries: Float[Tensor, "group query query_token dimension"],
    documents: Float[Tensor, "group document document_token dimension"],
    limits: Float[Tensor, "group query query_token"] | None = None,
) -> Float[Tensor, "group query document"]:
    """For each group, the sum over the tokens of a query of the largest product with a token of the
    document. A row of zeros is no token.

    A document without tokens scores minus infinity, a query without tokens scores zero. With
    `limits`, the score is the mean over those tokens of the query whose largest product reaches the
    limit of the token, and zero if none does.
    """
    return _TiledMaxSim.apply(queries, documents, limits)


class _TiledMaxSim(torch.autograd.Function):
    """s_ij = sum over t of q_it . d_j,u(t);  dq_it = sum over j of g_ij d_j,u(t);  dd_ju = sum of
    g_ij q_it over the i, t for which u is the best token.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, documents: Tensor, limits: Tensor | None) -> Tensor:
        scores = queries.new_empty(*queries.shape[:2], documents.shape[1])
        shape = (*queries.shape[:3], documents.shape[1])
        positions = is_counted = None
        if any(ctx.needs_input_grad):
            dtype = smallest_dtype(documents.shape[2])
            positions = torch.empty(shape, dtype=dtype, device=queries.device)
            if limits is not None:
                is_counted = torch.empty(shape, dtype=torch.bool, device=queries.device)
        is_query_token, is_padding = queries.any(-1, keepdim=True), ~documents.any(-1)
        for groups, rows, columns, longest in _tiles(queries, is_padding):
            similarities = _similarities(
                queries[groups, rows],
                documents[groups, columns, :longest],
                is_padding[groups, columns, :longest],
            )
            if positions is None:
                best = similarities.amax(-1)
            else:
                best, best_positions = _max(similarities)
                positions[groups, rows, :, columns] = best_positions.to(positions.dtype)
            mask = is_query_token[groups, rows]
            if limits is not None:
                has_tokens = ~is_padding[groups, columns].all(-1)[:, None, None]
                mask = mask & (best >= limits[groups, rows, :, None]) & has_tokens
                if is_counted is not None:
                    is_counted[groups, rows, :, columns] = mask
            total = best.masked_fill(~mask, 0.0).sum(2)
            scores[groups, rows, columns] = (
                total if limits is None else total / mask.sum(2).clamp(min=1)
            )
        if limits is not None:
            scores.masked_fill_(is_padding.all(-1)[:, None], -torch.inf)
        is_counted = is_query_token if is_counted is None else is_counted
        ctx.save_for_backward(queries, documents, positions, is_counted)
        ctx.is_mean = limits is not None
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        queries, documents, positions, is_counted = ctx.saved_tensors
        grad_queries, grad_documents = torch.empty_like(queries), torch.zeros_like(documents)
        for groups, rows in _gradient_tiles(positions):
            mask, grad_scores = is_counted[groups, rows], gradient[groups, rows, None]
            if ctx.is_mean:
                grad_scores = grad_scores / mask.sum(2, keepdim=True).clamp(min=1)
            grad_rows, grad_columns = _gradients(
                queries[groups, rows],
                documents[groups],
                positions[groups, rows],
                (grad_scores * mask).flatten(0, 2),
            )
            grad_queries[groups, rows] = grad_rows
            grad_documents[groups] += grad_columns
        return grad_queries, grad_documents, None


def smallest_dtype(size: int) -> torch.dtype:
    """The smallest integer type for positions below `size`."""
    dtypes = (torch.uint8, torch.int16, torch.int32)
    return next(dtype for dtype in dtypes if size <= torch.iinfo(dtype).max)


def _similarities(
    queries: Float[Tensor, "group query query_token dimension"],
    documents: Float[Tensor, "group document document_token dimension"],
    is_padding: Bool[Tensor, "group document document_token"],
) -> Float[Tensor, "group query query_token document document_token"]:
    """All products; minus infinity where the document has padding."""
    rows, columns = queries.flatten(1, 2), documents.flatten(1, 2)
    bias = None
    if is_padding.device.type != "cpu" or is_padding.any():  # on a GPU, to look would be to wait
        zeros = torch.zeros(is_padding.shape, dtype=rows.dtype, device=rows.device)
        bias = zeros.masked_fill_(is_padding, -torch.inf).flatten(1)
    if len(rows) == 1:
        products = linear(rows[0], columns[0], None if bias is None else bias[0])[None]
    elif bias is None:
        products = torch.bmm(rows, columns.mT)
    else:
        products = torch.baddbmm(bias[:, None], rows, columns.mT)
    return products.unflatten(2, documents.shape[1:3]).unflatten(1, queries.shape[1:3])


def _max(
    similarities: Float[Tensor, "*row token"],
) -> tuple[Float[Tensor, "*row"], Integer[Tensor, "*row"]]:
    """The largest value of each row and its position.

    NumPy's search is vectorised. PyTorch's is not, and is faster only with three or more threads.
    """
    if similarities.device.type != "cpu" or torch.get_num_threads() > 2:
        return similarities.max(-1)
    positions = torch.from_numpy(similarities.numpy().argmax(-1))
    return similarities.gather(-1, positions[..., None]).squeeze(-1), positions


def _gradients(
    queries: Float[Tensor, "group query query_token dimension"],
    documents: Float[Tensor, "group document document_token dimension"],
    positions: Integer[Tensor, "group query query_token document"],
    weights: Float[Tensor, "row document"],
) -> tuple[
    Float[Tensor, "group query query_token dimension"],
    Float[Tensor, "group document document_token dimension"],
]:
    """Weighted sums of token vectors: of the best document tokens for each query token, and, once
    the positions are sorted, of the query tokens for each document token.
    """
    count, longest = documents.shape[1:3]
    document_numbers = torch.arange(documents.shape[0] * count, device=positions.device)
    starts = document_numbers.view(-1, 1, 1, count) * longest
    tokens = (positions.long() + starts).flatten(0, 2)
    grad_queries = functional.embedding_bag(
        tokens, documents.flatten(0, 2), per_sample_weights=weights, mode="sum"
    )
    sorted_tokens, order = tokens.flatten().sort()
    all_tokens = torch.arange(documents.shape[:3].numel() + 1, device=tokens.device)
    offsets = torch.searchsorted(sorted_tokens, all_tokens)
    grad_documents = functional.embedding_bag(
        order // count,
        queries.flatten(0, 2),
        offsets,
        per_sample_weights=weights.flatten()[order],
        mode="sum",
        include_last_offset=True,
    )
    return grad_queries.view_as(queries), grad_documents.view_as(documents)


def _tiles(
    queries: Float[Tensor, "group query query_token dimension"],
    is_padding: Bool[Tensor, "group document document_token"],
) -> Iterator[tuple[slice, slice, slice | Int[Tensor, " document"], int]]:
    """The groups, queries and documents of each tile, and the length of its longest document.

    In a single group, a tile has documents of similar length, so there is little padding.
    """
    query_tokens, tokens_per_query = queries.shape[1:3].numel(), queries.shape[2]
    max_products = TILE_PRODUCTS.get(queries.device.type, TILE_PRODUCTS["cuda"])
    numbers = torch.arange(1, is_padding.shape[2] + 1, device=is_padding.device)
    lengths = (~is_padding * numbers).amax(2).clamp_(min=1)
    if len(queries) > 1:
        step = max(1, max_products // max(1, query_tokens * is_padding.shape[1:].numel()))
        longest = lengths.amax(1).tolist()
        for start in range(0, len(queries), step):
            groups = slice(start, start + step)
            yield groups, slice(None), slice(None), max(longest[groups])
        return
    order = lengths[0].argsort(stable=True)
    sorted_lengths = lengths[0][order].tolist()
    tile_tokens = min(query_tokens, 512 // tokens_per_query * tokens_per_query or tokens_per_query)
    tile_queries = tile_tokens // tokens_per_query
    start = 0
    while start < len(sorted_lengths):
        stop = start + 1
        while (
            stop < len(sorted_lengths)
            and (stop + 1 - start) * sorted_lengths[stop] * tile_tokens <= max_products
        ):
            stop += 1
        for row in range(0, queries.shape[1], tile_queries):
            rows = slice(row, row + tile_queries)
            yield slice(None), rows, order[start:stop], sorted_lengths[stop - 1]
        start = stop


def _gradient_tiles(
    positions: Integer[Tensor, "group query query_token document"],
) -> Iterator[tuple[slice, slice]]:
    """The groups and queries of each tile of the backward pass: queries of a single group, or all
    queries of several groups.
    """
    groups, queries, query_tokens, documents = positions.shape
    if groups == 1:
        step = max(1, _TILE_POSITIONS // (query_tokens * documents))
        yield from ((slice(None), slice(start, start + step)) for start in range(0, queries, step))
    else:
        step = max(1, _TILE_POSITIONS // (queries * query_tokens * documents))
        yield from ((slice(start, start + step), slice(None)) for start in range(0, groups, step))
