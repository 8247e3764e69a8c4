"""A run that is checked: a recipe, of which some sections may be broken, and a machine."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer.recipe.schema.families import Recipe
from trainer.strategies.machine.plan import Plan


@dataclass(frozen=True)
class Request:
    """What is to be checked, as it was given."""

    recipe: Path
    machine: Path
    overrides: Sequence[str] = field(default=())
    replace: bool = False
    """Whether the run will be started with `--replace`."""
    nodes: int | None = None
    """The number of machines; None: as the machine file says."""


@dataclass(frozen=True)
class PlannedRun:
    """What was read of a recipe and a machine file."""

    recipe: Recipe
    """A broken section of the file has its defaults here."""
    sections: frozenset[str]
    """The sections of the file that are not broken."""
    plan: Plan | None
    """None where the machine file is broken."""
    plan_fits_here: bool
    """Whether this is a machine as the machine file describes it."""
    replace: bool = False

    def has(self, *sections: str) -> bool:
        """Whether these sections are not broken."""
        return self.sections.issuperset(sections)
