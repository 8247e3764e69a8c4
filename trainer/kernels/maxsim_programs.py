"""The Triton programs of MaxSim; `trainer.kernels.maxsim_triton` launches them."""

import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

VARIABLE = ("query_count", "query_tokens", "document_count", "document_tokens")
"""Arguments whose other values need no other compilation."""
UNROLLED_DIMENSIONS = tl.constexpr(128)
IN_INTERPRETER = tl.constexpr(bool(triton.knobs.runtime.interpret))


def program(function: Callable[..., Any]) -> Any:
    """Triton's form of a function as it is written: the tests' shape checker wraps all functions of
    the package.
    """
    return triton.jit(inspect.unwrap(function), do_not_specialize=VARIABLE)


@program
def forward(
    queries, is_query_token, rows, is_token, starts, lengths, scores, positions,
    query_count, query_tokens, document_count, document_tokens,
    dimensions: tl.constexpr, queries_at_once: tl.constexpr, tokens_at_once: tl.constexpr,
    tile_tokens: tl.constexpr, tile_dimensions: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Scores some queries with one document. Neighbouring programs share the document."""
    blocks = tl.cdiv(query_count, queries_at_once)
    document, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    group = document // document_count
    start = tl.load(starts + document).to(tl.int64)
    length = tl.load(lengths + document).to(tl.int32)
    row = tl.arange(0, queries_at_once * tokens_at_once)
    query = block * queries_at_once + row // tokens_at_once
    total = tl.zeros([queries_at_once], tl.float32)
    for first in range(0, query_tokens, tokens_at_once):
        token = first + row % tokens_at_once
        in_range = (query < query_count) & (token < query_tokens)
        place = query * query_tokens + token
        query_row = group.to(tl.int64) * query_count * query_tokens + place
        counts = tl.load(is_query_token + query_row, mask=in_range, other=0) != 0
        best, position = _best_tokens(
            queries, query_row, in_range, rows, is_token, start, length, document_tokens,
            dimensions, queries_at_once * tokens_at_once, tile_tokens, tile_dimensions, precision,
        )  # fmt: skip
        best = tl.where(counts, best, 0.0)
        total += tl.sum(tl.reshape(best, [queries_at_once, tokens_at_once]), 1)
        if positions is not None:
            position = tl.where(counts, position, document_tokens)
            line = document.to(tl.int64) * query_count * query_tokens
            tl.store(positions + line + place, position, mask=in_range)
    query = block * queries_at_once + tl.arange(0, queries_at_once)
    line = (group.to(tl.int64) * query_count + query) * document_count
    tl.store(scores + line + document % document_count, total, mask=query < query_count)


@program
def _best_tokens(
    queries, query_row, in_range, rows, is_token, start, length, document_tokens,
    dimensions: tl.constexpr, tile_rows: tl.constexpr, tile_tokens: tl.constexpr,
    tile_dimensions: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Returns the largest product of each query token with a token of the document, and its first
    position; minus infinity and `document_tokens` where there is none.
    """
    best = tl.full([tile_rows], float("-inf"), tl.float32)
    position = tl.zeros([tile_rows], tl.int32) + document_tokens
    query_rows = queries + query_row * dimensions
    for first in range(0, length, tile_tokens):
        token = first + tl.arange(0, tile_tokens)
        token_rows = rows + (start + token) * dimensions
        counts = token < length
        products = tl.zeros([tile_rows, tile_tokens], tl.float32)
        if dimensions <= UNROLLED_DIMENSIONS:
            for part in tl.static_range(0, dimensions, tile_dimensions):
                products = _add_part(
                    products, query_rows, in_range, token_rows, counts, part,
                    dimensions, tile_dimensions, precision,
                )  # fmt: skip
        else:  # an unrolled loop would keep all parts of the queries in shared memory
            for part in range(0, dimensions, tile_dimensions):
                products = _add_part(
                    products, query_rows, in_range, token_rows, counts, part,
                    dimensions, tile_dimensions, precision,
                )  # fmt: skip
        if is_token is not None:
            counts = tl.load(is_token + start + token, mask=counts, other=0) != 0
        products = tl.where(counts[None, :], products, float("-inf"))
        largest, place = tl.max(products, 1, return_indices=True)
        is_better = largest > best
        best = tl.where(is_better, largest, best)
        position = tl.where(is_better, first + place, position)
    return best, position


@program
def _add_part(
    products, query_rows, query_mask, token_rows, token_mask, first,
    dimensions: tl.constexpr, tile_dimensions: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Adds the products of some dimensions."""
    dimension = first + tl.arange(0, tile_dimensions)
    in_range = dimension < dimensions
    rows = tl.load(
        query_rows[:, None] + dimension[None, :],
        mask=query_mask[:, None] & in_range[None, :],
        other=0.0,
    )
    columns = tl.load(
        token_rows[None, :] + dimension[:, None],
        mask=token_mask[None, :] & in_range[:, None],
        other=0.0,
    )
    return _add_products(rows, columns, products, precision)


@program
def _add_products(rows, columns, total, precision: tl.constexpr):
    """Adds the product of two matrices.

    Triton's interpreter multiplies the bits of bfloat16 numbers as if they were integers.
    """
    if IN_INTERPRETER:
        rows, columns = rows.to(tl.float32), columns.to(tl.float32)
    return tl.dot(rows, columns, total, input_precision=precision)


@program
def grad_queries(
    documents, positions, weights, gradient,
    query_count, query_tokens, document_count, document_tokens,
    dimensions: tl.constexpr, tile_rows: tl.constexpr, tile_tokens: tl.constexpr,
    tile_dimensions: tl.constexpr,
):  # fmt: skip
    """Sums the weighted best token vectors of all documents, for some query tokens."""
    row_count = query_count * query_tokens
    blocks = tl.cdiv(row_count, tile_rows)
    group = tl.program_id(0) // blocks
    row = tl.program_id(0) % blocks * tile_rows + tl.arange(0, tile_rows)
    dimension = tl.program_id(1) * tile_dimensions + tl.arange(0, tile_dimensions)
    in_range = row < row_count
    total = tl.zeros([tile_rows, tile_dimensions], tl.float32)
    for number in range(document_count):
        document = group.to(tl.int64) * document_count + number
        position, counts, weight = _chosen_tokens(
            positions, weights, document, row, query_count, query_tokens, document_tokens
        )
        vectors = tl.load(
            documents
            + (document * document_tokens + position)[:, None] * dimensions
            + dimension[None, :],
            mask=counts[:, None] & (dimension < dimensions)[None, :],
            other=0.0,
        )
        total += weight[:, None] * vectors.to(tl.float32)
    tl.store(
        gradient
        + (group.to(tl.int64) * row_count + row)[:, None] * dimensions
        + dimension[None, :],
        total,
        mask=in_range[:, None] & (dimension < dimensions)[None, :],
    )


@program
def _chosen_tokens(
    positions, weights, document, row, query_count, query_tokens, document_tokens
):  # fmt: skip
    """The token of a document that each query token chose, whether it counts, and its weight."""
    row_count = query_count * query_tokens
    in_range = row < row_count
    position = tl.load(
        positions + document * row_count + row, mask=in_range, other=document_tokens
    ).to(tl.int32)
    counts = in_range & (position < document_tokens)
    line = document * query_count + row // query_tokens
    return position, counts, tl.load(weights + line, mask=counts, other=0.0)


@program
def grad_documents(
    queries, positions, weights, lengths, gradient,
    query_count, query_tokens, document_count, document_tokens,
    dimensions: tl.constexpr, tile_rows: tl.constexpr, tile_tokens: tl.constexpr,
    tile_dimensions: tl.constexpr,
):  # fmt: skip
    """Sums the weighted query tokens that chose each of some document tokens.

    The sum is a product with a matrix of zeros and ones. The other factor is the sum of three
    numbers in bfloat16, which together have the 24 bits of float32.
    """
    row_count = query_count * query_tokens
    blocks = tl.cdiv(document_tokens, tile_tokens)
    document = (tl.program_id(0) // blocks).to(tl.int64)
    token = tl.program_id(0) % blocks * tile_tokens + tl.arange(0, tile_tokens)
    dimension = tl.program_id(1) * tile_dimensions + tl.arange(0, tile_dimensions)
    has_tokens = tl.program_id(0) % blocks * tile_tokens < tl.load(lengths + document)
    total = tl.zeros([tile_tokens, tile_dimensions], tl.float32)
    for first in range(0, tl.where(has_tokens, row_count, 0), tile_rows):
        row = first + tl.arange(0, tile_rows)
        position, counts, weight = _chosen_tokens(
            positions, weights, document, row, query_count, query_tokens, document_tokens
        )
        vectors = tl.load(
            queries
            + (document // document_count * row_count + row)[:, None] * dimensions
            + dimension[None, :],
            mask=counts[:, None] & (dimension < dimensions)[None, :],
            other=0.0,
        )
        remainder = weight[:, None] * vectors.to(tl.float32)
        is_best = (token[:, None] == position[None, :]).to(tl.float32).to(tl.bfloat16)
        for _ in tl.static_range(3):
            part = remainder.to(tl.bfloat16)
            remainder -= part.to(tl.float32)
            total = _add_products(is_best, part, total, "ieee")
    tl.store(
        gradient + (document * document_tokens + token)[:, None] * dimensions + dimension[None, :],
        total,
        mask=(token < document_tokens)[:, None] & (dimension < dimensions)[None, :],
    )
