"""Which candidates become negatives: pure functions of their scores and of who they are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt64

from trainer.data.order import hash_numbers
from trainer.errors import BadRecipe

SOURCES = ("model", "bm25", "random")
"""Where candidates come from, in the order in which they are written."""


@dataclass(frozen=True)
class Options:
    """What is mined. All limits given apply, so the strictest counts."""

    negatives: int = 7
    """Per query, of those the model found."""
    bm25_negatives: int = 0
    random_negatives: int = 0
    depth: int = 100
    """Ranks that are looked at, of the model's and of BM25's, known positives left out."""
    skip_top: int = 0
    """Ranks that are left out at the top."""
    pick: Literal["top", "random"] = "top"
    """Of the candidates that are left the best, or any."""
    percent_of_positive: float = 95.0
    """A negative's score is at most this share of the positive's (TopK-PercPos of Moreira et al.
    2024, *NV-Retriever*); 0: no such limit.
    """
    margin: float | None = None
    """A negative's score is at least so much below the positive's."""
    relative_margin: float | None = None
    """A negative's score is at least this share of the positive's below it; 0.05 says the same as
    95 percent.
    """
    min_score: float | None = None
    max_score: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        wanted = self.negatives + self.bm25_negatives + self.random_negatives
        if (
            min(self.negatives, self.bm25_negatives, self.random_negatives, self.skip_top) < 0
            or wanted == 0
        ):
            raise BadRecipe(
                "no negatives are asked for; give --negatives, --bm25-negatives or"
                " --random-negatives a number above 0"
            )
        if max(self.negatives, self.bm25_negatives) > self.depth - self.skip_top:
            raise BadRecipe(
                f"{max(self.negatives, self.bm25_negatives)} negatives cannot come from ranks"
                f" {self.skip_top + 1} to {self.depth}; give a larger --depth, a smaller"
                " --skip-top, or ask for fewer"
            )
        for name in ("percent_of_positive", "margin", "relative_margin", "min_score", "max_score"):
            value = getattr(self, name)
            if value is not None and not np.isfinite(value):
                raise BadRecipe(
                    f"--{name.replace('_', '-')} {value} is not a finite number; leave the option"
                    " out for no limit"
                )
        if not 0 <= self.percent_of_positive <= 100:
            raise BadRecipe(
                f"--percent-of-positive {self.percent_of_positive:g} is not between 0 (no such"
                " limit) and 100"
            )
        if self.relative_margin is not None and not 0 <= self.relative_margin <= 1:
            raise BadRecipe(
                f"--relative-margin {self.relative_margin:g} is a share of the positive's score, so"
                " between 0 and 1"
            )
        if (
            self.min_score is not None
            and self.max_score is not None
            and self.min_score > self.max_score
        ):
            raise BadRecipe(
                f"no score is both above --min-score {self.min_score:g} and below --max-score"
                f" {self.max_score:g}"
            )


@dataclass(frozen=True)
class Candidates:
    """Pairs of a query and a document that may become negatives, by query, then source, then
    rank.
    """

    queries: Int64[np.ndarray, " pair"]
    documents: Int64[np.ndarray, " pair"]
    sources: Int64[np.ndarray, " pair"]
    """Place in `SOURCES`."""
    scores: Float32[np.ndarray, " pair"]
    """By the search that found it, where that was the model's."""

    def __len__(self) -> int:
        return len(self.queries)

    def select(self, chosen: Bool[np.ndarray, " pair"]) -> "Candidates":
        """Those where `chosen` is true."""
        return Candidates(
            self.queries[chosen], self.documents[chosen], self.sources[chosen], self.scores[chosen]
        )


@dataclass(frozen=True)
class InRange:
    """Of what a search found, that in the range of ranks, and what stood in the way."""

    queries: Int64[np.ndarray, " pair"]
    documents: Int64[np.ndarray, " pair"]
    scores: Float32[np.ndarray, " pair"]
    forbidden: Int64[np.ndarray, " query"]
    """How many known positives and twins were passed over, of each query."""
    skipped: Int64[np.ndarray, " query"]
    """How many stood at the ranks left out at the top."""


def in_range(
    scores: Float32[np.ndarray, "query rank"],
    found: Int64[np.ndarray, "query rank"],
    forbidden_keys: Int64[np.ndarray, " key"],
    documents: int,
    options: Options,
) -> InRange:
    """The documents found at ranks `skip_top` to `depth`, those left out that may be no negatives.
    `forbidden_keys` are query * documents + document.
    """
    there = found >= 0
    known = there & np.isin(np.arange(len(found))[:, None] * documents + found, forbidden_keys)
    free = there & ~known
    rank: Int64[np.ndarray, "query rank"] = np.cumsum(free, axis=1) - free
    reached = rank < options.depth
    kept = free & reached & (rank >= options.skip_top)
    queries, places = np.nonzero(kept)
    return InRange(
        queries,
        found[queries, places],
        scores[queries, places],
        (known & reached).sum(1),
        (free & (rank < options.skip_top)).sum(1),
    )


Part = tuple[int, Int64[np.ndarray, " _"], Int64[np.ndarray, " _"], Float32[np.ndarray, " _"]]
"""Place of a source in `SOURCES`, and the queries, documents and scores of what it found."""


def together(parts: list[Part], documents: int) -> Candidates:
    """The candidates of several sources as one; a document that several found counts for the first
    of them.

    >>> scores = np.float32([0.7, 0.5])
    >>> both = together(
    ...     [
    ...         (0, np.array([0, 1]), np.array([4, 5]), scores),
    ...         (1, np.array([0, 0]), np.array([4, 6]), scores),
    ...     ],
    ...     documents=9,
    ... )
    >>> both.queries.tolist(), both.documents.tolist(), both.sources.tolist()
    ([0, 0, 1], [4, 6, 5], [0, 1, 0])
    """
    queries, found, scores = (np.concatenate([part[axis] for part in parts]) for axis in (1, 2, 3))
    sources = np.concatenate([np.full(len(part[1]), part[0]) for part in parts])
    _, first = np.unique(queries * documents + found, return_index=True)
    first.sort()
    order = first[
        np.argsort(queries[first], kind="stable")
    ]  # parts come in the order of sources, and each in the order of ranks
    return Candidates(queries[order], found[order], sources[order], scores[order])


Filters = dict[str, Bool[np.ndarray, " pair"]]
"""Name of a filter, and which candidates it removes."""


def filters(
    scores: Float32[np.ndarray, " pair"], positive: Float32[np.ndarray, " pair"], options: Options
) -> Filters:
    """What each limit removes, of candidates whose query's positive has the score `positive`.

    A share of a score is of its magnitude, so that it is a step down for scores below zero too.

    >>> scores, positive = np.float32([0.9, 0.7]), np.float32([0.8, 0.8])
    >>> {
    ...     name: removed.tolist()
    ...     for name, removed in filters(scores, positive, Options(max_score=0.95)).items()
    ... }
    {'max_score': [False, False], 'percent_of_positive': [True, False]}
    """
    removed: Filters = {}
    if options.max_score is not None:
        removed["max_score"] = scores > options.max_score
    if options.min_score is not None:
        removed["min_score"] = scores < options.min_score
    if options.margin is not None:
        removed["margin"] = scores > positive - options.margin
    if options.relative_margin is not None:
        removed["relative_margin"] = scores > positive - options.relative_margin * np.abs(positive)
    if options.percent_of_positive > 0:
        removed["percent_of_positive"] = scores > positive - (
            1 - options.percent_of_positive / 100
        ) * np.abs(positive)
    return removed


def picked(
    candidates: Candidates,
    options: Options,
    draw: Callable[[Candidates], UInt64[np.ndarray, " pair"]],
) -> Bool[np.ndarray, " pair"]:
    """Which candidates are taken: of each query and source as many as asked for, the first, or
    those of the smallest draw.
    """
    wanted = np.array([options.negatives, options.bm25_negatives, options.random_negatives])
    group = candidates.queries * len(SOURCES) + candidates.sources
    order = (
        np.lexsort((draw(candidates), group))
        if options.pick == "random"
        else np.arange(len(candidates))
    )
    place = np.empty(len(candidates), np.int64)
    place[order] = np.arange(len(candidates)) - np.searchsorted(group[order], group[order])
    return place < wanted[candidates.sources]


def drawn(
    queries: Int64[np.ndarray, " pair"], others: Int64[np.ndarray, " pair"], seed: int
) -> UInt64[np.ndarray, " pair"]:
    """A number for each pair that looks random and depends on the identities and the seed alone
    (SplitMix64, Steele et al. 2014).
    """
    hashes = hash_numbers(queries.astype(np.uint64) + np.uint64(seed % 2**64))
    return hash_numbers(hashes ^ others.astype(np.uint64))
