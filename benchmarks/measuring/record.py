"""Tables, and the dated files that each result is written to."""

import datetime
import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from measuring.clocks import cores
from measuring.summary import EXPLANATION, summarised

RESULTS = Path(__file__).parents[1] / "results"
QUIET_WAIT_RATIO = 0.03
_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "pytorch-lightning",
    "sentence-transformers",
    "accelerate",
)


def machine() -> dict[str, Any]:
    """Processor, cores, load and versions: what a number means nothing without."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    field = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in text.splitlines())
    }
    load = Path("/proc/loadavg")
    return {
        "processor": field.get("model name", platform.processor()),
        "instructions": [
            name
            for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
            if name in field.get("flags", "").split()
        ],
        "cores": cores(),
        "load": load.read_text().split()[0] if load.exists() else "",
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median and range.

    >>> spread([3.0, 1.0, 2.0])
    '2.0 (1.0-3.0)'
    """
    return (
        f"{statistics.median(values):.{digits}f}"
        f" ({min(values):.{digits}f}-{max(values):.{digits}f})"
    )


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the first to the left."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()

    return "\n".join(
        [title, line(header), "  ".join("-" * width for width in widths), *map(line, rows)]
    )


def noise(wait_ratios: Sequence[float]) -> str:
    """Says whether the machine was quiet enough for wall clock times to mean anything."""
    worst = max(wait_ratios, default=0.0)
    verdict = "quiet" if worst <= QUIET_WAIT_RATIO else "NOT QUIET: compare by processor time only"
    return f"the processes were kept from running at most {worst:.0%} of their time: {verdict}"


def save(claim: str, text: str, measurements: Mapping[str, Any]) -> None:
    """Prints the table and writes it to benchmarks/results, with the machine and the statistics of
    the measurements in the JSON file beside it.
    """
    where = machine()
    described = ", ".join(
        f"{key} {' '.join(value) if isinstance(value, list) else value}"
        for key, value in where.items()
    )
    print(f"\n{text}\n{described}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.date.today().isoformat()}-{claim}"
    path.with_suffix(".txt").write_text(f"{text}\n\n{described}\n")
    path.with_suffix(".json").write_text(result_json(where, measurements))


def result_json(where: Mapping[str, Any], measurements: Mapping[str, Any]) -> str:
    """The content of a result file."""
    content = {"statistics": EXPLANATION, "machine": where, **summarised(measurements)}
    return json.dumps(content, indent=1) + "\n"
