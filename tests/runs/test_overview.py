"""The state and the time of a run, from its attempts and its lock."""

import json
import subprocess

from trainer.runs.overview import read_overviews


def attempt(**values):
    return {"started": "2026-01-02T03:04:05+00:00", "command": "nearfar fit a.yaml", **values}


def one_run(folder, *attempts):
    (folder / "environment.json").write_text("{}")
    (folder / "attempts.json").write_text(json.dumps(attempts))
    (overview,) = read_overviews(folder)
    return overview


def test_time_is_that_of_all_attempts(tmp_path):
    first = attempt(ended="2026-01-02T03:05:05+00:00", status="preempted")
    second = attempt(started="2026-01-03T00:00:00+00:00", ended="2026-01-03T00:00:30+00:00")
    overview = one_run(tmp_path, first, {**second, "status": "failed", "error": "BadData: no"})
    assert overview.seconds == 90.0
    assert (overview.state, overview.reason) == ("failed", "BadData: no")
    assert overview.next_command == "nearfar fit a.yaml --resume"


def test_lock_of_a_live_process_counts_more_than_its_end(tmp_path):
    ended = attempt(status="failed")
    command = ["flock", "-n", str(tmp_path / ".lock"), "-c", "echo ready; cat"]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "ready\n"
    assert one_run(tmp_path, ended).state == "running"
    holder.communicate("")
    assert one_run(tmp_path, ended).state == "failed"
