"""The gradient probe of `nearfar check`: starts the ranks of a machine file on a few rows, and what
each of those ranks does.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.batch import Batch
    from trainer.build.data import DataSets
    from trainer.data.rows import Row
    from trainer.models.encoder import Encoder
    from trainer.recipe.schema.families import Recipe
    from trainer.strategies.environment import Plan
    from trainer.strategies.probe import GradientComparison

ROWS_A_RANK = 4
STOP_SECONDS = 10
"""What the ranks are given to end themselves when they took too long."""
_ROWS, _ANSWER, _OUTPUT = "rows.json", "likeness.json", "output.txt"
_LAUNCHER = (
    "import sys; from trainer.strategies.launcher import run_ranks;"
    " sys.exit(run_ranks(sys.argv[1:]))"
)


def probe(
    recipe: Path,
    overrides: Sequence[str],
    machine: Path,
    run: "Recipe",
    plan: "Plan",
    data: "DataSets",
    timeout_seconds: int,
) -> "GradientComparison":
    """How the gradient of one step on all ranks of the machine file stands to that of one process,
    on a few rows of the data.

    Raises BadMachine when a rank fails or they take too long, with what they said.
    """
    from trainer.errors import BadMachine
    from trainer.strategies.probe import GradientComparison

    with TemporaryDirectory(prefix="nearfar-check-") as name:
        folder = Path(name)
        _write_rows(folder, run, plan, data)
        code = _run(
            _command(recipe, overrides, machine, plan, folder),
            _environment(plan),
            folder / _OUTPUT,
            timeout_seconds,
        )
        said = _last_words((folder / _OUTPUT).read_text(encoding="utf-8", errors="replace"))
        if code is None:
            raise BadMachine(
                f"the {plan.ranks} ranks did not finish within {timeout_seconds} seconds and were"
                " ended; allow more with --probe-timeout-seconds, or see whether they can reach"
                f" each other. They said:\n{said}"
            )
        if code or not (folder / _ANSWER).exists():
            raise BadMachine(
                f"the {plan.ranks} ranks ended with code {code} before there was a gradient. They"
                f" said:\n{said}"
            )
        return GradientComparison(**json.loads((folder / _ANSWER).read_text(encoding="utf-8")))


def _write_rows(folder: Path, run: "Recipe", plan: "Plan", data: "DataSets") -> None:
    """Some rows from the start of the run's own order, with all positives that their queries are
    known to have.
    """
    from trainer.batch import identity
    from trainer.build.cross_encoder import random_negatives
    from trainer.build.refresh import refresh_section
    from trainer.data.order import batch_samples
    from trainer.data.random_negatives import RandomNegatives
    from trainer.data.rows import known_positives

    known = known_positives(data.train)
    a_rank = min(ROWS_A_RANK, run.optimization.batch_size // plan.ranks)
    samples = batch_samples(run.seed, 0, len(data.train), a_rank * plan.ranks)
    drawn = random_negatives(run, data.train, known)
    if refresh_section(run) is not None:  # any negatives will do for a comparison of gradients
        drawn = RandomNegatives(data.train, known, run.seed, run.negatives_per_query)
    rows = [
        drawn.row_with_negatives(0, samples, place) if drawn else data.train[int(sample)]
        for place, sample in enumerate(samples)
    ]
    lines = [
        asdict(row) | {"known": sorted(known.get(identity(row.query), frozenset()))} for row in rows
    ]
    (folder / _ROWS).write_text(json.dumps(lines), encoding="utf-8")


def _command(
    recipe: Path, overrides: Sequence[str], machine: Path, plan: "Plan", folder: Path
) -> list[str]:
    options = ["--config_file", str(machine), "--num_processes", str(plan.ranks)]
    if plan.ranks > 1:
        options += ["--main_process_port", "0"]  # any free one: a run may go on beside
    verb = ["check", str(recipe), *overrides, "--machine", str(machine), "--as-rank", str(folder)]
    return [sys.executable, "-c", _LAUNCHER, *options, "--module", "trainer", *verb]


def _environment(plan: "Plan") -> dict[str, str]:
    threads = (
        max(1, len(os.sched_getaffinity(0)) // plan.ranks_per_node)
        if hasattr(os, "sched_getaffinity")
        else 1
    )
    said = {"ACCELERATE_USE_CPU": str(plan.accelerator == "cpu")} if plan.accelerator else {}
    return (
        {"OMP_NUM_THREADS": str(threads)}
        | os.environ
        | said
        | {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(STOP_SECONDS)}
    )


def _run(
    command: Sequence[str], environment: dict[str, str], output: Path, timeout_seconds: int
) -> int | None:
    """The exit code of the launcher, or None when it took too long and was ended with all its
    ranks.
    """
    with output.open("wb") as file:
        launcher = subprocess.Popen(
            command,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return launcher.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if launcher.poll() is None:
                launcher.send_signal(
                    signal.SIGTERM
                )  # which it passes on to its ranks, each in a session of its own
                try:
                    launcher.wait(2 * STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    launcher.kill()
                    launcher.wait()


def _last_words(output: str) -> str:
    """What the ranks gave as their errors, each once; else their last lines."""
    lines = [
        line
        for line in output.splitlines()
        if line.strip() and "torch/distributed/elastic" not in line
    ]  # the launcher's, about the ranks' end
    errors = list(dict.fromkeys(line for line in lines if line.startswith("error: ")))
    return "\n".join(f"  {line[:500]}" for line in errors[:3] or lines[-5:]) or "  nothing"


# ---------------------------------------------------------------- on every rank


def take_part(recipe: Path, overrides: Sequence[str], folder: Path) -> None:
    """What one rank does: its part of one step; the first also finds the gradient of the whole
    batch by itself and compares.
    """
    import numpy as np
    import torch

    from trainer.build import hardware, students
    from trainer.build.module import encoder_of, lightning_module
    from trainer.collectives import on_first, rank, ranks
    from trainer.data.order import own_part
    from trainer.data.rows import Rows
    from trainer.recipe.load import load_recipe
    from trainer.runtime.run_folder import write_json
    from trainer.strategies.environment import check_here, plan_from_environment
    from trainer.strategies.own_rank import is_first_rank, local_rank
    from trainer.strategies.probe import compare_gradients, one_step_gradient, plain_gradient
    from trainer.strategies.process_group import process_group

    plan = plan_from_environment(os.environ)
    check_here(plan)
    run = _exact(hardware.on_machine(load_recipe(recipe, overrides), plan))
    hardware.prepare_machine(run.machine)
    device = hardware.accelerator(run.machine)
    if device == "cuda":
        torch.cuda.set_device(local_rank(os.environ))
    encoder = encoder_of(run)
    _start_adapters(encoder)
    rows = json.loads((folder / _ROWS).read_text(encoding="utf-8"))
    whole = _batch(rows, encoder, run)
    run = _in_micro_batches(run, whole, folder / f"rank-{os.environ.get('RANK', '0')}")
    taught_by = students.teachers(
        run, Rows.of([_row(line) for line in rows])
    )  # before the process group: each rank asks them by itself
    module = lightning_module(run, encoder, 1, plan, taught_by)
    wanted = {}
    if is_first_rank(os.environ):  # before the process group: it computes as a single process does
        module.to(hardware.device(run.machine))  # its temperature too
        wanted = plain_gradient(
            module,
            lambda: module.loss(whole, students.encode_of(run, encoder), module.temperature())[
                "loss"
            ],
        )
    with process_group(plan, device):
        own = [rows[int(number)] for number in own_part(np.arange(len(rows)), rank(), ranks())]
        found = one_step_gradient(module, _batch(own, encoder, run), plan, device)
        on_first(lambda: write_json(folder / _ANSWER, asdict(compare_gradients(found, wanted))))


def _in_micro_batches(run: "Recipe", batch: "Batch", output: Path) -> "Recipe":
    """The recipe with micro-batches of both kinds: kept, and computed again."""
    longest = int(max(batch.queries.lengths.max(), batch.documents.lengths.max()))
    machine = run.machine.model_copy(
        update={"micro_batch_tokens": longest, "kept_tokens": 2 * longest}
    )
    return run.model_copy(update={"machine": machine, "output": str(output)})


def _exact(run: "Recipe") -> "Recipe":
    """The recipe in float32 and without dropout, where gradients can be compared; negatives to be
    mined are as the data's own.
    """
    from trainer.recipe.schema.families import VectorRecipe

    tuning = run.model.tuning.model_copy(
        update={"dropout": 0.0} if run.model.tuning.kind == "lora" else {}
    )
    model = run.model.model_copy(update={"dropout": 0.0, "tuning": tuning})
    data = run.data.model_copy(update={"negatives_per_query": run.negatives_per_query})
    machine = run.machine.model_copy(update={"precision": "fp32"})
    exact = run.model_copy(update={"model": model, "data": data, "machine": machine})
    return exact.model_copy(update={"refresh": None}) if isinstance(exact, VectorRecipe) else exact


def _start_adapters(encoder: "Encoder") -> None:
    """LoRA's second factor is zero at the start, and with it the gradient of the first; here both
    are to be seen.
    """
    from torch import nn

    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(
                parameter, std=0.01
            )  # the same on every rank: all have the recipe's seed


def _batch(lines: Sequence[dict[str, Any]], encoder: "Encoder", run: "Recipe") -> "Batch":
    from trainer.batch import identity
    from trainer.build.cross_encoder import collation

    known = {identity(line["query"]): frozenset(line["known"]) for line in lines}
    return collation(run, encoder, known)([_row(line) for line in lines])


def _row(line: dict[str, Any]) -> "Row":
    from trainer.data.rows import Row

    return Row(
        line["query"],
        line["positive"],
        tuple(line["negatives"]),
        None if line["labels"] is None else tuple(line["labels"]),
    )
