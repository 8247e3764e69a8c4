"""Objectives: encode, score, loss. Each takes `encode` and `score` and so serves every family of
models.

An objective returns the same on every rank, that of the whole global batch (`trainer.collectives`):
its "loss", and what else is worth a line in the log.
"""

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trainer import losses
from trainer.batch import Batch
from trainer.collectives import gather, rank, ranks
from trainer.log_partition import Excluded, log_partition
from trainer.microbatches import Encode
from trainer.objectives.hard_negatives import Hardness, hard_partition
from trainer.scores import Score, dot, own

Temperature = Float[Tensor, ""] | float
Filter = Callable[[Batch], Excluded]
"""What else is not to count as a negative in a batch: `outscoring`, `taught_better`."""
Prepare = Callable[
    [Float[Tensor, "query ..."], Float[Tensor, "document ..."]],
    tuple[Float[Tensor, "query ..."], Float[Tensor, "document ..."]],
]
"""What is done to all embeddings of a batch before they are scored:
`trainer.objectives.xtr.with_limits`.
"""
Outcome = dict[str, Float[Tensor, ""]]
"""Metrics of a step by name; "loss" is the one that is minimised."""


def contrastive(
    batch: Batch,
    encode: Encode,
    score: Score,
    temperature: Temperature,
    symmetric: bool = False,
    filters: Sequence[Filter] = (),
    prepare: Prepare | None = None,
    hardness: Hardness | None = None,
) -> Outcome:
    """InfoNCE over every document of every rank (van den Oord et al. 2018); `symmetric`: the mean
    of both directions.

    `filters` leave out documents beside those that identity leaves out; `prepare` gives embeddings
    the form that `score` takes; `hardness` says which negatives count, for one direction alone.
    """
    queries, documents = encode(batch.queries), encode(batch.documents)
    if prepare is not None:
        queries, documents = prepare(queries, documents)
    positive = gather(
        own(queries, documents[:: batch.documents_per_query], score).squeeze(1) / temperature
    )
    excluded = excluded_documents(batch, filters)
    if hardness is not None:
        hard = hard_partition(queries, documents, score, temperature, excluded, positive, hardness)
        return {
            "loss": losses.info_nce(positive, hard.of_queries),
            "negatives_left_out": positive.new_tensor(hard.excluded),
        }
    partition = log_partition(queries, documents, score, temperature, excluded, symmetric)
    loss = losses.info_nce(positive, partition.of_queries)
    if partition.of_positives is not None:
        loss = (loss + losses.info_nce(positive, partition.of_positives)) / 2
    return {"loss": loss, "masked_false_negatives": loss.new_tensor(partition.excluded)}


def distillation(
    batch: Batch,
    encode: Encode,
    score: Score,
    temperature: Temperature,
    teacher_temperature: float = 1.0,
) -> Outcome:
    """KL to the teacher over each query's own candidates (ColBERTv2, Santhanam et al. 2022)."""
    scores, teacher = _own_and_labels(batch, encode, score)
    return {"loss": losses.kl(scores / temperature, teacher / teacher_temperature)}


def margin_mse(batch: Batch, encode: Encode, score: Score) -> Outcome:
    """The teacher's margins between the positive and each negative, matched (Hofstaetter et al.
    2020).
    """
    return {"loss": losses.margin_mse(*_own_and_labels(batch, encode, score))}


def cosent(batch: Batch, encode: Encode, score: Score, temperature: Temperature) -> Outcome:
    """CoSENT over all scored pairs of the batch (Su 2022)."""
    scores, labels = _own_and_labels(batch, encode, score)
    return {"loss": losses.cosent(scores.flatten(), labels.flatten(), temperature)}


def triplet(batch: Batch, encode: Encode, score: Score, margin: float) -> Outcome:
    """Triplet margin over each query's own negatives, known positives left out (Schroff et al.
    2015, on scores).
    """
    scores = gather(own(encode(batch.queries), encode(batch.documents), score))
    documents = batch.documents.identities.unflatten(0, (len(batch.queries), -1))
    excluded = gather((documents[:, :, None] == _not_negative(batch)[:, None, :]).any(2)).to(
        scores.device
    )
    return {
        "loss": losses.triplet(scores, margin, excluded),
        "masked_false_negatives": excluded[:, 1:].sum().to(scores),
    }


def excluded_documents(batch: Batch, filters: Sequence[Filter] = ()) -> Excluded:
    """Which documents must not count as negatives of a query: another of its known positives, on
    any rank, the query's own text, what filters say.

    Compared by identity, so a twin of the positive in another row is left out too. A query's own
    positive is never excluded.
    """
    names, documents = gather(_not_negative(batch), padding=-1), batch.documents.identities
    own_positive = torch.arange(len(names)) * batch.documents_per_query - rank() * len(
        documents
    )  # its place among this rank's documents
    others = [of_batch(batch) for of_batch in filters]

    def excluded(
        some_queries: slice, some_documents: slice
    ) -> Bool[Tensor, "query document"] | None:
        start, stop, _ = some_documents.indices(len(documents))
        own = own_positive[some_queries] - start
        found = [
            _occurs(names[some_queries], documents[some_documents], own),
            *(other(some_queries, some_documents) for other in others),
        ]
        masks = [mask for mask in found if mask is not None]
        if not masks:
            return None
        mask = reduce(torch.logical_or, masks)
        here = ((own >= 0) & (own < stop - start)).nonzero().squeeze(1)
        mask[here, own[here]] = False
        return mask

    return excluded


def outscoring(batch: Batch, guide: Encode, margin: float) -> Excluded:
    """Documents that a guide scores higher than the query's positive less `margin` (GISTEmbed,
    Solatorio 2024, with a margin as NV-Retriever has).
    """
    with torch.no_grad():
        queries, documents = guide(batch.queries), guide(batch.documents)
        limit = gather(own(queries, documents[:: batch.documents_per_query], dot)) - margin
        everyone = gather(queries)
    return lambda some_queries, some_documents: (
        dot(everyone[some_queries], documents[some_documents]) > limit[some_queries]
    ).cpu()


def taught_better(batch: Batch, margin: float) -> Excluded:
    """A query's own hard negatives to which the data gives a higher score than to its positive less
    `margin` (NV-Retriever, Moreira et al. 2024).
    """
    if batch.labels is None:
        raise ValueError(
            "a margin filter by the teacher's scores needs a score of every candidate; this batch"
            " has none"
        )
    labels, each = gather(batch.labels), batch.documents_per_query
    better = labels > labels[:, :1] - margin
    places = torch.arange(len(batch.documents)) + rank() * len(batch.documents)

    def excluded(some_queries: slice, some_documents: slice) -> Bool[Tensor, "query document"]:
        queries, documents = torch.arange(len(labels))[some_queries], places[some_documents]
        return (documents // each == queries[:, None]) & better[some_queries][:, documents % each]

    return excluded


def repeated_positives(batch: Batch) -> Excluded:
    """Documents that repeat the positive they stand behind: they fill up where a query has fewer
    negatives than others, and count for no query.
    """
    documents, queries = (
        batch.documents.identities.unflatten(0, (len(batch.queries), -1)),
        len(batch.queries) * ranks(),
    )
    repeats = torch.cat(
        [
            torch.zeros_like(documents[:, :1], dtype=torch.bool),
            documents[:, 1:] == documents[:, :1],
        ],
        dim=1,
    ).flatten()

    def excluded(
        some_queries: slice, some_documents: slice
    ) -> Bool[Tensor, "query document"] | None:
        here = repeats[some_documents]
        return here.repeat(len(range(queries)[some_queries]), 1) if here.any() else None

    return excluded


def _not_negative(batch: Batch) -> Int[Tensor, "query name"]:
    return torch.cat([batch.known_positives, batch.queries.identities[:, None]], dim=1)


def _occurs(
    names: Int[Tensor, "query name"],
    documents: Int[Tensor, " document"],
    own: Int[Tensor, " query"],
) -> Bool[Tensor, "query document"] | None:
    """True where a document is among the query's names; None where at most its `own` positive is,
    in its place: the rule in a large batch.
    """
    distinct, place, copies = documents.unique(return_inverse=True, return_counts=True)
    nearest = torch.searchsorted(distinct, names).clamp(max=len(distinct) - 1)
    query, name = (distinct[nearest] == names).nonzero(as_tuple=True)
    found = nearest[query, name]
    a_copy = torch.empty_like(distinct).scatter_(0, place, torch.arange(len(documents)))
    other = (copies[found] > 1) | (a_copy[found] != own[query])
    if not other.any():
        return None
    mask = torch.zeros(len(names), len(distinct), dtype=torch.bool)
    mask[query[other], found[other]] = True
    return mask[:, place]


def _own_and_labels(
    batch: Batch, encode: Encode, score: Score
) -> tuple[Float[Tensor, "query candidate"], Float[Tensor, "query candidate"]]:
    """Scores and labels of every query's own candidates, of the global batch."""
    if batch.labels is None:
        raise ValueError(
            "this objective compares with graded pairs or a teacher; this batch has no labels"
        )
    scores = gather(own(encode(batch.queries), encode(batch.documents), score))
    return scores, gather(batch.labels).to(scores)
