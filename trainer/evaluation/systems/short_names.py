"""Names of systems, cut to fit a table, a line or a chart."""

import re
from collections.abc import Callable, Sequence
from textwrap import fill

from trainer.storage.visible import visible

_COMBINATIONS = re.compile(r"(?:(?:hybrid|weighted|rerank): ?)*")


def short_name(name: str, limit: int) -> str:
    """Returns a name cut at its front, where paths are similar; of "a + b", each part is cut.

    >>> short_name("sentence-transformers/all-MiniLM-L6-v2", 20)
    '…rs/all-MiniLM-L6-v2'
    >>> short_name("sentence-transformers/all-MiniLM-L6-v2 + runs/cross-encoder/model", 30)
    '…-MiniLM-L6-v2 + …ross-encoder'
    >>> short_name("hybrid: BM25 + runs/mine/model", 25)
    'hybrid: BM25 + runs/mine'
    """
    text = visible(name)
    if len(text) <= limit:
        return text
    kind, separator, parts = _split(text)
    room = limit - len(kind) - len(separator) * (len(parts) - 1)
    if room // len(parts) < 2:
        return _cut(text, limit)
    short_parts = dict[str, str]()
    for number, part in enumerate(sorted(parts, key=len)):  # what the short ones leave is shared
        short_parts[part] = _cut(part, room // (len(parts) - number))
        room -= len(short_parts[part])
    return kind + separator.join(short_parts[part] for part in parts)


def short_names(names: Sequence[str], limit: int) -> dict[str, str]:
    """Returns each name as `short_name` does; those that would be equal are not cut."""
    return _distinct(names, lambda name: short_name(name, limit), visible)


def cell_names(names: Sequence[str], limit: int) -> dict[str, str]:
    r"""Returns each name for a column of `limit` characters: each part of "a + b" has a line.

    Names that would be equal are folded instead of cut.

    >>> cell_names(["hybrid: BM25 + runs/mine/model"], 20)
    {'hybrid: BM25 + runs/mine/model': 'hybrid: BM25\n+ runs/mine/model'}
    """
    return _distinct(names, lambda name: _cell(name, limit), lambda name: fill(name, limit))


def _cell(name: str, limit: int) -> str:
    text = visible(name)
    if len(text) <= limit:
        return text
    kind, _, (first, *rest) = _split(text)
    return "\n+ ".join(
        [kind + _cut(first, limit - len(kind)), *(_cut(part, limit - 2) for part in rest)]
    )


def _distinct(
    names: Sequence[str], shorten: Callable[[str], str], in_full: Callable[[str], str]
) -> dict[str, str]:
    short = {name: shorten(name) for name in names}
    texts = list(short.values())
    return {
        name: text if texts.count(text) == 1 else in_full(visible(name))
        for name, text in short.items()
    }


def _split(name: str) -> tuple[str, str, list[str]]:
    """Returns the kind of a combination, what separates its parts, and the parts."""
    match = _COMBINATIONS.match(name)
    kind = match[0] if match else ""
    separator = "+" if kind and " + " not in name else " + "
    return kind, separator, name.removeprefix(kind).split(separator)


def _cut(part: str, limit: int) -> str:
    if len(part) <= limit:
        return part
    if part.count("/") > 1:  # the model of a run folder; a hub name has one slash
        part = part.removesuffix("/model")
    return part if len(part) <= limit else f"…{part[1 - limit :]}"
