"""`nearfar pipeline`: stages that name each other's outputs, each repeated only when something it
depends on has changed.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trainer.pipeline.keys import Keyed
    from trainer.pipeline.run import Step

    Context = typer.Context
else:
    Context = typer.Context.__base__  # what typer really passes

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
        "--dry-run", help="print which stages are done, and why the others would run; run none"
    ),
]
OnlyStage = Annotated[
    str | None,
    typer.Option("--only", metavar="STAGE", help="run this stage alone", show_default=False),
]
StartStage = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="STAGE",
        help="run this stage again, and all that depend on it, although they are done",
        show_default=False,
    ),
]
PrintCommands = Annotated[
    bool,
    typer.Option(
        "--print-commands",
        help="print the commands that would run as a shell script, for a cluster; run none",
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
    only: OnlyStage = None,
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

    modes = [dry_run, print_commands, only is not None, accept is not None]
    if sum(modes) > 1 or (start is not None and any(modes[1:])):
        raise BadPipeline(
            "give one of --dry-run, --print-commands, --only and --accept; --from goes with"
            " --dry-run alone"
        )
    _check_single_process()
    stages = load_pipeline(file, overrides or [])
    if only is not None:
        run.check_stage(stages, only)
    steps = run.plan(stages, start)
    for step in steps:
        check_command(step.stage, context.find_root().command)
    if dry_run:
        _show(stages.folder, steps)
    elif print_commands:
        by_hand = run.by_hand(steps, ["nearfar", "pipeline", str(file), *(overrides or [])])
        typer.echo("\n".join(by_hand))
    elif accept is not None:
        typer.echo(f"{accept}: recorded as done in {run.accept(stages, accept).record}")
    else:
        _show_outputs(run.run_all(stages, only, start), only)


def _check_single_process() -> None:
    from trainer.errors import BadMachine
    from trainer.strategies.environment import plan_from_environment

    if plan_from_environment(os.environ).ranks > 1:
        raise BadMachine(
            "a pipeline is one process, and a launcher started several; name the processes of a"
            " stage with `machine: FILE` in the pipeline"
        )


def _show(folder: Path, steps: "Sequence[Step]") -> None:
    width = max(len(step.stage.name) for step in steps)
    typer.echo(folder)
    for step in steps:
        state = f"to run: {step.reason}" if step.reason else f"done    {step.stage.folder}"
        typer.echo(f"  {step.stage.name:<{width}}  {state}")


def _show_outputs(stages: "Sequence[Keyed]", only: str | None) -> None:
    for stage in stages:
        if only in (None, stage.name):
            for name, path in stage.outputs.items():
                typer.echo(f"{stage.name}.{name}: {path}")
