"""The run folder: what is in it, and every way it is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.errors import BadFolder, Interrupted, OtherRankFailed
from trainer.runtime.log_file import read_log
from trainer.runtime.run_folder import RunFolder, check_run_folder
from trainer.storage.locks import LOCK

RECIPE = "name: a-run\nseed: 13\n"


def create(path: Path, replace: bool = False) -> RunFolder:
    return RunFolder.create(path, RECIPE, ["nearfar", "fit", "recipe.yaml"], {"rows": 100}, replace)


def everything_under(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def test_folder_has_recipe_environment_and_status(tmp_path):
    with create(tmp_path / "runs" / "a-run") as run:
        assert run.recipe_path.read_text() == RECIPE
        environment = json.loads(run.environment_path.read_text())
        assert not (run.path / "status.json").exists()
    status = json.loads((run.path / "status.json").read_text())
    assert status["status"] == "done"
    assert environment["command"] == "nearfar fit recipe.yaml"
    assert environment["data"] == {"rows": 100}
    assert environment["packages"]["torch"]
    assert environment["cores"] >= 1
    assert environment["memory_bytes"] > 2**20
    assert {path.name for path in run.path.iterdir()} == {
        LOCK,
        "recipe.yaml",
        "environment.json",
        "attempts.json",
        "status.json",
    }


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Interrupted("Ctrl-C"), "stopped"),
        (KeyboardInterrupt(), "stopped"),
        (ValueError("odd"), "failed"),
    ],
)
def test_error_is_recorded_and_raised(tmp_path, error, status):
    with pytest.raises(type(error)), create(tmp_path / "a-run"):
        raise error
    record = json.loads((tmp_path / "a-run" / "status.json").read_text())
    assert record["status"] == status
    assert type(error).__name__ in record["error"]


@pytest.mark.parametrize("status", ["done", "stopped", "failed"])
def test_former_run_is_never_overwritten(tmp_path, status):
    create(tmp_path / "a-run").finish(status)
    before = everything_under(tmp_path)
    message = r"already contains a .*--resume.*--replace.*name=NAME"
    with pytest.raises(BadFolder, match=message) as caught:
        create(tmp_path / "a-run")
    assert caught.value.exit_code == 2
    assert everything_under(tmp_path) == before


@pytest.mark.parametrize(
    ("error", "code"), [(OtherRankFailed("rank 1 is gone"), 88), (BadFolder("full"), 2)]
)
def test_hang_is_the_reason_for_a_lost_rank_alone(tmp_path, error, code):
    """The watch ends a process whose run has just failed by itself."""
    with pytest.raises(type(error)), create(tmp_path / "run") as folder:
        raise error
    folder.finish_at_once("no progress", 88)
    assert json.loads(folder.status_path.read_text())["exit_code"] == code


def test_former_run_is_moved_by_replace(tmp_path):
    first = create(tmp_path / "a-run")
    (first.path / "log.jsonl").write_text("precious\n")
    first.finish("done")
    create(tmp_path / "a-run", replace=True).finish("done")
    (moved,) = [path for path in tmp_path.iterdir() if path.name.startswith("a-run.replaced-")]
    assert (moved / "log.jsonl").read_text() == "precious\n"
    assert not (tmp_path / "a-run" / "log.jsonl").exists()


@pytest.mark.parametrize("replace", [False, True])
def test_foreign_folder_is_not_changed(tmp_path, replace):
    (tmp_path / "thesis.tex").write_text("years of work")
    before = everything_under(tmp_path)
    with pytest.raises(BadFolder, match=r"not a run of nearfar \(thesis.tex"):
        create(tmp_path, replace)
    assert everything_under(tmp_path) == before


def test_empty_folder_is_used(tmp_path):
    (tmp_path / "a-run").mkdir()
    create(tmp_path / "a-run").finish("done")


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadFolder, match="is a file"):
        create(tmp_path / "file")
    with pytest.raises(BadFolder, match="is a file"):
        create(tmp_path / "file" / "a-run")


def test_r06_read_only_place_is_refused_and_nothing_is_written(tmp_path):
    tmp_path.chmod(0o555)
    for folder in tmp_path.parents:
        if folder.name.startswith(("pytest-", "popen-")):  # pytest's own, closed to the other user
            folder.chmod(0o755)
    program = f"""
import os, pathlib, trainer.runtime.run_folder as run_folder
from trainer.errors import BadFolder
if os.getuid() == 0:
    os.setuid(65534)
try:
    run_folder.RunFolder.create(pathlib.Path({str(tmp_path / "a-run")!r}), "name: x", [], {{}})
except BadFolder as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert "read-only; choose another folder with output=FOLDER" in result.stdout, result.stderr
    assert list(tmp_path.iterdir()) == []


def test_command_line_that_is_not_utf8_is_recorded(tmp_path):
    run = RunFolder.create(
        tmp_path / "a-run",
        RECIPE,
        ["nearfar", "fit", b"caf\xe9.yaml".decode("utf-8", "surrogateescape")],
        {},
    )
    run.finish("done")
    assert "caf?.yaml" in json.loads(run.environment_path.read_text())["command"]


def test_check_of_a_folder_writes_nothing(tmp_path):
    check_run_folder(tmp_path / "deep" / "a-run")
    assert list(tmp_path.iterdir()) == []


def test_truncated_log_is_read_up_to_its_end(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(
        b'{"step": 0, "train/loss": 2.0}\n{"step": 1, "tra\n[1]\n{"step": 2, "train/loss": null,'
        b' "non_finite": ["train/loss"]}\n{"st'
    )
    assert [record["step"] for record in read_log(tmp_path / "log.jsonl")] == [0, 2]
    assert read_log(tmp_path / "none.jsonl") == []
