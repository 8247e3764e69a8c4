"""Objectives that compare each query's own candidates: its positive, then its negatives.

They take scores and so serve every family: a bi-encoder and ColBERT score embeddings
(`EmbeddingScores`), a cross-encoder scores pairs (`gather_pair_scores`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from trainer import losses
from trainer.batch import Batch
from trainer.collectives import gather
from trainer.microbatches import Encode
from trainer.objectives.exclusions import known_names
from trainer.objectives.objective import Outcome, Temperature
from trainer.scores import Score, own_scores

CandidateScores = Callable[[Batch, Encode], Float[Tensor, "query candidate"]]
"""The scores of every query's own candidates, of the global batch."""


@dataclass(frozen=True)
class EmbeddingScores:
    """Scores of embeddings of queries and documents."""

    score: Score

    def __call__(self, batch: Batch, encode: Encode) -> Float[Tensor, "query candidate"]:
        """The scores of every query's own candidates, of the global batch."""
        return gather(own_scores(encode(batch.queries), encode(batch.documents), self.score))


def gather_pair_scores(batch: Batch, encode: Encode) -> Float[Tensor, "query candidate"]:
    """The scores of every query's own candidates, where `encode` gives one per pair of texts."""
    return gather(encode(batch.documents).unflatten(0, (len(batch.queries), -1)))


def gather_labels(batch: Batch) -> Float[Tensor, "query candidate"]:
    """The data's own scores, or a teacher's, of the global batch. Raises ValueError without any."""
    if batch.labels is None:
        raise ValueError("the objective compares with grades or a teacher; the batch has no labels")
    return gather(batch.labels)


@dataclass(frozen=True)
class Distillation:
    """KL to the teacher over each query's own candidates (ColBERTv2, Santhanam et al. 2022)."""

    candidate_scores: CandidateScores
    teacher_temperature: float = 1.0

    def __call__(self, batch: Batch, encode: Encode, temperature: Temperature) -> Outcome:
        """The loss of the global batch."""
        scores = self.candidate_scores(batch, encode)
        teacher = gather_labels(batch).to(scores)
        return Outcome(losses.kl(scores / temperature, teacher / self.teacher_temperature))


@dataclass(frozen=True)
class MarginMse:
    """The teacher's margins between the positive and each negative (Hofstaetter et al. 2020)."""

    candidate_scores: CandidateScores

    def __call__(self, batch: Batch, encode: Encode, temperature: Temperature) -> Outcome:
        """The loss of the global batch; a margin has no temperature."""
        scores = self.candidate_scores(batch, encode)
        return Outcome(losses.margin_mse(scores, gather_labels(batch).to(scores)))


@dataclass(frozen=True)
class Cosent:
    """CoSENT over all scored pairs of the batch (Su 2022)."""

    candidate_scores: CandidateScores

    def __call__(self, batch: Batch, encode: Encode, temperature: Temperature) -> Outcome:
        """The loss of the global batch."""
        scores = self.candidate_scores(batch, encode)
        labels = gather_labels(batch).to(scores)
        return Outcome(losses.cosent(scores.flatten(), labels.flatten(), temperature))


@dataclass(frozen=True)
class Triplet:
    """Triplet margin over each query's own negatives, known positives left out (Schroff et al.
    2015, on scores).
    """

    candidate_scores: CandidateScores
    margin: float

    def __call__(self, batch: Batch, encode: Encode, temperature: Temperature) -> Outcome:
        """The loss of the global batch; a margin has no temperature."""
        scores = self.candidate_scores(batch, encode)
        documents = batch.documents.identities.unflatten(0, (len(batch.queries), -1))
        is_known = (documents[:, :, None] == known_names(batch)[:, None, :]).any(2)
        mask = gather(is_known).to(scores.device)
        loss = losses.triplet(scores, self.margin, mask)
        return Outcome(loss, {"masked_false_negatives": mask[:, 1:].sum().to(scores)})
