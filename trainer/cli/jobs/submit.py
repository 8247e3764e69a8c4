"""`nearfar submit`: runs a recipe or a mining job on the nodes of a Slurm cluster."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from trainer.cli.launch import RecipeOrMine, Words, mining_job
from trainer.cli.options import jobs as options
from trainer.cli.options import shared

if TYPE_CHECKING:
    from trainer.strategies.machine.plan import Plan


def submit(
    recipe: RecipeOrMine,
    machine: shared.MachineFile,
    slurm: options.SlurmProfile,
    overrides: Words = None,
    nodes: shared.Nodes = None,
    changes: options.Changes = None,
    name: options.JobName = None,
    sweep: options.Sweep = None,
    dependencies: options.Dependencies = None,
    dry_run: options.DryRun = False,
) -> None:
    """Submit a training or mining job to Slurm. A run that is preempted saves, is started again,
    and resumes.
    """
    from trainer.slurm.profile import load_profile
    from trainer.slurm.script import BatchJob, render
    from trainer.slurm.submit import check_python, check_script, plan_job, submit_script

    profile = load_profile(slurm, changes or [])
    plan = plan_job(machine, profile, nodes)
    words = overrides or []
    own_name, runs = (
        _check_mining(words, sweep)
        if recipe == Path("mine")
        else _check_training(recipe, words, sweep or [], plan)
    )
    job = BatchJob(
        name or own_name,
        plan.nodes,
        Path.cwd(),
        ("--machine", str(machine), str(recipe), *words),
        tuple(runs),
        tuple(dependencies or ()),
    )
    check_python(profile, job.folder)
    script = render(job, profile)
    check_script(script)
    if dry_run:
        _print(script)
        return
    number = submit_script(script, job.folder / profile.log_folder)
    tasks = f" with {len(runs)} runs" if runs else ""
    typer.echo(f"job {number}{tasks}; its output: {profile.log_folder}/{job.name}-{number}*.out")


def _print(script: str) -> None:
    """Prints the script, after Slurm has checked it if there is a cluster."""
    from trainer.slurm.submit import check_by_slurm, has_cluster

    if has_cluster():
        check_by_slurm(script)
    else:
        typer.echo("no cluster answers here, so only bash has checked this script", err=True)
    typer.echo(script, nl=False)


def _check_training(
    recipe: Path, overrides: Sequence[str], sweep: Sequence[str], plan: "Plan"
) -> tuple[str, list[tuple[str, ...]]]:
    """Returns the name of the recipe, and the changes for each run of a sweep.

    Raises BadRecipe if one of the runs cannot be carried out by the ranks of the plan.
    """
    from trainer.data.order import check_batch_divisible
    from trainer.recipe.load import load_recipe
    from trainer.slurm.sweep import sweep_runs

    if unknown := [word for word in overrides if word.startswith("-")]:
        raise typer.BadParameter(f"No such option: {unknown[0].partition('=')[0]}")
    name = load_recipe(recipe, overrides).name
    runs = sweep_runs(sweep, name)
    for changes in runs or [()]:
        settings = load_recipe(recipe, [*overrides, *changes])
        check_batch_divisible(settings.optimization.batch_size, plan.ranks)
    return name, runs


def _check_mining(words: list[str], sweep: list[str] | None) -> tuple[str, list[tuple[str, ...]]]:
    """Returns the name of a mining job, which has no further runs."""
    if sweep:
        raise typer.BadParameter("--sweep is for recipes; submit each mining job by itself")
    mining_job(words, replace=False)
    return "mine", []
