"""Law 2 under the strategies that people run: one step through Lightning on real processes has the
gradient of one process.

A covering part of the matrix runs always; with NEARFAR_WHOLE_MATRIX
all of it, and that variable names the CSV file that the cases are written to (`make test-all`).
"""

import csv
import functools
import os
from pathlib import Path

import pytest
import torch
from lightning_step import SETTINGS, OneStep, gradient_of_step, take_step
from matrix import CASES as ALL
from matrix import (
    JOINT,
    MICRO_BATCHES,
    QUERY_TABLE,
    SPARSE,
    TAUGHT,
    TEMPERATURE,
    batch_of,
    encode_of,
    encoder_of,
    gradient_of,
    likeness,
    objective_of,
)
from ranks import on_ranks
from toy_models import masked_lm

from trainer.collectives import rank, ranks
from trainer.errors import BadModel
from trainer.microbatches import MicroBatching
from trainer.modules.retriever import Temperature
from trainer.objectives.objective import Outcome

KINDS = ("ddp", "fsdp2", "zero1", "zero2", "zero3")
KINDS_AND_RANKS = [*((kind, count) for kind in KINDS for count in (2, 4)), ("hsdp", 4)]
WHOLE = os.environ.get("NEARFAR_WHOLE_MATRIX")
SOME = [
    ("contrastive", "dot", "lora", "partly kept"),
    ("symmetric", "maxsim", "full", "micro-batched"),
    ("kl", "maxsim", "lora", "micro-batched"),
    ("margin-mse", "dot", "full", "whole"),
    ("taught", "dot", "full", "partly kept"),
    ("deep and nested", "dot", "full", "partly kept"),
    ("deep", "maxsim", "full", "partly kept"),
    ("listwise", JOINT, "lora", "partly kept"),
    ("kl", JOINT, "full", "whole"),
    ("lambda-loss", JOINT, "full", "micro-batched"),
    ("flops", SPARSE, "full", "micro-batched"),
    ("flops", QUERY_TABLE, "lora", "partly kept"),
]
CASES = ALL if WHOLE else SOME
TOLERANCE = 1e-5


def one_step(folder, kind, case, spoil=1.0, change=lambda encoder: None):
    """Loss, and the gradient of all that is trained, after one step under a strategy.

    `change` may change the encoder before.
    """
    objective, score, tuning, micro = case
    encoder = encoder_of(folder, score, tuning)
    change(encoder)
    seen = []

    def spoilt(batch, encode, temperature):
        outcome = objective_of(objective, score)(batch, encode, temperature)
        seen.append(float(outcome.loss.detach()))
        return Outcome(spoil * outcome.loss, outcome.metrics)

    # Where the loss has no temperature, DDP would wait in vain for a parameter that nothing uses.
    learned = objective not in ("margin-mse", "margin-mse, flops", *TAUGHT) and (
        score != JOINT or objective == "kl"
    )
    temperature = Temperature(TEMPERATURE, learned)
    module = OneStep(
        encoder,
        MicroBatching(encode_of(encoder, objective), **MICRO_BATCHES[micro]),
        spoilt,
        temperature,
        SETTINGS,
        dict,
    )
    gradient = gradient_of_step(module, kind, batch_of(encoder, rank(), ranks()))
    return seen[0], torch.cat(
        gradient if learned else [*gradient, torch.zeros(1, dtype=torch.float64)]
    )


def unused(folder):
    """A temperature that is to be learned and that the objective does not use."""
    encoder = encoder_of(folder, "dot", "lora")
    module = OneStep(
        encoder,
        MicroBatching(encoder, None),
        objective_of("margin-mse", "dot"),
        Temperature(TEMPERATURE, is_learned=True),
        SETTINGS,
        dict,
    )
    try:
        take_step(module, "ddp", batch_of(encoder, rank(), ranks()))
    except BadModel as error:
        return str(error)
    return "nothing"


def steps_of(folder, kind, cases, spoil=1.0):
    return [one_step(folder, kind, case, spoil) for case in cases]


@pytest.fixture(scope="module")
def alone(toy_folder):
    """Of a case: one process, the whole batch at once, in float64."""
    masked_lm(toy_folder("bert"))  # before there are ranks

    @functools.cache
    def gradient(case):
        encoder = encoder_of(toy_folder("bert"), case[1], case[2], torch.float64)
        return gradient_of(encoder, batch_of(encoder), *case[:2], "whole")

    return gradient


@pytest.fixture(scope="module")
def table():
    """The rows of docs/equality.csv, written after the last case."""
    rows = []
    yield rows
    if WHOLE:
        write_csv(Path(WHOLE), rows)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), KINDS_AND_RANKS)
def test_step_has_the_gradient_of_one_process(toy_folder, alone, table, kind, count):
    if kind.startswith("zero"):
        pytest.importorskip("deepspeed")
    cases = CASES if WHOLE or count == 2 or kind == "hsdp" else CASES[:1]
    found = on_ranks(count, steps_of, toy_folder("bert"), kind, cases)
    for number, case in enumerate(cases):
        wanted_loss, wanted = alone(case)
        differences = []
        for of_rank in found:
            loss, gradient = of_rank[number]
            norm, turned = likeness(gradient, wanted)
            assert loss == pytest.approx(wanted_loss, rel=TOLERANCE), case
            assert norm == pytest.approx(1, abs=TOLERANCE), case
            assert turned <= TOLERANCE**2, case
            differences.append((norm - 1, (2 * turned) ** 0.5))
        worst_norm = max((norm for norm, _ in differences), key=abs)
        worst_direction = max(direction for _, direction in differences)
        table.append((*case, kind, count, worst_norm, worst_direction))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2", "zero3"])
def test_norm_after_the_last_layer_is_applied_to_the_first_layers(toy_folder, kind):
    """ModernBERT's is called outside of the backbone, where sharded weights must have been
    gathered.
    """
    if kind == "zero3":
        pytest.importorskip("deepspeed")
    case = ("deep and nested", "dot", "full", "partly kept")
    encoder = encoder_of(toy_folder("modernbert"), *case[1:3], torch.float64)
    wanted_loss, wanted = gradient_of(encoder, batch_of(encoder), *case[:2], "whole")
    for ((loss, gradient),) in on_ranks(2, steps_of, toy_folder("modernbert"), kind, [case]):
        norm, turned = likeness(gradient, wanted)
        assert loss == pytest.approx(wanted_loss, rel=TOLERANCE)
        assert norm == pytest.approx(1, abs=TOLERANCE)
        assert turned <= TOLERANCE**2


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("ddp", 2), ("fsdp2", 2), ("hsdp", 4)])
def test_loss_times_the_ranks_is_caught(toy_folder, alone, kind, count):
    _, gradient = on_ranks(count, steps_of, toy_folder("bert"), kind, SOME[:1], 2.0)[0][0]
    assert likeness(gradient, alone(SOME[0])[1])[0] == pytest.approx(2, abs=1e-3)


def test_unused_weight_is_refused(toy_folder):
    for message in on_ranks(2, unused, toy_folder("bert")):
        assert "1 of the trained weights take no part in the loss (temperature.log)" in message


COLUMNS = (
    "objective score trained micro_batches strategy ranks norm_ratio_minus_1 direction_difference"
)


def write_csv(path, rows):
    """One line per case, as docs/equality.csv holds it."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS.split())
        writer.writerows([*row[:6], f"{row[6]:+.1e}", f"{row[7]:.1e}"] for row in rows)


def test_cases_are_written_in_the_format_of_the_page(repository, tmp_path):
    stored = (repository / "docs" / "equality.csv").read_text(encoding="utf-8").splitlines()
    write_csv(tmp_path / "cases.csv", [(*ALL[0], "ddp", 2, 1.8e-7, 1.1e-6)])
    assert (tmp_path / "cases.csv").read_text(encoding="utf-8").splitlines() == stored[:2]
