"""A key changes with what the outcome of a stage depends on, and with nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.cli.main import app
from trainer.pipeline.file import load_pipeline
from trainer.pipeline.graph import order
from trainer.pipeline.keys import _GROUPS, KeyedStage, add_keys, changes

TEXT = """
name: keys
output: runs
values: {data: pairs.jsonl}
stages:
  teacher:
    command: nearfar fit a.yaml data.train=${data} output=${folder} name=run
    outputs: {model: run/model}
  student:
    command: nearfar fit a.yaml model.backbone=${teacher.model} output=${folder} name=run
    outputs: {model: run/model}
    reads: [extra]
  other:
    command: nearfar recipe check a.yaml
"""


@pytest.fixture
def keys(place: Path) -> Callable[..., dict[str, KeyedStage]]:
    """Reads the pipeline anew; the arguments are replacements in its text, old and new in turn."""
    Path("extra").mkdir()
    Path("extra/x").write_text("x")

    def read(*changed: str, overrides: tuple[str, ...] = ()) -> dict[str, KeyedStage]:
        text = TEXT
        for old, new in zip(changed[::2], changed[1::2], strict=True):
            assert old in text
            text = text.replace(old, new)
        Path("keys.yaml").write_text(text, encoding="utf-8")
        pipeline = load_pipeline(Path("keys.yaml"), overrides)
        return add_keys(pipeline, order(pipeline))

    return read


def differing(before: dict[str, KeyedStage], after: dict[str, KeyedStage]) -> set[str]:
    return {name for name in before if before[name].key != after[name].key}


def test_paths_are_inserted(keys) -> None:
    stages = keys()
    teacher, student = stages["teacher"], stages["student"]
    assert teacher.command == [
        "nearfar",
        "fit",
        "a.yaml",
        "data.train=pairs.jsonl",
        f"output=runs/keys/teacher/{teacher.key}",
        "name=run",
    ]
    assert teacher.outputs == {"model": teacher.folder / "run/model"}
    assert student.command[3] == f"model.backbone=runs/keys/teacher/{teacher.key}/run/model"


def test_inputs_of_a_command_are_found(keys) -> None:
    stages = keys()
    assert {name: set(stage.dependencies["reads"]) for name, stage in stages.items()} == {
        "teacher": {"pairs.jsonl"}, "student": {"pairs.jsonl", "extra"}, "other": {"a.yaml"},
    }  # fmt: skip
    assert stages["student"].dependencies["stages"] == {"teacher": stages["teacher"].key}


def test_folder_named_like_a_verb_is_no_input(keys) -> None:
    checked = ("recipe check a.yaml", "data check other.jsonl")
    before = keys(*checked)
    for name in ("data", "check", "fit"):
        Path(name).mkdir()
        (Path(name) / "x").write_text("x")
    after = keys(*checked)
    assert set(after["other"].dependencies["reads"]) == {"other.jsonl"}
    assert differing(before, after) == set()


def test_verbs_of_two_words_are_known() -> None:
    assert {group.name for group in app.registered_groups} == _GROUPS


@pytest.mark.parametrize(
    ("changed", "stages"),
    [
        ({"pairs.jsonl": '{"query": "q", "positive": "p"}\n'}, {"teacher", "student"}),
        (
            {"a.yaml": "name: a\nmodel: {backbone: x/y}\ndata: {train: pairs.jsonl}\nseed: 14\n"},
            {"teacher", "student", "other"},
        ),
        # A comment teaches nothing, but a command that shows the file itself may show it.
        (
            {"a.yaml": "# hello\nname: a\nmodel: {backbone: x/y}\ndata: {train: pairs.jsonl}\n"},
            {"other"},
        ),
        ({"extra/x": "y"}, {"student"}),
        ({"extra/z": ""}, {"student"}),
        ({"other.jsonl": ""}, set()),
    ],
)
def test_key_depends_on_contents(keys, changed: dict[str, str], stages: set[str]) -> None:
    before = keys()
    for name, text in changed.items():
        Path(name).write_text(text, encoding="utf-8")
    assert differing(before, keys()) == stages


@pytest.mark.parametrize(
    ("replaced", "stages"),
    [
        (("data.train=${data}", "data.train=${data} seed=3"), {"teacher", "student"}),
        (("data: pairs.jsonl", "data: other.jsonl"), {"teacher", "student"}),
        (("recipe check", "recipe show"), {"other"}),
        (("model.backbone=${teacher.model}", "model.backbone=${teacher.folder}"), {"student"}),
        (
            (
                "outputs: {model: run/model}\n  student",
                "outputs: {model: run/model, report: run/report.html}\n  student",
            ),
            set(),
        ),
        (("keys\n", "renamed\n"), set()),
    ],
)
def test_key_depends_on_the_recipe_file(keys, replaced: tuple[str, ...], stages: set[str]) -> None:
    assert differing(keys(), keys(*replaced)) == stages


def test_key_does_not_depend_on_place_and_machine(keys) -> None:
    stages = keys()
    assert differing(stages, keys(overrides=("output=elsewhere",))) == set()
    launched = keys(
        "name=run\n    outputs: {model: run/model}\n  student",
        "name=run\n    machine: m.yaml\n    outputs: {model: run/model}\n  student",
    )
    assert differing(stages, launched) == set()
    assert launched["teacher"].command[:3] == ["nearfar", "launch", "a.yaml"]
    assert launched["teacher"].command[-2:] == ["--machine", "m.yaml"]


def test_changed_input_is_named(keys) -> None:
    before = keys()
    Path("pairs.jsonl").write_text("{}")
    Path("extra/x").write_text("y")
    after = keys("a.yaml model", "a.yaml seed=3 model")
    assert changes(before["teacher"].dependencies, after["teacher"].dependencies) == [
        "pairs.jsonl has changed"
    ]
    assert changes(before["student"].dependencies, after["student"].dependencies) == [
        ("the command has "
         "changed"), "extra has changed", "pairs.jsonl has changed", "stage teacher has changed",
    ]  # fmt: skip
    assert changes(before["other"].dependencies, after["other"].dependencies) == []


def test_key_depends_on_the_version_of_nearfar(keys, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys()
    monkeypatch.setattr("trainer.pipeline.keys.__version__", "99")
    after = keys()
    assert differing(before, after) == set(before)
    assert "has become 99" in changes(before["other"].dependencies, after["other"].dependencies)[0]
