"""Compares the nodes of a run before its first step, and names the bad report."""

import hashlib
import json
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from trainer.collectives import (
    MAX,
    all_reduce_integers,
    gather_texts,
    on_every_rank,
    on_first_rank,
    rank,
    sum_over_ranks,
)
from trainer.errors import BadMachine
from trainer.strategies.machine.own_rank import local_rank
from trainer.strategies.machine.same_input import odd_ranks

PACKAGES = (
    "nearfar",
    "torch",
    "transformers",
    "tokenizers",
    "pytorch-lightning",
    "accelerate",
    "deepspeed",
    "peft",
    "safetensors",
    "numpy",
)
"""Packages on which results or messages between ranks depend."""
CODE = "code of nearfar"
LEAST_FREE_BYTES = 100 << 20
"""Disk space for a log, a report and temporary files. `nearfar check` computes that for a model."""
LEAST_MEMORY_RATIO = 0.5
"""Smallest free share of a GPU's memory, relative to the GPU with the largest."""
MOST_SKEW_SECONDS = 2.0
MOST_FAULTS = 8
"""Faults that a message lists; a bad node has one per rank."""
PROBE_SECONDS = 10.0
"""Time in which a file of the first rank must appear on all nodes."""


@dataclass(frozen=True)
class NodeReport:
    """What one rank has found on its node."""

    rank: int
    host: str
    local_rank: int
    device: str
    free_memory_bytes: int
    memory_bytes: int
    """Free and total memory of its GPU; 0 without one."""
    free_bytes: dict[str, int]
    """Free disk space per folder."""
    versions: dict[str, str]
    sees_output: bool
    """Whether it sees a file that the first rank has written at the place of the run folder."""
    clock_skew_seconds: float
    """Least difference between its clock and that of the first rank."""

    @property
    def place(self) -> str:
        """The rank and its host."""
        return f"rank {self.rank} on {self.host}"


@dataclass(frozen=True)
class Nodes:
    """What all ranks have found, and the speed of their connection."""

    reports: tuple[NodeReport, ...]
    gigabytes_per_second: float
    """Size of an all-reduce by its duration on the slowest rank."""

    @property
    def summary(self) -> str:
        """One line about all nodes."""
        hosts = len({report.host for report in self.reports})
        free = min(free for report in self.reports for free in report.free_bytes.values())
        return (
            f"{len(self.reports)} ranks on {hosts} node{'s' * (hosts > 1)}, with the same versions:"
            f" all-reduce at {self.gigabytes_per_second:.3g} GB/s, at least {free / 1e9:,.1f} GB of"
            " disk free"
        )

    @property
    def warnings(self) -> list[str]:
        """A line per difference that makes a run slow or its logs hard to read."""
        odd = odd_ranks([report.device for report in self.reports])
        return [
            f"warning: {report.place} has a {report.device}, unlike most ranks, and all ranks wait"
            " for the slowest"
            for report in self.reports
            if report.rank in odd
        ] + [
            f"warning: the clock of {report.place} differs by {report.clock_skew_seconds:,.0f}"
            " seconds from that of the first rank, so logs and time limits do not agree;"
            " synchronise it"
            for report in self.reports
            if report.clock_skew_seconds > MOST_SKEW_SECONDS
        ]

    def record(self) -> dict[str, Any]:
        """Returns the content of `nodes.json`."""
        return {
            "all_reduce_gigabytes_per_second": round(self.gigabytes_per_second, 3),
            "ranks": [asdict(report) for report in self.reports],
        }


def check_nodes(run_folder: Path, device: torch.device, compares_memory: bool = True) -> Nodes:
    """Compares what all ranks find on their nodes, before the run folder is created.

    All ranks must call it. Raises BadMachine on all of them, naming each bad node and what to do.
    `compares_memory` looks for GPUs that another program uses.
    """
    skew = _clock_skew()
    with _probe(run_folder) as probe:
        own_report = on_every_rank(lambda: _report(probe, device, skew))
        texts = gather_texts([json.dumps(asdict(own_report))])
    reports = tuple(NodeReport(**json.loads(text)) for text in texts)
    if faults := node_faults(reports, compares_memory):
        surplus = len(faults) - MOST_FAULTS
        raise BadMachine("; ".join(faults[:MOST_FAULTS]) + f"; and {surplus} more" * (surplus > 0))
    return Nodes(reports, _all_reduce_speed(device) / 1e9)


def node_faults(reports: Sequence[NodeReport], compares_memory: bool = True) -> list[str]:
    """Returns a sentence per fault, with rank and host."""
    return [
        *_different_versions(reports),
        *(
            f"{report.place} does not see the folder of the first rank; put output=FOLDER on a disk"
            " that all nodes share"
            for report in reports
            if not report.sees_output
        ),
        *(
            f"{report.place} has only {free / 1e6:,.0f} MB free in {folder}; make room there"
            for report in reports
            for folder, free in report.free_bytes.items()
            if free < LEAST_FREE_BYTES
        ),
        *(_used_memory(reports) if compares_memory else ()),
    ]


def _different_versions(reports: Sequence[NodeReport]) -> Iterator[str]:
    for package in dict.fromkeys(name for report in reports for name in report.versions):
        versions = [report.versions.get(package, "missing") for report in reports]
        odd = odd_ranks(versions)
        usual = next((text for number, text in enumerate(versions) if number not in odd), "")
        for number in odd:
            yield (
                f"{reports[number].place} has {package} {versions[number]}, but most ranks have"
                f" {usual}; install the same versions on every node"
            )


def _used_memory(reports: Sequence[NodeReport]) -> Iterator[str]:
    """Yields the ranks whose GPU another process uses."""
    on_gpu = [report for report in reports if report.memory_bytes]
    largest = max(
        (report.free_memory_bytes / report.memory_bytes for report in on_gpu), default=0.0
    )
    for report in on_gpu:
        if report.free_memory_bytes / report.memory_bytes < LEAST_MEMORY_RATIO * largest:
            yield (
                f"{report.place} has only {report.free_memory_bytes / 1e9:,.1f} of"
                f" {report.memory_bytes / 1e9:,.1f} GB of GPU memory free; end the other program"
                " there (nvidia-smi lists it), or leave out the node"
            )


def _report(probe: Path, device: torch.device, skew: float) -> NodeReport:
    """Returns the report of this rank."""
    is_gpu = device.type == "cuda"
    free_memory, memory = torch.cuda.mem_get_info(device) if is_gpu else (0, 0)
    folders = [existing_ancestor(probe.parent), Path(tempfile.gettempdir())]
    return NodeReport(
        rank=rank(),
        host=socket.gethostname(),
        local_rank=local_rank(os.environ),
        device=torch.cuda.get_device_name(device) if is_gpu else device.type,
        free_memory_bytes=free_memory,
        memory_bytes=memory,
        free_bytes={str(folder): shutil.disk_usage(folder).free for folder in folders},
        versions=_versions(),
        sees_output=_appears(probe),
        clock_skew_seconds=skew,
    )


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    digest, root = hashlib.sha256(), Path(__file__).parents[2]
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return {**versions, CODE: digest.hexdigest()[:12]}


def existing_ancestor(path: Path) -> Path:
    """Returns the folder itself, or else its closest ancestor that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


@contextmanager
def _probe(run_folder: Path) -> Iterator[Path]:
    """Yields the path of a file that the first rank has written, and removes it at the end."""
    name = f".nodes.{secrets.token_hex(4)}.partial"
    probe = Path(gather_texts([str(existing_ancestor(run_folder) / name)])[0])
    on_first_rank(lambda: _touch(probe))
    try:
        yield probe
    finally:
        if rank() == 0:
            probe.unlink(missing_ok=True)


def _touch(probe: Path) -> None:
    try:
        probe.touch()
    except OSError as error:
        raise BadMachine(
            f"{socket.gethostname()} cannot write to {probe.parent}: {error.strerror}; choose"
            " another folder with output=FOLDER"
        ) from error


def _appears(probe: Path) -> bool:
    """Returns whether a file appears on this node, which can take seconds on a network disk."""
    end = time.monotonic() + PROBE_SECONDS
    while not probe.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _clock_skew() -> float:
    """Returns the least number of seconds by which this clock differs from that of the first rank.

    Both were read at some time of the exchange of the readings, so its duration is subtracted.
    """
    start = time.monotonic()
    readings = list(map(float, gather_texts([repr(time.time())])))
    durations = list(map(float, gather_texts([repr(time.monotonic() - start)])))
    skew = abs(readings[rank()] - readings[0]) - max(durations[rank()], durations[0])
    return round(max(0.0, skew), 3)


def _all_reduce_speed(device: torch.device) -> float:
    """Returns the bytes per second of the best of three all-reduces of 16 MB (CPU: 4 MB)."""
    size_bytes = (4 if device.type == "cpu" else 16) << 20
    values, seconds = torch.zeros(size_bytes // 4, device=device), []
    for _ in range(3):
        start = time.perf_counter()
        sum_over_ranks(values)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    (nanoseconds,) = all_reduce_integers([int(1e9 * min(seconds))], MAX)
    return size_bytes / (1e-9 * nanoseconds)
