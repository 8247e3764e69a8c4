"""Mining of one shard: search for its queries, and score, filter and choose the candidates."""

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
    MiningRules,
    choose_negatives,
    filters,
    in_range,
    join_sources,
    pair_draws,
)
from trainer.mining.spaces import QUERIES_PER_SHARD, Space
from trainer.mining.task import Task
from trainer.mining.teacher import PairScorer, check_scores
from trainer.retrieval.bm25 import Bm25

WORST = 50
"""The number of suspected false negatives that are reported."""
Pairs = tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"]]


@dataclass(frozen=True)
class ShardResult:
    """The result of a shard."""

    lines: list[dict[str, Any]]
    """Query, positive, negatives and scores, per training pair whose query has negatives."""
    queries_without: list[dict[str, Any]]
    """Query, positives and reason, per query without negatives."""
    counts: dict[str, Any]
    """Counts and sums, which are added over shards, and the worst pairs."""


@dataclass
class Miner:
    """Mines shards of a task."""

    task: Task
    space: Space
    options: MiningRules
    teacher: PairScorer | None = None
    _bm25: Bm25 | None = field(default=None, repr=False)

    def mine_shard(self, shard: int) -> ShardResult:
        """Searches, scores, filters and chooses for the queries of one shard."""
        first = shard * QUERIES_PER_SHARD
        last = min(first + QUERIES_PER_SHARD, len(self.task.queries))
        candidates, ranges = self._candidates(shard, first, last)
        positives = self.task.positives(first, last)
        scores, positive_scores = self._scores(shard, candidates, positives)
        # Of several positives, the one with the lowest score sets the limit.
        lowest = np.minimum.reduceat(
            positive_scores, np.searchsorted(positives[0], np.arange(last - first))
        )
        removals = filters(scores, lowest[candidates.queries], self.options)
        is_allowed = np.ones(len(candidates), bool)
        first_by = {}
        for name, is_removed in removals.items():
            first_by[name], is_allowed = is_allowed & is_removed, is_allowed & ~is_removed
        identities = self.task.query_identities[first:last], self.task.document_identities
        chosen_places = np.flatnonzero(is_allowed)
        remaining = candidates.select(is_allowed)
        chosen_places = chosen_places[
            choose_negatives(
                remaining,
                self.options,
                lambda pairs: pair_draws(
                    identities[0][pairs.queries], identities[1][pairs.documents], self.options.seed
                ),
            )
        ]
        output = _ShardOutput(
            self.task,
            first,
            last,
            candidates,
            scores,
            chosen_places,
            positives,
            positive_scores,
            lowest,
        )
        counts = _counts(candidates, ranges, first_by, output)
        return ShardResult(
            list(output.lines()), list(output.queries_without(ranges, first_by)), counts
        )

    def _candidates(self, shard: int, first: int, last: int) -> tuple[Candidates, list[InRange]]:
        """Returns the candidates of all requested sources, within their ranks, without forbidden
        ones.
        """
        forbidden, documents, options = (
            self.task.forbidden(first, last),
            len(self.task.documents),
            self.options,
        )
        keys = forbidden[0] * documents + forbidden[1]
        max_forbidden = int(np.bincount(forbidden[0]).max(initial=0))
        k = min(options.depth + max_forbidden, documents)
        ranges, parts = [], []
        if options.negatives:
            ranges.append(in_range(*self.space.nearest(shard, k), keys, documents, options))
            parts.append((0, ranges[-1].queries, ranges[-1].documents, ranges[-1].scores))
        if options.bm25_negatives:
            ranges.append(in_range(*self._by_words(first, last, k), keys, documents, options))
            parts.append((1, ranges[-1].queries, ranges[-1].documents, ranges[-1].scores))
        if options.random_negatives:
            queries, any_documents = self._at_random(first, last)
            free = ~np.isin(queries * documents + any_documents, keys)
            parts.append(
                (2, queries[free], any_documents[free], np.zeros(int(free.sum()), np.float32))
            )
        return join_sources(parts, documents), ranges

    def _by_words(
        self, first: int, last: int, k: int
    ) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
        if self._bm25 is None:
            self._bm25 = Bm25(self.task.documents.range(0, len(self.task.documents)))
        scores, places = (
            np.zeros((last - first, k), np.float32),
            np.full((last - first, k), -1, np.int64),
        )
        for row, (rows, row_scores) in enumerate(
            self._bm25.best(self.task.queries.range(first, last), k)
        ):
            scores[row, : len(rows)], places[row, : len(rows)] = row_scores, rows
        return scores, places

    def _at_random(self, first: int, last: int) -> Pairs:
        """Returns twice as many random pairs as requested, since some are removed later."""
        ranks = 2 * self.options.random_negatives
        queries = np.repeat(np.arange(last - first), ranks)
        draws = pair_draws(
            self.task.query_identities[first:last][queries],
            np.tile(np.arange(ranks), last - first),
            self.options.seed,
        )
        return queries, (draws % np.uint64(len(self.task.documents))).astype(np.int64)

    def _scores(
        self, shard: int, candidates: Candidates, positives: Pairs
    ) -> tuple[Float32[np.ndarray, " candidate"], Float32[np.ndarray, " pair"]]:
        """Returns the scores of candidates and positives, by the teacher or else by the model.

        Raises BadModel when a score is not finite.
        """
        score = self.teacher or self.space.pair_scores
        unknown = (
            np.flatnonzero(candidates.sources != 0)
            if self.teacher is None
            else np.arange(len(candidates))
        )
        scores = candidates.scores.copy()
        scores[unknown] = score(shard, candidates.queries[unknown], candidates.documents[unknown])
        positive_scores = score(shard, *positives)
        for pair_scores, queries in ((scores, candidates.queries), (positive_scores, positives[0])):
            check_scores(
                pair_scores,
                "the teacher" if self.teacher else "the model",
                queries,
                shard,
                self.task,
            )
        return scores, positive_scores


@dataclass(frozen=True)
class _ShardOutput:
    """The chosen negatives of a shard, and what is reported about them."""

    task: Task
    first: int
    last: int
    candidates: Candidates
    scores: Float32[np.ndarray, " candidate"]
    chosen_places: Int64[np.ndarray, " negative"]
    """Places of the negatives among the candidates."""
    positives: Pairs
    positive_scores: Float32[np.ndarray, " pair"]
    lowest: Float32[np.ndarray, " query"]

    @property
    def counts(self) -> Int64[np.ndarray, " query"]:
        """The number of negatives per query."""
        return np.bincount(
            self.candidates.queries[self.chosen_places], minlength=self.last - self.first
        )

    def lines(self) -> Iterator[dict[str, Any]]:
        texts = self.task.documents.at(self.candidates.documents[self.chosen_places])
        scores = _round_scores(self.scores[self.chosen_places])
        ends = np.cumsum(self.counts).tolist()
        starts = [0, *ends]
        queries, positives = (
            self.task.queries.range(self.first, self.last),
            self.task.documents.at(self.positives[1]),
        )
        for query, positive, score in zip(
            self.positives[0].tolist(), positives, _round_scores(self.positive_scores), strict=True
        ):
            pairs = slice(starts[query], ends[query])
            if pairs.start < pairs.stop:
                yield {
                    "query": queries[query],
                    "positive": positive,
                    "negatives": texts[pairs],
                    "scores": [score, *scores[pairs]],
                }

    def queries_without(self, ranges: list[InRange], removals: Filters) -> Iterator[dict[str, Any]]:
        size = self.last - self.first
        empty = np.flatnonzero(self.counts == 0)
        candidate_counts = np.bincount(self.candidates.queries, minlength=size)
        by = {
            "known positive or its twin": sum(
                (ranks.forbidden for ranks in ranges), np.zeros(size, np.int64)
            )
        }
        by |= {"skip_top": sum((ranks.skip_counts for ranks in ranges), np.zeros(size, np.int64))}
        by |= {
            name: np.bincount(self.candidates.queries[is_removed], minlength=size)
            for name, is_removed in removals.items()
        }
        for query in empty.tolist():
            reasons = ", ".join(
                f"{counts[query]} by {name}" for name, counts in by.items() if counts[query]
            )
            positive_texts = self.task.documents.at(self.positives[1][self.positives[0] == query])
            (text,) = self.task.queries.range(self.first + query, self.first + query + 1)
            reason = (
                f"{candidate_counts[query]} candidates in the range of ranks, removed: {reasons}"
                if reasons
                else "no candidate was found"
            )
            yield {"query": text, "positives": positive_texts, "reason": reason}

    def worst(self, is_suspect: Bool[np.ndarray, " candidate"]) -> list[dict[str, Any]]:
        """Returns the candidates with the largest scores above the positive, with texts."""
        difference = np.where(
            is_suspect, self.scores - self.lowest[self.candidates.queries], -np.inf
        )
        order = np.argsort(-difference, kind="stable")[: min(WORST, int(is_suspect.sum()))]
        pairs_with_texts = []
        for place in order.tolist():
            query = int(self.candidates.queries[place])
            positive_places = np.flatnonzero(self.positives[0] == query)
            positive = int(positive_places[np.argmin(self.positive_scores[positive_places])])
            [text], [lowest, candidate] = (
                self.task.queries.range(self.first + query, self.first + query + 1),
                self.task.documents.at(
                    np.array([self.positives[1][positive], self.candidates.documents[place]])
                ),
            )
            scores = _round_scores(np.array([self.positive_scores[positive], self.scores[place]]))
            pairs_with_texts.append(
                {
                    "query": text,
                    "positive": lowest,
                    "candidate": candidate,
                    "positive_score": scores[0],
                    "candidate_score": scores[1],
                }
            )
        return pairs_with_texts


def _counts(
    candidates: Candidates, ranges: list[InRange], removals: Filters, output: _ShardOutput
) -> dict[str, Any]:
    is_suspect = output.scores > output.lowest[candidates.queries]
    negatives = candidates.sources[output.chosen_places]
    with_negatives = output.counts[output.positives[0]] > 0
    identity = sum(int(ranks.forbidden.sum()) for ranks in ranges)
    return {
        "queries": output.last - output.first,
        "pairs": len(output.positive_scores),
        "candidates": {
            name: int((candidates.sources == source).sum()) for source, name in enumerate(SOURCES)
        },
        "removed": {
            "known_positive_or_twin": identity,
            "skip_top": sum(int(ranks.skip_counts.sum()) for ranks in ranges),
        }
        | {name: int(is_removed.sum()) for name, is_removed in removals.items()},
        "negatives": {
            name: int((negatives == source).sum()) for source, name in enumerate(SOURCES)
        },
        "pairs_written": int(with_negatives.sum()),
        "queries_without_negatives": int((output.counts == 0).sum()),
        "suspected": {
            "candidates": int(is_suspect.sum()),
            "queries": len(np.unique(candidates.queries[is_suspect])),
            "written": int(is_suspect[output.chosen_places].sum()),
        },
        "sum_of_scores": {
            "positive": float(output.positive_scores.sum(dtype=np.float64)),
            "negative": float(output.scores[output.chosen_places].sum(dtype=np.float64)),
        },
        "worst": output.worst(is_suspect),
    }


def _round_scores(scores: Float32[np.ndarray, " pair"]) -> list[float]:
    return np.round(scores.astype(np.float64), 6).tolist()
