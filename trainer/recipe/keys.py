"""All keys of the recipes of each family, from the classes in `trainer.recipe.schema`.

A place is a key as its steps from the root, such as `("trackers", 0, "project")`. A path is a place
without positions in lists. So the items of a list have the path of the list.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

from pydantic.fields import FieldInfo

from trainer.recipe.nearest import nearest, question
from trainer.recipe.other_names import advice
from trainer.recipe.schema.families import DEFAULT_KIND, FAMILIES, RecipeClass
from trainer.recipe.schema.section import Section
from trainer.recipe.yaml_text import Place

Path = tuple[str, ...]

_KIND = FieldInfo(
    annotation=Literal[tuple(FAMILIES)],  # type: ignore[arg-type]
    default=DEFAULT_KIND,
    description=(
        "family of the model: one vector per text, one vector per token, or one score per pair of"
        " query and document"
    ),
)


@dataclass(frozen=True, slots=True)
class Key:
    """One key: a value, or a section with further keys."""

    path: Path
    variant: str | None
    """The `kind` of the section that has this key; None if the section has no variants."""
    fields: dict[str, FieldInfo]
    """The field of this key by the `kind` of each family that has it."""

    @property
    def name(self) -> str:
        """The key as it is written."""
        return ".".join(self.path)

    @property
    def sections(self) -> tuple[type[Section], ...]:
        """The sections of the key in all families; empty if the key is a value."""
        fields = self.fields.values()
        sections = (section for field in fields for section in sections_in(field))
        return tuple(dict.fromkeys(sections))


def sections_in(field: FieldInfo | None) -> tuple[type[Section], ...]:
    """Returns the sections of a field: the variants of `objective`, the items of `trackers`."""
    return sections_of(field.annotation) if field is not None else ()


def sections_of(annotation: Any) -> tuple[type[Section], ...]:
    """Returns the sections in a type: both for `Lora | Full`, and Wandb for `tuple[Wandb, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return (annotation,)
    return tuple(section for part in get_args(annotation) for section in sections_of(part))


def kind_of(section: type[Section]) -> str | None:
    """Returns the `kind` of a variant, or None if the section has no variants."""
    return section.model_fields["kind"].default if "kind" in section.model_fields else None


def default_kind(field: FieldInfo) -> str | None:
    """Returns the `kind` of a field's default section, or None if it has none."""
    return kind_of(type(field.default)) if isinstance(field.default, Section) else None


@cache
def all_keys() -> tuple[Key, ...]:
    """All keys of all families, each section before its keys, in the order of the classes."""
    keys: dict[tuple[Path, str | None], Key] = {}
    for kind, family in FAMILIES.items():
        for path, variant, field in _keys_below((family,), ()):
            key = keys.setdefault((path, variant), Key(path, variant, {}))
            key.fields[kind] = _KIND if path == ("kind",) else field
    return tuple(keys.values())


def _keys_below(
    sections: tuple[type[Section], ...], path: Path
) -> Iterator[tuple[Path, str | None, FieldInfo]]:
    for section in sections:
        for name, field in section.model_fields.items():
            yield (*path, name), kind_of(section) if len(sections) > 1 else None, field
            yield from _keys_below(sections_in(field), (*path, name))


@cache
def paths_of(kind: str) -> frozenset[Path]:
    """Returns the paths of all keys of one family."""
    return frozenset(key.path for key in all_keys() if kind in key.fields)


def path_of(place: Place) -> Path:
    """Returns the path of a place."""
    return tuple(step for step in place if isinstance(step, str))


def field_at(place: Place, family: RecipeClass) -> FieldInfo | None:
    """Returns the family's field at a place, from the first variant that has it.

    It is None at the root, or if the family has no such key.
    """
    sections: tuple[type[Section], ...] = (family,)
    field: FieldInfo | None = None
    for step in path_of(place):
        fields = [
            section.model_fields[step] for section in sections if step in section.model_fields
        ]
        field = fields[0] if fields else None
        sections = sections_in(field)
    return field


def nearest_keys(name: str, parent: Path = (), kind: str | None = None) -> list[str]:
    """Returns suggestions for the unknown key `name` under `parent`, best first.

    These are keys of that name in other sections and similar keys of the same section, or else
    similar keys of all sections. With `kind`, only keys of that family are suggested.

    >>> nearest_keys("learning_rat", ("optimization",))[0]
    'optimization.learning_rate'
    >>> nearest_keys("batch_size")
    ['optimization.batch_size']
    """
    paths = {key.name: key.path for key in all_keys() if kind is None or kind in key.fields}
    siblings = {path[-1]: full for full, path in paths.items() if path[:-1] == parent}
    same_name = [full for full, path in paths.items() if path[-1] == name]
    if near := [*same_name, *(siblings[match] for match in nearest(name, siblings))]:
        return list(dict.fromkeys(near))[:3]
    similar = nearest(name, {path[-1] for path in paths.values()}, likeness=0.75)
    return [full for match in similar for full, path in paths.items() if path[-1] == match][:3]


def suggestion_for(name: str, parent: Path = (), kind: str | None = None) -> str:
    """Returns `; ` and what to write instead of the unknown key `name` under `parent`, or "".

    >>> suggestion_for("batch_size")
    '; did you mean optimization.batch_size?'
    >>> suggestion_for("num_train_epochs")
    '; write optimization.epochs'
    """
    return advice(name) or question(nearest_keys(name, parent, kind))
