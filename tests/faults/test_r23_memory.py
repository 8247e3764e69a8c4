"""R23: a line of 1 GB is rejected, and 10 million rows are read, with at most 500 MB more
memory.
"""

import json
import subprocess
import sys
from pathlib import Path

GROWN = """
import json, resource, sys
from trainer.data.readers.read import read_rows
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = read_rows(sys.argv[1], max_bad_rows_ratio=0.9)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
measurement = {"mb": (after - before) / 1024, "rows": len(rows)}
print(json.dumps(measurement | {"bad": rows.report.bad, "last": rows[-1].query}))
"""
HELD = """
import json, sys, tracemalloc
import pyarrow
from trainer.data.readers.read import read_rows
from trainer.data.rows import count_duplicate_pairs
read_rows(sys.argv[1])
tracemalloc.start()
rows = read_rows(sys.argv[1])
held, peak = tracemalloc.get_traced_memory()
tracemalloc.reset_peak()
count_duplicate_pairs(rows.table)  # what reading does once all rows are there
counting = tracemalloc.get_traced_memory()[1] - held
arrow = pyarrow.default_memory_pool()
held += arrow.bytes_allocated() + counting
print(json.dumps({"rows": len(rows), "peak": peak + arrow.max_memory(), "for_all_rows": held}))
"""
STARTED = """
import json, os, sys, tracemalloc
import pyarrow
os.environ["NEARFAR_CACHE"] = sys.argv[1] + ".cache"
from trainer.build.data import data_sets, leaked_queries
from trainer.recipe.schema.data import DataSection
section = DataSection(train=sys.argv[1])
data_sets(section, seed=1).known_positives
tracemalloc.start()
data = data_sets(section, seed=1)  # the next start
leaked_queries(data.known_positives, data.validation)
held, peak = tracemalloc.get_traced_memory()
rows = len(data.train) + len(data.validation.queries)
arrow = pyarrow.default_memory_pool().bytes_allocated()
print(json.dumps({"rows": rows, "peak": peak + arrow, "held": held + arrow}))
"""


def measured(program: str, path: Path, repository: Path) -> dict:  # type: ignore[type-arg]
    answer = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=repository,
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_r23_line_of_1_gb_is_rejected(tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("wb") as file:
        file.write(b'{"query": "first", "positive": "p"}\n{"query": "')
        file.seek(2**30, 1)  # a hole: takes no room on disk
        file.write(b'"}\n{"query": "last", "positive": "p"}\n')
    measurement = measured(GROWN, path, repository)
    assert (measurement["rows"], measurement["last"], measurement["bad"]) == (
        2,
        "last",
        {"line longer than 32 MB": 1},
    )
    assert measurement["mb"] < 150


def write_rows(path: Path, count: int) -> Path:
    with path.open("w") as file:
        file.writelines(
            f'{{"query": "how is thing {at} done", "positive": "thing {at} is done so"}}\n'
            for at in range(count)
        )
    return path


def test_r23_start_with_ten_million_cached_rows_fits_in_little_memory(
    tmp_path: Path, repository: Path
) -> None:
    """Two files tell what a row costs at a start that finds the rows in the cache."""
    counts = (20_000, 60_000)
    small, large = (
        measured(STARTED, write_rows(tmp_path / f"{count}.jsonl", count), repository)
        for count in counts
    )
    assert (small["rows"], large["rows"]) == counts
    held, peak = (
        (large[name] - small[name]) / (counts[1] - counts[0]) for name in ("held", "peak")
    )
    assert held > 7, "the measurement does not see the row numbers, 8 bytes each"
    assert max(held, peak) < 40  # 400 MB for ten million rows


def test_r23_ten_million_rows_fit_in_little_memory(tmp_path: Path, repository: Path) -> None:
    """Two files tell what a row costs in Python, numpy and Arrow; ten million of them, and what is
    held while writing, stay below the bound.
    """
    measurements = []
    for count in (5_000, 15_000):  # both are more than what is written at once
        measurement = measured(HELD, write_rows(tmp_path / f"{count}.jsonl", count), repository)
        assert measurement["rows"] == count
        measurements.append(measurement)
    bytes_per_row = (measurements[1]["for_all_rows"] - measurements[0]["for_all_rows"]) / 10_000
    mapped_bytes_per_row = (
        16  # the two identities, which the count of duplicates touches in the mapped file
    )
    assert (
        measurements[1]["peak"] + (bytes_per_row + mapped_bytes_per_row) * 10_000_000 < 500 * 2**20
    )
    assert bytes_per_row > 6, "the measurement does not see the 8 bytes a row that are surely there"
