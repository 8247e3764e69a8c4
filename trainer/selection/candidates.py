"""The candidates of a selection, and the limits that the chosen one must keep."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from trainer.errors import BadRecipe
from trainer.evaluation.mteb.catalogue import ModelQuery, find_models, training_data
from trainer.evaluation.systems.names import SystemName, parse_system
from trainer.models.files.locate import is_hub_name
from trainer.recipe.yaml_text import parse, read_text

_KEYS = ("candidates", "models", "limits")
_ENTRY_KEYS = ("system", "trained_on")


@dataclass(frozen=True)
class SystemCandidate:
    """A system that may be chosen."""

    system: SystemName
    trained_on: tuple[str, ...] = ()
    """Names of data sets that its models were trained on, as far as is known."""

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

    The file has a list `candidates` of systems, or of maps of `system` and `trained_on`; a map
    `models`, which asks mteb's catalogue for more (`ModelQuery`); and a map `limits`. Where the
    catalogue knows what a model was trained on, this is added. Raises BadRecipe for anything else,
    for a candidate that is named twice or is a run file, and for fewer than two.
    """
    files = [word for word in words if word.endswith((".yaml", ".yml"))]
    if files and len(words) > 1:
        raise BadRecipe(f"{files[0]} is a file of candidates: give it alone, or names alone")
    if files:
        candidates, limits = _read_file(Path(files[0]))
    else:
        candidates, limits = [SystemCandidate(parse_system(word)) for word in words], Limits()
    systems = [candidate.system for candidate in candidates]
    if twice := next((system for system in systems if systems.count(system) > 1), None):
        raise BadRecipe(f"the candidate {twice} is named twice; name each once")
    if run_file := next((system for system in systems if system.contains("run")), None):
        raise BadRecipe(
            f"{run_file} is a run file: it holds results, and nothing of what a search costs;"
            " compare it by `nearfar evaluate`"
        )
    if len(candidates) < 2:
        raise BadRecipe(f"{len(candidates)} candidates: to choose, name two or more")
    return _with_training_data(candidates), limits


def _read_file(path: Path) -> tuple[list[SystemCandidate], Limits]:
    content = parse(read_text(path, "candidates"), str(path)).value
    entries = content.get("candidates") or [] if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(entries, list):
        raise BadRecipe(f"{path} has no list `candidates`; write one system per line under it")
    _check_keys(content, _KEYS, str(path))
    candidates = [_candidate(entry, path) for entry in entries]
    if "models" in content:
        models = find_models(_query(content["models"], path))
        names = {str(candidate.system) for candidate in candidates}
        candidates += [
            SystemCandidate(parse_system(model.name), model.trained_on)
            for model in models
            if model.name not in names
        ]
    return candidates, _limits(content.get("limits") or {}, path)


def _with_training_data(candidates: Sequence[SystemCandidate]) -> list[SystemCandidate]:
    """Returns the candidates with the data that mteb's catalogue has for models of a hub."""
    models = [
        {single.value for single in candidate.system.single_systems if single.kind == "model"}
        for candidate in candidates
    ]
    hub_names = {
        name for names in models for name in names if is_hub_name(name) and not Path(name).exists()
    }
    known_data = training_data(hub_names) if hub_names else {}
    return [
        replace(
            candidate,
            trained_on=tuple(
                dict.fromkeys(
                    [*candidate.trained_on, *(t for n in names for t in known_data.get(n, ()))]
                )
            ),
        )
        for candidate, names in zip(candidates, models, strict=True)
    ]


def _query(values: Any, path: Path) -> ModelQuery:
    if not isinstance(values, dict):
        raise BadRecipe(f"{path}: `models` must be a map, e.g. {{max_parameters_millions: 120}}")
    _check_keys(values, [field.name for field in fields(ModelQuery)], f"{path}, models")
    settings: dict[str, Any] = {}
    for key, value in values.items():
        default = getattr(ModelQuery(), key)
        if isinstance(default, tuple):
            is_right = isinstance(value, list) and all(isinstance(name, str) for name in value)
            settings[key] = tuple(value) if is_right else None
        else:
            is_right = isinstance(value, int) and not isinstance(value, bool) and value > 0
            settings[key] = value
        if not is_right:
            kind = "a list of names" if isinstance(default, tuple) else "a whole number above 0"
            raise BadRecipe(f"{path}: models.{key} is {value!r}; it must be {kind}")
    return ModelQuery(**settings)


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
