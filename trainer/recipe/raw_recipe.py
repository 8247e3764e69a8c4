"""A recipe before validation: plain values with their origins."""

import json
from dataclasses import dataclass

from trainer.recipe.yaml_text import Place, Tree, YamlValue


@dataclass(frozen=True, slots=True)
class RawRecipe:
    """The values of one file with its overrides."""

    values: dict[str, YamlValue]
    origins: dict[Place, str]
    """The origin of each place: `file:line`, or the command line."""
    name: str
    """The name of the file in messages."""

    @classmethod
    def from_tree(cls, values: dict[str, YamlValue], tree: Tree, name: str) -> "RawRecipe":
        """Returns the values of a file; `tree` has the line of each place."""
        return cls(values, {place: f"{name}:{line}" for place, line in tree.lines.items()}, name)

    def at(self, place: Place) -> YamlValue:
        """Returns the value at a place, or None if there is none."""
        value: YamlValue = self.values
        for step in place:
            if isinstance(value, dict):
                value = value.get(str(step))
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                value = value[step]
            else:
                return None
        return value

    def remove(self, place: Place) -> None:
        """Removes the value at a place from its section."""
        section = self.at(place[:-1])
        assert isinstance(section, dict)
        section.pop(str(place[-1]), None)

    def origin(self, place: Place) -> str:
        """Returns the origin of the value at a place, or of the section around it."""
        places = (place[:depth] for depth in range(len(place), 0, -1))
        return next((self.origins[key] for key in places if key in self.origins), self.name)


def short_text(value: YamlValue) -> str:
    """Formats a value for a message: one line of at most 60 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
