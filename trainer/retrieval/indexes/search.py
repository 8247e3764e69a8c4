"""Exact search: the largest dot products, found block by block in bounded memory."""

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor

_SCORES_AT_ONCE = 1 << 24
_QUERIES_AT_ONCE = 1024


def top_k(
    queries: Float32[np.ndarray, "query dimension"],
    documents: Float32[np.ndarray, "document dimension"],
    k: int,
    device: torch.device | str = "cpu",
    scores_at_once: int = _SCORES_AT_ONCE,
) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
    """Scores and rows of the k documents with the largest dot product with each query, best first.

    Equal scores are put in the order of the documents. Where there are fewer than k documents, all
    come back. At most `scores_at_once` scores (64 MB) and one block of documents are held at a
    time, so `documents` may be a memory map.

    >>> scores, rows = top_k(
    ...     np.eye(2, dtype="float32"), np.float32([[1, 0], [0, 3], [1, 0], [2, 2]]), k=3
    ... )
    >>> rows.tolist(), scores.tolist()
    ([[3, 0, 2], [1, 3, 0]], [[2.0, 1.0, 1.0], [3.0, 2.0, 0.0]])
    """
    if k < 1:
        raise ValueError(f"k is {k}; ask for at least one document")
    k = min(k, len(documents))
    scores = np.empty((len(queries), k), dtype=np.float32)
    rows = np.empty((len(queries), k), dtype=np.int64)
    for start in range(0, len(queries) if k else 0, _QUERIES_AT_ONCE):
        block = slice(start, start + _QUERIES_AT_ONCE)
        best = _top_of_block(
            torch.tensor(queries[block], device=device), documents, k, scores_at_once
        )
        scores[block], rows[block] = best[0].cpu().numpy(), best[1].cpu().numpy()
    return scores, rows


def _top_of_block(
    queries: Float[Tensor, "query dimension"],
    documents: Float32[np.ndarray, "document dimension"],
    k: int,
    scores_at_once: int,
) -> tuple[Float[Tensor, "query rank"], Int[Tensor, "query rank"]]:
    best_scores = queries.new_empty(len(queries), 0)
    best_rows = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    step = max(1, scores_at_once // len(queries))
    for start in range(0, len(documents), step):
        block = torch.tensor(documents[start : start + step], device=queries.device)
        with torch.autocast(
            queries.device.type, enabled=False
        ):  # validation runs inside the trainer's autocast
            scores = queries @ block.T
        best_scores, best_rows = with_block(best_scores, best_rows, scores, start, k)
    return best_scores, best_rows


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
