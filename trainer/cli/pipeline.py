"""`nearfar pipeline`: stages that name each other's outputs, each repeated only when something it
depends on has changed.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from trainer.pipeline.keys import Keyed
    from trainer.pipeline.run import Step

_UsageError: Any = typer.BadParameter.__base__
"""What the command line raises when words do not fit a verb; typer itself does not name it."""


def pipeline(
    file: Annotated[
        Path,
        typer.Argument(
            help="pipeline file, e.g. recipes/pipelines/teacher-to-student.yaml", show_default=False
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="changes to it: values.NAME=VALUE, name=NAME, output=FOLDER", show_default=False
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="say which stages are done, and why the others are to run; run none"
        ),
    ] = False,
    only: Annotated[
        str | None, typer.Option(metavar="STAGE", help="run this stage alone", show_default=False)
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STAGE",
            help="run this stage, and all that depend on it, though they are done",
            show_default=False,
        ),
    ] = None,
    print_commands: Annotated[
        bool,
        typer.Option(
            "--print-commands",
            help="print what is to run as a shell script, for a cluster; run none",
        ),
    ] = False,
    accept: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE",
            help="note as done a stage whose command was run by hand",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run the stages of a pipeline that are not done; stopped or killed, and started again, it goes
    on.
    """
    from trainer.errors import BadMachine, BadPipeline
    from trainer.pipeline import run
    from trainer.pipeline.file import load_pipeline
    from trainer.strategies.environment import plan_from_environment

    given = [dry_run, print_commands, only is not None, accept is not None]
    if sum(given) > 1 or (start is not None and any(given[1:])):
        raise BadPipeline(
            "of --dry-run, --print-commands, --only and --accept give one; --from goes with"
            " --dry-run alone"
        )
    if plan_from_environment(os.environ).ranks > 1:
        raise BadMachine(
            "a pipeline is one process, and a launcher started several; name the processes of a"
            " stage with `machine: FILE` in the pipeline"
        )
    stages = load_pipeline(file, overrides or [])
    if only is not None:
        run.check_stage(stages, only)
    steps = run.plan(stages, start)
    for step in steps:
        check_command(step.stage)
    if dry_run:
        _show(stages.folder, steps)
    elif print_commands:
        typer.echo(
            "\n".join(run.by_hand(steps, ["nearfar", "pipeline", str(file), *(overrides or [])]))
        )
    elif accept is not None:
        typer.echo(f"{accept}: noted as done in {run.accept(stages, accept).record}")
    else:
        _show_outputs(run.run_all(stages, only, start), only)


def check_command(stage: "Keyed") -> None:
    """Raises `BadPipeline` when a stage's words do not fit the command line; nothing is run. So a
    misspelt last stage does not fail after hours.
    """
    from trainer.cli.main import app
    from trainer.errors import BadPipeline
    from trainer.recipe.nearest import nearest, question

    command: Any = typer.main.get_command(app)
    said, *words = stage.command
    while hasattr(command, "commands"):
        verb = words.pop(0) if words else ""
        if verb not in command.commands:
            near = (
                question(nearest(verb, command.commands))
                or f"; there are {', '.join(command.commands)}"
            )
            raise BadPipeline(f"stage {stage.name}: there is no command `{said} {verb}`{near}")
        said, command = f"{said} {verb}", command.commands[verb]
    if said == "nearfar pipeline":
        raise BadPipeline(
            f"stage {stage.name}: a pipeline cannot be a stage; put its stages into this one"
        )
    if "--help" in words:
        raise BadPipeline(f"stage {stage.name}: `{said} --help` only shows help; take it out")
    try:
        command.make_context(said, words)
    except _UsageError as error:
        raise BadPipeline(
            f"stage {stage.name}: `{said}`: {error.format_message()} (see `{said} --help`)"
        ) from error


def _show(folder: Path, steps: "Sequence[Step]") -> None:
    width = max(len(step.stage.name) for step in steps)
    typer.echo(folder)
    for step in steps:
        typer.echo(
            f"  {step.stage.name:<{width}} "
            f" {f'to run: {step.reason}' if step.reason else f'done    {step.stage.folder}'}"
        )


def _show_outputs(stages: "Sequence[Keyed]", only: str | None) -> None:
    for stage in stages:
        if only in (None, stage.name):
            for name, path in stage.outputs.items():
                typer.echo(f"{stage.name}.{name}: {path}")
