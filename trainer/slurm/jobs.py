"""The jobs of a recipe and of the stages of a pipeline."""

from collections.abc import Sequence
from pathlib import Path

from trainer.data.order import check_batch_divisible
from trainer.errors import BadJob
from trainer.pipeline.file import load_pipeline
from trainer.pipeline.run import PlannedStage, plan
from trainer.recipe.load import load_recipe
from trainer.slurm.script import BatchJob
from trainer.slurm.sweep import sweep_runs
from trainer.strategies.machine.plan import Plan


def training_job(
    recipe: Path, overrides: Sequence[str], sweep: Sequence[str], machine: Path, plan: Plan
) -> BatchJob:
    """Returns the job of a recipe, or of its sweep.

    Raises BadRecipe if the ranks of the plan cannot carry out one of the runs.
    """
    name = load_recipe(recipe, overrides).name
    runs = sweep_runs(sweep, name)
    for changes in runs or [()]:
        settings = load_recipe(recipe, [*overrides, *changes])
        check_batch_divisible(settings.optimization.batch_size, plan.ranks)
    words = ("launch", "--resume", "--machine", str(machine), str(recipe), *overrides)
    return BatchJob(name, plan.nodes, words, tuple(runs))


def stages_to_run(words: Sequence[str]) -> tuple[str, list[PlannedStage]]:
    """Returns the name of a pipeline, and its stages that are not done.

    `words` are its file and the changes to it. Raises BadJob if all stages are done.
    """
    pipeline = load_pipeline(Path(words[0]), words[1:])
    steps = [step for step in plan(pipeline) if step.reason]
    if not steps:
        raise BadJob(f"all stages of {words[0]} are done; nothing is submitted")
    return pipeline.name, steps


def stage_job(name: str, stage: str, words: Sequence[str]) -> BatchJob:
    """Returns the job of one stage of a pipeline, which runs on one node."""
    return BatchJob(f"{name}-{stage}", 1, ("pipeline", *words, "--only", stage))
