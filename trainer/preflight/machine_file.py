"""Checks the machine file of a run, alone and together with the recipe."""

from pathlib import Path

import yaml

from trainer.build import hardware
from trainer.data.order import check_batch_divisible
from trainer.errors import BadMachine
from trainer.preflight.findings import Findings
from trainer.preflight.planned_run import PlannedRun, Request
from trainer.recipe.schema.families import Recipe
from trainer.runtime.run_folder import check_run_folder
from trainer.strategies.launcher import on_nodes, read_by_accelerate
from trainer.strategies.machine.machine_file import plan_from_file
from trainer.strategies.machine.plan import SINGLE, Plan, check_requirements
from trainer.tracking.opening import check_trackers


def check_machine(
    findings: Findings, request: Request, recipe: Recipe | None, sections: frozenset[str]
) -> PlannedRun | None:
    """Adds findings about the machine file, alone and together with the recipe.

    Returns the run that both describe, or None without a recipe.
    """
    plan: Plan | None = SINGLE
    ranks: int | None = SINGLE.ranks
    if request.machine is None:
        findings.add("ok", "machine", "no machine file: one process, as for `nearfar fit`")
    else:
        plan = _check_file(findings, request.machine, request.nodes)
        ranks = plan.ranks if plan is not None else _ranks_in(request.machine)
    plan_fits_here = plan is not None and _check_this_machine(findings, plan)
    if recipe is None:
        return None
    run = PlannedRun(recipe, sections, plan, plan_fits_here, request.replace)
    _check_batch(findings, run, ranks)
    _check_run_folder(findings, run)
    with findings.catch("trackers"):
        check_trackers(recipe.trackers)
    return PlannedRun(_on_machine(findings, run), sections, plan, plan_fits_here, request.replace)


def _check_file(findings: Findings, path: Path, nodes: int | None) -> Plan | None:
    with findings.catch("machine"):
        plan = plan_from_file(path)
        distributed_type = read_by_accelerate(path).distributed_type
        plan = on_nodes(plan, path, nodes or plan.nodes, distributed_type)
        place = f"{plan.nodes} nodes" if plan.nodes > 1 else "one node"
        ranks = f"{plan.ranks} rank{'s' * (plan.ranks > 1)}"
        device = plan.accelerator or "any device"
        copies = ""
        if plan.kind == "fsdp2" and plan.weight_copies > 1:
            copies = f", {plan.weight_copies} copies of the weights"
        findings.add("ok", "machine", f"{path}: {plan.kind}, {ranks} on {place}, {device}{copies}")
        return plan
    return None


def _ranks_in(path: Path) -> int | None:
    """Returns the number of ranks in an invalid machine file, if it can be read."""
    try:
        ranks = yaml.safe_load(path.read_text(encoding="utf-8"))["num_processes"]
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError):
        return None
    return ranks if isinstance(ranks, int) and ranks > 0 else None


def _check_this_machine(findings: Findings, plan: Plan) -> bool:
    try:
        check_requirements(plan)
    except BadMachine as error:
        findings.add(
            "warning",
            "machine",
            "this is not a machine that the file describes, so memory and gradient cannot be"
            f" checked on it: {error}",
        )
        return False
    return True


def _check_batch(findings: Findings, run: PlannedRun, ranks: int | None) -> None:
    if ranks and run.has("optimization"):
        with findings.catch("batch"):
            size = run.recipe.optimization.batch_size
            check_batch_divisible(size, ranks)
            findings.add("ok", "batch", f"{size} queries per step, {size // ranks} on each rank")


def _check_run_folder(findings: Findings, run: PlannedRun) -> None:
    if run.has("name", "output"):
        with findings.catch("run folder"):
            folder = Path(run.recipe.output) / run.recipe.name
            check_run_folder(folder, run.replace)
            note = ", the former run will be moved aside" if run.replace and folder.exists() else ""
            findings.add("ok", "run folder", f"{folder}{note}")


def _on_machine(findings: Findings, run: PlannedRun) -> Recipe:
    """Returns the recipe with the settings of the machine file. A contradiction is a finding."""
    if run.plan is None or not run.has("machine"):
        return run.recipe
    with findings.catch("recipe and machine"):
        return hardware.on_machine(run.recipe, run.plan)
    settings_of_file = {
        "accelerator": run.plan.accelerator or "auto",
        "precision": run.plan.precision or "auto",
    }
    machine = run.recipe.machine.model_copy(update=settings_of_file)
    return run.recipe.model_copy(update={"machine": machine})
