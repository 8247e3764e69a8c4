"""What `nearfar check` finds in the recipe and the machine file, each and together."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.preflight.estimates import Findings
    from trainer.recipe.schema.families import Recipe
    from trainer.strategies.environment import Plan


def look_at_recipe(
    findings: "Findings", path: Path, overrides: Sequence[str]
) -> "tuple[Recipe | None, set[str]]":
    """The recipe and the names of its good sections: of a broken one, those that can be looked at
    all the same.
    """
    from trainer.recipe.load import load_recipe

    with findings.of("recipe"):
        run = load_recipe(path, overrides)
        findings.add(
            "ok",
            "recipe",
            f"{path}: {run.name}, {run.objective.kind}, {run.optimization.batch_size} queries a"
            " step",
        )
        return run, set(type(run).model_fields)
    return _good_sections(path, overrides)


def _good_sections(path: Path, overrides: Sequence[str]) -> "tuple[Recipe | None, set[str]]":
    """Section by section: what is broken, or missing, is stood in for."""
    from trainer.errors import BadRecipe
    from trainer.recipe.load import load_recipe
    from trainer.recipe.shipped import recipe_file
    from trainer.recipe.yaml_text import dump, parse, read_text

    try:
        tree = parse(read_text(recipe_file(path)), str(path)).value
    except BadRecipe:
        return None, set()
    if not isinstance(tree, dict):
        return None, set()
    values: dict[str, object] = {
        "name": "unread",
        "model": {"backbone": "unread"},
        "data": {"train": "unread"},
    }
    settings: list[str] = []
    of_section = {
        override: override.partition("=")[0].partition(".")[0].strip() for override in overrides
    }
    pairs = [text.partition("=") for text in overrides]
    kinds = [value for key, _, value in pairs if key == "kind"]
    if [tree.get("kind"), *kinds][-1] == "cross_encoder":
        values["objective"] = {"kind": "pointwise", "graded": True}
    broken = values.keys() - tree.keys() - set(of_section.values())
    with TemporaryDirectory() as folder:
        trial = Path(folder) / "recipe.yaml"
        for section in sorted({*tree, *of_section.values()}, key=_place_in_trial):
            own = [override for override in overrides if of_section[override] == section]
            wanted = values | ({section: tree[section]} if section in tree else {})
            trial.write_text(dump(wanted), encoding="utf-8")
            try:
                load_recipe(trial, [*settings, *own])
            except BadRecipe:
                broken.add(section)
            else:
                values, settings = wanted, [*settings, *own]
        trial.write_text(dump(values), encoding="utf-8")
        run = load_recipe(trial, settings)
        return run, set(type(run).model_fields) - broken


def _place_in_trial(section: str) -> tuple[int, str]:
    """Sections that others are checked against come first."""
    order = ("kind", "data", "optimization", "refresh", "model", "objective")
    return (order.index(section) if section in order else len(order)), section


def look_at_machine(findings: "Findings", path: Path) -> "tuple[Plan | None, int | None]":
    """The plan and its ranks; of a broken file, the ranks if it says them."""
    from trainer.strategies.environment import plan_from_file
    from trainer.strategies.launcher import read_by_accelerate

    with findings.of("machine"):
        plan = plan_from_file(path)
        read_by_accelerate(path)
        where = f"{plan.nodes} nodes" if plan.nodes > 1 else "one node"
        findings.add(
            "ok",
            "machine",
            f"{path}: {plan.kind}, {plan.ranks} rank{'s' * (plan.ranks > 1)} on {where},"
            f" {plan.accelerator or 'any device'}",
        )
        return plan, plan.ranks
    return None, _ranks_said(path)


def _ranks_said(path: Path) -> int | None:
    import yaml

    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))["num_processes"]
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError):
        return None
    return said if isinstance(said, int) and said > 0 else None


def look_at_this_machine(findings: "Findings", plan: "Plan") -> bool:
    """Whether this is a machine as the file describes it."""
    from trainer.errors import BadMachine
    from trainer.strategies.environment import check_here

    try:
        check_here(plan)
    except BadMachine as error:
        findings.add(
            "warning",
            "machine",
            "this is not the machine of the file, so its memory and its gradient cannot be seen"
            f" from here: {error}",
        )
        return False
    return True


def look_at_both(
    findings: "Findings",
    run: "Recipe",
    read: set[str],
    plan: "Plan | None",
    ranks: int | None,
    replace: bool,
) -> "Recipe":
    """The recipe as it is on this machine; what does not go together is found."""
    from trainer.build import hardware
    from trainer.data.order import check_batch_divisible
    from trainer.runtime.run_folder import check_run_folder
    from trainer.runtime.trackers import check_trackers

    if ranks and "optimization" in read:
        with findings.of("batch"):
            check_batch_divisible(run.optimization.batch_size, ranks)
            findings.add(
                "ok",
                "batch",
                f"{run.optimization.batch_size} queries a step,"
                f" {run.optimization.batch_size // ranks} on each rank",
            )
    if {"name", "output"} <= read:
        with findings.of("run folder"):
            folder = Path(run.output) / run.name
            check_run_folder(folder, replace)
            moved = ", what is there is moved aside" if replace and folder.exists() else ""
            findings.add("ok", "run folder", f"{folder}{moved}")
    with findings.of("trackers"):
        check_trackers(run.trackers)
    if plan and "machine" in read:
        with findings.of("recipe and machine"):
            return hardware.on_machine(run, plan)
        said = {
            "accelerator": plan.accelerator or "auto",
            "precision": plan.precision or "auto",
        }  # the file's word, for the looks to come
        return run.model_copy(update={"machine": run.machine.model_copy(update=said)})
    return run
