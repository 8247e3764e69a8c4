"""A finished stage is not repeated, a changed one runs with all that depends on it: `nearfar
pipeline` on real stages.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.pipeline.file import load_pipeline
from trainer.pipeline.run import plan


def reasons(*overrides: str) -> dict[str, str]:
    """Each stage of p.yaml and why it is to run, "" when it is done."""
    return {step.stage.name: step.reason for step in plan(load_pipeline(Path("p.yaml"), overrides))}


def ran(ended: subprocess.CompletedProcess[str]) -> list[str]:
    """The stages that a run says it ran, in order."""
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return re.findall(r"^(\w+): done in", ended.stdout, re.MULTILINE)


def files(folder: Path = Path("runs")) -> dict[str, tuple[int, int]]:
    """Every file and when it was last written."""
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_pipeline_runs_once_and_then_only_changed_stages(place: Path, nearfar) -> None:
    first = nearfar("pipeline", "p.yaml")
    assert ran(first) == ["look", "recipe", "last"]
    assert "Ready: 40 pairs" in first.stdout, "what a stage says is shown"
    record = json.loads(next(Path("runs/tiny/look").glob("*.json")).read_text())
    assert record["outputs"] == {"rejected": {"files": 1, "bytes": 0}}
    assert Path("runs/tiny/look/latest/rejected.jsonl").is_file()
    assert "Ready: 40 pairs" in (Path("runs/tiny/look") / f"{record['key']}.log").read_text()

    before = files()
    second = nearfar("pipeline", "p.yaml")
    assert ran(second) == []
    assert second.stdout.count("done before") == 3
    assert files() == before, "running twice does nothing the second time"

    Path("a.yaml").touch()
    assert ran(nearfar("pipeline", "p.yaml")) == [], "the time of a file says nothing"
    old = Path("a.yaml").read_text()
    Path("a.yaml").write_text(old + "seed: 14\n")
    shown = nearfar("pipeline", "p.yaml", "--dry-run").stdout
    assert re.search(r"look +done", shown)
    assert re.search(r"recipe +to run: a.yaml has changed", shown)
    assert re.search(r"last +to run: stage recipe has changed", shown)
    assert ran(nearfar("pipeline", "p.yaml")) == ["recipe", "last"]
    Path("a.yaml").write_text(old)
    assert ran(nearfar("pipeline", "p.yaml")) == [], "what was made before is still there"


def test_options_only_and_from_run_stages_and_changed_outputs_are_noticed(
    place: Path, nearfar
) -> None:
    too_early = nearfar("pipeline", "p.yaml", "--only", "last")
    assert too_early.returncode == 2
    assert (
        "stage last needs stage look, which is not done: it has not run yet; run stage look first"
        in too_early.stderr
    )
    assert ran(nearfar("pipeline", "p.yaml", "--only", "recipe")) == ["recipe"]
    assert ran(nearfar("pipeline", "p.yaml")) == ["look", "last"]
    assert (
        "to run: stage look runs again"
        in nearfar("pipeline", "p.yaml", "--from", "look", "--dry-run").stdout
    )
    assert ran(nearfar("pipeline", "p.yaml", "--from", "look")) == ["look", "last"]
    assert len(list(Path("runs/tiny/look").glob("*.replaced-*.was.json"))) == 1, (
        "the former one is kept"
    )
    rejected = Path("runs/tiny/look/latest/rejected.jsonl")
    rejected.write_text("more")
    assert "has changed since the stage ended" in reasons()["look"]
    rejected.unlink()
    assert reasons()["look"].startswith("its output rejected is no longer at")
    assert reasons()["last"] == "stage look will run"
    assert ran(nearfar("pipeline", "p.yaml")) == [
        "look",
        "last",
    ], "made anew, it is another for those behind it"
    unknown = nearfar("pipeline", "p.yaml", "--only", "lok")
    assert (unknown.returncode, unknown.stderr) == (
        2,
        "error: there is no stage lok; did you mean look?\n",
    )


def test_failing_stage_ends_the_pipeline_with_its_code(place: Path, nearfar) -> None:
    Path("pairs.jsonl").write_text("no json\n" * 5 + Path("pairs.jsonl").read_text())
    ended = nearfar("pipeline", "p.yaml")
    assert ended.returncode == 87
    assert "error: stage look ended with exit code 87; the end of runs/tiny/look/" in ended.stderr
    assert "5 of 45 rows could not be used" in ended.stderr
    assert not list(Path("runs/tiny/look").glob("*.json"))
    assert not Path("runs/tiny/last").exists(), "nothing behind it runs"
    assert reasons()["look"] == "it started and did not finish"


def test_missing_output_is_named_and_can_be_written_again(place: Path, nearfar) -> None:
    right = Path("p.yaml").read_text()
    Path("p.yaml").write_text(
        right.replace("${rejected}", "${folder}/rejected.jsonl").replace(
            "{rejected: rejected", "{rejected: rejekted"
        )
    )
    ended = nearfar("pipeline", "p.yaml")
    assert ended.returncode == 2
    assert re.search(
        r"these outputs are missing: rejected \(runs/tiny/look/\w+/rejekted.jsonl\); .* contains"
        r" rejected.jsonl",
        ended.stderr,
    )
    assert "done in" not in ended.stdout
    assert reasons()["look"] == "it started and did not finish"
    Path("p.yaml").write_text(right.replace("${rejected}", "${folder}/rejected.jsonl"))
    assert nearfar("pipeline", "p.yaml", "--accept", "look").returncode == 0
    assert reasons() == {"look": "", "recipe": "it has not run yet", "last": "it has not run yet"}


def test_stage_that_writes_elsewhere_is_not_done(place: Path, nearfar) -> None:
    Path("p.yaml").write_text(
        "name: out\nstages:\n  a:\n    command: nearfar data check pairs.jsonl --rejected"
        " there.jsonl\n"
    )
    ended = nearfar("pipeline", "p.yaml")
    assert ended.returncode == 2
    assert "while stage a ran: there.jsonl is new" in ended.stderr
    assert "let it write only into ${folder}" in ended.stderr
    assert not list(Path("runs/out/a").glob("*.json"))


def test_printed_commands_run_in_a_shell(place: Path, nearfar, tmp_path: Path) -> None:
    script = nearfar("pipeline", "p.yaml", "--print-commands").stdout
    assert not Path("runs").exists()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nearfar").write_text(f'#!/bin/sh\nexec {sys.executable} -m trainer "$@"\n')
    (tmp_path / "bin" / "nearfar").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    ended = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=environment, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert set(reasons().values()) == {""}
    early = nearfar("pipeline", "p.yaml", "name=another", "--accept", "last")
    assert early.returncode == 2
    assert "needs stage look, which is not done" in early.stderr


def test_paths_with_spaces_and_a_damaged_record_are_read(place: Path, nearfar) -> None:
    output = "output=my runs; $(touch x)"
    assert ran(nearfar("pipeline", "p.yaml", output)) == ["look", "recipe", "last"]
    assert not Path("x").exists(), "no shell is asked"
    record = next(Path("my runs; $(touch x)/tiny/recipe").glob("*.json"))
    record.write_text(record.read_text()[:50])
    assert "is damaged" in reasons(output)["recipe"]
    assert ran(nearfar("pipeline", "p.yaml", output)) == ["recipe", "last"]


def test_pipeline_imports_nothing_heavy() -> None:
    code = (
        "import sys, trainer.pipeline.run; print([name for name in ('torch', 'transformers',"
        " 'numpy', 'datasets') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stdout.strip() == "[]"


def test_several_ranks_are_refused(place: Path, nearfar, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
        "LOCAL_WORLD_SIZE": "2",
    }.items():
        monkeypatch.setenv(name, value)
    ended = nearfar("pipeline", "p.yaml")
    assert ended.returncode == 2
    assert "a pipeline runs in one process" in ended.stderr
