"""`nearfar launch`: one recipe, or one mining job, on all ranks of a machine file. Both are checked
before any rank is started.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.cli import options
from trainer.cli.fit import fit
from trainer.cli.mine import mine

if TYPE_CHECKING:
    from trainer.strategies.machine.plan import Plan

ANY_WORDS = {"ignore_unknown_options": True}
"""Options that launch does not have belong to what it starts."""

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
NodeRank = Annotated[
    int | None,
    typer.Option(
        "--node-rank",
        min=0,
        metavar="N",
        help="number of this machine among them, from 0; needed for more than one",
        show_default=False,
    ),
]
MainAddress = Annotated[
    str | None,
    typer.Option(
        "--main-address",
        metavar="HOST[:PORT]",
        help="address of machine 0, the same on every machine; needed for more than one",
        show_default=False,
    ),
]


def launch(
    recipe: RecipeOrMine,
    machine: options.MachineFile,
    overrides: Words = None,
    replace: Replace = False,
    nodes: options.Nodes = None,
    node_rank: NodeRank = None,
    main_address: MainAddress = None,
) -> None:
    """Train a model by a recipe, or mine hard negatives, on the processes that a machine file
    describes.
    """
    words = overrides or []
    job = (
        _mining_job(words, replace)
        if recipe == Path("mine")
        else _training_job(recipe, words, replace)
    )
    from trainer.strategies.launcher import plan_launch

    start = plan_launch(machine, nodes, node_rank, main_address)
    job.check(start.plan)
    if start.plan.kind == "single":
        start.prepare_single_process()
        return job.run_alone()
    raise typer.Exit(start.start([*job.words, *(["--replace"] if replace else [])]))


@dataclass(frozen=True)
class _Job:
    """What is started."""

    words: list[str]
    """Its words on the command line of a rank."""
    check: Callable[["Plan"], None]
    """Raises an error where it does not fit a plan."""
    run_alone: Callable[[], None]
    """Runs it in this process."""


def _training_job(recipe: Path, overrides: list[str], replace: bool) -> _Job:
    from trainer.data.order import check_batch_divisible
    from trainer.recipe.load import load_recipe
    from trainer.runtime.run_folder import check_run_folder

    if unknown := [word for word in overrides if word.startswith("-")]:
        raise typer.BadParameter(f"No such option: {unknown[0].partition('=')[0]}")
    settings = load_recipe(recipe, overrides)
    # On every node: one that went on alone would wait for the others. The folder is made once all
    # ranks of all nodes have met, so none comes too late.
    check_run_folder(Path(settings.output) / settings.name, replace)
    batch_size = settings.optimization.batch_size
    return _Job(
        ["fit", str(recipe), *overrides],
        lambda plan: check_batch_divisible(batch_size, plan.ranks),
        lambda: fit(recipe, overrides, replace),
    )


def _mining_job(words: list[str], replace: bool) -> _Job:
    """The words are read as `nearfar mine` reads them, and the models are looked for."""
    from trainer.models.files.locate import locate

    app = typer.Typer()
    app.command("mine")(mine)
    command = typer.main.get_command(app)
    arguments = command.make_context("nearfar launch mine", list(words)).params
    arguments["replace"] = replace
    for name in filter(None, (arguments["model"], arguments["teacher"])):
        locate(name)
    return _Job(["mine", *words], lambda plan: None, lambda: mine(**arguments))
