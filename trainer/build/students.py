"""What a recipe says of students and teachers, as objects: where a student starts, who teaches it,
and the loss that comes of it.
"""

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
_TEXTS_OF_A_ROLE = 2048
"""Looked at for principal directions: several times as many as there are numbers in a vector."""


def check_whole(run: BaseVectorRecipe, encoder: VectorEncoder) -> None:
    """Raises BadRecipe where the widest vectors or most layers that matryoshka trains are not the
    model's own, BadModel for layers of one without.
    """
    if run.matryoshka is None:
        return
    dimensions = [width for width in run.matryoshka.width_weights if width is not None]
    layers = [depth for depth in run.matryoshka.depth_weights if depth is not None]
    if dimensions and max(dimensions) != encoder.dimensions:
        raise BadRecipe(
            f"matryoshka.dimensions={dimensions}: the model's vectors have "
            f"{encoder.dimensions} numbers, and that width must be the "
            "largest trained, or the numbers behind it would stay as they are"
        )
    if layers and max(layers) != depth_of(encoder):
        raise BadRecipe(
            f"matryoshka.layers={layers}: the model has {depth_of(encoder)} layers, and "
            f"that number must be the largest trained, or the layers "
            "behind it would stay as they are; for a model of fewer layers set model.layers"
        )


def encode_of(run: BaseVectorRecipe, encoder: VectorEncoder) -> Encode:
    """The encoder, or its embeddings at all depths that matryoshka trains.

    Raises BadModel where it has no such layers.
    """
    nest = run.matryoshka
    if nest is None or nest.layers is None:
        return encoder
    return AtDepths(encoder, nest.layers)


def some_texts(rows: Rows, role: Role) -> list[str]:
    """Up to 2 048 distinct queries or positives, those of the smallest identities: the same
    whatever the order of the rows.
    """
    _, first = np.unique(
        rows.identities("query" if role == "query" else "positive"), return_index=True
    )
    chosen = (rows[int(row)] for row in first[:_TEXTS_OF_A_ROLE])
    return [row.query if role == "query" else row.positive for row in chosen]


def locate_others(run: Recipe) -> None:
    """Raises BadModel for a teacher, or the first stage of validation, that is not there, before
    anything slow.
    """
    others = (*run.teacher_models, *([] if run.first_stage is None else [run.first_stage]))
    for name in others:
        locate(name)


def teachers(run: Recipe, rows: Rows, replace: bool = False) -> list[Teacher]:
    """The teachers of a recipe, with what they make of the training texts; `replace`: also where
    what is kept was made of something else.

    Raises BadModel, BadFolder where it was and is not to be replaced, and BadRecipe for a teacher
    of the wrong family.
    """
    if not isinstance(run, BaseVectorRecipe) or run.teacher is None:
        return []
    return [_teacher(run, name, rows, replace) for name in run.teacher.models]


def kept_in(run: BaseRecipe, name: str) -> Path:
    """Where the vectors of the teacher of this name are kept: apart from those of every other."""
    place = hashlib.sha256(
        str(Path(name).resolve() if Path(name).is_dir() else name).encode()
    ).hexdigest()[:8]
    return Path(run.output) / "teachers" / f"{public_name(name).replace('/', '-')}-{place}"


def _teacher(run: BaseVectorRecipe, name: str, rows: Rows, replace: bool) -> Teacher:
    model = read_model(name).to(hardware.device(run.machine)).requires_grad_(False)
    if isinstance(run.teacher, VectorsTeacher) and model.vectors.UNIT != "text":
        raise BadRecipe(
            f"teacher.kind=vectors learns one vector per text, and {name} gives one per"
            f" {model.vectors.UNIT}; set teacher.kind to distribution"
        )
    tokens = hardware.micro_batch_tokens(run.machine)
    found = taught_vectors(
        kept_in(run, name),
        model,
        rows,
        run.data.negatives_per_query,
        tokens,
        say,
        replace,
        partial(searched_texts, run, rows),
    )
    return Teacher(
        once_per_batch(found.embeddings),
        model.vectors.score(),
        found.dimensions,
    )


def with_students(
    run: BaseVectorRecipe,
    objective: Objective,
    score: Score,
    encoder: VectorEncoder,
    taught_by: Sequence[Teacher],
    normalize: bool,
) -> tuple[Objective, nn.Module | None]:
    """The objective with what the teachers teach beside it, at all widths and depths where the
    recipe says so; and a layer to be trained with it. With `normalize`, the first numbers of a
    vector are brought to length 1.

    Raises BadRecipe for widths or depths that the model does not have.
    """
    head = None
    if run.teacher is not None:
        head = _head(run, encoder, taught_by)
        lesson = _lesson(run.teacher, score, tuple(taught_by), head)
        teacher = run.teacher
        objective = LessonObjective(objective, lesson, teacher.weight, teacher.objective_weight)
    if (nest := run.matryoshka) is not None:
        check_whole(run, encoder)
        widths, depths = nest.width_weights, nest.depth_weights
        objective = Matryoshka(objective, widths, depths, normalize)
    return objective, head


def _head(
    run: BaseVectorRecipe, encoder: VectorEncoder, taught_by: Sequence[Teacher]
) -> nn.Module | None:
    """From the student's width to the teacher's where vectors are learned and the widths differ;
    drawn from the recipe's seed.
    """
    if not isinstance(run.teacher, VectorsTeacher) or taught_by[0].dimensions == encoder.dimensions:
        return None
    head = Projection(encoder.dimensions, taught_by[0].dimensions, bias=False)
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
