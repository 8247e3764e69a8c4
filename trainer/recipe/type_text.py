"""Describes types, limits and defaults of recipe keys in words."""

from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from trainer.recipe.keys import kind_of, sections_of
from trainer.recipe.schema.section import Section


def type_text(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Describes a type in words.

    >>> type_text(int | None)
    'a whole number or null'
    >>> type_text(Literal["mean", "cls"] | None)
    'mean, cls or null'
    """
    return one_of(_alternatives(annotation, metadata))


def _alternatives(annotation: Any, metadata: Sequence[Any]) -> list[str]:
    """Describes the valid values, one text per alternative."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    sections = sections_of(annotation)
    if sections and (origin not in (Union, UnionType) or all(map(sections_of, arguments))):
        kinds = [kind for section in sections if (kind := kind_of(section)) is not None]
        with_kind = f" with kind {one_of(kinds)}" if kinds else ""
        if origin is tuple:
            return [f"a list of maps{', each' if kinds else ''}{with_kind}"]
        return [f"a map{with_kind}"]
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
    names = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        NoneType: "null",
    }
    return [names[annotation] + _limits(metadata)]


def _limits(metadata: Sequence[Any]) -> str:
    """Describes the limits in a field's metadata.

    >>> _limits([Gt(0)]), _limits([Ge(0.0), Le(1.0)])
    (' greater than 0', ' of at least 0 and at most 1')
    """
    limits = [
        inner
        for entry in metadata
        for inner in (entry.metadata if isinstance(entry, FieldInfo) else [entry])
    ]
    texts = []
    for limit in limits:
        match limit:
            case Ge(ge=bound):
                texts.append(f"of at least {bound:.12g}")
            case Gt(gt=bound):
                texts.append(f"greater than {bound:.12g}")
            case Le(le=bound):
                texts.append(f"at most {bound:.12g}")
            case Lt(lt=bound):
                texts.append(f"less than {bound:.12g}")
            case _ if pattern := getattr(limit, "pattern", None):
                texts.append(f"matching {pattern}")
    return " " + " and ".join(texts) if texts else ""


def default_text(field: FieldInfo) -> str:
    """Returns the default as it is written in a recipe, or `(required)` if there is none."""
    if field.is_required():
        return "(required)"
    match field.default:
        case None:
            return "null"
        case bool(truth):
            return str(truth).lower()
        case Section() as section:
            kind = kind_of(type(section))
            return f"{{kind: {kind}}}" if kind else "{}"
        case ():
            return "[]"
        case value:
            return str(value)


def choices(annotation: Any) -> tuple[str, ...]:
    """Returns the valid words of a type that allows only certain words."""
    if get_origin(annotation) is Literal:
        return tuple(str(word) for word in get_args(annotation))
    arguments = (argument for argument in get_args(annotation) if argument is not Ellipsis)
    return tuple(word for argument in arguments for word in choices(argument))


def one_of(words: Sequence[str]) -> str:
    """Joins words as alternatives.

    >>> one_of(["a", "b", "c"])
    'a, b or c'
    """
    return ", ".join(words[:-1]) + " or " + words[-1] if len(words) > 1 else words[0]
