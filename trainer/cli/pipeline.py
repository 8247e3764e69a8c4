"""`nearfar pipeline`: runs stages that use each other's outputs. A stage runs again only if its
dependencies have changed.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trainer.pipeline.keys import KeyedStage
    from trainer.pipeline.run import PlannedStage

    Context = typer.Context
else:
    Context = typer.Context.__base__  # the class of the object that typer passes

PipelineFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="pipeline file, e.g. recipes/pipelines/teacher-to-student.yaml",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="changes to the pipeline: values.NAME=VALUE, name=NAME, output=FOLDER",
        show_default=False,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="print which stages are done and why the others would run; run nothing"
    ),
]
OnlyStage = Annotated[
    str | None,
    typer.Option("--only", metavar="STAGE", help="run only this stage", show_default=False),
]
StartStage = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="STAGE",
        help="run this stage and all that depend on it again, although they are done",
        show_default=False,
    ),
]
PrintCommands = Annotated[
    bool,
    typer.Option(
        "--print-commands",
        help="print the commands that would run as a shell script for a cluster; run nothing",
    ),
]
AcceptStage = Annotated[
    str | None,
    typer.Option(
        "--accept",
        metavar="STAGE",
        help="record a stage as done whose command was run by hand",
        show_default=False,
    ),
]


def pipeline(
    context: Context,
    file: PipelineFile,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    single_stage: OnlyStage = None,
    start: StartStage = None,
    print_commands: PrintCommands = False,
    accept: AcceptStage = None,
) -> None:
    """Run the stages of a pipeline that are not done. A pipeline that was stopped or killed
    continues when it is started again.
    """
    from trainer.errors import BadPipeline
    from trainer.pipeline import run
    from trainer.pipeline.commands import check_command
    from trainer.pipeline.file import load_pipeline

    modes = [dry_run, print_commands, single_stage is not None, accept is not None]
    if sum(modes) > 1 or (start is not None and any(modes[1:])):
        raise BadPipeline(
            "give only one of --dry-run, --print-commands, --only and --accept; --from can be"
            " combined only with --dry-run"
        )
    _check_single_process()
    stages = load_pipeline(file, overrides or [])
    if single_stage is not None:
        run.check_stage(stages, single_stage)
    steps = run.plan(stages, start)
    for step in steps:
        check_command(step.stage, context.find_root().command)
    if dry_run:
        _show(stages.folder, steps)
    elif print_commands:
        command = ["nearfar", "pipeline", str(file), *(overrides or [])]
        typer.echo("\n".join(run.script_lines(steps, command)))
    elif accept is not None:
        typer.echo(f"{accept}: recorded as done in {run.accept(stages, accept).record}")
    else:
        _show_outputs(run.run_all(stages, single_stage, start), single_stage)


def _check_single_process() -> None:
    from trainer.errors import BadMachine
    from trainer.strategies.machine.environment import plan_from_environment

    if plan_from_environment(os.environ).ranks > 1:
        raise BadMachine(
            "a pipeline runs in one process, but a launcher started several; set the processes of a"
            " stage with `machine: FILE` in the pipeline"
        )


def _show(folder: Path, steps: "Sequence[PlannedStage]") -> None:
    width = max(len(step.stage.name) for step in steps)
    typer.echo(folder)
    for step in steps:
        state = f"to run: {step.reason}" if step.reason else f"done    {step.stage.folder}"
        typer.echo(f"  {step.stage.name:<{width}}  {state}")


def _show_outputs(stages: "Sequence[KeyedStage]", single_stage: str | None) -> None:
    for stage in stages:
        if single_stage in (None, stage.name):
            for name, path in stage.outputs.items():
                typer.echo(f"{stage.name}.{name}: {path}")
