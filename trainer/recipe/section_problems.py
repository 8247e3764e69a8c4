"""Describes the problems of files with sections that are not recipes, such as pipelines: their
place, their key and what is valid there.
"""

import json
import re
from collections.abc import Iterable
from typing import TypeVar

from pydantic import AfterValidator, ValidationError
from pydantic_core import ErrorDetails

from trainer.recipe.keys import sections_in
from trainer.recipe.nearest import nearest, question
from trainer.recipe.raw_recipe import RawRecipe
from trainer.recipe.schema.section import Section
from trainer.recipe.yaml_text import Place, key_name

_File = TypeVar("_File", bound=Section)


def matching(pattern: str, advice: str) -> AfterValidator:
    """Returns a check that a text matches `pattern` completely; `advice` becomes the message."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(advice)
        return text

    return AfterValidator(check)


def validate_file(
    root: type[_File], raw: RawRecipe, error_class: type[Exception], file_kind: str
) -> _File:
    """Returns the values of a file as its class. Raises `error_class` that lists all problems.

    The values are validated as JSON, because pydantic's strict mode then accepts a list for a
    tuple.
    """
    try:
        return root.model_validate_json(json.dumps(raw.values))
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
    problems = [_problem(problem, raw, root, file_kind) for problem in details]
    raise error_class(join_problems(problems, f"{file_kind} {raw.name}"))


def join_problems(problems: Iterable[str], file: str) -> str:
    """Returns a single message that lists all problems of a file."""
    problems = list(dict.fromkeys(problems))
    if len(problems) == 1:
        return problems[0]
    lines = "".join(f"\n  {problem}" for problem in problems)
    return f"{len(problems)} problems in {file}{lines}"


def _problem(details: ErrorDetails, raw: RawRecipe, root: type[Section], file_kind: str) -> str:
    """Describes one problem: its place, its key and what is valid there."""
    # pydantic adds a last step `[key]` for a refused key of a map, and a step for the type of a
    # union member. Neither is a place in the file.
    place: Place = ()
    for step in details["loc"]:
        value = raw.at(place)
        is_inside = isinstance(step, int) or (isinstance(value, dict) and step in value)
        if is_inside or details["type"] == "missing":
            place = (*place, step)
    section = _section_around(place, root)
    origin, key = raw.origin(place), key_name(place) or f"the {file_kind}"
    match details["type"]:
        case "extra_forbidden":
            parent = "".join(f"{step}." for step in place[:-1])
            near = nearest(str(place[-1]), section.model_fields)
            valid_keys = "; valid keys are " + ", ".join(section.model_fields)
            advice = question([parent + name for name in near]) or valid_keys
            return f"{origin}: {key} is not a key{advice}"
        case "missing":
            description = section.model_fields[str(place[-1])].description
            return f"{origin}: {key} is missing: {description}"
        case "value_error":
            reason = details["msg"].removeprefix("Value error, ")
            prefix = f"{key}: {details['input']!r:.60} " if place else ""
            return f"{origin}: {prefix}{reason}"
        case _:
            return (
                f"{origin}: {key}: {details['input']!r:.60} is not valid here;"
                f" {details['msg'][:1].lower()}{details['msg'][1:]}"
            )


def _section_around(place: Place, root: type[Section]) -> type[Section]:
    """Returns the section to which the last step of a place belongs."""
    section = root
    for step in place[:-1]:
        inner = sections_in(section.model_fields.get(str(step)))
        section = inner[0] if inner else section
    return section
