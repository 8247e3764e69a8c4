"""A real command on one or several ranks, which a test can send signals to, and a run to try it on.

The ranks are forks of the test's own process (see `forked`), so they start in milliseconds.
"""

import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import forked
import torch
from ranks import free_port, launcher_variables
from safetensors.torch import load_file

REPOSITORY = Path(__file__).parents[1]
TIMEOUT_SECONDS = 300

STRATEGIES: dict[str, dict[str, str]] = {
    "ddp": {},
    "fsdp2": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
    "hsdp": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},  # on two nodes
    "zero1": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"},
    "zero2": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
    "zero3": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
}
"""The variables that `accelerate launch` exports for a strategy."""


class Command:
    """`nearfar WORDS`, running on `ranks` processes."""

    def __init__(
        self,
        *words: Any,
        ranks: int = 1,
        strategy: str = "ddp",
        environment: Mapping[str, str] | None = None,
        before: Callable[[int], None] | None = None,
    ) -> None:
        """`before` is called in each process with its rank, before the command."""
        import trainer.run  # noqa: F401  # once here and not in every fork

        self.output = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        context = multiprocessing.get_context("fork")
        port = free_port()
        self.processes = [
            context.Process(
                target=_run_rank,
                args=(
                    list(map(str, words)),
                    self.output,
                    {**_variables(rank, ranks, port, strategy), **(environment or {})},
                    rank,
                    before,
                ),
            )
            for rank in range(ranks)
        ]
        for process in self.processes:
            process.start()

    def send(self, number: signal.Signals, rank: int | None = None) -> None:
        """Sends a signal to one rank, or to all."""
        for process in self.processes if rank is None else [self.processes[rank]]:
            if process.is_alive():
                os.kill(process.pid, number)

    def is_alive(self) -> bool:
        return any(process.is_alive() for process in self.processes)

    def wait(self, seconds: float = TIMEOUT_SECONDS) -> list[int]:
        """The exit codes of all ranks. A signal that ended one counts as its negative number."""
        ends = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, ends - time.monotonic()))
        if self.is_alive():
            self.send(signal.SIGKILL)
            raise TimeoutError(f"still running after {seconds} s:\n{self.text()[-3000:]}")
        return [process.exitcode for process in self.processes]

    def wait_for(self, is_reached: Callable[[], Any], seconds: float = 180.0) -> None:
        """Waits until something is true while the command runs."""
        ends = time.monotonic() + seconds
        while not is_reached():
            assert self.is_alive(), f"ended too early:\n{self.text()[-3000:]}"
            assert time.monotonic() < ends, f"never came:\n{self.text()[-3000:]}"
            time.sleep(0.002)

    def text(self) -> str:
        """Everything that the ranks have printed so far."""
        return os.pread(self.output.fileno(), 1 << 24, 0).decode("utf-8", "replace")


def _variables(rank: int, ranks: int, port: int, strategy: str) -> dict[str, str]:
    if ranks == 1 and strategy == "ddp":
        return {}
    return {
        **launcher_variables(rank, ranks, port, nodes=2 if strategy == "hsdp" else 1),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_USE_CPU": "True",
        **STRATEGIES[strategy],
    }


def _run_rank(
    words: list[str],
    output: Any,
    environment: dict[str, str],
    rank: int,
    before: Callable[[int], None] | None,
) -> None:
    import torch

    torch.set_num_threads(1)
    if before is not None:
        before(rank)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as source:
        forked._run(words, (source, output, output), REPOSITORY, environment)


class Run:
    """A run of a toy model that a test stops and continues."""

    def __init__(self, folder: Path, backbone: Path, recipe: str, *words: str) -> None:
        self.parent, self.backbone, self._recipe = folder, backbone, recipe
        self.name = ""
        train, held_out = folder / "train.jsonl", folder / "held-out.jsonl"
        _write(train, [(f"the {text}", f"a {text} of the machine") for text in TEXTS[:96]])
        _write(held_out, [(text, f"a {text}") for text in TEXTS[80:104]])
        self._words = [
            f"model.backbone={backbone}",
            f"data.train={train}",
            f"data.validation={held_out}",
            f"data.test={held_out}",
            f"output={folder}",
            "optimization.batch_size=8",
            "optimization.max_steps=24",
            "optimization.learning_rate=0.01",
            "validation.every_steps=5",
            "validation.patience=null",
            "machine.accelerator=cpu",
            "machine.precision=fp32",
            "machine.micro_batch_tokens=64",
            "machine.kept_tokens=0",
            "checkpoints.every_steps=3",
            *words,
        ]

    def words(self, name: str, *extra: str) -> list[str]:
        """The words of `nearfar fit` for the run of this name."""
        return ["fit", f"recipes/{self._recipe}.yaml", f"name={name}", *self._words, *extra]

    def path(self, name: str) -> Path:
        return self.parent / name

    def wait_for_step(self, command: Command, name: str, step: int, seconds: float = 180.0) -> None:
        """Waits until a running command has logged a step."""
        log, text = self.path(name) / "log.jsonl", f'"step": {step},'
        command.wait_for(lambda: log.exists() and text in log.read_text(), seconds)

    def weights(self, name: str) -> dict[str, Any]:
        """The weights and moments after the last step."""
        latest = self.path(name) / "checkpoints/latest"
        tensors: dict[str, Any] = {}
        for file in sorted(latest.glob("*.safetensors")):
            tensors |= load_file(file)
        return tensors

    def log(self, name: str) -> list[dict[str, Any]]:
        text = (self.path(name) / "log.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def losses(self, name: str) -> list[float]:
        """The loss of every step, which must be there once."""
        records = [record for record in self.log(name) if "train/loss" in record]
        assert [record["step"] for record in records] == list(range(len(records)))
        return [record["train/loss"] for record in records]

    def attempts(self, name: str) -> list[dict[str, Any]]:
        return json.loads((self.path(name) / "attempts.json").read_text())

    def status(self, name: str) -> dict[str, Any]:
        return json.loads((self.path(name) / "status.json").read_text())


WORDS = ("disk", "storage", "account", "query", "database", "machine", "region", "western", "vault")
TEXTS = [f"{first} {second} {third}" for first in WORDS for second in WORDS for third in WORDS[:2]]


def _write(path: Path, pairs: list[tuple[str, str]]) -> None:
    lines = [json.dumps({"query": query, "positive": positive}) for query, positive in pairs]
    path.write_text("\n".join(lines) + "\n")


def check_same(run: Run, name: str, other: str) -> None:
    """Asserts that two runs have the same weights, moments and losses, bit for bit."""
    weights, expected = run.weights(name), run.weights(other)
    assert weights.keys() == expected.keys()
    different = [key for key in weights if not torch.equal(weights[key], expected[key])]
    assert not different, different
    assert run.losses(name) == run.losses(other)
