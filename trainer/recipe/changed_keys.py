"""The keys of a recipe that differ from their defaults."""

from collections.abc import Iterator
from typing import Any

from trainer.recipe.keys import default_kind, kind_of
from trainer.recipe.schema.families import DEFAULT_KIND
from trainer.recipe.schema.section import Section


def changed_keys(recipe: Section) -> dict[str, Any]:
    """Returns the full name and the value of each key that has no default or another value.

    `kind` is among them for a section that is not of the default kind. Keys of the same recipe in
    the default kind of that section are not.
    """
    kind = kind_of(type(recipe))
    family = {} if kind in (None, DEFAULT_KIND) else {"kind": kind}
    return family | dict(_changes(recipe, ""))


def _changes(section: Section, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), f"{prefix}{name}"
        if isinstance(value, Section):
            kind = kind_of(type(value))
            if kind != default_kind(field):
                yield f"{key}.kind", kind
            yield from _changes(value, f"{key}.")
        elif field.is_required() or value != field.get_default(call_default_factory=True):
            yield key, _plain(value)


def _plain(value: Any) -> Any:
    """Returns the value without sections, as values for JSON."""
    if isinstance(value, Section):
        return value.model_dump(mode="json")
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
