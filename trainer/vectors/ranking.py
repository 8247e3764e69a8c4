"""The best documents of several blocks, equal scores in the order of the documents."""

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
    """The k best of those found so far and of a block of documents that begins with `first_row`; of
    equal scores the first documents.
    """
    rows = _largest(scores, min(k, scores.shape[1]))
    best_scores = torch.cat([best_scores, scores.gather(1, rows)], 1)
    best_rows = torch.cat([best_rows, rows + first_row], 1)
    order = best_rows.argsort(
        1
    )  # by row first, then a stable sort by score: equal scores stay in the order of the documents
    order = order.gather(
        1, best_scores.gather(1, order).argsort(dim=1, descending=True, stable=True)
    )[:, :k]
    return best_scores.gather(1, order), best_rows.gather(1, order)


def _largest(scores: Float[Tensor, "query document"], k: int) -> Int[Tensor, "query rank"]:
    """Columns of the k largest of each line, in any order; of equal ones the first. (`topk` alone
    takes any of the equal ones.)
    """
    values, columns = scores.topk(k, dim=1, sorted=False)
    smallest = values.amin(1, keepdim=True)
    for line in ((scores >= smallest).sum(1) > k).nonzero().flatten().tolist():
        above = (scores[line] > smallest[line]).nonzero().flatten()
        equal = (scores[line] == smallest[line]).nonzero().flatten()
        columns[line] = torch.cat([above, equal[: k - len(above)]])
    return columns
