"""The output of one shard: training pairs, queries without negatives, counts and worst pairs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64

from trainer.mining.choose import SOURCES, Candidates, Filters, InRange
from trainer.mining.task import Task

WORST = 50
"""The number of suspected false negatives that are reported."""
Pairs = tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"]]


@dataclass(frozen=True)
class ShardOutput:
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
        """Yields the training pairs with their negatives."""
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
        """Yields the queries without negatives, with the reason."""
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


def count_shard(
    candidates: Candidates, ranges: list[InRange], removals: Filters, output: ShardOutput
) -> dict[str, Any]:
    """Returns counts and sums of a shard, and its worst pairs."""
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
