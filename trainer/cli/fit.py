"""`nearfar fit`: trains a model from a recipe and measures whether it got better."""

from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.options import shared

Replace = Annotated[
    bool,
    typer.Option(
        "--replace",
        help=(
            "move a former run of the same name aside, and compute a teacher's vectors again if"
            " the stored ones belong to other data or another teacher"
        ),
    ),
]


def fit(
    recipe: shared.RecipeFile,
    overrides: shared.Overrides = None,
    replace: Replace = False,
) -> None:
    """Train a model from a recipe, and compare it with the base model and BM25 on test queries."""
    from trainer.progress import phase
    from trainer.recipe.load import load_recipe

    settings = load_recipe(recipe, overrides or [])
    with phase("loading the libraries"):
        from trainer.runtime.start import start_process

        plan = start_process(Path(settings.output) / settings.name, replace)

        from trainer.evaluation.table import result_parts  # imported after start_process: heavy
        from trainer.run import run_recipe
        from trainer.runtime.console import show

    result = run_recipe(settings, plan, replace)
    show(*result_parts(result.evaluation, result.selection, result.test))
