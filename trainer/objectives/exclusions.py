"""Documents that are no negatives of a query, as sparse pairs that are computed once per step.

An exclusion returns its pairs for one tile of scores at a time (`trainer.log_partition`), so a mask
over all queries and documents never exists.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainer.batch import Batch
from trainer.collectives import all_rows, first_row, gather
from trainer.log_partition import ExcludedPairs, TilePairs
from trainer.microbatches import Encode
from trainer.scores import dot, exact, own_scores

Exclusion = Callable[[Batch], ExcludedPairs]
"""A rule that finds the excluded pairs of a batch: `TaughtBetter`, `RepeatedPositives` or
`Outscoring`.
"""


def excluded_documents(batch: Batch, exclusions: Sequence[Exclusion] = ()) -> ExcludedPairs:
    """Returns the documents that are no negatives of a query.

    These are its other known positives, its own text, and the pairs that `exclusions` add. Texts
    are compared by identity, so a copy of the positive in another row of any rank is excluded too.
    A query's own positive is never excluded.
    """
    names = gather(known_names(batch), padding=-1)
    positives = own_positives(len(names), batch)
    known_texts = NamedDocuments.of(names, batch.documents.identities, positives)
    return AnyOf((known_texts, *(exclusion(batch) for exclusion in exclusions)), positives)


def known_names(batch: Batch) -> Int[Tensor, "query name"]:
    """Returns the identities of each query's known positives and of the query itself."""
    return torch.cat([batch.known_positives, batch.queries.identities[:, None]], dim=1)


def own_positives(queries: int, batch: Batch) -> Int[Tensor, " query"]:
    """Returns the place of each query's positive, counted from this rank's first document.

    The queries are those of all ranks. The positive of another rank's query is outside this rank's
    documents.
    """
    return torch.arange(queries) * batch.documents_per_query - first_row(len(batch.documents))


@dataclass(frozen=True)
class AnyOf:
    """The pairs that any part excludes, each pair once and without the queries' own positives."""

    parts: tuple[ExcludedPairs, ...]
    positives: Int[Tensor, " query"]

    def in_tile(self, queries: slice, documents: slice) -> TilePairs | None:
        """Returns the pairs within a tile."""
        pairs = [pair for part in self.parts if (pair := part.in_tile(queries, documents))]
        if not pairs:
            return None
        rows, columns = (torch.cat([pair[side].cpu() for pair in pairs]) for side in (0, 1))
        negative = columns != self.positives[queries][rows] - documents.start
        width = documents.stop - documents.start
        places = (rows[negative] * width + columns[negative]).unique()
        return (places // width, places % width) if len(places) else None


@dataclass(frozen=True)
class NamedDocuments:
    """Documents of this rank whose identity is among a query's names.

    `queries` and `groups` are pairs, sorted by query. A group is the set of all copies of one
    document. `keys` are `group * count + document` in rising order, so the copies within a tile
    are one range.
    """

    queries: Int[Tensor, " pair"]
    groups: Int[Tensor, " pair"]
    keys: Int[Tensor, " document"]

    @classmethod
    def of(
        cls,
        names: Int[Tensor, "query name"],
        documents: Int[Tensor, " document"],
        positives: Int[Tensor, " query"],
    ) -> Self:
        """Looks up all names among the documents.

        If a query matches only its own positive, as most do in a large batch, the pair is dropped.
        """
        distinct, group, copies = documents.unique(return_inverse=True, return_counts=True)
        nearest = torch.searchsorted(distinct, names).clamp(max=len(distinct) - 1)
        queries, column = (distinct[nearest] == names).nonzero(as_tuple=True)
        groups = nearest[queries, column]
        keys = (group * len(documents) + torch.arange(len(documents))).sort().values
        first_copy = keys[copies.cumsum(0) - copies] % len(documents)
        is_other = (copies[groups] > 1) | (first_copy[groups] != positives[queries])
        return cls(queries[is_other], groups[is_other], keys)

    def in_tile(self, queries: slice, documents: slice) -> TilePairs | None:
        """Returns the pairs within a tile."""
        rows = _sorted_range(self.queries, queries)
        if rows.start == rows.stop:
            return None
        base = self.groups[rows] * len(self.keys)
        first = torch.searchsorted(self.keys, base + documents.start)
        copies = torch.searchsorted(self.keys, base + documents.stop) - first
        starts = copies.cumsum(0) - copies
        place = torch.arange(int(copies.sum())) + (first - starts).repeat_interleave(copies)
        columns = self.keys[place] % len(self.keys) - documents.start
        return (self.queries[rows] - queries.start).repeat_interleave(copies), columns


@dataclass(frozen=True)
class ListedPairs:
    """A list of pairs, sorted by query."""

    queries: Int[Tensor, " pair"]
    documents: Int[Tensor, " pair"]

    def in_tile(self, queries: slice, documents: slice) -> TilePairs | None:
        """Returns the pairs within a tile."""
        rows = _sorted_range(self.queries, queries)
        columns = self.documents[rows]
        inside = (columns >= documents.start) & (columns < documents.stop)
        return self.queries[rows][inside] - queries.start, columns[inside] - documents.start


@dataclass(frozen=True)
class ListedDocuments:
    """Documents, in rising order, that are excluded for every query."""

    documents: Int[Tensor, " document"]

    def in_tile(self, queries: slice, documents: slice) -> TilePairs | None:
        """Returns the pairs within a tile."""
        columns = self.documents[_sorted_range(self.documents, documents)] - documents.start
        rows = torch.arange(queries.stop - queries.start)
        return rows.repeat_interleave(len(columns)), columns.repeat(len(rows))


@dataclass(frozen=True)
class HigherScores:
    """Documents whose score is above a limit of the query. Every tile computes its scores again."""

    queries: Float[Tensor, "query dimension"]
    documents: Float[Tensor, "document dimension"]
    limits: Float[Tensor, "query 1"]

    @torch.no_grad()
    def in_tile(self, queries: slice, documents: slice) -> TilePairs | None:
        """Returns the pairs within a tile."""
        scores = dot(self.queries[queries], self.documents[documents])
        rows, columns = (scores > self.limits[queries]).nonzero(as_tuple=True)
        return rows, columns


@dataclass(frozen=True)
class Outscoring:
    """Documents that a guide model scores above the query's positive minus `margin` (GISTEmbed,
    Solatorio 2024; the margin as in NV-Retriever, Moreira et al. 2024).
    """

    guide: Encode
    margin: float

    @torch.no_grad()
    def __call__(self, batch: Batch) -> ExcludedPairs:
        """Returns the pairs of one batch."""
        queries, documents = self.guide(batch.queries), self.guide(batch.documents)
        positives = documents[:: batch.documents_per_query]
        limits = gather(own_scores(queries, positives, dot)) - self.margin
        return HigherScores(gather(exact(queries)), exact(documents), limits)


@dataclass(frozen=True)
class TaughtBetter:
    """A query's own hard negatives whose score in the data is above the positive's minus `margin`
    (NV-Retriever, Moreira et al. 2024).
    """

    margin: float

    def __call__(self, batch: Batch) -> ExcludedPairs:
        """Returns the pairs of one batch. Raises ValueError if the batch has no scores."""
        if batch.labels is None:
            raise ValueError(
                "a margin filter by the teacher's scores needs a score of every candidate;"
                " this batch has none"
            )
        query, candidate = (batch.labels > batch.labels[:, :1] - self.margin).nonzero(as_tuple=True)
        document = query * batch.documents_per_query + candidate
        return ListedPairs(query + first_row(len(batch.queries)), document)


@dataclass(frozen=True)
class RepeatedPositives:
    """Documents that repeat their query's positive. They take the place of negatives if a query has
    fewer than others, and count for no query.
    """

    def __call__(self, batch: Batch) -> ExcludedPairs:
        """Returns the pairs of one batch."""
        documents = batch.documents.identities.unflatten(0, (len(batch.queries), -1))
        repeats = documents == documents[:, :1]
        repeats[:, 0] = False
        return ListedDocuments(repeats.flatten().nonzero().squeeze(1))


@dataclass(frozen=True)
class OwnPositives:
    """Each query's own positive, for sums over negatives only."""

    positives: Int[Tensor, " query"]

    @classmethod
    def of(cls, queries: int, documents: int) -> Self:
        """Computes the places of the positives for a rank with these numbers of texts."""
        per_query = documents // queries
        return cls(torch.arange(all_rows(queries)) * per_query - first_row(documents))

    def in_tile(self, queries: slice, documents: slice) -> TilePairs:
        """Returns the pairs within a tile."""
        columns = self.positives[queries] - documents.start
        inside = (columns >= 0) & (columns < documents.stop - documents.start)
        return inside.nonzero().squeeze(1), columns[inside]


def _sorted_range(values: Int[Tensor, " _"], bounds: slice) -> slice:
    """Returns the range of the sorted `values` that are within `bounds`."""
    first, last = torch.searchsorted(values, torch.tensor([bounds.start, bounds.stop])).tolist()
    return slice(first, last)
