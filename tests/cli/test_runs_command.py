"""`nearfar runs` on real runs that are done, stopped, going on and killed; and on folders that are
old, damaged or hostile.
"""

import json
import signal

import pytest
from forked import nearfar
from killable import Command, Run


@pytest.fixture
def run(tmp_path, toy_folder):
    (tmp_path / "runs").mkdir()
    run = Run(tmp_path, toy_folder("bert"), "bi-encoder-full", f"output={tmp_path}/runs")
    run.parent = tmp_path / "runs"
    return run


def rows(folder):
    """The answer of `nearfar runs --json`, by the name of the run."""
    answer = nearfar("runs", folder, "--json")
    assert answer.returncode == 0, answer.stderr
    return {row["name"]: row for row in json.loads(answer.stdout)}


def table(folder):
    answer = nearfar("runs", folder, environment={"COLUMNS": "80"})
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def until_checkpoint(run, name, *words):
    command = Command(*run.words(name, *words))
    command.wait_for((run.path(name) / "checkpoints/latest").exists)
    return command


def test_runs_are_shown_as_they_are(run):
    assert Command(*run.words("finished")).wait() == [0]
    command = until_checkpoint(run, "killed")
    command.send(signal.SIGSTOP)
    row = rows(run.parent)["killed"]
    assert row["state"] == "running"
    assert f"process {command.processes[0].pid} " in row["reason"]
    assert row["next_command"] is None
    command.send(signal.SIGKILL)
    command.wait()
    command = until_checkpoint(run, "stopped")
    command.send(signal.SIGTERM)
    assert command.wait() == [85]

    overviews = rows(run.parent)
    assert list(overviews) == ["stopped", "killed", "finished"]
    finished, killed, stopped = (overviews[name] for name in ("finished", "killed", "stopped"))
    assert finished["state"] == "done"
    assert (finished["step"], finished["total_steps"], finished["resume_count"]) == (24, 24, 0)
    assert finished["loss"] == run.losses("finished")[-1]
    scores = [record.get("validation/ndcg@10", 0.0) for record in run.log("finished")]
    assert finished["best_score"] == max(scores) > 0
    assert finished["next_command"] is None
    assert (killed["state"], killed["exit_code"]) == ("killed", None)
    assert 3 <= killed["step"] <= 24
    assert (stopped["state"], stopped["exit_code"]) == ("preempted", 85)
    assert "SIGTERM" in stopped["reason"]

    text = table(run.parent)
    assert max(map(len, text.split("killed: killed:")[0].splitlines()[:4])) <= 80
    assert "stopped: preempted (exit code 85): Preempted: this process was asked" in text
    assert f"continue: {killed['next_command']}" in text

    # The command that it names continues the run.
    program, *words = killed["next_command"].split()
    assert (program, words[0], words[-1]) == ("nearfar", "fit", "--resume")
    assert Command(*words).wait() == [0]
    row = rows(run.path("killed"))["killed"]
    assert (row["state"], row["resume_count"], row["step"]) == ("done", 1, 24)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_old_and_damaged_folders_are_shown(tmp_path):
    start = {"started": "2026-01-02T03:04:05+00:00", "command": "nearfar fit recipe.yaml"}
    write(tmp_path / "old/environment.json", start)
    end = {"status": "done", "ended": "2026-01-02T03:05:05+00:00", "exit_code": 0}
    write(tmp_path / "old/status.json", end)
    write(tmp_path / "no-run/recipe.yaml", "")
    write(tmp_path / "a-file", "")
    for number, damage in enumerate(("", "5", "[5]", "{", "[[", "[" * 100_000, '{"step": 1e999}')):
        folder = tmp_path / f"damaged-{number}"
        for name in ("environment.json", "attempts.json", "status.json", "log.jsonl", ".lock"):
            write(folder / name, damage)
        write(folder / "checkpoints/latest/manifest.json", damage)
    overviews = rows(tmp_path)
    assert set(overviews) == {"old", *(f"damaged-{number}" for number in range(7))}
    assert (overviews["old"]["state"], overviews["old"]["seconds"]) == ("done", 60.0)
    assert {row["state"] for name, row in overviews.items() if name != "old"} == {"killed"}
    assert all(len(line) <= 80 for line in table(tmp_path).splitlines()[:9])


def test_hostile_names_and_values_are_escaped(tmp_path):
    folder = tmp_path / "red\x1b[31m"
    write(folder / "environment.json", {})
    attempt = {
        "started": 5,
        "ended": [],
        "status": "failed",
        "error": "\x1b]0;title\x07 \u202e",
        "exit_code": "\x1b",
        "job": {"\x1b": 1},
        "steps": "\x1b",
        "command": "nearfar fit '\x1b[2J'",
    }
    write(folder / "attempts.json", [attempt])
    write(folder / "log.jsonl", {"step": "\x1b", "train/loss": "\x1b", "validation/ndcg@10": []})
    text = table(tmp_path)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b]0;title" in text
    assert "\x1b" not in nearfar("runs", tmp_path, "--json").stdout


def test_folder_without_runs_and_missing_folder(tmp_path):
    assert table(tmp_path) == f"no runs in {tmp_path}\n"
    assert rows(tmp_path) == {}
    answer = nearfar("runs", tmp_path / "missing")
    assert answer.returncode == 2
    assert "missing cannot be read: No such file or directory" in answer.stderr
