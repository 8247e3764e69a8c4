"""The candidates of a selection, and the limits that the chosen one must keep."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from trainer.errors import BadRecipe
from trainer.evaluation.systems.names import SystemName, parse_system
from trainer.recipe.yaml_text import parse, read_text

_KEYS = ("candidates", "limits")
_ENTRY_KEYS = ("system", "trained_on")


@dataclass(frozen=True)
class SystemCandidate:
    """A system that may be chosen."""

    system: SystemName
    trained_on: tuple[str, ...] = ()
    """Names of data sets that its models were trained on, as far as the user knows."""

    def has_seen(self, data_name: str) -> bool:
        """Returns True if one of its data sets has this name, whatever its spelling.

        >>> SystemCandidate(SystemName("bm25"), ("MS MARCO",)).has_seen("ms_marco")
        True
        """
        return _spelling(data_name) in map(_spelling, self.trained_on)


@dataclass(frozen=True)
class Limits:
    """What the chosen system may cost. None: any cost."""

    latency_ms: float | None = None
    """Milliseconds of one search, which 95 % of all searches keep."""
    memory_mb: float | None = None
    """Megabytes of weights and documents in memory."""
    index_mb: float | None = None
    """Megabytes of the documents' vectors or words."""

    def __str__(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return ", ".join(f"{key} {value:g}" for key, value in values.items() if value is not None)


def read_candidates(words: Sequence[str]) -> tuple[list[SystemCandidate], Limits]:
    """Returns the candidates that a user named: systems, or one YAML file of them.

    The file has a list `candidates` of systems, or of maps of `system` and `trained_on`, and a map
    `limits`. Raises BadRecipe for anything else, for a candidate that is named twice, and for fewer
    than two.
    """
    if len(words) == 1 and words[0].endswith((".yaml", ".yml")):
        candidates, limits = _read_file(Path(words[0]))
    else:
        candidates, limits = [SystemCandidate(parse_system(word)) for word in words], Limits()
    systems = [candidate.system for candidate in candidates]
    if twice := next((system for system in systems if systems.count(system) > 1), None):
        raise BadRecipe(f"the candidate {twice} is named twice; name each once")
    if len(candidates) < 2:
        raise BadRecipe(f"{len(candidates)} candidates: to choose, name two or more")
    return candidates, limits


def _read_file(path: Path) -> tuple[list[SystemCandidate], Limits]:
    content = parse(read_text(path, "candidates"), str(path)).value
    if not isinstance(content, dict) or not isinstance(content.get("candidates"), list):
        raise BadRecipe(f"{path} has no list `candidates`; write one system per line under it")
    _check_keys(content, _KEYS, str(path))
    entries = [_candidate(entry, path) for entry in content["candidates"]]
    return entries, _limits(content.get("limits") or {}, path)


def _candidate(entry: Any, path: Path) -> SystemCandidate:
    if isinstance(entry, str):
        return SystemCandidate(parse_system(entry))
    if not isinstance(entry, dict) or not isinstance(entry.get("system"), str):
        raise BadRecipe(f"{path}: {entry!r} is neither a system nor a map with `system`")
    _check_keys(entry, _ENTRY_KEYS, f"{path}, {entry['system']}")
    names = entry.get("trained_on") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadRecipe(f"{path}, {entry['system']}: `trained_on` must be a list of data sets")
    return SystemCandidate(parse_system(entry["system"]), tuple(names))


def _limits(values: Any, path: Path) -> Limits:
    if not isinstance(values, dict):
        raise BadRecipe(f"{path}: `limits` must be a map, e.g. {{latency_ms: 50}}")
    _check_keys(values, [field.name for field in fields(Limits)], f"{path}, limits")
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise BadRecipe(f"{path}: limits.{key} is {value!r}; it must be a number above 0")
    return Limits(**{key: float(value) for key, value in values.items()})


def _check_keys(values: Mapping[str, Any], names: Sequence[str], place: str) -> None:
    if unknown := [key for key in values if key not in names]:
        raise BadRecipe(f"{place}: {unknown[0]!r} is not known; there are {', '.join(names)}")


def _spelling(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
