"""Exact search by dot product on a device, with the results of `trainer.vectors.screened_search`.

The device computes products in float32 and selects the pairs that may be among the best. Their
scores are computed as on a CPU, pair by pair.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from trainer.vectors.device_copies import upload
from trainer.vectors.screened_search import (
    FLOAT32_ERROR,
    ScoredPairs,
    best_of_pairs,
    lengths_of,
    pair_scores,
)

_SCORES_AT_ONCE = 1 << 26


class DeviceSearch:
    """Finds the k best documents per query, in blocks of documents.

    The host waits once per block, for the pairs. `documents` stay in memory until `best`, which
    computes the scores.

    >>> search = DeviceSearch(np.eye(2, dtype="float32"), 1, torch.device("cpu"))
    >>> search.add(np.float32([[1, 0], [0, 3]]), first_row=0)
    >>> search.add(np.float32([[1, 0], [2, 2]]), first_row=2)
    >>> scores, rows = search.best()
    >>> rows.tolist(), scores.tolist()
    ([[3], [1]], [[2.0], [3.0]])
    """

    def __init__(
        self, queries: Float32[np.ndarray, "query dimension"], k: int, device: torch.device
    ) -> None:
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least one document")
        self._queries, self._k, self._device = queries, k, device
        self._factors = upload(queries, device)
        # |the product - the score| <= the largest error of a sum of that many products, each.
        self._errors = upload(2 * queries.shape[1] * FLOAT32_ERROR * lengths_of(queries), device)
        self._longest = 0.0
        self._largest = self._factors.new_full((len(queries), k), -torch.inf)
        """Per query, the k largest products so far."""
        self._limits = self._factors.new_full((len(queries),), -torch.inf)
        """Per query, the smallest product that a document among the k best can have."""
        self._blocks: list[tuple[np.ndarray, int, np.ndarray]] = []
        """Documents, their first row, and pairs: queries, documents and the bits of products."""

    def add(
        self,
        documents: Float32[np.ndarray, "document dimension"],
        first_row: int,
        longest: float | None = None,
        copy: Float[Tensor, "document dimension"] | None = None,
    ) -> None:
        """Searches a block of documents, whose row numbers begin with `first_row`.

        `longest` is the length of the longest vector, computed if it is not given. `copy` has the
        same documents on the device.
        """
        if longest is None:
            longest = float(lengths_of(documents).max(initial=0.0))
        factors = upload(documents, self._device) if copy is None else copy
        self._longest = max(self._longest, longest)
        step = max(1, _SCORES_AT_ONCE // max(1, len(documents)))
        # Validation runs inside the trainer's autocast.
        with torch.autocast(self._device.type, enabled=False), _float32_products():
            for start in range(0, len(self._queries), step):
                products = self._factors[start : start + step] @ factors.T
                limits = self._raise_limits(slice(start, start + step), products)
                pairs = (products >= limits[:, None]).nonzero()
                queries, rows = pairs.T
                bits = products[queries, rows].view(torch.int32).long()
                # One array, so one copy.
                columns = torch.stack([queries + start, rows, bits])
                self._blocks.append((documents, first_row, columns.cpu().numpy()))

    def _raise_limits(
        self, part: slice, products: Float[Tensor, "query_part document"]
    ) -> Float[Tensor, " query_part"]:
        """Updates and returns the limits of some queries.

        k documents have at least the k-th largest product, so k scores are at least that minus the
        error. A document among the best has at least that product minus twice the error.
        """
        largest = products.topk(min(self._k, products.shape[1]), dim=1).values
        largest = torch.cat([self._largest[part], largest], 1).topk(self._k, dim=1).values
        self._largest[part], kth_product = largest, largest[:, -1]
        # 1 percent and the last term are for the rounding of this line itself.
        self._limits[part] = (
            kth_product
            - 2.02 * self._longest * self._errors[part]
            - 4 * FLOAT32_ERROR * kth_product.abs()
        )
        return self._limits[part]

    def best(self) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
        """Returns scores and rows, best first; equal scores are in the order of their rows.

        Where there are fewer than k documents, the score is minus infinity and the row -1.
        """
        limits, candidates = self._limits.cpu().numpy(), list[ScoredPairs]()
        for documents, first_row, (queries, rows, bits) in self._blocks:
            products = bits.astype(np.int32).view(np.float32)
            is_near = products >= limits[queries]  # limits have risen since
            queries, rows = queries[is_near], rows[is_near]
            scores = pair_scores(self._queries, documents, queries, rows)
            candidates.append((queries, rows + first_row, scores))
        return best_of_pairs(candidates, len(self._queries), self._k)


@contextlib.contextmanager
def _float32_products() -> Iterator[None]:
    """Disables TF32, whose errors are larger than the bound of the search."""
    settings = torch.backends.cuda.matmul
    precision = settings.fp32_precision
    settings.fp32_precision = "ieee"
    try:
        yield
    finally:
        settings.fp32_precision = precision
