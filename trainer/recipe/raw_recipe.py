"""A recipe before it is checked: plain values, and where each was given."""

import json
from dataclasses import dataclass

from trainer.recipe.yaml_text import Place, YamlValue


@dataclass(frozen=True, slots=True)
class RawRecipe:
    """The values of one file with its overrides."""

    values: dict[str, YamlValue]
    origins: dict[Place, str]
    """Where a place was given: `file:line`, or the command line."""
    name: str
    """The file, as it was named."""

    def at(self, place: Place) -> YamlValue:
        """The value at a place; None where there is none."""
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
        """Takes the value at a place out of its section."""
        section = self.at(place[:-1])
        assert isinstance(section, dict)
        section.pop(str(place[-1]), None)

    def origin(self, place: Place) -> str:
        """Where the value at a place, else the section around it, was given."""
        places = (place[:depth] for depth in range(len(place), 0, -1))
        return next((self.origins[key] for key in places if key in self.origins), self.name)


def short_text(value: YamlValue) -> str:
    """A value in a message: one line of at most 60 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
