"""Real runs: `nearfar fit` and `nearfar check` of tiny models, one rank on NCCL under each
strategy, and two ranks on one GPU over gloo.
"""

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gpu_stages import ROOT, ranks_of_one_device
from gpu_stages.setting import Case, Setting

RECIPES: dict[str, tuple[str, ...]] = {
    "bi-encoder-lora": (),
    "colbert": ("model.projection_dimensions=16",),
    "cross-encoder": ("objective.random_negatives=3", "model.document_max_length_tokens=64"),
}
VERBS, SUBJECTS = ("delete", "create", "list", "show"), ("disk", "account", "region", "machine")


def cases(setting: Setting) -> Mapping[str, Case]:
    """None on the pretend device, which exists in one process only."""
    if setting.is_pretend:
        return {}
    names = setting.size(list(RECIPES), ["bi-encoder-lora"])
    found: dict[str, Case] = {
        "fit": partial(fit_all, setting, names),
        "two ranks over gloo": partial(two_ranks, setting),
    }
    found |= {f"one rank, {kind}": partial(one_rank, setting, kind) for kind in ("ddp", "fsdp2")}
    if setting.is_cuda:
        found["check"] = partial(check, setting)
    return found


def command(setting: Setting, words: Sequence[Any]) -> subprocess.CompletedProcess[str]:
    if not setting.is_cuda:  # a fork starts sooner, but cannot use CUDA
        from forked import nearfar

        return nearfar(*words)
    return subprocess.run(python("-m", "trainer", *words), check=False, **PIPES)


PIPES: dict[str, Any] = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 240}


def python(*words: Any) -> list[str]:
    return [sys.executable, *map(str, words)]


def overrides(setting: Setting, name: str) -> list[str]:
    path = setting.folder / "train.jsonl"
    if not path.exists():
        rows = [
            {
                "query": f"{verb} {subject} {number}",
                "positive": f"how to {verb} {'one ' * number}{subject}",
                "negative": f"{number} is no {subject}",
            }
            for verb in VERBS
            for subject in SUBJECTS
            for number in range(6)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        f"model.backbone={setting.toy}",
        f"data.train={path}",
        f"output={setting.folder / 'runs'}",
        "optimization.batch_size=8",
        f"optimization.max_steps={setting.size(20, 2)}",
        *RECIPES[name],
    ]


def fit_all(setting: Setting, names: Sequence[str]) -> dict[str, Any]:
    """First and last loss of each recipe, with the automatic settings; all run at the same time."""
    words = {name: ["fit", f"recipes/{name}.yaml", *overrides(setting, name)] for name in names}
    if setting.is_cuda:
        processes = {
            name: subprocess.Popen(
                python("-m", "trainer", *each),
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for name, each in words.items()
        }
        ended = {name: (each.communicate()[0], each.returncode) for name, each in processes.items()}
    else:
        completed = {name: command(setting, each) for name, each in words.items()}
        ended = {name: (each.stderr, each.returncode) for name, each in completed.items()}
    return {name: losses_of(setting, name, *each) for name, each in ended.items()}


def losses_of(setting: Setting, name: str, text: str, code: int) -> dict[str, float]:
    if code != 0:
        raise RuntimeError(f"{name}: exit code {code}: {text[-1000:]}")
    log = setting.folder / "runs" / name / "log.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [record["train/loss"] for record in records if "train/loss" in record]
    return {"steps": len(losses), "first loss": losses[0], "last loss": losses[-1]}


def check(setting: Setting) -> str:
    machine = "launch/accelerate/gpu-1.yaml"
    words = ["check", "--machine", machine, "recipes/bi-encoder-lora.yaml"]
    ended = command(setting, [*words, *overrides(setting, "bi-encoder-lora")])
    return f"exit code {ended.returncode}: {(ended.stdout + ended.stderr)[-1500:]}"


def one_rank(setting: Setting, kind: str) -> dict[str, float]:
    """The loss of a step under a strategy on NCCL, against that without one."""
    plain, wrapped = (
        child(setting, "one_rank", each, setting.toy, setting.device.type)
        for each in ("single", kind)
    )
    return {"loss": wrapped["loss"], "difference": abs(wrapped["loss"] - plain["loss"])}


def two_ranks(setting: Setting) -> dict[str, float]:
    """Loss and gradient of two ranks on one device, against those of one rank."""
    import matrix

    encoder = matrix.encoder_of(setting.toy, "dot", "full").to(setting.device)
    batch = matrix.batch_of(encoder)
    loss, gradient = matrix.gradient_of(encoder, batch, "symmetric", "dot", "partly kept")
    found = child(setting, "two_ranks", setting.toy, setting.device.type)
    total = torch.tensor(found["gradient"], dtype=torch.float64)
    return {
        "loss": abs(found["loss"] - loss) / loss,
        "gradient": float((total - gradient).norm() / gradient.norm()),
    }


def child(setting: Setting, task: str, *words: Any) -> dict[str, Any]:
    """The answer of a task of `ranks_of_one_device`, in a process of its own."""
    answer = setting.folder / "answer.json"
    answer.unlink(missing_ok=True)
    call = [task, str(answer), *map(str, words)]
    if setting.is_cuda:
        script = Path(ranks_of_one_device.__file__)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        ended = subprocess.run(python(script, *call), env=environment, check=False, **PIPES)
        if ended.returncode:
            raise RuntimeError(ended.stderr[-1500:])
    else:
        context = multiprocessing.get_context("fork")
        process = context.Process(target=ranks_of_one_device.main, args=(call,))
        process.start()
        process.join()
    return json.loads(answer.read_text())  # type: ignore[no-any-return]
