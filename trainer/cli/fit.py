"""`nearfar fit`: trains a model from a recipe and measures whether it got better."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.cli.options import shared
from trainer.cli.terminal import StartAgain
from trainer.errors import OutOfMemory

if TYPE_CHECKING:
    from trainer.recipe.schema.families import Recipe

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


Sweep = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep",
        metavar="KEY=VALUE,VALUE",
        help=(
            "one run for each value, one after the other; given twice: for each combination. What"
            " is finished is left out when it is repeated"
        ),
        show_default=False,
    ),
]

_IGNORED_BY_SWEEP = (
    "--sweep continues its runs, so --replace and --accept-changes have no effect; leave them out,"
    " or give the runs another name=NAME"
)


def fit(
    recipe: shared.RecipeFile,
    overrides: shared.Overrides = None,
    replace: Replace = False,
    resume: Resume = False,
    accept_changes: AcceptChanges = False,
    sweep: Sweep = None,
) -> None:
    """Train a model from a recipe, and compare it with the base model and BM25 on test queries."""
    from trainer.progress import phase
    from trainer.runtime.attempts import read_attempts, words_with_less_memory
    from trainer.runtime.console import say
    from trainer.runtime.watch import watching

    if replace and resume:
        raise typer.BadParameter("--replace starts again and --resume continues; give one of them")
    if sweep and (replace or accept_changes):
        raise typer.BadParameter(_IGNORED_BY_SWEEP)
    settings = _settings(recipe, overrides or [])
    if sweep:
        _fit_all(recipe, overrides or [], sweep, settings)
        return
    folder = Path(settings.output) / settings.name
    if resume and _is_finished(folder):
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


def _settings(recipe: Path, overrides: list[str]) -> "Recipe":
    """Returns the resolved recipe. A run that an agent of a W&B sweep has started gets a name of
    its own.
    """
    from trainer.recipe.load import load_recipe
    from trainer.tracking.course import sweep_run_id

    settings = load_recipe(recipe, overrides)
    if (run_id := sweep_run_id()) is None:
        return settings
    return load_recipe(recipe, [*overrides, f"name={settings.name}-{run_id}"])


def _is_finished(folder: Path) -> bool:
    """Returns whether there is nothing to continue, and says so."""
    from trainer.runtime.attempts import read_status
    from trainer.runtime.console import say

    is_finished = read_status(folder).get("status") == "done"
    if is_finished:
        say(
            f"{folder} is finished; nothing is left to do. For a run with other settings, choose"
            " another name=NAME, or start again with --replace"
        )
    return is_finished


def _fit_all(recipe: Path, overrides: list[str], sweep: list[str], settings: "Recipe") -> None:
    """Carries out the runs of a sweep, each in a process of its own, and prints their scores.

    A run that fails is named, and the others go on. The exit code is that of the first one. A
    signal is forwarded to the run, and its exit code is then that of the sweep.
    """
    from trainer.errors import Preempted
    from trainer.pipeline.process import Relay, run_on_terminal
    from trainer.runtime.attempts import read_status
    from trainer.runtime.console import say
    from trainer.slurm.sweep import sweep_runs

    exit_code, scores, runs = 0, [], sweep_runs(sweep, settings.name)
    with Relay() as relay:
        for number, run in enumerate(runs, 1):
            *changes, name = run
            say(f"run {number} of {len(runs)}: {' '.join(changes)}")
            words = ["fit", str(recipe), *overrides, *run, "--resume"]
            code = run_on_terminal(words, relay)
            exit_code = exit_code or code
            status = read_status(Path(settings.output) / name.partition("=")[2])
            selection = status.get("selection") or {}
            score = selection.get("share_score") or selection.get("best_score")
            scores.append((score if isinstance(score, float) else -1.0, " ".join(changes), status))
            if relay.first_signal is not None:
                say("the sweep was stopped; the same command continues it")
                exit_code = code or Preempted.exit_code
                break
    for score, text, status in sorted(scores, key=lambda line: -line[0]):
        result = f"{score:.3f}" if score >= 0 else str(status.get("status", "not started"))
        print(f"validation nDCG@10 {result}  {text}")
    if exit_code:
        raise typer.Exit(exit_code)
