"""Tries the regular expressions of a tokenizer before it is used.

Some expressions take exponential time on some texts. The library of tokenizers then panics, or does
not return for hours. A process with a deadline tries them on texts made of their own characters.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from trainer.errors import BadModel
from trainer.models.files.vetting import inside

DEADLINE_SECONDS = 10.0
LARGEST_TOKENIZER_BYTES = 256 * 2**20
_COMMON_CHARACTERS = "aA1 \n-!é検"
_MOST_CHARACTERS = 24
_TEXT_CHARACTERS = 1_000
_TRIAL = """
import json, sys
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split
for number, (pattern, texts) in enumerate(json.load(sys.stdin)):
    print(number, flush=True)
    split = Split(Regex(pattern), "isolated")
    for text in texts:
        split.pre_tokenize_str(text)
print("end", flush=True)
"""


def check_regexes(folder: Path) -> None:
    """Raises BadModel if a regular expression in tokenizer.json can hang or panic.

    An expression that fails only on texts with certain words is not noticed here.
    """
    if not (folder / "tokenizer.json").exists():
        return
    path = inside(folder, "tokenizer.json")
    try:
        if path.stat().st_size > LARGEST_TOKENIZER_BYTES:
            raise BadModel(f"{path} is larger than {LARGEST_TOKENIZER_BYTES // 2**20} MB")
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadModel(f"{path} cannot be read as JSON: {str(error)[:200]}") from error
    if not isinstance(content, dict):
        raise BadModel(f"{path} holds a {type(content).__name__} where an object was expected")
    parts = [content.get(part) for part in ("normalizer", "pre_tokenizer")]
    pattern = _failing_pattern(tuple(dict.fromkeys(_patterns(parts))))
    if pattern is not None:
        raise BadModel(
            f"{path}: the regular expression {pattern[:200]!r} does not end, or fails, on some"
            " texts; the file is damaged or hostile: take the tokenizer from its source"
        )


def is_panic(error: BaseException) -> bool:
    """True for a panic of the library of tokenizers, whose class cannot be imported."""
    return type(error).__name__ == "PanicException"


def panics(action: Callable[..., object], *arguments: object) -> bool:
    """Calls the action, and returns true if it panics."""
    try:
        action(*arguments)
    except BaseException as error:
        if is_panic(error):
            return True
        raise
    return False


def _patterns(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("Regex"), str):
            yield part["Regex"]
        part = list(part.values())
    if isinstance(part, list):
        for value in part:
            yield from _patterns(value)


@cache
def _failing_pattern(patterns: tuple[str, ...]) -> str | None:
    """Returns the first pattern that fails in a process of its own, or None."""
    if not patterns:
        return None
    process = subprocess.Popen(
        [sys.executable, "-c", _TRIAL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "RUST_BACKTRACE": "0"},
    )
    task = json.dumps([(pattern, _trial_texts(pattern)) for pattern in patterns]).encode()
    try:
        output, _ = process.communicate(task, DEADLINE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    lines = output.decode().split()
    if lines and lines[-1] == "end":
        return None
    return patterns[int(lines[-1])] if lines else patterns[0]


def _trial_texts(pattern: str) -> list[str]:
    """Returns long texts that repeat one or two characters.

    All characters come once at the end, since a search for an expression with a character that is
    nowhere in the text ends at once.
    """
    characters = list(dict.fromkeys(pattern + _COMMON_CHARACTERS))[:_MOST_CHARACTERS]
    characters = list(dict.fromkeys([*_COMMON_CHARACTERS, *characters]))
    end = "\0" + "".join(characters)
    units = [first + second for first in characters for second in characters]
    return [unit * (_TEXT_CHARACTERS // 2) + end for unit in units]
