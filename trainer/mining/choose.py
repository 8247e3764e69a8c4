"""Choice of negatives among candidates: pure functions of their scores and identities."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt64

from trainer.data.order import hash_numbers
from trainer.errors import BadRecipe

SOURCES = ("model", "bm25", "random")
"""The sources of candidates, in the order in which they are written."""


@dataclass(frozen=True)
class MiningRules:
    """Number and limits of the negatives to mine. A negative must satisfy all limits."""

    negatives: int = 7
    """Negatives per query from the model's ranking."""
    bm25_negatives: int = 0
    random_negatives: int = 0
    depth: int = 100
    """Ranks of the model and of BM25 that are considered; known positives do not count."""
    skip_top: int = 0
    """Ranks at the top that are skipped."""
    pick: Literal["top", "random"] = "top"
    """Choose the best of the remaining candidates, or random ones."""
    percent_of_positive: float = 95.0
    """A negative's score is at most this percentage of the positive's score (TopK-PercPos, Moreira
    et al. 2024, *NV-Retriever*); 0: no such limit.
    """
    margin: float | None = None
    """A negative's score is at least this much below the positive's score."""
    relative_margin: float | None = None
    """As `margin`, as a share of the positive's score; 0.05 is the same as 95 percent."""
    min_score: float | None = None
    max_score: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        total = self.negatives + self.bm25_negatives + self.random_negatives
        if (
            min(self.negatives, self.bm25_negatives, self.random_negatives, self.skip_top) < 0
            or total == 0
        ):
            raise BadRecipe(
                "no negatives are requested; give --negatives, --bm25-negatives or"
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
    """Pairs of a query and a possible negative, in the order of query, source and rank."""

    queries: Int64[np.ndarray, " pair"]
    documents: Int64[np.ndarray, " pair"]
    sources: Int64[np.ndarray, " pair"]
    """The source's place in `SOURCES`."""
    scores: Float32[np.ndarray, " pair"]
    """The model's score; only for candidates from the model's ranking."""

    def __len__(self) -> int:
        return len(self.queries)

    def select(self, mask: Bool[np.ndarray, " pair"]) -> "Candidates":
        """Returns the candidates for which `mask` is true."""
        return Candidates(
            self.queries[mask], self.documents[mask], self.sources[mask], self.scores[mask]
        )


@dataclass(frozen=True)
class InRange:
    """The documents of a search in the range of ranks, and the numbers of those left out."""

    queries: Int64[np.ndarray, " pair"]
    documents: Int64[np.ndarray, " pair"]
    scores: Float32[np.ndarray, " pair"]
    forbidden: Int64[np.ndarray, " query"]
    """The number of known positives and twins per query, which cannot be negatives."""
    skip_counts: Int64[np.ndarray, " query"]
    """The number of documents per query that `skip_top` leaves out."""


def in_range(
    scores: Float32[np.ndarray, "query rank"],
    document_rows: Int64[np.ndarray, "query rank"],
    forbidden_keys: Int64[np.ndarray, " key"],
    documents: int,
    options: MiningRules,
) -> InRange:
    """Returns the documents at ranks `skip_top` to `depth`, without forbidden ones.

    `forbidden_keys` are query * documents + document.
    """
    is_document = document_rows >= 0
    is_forbidden = is_document & np.isin(
        np.arange(len(document_rows))[:, None] * documents + document_rows, forbidden_keys
    )
    free = is_document & ~is_forbidden
    rank: Int64[np.ndarray, "query rank"] = np.cumsum(free, axis=1) - free
    in_depth = rank < options.depth
    in_range_mask = free & in_depth & (rank >= options.skip_top)
    queries, places = np.nonzero(in_range_mask)
    return InRange(
        queries,
        document_rows[queries, places],
        scores[queries, places],
        (is_forbidden & in_depth).sum(1),
        (free & (rank < options.skip_top)).sum(1),
    )


Part = tuple[int, Int64[np.ndarray, " _"], Int64[np.ndarray, " _"], Float32[np.ndarray, " _"]]
"""A source's place in `SOURCES`, and the queries, documents and scores of its pairs."""


def join_sources(parts: list[Part], documents: int) -> Candidates:
    """Joins the candidates of several sources.

    A document from several sources counts for the first of them.

    >>> scores = np.float32([0.7, 0.5])
    >>> joined = join_sources(
    ...     [
    ...         (0, np.array([0, 1]), np.array([4, 5]), scores),
    ...         (1, np.array([0, 0]), np.array([4, 6]), scores),
    ...     ],
    ...     documents=9,
    ... )
    >>> joined.queries.tolist(), joined.documents.tolist(), joined.sources.tolist()
    ([0, 0, 1], [4, 6, 5], [0, 1, 0])
    """
    queries, document_rows, scores = (
        np.concatenate([part[axis] for part in parts]) for axis in (1, 2, 3)
    )
    sources = np.concatenate([np.full(len(part[1]), part[0]) for part in parts])
    _, first = np.unique(queries * documents + document_rows, return_index=True)
    first.sort()
    # Parts come in the order of sources, and each part in the order of ranks.
    order = first[np.argsort(queries[first], kind="stable")]
    return Candidates(queries[order], document_rows[order], sources[order], scores[order])


Filters = dict[str, Bool[np.ndarray, " pair"]]
"""Per name of a filter, the mask of the candidates that it removes."""


def filters(
    scores: Float32[np.ndarray, " pair"],
    positive: Float32[np.ndarray, " pair"],
    options: MiningRules,
) -> Filters:
    """Returns the candidates that each limit removes.

    `positive` is the score of the positive of each candidate's query. Shares refer to the magnitude
    of a score, so that the limit of a negative score is lower, too.

    >>> scores, positive = np.float32([0.9, 0.7]), np.float32([0.8, 0.8])
    >>> {
    ...     name: is_removed.tolist()
    ...     for name, is_removed in filters(scores, positive, MiningRules(max_score=0.95)).items()
    ... }
    {'max_score': [False, False], 'percent_of_positive': [True, False]}
    """
    is_removed: Filters = {}
    if options.max_score is not None:
        is_removed["max_score"] = scores > options.max_score
    if options.min_score is not None:
        is_removed["min_score"] = scores < options.min_score
    if options.margin is not None:
        is_removed["margin"] = scores > positive - options.margin
    if options.relative_margin is not None:
        is_removed["relative_margin"] = scores > positive - options.relative_margin * np.abs(
            positive
        )
    if options.percent_of_positive > 0:
        is_removed["percent_of_positive"] = scores > positive - (
            1 - options.percent_of_positive / 100
        ) * np.abs(positive)
    return is_removed


def choose_negatives(
    candidates: Candidates,
    options: MiningRules,
    draw: Callable[[Candidates], UInt64[np.ndarray, " pair"]],
) -> Bool[np.ndarray, " pair"]:
    """Returns the mask of the candidates that become negatives.

    These are, per query and source, the first candidates or those with the smallest draws.
    """
    counts = np.array([options.negatives, options.bm25_negatives, options.random_negatives])
    group = candidates.queries * len(SOURCES) + candidates.sources
    order = (
        np.lexsort((draw(candidates), group))
        if options.pick == "random"
        else np.arange(len(candidates))
    )
    place = np.empty(len(candidates), np.int64)
    place[order] = np.arange(len(candidates)) - np.searchsorted(group[order], group[order])
    return place < counts[candidates.sources]


def pair_draws(
    queries: Int64[np.ndarray, " pair"], documents: Int64[np.ndarray, " pair"], seed: int
) -> UInt64[np.ndarray, " pair"]:
    """Returns a pseudo-random number per pair, which depends only on the identities and the seed
    (SplitMix64, Steele et al. 2014).
    """
    hashes = hash_numbers(queries.astype(np.uint64) + np.uint64(seed % 2**64))
    return hash_numbers(hashes ^ documents.astype(np.uint64))
