"""`nearfar submit`: runs a recipe, a mining job or a pipeline on the nodes of a Slurm cluster."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from trainer.cli.launch import Words, mining_job
from trainer.cli.options import jobs as options
from trainer.cli.options import shared

if TYPE_CHECKING:
    from trainer.slurm.profile import Profile
    from trainer.slurm.script import BatchJob

    Context = typer.Context
else:
    Context = typer.Context.__base__  # the class of the object that typer passes


def submit(
    context: Context,
    work: options.Work,
    slurm: options.SlurmProfile,
    words: Words = None,
    machine: options.MachineFile = None,
    nodes: shared.Nodes = None,
    changes: options.Changes = None,
    name: options.JobName = None,
    sweep: options.Sweep = None,
    dependencies: options.Dependencies = None,
    dry_run: options.DryRun = False,
) -> None:
    """Submit a training or mining job, or a pipeline, to Slurm. A run that is preempted saves, is
    started again, and resumes.
    """
    from trainer.slurm.profile import load_profile
    from trainer.slurm.submit import check_python

    profile = load_profile(slurm, changes or [])
    if work == "pipeline":
        if machine or nodes or sweep:
            raise typer.BadParameter("--machine, --nodes and --sweep are not for a pipeline")
        jobs = _stage_jobs(context, words or [], name)
    else:
        job = _launch_job(work, words or [], machine, nodes, sweep or [], profile)
        jobs = [replace(job, name=name or job.name)]
    check_python(profile, Path.cwd())
    _submit(jobs, profile, dependencies or (), dry_run)


def _submit(
    jobs: "Sequence[BatchJob]", profile: "Profile", dependencies: Sequence[str], dry_run: bool
) -> None:
    """Submits jobs, each of which starts when the one before has succeeded, or prints them."""
    from trainer.slurm.script import render
    from trainer.slurm.submit import check_script, submit_script

    jobs = [replace(job, dependencies=tuple(dependencies)) for job in jobs]
    for job in jobs:
        check_script(render(job, profile))
    for job in jobs:
        if dry_run:
            _print(render(job, profile))
            continue
        script = render(replace(job, dependencies=tuple(dependencies)), profile)
        number = submit_script(script, job.folder / profile.log_folder)
        dependencies = [number]
        runs = f" with {len(job.sweep)} runs" if job.sweep else ""
        output = f"{profile.log_folder}/{job.name}-{number}*.out"
        typer.echo(f"job {number}, {job.name}{runs}; its output: {output}")


def _print(script: str) -> None:
    """Prints the script, after Slurm has checked it if there is a cluster."""
    from trainer.slurm.submit import check_by_slurm, has_cluster

    if has_cluster():
        check_by_slurm(script)
    else:
        typer.echo("no cluster answers here, so only bash has checked this script", err=True)
    typer.echo(script, nl=False)


def _launch_job(
    work: str,
    words: list[str],
    machine: Path | None,
    nodes: int | None,
    sweep: list[str],
    profile: "Profile",
) -> "BatchJob":
    """Returns the job of a recipe or of a mining job, which has been checked."""
    from trainer.slurm.jobs import training_job
    from trainer.slurm.script import BatchJob
    from trainer.slurm.submit import plan_job

    if machine is None:
        raise typer.BadParameter("--machine FILE is missing, e.g. launch/accelerate/ddp.yaml")
    plan = plan_job(machine, profile, nodes)
    if work != "mine":
        _refuse_options(words)
        return training_job(Path(work), words, sweep, machine, plan)
    if sweep:
        raise typer.BadParameter("--sweep is for recipes; submit each mining job by itself")
    mining_job(words, replace=False)
    return BatchJob("mine", plan.nodes, ("launch", "--machine", str(machine), "mine", *words))


def _stage_jobs(context: Context, words: list[str], name: str | None) -> "list[BatchJob]":
    """Returns the jobs of a pipeline: one for each stage that is not done, in their order."""
    from trainer.pipeline.commands import check_command
    from trainer.slurm.jobs import stage_job, stages_to_run

    if not words:
        raise typer.BadParameter("give the file of the pipeline: submit pipeline FILE")
    _refuse_options(words)
    own_name, steps = stages_to_run(words)
    for step in steps:
        check_command(step.stage, context.find_root().command)
    return [stage_job(name or own_name, step.stage.name, words) for step in steps]


def _refuse_options(words: list[str]) -> None:
    if unknown := [word for word in words if word.startswith("-")]:
        raise typer.BadParameter(f"No such option: {unknown[0].partition('=')[0]}")
