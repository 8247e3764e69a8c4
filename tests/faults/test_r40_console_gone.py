"""R40: standard output or error closed, or on a full disk: the run goes on, and the text of the
console is in the run folder.
"""

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize("redirection", ["<&- >&- 2>&-", ">/dev/full", "&>/dev/full"])
def test_r40_run_goes_on(tmp_path, repository, toy_folder, redirection):
    rows = [{"query": f"disk {number}", "positive": f"size {number}"} for number in range(40)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {
        "model.backbone": toy_folder("bert"),
        "data.train": tmp_path / "train.jsonl",
        "output": tmp_path,
        "name": "run",
        "optimization.batch_size": 8,
        "optimization.warmup_steps": 0,
        "machine.accelerator": "cpu",
        "machine.threads": 1,
    }
    command = [sys.executable, "-m", "trainer", "fit", "recipes/bi-encoder-lora.yaml"]
    words = [f"{key}={value}" for key, value in settings.items()]
    ended = subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *command, *words],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    folder = tmp_path / "run"
    assert ended.returncode == 0, (ended.stderr, list(folder.glob("*")))
    text = (folder / "console.txt").read_text()
    assert "36 training pairs" in text, "its beginning"
    assert "the model is in" in text
    assert "Next: name judged queries" in text, "the result"
    assert (folder / "model" / "model.safetensors").exists()
    assert (folder / "report.html").exists()
    assert json.loads((folder / "status.json").read_text())["status"] == "done"
    for path in folder.rglob("*.json*"):
        content = path.read_text()
        assert "training pairs" not in content, f"the console's text went into {path}"
