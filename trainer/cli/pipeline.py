"""`nearfar pipeline`: runs stages that use each other's outputs. A stage runs again only if its
dependencies have changed.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from trainer.cli.options import pipelines

if TYPE_CHECKING:
    from trainer.pipeline.keys import KeyedStage
    from trainer.pipeline.run import PlannedStage

    Context = typer.Context
else:
    Context = typer.Context.__base__  # the class of the object that typer passes


def pipeline(
    context: Context,
    file: pipelines.PipelineFile,
    overrides: pipelines.Overrides = None,
    dry_run: pipelines.DryRun = False,
    single_stage: pipelines.OnlyStage = None,
    start: pipelines.StartStage = None,
    print_commands: pipelines.PrintCommands = False,
    accept: pipelines.AcceptStage = None,
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
        typer.echo("\n".join(run.script_lines(stages, steps, command)))
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
