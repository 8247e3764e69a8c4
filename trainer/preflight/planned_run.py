"""The run that is checked: a recipe, of which some sections may be invalid, and a machine."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer.recipe.schema.families import Recipe
from trainer.strategies.machine.plan import Plan


@dataclass(frozen=True)
class Request:
    """The arguments of a check."""

    recipe: Path
    machine: Path | None = None
    """The machine file; None: one process."""
    overrides: Sequence[str] = field(default=())
    replace: bool = False
    """Whether the run will be started with `--replace`."""
    nodes: int | None = None
    """The number of machines; None: as in the machine file."""
    node_rank: int | None = None
    """The number of this machine, from 0."""
    main_address: str | None = None
    """The address of machine 0. With it, the ranks of all machines are started."""


@dataclass(frozen=True)
class PlannedRun:
    """The content of a recipe and a machine file."""

    recipe: Recipe
    """The recipe. Its invalid sections have their defaults."""
    sections: frozenset[str]
    """The names of the valid sections."""
    plan: Plan | None
    """The plan; None if the machine file is invalid."""
    plan_fits_here: bool
    """Whether this machine meets the requirements of the machine file."""
    replace: bool = False

    def has(self, *sections: str) -> bool:
        """Returns True if these sections are valid."""
        return self.sections.issuperset(sections)
