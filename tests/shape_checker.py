"""The type checker of the test run, named in pyproject.toml: beartype, without an opinion on
`Self`.

Methods are decorated one by one, where beartype does not know which class `Self` would be.

The decorator of jaxtyping checks all arguments twice, and binds axes also where a function has
none. With it, a run of a toy model takes 1.7 times as long as without any checks. With the one
below, which checks the same, it takes 1.2 times as long.
"""

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, ForwardRef, Literal, Self, get_args, get_origin

import jaxtyping
import torch
from beartype import BeartypeConf, BeartypeHintOverrides, beartype
from beartype.roar import BeartypeCallHintViolation

check = beartype(conf=BeartypeConf(hint_overrides=BeartypeHintOverrides({Self: Any})))
WRONG_TYPES = (jaxtyping.TypeCheckError, BeartypeCallHintViolation)
"""What a call with wrong types or axes raises."""

_jaxtyped = jaxtyping.jaxtyped


def jaxtyped(function: Any = None, **options: Any) -> Any:
    """Decorates a function so that its annotations are checked in every call that is not traced.

    Takes what jaxtyping's own decorator takes, which still serves classes, generators, and
    annotations that are the name of a type.
    """
    if function is None:
        return partial(jaxtyped, **options)
    annotations = [*getattr(function, "__annotations__", {}).values()]
    is_plain = inspect.isfunction(function) and not inspect.isgeneratorfunction(function)
    check_types = options.get("typechecker")
    if check_types is None or not is_plain or any(_contains(a, _is_name) for a in annotations):
        return _jaxtyped(function, **options)
    checked, has_axes = check_types(function), any(_contains(a, _is_array) for a in annotations)

    @wraps(function)
    def checked_unless_traced(*arguments: Any, **named: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*arguments, **named)
        if not has_axes:
            return checked(*arguments, **named)
        with _jaxtyped("context"):  # in which an axis has one length
            return checked(*arguments, **named)

    return checked_unless_traced


def _contains(annotation: Any, is_wanted: Callable[[Any], bool]) -> bool:
    if is_wanted(annotation):
        return True
    if get_origin(annotation) is Literal:
        return False
    parts = annotation if isinstance(annotation, list) else get_args(annotation)
    return any(_contains(part, is_wanted) for part in parts)


def _is_name(annotation: Any) -> bool:
    return isinstance(annotation, str | ForwardRef)


def _is_array(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray)


jaxtyping.jaxtyped = jaxtyped  # the import hook calls it by this name
