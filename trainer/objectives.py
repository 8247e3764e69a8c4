"""Objectives: encode, score, loss. Each takes `encode` and `score` and so serves every family of models."""

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trainer import losses
from trainer.batch import Batch
from trainer.parallel import Encode, log_partition
from trainer.scores import Score, own

Temperature = Float[Tensor, ""] | float


def excluded_documents(batch: Batch) -> Bool[Tensor, "query document"]:
    """True where a document must not count as a negative of a query: another of its known positives, or the query's own text.

    Compared by identity, so a twin of the positive in another row is left out too. A query's own positive is never excluded.
    """
    documents, queries = batch.documents.identities, batch.queries.identities
    excluded = documents[None, :] == queries[:, None]
    for known in batch.known_positives.unbind(1):  # one column at a time: (query, document) is the largest thing held
        excluded |= documents[None, :] == known[:, None]
    row = torch.arange(len(queries))
    excluded[row, row * batch.documents_per_query] = False
    return excluded


def contrastive(batch: Batch, encode: Encode, score: Score, temperature: Temperature, symmetric: bool = False) -> Float[Tensor, ""]:
    """InfoNCE over every document of the batch (van den Oord et al. 2018); `symmetric`: the mean of both directions."""
    queries, documents = encode(batch.queries), encode(batch.documents)
    positives = documents[:: batch.documents_per_query]
    excluded = excluded_documents(batch)
    positive = own(queries, positives, score).squeeze(1) / temperature
    loss = losses.info_nce(positive, log_partition(queries, documents, score, temperature, excluded))
    if not symmetric:
        return loss
    excluded = excluded[:, :: batch.documents_per_query].T
    swapped = partial(_swapped, score=score)
    return (loss + losses.info_nce(positive, log_partition(positives, queries, swapped, temperature, excluded))) / 2


def cosent(batch: Batch, encode: Encode, score: Score, temperature: Temperature) -> Float[Tensor, ""]:
    """CoSENT over all scored pairs of the batch (Su 2022)."""
    if batch.labels is None:
        raise ValueError("CoSENT compares graded pairs; this batch has no labels")
    scores = own(encode(batch.queries), encode(batch.documents), score)
    return losses.cosent(scores.flatten(), batch.labels.to(scores).flatten(), temperature)


def triplet(batch: Batch, encode: Encode, score: Score, margin: float) -> Float[Tensor, ""]:
    """Triplet margin over each query's own negatives, known positives left out (Schroff et al. 2015, on scores)."""
    scores = own(encode(batch.queries), encode(batch.documents), score)
    row = torch.arange(len(batch.queries))
    excluded = excluded_documents(batch).unflatten(1, (len(row), -1))[row, row]
    return losses.triplet(scores, margin, excluded.to(scores.device))


def _swapped(documents: Tensor, queries: Tensor, score: Score) -> Tensor:
    """Scores with documents as rows: a score need not be symmetric, so its arguments keep their roles."""
    return score(queries, documents).mT
