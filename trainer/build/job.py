"""A training job before its first step."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from trainer.build import hardware
from trainer.build.data import DataSets
from trainer.build.families.family import Evaluate
from trainer.build.families.registry import family_of
from trainer.build.module import validation_times
from trainer.models.encoder import Encoder
from trainer.modules.validation_times import ValidationTimes
from trainer.objectives.teachers import Teacher
from trainer.recipe.schema.families import Recipe
from trainer.storage.visible import visible
from trainer.strategies.machine.plan import Plan

MEASURED_SHARES = 2
"""How many shares of the change by training most runs measure (`choose_share`)."""


@dataclass(frozen=True)
class Job:
    """A recipe with its data, the encoder before training, its teachers and its steps."""

    recipe: Recipe
    plan: Plan
    data: DataSets
    encoder: Encoder
    teachers: Sequence[Teacher]
    steps: int

    @cached_property
    def evaluate(self) -> Evaluate:
        """The function that measures a model of the family; a first stage searches once."""
        return family_of(self.recipe).evaluate(self.recipe)

    @cached_property
    def validation_times(self) -> ValidationTimes:
        """The steps after which the run validates."""
        data = self.data
        return validation_times(self.recipe, len(data.train), self.steps, data.validation)

    @property
    def phases(self) -> dict[str, int]:
        """The number of phases of each kind, from which the remaining time is estimated."""
        phases = {"validation": 1 + self.validation_times.count, "training": 1}
        if (section := self.recipe.refresh_section) is not None:
            phases["mining negatives"] = -(-self.steps // section.every_steps)
        if self.recipe.validation.interpolate and not self.encoder.is_untrained:
            phases["validation"] += MEASURED_SHARES
        if self.data.test is not None:
            times = 1 if self.encoder.is_untrained else 2
            phases |= {
                "BM25": int(not self.data.test.has_images),
                **{collection.name: times for collection in self.data.final_sets},
            }
        return phases

    @property
    def summary(self) -> str:
        """Four lines that describe data, model, steps and machine."""
        recipe, data, optimization = self.recipe, self.data, self.recipe.optimization
        weights = list(self.encoder.parameters())
        trained_weights = sum(weight.numel() for weight in weights if weight.requires_grad)
        test = f", {len(data.test.queries):,} test queries" if data.test else ""
        names = ", ".join(collection.name.removesuffix(" test") for collection in data.general)
        test += f"; general collections: {visible(names)}" if names else ""
        passes = self.steps * optimization.batch_size / len(data.train)
        ranks = f", {self.plan.kind} on {self.plan.ranks} ranks" if self.plan.ranks > 1 else ""
        lines = [
            f"{recipe.name}: {len(data.train):,} training pairs, {len(data.validation.queries):,}"
            f" validation queries{test}",
            f"{recipe.model.base_names}, {recipe.model.tuning.kind}: {trained_weights:,} of"
            f" {sum(weight.numel() for weight in weights):,} weights are trained",
            f"{self.steps} steps of {optimization.batch_size} queries, {passes:.3g} passes over"
            f" the training pairs, {hardware.accelerator(recipe.machine)},"
            f" {hardware.precision(recipe.machine)}{ranks}",
        ]
        if data.mixture:
            lines.insert(1, data.mixture.summary(self.steps, optimization.batch_size))
        return "\n".join(lines)
