"""R34: a long run needs no more memory and no more open files at its end than after its start."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

MEGABYTES_PER_1000_STEPS = 1.0


@pytest.mark.parametrize("steps", [2_000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_r34_memory_does_not_grow_with_the_steps(tmp_path, toy_folder, repository, steps):
    rows = [{"query": f"disk {number}", "positive": f"size {number}"} for number in range(400)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {
        "model.backbone": toy_folder("bert"),
        "model.static": "{dimensions: 16}",
        "data.train": tmp_path / "train.jsonl",
        "output": tmp_path,
        "name": "run",
        "optimization.batch_size": 8,
        "optimization.warmup_steps": 0,
        "optimization.max_steps": steps,
        "validation.every_steps": 250,
        "validation.patience": "null",
        "checkpoints.every_steps": 250,
        "machine.accelerator": "cpu",
        "machine.threads": 1,
    }
    words = [f"{key}={value}" for key, value in settings.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", "fit", "recipes/bi-encoder-full.yaml", *words],
        cwd=repository,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    samples = observe(process, tmp_path / "run" / "log.jsonl")
    assert process.returncode == 0, process.communicate()
    early = [sample for sample in samples if steps / 2 <= sample[0] <= steps / 2 + 200]
    late = [sample for sample in samples if sample[0] >= steps - 200]
    assert early
    assert late
    growth = min(memory for _, memory, _ in late) - min(memory for _, memory, _ in early)
    assert growth <= MEGABYTES_PER_1000_STEPS * steps / 2 / 1_000, samples[:: len(samples) // 20]
    assert min(files for *_, files in late) <= min(files for *_, files in early)


def observe(process: "subprocess.Popen[str]", log: Path) -> list[tuple[int, float, int]]:
    """The step, the memory in MB and the number of open files, until the process ends."""
    samples, lines, position = [], 0, 0
    while process.poll() is None:
        time.sleep(0.1)
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            files = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
            with log.open("rb") as file:
                file.seek(position)
                content = file.read()
        except OSError:
            continue
        position += len(content)
        lines += content.count(b"train/loss")
        if memory := re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE):
            samples.append((lines, int(memory[1]) / 1024, files))
    return samples
