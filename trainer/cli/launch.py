"""`nearfar launch`: runs a recipe or a mining job on all ranks of a machine file.

Both are checked before any rank is started.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainer.cli.fit import AcceptChanges, fit
from trainer.cli.mine import mine
from trainer.cli.options import shared
from trainer.cli.terminal import StartAgain

if TYPE_CHECKING:
    from trainer.recipe.schema.families import Recipe
    from trainer.strategies.machine.plan import Plan

STATUS_SECONDS = 10.0
"""Time in which the end of a run appears on the other nodes."""
PREEMPTION_CODE, PREEMPTING_SIGNALS = 85, (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
ANY_WORDS = {"ignore_unknown_options": True}
"""Options that launch does not have belong to the command that it starts."""

RecipeOrMine = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE|mine",
        help="recipe file, or `mine` and its arguments",
        show_default=False,
    ),
]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE|ARGUMENT",
        help=(
            "changes to the recipe: key.sub=value; with `mine`: MODEL DATA -o FOLDER and further"
            " options of `nearfar mine`"
        ),
        show_default=False,
    ),
]
Replace = Annotated[bool, typer.Option("--replace", help="as for `nearfar fit` or `nearfar mine`")]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="as for `nearfar fit`; a mining job always continues"),
]


def launch(
    recipe: RecipeOrMine,
    machine: shared.MachineFile,
    overrides: Words = None,
    replace: Replace = False,
    resume: Resume = False,
    accept_changes: AcceptChanges = False,
    nodes: shared.Nodes = None,
    node_rank: shared.NodeRank = None,
    main_address: shared.MainAddress = None,
) -> None:
    """Train a model from a recipe, or mine hard negatives, with the processes of a machine file."""
    with _preempted_by_signals():
        former = _Former(replace, resume, accept_changes)
        _launch(recipe, machine, overrides or [], former, (nodes, node_rank, main_address))


def _launch(
    recipe: Path,
    machine: Path,
    words: list[str],
    former: "_Former",
    nodes: tuple[int | None, int | None, str | None],
) -> None:
    job = (
        mining_job(words, former.replace)
        if recipe == Path("mine")
        else _training_job(recipe, words, former)
    )
    from trainer.strategies.launcher import plan_launch

    start = plan_launch(machine, *nodes)
    job.check(start.plan)
    if start.plan.kind == "single":
        start.prepare_single_process()
        return job.run_alone()
    begin = time.time()
    code = start.start([*job.words, *former.options(is_training=job.folder is not None)])
    if code:
        status = job.status(begin, STATUS_SECONDS if start.plan.nodes > 1 else 0.0)
        if job.folder and (retry := _words_with_less_memory(job.folder, status)):
            raise StartAgain(retry)
        code = job.exit_code(code, status)
    raise typer.Exit(code)


def _words_with_less_memory(folder: Path, status: dict[str, Any]) -> list[str] | None:
    from trainer.runtime.attempts import read_attempts, words_with_less_memory

    return words_with_less_memory(sys.argv[1:], status, read_attempts(folder))


@contextmanager
def _preempted_by_signals() -> Iterator[None]:
    """Within the block, a signal ends the process with the code of a preempted run.

    The launcher of the ranks, or the run itself, takes the signals over as soon as it starts.
    """
    is_main = threading.current_thread() is threading.main_thread()
    numbers = PREEMPTING_SIGNALS if is_main else ()
    former = {
        number: signal.signal(number, lambda *_: os._exit(PREEMPTION_CODE)) for number in numbers
    }
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@dataclass(frozen=True)
class _Former:
    """What happens to a former run or mining job of the same name."""

    replace: bool
    resume: bool
    accept_changes: bool

    def options(self, is_training: bool) -> list[str]:
        """Returns the options of the command that each rank runs."""
        flags = {"--replace": self.replace}
        if is_training:
            flags |= {"--resume": self.resume, "--accept-changes": self.accept_changes}
        return [flag for flag, is_set in flags.items() if is_set]


@dataclass(frozen=True)
class _Job:
    """A command that is started on every rank."""

    words: list[str]
    """The words of the command line of a rank, after `nearfar`."""
    check: Callable[["Plan"], None]
    """Raises an error if the command cannot run with a plan."""
    run_alone: Callable[[], None]
    """Runs the command in this process."""
    folder: Path | None = None
    """The run folder, if there is one."""

    def status(self, begin: float, wait_seconds: float = 0.0) -> dict[str, Any]:
        """Returns `status.json`, or nothing if the run did not end after `begin`."""
        from trainer.runtime.attempts import read_status

        if self.folder is None:
            return {}
        path, end = self.folder / "status.json", time.monotonic() + wait_seconds
        while not (is_new := path.exists() and path.stat().st_mtime >= begin - 1):
            if time.monotonic() > end:
                break
            time.sleep(0.5)
        return read_status(self.folder) if is_new else {}

    def exit_code(self, code: int, status: dict[str, Any]) -> int:
        """Returns the exit code of the run, which knows better than the launcher why it ended.

        `code` is that of the launcher. It stays if the run has no status.
        """
        # A signal before the first step: there is nothing to save.
        is_preempted = self.folder is not None and code - 128 in PREEMPTING_SIGNALS
        return int(status.get("exit_code", PREEMPTION_CODE if is_preempted else code)) or code


def _training_job(recipe: Path, overrides: list[str], former: _Former) -> _Job:
    from trainer.recipe.load import load_recipe
    from trainer.runtime.run_folder import check_run_folder

    if former.replace and former.resume:
        raise typer.BadParameter("--replace starts again and --resume continues; give one of them")
    if unknown := [word for word in overrides if word.startswith("-")]:
        raise typer.BadParameter(f"No such option: {unknown[0].partition('=')[0]}")
    settings = load_recipe(recipe, overrides)
    # Every node checks the folder, because a node that continued alone would wait for the others.
    # The folder is created after all ranks of all nodes are connected, so no node is too late.
    folder = Path(settings.output) / settings.name
    check_run_folder(folder, former.replace, former.resume)
    return _Job(
        ["fit", str(recipe), *overrides],
        lambda plan: _check_plan(settings, plan),
        lambda: fit(recipe, overrides, former.replace, former.resume, former.accept_changes),
        folder,
    )


def _check_plan(recipe: "Recipe", plan: "Plan") -> None:
    from trainer.data.order import check_batch_divisible
    from trainer.strategies.machine.plan import check_quantized_weights

    check_batch_divisible(recipe.optimization.batch_size, plan.ranks)
    check_quantized_weights(plan, recipe.model.quantizes_4bit)


def mining_job(words: list[str], replace: bool) -> _Job:
    """Parses the words like `nearfar mine`, and checks that the models exist."""
    from trainer.models.files.locate import locate

    app = typer.Typer()
    app.command("mine")(mine)
    command = typer.main.get_command(app)
    context = command.make_context("nearfar launch mine", list(words))
    context.params["replace"] = replace
    for name in filter(None, (context.params["model"], context.params["teacher"])):
        locate(name)
    return _Job(["mine", *words], lambda plan: None, lambda: command.invoke(context))
