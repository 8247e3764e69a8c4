"""Several processes build one entry of the data cache at once, and processes are killed at it."""

import json
import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from killable import Command, Run
from ranks import on_ranks

from trainer.build.data import data_sets
from trainer.data.cache import folder as cache_folder
from trainer.data.cache import read as cached_reading
from trainer.recipe.schema.data import DataSection

ROWS = 4_000
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

    def counted(*arguments, **options):
        nonlocal count
        count += 1
        return write_rows(*arguments, **options)

    cached_reading.write_rows = counted
    try:
        train = data_sets(section, seed=1).train
    finally:
        cached_reading.write_rows = write_rows
    inodes = mapped_rows(os.getpid(), os.environ["NEARFAR_CACHE"])
    return count, inodes, int(train.identities("positive").sum())


def mapped_rows(process: int | None, cache: str) -> list[int]:
    """The inodes of the rows in the cache that a process has mapped."""
    inodes = {
        int(line.split()[4])
        for line in Path(f"/proc/{process}/maps").read_text().splitlines()
        if line.endswith("/content/rows.arrow") and cache in line
    }
    return sorted(inodes)


def test_ranks_of_a_node_parse_once_and_share_the_file(section):
    counts, inodes, sums = zip(*on_ranks(2, read, section), strict=True)
    assert sum(counts) == 1
    assert inodes[0] == inodes[1]
    assert len(inodes[0]) == 1
    assert sums[0] == sums[1]


def test_run_on_two_ranks_and_the_next_start_share_the_rows(tmp_path, toy_folder):
    run, cache = Run(tmp_path, toy_folder("bert"), "bi-encoder-full"), tmp_path / "cache"
    inodes = []
    for name in ("first", "second"):
        words = run.words(name, "optimization.max_steps=400")
        command = Command(*words, ranks=2, environment={"NEARFAR_CACHE": str(cache)})
        log = run.path(name) / "log.jsonl"
        command.wait_for(lambda log=log: log.exists() and '"train/loss"' in log.read_text())
        inodes += [mapped_rows(process.pid, str(cache)) for process in command.processes]
        command.send(signal.SIGKILL)
        command.wait()
    assert len(inodes[0]) == 1
    assert inodes == [inodes[0]] * 4


def test_ranks_with_different_data_are_refused(tmp_path, toy_folder):
    """Each rank sees a file of its own under one name."""
    run = Run(tmp_path, toy_folder("bert"), "bi-encoder-full")
    train = tmp_path / "own.jsonl"
    train.symlink_to("/proc/self/fd/77")
    text = (tmp_path / "train.jsonl").read_text()

    def open_own_file(rank: int) -> None:
        path = tmp_path / f"rank-{rank}.jsonl"
        path.write_text(text.replace("machine", "machinery") if rank else text)
        os.dup2(os.open(path, os.O_RDONLY), 77)

    words = run.words("a", f"data.train={train}")
    command = Command(*words, ranks=2, before=open_own_file)
    assert command.wait() == [2, 2], command.text()
    assert "different versions of the data" in command.text()


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


@pytest.fixture
def builder(section):
    """A process that holds the lock of the rows and gets no further."""
    started = FORK.Event()

    def build_for_ever() -> None:
        def write_rows(*_, **__):
            started.set()
            time.sleep(600)

        cached_reading.write_rows = write_rows
        data_sets(section, seed=1)

    process = FORK.Process(target=build_for_ever, daemon=True)
    process.start()
    assert started.wait(60)
    yield process
    process.kill()
    process.join()


def test_waiting_process_builds_when_the_builder_is_killed(section, builder):
    answers = FORK.SimpleQueue()
    waiting = FORK.Process(target=lambda: answers.put(read(section)), daemon=True)
    waiting.start()
    time.sleep(3)  # several times as long as reading takes
    assert answers.empty()
    builder.kill()
    assert answers.get()[0] == 1
    waiting.join()


def test_builder_that_writes_nothing_is_not_waited_for(section, builder, monkeypatch, caplog):
    monkeypatch.setattr(cache_folder, "_STALLED_SECONDS", 1)
    with caplog.at_level(logging.WARNING):
        count, inodes, _ = read(section)
    assert builder.is_alive()
    assert (count, inodes) == (1, [])
    assert f"process {builder.pid} on" in caplog.text
    assert "has written nothing" in caplog.text


def test_run_that_waits_for_a_builder_is_no_hang_and_stops_on_a_signal(
    section, builder, tmp_path, toy_folder
):
    run = Run(tmp_path, toy_folder("bert"), "bi-encoder-full")
    words = run.words("a", f"data.train={section.train}", "machine.hang_minutes=0.05")
    command = Command(*words, environment={"NEARFAR_CACHE": os.environ["NEARFAR_CACHE"]})
    time.sleep(7)
    command.send(signal.SIGTERM)
    assert command.wait(30) == [85], command.text()
    assert f"waiting for process {builder.pid}" in command.text()
