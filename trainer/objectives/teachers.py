"""What a student learns from teachers: their distributions, their margins, or their vectors. Each
is the same on every rank, that of the global batch.

A teacher's embeddings come without gradient from wherever they are kept
(`trainer.retrieval.vectors.taught_vectors`). With several teachers distributions and margins are
their mean.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from trainer import losses
from trainer.batch import Batch
from trainer.collectives import gather
from trainer.microbatches import Encode
from trainer.objectives.divergence import kl_over_batch, log_shares
from trainer.scores import Score, exact, own

Embeddings = tuple[Float[Tensor, "query ..."], Float[Tensor, "document ..."]]


@dataclass(frozen=True, slots=True)
class Teacher:
    """Embeddings of a batch's queries and documents, of any family and width, and how they are
    compared.
    """

    embeddings: Callable[[Batch], Embeddings]
    score: Score
    dimensions: int


def batch_distribution(
    batch: Batch,
    encode: Encode,
    score: Score,
    teachers: Sequence[Teacher],
    temperature: float,
    teacher_temperature: float,
) -> Float[Tensor, ""]:
    """KL to the teachers' distribution over every document of every rank: the whole in-batch
    softmax, known positives of a query included.
    """
    queries, documents = encode(batch.queries), encode(batch.documents)
    taught = log_shares(
        [(*_beside(queries, teacher, batch), teacher.score) for teacher in teachers],
        teacher_temperature,
    )
    return kl_over_batch(queries, documents, score, temperature, taught).mean()


def candidate_distribution(
    batch: Batch,
    encode: Encode,
    score: Score,
    teachers: Sequence[Teacher],
    temperature: float,
    teacher_temperature: float,
) -> Float[Tensor, ""]:
    """KL to the teachers' distribution over each query's own candidates (ColBERTv2, Santhanam et
    al. 2022); a late-interaction teacher gives MaxSim's.
    """
    scores = _own(batch, encode, score)
    logs = torch.stack(
        [
            (of_teacher / teacher_temperature).log_softmax(1)
            for of_teacher in _own_of(teachers, batch, scores)
        ]
    )
    return losses.kl(scores / temperature, (logs.logsumexp(0) - math.log(len(logs))).to(scores))


def margins(
    batch: Batch, encode: Encode, score: Score, teachers: Sequence[Teacher]
) -> Float[Tensor, ""]:
    """MarginMSE to the mean of the teachers' scores of each query's own candidates (Hofstaetter et
    al. 2020).
    """
    scores = _own(batch, encode, score)
    return losses.margin_mse(
        scores, torch.stack(_own_of(teachers, batch, scores)).mean(0).to(scores)
    )


def vectors(
    batch: Batch, encode: Encode, teachers: Sequence[Teacher], head: nn.Module | None, cosine: bool
) -> Float[Tensor, ""]:
    """The teacher's own vectors: mean over texts and numbers of the squared difference (Reimers &
    Gurevych 2020), or of 1 - cosine.

    `head` brings the student's vectors to the teacher's width. Queries and documents count alike,
    text by text.
    """
    errors = []
    for texts, wanted in zip(
        (batch.queries, batch.documents), teachers[0].embeddings(batch), strict=True
    ):
        found = exact(encode(texts) if head is None else head(encode(texts)))
        wanted = wanted.to(found)
        errors.append(
            gather(
                1 - functional.cosine_similarity(found, wanted)
                if cosine
                else (found - wanted).square().mean(1)
            )
        )
    return torch.cat(errors).mean()


def _own(batch: Batch, encode: Encode, score: Score) -> Float[Tensor, "query candidate"]:
    return gather(own(encode(batch.queries), encode(batch.documents), score))


@torch.no_grad()
def _own_of(
    teachers: Sequence[Teacher], batch: Batch, scores: Float[Tensor, "query candidate"]
) -> list[Float[Tensor, "query candidate"]]:
    return [gather(own(*_beside(scores, teacher, batch), teacher.score)) for teacher in teachers]


def _beside(student: Float[Tensor, "..."], teacher: Teacher, batch: Batch) -> Embeddings:
    """The teacher's embeddings where the student's are, and as exact."""
    queries, documents = teacher.embeddings(batch)
    return queries.to(exact(student)), documents.to(exact(student))
