"""Documents that are no negatives of a query, as sparse pairs found once per step.

An exclusion is asked for the pairs within one tile of scores (`trainer.log_partition`), so a mask
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
"""Finds what is excluded from one batch: `TaughtBetter`, `RepeatedPositives`, `Outscoring`."""


def excluded_documents(batch: Batch, exclusions: Sequence[Exclusion] = ()) -> ExcludedPairs:
    """Documents that are no negatives: another known positive of the query, the query's own text,
    and what `exclusions` add.

    Texts are compared by identity, so a copy of the positive in another row, on any rank, is left
    out too. A query's own positive is never excluded.
    """
    names = gather(known_names(batch), padding=-1)
    positives = own_positives(len(names), batch)
    known_texts = NamedDocuments.of(names, batch.documents.identities, positives)
    return AnyOf((known_texts, *(exclusion(batch) for exclusion in exclusions)), positives)


def known_names(batch: Batch) -> Int[Tensor, "query name"]:
    """Identities of the texts that are no negatives of a query: its known positives and itself."""
    return torch.cat([batch.known_positives, batch.queries.identities[:, None]], dim=1)


def own_positives(queries: int, batch: Batch) -> Int[Tensor, " query"]:
    """Where the positive of each query of all ranks stands, counted from this rank's first
    document; outside its documents for the queries of other ranks.
    """
    return torch.arange(queries) * batch.documents_per_query - first_row(len(batch.documents))


@dataclass(frozen=True)
class AnyOf:
    """The pairs that any part excludes, each once, without the queries' own positives."""

    parts: tuple[ExcludedPairs, ...]
    positives: Int[Tensor, " query"]

    def in_tile(self, queries: slice, documents: slice) -> TilePairs | None:
        """The pairs within a tile."""
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

    `queries` and `groups` are pairs, sorted by query; a group is all copies of one document.
    `keys` are `group * count + document`, sorted, so the copies within a tile are one range.
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
        """Looks all names up among the documents. A query's pair with its own positive alone, the
        rule in a large batch, is dropped here.
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
        """The pairs within a tile."""
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
    """TilePairs written out, sorted by query."""

    queries: Int[Tensor, " pair"]
    documents: Int[Tensor, " pair"]

    def in_tile(self, queries: slice, documents: slice) -> TilePairs | None:
        """The pairs within a tile."""
        rows = _sorted_range(self.queries, queries)
        columns = self.documents[rows]
        inside = (columns >= documents.start) & (columns < documents.stop)
        return self.queries[rows][inside] - queries.start, columns[inside] - documents.start


@dataclass(frozen=True)
class ListedDocuments:
    """Documents, in rising order, that are excluded for every query."""

    documents: Int[Tensor, " document"]

    def in_tile(self, queries: slice, documents: slice) -> TilePairs | None:
        """The pairs within a tile."""
        columns = self.documents[_sorted_range(self.documents, documents)] - documents.start
        rows = torch.arange(queries.stop - queries.start)
        return rows.repeat_interleave(len(columns)), columns.repeat(len(rows))


@dataclass(frozen=True)
class HigherScores:
    """Documents whose score is above a limit of the query; scored again in every tile."""

    queries: Float[Tensor, "query dimension"]
    documents: Float[Tensor, "document dimension"]
    limits: Float[Tensor, "query 1"]

    @torch.no_grad()
    def in_tile(self, queries: slice, documents: slice) -> TilePairs | None:
        """The pairs within a tile."""
        scores = dot(self.queries[queries], self.documents[documents])
        rows, columns = (scores > self.limits[queries]).nonzero(as_tuple=True)
        return rows, columns


@dataclass(frozen=True)
class Outscoring:
    """Documents that a guide scores higher than the query's positive less `margin` (GISTEmbed,
    Solatorio 2024; the margin as in NV-Retriever, Moreira et al. 2024).
    """

    guide: Encode
    margin: float

    @torch.no_grad()
    def __call__(self, batch: Batch) -> ExcludedPairs:
        """The pairs of one batch."""
        queries, documents = self.guide(batch.queries), self.guide(batch.documents)
        positives = documents[:: batch.documents_per_query]
        limits = gather(own_scores(queries, positives, dot)) - self.margin
        return HigherScores(gather(exact(queries)), exact(documents), limits)


@dataclass(frozen=True)
class TaughtBetter:
    """A query's own hard negatives that the data scores higher than its positive less `margin`
    (NV-Retriever, Moreira et al. 2024).
    """

    margin: float

    def __call__(self, batch: Batch) -> ExcludedPairs:
        """The pairs of one batch. Raises ValueError where it has no scores."""
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
    """Documents that repeat the positive they stand behind: they fill up where a query has fewer
    negatives than others, and count for no query.
    """

    def __call__(self, batch: Batch) -> ExcludedPairs:
        """The pairs of one batch."""
        documents = batch.documents.identities.unflatten(0, (len(batch.queries), -1))
        repeats = documents == documents[:, :1]
        repeats[:, 0] = False
        return ListedDocuments(repeats.flatten().nonzero().squeeze(1))


@dataclass(frozen=True)
class OwnPositives:
    """Each query's own positive, where it must not count among the negatives."""

    positives: Int[Tensor, " query"]

    @classmethod
    def of(cls, queries: int, documents: int) -> Self:
        """Of a rank with so many queries and documents."""
        per_query = documents // queries
        return cls(torch.arange(all_rows(queries)) * per_query - first_row(documents))

    def in_tile(self, queries: slice, documents: slice) -> TilePairs | None:
        """The pairs within a tile."""
        columns = self.positives[queries] - documents.start
        inside = (columns >= 0) & (columns < documents.stop - documents.start)
        return inside.nonzero().squeeze(1), columns[inside]


def _sorted_range(values: Int[Tensor, " _"], bounds: slice) -> slice:
    """Where sorted `values` lie within `bounds`."""
    first, last = torch.searchsorted(values, torch.tensor([bounds.start, bounds.stop])).tolist()
    return slice(first, last)
