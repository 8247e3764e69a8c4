"""Results keep statistics of long lists, and the report of the search benchmark is the same as from
single values.
"""

import json
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

RESULTS = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("*.json"))


def number_lists(value: Any) -> Iterator[list[float]]:
    """Every list of numbers, however deep."""
    if isinstance(value, dict):
        for each in value.values():
            yield from number_lists(each)
    elif isinstance(value, list):
        if value and all(isinstance(each, int | float) for each in value):
            yield value
        else:
            for each in value:
                yield from number_lists(each)


def test_statistics_of_a_list_are_right(benchmark: Callable[[str], ModuleType]) -> None:
    summary = benchmark("measuring.summary")
    values = [float(number) for number in range(100, 0, -1)]
    assert summary.summarised({"a": [values, "text"]}) == {
        "a": [
            {
                "count": 100,
                "mean": 50.5,
                "minimum": 1.0,
                "median": 50.5,
                "p05": 6.0,
                "p25": 26.0,
                "p75": 76.0,
                "p95": 96.0,
                "p99": 100.0,
                "maximum": 100.0,
            },
            "text",
        ]
    }
    assert summary.summarised(values[: summary.LONGEST]) == values[: summary.LONGEST]
    assert summary.summarised([True] * 100) == [True] * 100


def test_saved_results_say_which_statistic_is_which(
    benchmark: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = benchmark("measuring.record")
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    record.save("claim", "a table", {"milliseconds": [1.0] * 1000})
    (path,) = (tmp_path / "results").glob("*-claim.json")
    saved = json.loads(path.read_text())
    assert saved["milliseconds"]["count"] == 1000
    assert "floor(0.NN * count)" in saved["statistics"]
    assert path.with_suffix(".txt").read_text().startswith("a table\n")


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_stored_results_hold_no_long_list(path: Path) -> None:
    stored = json.loads(path.read_text())
    assert max((len(values) for values in number_lists(stored)), default=0) <= 32
    assert stored["statistics"]
    assert stored["machine"]["processor"]


def test_search_report_shows_the_stored_statistics(benchmark: Callable[[str], ModuleType]) -> None:
    search = benchmark("late_interaction_search")
    measured = {
        "milliseconds": [float(number) for number in range(1, 101)],
        "processor_milliseconds": [2.0] * 100,
        "peak_megabytes": 10.0,
        "wait_ratio": 0.0,
        "build_seconds": 1.0,
        "build_processor_seconds": 1.0,
        "megabytes": 2.0,
        "share": 0.125,
        "documents": 5,
        "tokens": 50,
    }
    results = search.compared(
        {
            "exact": measured | {"ndcg_of_queries": [0.5] * 100},
            "2 bits": measured | {"ndcg_of_queries": [0.4] * 50 + [0.5] * 50},
        }
    )
    report = search.report(Namespace(source="some/corpus"), results, None)
    assert "corpus: 5 documents, 50 vectors, 100 queries" in report
    assert "90.00% [88.00%, 92.00%]" in report
    assert "50.5    96.0" in report
