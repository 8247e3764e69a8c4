"""Each measurement in a process of its own, the contenders taking turns, so that neither warms or
starves the other.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_MARK = "MEASURED "
_START = "started"


def child(script: str, job: Mapping[str, Any], timeout_seconds: float = 600.0) -> dict[str, Any]:
    """What `script` reports for `job`, run in a new process, under `job["python"]` if it has one,
    and by the code in `job["checkout"]` if it has one. Raises RuntimeError with its last words when
    it fails.
    """
    root = Path(job.get("checkout") or Path(__file__).parents[2])
    command = [
        job.get("python") or sys.executable,
        str(root / "benchmarks" / Path(script).name),
        "--job",
        json.dumps({**job, _START: time.monotonic()}),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode or not lines:
        raise RuntimeError(
            f"{script} {dict(job)} ended with {done.returncode}:\n{done.stderr[-3000:]}"
        )
    return json.loads(lines[-1][len(_MARK) :])


def run(
    script: str,
    measure: Callable[[dict[str, Any]], Mapping[str, Any]],
    main: Callable[[argparse.Namespace], None],
    **options: Any,
) -> None:
    """The body of a benchmark script: as a child it measures one job, else it runs `main` with the
    command line's options.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    for name, default in options.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    arguments = parser.parse_args()
    if arguments.job is None:
        main(arguments)
    else:
        print(_MARK + json.dumps(dict(measure(json.loads(arguments.job)))), flush=True)


def on_ranks(ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function(*arguments)` on each of `ranks` processes that share a gloo process group: those of
    the tests (`tests/ranks.py`).
    """
    return from_tests("ranks").on_ranks(ranks, function, *arguments)


def from_tests(name: str) -> Any:
    """A module of the tests."""
    tests = str(Path(__file__).parents[2] / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    return importlib.import_module(name)


def seconds_since_start(job: Mapping[str, Any]) -> float:
    """Wall clock since the parent began to start this process (one monotonic clock for the whole
    machine).
    """
    return time.monotonic() - float(job[_START])
