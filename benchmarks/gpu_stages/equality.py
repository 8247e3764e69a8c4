"""Loss and gradient of the device against the CPU, in float32 without TF32; dropout in a
recomputation; the kernel of MaxSim; and where a step waits for the device.
"""

import os
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from gpu_stages import ROOT
from gpu_stages.setting import Case, Setting

MICRO_BATCHES: dict[str, dict[str, int | None]] = {
    "kept": {"tokens": 80},
    "recomputed": {"tokens": 80, "kept_tokens": 0},
}


def cases(setting: Setting) -> Mapping[str, Case]:
    import matrix

    matrix.MICRO_BATCHES |= MICRO_BATCHES
    pairs = setting.size(matrix.PAIRS, [("symmetric", "dot"), ("kl", "maxsim")])
    found: dict[str, Case] = {
        f"{objective}, {score}, {micro}": partial(differences, setting, objective, score, micro)
        for objective, score in pairs
        for micro in MICRO_BATCHES
    }
    found |= {
        f"dropout, {kind}": partial(dropout_difference, setting, kind)
        for kind in setting.size(("dot", "maxsim", "joint"), ("dot",))
    }
    found["waits of a step"] = partial(waits_of_a_step, setting)
    if setting.is_cuda:
        found["tests of the GPU"] = tests_of_the_gpu
    return found


def differences(setting: Setting, objective: str, score: str, micro: str) -> dict[str, float]:
    """The relative differences of loss and gradient; 1e-4 is expected at most."""
    import matrix

    encoder = matrix.encoder_of(setting.toy, score, "full")
    batch = matrix.batch_of(encoder)
    loss, gradient = matrix.gradient_of(encoder, batch, objective, score, micro)
    encoder.to(setting.device)
    found_loss, found = matrix.gradient_of(encoder, batch, objective, score, micro)
    return {
        "loss": abs(found_loss - loss) / abs(loss),
        "gradient": float((found - gradient).norm() / gradient.norm()),
    }


def dropout_difference(setting: Setting, score: str) -> dict[str, float]:
    """The relative difference of the gradients with dropout, kept against recomputed."""
    import matrix

    objective = "listwise" if score == "joint" else "contrastive"
    encoder = matrix.encoder_of(setting.toy, score, "full").to(setting.device)
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    batch = matrix.batch_of(encoder)
    kept, recomputed = (
        matrix.gradient_of(encoder, batch, objective, score, micro)[1] for micro in MICRO_BATCHES
    )
    encoder.eval()
    without = matrix.gradient_of(encoder, batch, objective, score, "kept")[1]
    return {
        "recomputed": float((kept - recomputed).norm() / kept.norm()),
        "without dropout": float((kept - without).norm() / kept.norm()),
    }


def waits_of_a_step(setting: Setting) -> dict[str, Any]:
    """Places at which the CPU waits for the device in one step, with their counts."""
    import matrix

    encoder = matrix.encoder_of(setting.toy, "dot", "full").to(setting.device)
    batch = matrix.batch_of(encoder)

    def step() -> None:
        matrix.gradient_of(encoder, batch, "contrastive", "dot", "kept")

    step()
    if setting.is_pretend:
        import pretend_device

        pretend_device.reset_counts()
        step()
        return dict(pretend_device.WAITS)
    if not setting.is_cuda:
        return {"none": 0}
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return dict(Counter(f"{warning.filename}:{warning.lineno}" for warning in found))


def tests_of_the_gpu() -> str:
    files = [
        str(path) for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text()
    ]
    # Without pyproject.toml, which asks for plug-ins and versions that may be absent here.
    options = ["-q", "-m", "gpu", "-c", os.devnull, "--import-mode=importlib"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    words = [sys.executable, "-m", "pytest", *options, *files]
    ended = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    return ended.stdout[-1500:]
