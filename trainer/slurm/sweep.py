"""The runs of a sweep: every combination of the values of some recipe keys."""

import re
from collections.abc import Sequence
from itertools import product

from trainer.errors import BadJob

MAXIMUM_RUNS = 1000
_VALUE = re.compile(r"""(?:\[[^\]]*\]|\{[^}]*\}|"[^"]*"|'[^']*'|[^,])+""")
_MAXIMUM_NAME = 100


def sweep_runs(settings: Sequence[str], name: str) -> list[tuple[str, ...]]:
    """Returns the changes to the recipe for each run; `name` is the name of the recipe.

    A setting is `KEY=VALUE,VALUE,...`. Every run gets its own name, and so its own folder. Raises
    BadJob.

    >>> sweep_runs(["seed=1,2"], "toy")
    [('seed=1', 'name=toy-seed-1'), ('seed=2', 'name=toy-seed-2')]
    """
    axes = [_axis(setting) for setting in settings]
    if not axes:
        return []
    runs = list(product(*axes))
    if len(runs) > MAXIMUM_RUNS:
        raise BadJob(f"--sweep: {len(runs)} runs are more than {MAXIMUM_RUNS}; give fewer values")
    names = [_name(name, run) for run in runs]
    if len(set(names)) < len(names) or max(map(len, names)) > _MAXIMUM_NAME:
        names = [f"{name}-{number}" for number in range(len(runs))]
    return [(*run, f"name={own_name}") for run, own_name in zip(runs, names, strict=True)]


def _axis(setting: str) -> list[str]:
    """Returns the settings of one key, one per value."""
    key, _, text = setting.partition("=")
    values = _VALUE.findall(text)
    if not (key and values):
        raise BadJob(f"--sweep {setting} is not KEY=VALUE,VALUE, e.g. --sweep seed=1,2,3")
    if key == "name":
        raise BadJob("--sweep name=...: every run of a sweep gets a name of its own; remove it")
    return [f"{key}={value}" for value in values]


def _name(name: str, run: tuple[str, ...]) -> str:
    changes = (setting.partition("=")[::2] for setting in run)
    labels = (f"{key.rpartition('.')[2]}-{value}" for key, value in changes)
    return re.sub("[^A-Za-z0-9._-]+", "-", "-".join([name, *labels]))
