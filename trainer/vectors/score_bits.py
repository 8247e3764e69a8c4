"""Selection of large scores: per query, per group of documents, and in order.

Scores in bfloat16 and float32 are compared as integers, which is several times as fast.
"""

import numpy as np
import torch
from jaxtyping import BFloat16, Float, Float32, Int, Int16, Int64
from torch import Tensor

_MAX_GROUP_DOCUMENTS = 16


def group_maxima(
    scores: Float[Tensor, "document query"], k: int
) -> Float32[np.ndarray, "query group"]:
    """Returns one score per group of documents: the largest, where it may be among the k largest.

    Of n groups, group i holds documents i, i + n, i + 2n, ...
    """
    group_documents = min(_MAX_GROUP_DOCUMENTS, max(1, len(scores) // (4 * k)))
    group_count = len(scores) // group_documents
    score_groups = scores[: group_documents * group_count].unflatten(
        0, (group_documents, group_count)
    )
    if scores.dtype != torch.bfloat16:
        return score_groups.amax(0).T.numpy()
    bits = integer_bits(score_groups)
    maxima = bits.max(0)
    if ((maxima > 0).sum(0) < k).any():
        maxima = ordered_bits(ordered_bits(bits).max(0))
    return torch.from_numpy(maxima).view(torch.bfloat16).T.float().numpy()


def pairs_reaching(
    scores: Float[Tensor, "document query"], limits: Float32[np.ndarray, " query"]
) -> tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"], Float32[np.ndarray, " pair"]]:
    """Returns queries, documents and scores of all pairs whose score reaches the query's limit."""
    if scores.dtype == torch.bfloat16:
        bits, is_negative = integer_bits(scores), limits <= 0
        # The largest number in bfloat16 that is not above the limit. For zero, which has two signs,
        # it is a number below both.
        lowest = (
            (np.where(is_negative, -np.abs(limits), limits).view(np.int32) >> 16) + is_negative
        ).astype(np.int16)
        if is_negative.any():
            bits, lowest = ordered_bits(bits), ordered_bits(lowest)
        places = np.flatnonzero(bits >= lowest)
    else:
        places = np.flatnonzero(scores.numpy() >= limits)  # 8 times as fast as PyTorch
    rows, queries = np.divmod(places, len(limits))
    reaching_scores = scores.view(-1)[torch.from_numpy(places)].float().numpy()
    reaching = reaching_scores >= limits[queries]
    return queries[reaching], rows[reaching], reaching_scores[reaching]


def integer_bits(scores: BFloat16[Tensor, "*shape"]) -> Int16[np.ndarray, "*shape"]:
    """Returns the bits of bfloat16 numbers as integers.

    Numbers above zero keep their order, and are above all others.
    """
    return scores.view(torch.int16).numpy()


def ordered_bits(bits: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
    """Returns the bits of floating-point numbers of any width, with negative ones in order too.

    Applied twice, it gives the bits back.
    """
    width = np.iinfo(bits.dtype)
    bits_in_order: Int[np.ndarray, "*shape"] = bits ^ ((bits >> (width.bits - 1)) & width.max)
    return bits_in_order


def best_first(
    scores: Float32[np.ndarray, " pair"], rows: Int64[np.ndarray, " pair"]
) -> Int64[np.ndarray, " pair"]:
    """Returns the order of descending scores, with equal scores by row.

    One sort of integers is several times as fast as a stable sort of floats.

    >>> best_first(np.float32([-2, 0, 7, -0.0]), np.array([4, 5, 6, 3])).tolist()
    [2, 3, 1, 0]
    """
    # The addition gives zero one sign.
    ascending = ordered_bits((scores + np.float32(0)).view(np.int32)).astype(np.int64)
    return np.argsort((-ascending << 32) + rows)


def stable_order(
    numbers: Int64[np.ndarray, " number"], exclusive_limit: int
) -> Int64[np.ndarray, " number"]:
    """Returns a stable sort order of numbers that are smaller than `exclusive_limit`.

    Small numbers are sorted as 16-bit integers, several times as fast.
    """
    return np.argsort(
        numbers.astype(np.uint16 if exclusive_limit <= 1 << 16 else np.int64), kind="stable"
    )
