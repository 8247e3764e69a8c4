"""When layers are compiled; that they learn the same is tested in `tests/laws`."""

import os
import signal

import pytest
from killable import Command, Run
from toy_models import SENTENCES

from trainer.build import compiled_layers, hardware
from trainer.errors import BadMachine
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.models.parts.compiled import plain_seconds_per_token
from trainer.recipe.schema.data import DataSection
from trainer.recipe.schema.families import BiEncoderRecipe
from trainer.recipe.schema.machine import MachineSection
from trainer.recipe.schema.model import BiEncoderModel
from trainer.strategies.machine.plan import SINGLE, Plan


def recipe(setting):
    return BiEncoderRecipe(
        name="a",
        model=BiEncoderModel(backbone="b"),
        data=DataSection(train="c"),
        machine=MachineSection(compile_layers=setting),
    )


@pytest.mark.parametrize("kind", ["fsdp2", "zero1", "zero2", "zero3"])
def test_compiled_layers_are_refused_where_nobody_tried_them(kind):
    plan = Plan(kind, 2, 1, 2)
    with pytest.raises(BadMachine, match=f"under {kind}; take a machine file for DDP, or set it"):
        hardware.on_machine(recipe(True), plan)
    for setting in (False, "auto"):
        hardware.on_machine(recipe(setting), plan)
    hardware.on_machine(recipe(True), Plan("ddp", 2, 1, 2))


def test_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BadMachine, match="there is no no-such-compiler; install one"):
        hardware.on_machine(recipe(True), SINGLE)
    hardware.on_machine(recipe("auto"), SINGLE)


@pytest.mark.parametrize("strategy", ["fsdp2", "zero2"])
def test_launch_with_compiled_layers_is_refused_before_anything_is_read(
    tmp_path, toy_folder, strategy
):
    if strategy == "zero2":
        pytest.importorskip("deepspeed")
    run = Run(tmp_path, toy_folder("bert"), "bi-encoder-full", "machine.compile_layers=true")
    command = Command(*run.words("a"), ranks=2, strategy=strategy)
    assert command.wait() == [2, 2], command.text()[-3000:]
    assert f"never tried under {strategy}" in command.text()
    assert not (tmp_path / "a").exists()


SHORT = ("optimization.max_steps=6", "validation.every_steps=100")
SWITCHED_OFF = {"TORCHDYNAMO_DISABLE": "1"}
"""The compiler cannot trace the checks of shapes."""


def test_short_run_is_not_compiled_and_says_why(tmp_path, toy_folder):
    run = Run(tmp_path, toy_folder("bert"), "bi-encoder-full", *SHORT)
    command = Command(*run.words("a", "machine.compile_layers=auto"), environment=SWITCHED_OFF)
    assert command.wait() == [0], command.text()[-3000:]
    assert "layers were not compiled: 6 steps spend about" in command.text()


def test_continued_run_keeps_the_decision(tmp_path, toy_folder):
    run = Run(tmp_path, toy_folder("bert"), "bi-encoder-full", *SHORT)
    words = run.words("a", "machine.compile_layers=true")
    command = Command(*words, environment=SWITCHED_OFF)
    run.wait_for_step(command, "a", 2)
    command.send(signal.SIGTERM)
    assert command.wait() == [85], command.text()[-3000:]
    words = run.words("a", "--resume", "machine.compile_layers=auto")
    command = Command(*words, environment=SWITCHED_OFF)
    assert command.wait() == [0], command.text()[-3000:]
    assert "layers are compiled, as before" in command.text()


def measure_in_a_short_run(rank):
    compiled_layers.LEAST_SECONDS = 0.0


def without_a_compiler_on_the_second_rank(rank):
    measure_in_a_short_run(rank)
    if rank == 1:
        os.environ["CXX"] = "no-such-compiler"


@pytest.mark.parametrize(
    ("before", "trials"),
    [(measure_in_a_short_run, 1), (without_a_compiler_on_the_second_rank, 0)],
)
def test_ranks_take_one_decision(tmp_path, toy_folder, before, trials):
    run = Run(tmp_path, toy_folder("bert"), "bi-encoder-lora", *SHORT)
    words = run.words("a", "machine.compile_layers=auto")
    command = Command(*words, ranks=2, environment=SWITCHED_OFF, before=before)
    assert command.wait() == [0, 0], command.text()[-3000:]
    assert command.text().count("ms per layer") == trials


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_layer_is_measured_without_a_trace_in_the_encoder(toy_folder, family):
    """MPNet gives its layers a bias that all of them share, and that is trained."""
    encoder = build_dense_encoder(DenseSettings(backbone=str(toy_folder(family)), lora=None))
    texts = encoder.tokenize(SENTENCES, "document")
    assert plain_seconds_per_token(encoder, texts, 64) > 0
    assert all(weight.grad is None for weight in encoder.parameters())


def test_trial_sees_rows_as_they_are_before_negatives_are_mined(tmp_path, toy_folder):
    settings = (*SHORT, "refresh.every_steps=3", "refresh.first_step=3", "refresh.negatives=1")
    run = Run(tmp_path, toy_folder("bert"), "bi-encoder-full", *settings)
    command = Command(*run.words("a", "machine.compile_layers=auto"), environment=SWITCHED_OFF)
    assert command.wait() == [0], command.text()[-3000:]
    assert "layers were not compiled: 6 steps" in command.text()
