"""What a recipe must not say of students, teachers, models inside the model and hard negatives,
whatever its data and its models.
"""

from collections.abc import Iterator
from typing import assert_never

from trainer.errors import BadRecipe
from trainer.recipe import schema as recipe


def check_student(run: recipe.Recipe) -> None:
    """Raises BadRecipe where what the recipe says of students, teachers and hard negatives
    contradicts itself or its kind of model.
    """
    for message in (*_of_model(run), *_of_teacher(run), *_of_loss(run)):
        raise BadRecipe(message)


def _of_model(run: recipe.Recipe) -> Iterator[str]:
    model, late = run.model, run.kind == "colbert"
    if late and (model.static is not None or model.projection_start == "pca"):
        key = "model.static" if model.static is not None else "model.projection_start=pca"
        yield (
            f"{key} is for models of one vector a text, and a colbert model has one a token; take"
            " it out, or set kind to bi_encoder"
        )
    if model.static is not None:
        if not isinstance(model.tuning, recipe.FullTuning):
            yield (
                "model.static has no layers that could be adapted, its table is trained whole; set"
                " model.tuning.kind to full"
            )
        own = (
            "pooling",
            "layers",
            "projection_dimensions",
            "query_max_length_tokens",
            "document_max_length_tokens",
        )
        for key in own:
            if getattr(model, key) is not None:
                yield (
                    f"model.static is a mean over all tokens of a text, and model.{key} belongs to"
                    " a transformer; take it out"
                )
        if model.activation_checkpointing:
            yield (
                "model.static has no layers to compute again; set model.activation_checkpointing to"
                " false"
            )
    if model.projection_start == "pca" and model.projection_dimensions is None:
        yield (
            "model.projection_start=pca says how a new projection starts; say how wide it is with"
            " model.projection_dimensions"
        )


def _of_teacher(run: recipe.Recipe) -> Iterator[str]:
    teacher, objective = run.teacher, run.objective
    if teacher is None:
        return
    match teacher:
        case recipe.TaughtVectors():
            if len(teacher.models) > 1:
                yield (
                    "teacher.kind=vectors learns the vectors of one teacher; name one in"
                    " teacher.models, or set teacher.kind to distribution"
                )
            if run.kind == "colbert":
                yield (
                    "teacher.kind=vectors compares one vector a text, and a colbert model has one a"
                    " token; set teacher.kind to distribution"
                )
            if run.matryoshka is not None and run.matryoshka.dimensions is not None:
                yield (
                    "teacher.kind=vectors compares whole vectors, and matryoshka trains their"
                    " beginnings; set teacher.kind to distribution"
                )
            own = False
        case recipe.TaughtMargins():
            own = True
        case recipe.TaughtDistribution():
            own = teacher.candidates == "own"
        case _:
            assert_never(teacher)
    if own and run.negatives_per_query == 0:
        yield (
            "the teacher is to compare each query's own candidates; set data.negatives_per_query to"
            " 1 or more, or teacher.kind to distribution"
        )
    if (
        teacher.objective_weight == 0
        and isinstance(objective, recipe.Contrastive)
        and objective.learn_temperature
    ):
        yield (
            "with teacher.objective_weight=0 nothing teaches the objective's temperature; set"
            " objective.learn_temperature to false"
        )


def _of_loss(run: recipe.Recipe) -> Iterator[str]:
    objective, nested = run.objective, run.matryoshka
    if (
        isinstance(objective, recipe.Contrastive)
        and objective.hardness is not None
        and objective.symmetric
    ):
        yield (
            "objective.hardness says which documents are hard for a query, one direction; set"
            " objective.symmetric to false"
        )
    if nested is None:
        return
    if run.kind == "colbert" and nested.dimensions is not None:
        yield (
            "matryoshka.dimensions shortens one vector a text, and a colbert model has one a token;"
            " take it out, or set kind to bi_encoder"
        )
    if run.model.static is not None and nested.layers is not None:
        yield (
            "matryoshka.layers trains the first layers of a transformer, and model.static has none;"
            " take one of them out"
        )
    if nested.dimensions is None and nested.layers is None:
        yield (
            "matryoshka says neither dimensions nor layers, and so trains the whole alone; give one"
            " of them, or take matryoshka out"
        )
    for key, sizes, weights_key, weights in (
        ("dimensions", nested.dimensions, "weights", nested.weights),
        ("layers", nested.layers, "layer_weights", nested.layer_weights),
    ):
        if weights is not None and len(weights) != len(sizes or ()):
            yield (
                f"matryoshka.{weights_key} gives {len(weights)} weights for {len(sizes or ())}"
                f" {key}; give one each, or null"
            )
        if sizes is not None and len(set(sizes)) < len(sizes):
            yield f"matryoshka.{key}={list(sizes)} names a number twice; name each once"
