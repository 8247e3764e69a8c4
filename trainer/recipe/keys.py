"""Every key a recipe can have: what it takes, what it means, which one a mistyped key was meant to
be.

All of it is read off the tree in `trainer.recipe.schema`, so that there is one list of keys.
"""

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher, get_close_matches
from inspect import getdoc
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from trainer.errors import BadRecipe
from trainer.recipe.schema import Recipe, Section

_SCHEMA_URI = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the tree: a value, or a section with keys of its own."""

    path: tuple[str, ...]
    field: FieldInfo
    kind: str | None
    """The variant of its section that has this key, where the section has variants."""

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def sections(self) -> tuple[type[Section], ...]:
        """The section this key holds; several when it has variants, none when it holds a value."""
        return sections_in(self.field.annotation)


def sections_in(annotation: Any) -> tuple[type[Section], ...]:
    """The sections a type is made of: `Contrastive | Cosent` gives both, `tuple[Wandb, ...]` gives
    Wandb.
    """
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return (annotation,)
    return tuple(section for argument in get_args(annotation) for section in sections_in(argument))


def kind_of(section: type[Section]) -> str | None:
    """The value of `kind` that stands for this variant."""
    return section.model_fields["kind"].default if "kind" in section.model_fields else None


def all_keys(
    sections: Sequence[type[Section]] = (Recipe,), path: tuple[str, ...] = ()
) -> Iterator[Key]:
    """Every key, sections before their contents, in the order of the tree; the items of a list have
    the list's path.
    """
    for section in sections:
        for name, field in section.model_fields.items():
            key = Key((*path, name), field, kind_of(section) if len(sections) > 1 else None)
            yield key
            yield from all_keys(key.sections, key.path)


def nearest_keys(name: str, parent: tuple[str, ...] = ()) -> list[str]:
    """The keys that `name`, written under `parent`, was likely meant to be, best first: one of that
    very name, those of the section that look like it, else those of all sections that do.

    >>> nearest_keys("learning_rat", ("optimization",))[0]
    'optimization.learning_rate'
    >>> nearest_keys("batch_size")
    ['optimization.batch_size']
    """
    keys = {key.name: key.path for key in all_keys()}
    siblings = {path[-1]: full for full, path in keys.items() if path[:-1] == parent}
    elsewhere = [full for full, path in keys.items() if path[-1] == name]
    if near := [*elsewhere, *(siblings[match] for match in nearest(name, siblings))]:
        return near[:3]
    alike = nearest(name, {path[-1] for path in keys.values()}, likeness=0.75)
    return [full for match in alike for full, path in keys.items() if path[-1] == match][:3]


def nearest(word: str, candidates: Iterable[str], likeness: float = 0.6) -> list[str]:
    """Those of the candidates that are most like `word`, at most three, best first; none below the
    likeness (0 to 1).

    >>> nearest("learning_rat", ["learning_rate", "head_learning_rate", "epochs"])
    ['learning_rate']
    """
    matches = get_close_matches(word, sorted(candidates), n=3, cutoff=likeness)
    likenesses = [SequenceMatcher(None, match, word).ratio() for match in matches]
    return [
        match
        for match, ratio in zip(matches, likenesses, strict=True)
        if ratio > likenesses[0] - 0.1
    ]


def question(candidates: Sequence[str]) -> str:
    """`; did you mean a or b?`, or nothing when there is no candidate."""
    return f"; did you mean {' or '.join(candidates)}?" if candidates else ""


def choices(annotation: Any) -> tuple[str, ...]:
    """The words a value may be, where only certain words are allowed."""
    if get_origin(annotation) is Literal:
        return tuple(str(word) for word in get_args(annotation))
    return tuple(
        word
        for argument in get_args(annotation)
        if argument is not Ellipsis
        for word in choices(argument)
    )


def type_text(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """A type as a person says it.

    >>> type_text(int | None)
    'a whole number or null'
    >>> type_text(Literal["mean", "cls"] | None)
    'mean, cls or null'
    """
    return _or(_alternatives(annotation, metadata))


def _alternatives(annotation: Any, metadata: Sequence[Any]) -> list[str]:
    """What a value may be, one text an alternative."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    sections = sections_in(annotation)
    if sections and (origin not in (Union, UnionType) or all(map(sections_in, arguments))):
        kinds = (
            f" with kind {_or([str(kind_of(section)) for section in sections])}"
            if kind_of(sections[0])
            else ""
        )
        several = "a list of maps, each" if kinds else "a list of maps"
        return [f"{several if origin is tuple else 'a map'}{kinds}"]
    if origin is Annotated:
        return _alternatives(arguments[0], [*metadata, *arguments[1:]])
    if origin in (Union, UnionType):
        return [text for argument in arguments for text in _alternatives(argument, metadata)]
    if origin is Literal:
        return [str(word) for word in arguments]
    if origin is tuple:
        return [f"a list of {type_text(arguments[0])}"]
    if origin is dict:
        return ["a map of text to text"]
    return [
        {
            int: "a whole number",
            float: "a number",
            str: "text",
            bool: "true or false",
            NoneType: "null",
        }[annotation]
        + _bounds(metadata)
    ]


def explain(key: str | None = None) -> str:
    """What the recipe's keys mean: all of them, one section, or one key; raises `BadRecipe` with
    the nearest key for another.
    """
    found = [each for each in all_keys() if each.name == key]
    if key is not None and not found:
        *parent, name = key.split(".")
        raise BadRecipe(
            f"a recipe has no key {key}{question(nearest_keys(name, tuple(parent)))} (`nearfar"
            " recipe explain` lists every key)"
        )
    if found and found[0].kind and found[0].path[-1] == "kind":
        found = [each for each in all_keys() if each.path == found[0].path[:-1]]
    lines = (
        _listing((Recipe,), ())
        if key is None
        else [line for each in found for line in _entry(each)]
    )
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, for editors that complete and check YAML."""
    return {"$schema": _SCHEMA_URI, **Recipe.model_json_schema()}


def default_text(field: FieldInfo) -> str:
    """The default as it would be written in a recipe; `(required)` where there is none."""
    if field.is_required():
        return "(required)"
    match field.default:
        case None:
            return "null"
        case bool(truth):
            return str(truth).lower()
        case Section() as section:
            return f"{{kind: {kind_of(type(section))}}}" if kind_of(type(section)) else "{}"
        case ():
            return "[]"
        case value:
            return str(value)


def _entry(key: Key) -> list[str]:
    """The lines on one key: `key = default`, what it takes, what it means, and the keys in it."""
    meaning = textwrap.wrap(
        key.field.description or "", 120, initial_indent="    ", subsequent_indent="    "
    )
    takes = type_text(key.field.annotation, key.field.metadata) + (
        f"   (only of kind {key.kind})" if key.kind else ""
    )
    match key.sections:
        case ():
            return [_line(key.name, default_text(key.field), takes), *meaning]
        case (section,) if key.field.annotation is section:
            return ["", *_listing(key.sections, key.path), ""]
        case variants if isinstance(key.field.default, Section):
            kinds = _or([str(kind_of(variant)) for variant in variants])
            first = [
                _line(f"{key.name}.kind", str(kind_of(type(key.field.default))), kinds),
                *meaning,
            ]
        case _:
            first = [_line(key.name, default_text(key.field), takes), *meaning]
    return ["", *first, *_listing(key.sections, key.path), ""]


def _line(name: str, default: str, takes: str) -> str:
    return f"{f'{name} = {default}':<44} {takes}"


def _listing(sections: Sequence[type[Section]], path: tuple[str, ...]) -> list[str]:
    """The lines on every key under `path`, variant by variant."""
    lines: list[str] = []
    for section in sections:
        kind = kind_of(section) if len(sections) > 1 else None
        place = f"{'.'.join(path)}{f', kind: {kind}' if kind else ''} - " if path else ""
        lines += ["", f"# {place}{getdoc(section)}"]
        for key in all_keys((section,), path):
            if len(key.path) == len(path) + 1 and not (kind and key.path[-1] == "kind"):
                lines += _entry(replace(key, kind=kind))
    return lines


def _bounds(metadata: Sequence[Any]) -> str:
    """The limits in a field's metadata.

    >>> _bounds([Gt(0)]), _bounds([Ge(0.0), Le(1.0)])
    (' greater than 0', ' of at least 0 and at most 1')
    """
    texts = []
    for limit in [
        inner
        for each in metadata
        for inner in (each.metadata if isinstance(each, FieldInfo) else [each])
    ]:
        match limit:
            case Ge(ge=bound):
                texts.append(f"of at least {bound:g}")
            case Gt(gt=bound):
                texts.append(f"greater than {bound:g}")
            case Le(le=bound):
                texts.append(f"at most {bound:g}")
            case Lt(lt=bound):
                texts.append(f"less than {bound:g}")
            case _ if pattern := getattr(limit, "pattern", None):
                texts.append(f"matching {pattern}")
    return " " + " and ".join(texts) if texts else ""


def _or(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + " or " + words[-1] if len(words) > 1 else words[0]
