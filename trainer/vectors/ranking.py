"""Ranking of documents over several blocks; equal scores are in the order of the documents."""

import torch
from jaxtyping import Float, Int
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
    rows = _largest(scores, min(k, scores.shape[1]))
    best_scores = torch.cat([best_scores, scores.gather(1, rows)], 1)
    best_rows = torch.cat([best_rows, rows + first_row], 1)
    # A stable sort by score after a sort by row leaves equal scores in the order of the documents.
    order = best_rows.argsort(1)
    order = order.gather(
        1, best_scores.gather(1, order).argsort(dim=1, descending=True, stable=True)
    )[:, :k]
    return best_scores.gather(1, order), best_rows.gather(1, order)


def _largest(scores: Float[Tensor, "query document"], k: int) -> Int[Tensor, "query rank"]:
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
