"""A contest: the contenders take turns on every data set, and one table says how much faster each
is than the one it is held against.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from measuring.children import child
from measuring.data import present
from measuring.record import save, spread

Results = dict[str, list[dict[str, Any]]]
"""What each contender measured in each turn."""


def take_turns(
    script: str,
    name: str,
    jobs: Mapping[str, dict[str, Any]],
    turns: int,
    unit: str,
    timeout_seconds: float,
) -> Results:
    """Every contender's job in a process of its own, all of them once before any has its second
    turn.
    """
    results: Results = {contender: [] for contender in jobs}
    for turn in range(turns):
        for contender, job in jobs.items():
            result = child(script, {**job, "turn": turn}, timeout_seconds)
            results[contender].append(result)
            print(
                f"{name} turn {turn + 1} {contender}: {result[f'{unit}_per_second']:.1f} {unit}/s,"
                f" {result[f'{unit}_per_processor_second']:.1f} per processor second, kept waiting"
                f" {result['wait_ratio']:.0%}",
                flush=True,
            )
    return results


def former_jobs(jobs: Mapping[str, dict[str, Any]], checkout: str) -> dict[str, dict[str, Any]]:
    """Our own jobs once more, by the code in another checkout; none without one."""
    return {
        contender.replace("nearfar", "former"): {
            **job,
            **{key: f"{job[key]}-former" for key in ("folder", "vectors") if key in job},
            "checkout": checkout,
        }
        for contender, job in jobs.items()
        if checkout and job["who"] == "ours"
    }


def speed_rows(
    results: Results, base: str, unit: str, further: tuple[str, ...]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: speed by wall clock and by processor time, each with its ratio to `base`,
    then `further` numbers; medians and ranges.
    """
    speeds = (f"{unit}_per_second", f"{unit}_per_processor_second")
    rows = []
    for contender, runs in results.items():
        cells = [
            cell
            for key in speeds
            for cell in (
                _spread(runs, key),
                f"{_middle(runs, key) / _middle(results[base], key):.2f}x",
            )
        ]
        rows.append([contender, *cells, *(_spread(runs, key) for key in further)])
    return ["", f"{unit}/s", "ratio", f"{unit}/processor s", "ratio"], rows


def on_each_set(
    claim: str,
    compare: Callable[[str, Path, argparse.Namespace], tuple[str, dict[str, Any]]],
    arguments: argparse.Namespace,
    *how: str,
) -> None:
    """Compares on each data set asked for that is there. The file's name says `how`, the threads,
    and the set where it is one alone.
    """
    texts, raw = [], {}
    for name in arguments.data.split(","):
        source = present(name)
        if source is not None:
            text, raw[name] = compare(name, source, arguments)
            texts.append(text)
    if texts:
        threads = [f"{arguments.threads}-threads"] if arguments.threads else []
        sets = list(raw) if len(raw) == 1 else []
        save("-".join([claim, *how, *threads, *sets]), "\n\n".join(texts), raw)


def _spread(runs: list[dict[str, Any]], key: str) -> str:
    return spread([one[key] for one in runs])


def _middle(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(one[key] for one in runs)
