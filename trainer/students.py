"""What a recipe says of students and teachers, as objects: where a student starts, who teaches it, and the loss that comes of it."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import assert_never

import numpy as np
import torch
from torch import nn

from trainer import hardware, objectives, recipe, teaching
from trainer.batch import Batch
from trainer.build_refresh import searched_texts
from trainer.chunks import Encode
from trainer.data.rows import Rows
from trainer.errors import BadData, BadRecipe
from trainer.models.dense import DenseEncoder
from trainer.models.encoder import Encoder, public_name
from trainer.models.family import read_model
from trainer.models.late_interaction import LateInteractionEncoder
from trainer.models.locate import locate
from trainer.models.principal import principal_directions
from trainer.models.projection import Projection
from trainer.modules.bi_encoder import Loss
from trainer.parallel import rank
from trainer.retrieval.encode import Role, encode
from trainer.retrieval.taught_vectors import taught_vectors
from trainer.scores import Score, dot, maxsim
from trainer.teaching import Teacher, once, shortened

_TEXTS_OF_A_ROLE = 2048
"""Looked at for principal directions: several times as many as there are numbers in a vector."""


def check_student(run: recipe.Recipe) -> None:
    """Raises BadRecipe where what the recipe says of students, teachers and hard negatives contradicts itself or its kind of model."""
    for message in (*_of_model(run), *_of_teacher(run), *_of_loss(run)):
        raise BadRecipe(message)


def _of_model(run: recipe.Recipe) -> Iterator[str]:
    model, late = run.model, run.kind == "colbert"
    if late and (model.static is not None or model.projection_start == "pca"):
        key = "model.static" if model.static is not None else "model.projection_start=pca"
        yield f"{key} is for models of one vector a text, and a colbert model has one a token; take it out, or set kind to bi_encoder"
    if model.static is not None:
        if not isinstance(model.tuning, recipe.FullTuning):
            yield "model.static has no layers that could be adapted, its table is trained whole; set model.tuning.kind to full"
        own = ("pooling", "layers", "projection_dimensions", "query_max_length_tokens", "document_max_length_tokens")
        for key in own:
            if getattr(model, key) is not None:
                yield f"model.static is a mean over all tokens of a text, and model.{key} belongs to a transformer; take it out"
        if model.activation_checkpointing:
            yield "model.static has no layers to compute again; set model.activation_checkpointing to false"
    if model.projection_start == "pca" and model.projection_dimensions is None:
        yield "model.projection_start=pca says how a new projection starts; say how wide it is with model.projection_dimensions"


def _of_teacher(run: recipe.Recipe) -> Iterator[str]:
    teacher, objective = run.teacher, run.objective
    if teacher is None:
        return
    match teacher:
        case recipe.TaughtVectors():
            if len(teacher.models) > 1:
                yield "teacher.kind=vectors learns the vectors of one teacher; name one in teacher.models, or set teacher.kind to distribution"
            if run.kind == "colbert":
                yield "teacher.kind=vectors compares one vector a text, and a colbert model has one a token; set teacher.kind to distribution"
            if run.matryoshka is not None:
                yield "teacher.kind=vectors compares whole vectors, and matryoshka trains their beginnings; set teacher.kind to distribution"
            own = False
        case recipe.TaughtMargins():
            own = True
        case recipe.TaughtDistribution():
            own = teacher.candidates == "own"
        case _:
            assert_never(teacher)
    if own and run.negatives_per_query == 0:
        yield "the teacher is to compare each query's own candidates; set data.negatives_per_query to 1 or more, or teacher.kind to distribution"
    if teacher.objective_weight == 0 and isinstance(objective, recipe.Contrastive) and objective.learn_temperature:
        yield "with teacher.objective_weight=0 nothing teaches the objective's temperature; set objective.learn_temperature to false"


def _of_loss(run: recipe.Recipe) -> Iterator[str]:
    objective, nested = run.objective, run.matryoshka
    if isinstance(objective, recipe.Contrastive) and objective.hardness is not None and objective.symmetric:
        yield "objective.hardness says which documents are hard for a query, one direction; set objective.symmetric to false"
    if nested is None:
        return
    if run.kind == "colbert":
        yield "matryoshka shortens one vector a text, and a colbert model has one a token; take it out, or set kind to bi_encoder"
    if nested.weights is not None and len(nested.weights) != len(nested.dimensions):
        yield f"matryoshka.weights gives {len(nested.weights)} weights for {len(nested.dimensions)} dimensions; give one each, or null"
    if len(set(nested.dimensions)) < len(nested.dimensions):
        yield "matryoshka.dimensions names a width twice; name each once"


def start(run: recipe.Recipe, encoder: Encoder, rows: Rows) -> None:
    """Puts the new projection on the principal directions of training texts where the recipe asks for it: the same on every rank, every time.

    Raises BadData when there are fewer texts than directions, and BadRecipe when the projection is the folder's own, or matryoshka does not fit the model.
    """
    check_widths(run, encoder)
    if run.model.projection_start == "orthogonal":
        return
    assert isinstance(encoder, DenseEncoder)
    projection = encoder.projection
    if projection is None or not projection.is_new:
        raise BadRecipe(
            f"model.projection_start=pca would undo what is learned: {run.model.backbone} has a projection to {encoder.dimensions} dimensions already; "
            "set model.projection_start to orthogonal, which leaves it, or another model.projection_dimensions"
        )
    if projection.out_features > projection.in_features:
        raise BadRecipe(
            f"model.projection_start=pca finds at most {projection.in_features} directions, the width of the backbone, and model.projection_dimensions asks "
            f"for {projection.out_features}; ask for fewer, or set model.projection_start to orthogonal"
        )
    encoder.to(hardware.device(run.machine))
    vectors = [encode(encoder.without_projection(), some_texts(rows, role), role, hardware.micro_batch_tokens(run.machine)) for role in _ROLES]
    together = torch.from_numpy(np.concatenate(vectors))
    if len(together) < projection.out_features:
        raise BadData(f"{len(together)} distinct training texts do not span {projection.out_features} directions; give more, or fewer dimensions")
    projection.load_state_dict({"weight": principal_directions(together, projection.out_features)})


def check_widths(run: recipe.Recipe, encoder: Encoder) -> None:
    """Raises BadRecipe where the widest vectors that matryoshka trains are not the model's own."""
    if run.matryoshka is not None and max(run.matryoshka.dimensions) != encoder.dimensions:
        raise BadRecipe(
            f"matryoshka.dimensions={list(run.matryoshka.dimensions)}: the model's vectors have {encoder.dimensions} numbers, and that width must be the "
            "largest trained, or the numbers behind it would stay as they are"
        )


_ROLES: tuple[Role, Role] = ("query", "document")


def some_texts(rows: Rows, role: Role) -> list[str]:
    """Up to 2 048 distinct queries or positives, those of the smallest identities: the same whatever the order of the rows."""
    _, first = np.unique(rows.identities("query" if role == "query" else "positive"), return_index=True)
    chosen = (rows[int(row)] for row in first[:_TEXTS_OF_A_ROLE])
    return [row.query if role == "query" else row.positive for row in chosen]


def locate_teachers(run: recipe.Recipe) -> None:
    """Raises BadModel for a teacher that is not there, before anything slow."""
    for name in run.teacher.models if run.teacher is not None else ():
        locate(name)


def teachers(run: recipe.Recipe, rows: Rows) -> list[Teacher]:
    """The teachers of a recipe, with what they make of the training texts. Raises BadModel, and BadRecipe for one of the wrong family."""
    return [_teacher(run, name, rows) for name in run.teacher.models] if run.teacher is not None else []


def _teacher(run: recipe.Recipe, name: str, rows: Rows) -> Teacher:
    model = read_model(name).to(hardware.device(run.machine)).requires_grad_(False)
    late = isinstance(model, LateInteractionEncoder)
    if late and isinstance(run.teacher, recipe.TaughtVectors):
        raise BadRecipe(f"teacher.kind=vectors learns one vector a text, and {name} gives one a token; set teacher.kind to distribution")
    place = hashlib.sha256(str(Path(name).resolve() if Path(name).is_dir() else name).encode()).hexdigest()[:8]
    folder = Path(run.output) / "teachers" / f"{public_name(name).replace('/', '-')}-{place}"
    tokens = hardware.micro_batch_tokens(run.machine)
    found = taught_vectors(folder, model, rows, run.data.negatives_per_query, tokens, partial(searched_texts, run, rows), say=_say)
    return Teacher(found.embeddings, maxsim if late else dot, found.dimensions)


def _say(text: str) -> None:
    import sys

    if rank() == 0:
        print(text, file=sys.stderr, flush=True)


def whole_loss(run: recipe.Recipe, objective: Loss, score: Score, encoder: Encoder, taught_by: Sequence[Teacher]) -> tuple[Loss, nn.Module | None]:
    """The objective, with what the teachers teach beside it and over all widths where the recipe says so; and a layer to be trained with it.

    Raises BadRecipe for widths that the model does not have.
    """
    loss, head = objective, None
    if run.teacher is not None:
        head = _head(run, encoder, taught_by)
        loss = partial(_beside, run.teacher, objective, _lesson(run.teacher, score, taught_by, head))
    if run.matryoshka is not None:
        check_widths(run, encoder)
        dimensions = run.matryoshka.dimensions
        assert isinstance(encoder, DenseEncoder)
        weights = run.matryoshka.weights or (1.0,) * len(dimensions)
        loss = partial(_nested, dict(zip(dimensions, weights, strict=True)), loss, encoder.contract.normalize)
    return loss, head


def _head(run: recipe.Recipe, encoder: Encoder, taught_by: Sequence[Teacher]) -> nn.Module | None:
    """From the student's width to the teacher's where vectors are learned and the widths differ; drawn from the recipe's seed."""
    if not isinstance(run.teacher, recipe.TaughtVectors) or taught_by[0].dimensions == encoder.dimensions:
        return None
    head = Projection(encoder.dimensions, taught_by[0].dimensions, bias=False)
    nn.init.orthogonal_(head.weight, generator=torch.Generator().manual_seed(run.seed))
    return head


Lesson = Callable[[Batch, Encode], torch.Tensor]


def _lesson(teacher: recipe.Teacher, score: Score, taught_by: Sequence[Teacher], head: nn.Module | None) -> Lesson:
    match teacher:
        case recipe.TaughtDistribution():
            function = teaching.batch_distribution if teacher.candidates == "batch" else teaching.candidate_distribution
            return partial(
                function, score=score, teachers=taught_by, temperature=teacher.temperature, teacher_temperature=teacher.teacher_temperature
            )
        case recipe.TaughtMargins():
            return partial(teaching.margins, score=score, teachers=taught_by)
        case recipe.TaughtVectors():
            return partial(teaching.vectors, teachers=taught_by, head=head, cosine=teacher.distance == "cosine")
        case _:
            assert_never(teacher)


def _beside(teacher: recipe.Teacher, objective: Loss, lesson: Lesson, batch: Batch, encode: Encode, temperature: torch.Tensor) -> objectives.Outcome:
    """Both in one pass through the encoder; each is a mean over the global batch, so weights mean the same on any number of ranks."""
    encode = once(encode)
    taught = lesson(batch, encode)
    if teacher.objective_weight == 0:
        return {"loss": teacher.weight * taught, "teacher_loss": taught}
    outcome = objective(batch, encode, temperature)
    total = teacher.objective_weight * outcome["loss"] + teacher.weight * taught
    return {**outcome, "loss": total, "teacher_loss": taught, "objective_loss": outcome["loss"]}


def _nested(
    weights: dict[int, float], objective: Loss, normalize: bool, batch: Batch, encode: Encode, temperature: torch.Tensor
) -> objectives.Outcome:
    """The weighted sum over widths, with one pass through the encoder; what else is logged is that of the widest."""
    encode = once(encode)
    outcomes = {width: objective(batch, shortened(encode, width, normalize), temperature) for width in weights}
    total = torch.stack([weights[width] * outcome["loss"] for width, outcome in outcomes.items()]).sum()
    return {**outcomes[max(weights)], "loss": total, **{f"loss_at_{width}": outcome["loss"] for width, outcome in outcomes.items()}}
