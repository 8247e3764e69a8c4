"""One shard: some queries searched, their candidates scored, filtered and chosen, and what was seen
on the way.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64

from trainer.mining.choose import (
    SOURCES,
    Candidates,
    Filters,
    InRange,
    Options,
    drawn,
    filters,
    in_range,
    picked,
    together,
)
from trainer.mining.spaces import QUERIES_A_SHARD, Space
from trainer.mining.task import Task
from trainer.mining.teacher import PairScorer, check_scores
from trainer.retrieval.bm25 import Bm25

WORST = 50
"""Suspected false negatives that are shown."""
Pairs = tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"]]


@dataclass(frozen=True)
class Mined:
    """What came of a shard."""

    lines: list[dict[str, Any]]
    """Query, positive, negatives, scores: one a training pair whose query has negatives."""
    without: list[dict[str, Any]]
    """Query, positives, reason: one a query that has none."""
    counts: dict[str, Any]
    """Counts and sums, to be added up over shards, and the worst pairs."""


@dataclass
class Miner:
    """Everything that a shard is mined with."""

    task: Task
    space: Space
    options: Options
    teacher: PairScorer | None = None
    _bm25: Bm25 | None = field(default=None, repr=False)

    def mine(self, shard: int) -> Mined:
        """The shard of that number."""
        first = shard * QUERIES_A_SHARD
        last = min(first + QUERIES_A_SHARD, len(self.task.queries))
        candidates, passed = self._candidates(shard, first, last)
        positives = self.task.positives(first, last)
        scores, of_positives = self._scores(shard, candidates, positives)
        lowest = np.minimum.reduceat(
            of_positives, np.searchsorted(positives[0], np.arange(last - first))
        )  # the safe side, of several positives
        removed = filters(scores, lowest[candidates.queries], self.options)
        left = np.ones(len(candidates), bool)
        first_by = {}
        for name, by_this in removed.items():
            first_by[name], left = left & by_this, left & ~by_this
        identities = self.task.query_identities[first:last], self.task.document_identities
        chosen = np.flatnonzero(left)
        remaining = candidates.select(left)
        chosen = chosen[
            picked(
                remaining,
                self.options,
                lambda some: drawn(
                    identities[0][some.queries], identities[1][some.documents], self.options.seed
                ),
            )
        ]
        written = _Written(
            self.task, first, last, candidates, scores, chosen, positives, of_positives, lowest
        )
        counts = _counts(candidates, passed, first_by, written)
        return Mined(list(written.lines()), list(written.without(passed, first_by)), counts)

    def _candidates(self, shard: int, first: int, last: int) -> tuple[Candidates, list[InRange]]:
        """Of every source that is asked for, in its range of ranks and free of what may be no
        negative.
        """
        forbidden, documents, options = (
            self.task.forbidden(first, last),
            len(self.task.documents),
            self.options,
        )
        keys = forbidden[0] * documents + forbidden[1]
        passed_over = int(np.bincount(forbidden[0]).max(initial=0))
        k = min(options.depth + passed_over, documents)
        passed, parts = [], []
        if options.negatives:
            passed.append(in_range(*self.space.nearest(shard, k), keys, documents, options))
            parts.append((0, passed[-1].queries, passed[-1].documents, passed[-1].scores))
        if options.bm25_negatives:
            passed.append(in_range(*self._by_words(first, last, k), keys, documents, options))
            parts.append((1, passed[-1].queries, passed[-1].documents, passed[-1].scores))
        if options.random_negatives:
            queries, any_documents = self._at_random(first, last)
            free = ~np.isin(queries * documents + any_documents, keys)
            parts.append(
                (2, queries[free], any_documents[free], np.zeros(int(free.sum()), np.float32))
            )
        return together(parts, documents), passed

    def _by_words(
        self, first: int, last: int, k: int
    ) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
        if self._bm25 is None:
            self._bm25 = Bm25(self.task.documents.range(0, len(self.task.documents)))
        scores, found = (
            np.zeros((last - first, k), np.float32),
            np.full((last - first, k), -1, np.int64),
        )
        for row, (rows, of_rows) in enumerate(
            self._bm25.best(self.task.queries.range(first, last), k)
        ):
            scores[row, : len(rows)], found[row, : len(rows)] = of_rows, rows
        return scores, found

    def _at_random(self, first: int, last: int) -> Pairs:
        """Twice as many as are asked for, since some are known positives or filtered out."""
        each = 2 * self.options.random_negatives
        queries = np.repeat(np.arange(last - first), each)
        draws = drawn(
            self.task.query_identities[first:last][queries],
            np.tile(np.arange(each), last - first),
            self.options.seed,
        )
        return queries, (draws % np.uint64(len(self.task.documents))).astype(np.int64)

    def _scores(
        self, shard: int, candidates: Candidates, positives: Pairs
    ) -> tuple[Float32[np.ndarray, " candidate"], Float32[np.ndarray, " pair"]]:
        """Scores of candidates and positives, by the teacher where there is one, else by the miner.
        Raises BadModel when one is not finite.
        """
        score = self.teacher or self.space.pair_scores
        unknown = (
            np.flatnonzero(candidates.sources != 0)
            if self.teacher is None
            else np.arange(len(candidates))
        )
        scores = candidates.scores.copy()
        scores[unknown] = score(shard, candidates.queries[unknown], candidates.documents[unknown])
        of_positives = score(shard, *positives)
        for found, queries in ((scores, candidates.queries), (of_positives, positives[0])):
            check_scores(
                found, "the teacher" if self.teacher else "the model", queries, shard, self.task
            )
        return scores, of_positives


@dataclass(frozen=True)
class _Written:
    """What of a shard is written, and what was seen of it."""

    task: Task
    first: int
    last: int
    candidates: Candidates
    scores: Float32[np.ndarray, " candidate"]
    chosen: Int64[np.ndarray, " negative"]
    """Places of the negatives among the candidates."""
    positives: Pairs
    of_positives: Float32[np.ndarray, " pair"]
    lowest: Float32[np.ndarray, " query"]

    @property
    def counts(self) -> Int64[np.ndarray, " query"]:
        """Negatives of each query."""
        return np.bincount(self.candidates.queries[self.chosen], minlength=self.last - self.first)

    def lines(self) -> Iterator[dict[str, Any]]:
        texts = self.task.documents.at(self.candidates.documents[self.chosen])
        scores = _rounded(self.scores[self.chosen])
        ends = np.cumsum(self.counts).tolist()
        starts = [0, *ends]
        queries, positives = (
            self.task.queries.range(self.first, self.last),
            self.task.documents.at(self.positives[1]),
        )
        for query, positive, score in zip(
            self.positives[0].tolist(), positives, _rounded(self.of_positives), strict=True
        ):
            some = slice(starts[query], ends[query])
            if some.start < some.stop:
                yield {
                    "query": queries[query],
                    "positive": positive,
                    "negatives": texts[some],
                    "scores": [score, *scores[some]],
                }

    def without(self, passed: list[InRange], removed: Filters) -> Iterator[dict[str, Any]]:
        size = self.last - self.first
        empty = np.flatnonzero(self.counts == 0)
        found = np.bincount(self.candidates.queries, minlength=size)
        by = {
            "known positive or its twin": sum(
                (each.forbidden for each in passed), np.zeros(size, np.int64)
            )
        }
        by |= {"skip_top": sum((each.skipped for each in passed), np.zeros(size, np.int64))}
        by |= {
            name: np.bincount(self.candidates.queries[gone], minlength=size)
            for name, gone in removed.items()
        }
        for query in empty.tolist():
            reasons = ", ".join(
                f"{counts[query]} by {name}" for name, counts in by.items() if counts[query]
            )
            of_query = self.task.documents.at(self.positives[1][self.positives[0] == query])
            (text,) = self.task.queries.range(self.first + query, self.first + query + 1)
            reason = (
                f"{found[query]} candidates in the range of ranks, removed: {reasons}"
                if reasons
                else "no candidate was found"
            )
            yield {"query": text, "positives": of_query, "reason": reason}

    def worst(self, above: Bool[np.ndarray, " candidate"]) -> list[dict[str, Any]]:
        """The candidates furthest above the positive, with texts."""
        difference = np.where(above, self.scores - self.lowest[self.candidates.queries], -np.inf)
        order = np.argsort(-difference, kind="stable")[: min(WORST, int(above.sum()))]
        found = []
        for place in order.tolist():
            query = int(self.candidates.queries[place])
            of_query = np.flatnonzero(self.positives[0] == query)
            positive = int(of_query[np.argmin(self.of_positives[of_query])])
            [text], [lowest, candidate] = (
                self.task.queries.range(self.first + query, self.first + query + 1),
                self.task.documents.at(
                    np.array([self.positives[1][positive], self.candidates.documents[place]])
                ),
            )
            scores = _rounded(np.array([self.of_positives[positive], self.scores[place]]))
            found.append(
                {
                    "query": text,
                    "positive": lowest,
                    "candidate": candidate,
                    "positive_score": scores[0],
                    "candidate_score": scores[1],
                }
            )
        return found


def _counts(
    candidates: Candidates, passed: list[InRange], removed: Filters, written: _Written
) -> dict[str, Any]:
    above = written.scores > written.lowest[candidates.queries]
    negatives = candidates.sources[written.chosen]
    with_negatives = written.counts[written.positives[0]] > 0
    identity = sum(int(each.forbidden.sum()) for each in passed)
    return {
        "queries": written.last - written.first,
        "pairs": len(written.of_positives),
        "candidates": {
            name: int((candidates.sources == source).sum()) for source, name in enumerate(SOURCES)
        },
        "removed": {
            "known_positive_or_twin": identity,
            "skip_top": sum(int(each.skipped.sum()) for each in passed),
        }
        | {name: int(gone.sum()) for name, gone in removed.items()},
        "negatives": {
            name: int((negatives == source).sum()) for source, name in enumerate(SOURCES)
        },
        "pairs_written": int(with_negatives.sum()),
        "queries_without_negatives": int((written.counts == 0).sum()),
        "suspected": {
            "candidates": int(above.sum()),
            "queries": len(np.unique(candidates.queries[above])),
            "written": int(above[written.chosen].sum()),
        },
        "sum_of_scores": {
            "positive": float(written.of_positives.sum(dtype=np.float64)),
            "negative": float(written.scores[written.chosen].sum(dtype=np.float64)),
        },
        "worst": written.worst(above),
    }


def _rounded(scores: Float32[np.ndarray, " pair"]) -> list[float]:
    return np.round(scores.astype(np.float64), 6).tolist()
