"""`nearfar fit`: recipe in, model folder out, with the proof that it is better."""

import os
from pathlib import Path
from typing import Annotated

import typer

from trainer.cli import options

Replace = Annotated[
    bool,
    typer.Option(
        "--replace",
        help=(
            "move a former run of the same name aside, and compute a teacher's vectors again where"
            " the stored ones belong to other data or another teacher"
        ),
    ),
]


def fit(
    recipe: options.RecipeFile,
    overrides: options.Overrides = None,
    replace: Replace = False,
) -> None:
    """Train a model by a recipe, and compare it with the base model and BM25 on test queries."""
    from trainer.recipe.load import load_recipe
    from trainer.runtime.start import start_process
    from trainer.strategies.own_rank import is_first_rank

    settings = load_recipe(recipe, overrides or [])
    plan = start_process(Path(settings.output) / settings.name, replace)

    from trainer.evaluation.table import result_parts  # only now: heavy imports
    from trainer.run import run_recipe
    from trainer.runtime.console import show

    result = run_recipe(settings, plan, replace)
    if is_first_rank(os.environ):
        show(*result_parts(result.evaluation, result.selection, result.test))
