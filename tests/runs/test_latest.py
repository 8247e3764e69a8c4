"""The latest values of a run come from the end of its log."""

import json
import subprocess
import sys

from trainer.runs.latest import Latest, read_latest
from trainer.runtime.log_file import read_tail

CODE = """
import sys
from pathlib import Path
from trainer.runs.overview import read_overviews
print(read_overviews(Path(sys.argv[1]))[0].latest.step)
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
heavy = ("torch", "numpy", "pydantic", "rich", "yaml", "pytorch_lightning", "transformers")
print([name for name in heavy if name in sys.modules])
"""


def test_only_the_end_of_a_long_log_is_read(tmp_path):
    last = json.dumps({"step": 41, "train/loss": 0.25})
    with (tmp_path / "log.jsonl").open("w") as log:
        log.seek(1 << 30)  # a gigabyte that needs no room on the disk
        log.write(f"\n{last}\n")
    (tmp_path / "environment.json").write_text("{}")
    ended = subprocess.run(
        [sys.executable, "-c", CODE, tmp_path], capture_output=True, text=True, check=True
    )
    step, kilobytes, heavy = ended.stdout.splitlines()
    assert (step, heavy) == ("42", "[]")
    assert int(kilobytes) < 100_000


def test_line_cut_off_at_either_end_is_skipped(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 11}\n{"step": 2}\n{"step": 3}\n{"st')
    assert read_tail(path, 30) == [{"step": 2}, {"step": 3}]
    assert [record["step"] for record in read_tail(path)] == [11, 2, 3]


def test_non_finite_loss_has_no_value(tmp_path):
    (tmp_path / "log.jsonl").write_text(
        '{"step": 0, "train/loss": 0.5, "validation/ndcg@10": 0.25}\n'
        '{"step": 1, "train/loss": null, "validation/ndcg@10": 0.125}\n'
    )
    assert read_latest(tmp_path, {}) == Latest(2, None, 0.25)


def test_scores_of_a_finished_run_are_in_its_status(tmp_path):
    selection = {"base_score": 0.5, "best_score": 0.75, "best_step": 3}
    assert read_latest(tmp_path, {"selection": selection}) == Latest(None, None, 0.75)
