"""Exact search by late interaction on a GPU: a kernel scores, and the GPU selects the best.

The scores are those of `trainer.vectors.maxsim_search`, except for rounding.
"""

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor

from trainer.vectors.device_copies import upload
from trainer.vectors.maxsim_search import check_queries
from trainer.vectors.ranking import with_block

TOKENS_AT_ONCE = 1 << 18
_QUERIES_AT_ONCE = 1 << 10


class MaxSimDeviceSearch:
    """Finds the k documents with the largest MaxSim per query, in blocks of documents.

    Rows of zeros in a query do not count. Raises BadData for a query that has only zeros.
    """

    def __init__(
        self,
        queries: Float32[np.ndarray, "query query_token dimension"],
        k: int,
        device: torch.device,
    ) -> None:
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least one document")
        check_queries(queries)
        self._k = k
        self._queries = upload(queries, device).split(_QUERIES_AT_ONCE)
        self._best = [
            (
                part.new_empty(len(part), 0),
                torch.empty(len(part), 0, dtype=torch.long, device=device),
            )
            for part in self._queries
        ]

    def add(
        self,
        rows: Float[Tensor, "token dimension"],
        offsets: Int[Tensor, " document_plus_one"],
        first_row: int,
    ) -> None:
        """Searches a block of documents on the device, whose row numbers begin with `first_row`.

        Document i has `rows[offsets[i] : offsets[i + 1]]`. Blocks must be added in the order of
        their rows.
        """
        from trainer.kernels.maxsim_triton import flat_maxsim  # Triton is not everywhere

        rows = rows.float()
        for number, queries in enumerate(self._queries):
            scores = flat_maxsim(queries, rows, offsets)
            self._best[number] = with_block(*self._best[number], scores, first_row, self._k)

    def best(self) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
        """Returns scores and rows, best first; equal scores are in the order of their rows.

        Where fewer than k documents have a token, the score is minus infinity and the row -1.
        """
        scores, rows = (torch.cat(parts).cpu() for parts in zip(*self._best, strict=True))
        missing = (0, self._k - scores.shape[1])
        scores = torch.nn.functional.pad(scores, missing, value=-torch.inf)
        rows = torch.nn.functional.pad(rows, missing).masked_fill(scores.isneginf(), -1)
        return scores.numpy(), rows.numpy()
