"""Objectives that compare each query's own candidates: its positive, then its negatives.

They take scores and so work with every model family. A bi-encoder and ColBERT score embeddings
(`EmbeddingScores`), and a cross-encoder scores pairs (`gather_pair_scores`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from trainer import losses
from trainer.batch import Batch, to_device
from trainer.collectives import gather
from trainer.microbatches import Encode
from trainer.objectives.exclusions import known_names
from trainer.objectives.objective import Outcome, TemperatureValue
from trainer.scores import Score, own_scores

CandidateScores = Callable[[Batch, Encode], Float[Tensor, "query candidate"]]
"""A function that returns the scores of each query's own candidates, for the global batch."""


@dataclass(frozen=True)
class EmbeddingScores:
    """Scores the embeddings of queries and documents."""

    score: Score

    def __call__(self, batch: Batch, encode: Encode) -> Float[Tensor, "query candidate"]:
        """Returns the scores of each query's own candidates, for the global batch."""
        return gather(own_scores(encode(batch.queries), encode(batch.documents), self.score))


def gather_pair_scores(batch: Batch, encode: Encode) -> Float[Tensor, "query candidate"]:
    """Returns the scores of each query's own candidates if `encode` returns one score per pair."""
    return gather(encode(batch.documents).unflatten(0, (len(batch.queries), -1)))


def gather_labels(batch: Batch) -> Float[Tensor, "query candidate"]:
    """Returns the scores from the data or from a teacher, for the global batch.

    Raises ValueError if the batch has none.
    """
    if batch.labels is None:
        raise ValueError("the objective compares with grades or a teacher; the batch has no labels")
    return gather(batch.labels)


@dataclass(frozen=True)
class Distillation:
    """KL to the teacher over each query's own candidates (ColBERTv2, Santhanam et al. 2022)."""

    candidate_scores: CandidateScores
    teacher_temperature: float = 1.0

    def __call__(self, batch: Batch, encode: Encode, temperature: TemperatureValue) -> Outcome:
        """Returns the loss of the global batch."""
        scores = self.candidate_scores(batch, encode)
        teacher = gather_labels(batch).to(scores)
        return Outcome(losses.kl(scores / temperature, teacher / self.teacher_temperature))


@dataclass(frozen=True)
class MarginMse:
    """MarginMSE to the teacher's margins of positive over negatives (Hofstaetter et al. 2020)."""

    candidate_scores: CandidateScores

    def __call__(self, batch: Batch, encode: Encode, temperature: TemperatureValue) -> Outcome:
        """Returns the loss of the global batch. A margin needs no temperature."""
        scores = self.candidate_scores(batch, encode)
        return Outcome(losses.margin_mse(scores, gather_labels(batch).to(scores)))


@dataclass(frozen=True)
class Cosent:
    """CoSENT over all scored pairs of the batch (Su 2022)."""

    candidate_scores: CandidateScores

    def __call__(self, batch: Batch, encode: Encode, temperature: TemperatureValue) -> Outcome:
        """Returns the loss of the global batch."""
        scores = self.candidate_scores(batch, encode)
        labels = gather_labels(batch).to(scores)
        return Outcome(losses.cosent(scores.flatten(), labels.flatten(), temperature))


@dataclass(frozen=True)
class Triplet:
    """Triplet margin over each query's own negatives, without known positives (Schroff et al. 2015,
    on scores).
    """

    candidate_scores: CandidateScores
    margin: float

    def __call__(self, batch: Batch, encode: Encode, temperature: TemperatureValue) -> Outcome:
        """Returns the loss of the global batch. A margin needs no temperature."""
        scores = self.candidate_scores(batch, encode)
        documents = batch.documents.identities.unflatten(0, (len(batch.queries), -1))
        is_known = (documents[:, :, None] == known_names(batch)[:, None, :]).any(2)
        mask = to_device(gather(is_known), scores.device)
        loss = losses.triplet(scores, self.margin, mask)
        return Outcome(loss, {"masked_false_negatives": mask[:, 1:].sum().to(scores)})
