"""Builds students and teachers of a recipe: the teachers' vectors, and the loss of the student."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import assert_never

import numpy as np
import torch
from torch import nn

from trainer.build import hardware
from trainer.build.refresh import searched_texts
from trainer.data.rows import Rows
from trainer.errors import BadRecipe
from trainer.microbatches import Encode
from trainer.models.contracts.text import Role
from trainer.models.encoder import VectorEncoder
from trainer.models.families import read_model
from trainer.models.files.locate import locate
from trainer.models.loading import public_name
from trainer.models.parts.depth import AtDepths, depth_of
from trainer.models.parts.projection import Projection
from trainer.objectives.matryoshka import Matryoshka, once_per_batch
from trainer.objectives.objective import Objective
from trainer.objectives.teachers import (
    BatchDistribution,
    CandidateDistribution,
    Lesson,
    LessonObjective,
    Margins,
    Teacher,
    TeacherVectors,
)
from trainer.recipe.schema.base import BaseRecipe, BaseVectorRecipe
from trainer.recipe.schema.families import Recipe
from trainer.recipe.schema.teaching import (
    BiEncoderTeacher,
    DistributionTeacher,
    MarginsTeacher,
    VectorsTeacher,
)
from trainer.retrieval.encoding.taught_vectors import taught_vectors
from trainer.runtime.console import say
from trainer.scores import Score

ROLES: tuple[Role, Role] = ("query", "document")
_MAX_TEXTS_PER_ROLE = 2048
"""Texts for principal directions: several times the number of dimensions of a vector."""


def check_matryoshka(run: BaseVectorRecipe, encoder: VectorEncoder) -> None:
    """Raises BadRecipe when the largest width or depth of matryoshka is not that of the model.

    Raises BadModel when it names layers and the model has none.
    """
    if (nest := run.matryoshka_section) is None:
        return
    dimensions = [width for width in nest.width_weights if width is not None]
    layers = [depth for depth in nest.depth_weights if depth is not None]
    if dimensions and max(dimensions) != encoder.dimensions:
        raise BadRecipe(
            f"matryoshka.dimensions={dimensions}: the model's vectors have {encoder.dimensions}"
            f" dimensions, and some of them would not be trained; make {encoder.dimensions} the"
            " largest value"
        )
    if layers and max(layers) != depth_of(encoder):
        raise BadRecipe(
            f"matryoshka.layers={layers}: the model has {depth_of(encoder)} layers, and some of"
            f" them would not be trained; make {depth_of(encoder)} the largest value, or set"
            " model.layers for a model with fewer layers"
        )


def training_encode(run: BaseVectorRecipe, encoder: VectorEncoder) -> Encode:
    """Returns the encoder, or the function that gives its embeddings at all trained depths.

    Raises BadModel when the encoder does not have these layers.
    """
    nest = run.matryoshka_section
    if nest is None or nest.layers is None:
        return encoder
    return AtDepths(encoder, nest.layers)


def sample_texts(rows: Rows, role: Role, limit: int = _MAX_TEXTS_PER_ROLE) -> list[str]:
    """Returns up to `limit` distinct queries or positives: those with the smallest identities.

    They do not depend on the order of rows.
    """
    _, first = np.unique(
        rows.identities("query" if role == "query" else "positive"), return_index=True
    )
    rows_of_texts = (rows[int(row)] for row in first[:limit])
    return [row.query if role == "query" else row.positive for row in rows_of_texts]


def locate_other_models(run: Recipe) -> None:
    """Raises BadModel when a teacher or the first stage of validation cannot be found.

    Call it before slow work.
    """
    names = (*run.teacher_models, *([] if run.first_stage is None else [run.first_stage]))
    for name in names:
        locate(name)


def load_teachers(run: Recipe, rows: Rows, replace: bool = False) -> list[Teacher]:
    """Returns the teachers of a recipe, with their vectors of the training texts.

    `replace` allows replacing stored vectors of another teacher or other data; without it, they
    raise BadFolder. Raises BadModel, and BadRecipe for a teacher of the wrong family.
    """
    if not isinstance(run, BaseVectorRecipe) or run.teacher is None:
        return []
    return [_teacher(run, name, rows, replace) for name in run.teacher.models]


def vectors_folder(run: BaseRecipe, name: str) -> Path:
    """Returns the folder for the vectors of this teacher; each teacher has its own."""
    place = hashlib.sha256(
        str(Path(name).resolve() if Path(name).is_dir() else name).encode()
    ).hexdigest()[:8]
    return Path(run.output) / "teachers" / f"{public_name(name).replace('/', '-')}-{place}"


def _teacher(run: BaseVectorRecipe, name: str, rows: Rows, replace: bool) -> Teacher:
    model = read_model(name).to(hardware.device(run.machine)).requires_grad_(False)
    if isinstance(run.teacher, VectorsTeacher) and model.vectors.UNIT != "text":
        raise BadRecipe(
            f"teacher.kind=vectors needs one dense vector per text, but {name} gives"
            f" {model.output}; set teacher.kind to distribution"
        )
    tokens = hardware.micro_batch_tokens(run.machine)
    embeddings = taught_vectors(
        vectors_folder(run, name),
        model,
        rows,
        run.data.negatives_per_query,
        tokens,
        say,
        replace,
        partial(searched_texts, run, rows),
    )
    return Teacher(
        once_per_batch(embeddings.embeddings),
        model.vectors.score(),
        model.dimensions,
    )


def with_students(
    run: BaseVectorRecipe,
    objective: Objective,
    score: Score,
    encoder: VectorEncoder,
    teachers: Sequence[Teacher],
    normalize: bool,
) -> tuple[Objective, nn.Module | None]:
    """Adds the lesson of the teachers and the widths and depths of matryoshka to an objective.

    Returns the objective, and the layer that is trained with it, if any. With `normalize`, the
    first dimensions of a vector are scaled to length 1. Raises BadRecipe for widths or depths that
    the model does not have.
    """
    head = None
    if run.teacher is not None:
        head = _head(run, encoder, teachers)
        lesson = _lesson(run.teacher, score, tuple(teachers), head)
        teacher = run.teacher
        objective = LessonObjective(objective, lesson, teacher.weight, teacher.objective_weight)
    if (nest := run.matryoshka_section) is not None:
        check_matryoshka(run, encoder)
        widths, depths = nest.width_weights, nest.depth_weights
        objective = Matryoshka(objective, widths, depths, normalize)
    return objective, head


def _head(
    run: BaseVectorRecipe, encoder: VectorEncoder, teachers: Sequence[Teacher]
) -> nn.Module | None:
    """Returns a layer from the student's width to the teacher's, drawn from the recipe's seed.

    It is None unless the student learns vectors of another width.
    """
    if not isinstance(run.teacher, VectorsTeacher) or teachers[0].dimensions == encoder.dimensions:
        return None
    head = Projection(encoder.dimensions, teachers[0].dimensions, bias=False)
    nn.init.orthogonal_(head.weight, generator=torch.Generator().manual_seed(run.seed))
    return head


def _lesson(
    settings: BiEncoderTeacher,
    score: Score,
    teachers: tuple[Teacher, ...],
    head: nn.Module | None,
) -> Lesson:
    match settings:
        case DistributionTeacher():
            kind = BatchDistribution if settings.candidates == "batch" else CandidateDistribution
            return kind(score, teachers, settings.temperature, settings.teacher_temperature)
        case MarginsTeacher():
            return Margins(score, teachers)
        case VectorsTeacher():
            return TeacherVectors(teachers[0], head, cosine=settings.distance == "cosine")
        case _:
            assert_never(settings)
