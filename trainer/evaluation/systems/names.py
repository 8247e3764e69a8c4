"""The names of systems: a model, or a kind and what belongs to it, such as `hybrid:A+bm25`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from trainer.errors import BadRecipe

Kind = Literal["model", "bm25", "index", "run", "hybrid", "weighted", "rerank"]

FORMS: dict[Kind, str] = {
    "model": "MODEL",
    "bm25": "bm25",
    "index": "index:FOLDER",
    "run": "run:FILE",
    "hybrid": "hybrid:A+B",
    "weighted": "weighted:A+B",
    "rerank": "rerank:A+RERANKER",
}
"""How each kind is written."""

MOST_WEIGHTS = 3
"""The largest number of systems for which weights are chosen."""


@dataclass(frozen=True)
class SystemName:
    """A system as it was named."""

    kind: Kind
    value: str = ""
    """The model, the folder of an index, the run file, or the model that re-ranks."""
    parts: tuple["SystemName", ...] = ()
    """The systems that are combined, or the one that is re-ranked."""
    index_model: str = ""
    """Where the model of an index is now; "" if it was not moved."""

    def __str__(self) -> str:
        combination = "+".join(filter(None, [*map(str, self.parts), self.value])) or self.kind
        return combination if self.kind in ("model", "bm25") else f"{self.kind}:{combination}"

    @property
    def single_systems(self) -> Iterator["SystemName"]:
        """Yields the systems in this one that combine nothing."""
        for part in self.parts:
            yield from part.single_systems
        if not self.parts:
            yield self

    def contains(self, kind: Kind) -> bool:
        """Returns True if this system or one that it combines is of a kind."""
        return self.kind == kind or any(part.contains(kind) for part in self.parts)

    def change(self, function: "Callable[[SystemName], SystemName]") -> "SystemName":
        """Returns the name after a change of its parts and then of itself."""
        return function(replace(self, parts=tuple(part.change(function) for part in self.parts)))

    def with_models(self, find_model: Callable[[str], str]) -> "SystemName":
        """Returns the name with the folder of each model in place of what a user wrote."""

        def with_model(part: SystemName) -> SystemName:
            if part.kind in ("model", "rerank"):
                return replace(part, value=find_model(part.value))
            return replace(part, index_model=part.index_model and find_model(part.index_model))

        return self.change(with_model)


def parse_systems(words: Sequence[str]) -> list[SystemName]:
    """Returns the systems with these names. Raises BadRecipe, also if one is named twice."""
    names = [parse_system(word) for word in words]
    if len(set(names)) < len(names):
        raise BadRecipe(f"a system is named twice: {', '.join(map(str, names))}; name each once")
    return names


def parse_system(word: str) -> SystemName:
    """Returns the system with a name. Raises BadRecipe, which says how systems are written.

    >>> name = parse_system("rerank:hybrid:a+bm25+c")
    >>> name.value, [str(part) for part in name.parts]
    ('c', ['hybrid:a+bm25'])
    """
    if word and Path(word).exists():
        if (Path(word) / "manifest.json").exists() and not (Path(word) / "config.json").exists():
            raise BadRecipe(f"{word!r} is no model folder; to measure an index, write index:{word}")
        return SystemName("model", word)
    prefix, colon, value = word.partition(":")
    if not colon:
        return _without_kind(word)
    kind = next((kind for kind in _PARSERS if kind == prefix), None)
    if kind is None:
        raise BadRecipe(
            f"{word!r}: {prefix!r} is not a kind of system{_near(prefix, list(_PARSERS))}; a system"
            f" is written {', '.join(FORMS.values())}"
        )
    return _PARSERS[kind](kind, value)


def _without_kind(word: str) -> SystemName:
    if word.lower() == "bm25":
        return SystemName("bm25")
    if "+" in word:
        raise BadRecipe(f"{word!r} is not a model folder; to combine systems, write hybrid:{word}")
    if near := _near(word.lower(), ["bm25"]):
        raise BadRecipe(
            f"{word!r} is neither a model folder nor another system{near}; a system is written"
            f" {', '.join(FORMS.values())}"
        )
    if not word.strip():
        raise BadRecipe(f"the name of a system is empty; write {', '.join(FORMS.values())}")
    return SystemName("model", word)


def _path(kind: Kind, value: str) -> SystemName:
    if not value:
        raise BadRecipe(f"'{kind}:' names nothing; write {FORMS[kind]}")
    return SystemName(kind, value)


def _fusion(kind: Kind, value: str) -> SystemName:
    words = value.split("+")
    if len(words) < 2 or not all(words):
        raise BadRecipe(f"'{kind}:{value}' must combine two or more systems, as {FORMS[kind]}")
    if kind == "weighted" and len(words) > MOST_WEIGHTS:
        raise BadRecipe(
            f"'{kind}:{value}' combines {len(words)} systems, but weights are chosen for at most"
            f" {MOST_WEIGHTS}; use hybrid:, which has none"
        )
    parts = tuple(map(parse_system, words))
    if combination := next((part for part in parts if part.parts), None):
        raise BadRecipe(
            f"'{kind}:{value}' combines '{combination}', which is a combination itself; name the"
            " single systems"
        )
    return SystemName(kind, "", parts)


def _reranking(kind: Kind, value: str) -> SystemName:
    first, _, reranker = value.rpartition("+")
    if not first or not reranker:
        raise BadRecipe(
            f"'{kind}:{value}' must name a system and the model that re-ranks, as {FORMS[kind]}"
        )
    return SystemName(kind, reranker, (parse_system(first),))


def _near(word: str, candidates: Sequence[str]) -> str:
    matches = get_close_matches(word, candidates, n=1, cutoff=0.7)
    return f" (did you mean {matches[0]}?)" if matches else ""


_PARSERS: dict[Kind, Callable[[Kind, str], SystemName]] = {
    "index": _path,
    "run": _path,
    "hybrid": _fusion,
    "weighted": _fusion,
    "rerank": _reranking,
}
