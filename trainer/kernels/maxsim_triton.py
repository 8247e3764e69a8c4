"""MaxSim on a GPU as Triton kernels: no product of two tokens is written to memory.

The forward pass keeps the largest product per query token and document while it computes them, and
stores its position, one small integer, for the backward pass. Sums have a fixed order and no kernel
uses atomic additions, so results repeat. The host never waits for the GPU: the kernels read the
number of tokens per document themselves.

A product of float32 vectors is the sum of three TF32 products, with an error of the order of
float32's. The tests run the kernels on a CPU, through Triton's interpreter, and compile them for
NVIDIA GPUs. They have not run on a GPU yet, so the sizes of the tiles are not measured: they are
those that fit into the shared memory and the registers of all GPUs since 2020.
"""

import warnings
from collections.abc import Callable
from functools import cache
from subprocess import SubprocessError
from typing import Any

import torch
import triton
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton.runtime.errors import TritonError

from trainer.kernels import maxsim_programs as programs
from trainer.kernels.maxsim import smallest_dtype, tiled_maxsim

_SEED = 15
"""No query token of the trial has two document tokens with nearly equal products."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OPTIONS = {"num_warps": 4, "num_stages": 2, "enable_fp_fusion": True}
_TOLERANCE = 1e-5
_PRECISION = "ieee" if torch.version.hip else "tf32x3"
_QUERY_ROWS = 64


def triton_maxsim(
    queries: Float[Tensor, "group query query_token dimension"],
    documents: Float[Tensor, "group document document_token dimension"],
) -> Float[Tensor, "group query document"]:
    """For each group, the sum over the tokens of a query of the largest product with a token of the
    document, in float32. A row of zeros is no token.

    A document without tokens scores minus infinity, a query without tokens scores zero. The vectors
    are in one of `DTYPES`, both in the same.
    """
    return _TritonMaxSim.apply(queries.contiguous(), documents.contiguous())


@torch.no_grad()
def flat_maxsim(
    queries: Float[Tensor, "query query_token dimension"],
    rows: Float[Tensor, "token dimension"],
    offsets: Int[Tensor, " document_plus_one"],
) -> Float[Tensor, "query document"]:
    """MaxSim of padded queries and documents without padding: document i has
    `rows[offsets[i] : offsets[i + 1]]`, none of which is zero. It has no gradient.
    """
    queries, rows = queries.contiguous(), rows.contiguous()
    return _scores(queries[None], rows, offsets[:-1], offsets.diff(), 0)[0]


@cache
def is_right_on(device: torch.device) -> bool:
    """Returns true when the kernels give the scores and gradients of a CPU on this device.

    Otherwise it warns, and says why. The first call compiles the kernels.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad():
            references, results = _trial(tiled_maxsim, "cpu"), _trial(triton_maxsim, device)
    except (RuntimeError, OSError, SubprocessError, TritonError) as error:
        reason = f"{type(error).__name__}: {error}"
    else:
        errors = [
            float((result.cpu() - reference).abs().max() / reference.abs().max())
            for result, reference in zip(results, references, strict=True)
        ]
        if all(error <= _TOLERANCE for error in errors):
            return True
        reason = f"relative errors of scores and gradients: {errors}"
    warnings.warn(
        f"MaxSim is computed in pieces, which is slower: its Triton kernels fail on {device}"
        f" ({reason:.500})",
        stacklevel=2,
    )
    return False


def _trial(score: Callable[[Tensor, Tensor], Tensor], device: torch.device | str) -> list[Tensor]:
    """Returns scores, and gradients of queries and documents, of a few random texts."""
    generator = torch.Generator().manual_seed(_SEED)
    queries, documents = (
        torch.randn(1, *shape, generator=generator) for shape in ((3, 33, 128), (5, 70, 128))
    )
    documents[0, 1, 40:], queries[0, 2, 20:] = 0, 0
    weights = torch.randn(1, 3, 5, generator=generator).to(device)
    inputs = [vectors.to(device).requires_grad_() for vectors in (queries, documents)]
    scores = score(*inputs)
    return [scores.detach(), *torch.autograd.grad((scores * weights).sum(), inputs)]


class _TritonMaxSim(torch.autograd.Function):
    """s_ij = sum over t of q_it . d_j,u(t);  dq_it = sum over j of g_ij d_j,u(t);  dd_ju = sum of
    g_ij q_it over the i, t for which u is the best token.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, documents: Tensor) -> Tensor:
        groups, count, longest, dimensions = documents.shape
        largest = _largest(documents)
        is_token = largest != 0
        numbers = torch.arange(1, longest + 1, device=documents.device)
        lengths = (is_token * numbers).amax(2).flatten()
        starts = torch.arange(groups * count, device=documents.device) * longest
        positions = None
        if any(ctx.needs_input_grad):
            positions = torch.empty(
                (groups * count, *queries.shape[1:3]),
                dtype=smallest_dtype(longest),
                device=queries.device,
            )
        rows = documents.view(-1, dimensions)
        scores = _scores(queries, rows, starts, lengths, longest, is_token, positions)
        ctx.save_for_backward(queries, documents, positions, lengths)
        return scores + _nan(largest)[:, None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        queries, documents, positions, lengths = ctx.saved_tensors
        weights = gradient.mT.contiguous()
        sizes = (*queries.shape[1:3], *documents.shape[1:3])
        grad_queries, grad_documents = torch.empty_like(queries), torch.empty_like(documents)
        tiles = gradient_tiles(documents.shape[2], documents.shape[3])
        parts = triton.cdiv(tiles["dimensions"], tiles["tile_dimensions"])
        if queries.numel():
            blocks = triton.cdiv(queries.shape[1:3].numel(), tiles["tile_rows"])
            programs.grad_queries[len(queries) * blocks, parts](
                documents, positions, weights, grad_queries, *sizes, **tiles, **OPTIONS
            )
        if documents.numel():
            blocks = triton.cdiv(documents.shape[2], tiles["tile_tokens"])
            programs.grad_documents[len(lengths) * blocks, parts](
                queries, positions, weights, lengths, grad_documents, *sizes, **tiles, **OPTIONS
            )
        return grad_queries, grad_documents


def _scores(
    queries: Float[Tensor, "group query query_token dimension"],
    rows: Float[Tensor, "token dimension"],
    starts: Int[Tensor, " document"],
    lengths: Int[Tensor, " document"],
    document_tokens: int,
    is_token: Bool[Tensor, "group group_document document_token"] | None = None,
    positions: Integer[Tensor, "document query query_token"] | None = None,
) -> Float[Tensor, "group query group_document"]:
    """Returns the scores, and writes the positions of the best tokens to `positions`."""
    groups, query_count, query_tokens, dimensions = queries.shape
    document_count = len(starts) // max(1, groups)
    scores = queries.new_empty((groups, query_count, document_count), dtype=torch.float32)
    largest = _largest(queries)
    if scores.numel():
        tiles = forward_tiles(query_tokens, dimensions, queries.dtype)
        blocks = triton.cdiv(query_count, tiles["queries_at_once"])
        with torch.cuda.device_of(queries):  # Triton launches on the current one
            programs.forward[len(starts) * blocks,](
                queries,
                largest != 0,
                rows,
                is_token,
                starts,
                lengths,
                scores,
                positions,
                *(query_count, query_tokens, document_count, document_tokens),
                **tiles,
                **OPTIONS,
            )
    return scores + _nan(largest)[..., None]


def _largest(vectors: Float[Tensor, "*token dimension"]) -> Float[Tensor, "*token"]:
    """Returns the largest absolute component of each vector; it is zero for padding."""
    return torch.linalg.vector_norm(vectors, torch.inf, -1)


def _nan(largest: Float[Tensor, "*text token"]) -> Float[Tensor, "*text"]:
    """Returns NaN for texts with a vector that is not finite, else zero.

    A maximum may pass over a NaN, but the score of such a text must not be finite.
    """
    return (largest * 0).sum(-1, dtype=torch.float32)


def forward_tiles(query_tokens: int, dimensions: int, dtype: torch.dtype) -> dict[str, Any]:
    """Returns the constants of the forward pass: tokens and dimensions that are multiplied at
    once.
    """
    tokens_at_once = _tile(query_tokens, _QUERY_ROWS)
    is_wide = dtype == torch.float32
    return {
        "dimensions": dimensions,
        "queries_at_once": _QUERY_ROWS // tokens_at_once,
        "tokens_at_once": tokens_at_once,
        "tile_tokens": 32 if is_wide else 64,
        "tile_dimensions": _tile(dimensions, 32 if is_wide else 64),
        "precision": _PRECISION,
    }


def gradient_tiles(document_tokens: int, dimensions: int) -> dict[str, Any]:
    """Returns the constants of the backward pass: tokens and dimensions that are summed at once."""
    return {
        "dimensions": dimensions,
        "tile_rows": 32,
        "tile_tokens": _tile(document_tokens, 128),
        "tile_dimensions": _tile(dimensions, 64),
    }


def _tile(size: int, largest: int) -> int:
    """Returns a power of two from 16 to `largest`: the smallest that is not below the size."""
    return int(min(max(16, triton.next_power_of_2(size)), largest))
