"""Mining of one shard: search for its queries, and score, filter and choose the candidates."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from trainer.mining.choose import (
    Candidates,
    InRange,
    MiningRules,
    choose_negatives,
    filters,
    in_range,
    join_sources,
    pair_draws,
)
from trainer.mining.shard_output import Pairs, ShardOutput, count_shard
from trainer.mining.spaces import QUERIES_PER_SHARD, Space
from trainer.mining.task import Task
from trainer.mining.teacher import PairScorer, check_scores
from trainer.retrieval.bm25 import Bm25


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
        output = ShardOutput(
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
        counts = count_shard(candidates, ranges, first_by, output)
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
