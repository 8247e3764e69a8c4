"""Objectives by which a student learns from teachers: their distributions, margins or vectors.

The embeddings of a teacher are stored vectors without gradient
(`trainer.retrieval.encoding.taught_vectors`). Distributions and margins of several teachers are
averaged.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from trainer import losses
from trainer.batch import Batch
from trainer.collectives import gather
from trainer.microbatches import Encode
from trainer.objectives.candidates import EmbeddingScores
from trainer.objectives.divergence import kl_over_batch, log_shares
from trainer.objectives.matryoshka import encode_once
from trainer.objectives.objective import Objective, Outcome, TemperatureValue
from trainer.scores import Score, exact, own_scores

Embeddings = tuple[Float[Tensor, "query ..."], Float[Tensor, "document ..."]]


@dataclass(frozen=True, slots=True)
class Teacher:
    """A teacher of any family and width: embeddings of a batch's texts, and their score."""

    embeddings: Callable[[Batch], Embeddings]
    score: Score
    dimensions: int


@runtime_checkable
class Lesson(Protocol):
    """The loss of a student against its teachers. It is that of the global batch on every rank."""

    def __call__(self, batch: Batch, encode: Encode) -> Float[Tensor, ""]:
        """Returns the loss of `batch`."""


@dataclass(frozen=True)
class LessonObjective:
    """The weighted sum of an objective and a lesson, in one pass through the encoder.

    Both are means over the global batch, so the weights do not depend on the number of ranks.
    """

    objective: Objective
    lesson: Lesson
    weight: float = 1.0
    """Weight of the lesson."""
    objective_weight: float = 1.0
    """Weight of the objective; 0: the student learns only from the teachers."""

    def __call__(self, batch: Batch, encode: Encode, temperature: TemperatureValue) -> Outcome:
        """Returns the weighted sum of both losses."""
        encode = encode_once(encode)
        lesson_loss = self.lesson(batch, encode)
        if self.objective_weight == 0:
            return Outcome(self.weight * lesson_loss, {"teacher_loss": lesson_loss})
        outcome = self.objective(batch, encode, temperature)
        loss = self.objective_weight * outcome.loss + self.weight * lesson_loss
        terms = {"teacher_loss": lesson_loss, "objective_loss": outcome.loss}
        return Outcome(loss, {**outcome.metrics, **terms})


@dataclass(frozen=True)
class BatchDistribution:
    """KL to the teachers' distribution over every document of every rank.

    This is the softmax over the whole batch, including other known positives of a query.
    """

    score: Score
    teachers: tuple[Teacher, ...]
    temperature: float
    teacher_temperature: float

    def __call__(self, batch: Batch, encode: Encode) -> Float[Tensor, ""]:
        """Returns the mean over the queries of the global batch."""
        queries, documents = encode(batch.queries), encode(batch.documents)
        shares = log_shares(
            [(*_embeddings(teacher, batch, queries), teacher.score) for teacher in self.teachers],
            self.teacher_temperature,
        )
        return kl_over_batch(queries, documents, self.score, self.temperature, shares).mean()


@dataclass(frozen=True)
class CandidateDistribution:
    """KL to the teachers' distribution over each query's own candidates (ColBERTv2, Santhanam et
    al. 2022). A late-interaction teacher scores with MaxSim.
    """

    score: Score
    teachers: tuple[Teacher, ...]
    temperature: float
    teacher_temperature: float

    def __call__(self, batch: Batch, encode: Encode) -> Float[Tensor, ""]:
        """Returns the mean over the queries of the global batch."""
        scores = EmbeddingScores(self.score)(batch, encode)
        teacher_scores = _candidate_scores(self.teachers, batch, scores)
        log_shares = (teacher_scores / self.teacher_temperature).log_softmax(2).logsumexp(0)
        mean = (log_shares - math.log(len(teacher_scores))).to(scores)
        return losses.kl(scores / self.temperature, mean)


@dataclass(frozen=True)
class Margins:
    """MarginMSE to the mean of the teachers' scores of each query's own candidates (Hofstaetter et
    al. 2020).
    """

    score: Score
    teachers: tuple[Teacher, ...]

    def __call__(self, batch: Batch, encode: Encode) -> Float[Tensor, ""]:
        """Returns the mean over the negatives of the global batch."""
        scores = EmbeddingScores(self.score)(batch, encode)
        teacher_scores = _candidate_scores(self.teachers, batch, scores)
        return losses.margin_mse(scores, teacher_scores.mean(0).to(scores))


@dataclass(frozen=True)
class TeacherVectors:
    """The distance to the teacher's vectors: the mean over texts and dimensions of the squared
    difference (Reimers & Gurevych 2020), or the mean of 1 - cosine. Every query and every document
    counts as one text.
    """

    teacher: Teacher
    head: nn.Module | None
    """Maps the student's vectors to the teacher's width. It is trained with the student."""
    cosine: bool

    def __call__(self, batch: Batch, encode: Encode) -> Float[Tensor, ""]:
        """Returns the mean over the texts of the global batch."""
        errors = []
        texts_of_roles = (batch.queries, batch.documents)
        for texts, target in zip(texts_of_roles, self.teacher.embeddings(batch), strict=True):
            vectors = encode(texts)
            vectors = exact(vectors if self.head is None else self.head(vectors))
            target = target.to(vectors)
            if self.cosine:
                errors.append(gather(1 - functional.cosine_similarity(vectors, target)))
            else:
                errors.append(gather((vectors - target).square().mean(1)))
        return torch.cat(errors).mean()


@torch.no_grad()
def _candidate_scores(
    teachers: tuple[Teacher, ...], batch: Batch, student: Float[Tensor, "query candidate"]
) -> Float[Tensor, "teacher query candidate"]:
    return torch.stack(
        [
            gather(own_scores(*_embeddings(teacher, batch, student), teacher.score))
            for teacher in teachers
        ]
    )


def _embeddings(teacher: Teacher, batch: Batch, student: Float[Tensor, "..."]) -> Embeddings:
    """Returns the teacher's embeddings on the student's device, in float32 or better."""
    queries, documents = teacher.embeddings(batch)
    return queries.to(exact(student)), documents.to(exact(student))
