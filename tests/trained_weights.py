"""What a run trained, whichever weights it saved as `model/`."""

import json
from pathlib import Path

from safetensors.torch import load_file
from torch import nn


def largest_change(run_folder: Path, start: nn.Module) -> float:
    """The largest change of any weight from `start`, the encoder as it was before training, to the
    best validation.
    """
    step = json.loads((run_folder / "status.json").read_text())["selection"]["best_step"]
    trained = load_file(run_folder / f"checkpoints/best/step-{step:09}.safetensors")
    return max(
        float((trained[f"encoder.{name}"] - weight).abs().max())
        for name, weight in start.named_parameters()
        if weight.requires_grad
    )


def base_won(run_folder: Path) -> bool:
    """Whether `model/` holds the weights from before training."""
    selection = json.loads((run_folder / "status.json").read_text())["selection"]
    base, best = selection["base_score"], selection["best_score"]
    return best is None or (base is not None and best <= base)
