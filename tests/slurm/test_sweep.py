"""The runs of a sweep, each with a name and so a folder of its own."""

import re

import pytest

from trainer.errors import BadJob
from trainer.slurm.sweep import sweep_runs


def test_no_setting_is_no_sweep() -> None:
    assert sweep_runs([], "toy") == []


def test_every_combination_is_a_run() -> None:
    runs = sweep_runs(["seed=1,2", "optimization.learning_rate=1e-4,2e-4"], "toy")
    assert len(runs) == 4
    name = "name=toy-seed-1-learning_rate-2e-4"
    assert runs[1] == ("seed=1", "optimization.learning_rate=2e-4", name)


def test_list_and_quoted_text_are_single_values() -> None:
    runs = sweep_runs(
        ["""objective.widths=[64, 128],[256]""", """data.train='a,b',"c,d" """], "toy"
    )
    assert [run[:2] for run in runs[:2]] == [
        ("objective.widths=[64, 128]", "data.train='a,b'"),
        ("objective.widths=[64, 128]", 'data.train="c,d" '),
    ]


@pytest.mark.parametrize("values", ["a/b,a:b", f"x,{'y' * 120}"])
def test_names_are_numbered_where_values_make_no_name(values: str) -> None:
    assert [run[-1] for run in sweep_runs([f"model.backbone={values}"], "toy")] == [
        "name=toy-0",
        "name=toy-1",
    ]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed", "--sweep seed is not KEY=VALUE,VALUE"),
        ("seed=", "is not KEY=VALUE,VALUE"),
        ("=1", "is not KEY=VALUE,VALUE"),
        ("name=a,b", "a name of its own"),
        ("seed=" + ",".join(map(str, range(1001))), "1001 runs are more than 1000"),
    ],
)
def test_impossible_sweep_is_refused(setting: str, message: str) -> None:
    with pytest.raises(BadJob, match=re.escape(message)):
        sweep_runs([setting], "toy")
