"""Compiled layers give the values and gradients of layers that are not compiled."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_models import SENTENCES
from twins import alike, value_and_gradient

from trainer.build.module import lightning_module
from trainer.errors import BadMachine
from trainer.microbatches import in_microbatches
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.models.settings import Lora
from trainer.recipe.schema.data import DataSection
from trainer.recipe.schema.families import BiEncoderRecipe
from trainer.recipe.schema.machine import MachineSection
from trainer.recipe.schema.model import BiEncoderModel, LoraTuning
from trainer.strategies.machine.plan import SINGLE, Plan


def compile_for_training(encoder, backbone, plan=SINGLE):
    run = BiEncoderRecipe(
        name="a",
        model=BiEncoderModel(backbone=backbone, tuning=LoraTuning()),
        data=DataSection(train="b"),
        machine=MachineSection(
            compile_layers=True, precision="fp32", micro_batch_tokens=64, kept_tokens=0
        ),
    )
    return lightning_module(run, encoder, 4, plan)


def test_compiled_layers_change_no_gradient(toy_folder):
    """In a process of its own, because the compiler cannot trace the checks of shapes."""
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join([str(tests.parent), str(tests)])
    subprocess.run(
        [sys.executable, __file__, str(toy_folder("bert"))],
        env={**os.environ, "PYTHONPATH": paths},
        check=True,
    )


def check_gradients(backbone):
    """With LoRA, kept and recomputed micro-batches, and texts of other lengths at each step."""
    encoder = build_dense_encoder(DenseSettings(backbone=backbone, lora=Lora()))
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    compiled_encoder = copy.deepcopy(encoder)
    compile_for_training(compiled_encoder, backbone)
    assert encoder.state_dict().keys() == compiled_encoder.state_dict().keys()

    def learned(encoder, texts):
        encode = in_microbatches(encoder, 24, kept_tokens=30)
        vectors = encode(encoder.tokenize(texts, "document"))
        weights = torch.linspace(-1, 1, vectors.numel()).view_as(vectors)
        parameters = [value for value in encoder.parameters() if value.requires_grad]
        return value_and_gradient((vectors * weights).sum(), parameters)

    compiled_graphs = []
    for texts in (SENTENCES, [*SENTENCES[1:], "a", "delete a disk and a queue"], SENTENCES[:3]):
        assert alike(learned(encoder, texts), learned(compiled_encoder, texts), 1e-5)
        compiled_graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert compiled_graphs[0] > 0, "nothing was compiled"
    assert compiled_graphs[0] == compiled_graphs[-1], "other lengths were compiled again"


@pytest.mark.parametrize("kind", ["fsdp2", "zero3"])
def test_sharded_layers_are_not_compiled(toy_folder, kind):
    backbone = str(toy_folder("bert"))
    encoder = build_dense_encoder(DenseSettings(backbone=backbone, lora=Lora()))
    with pytest.raises(BadMachine, match=f"never tried under {kind}"):
        compile_for_training(encoder, backbone, Plan(kind, 2, 1, 2))


def test_missing_compiler_is_named(toy_folder, monkeypatch):
    backbone = str(toy_folder("bert"))
    encoder = build_dense_encoder(DenseSettings(backbone=backbone, lora=Lora()))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BadMachine, match="there is no no-such-compiler"):
        compile_for_training(encoder, backbone)


if __name__ == "__main__":
    check_gradients(sys.argv[1])
