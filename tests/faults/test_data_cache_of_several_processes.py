"""Several processes build one entry of the data cache at once, and processes are killed at it."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from ranks import on_ranks

from trainer.build.data import data_sets
from trainer.data.cache import read as cached_reading
from trainer.recipe.schema.data import DataSection

ROWS = 20_000
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def section(tmp_path, monkeypatch) -> DataSection:
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "x.jsonl"
    with path.open("w") as file:
        file.writelines(
            json.dumps({"query": f"query {n}", "positive": f"text {n} is the answer"}) + "\n"
            for n in range(ROWS)
        )
    return DataSection(train=str(path), validation_ratio=0.01)


def read(section: DataSection) -> tuple[int, list[int], int]:
    """Reads the data. Returns how often this process parsed the file, the inodes of the cached
    files that it has mapped, and the sum of all identities.
    """
    count = 0
    write_rows = cached_reading.write_rows

    def counted(*arguments):
        nonlocal count
        count += 1
        return write_rows(*arguments)

    cached_reading.write_rows = counted
    try:
        train = data_sets(section, seed=1).train
    finally:
        cached_reading.write_rows = write_rows
    inodes = {
        int(line.split()[4])
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith("/content/rows.arrow") and os.environ["NEARFAR_CACHE"] in line
    }
    return count, sorted(inodes), int(train.identities("positive").sum())


def test_ranks_of_a_node_parse_once_and_share_the_file(section):
    counts, inodes, sums = zip(*on_ranks(2, read, section), strict=True)
    assert sum(counts) == 1
    assert inodes[0] == inodes[1]
    assert len(inodes[0]) == 1
    assert sums[0] == sums[1]


def test_processes_that_start_at_once_build_one_entry(section, tmp_path):
    barrier, answers = FORK.Barrier(3), FORK.SimpleQueue()

    def work() -> None:
        barrier.wait()
        answers.put(read(section))

    processes = [FORK.Process(target=work, daemon=True) for _ in range(3)]
    for process in processes:
        process.start()
    results = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    assert sorted(count for count, _, _ in results) == [0, 0, 1]
    assert len({(*inodes, total) for _, inodes, total in results}) == 1
    assert len(list((tmp_path / "cache").rglob("rows.arrow"))) == 1


def test_killed_builder_leaves_nothing_that_is_read(section, tmp_path):
    """The kills are spread over the time that building takes."""
    leftovers = 0
    for kill in range(6):
        process = FORK.Process(target=read, args=(section,))
        process.start()
        time.sleep(0.05 + 0.1 * kill)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        leftovers += len(list((tmp_path / "cache").rglob("*.partial")))
    assert leftovers, "no process was killed while it wrote"
    _, _, total = read(section)
    os.environ["NEARFAR_CACHE"] = "off"  # the fixture restores it
    assert read(section)[2] == total
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_waiting_process_builds_when_the_builder_is_killed(section):
    started, answers = FORK.Event(), FORK.SimpleQueue()

    def build_for_ever() -> None:
        def write_rows(*_):
            started.set()
            time.sleep(600)

        cached_reading.write_rows = write_rows
        data_sets(section, seed=1)

    builder = FORK.Process(target=build_for_ever, daemon=True)
    builder.start()
    assert started.wait(60)
    waiting = FORK.Process(target=lambda: answers.put(read(section)), daemon=True)
    waiting.start()
    time.sleep(3)  # several times as long as reading takes
    assert answers.empty()
    assert builder.pid is not None
    os.kill(builder.pid, signal.SIGKILL)
    assert answers.get()[0] == 1
    for process in (builder, waiting):
        process.join()
