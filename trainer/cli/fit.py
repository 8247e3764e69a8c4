"""`nearfar fit`: trains a model from a recipe and measures whether it got better."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.options import shared
from trainer.cli.terminal import StartAgain
from trainer.errors import OutOfMemory

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
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help=(
            "continue a former run of the same name from its newest checkpoint, on any number of"
            " processes; start if there is none"
        ),
    ),
]
AcceptChanges = Annotated[
    bool,
    typer.Option(
        "--accept-changes",
        help="with --resume: continue although data or settings have changed, and record it",
    ),
]


def fit(
    recipe: shared.RecipeFile,
    overrides: shared.Overrides = None,
    replace: Replace = False,
    resume: Resume = False,
    accept_changes: AcceptChanges = False,
) -> None:
    """Train a model from a recipe, and compare it with the base model and BM25 on test queries."""
    from trainer.progress import phase
    from trainer.recipe.load import load_recipe
    from trainer.runtime.attempts import read_attempts, read_status, words_with_less_memory
    from trainer.runtime.console import say
    from trainer.runtime.watch import watching

    if replace and resume:
        raise typer.BadParameter("--replace starts again and --resume continues; give one of them")
    settings = load_recipe(recipe, overrides or [])
    folder = Path(settings.output) / settings.name
    if resume and read_status(folder).get("status") == "done":
        say(
            f"{folder} is finished; nothing is left to do. For a run with other settings, choose"
            " another name=NAME, or start again with --replace"
        )
        return
    with watching():  # first of all: a signal that comes before it would end the process
        with phase("loading the libraries"):
            from trainer.runtime.start import start_process

            plan = start_process(folder, replace, resume)

            from trainer.evaluation.table import result_parts  # after start_process: heavy
            from trainer.run import Former, run_recipe
            from trainer.runtime.console import show

        try:
            result = run_recipe(settings, plan, Former(replace, resume, accept_changes))
        except OutOfMemory as error:
            words = words_with_less_memory(sys.argv[1:], error.details, read_attempts(folder))
            if plan.kind != "single" or words is None:
                raise
            say(f"warning: {error}")
            raise StartAgain(words) from error
    show(*result_parts(result.evaluation, result.selection, result.test))
