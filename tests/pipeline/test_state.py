"""What is left of a stage is kept: for a command that goes on where it was, in its place, else
beside it.
"""

import os
import signal
from pathlib import Path

import pytest

from trainer.errors import Interrupted, NearfarError, Preempted, StageFailed
from trainer.pipeline.file import load_pipeline
from trainer.pipeline.keys import KeyedStage, add_keys
from trainer.pipeline.process import Relay, last_lines
from trainer.pipeline.run import plan, run_all, script_lines
from trainer.pipeline.state import make_folder, reason_to_run, size_of, write_record


@pytest.fixture
def stages(place: Path) -> dict[str, KeyedStage]:
    return add_keys(load_pipeline(Path("p.yaml")), ["look", "recipe", "last"])


def left(stage: KeyedStage) -> dict[str, str]:
    """Texts of the files in the stage's folder and in those moved aside, by folder without its
    time.
    """
    return {
        path.parent.name.partition("-")[0]: path.read_text()
        for path in stage.folder.parent.rglob("*.jsonl")
    }  # a key has no dash


def begin(stage: KeyedStage) -> None:
    stage.folder.mkdir(parents=True)
    (stage.folder / "rejected.jsonl").write_text("half")


def test_unfinished_output_is_kept_or_moved(stages: dict[str, KeyedStage]) -> None:
    look = stages["look"]
    begin(look)
    make_folder(look, keep_unfinished=True)
    assert left(look) == {look.key: "half"}
    make_folder(look, keep_unfinished=False)
    assert left(look) == {f"{look.key}.unfinished": "half"}
    assert list(look.folder.iterdir()) == []


def test_finished_output_is_never_continued(stages: dict[str, KeyedStage]) -> None:
    look = stages["look"]
    begin(look)
    write_record(look, {})
    assert reason_to_run(look, stages) == ""
    make_folder(look, keep_unfinished=True)
    assert left(look) == {f"{look.key}.replaced": "half"}
    assert not look.record.exists()
    assert reason_to_run(look, stages) == "it started and did not finish"


MINING = """
name: mining
stages:
  recipe:
    command: nearfar recipe check a.yaml
  mined:
    command: nearfar mine model pairs.jsonl -o ${folder}
    outputs: {pairs: train.jsonl}
    after: [recipe]
"""


@pytest.fixture
def mining(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What each mining found in its folder when it began. The first is cut short, the second ends
    well.
    """
    Path("m.yaml").write_text(MINING, encoding="utf-8")
    found: list[list[str]] = []

    def carry_out(words: list[str], log: Path, *_: object) -> int:
        log.write_text("")
        if words[0] == "mine":
            folder = Path(words[-1])
            found.append(sorted(path.name for path in folder.iterdir()))
            (folder / ("work" if len(found) == 1 else "train.jsonl")).write_text("")
            return 1 if len(found) == 1 else 0
        return 0

    monkeypatch.setattr("trainer.pipeline.run.run", carry_out)
    with pytest.raises(StageFailed):
        run_all(load_pipeline(Path("m.yaml")))
    return found


def test_command_continues_its_output(mining: list[list[str]]) -> None:
    run_all(load_pipeline(Path("m.yaml")))
    assert mining == [[], ["work"]]


def test_unfinished_output_is_not_continued_when_its_input_has_changed(
    mining: list[list[str]],
) -> None:
    """The miner would refuse a folder that was begun with another model, whenever the pipeline is
    started.
    """
    pipeline = load_pipeline(Path("m.yaml"))
    run_all(pipeline, single_stage="recipe", start="recipe")
    run_all(pipeline)
    assert mining == [[], []]


def test_stage_that_is_repeated_by_hand_begins_with_an_empty_folder(
    mining: list[list[str]],
) -> None:
    pipeline = load_pipeline(Path("m.yaml"))
    assert not [
        line
        for line in script_lines(pipeline, plan(pipeline), ["nearfar", "pipeline", "m.yaml"])
        if line.startswith("mv")
    ], "it goes on"
    first, second = add_keys(pipeline, ["recipe", "mined"]).values()
    first.record.rename("aside")
    assert [
        line
        for line in script_lines(pipeline, plan(pipeline), ["nearfar", "pipeline", "m.yaml"])
        if line.startswith(f"mv {second.folder} ")
    ]
    Path("aside").rename(first.record)
    folder = run_all(pipeline)[-1].folder
    (folder / "train.jsonl").unlink()
    assert [
        line
        for line in script_lines(pipeline, plan(pipeline), ["nearfar", "pipeline", "m.yaml"])
        if line.startswith(f"mv {folder} ")
    ]


def test_repeated_stage_changes_the_stages_after_it(stages: dict[str, KeyedStage]) -> None:
    for stage in stages.values():
        begin(stage)
        write_record(stage, stages)
    assert {step.reason for step in plan(load_pipeline(Path("p.yaml")))} == {""}
    write_record(stages["recipe"], stages)
    assert [reason_to_run(stage, stages) for stage in stages.values()] == [
        "",
        "",
        "stage recipe has run again",
    ]


def test_size_of_an_output_is_counted(tmp_path: Path) -> None:
    (tmp_path / "model" / "inner").mkdir(parents=True)
    (tmp_path / "model" / "a").write_bytes(b"123")
    (tmp_path / "model" / "inner" / "b").write_bytes(b"4567")
    assert size_of(tmp_path / "model") == {"files": 2, "bytes": 7}
    assert size_of(tmp_path / "model" / "a") == {"files": 1, "bytes": 3}


@pytest.mark.parametrize(
    ("before", "received"), [(signal.SIG_IGN, None), (signal.SIG_DFL, signal.SIGHUP)]
)
def test_nohup_is_respected(before: signal.Handlers, received: int | None) -> None:
    former = signal.signal(signal.SIGHUP, before)
    try:
        with Relay() as relay:
            os.kill(os.getpid(), signal.SIGHUP)
            assert relay.first_signal == received
        assert signal.getsignal(signal.SIGHUP) == before
    finally:
        signal.signal(signal.SIGHUP, former)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Preempted)]
)
def test_signal_has_its_own_error(number: signal.Signals, error: type[NearfarError]) -> None:
    with Relay() as relay:
        relay.check("at stage a", "go on")
        os.kill(os.getpid(), number)
        with pytest.raises(error, match="^at stage a.* by .*; go on"):
            relay.check("at stage a", "go on")


def test_end_of_a_log_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x\n" * 20_000 + b"one\n\n\xff two\n")
    assert last_lines(log, 3) == ["x", "one", "\ufffd two"]
