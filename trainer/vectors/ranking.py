"""Ranking of documents over several blocks; equal scores are in the order of the documents."""

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor


def with_block(
    best_scores: Float[Tensor, "query rank"],
    best_rows: Int[Tensor, "query rank"],
    scores: Float[Tensor, "query document"],
    first_row: int,
    k: int,
) -> tuple[Float[Tensor, "query new_rank"], Int[Tensor, "query new_rank"]]:
    """Returns the k best documents of those so far and of a new block.

    The block's row numbers begin with `first_row`. Of equal scores, the first documents win.
    """
    largest = largest_by_values if scores.device.type == "cpu" else largest_by_keys
    rows = largest(scores, min(k, scores.shape[1]))
    best_scores = torch.cat([best_scores, scores.gather(1, rows)], 1)
    best_rows = torch.cat([best_rows, rows + first_row], 1)
    # A stable sort by score after a sort by row leaves equal scores in the order of the documents.
    order = best_rows.argsort(1)
    order = order.gather(
        1, best_scores.gather(1, order).argsort(dim=1, descending=True, stable=True)
    )[:, :k]
    return best_scores.gather(1, order), best_rows.gather(1, order)


def largest_by_keys(
    scores: Float32[Tensor, "query document"], k: int
) -> Int64[Tensor, "query rank"]:
    """Returns the columns of the k largest scores per query, in any order.

    Of equal scores, the first columns win. The host does not wait for a device, but a CPU takes
    several times as long as by values.

    >>> largest_by_keys(torch.tensor([[-2.0, -1.0, 0.0, -1.0, -0.0]]), 3).sort().values.tolist()
    [[1, 2, 4]]
    """
    # As integers, the bits of negative numbers are in the opposite order; the sum gives zero one
    # sign. No two keys are equal, so `topk` has no choice.
    bits = (scores + 0.0).view(torch.int32)
    ordered_bits = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    keys = (ordered_bits << 32) - torch.arange(scores.shape[1], device=scores.device)
    return keys.topk(k, sorted=False).indices


def largest_by_values(
    scores: Float[Tensor, "query document"], k: int
) -> Int64[Tensor, "query rank"]:
    """Returns the columns of the k largest scores per query, in any order.

    Of equal scores, the first columns win; `topk` alone takes any of them.
    """
    values, columns = scores.topk(k, dim=1, sorted=False)
    smallest = values.amin(1, keepdim=True)
    for line in ((scores >= smallest).sum(1) > k).nonzero().flatten().tolist():
        above_smallest = (scores[line] > smallest[line]).nonzero().flatten()
        equal = (scores[line] == smallest[line]).nonzero().flatten()
        columns[line] = torch.cat([above_smallest, equal[: k - len(above_smallest)]])
    return columns


def largest_positive(
    scores: Float32[np.ndarray, " document"], k: int
) -> Int64[np.ndarray, " rank"]:
    """Returns the k rows with the largest scores above 0, best first; of equal scores, the first
    rows.

    >>> largest_positive(np.float32([0, 2, 3, 2, 2]), 3).tolist()
    [2, 1, 3]
    """
    k = min(k, len(scores))
    if k == 0:
        return np.empty(0, np.int64)
    smallest = np.partition(scores, -k)[-k]
    candidates = np.flatnonzero((scores >= smallest) & (scores > 0))
    return candidates[np.argsort(-scores[candidates], kind="stable")[:k]]
