"""The values that a Slurm profile may have. Each has a check of its own, so a value with shell text
is refused before a script is written.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from trainer.recipe.section_problems import matching

_Text = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
"""Text, or a whole number that is read as text: `memory: 0`."""


def _check_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has a line break or a character that cannot be printed; remove it")
    return text


OneLine = Annotated[_Text, AfterValidator(_check_printable)]
Word = Annotated[
    _Text,
    matching(
        r"[A-Za-z0-9][A-Za-z0-9._@,+-]{0,199}",
        "cannot be a name in Slurm; use letters, digits and . _ @ , + - only",
    ),
]
Constraint = Annotated[
    _Text,
    matching(
        r"[A-Za-z0-9._@,:=+&|*()\[\]-]{1,200}",
        "is not a list of node features; write e.g. a100 or a100|h100",
    ),
]
Memory = Annotated[
    _Text,
    matching(
        r"[0-9]{1,9}[KMGT]?", "is not a size; write e.g. 64G, or 0 for all the memory of a node"
    ),
]
LogFolder = Annotated[
    str,
    matching(
        r"(?!-)[A-Za-z0-9._/+@=-]{1,200}",
        "cannot be the folder of logs; use letters, digits and . _ / + @ = - only",
    ),
]
Program = Annotated[
    OneLine,
    matching(
        r"[^~-].*", "cannot be started; give a command, or a path that begins with neither ~ nor -"
    ),
]
Module = Annotated[
    str,
    matching(
        r"[A-Za-z0-9][A-Za-z0-9._/+:@=-]{0,199}",
        "cannot be the name of a module; write e.g. cuda/12.8",
    ),
]
VariableName = Annotated[
    str,
    matching(
        r"(?!SLURM_|SBATCH_)[A-Za-z_][A-Za-z0-9_]{0,199}",
        "cannot be the name of a variable; use letters, digits and _, but no name of Slurm itself",
    ),
]
Mount = Annotated[
    OneLine,
    matching(
        r"/[^:,]*:/[^:,]*(:(ro|rw))?",
        "is not a mount; write /OUTSIDE:/INSIDE, or /OUTSIDE:/INSIDE:ro",
    ),
]
OptionName = Literal[
    "comment", "exclude", "gres", "licenses", "mail-type", "mail-user", "nice", "nodelist",
    "switches", "tmp", "wckey",
]  # fmt: skip
OptionValue = Annotated[
    _Text,
    matching(
        r"[A-Za-z0-9._@,:/=+*\[\]-]{1,200}",
        "cannot be the value of an option; use letters, digits and . _ @ , : / = + * [ ] - only",
    ),
]


def time_limit_seconds(text: str) -> int:
    """Returns the seconds of a time limit of Slurm. Raises ValueError if it is none.

    >>> [time_limit_seconds(text) for text in ("90", "1:30", "1:00:00", "2-0", "1-2:03")]
    [5400, 90, 3600, 172800, 93780]
    """
    match = re.fullmatch(
        r"(?:([0-9]{1,4})-)?([0-9]{1,6})(?::([0-9]{1,2}))?(?::([0-9]{1,2}))?", text
    )
    seconds = 0
    if match:
        days, *parts = match.groups()
        numbers = [int(part) for part in parts if part]
        units = (3600, 60, 1) if days or len(numbers) == 3 else (60, 1)
        seconds = int(days or 0) * 86400
        seconds += sum(number * unit for number, unit in zip(numbers, units, strict=False))
    if not seconds:
        raise ValueError(
            "is not a time limit; write minutes, HOURS:MINUTES:SECONDS or"
            " DAYS-HOURS:MINUTES:SECONDS"
        )
    return seconds


def _check_time_limit(text: str) -> str:
    time_limit_seconds(text)
    return text


TimeLimit = Annotated[_Text, AfterValidator(_check_time_limit)]
