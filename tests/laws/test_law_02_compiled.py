"""Law 2 with compiled layers: one step, in one process and under DDP, has the gradient of layers
that are not compiled.

Compiling happens in processes of their own, because the compiler cannot trace the checks of shapes.
"""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from matrix import MICRO_BATCHES, TUNINGS, batch_of, encoder_of, gradient_of, likeness
from ranks import on_ranks

from trainer.models.parts.compiled import compile_layers, layer_times

IS_WHOLE = "NEARFAR_WHOLE_MATRIX" in os.environ
"""Whether code is written for the layers, of LoRA and of all weights. It takes minutes. Otherwise
layers with LoRA are only traced.
"""
KINDS_AND_RANKS = [("single", 1), ("ddp", 2)]
TOLERANCE = 1e-5


def cases():
    tunings = TUNINGS if IS_WHOLE else ["lora"]
    return [("contrastive", "dot", tuning, micro) for tuning in tunings for micro in MICRO_BATCHES]


@pytest.fixture(scope="module")
def compiled(toy_folder, tmp_path_factory):
    """What `steps` gives on each rank, by strategy."""
    path = tmp_path_factory.mktemp("compiled") / "results.pt"
    tests = Path(__file__).parents[1]
    paths = map(str, (tests.parent, tests, tests / "laws"))
    subprocess.run(
        [sys.executable, __file__, str(toy_folder("bert")), str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=True,
    )
    return torch.load(path, weights_only=False)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), KINDS_AND_RANKS)
def test_compiled_step_has_the_gradient_of_plain_layers(toy_folder, compiled, kind, count):
    for number, case in enumerate(cases()):
        encoder = encoder_of(toy_folder("bert"), *case[1:3], torch.float64)
        wanted_loss, wanted = gradient_of(encoder, batch_of(encoder), *case[:2], "whole")
        assert len(compiled[kind]) == count
        for results, *_ in compiled[kind]:
            loss, gradient = results[number]
            norm, turned = likeness(gradient, wanted)
            assert loss == pytest.approx(wanted_loss, rel=TOLERANCE), case
            assert norm == pytest.approx(1, abs=TOLERANCE), case
            assert turned <= TOLERANCE**2, case


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), KINDS_AND_RANKS)
def test_layers_are_compiled_once_for_all_lengths(compiled, kind, count):
    for _, graphs, _ in compiled[kind]:
        assert graphs[0] > 0, "nothing was compiled"
        per_tuning = [
            set(graphs[at : at + len(MICRO_BATCHES)])
            for at in range(0, len(graphs), len(MICRO_BATCHES))
        ]
        assert all(len(numbers) == 1 for numbers in per_tuning), graphs


@pytest.mark.skipif(not IS_WHOLE, reason="compiling takes minutes; run by make test-all")
def test_compilation_takes_longer_than_a_layer(compiled):
    times = compiled["single"][0][2]
    layer_seconds = max(times.plain_seconds, times.compiled_seconds)
    assert times.compilation_seconds > 10 * layer_seconds > 0


def steps(folder, kind):
    """Loss and gradient of a step for each case, the graphs compiled up to then, and the times of
    one layer in the whole matrix.
    """
    from test_law_02_strategies import one_step

    encoder = encoder_of(folder, "dot", cases()[0][2])
    before = [weight.clone() for weight in encoder.parameters()]
    times = layer_times(encoder, batch_of(encoder).documents, 200) if IS_WHOLE else None
    for weight, former in zip(encoder.parameters(), before, strict=True):
        assert weight.grad is None
        assert weight.equal(former)
    results, graphs = [], []
    change = partial(compile_layers, backend="inductor" if IS_WHOLE else "aot_eager")
    for case in cases():
        results.append(one_step(folder, kind, case, change=change))
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    return results, graphs, times


if __name__ == "__main__":
    folder, path = map(Path, sys.argv[1:])
    torch.save(
        {kind: on_ranks(count, steps, folder, kind) for kind, count in KINDS_AND_RANKS}, path
    )
