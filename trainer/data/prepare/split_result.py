"""What a split of pairs has done, in words."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from trainer.data.prepare.judged_pairs import JudgedPairs
from trainer.errors import BadData

_SMALL = 0.9
"""A split with less than this share of the queries that were asked for is too small."""


@dataclass(frozen=True, eq=False)
class SplitResult:
    """The queries of each split."""

    data_set: JudgedPairs
    splits: Mapping[str, Sequence[str]]
    groups: Int[np.ndarray, " query"]
    """The number of the group of each query, in the order of `data_set.queries`."""
    near_identical: Sequence[tuple[int, int]]
    sizes: Mapping[str, int]
    """The number of queries that was asked for, for each split but train."""

    @cached_property
    def split_of(self) -> dict[str, str]:
        """The split of each query."""
        return {query: name for name, queries in self.splits.items() for query in queries}

    def check(self) -> None:
        """Raises BadData if a split has no queries."""
        if empty := [name for name, queries in self.splits.items() if not queries]:
            raise BadData(
                f"{' and '.join(empty)} would have no queries: {self._largest_group}. Nothing was"
                " written"
            )

    @property
    def warnings(self) -> Iterator[str]:
        """One line per split that is too small."""
        for name, size in self.sizes.items():
            if (count := len(self.splits[name])) < _SMALL * size:
                yield (
                    f"{name} has {count:,} of the {size:,} queries that were asked for:"
                    f" {self._largest_group}"
                )

    @property
    def lines(self) -> Iterator[str]:
        """The counts of each split, what stays together, and what was dropped."""
        data_set = self.data_set
        yield from (report.remark for report in data_set.reports if report.remark)
        for name in ("train", "dev", "test"):
            pairs = [pair for pair in data_set.pairs if self.split_of[pair[0]] == name]
            documents = len({document for _, document in pairs})
            queries = len(self.splits.get(name, ()))
            yield f"{name}: {len(pairs):,} pairs, {queries:,} queries, {documents:,} answers"
        sizes = [size for size in self._group_sizes if size > 1]
        near = len({number for pair in self.near_identical for number in pair})
        yield (
            f"{sum(sizes):,} queries stay together in {len(sizes):,} groups, the largest of"
            f" {max(sizes, default=0):,}; {near:,} queries are near-identical to another"
        )
        yield self._corpus_line
        if data_set.duplicate_pairs:
            yield f"{data_set.duplicate_pairs:,} duplicate pairs were dropped"
        if data_set.equal_documents:
            yield f"{data_set.equal_documents:,} documents with the text of another were dropped"
        if data_set.low_scores:
            yield f"{data_set.low_scores:,} pairs with low scores are no answers, only documents"
        if data_set.negatives:
            yield (
                f"{data_set.negatives:,} negatives are documents of the corpus; this layout does"
                " not say of which query (`nearfar mine` finds negatives)"
            )

    @property
    def _corpus_line(self) -> str:
        data_set, count = self.data_set, len(self.data_set.documents)
        if data_set.corpus is None:
            return (
                f"the corpus is the {count:,} documents of the pairs, as no --corpus was given: a"
                " search among all documents is harder, so figures on it are too high"
            )
        new = count - data_set.corpus_documents
        addition = f"; {new:,} of the pairs were not in it and were added" if new else ""
        corpus = f"{data_set.corpus_documents:,} documents of {data_set.corpus}"
        return f"the corpus is the {corpus}{addition}"

    @property
    def _group_sizes(self) -> list[int]:
        return sorted(Counter(self.groups.tolist()).values())

    @property
    def _largest_group(self) -> str:
        return (
            f"the largest group has {self._group_sizes[-1]:,} of {len(self.groups):,} queries,"
            " which share answers or are near-identical and stay together. With --shared-documents,"
            " one document may answer queries of several splits; or give more queries, or other"
            " shares"
        )
