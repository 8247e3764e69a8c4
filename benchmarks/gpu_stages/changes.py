"""The speed of a training step with one change at a time, beside the same step without it."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from gpu_stages.setting import Case, Setting
from gpu_stages.training import TUNINGS, speed, tunings, works
from trainer.models.encoder import Encoder
from trainer.models.parts.lora import blocks

Change = Callable[[Setting, Encoder], None]


def cases(setting: Setting) -> Mapping[str, Case]:
    """None on the pretend device, which cannot be compiled for."""
    if setting.is_pretend:
        return {}
    equal, ragged = works(setting).values()
    found: dict[str, Case] = {}
    for tuning in tunings(setting):
        for name, change in CHANGES.items():
            if name == "frozen weights in bf16" and TUNINGS[tuning] is None:
                continue
            measure = partial(speed, setting, tuning, change=partial(change, setting))
            found[f"{tuning}, {name}"] = partial(measure, equal)
            if name != "frozen weights in bf16" and not setting.small:
                found[f"{tuning}, {name}, ragged lengths"] = partial(measure, ragged)
    return found


def compile_layers(setting: Setting, encoder: Encoder) -> None:
    backend = "inductor" if setting.is_cuda else "eager"
    for layer in blocks(encoder.backbone):
        layer.compile(dynamic=True, backend=backend)


def round_frozen_weights(setting: Setting, encoder: Encoder) -> None:
    """Linear layers round their weights in every call under autocast; now once."""
    for module in encoder.modules():
        if isinstance(module, nn.Linear) and not module.weight.requires_grad:
            module.to(torch.bfloat16)


def pad_texts(setting: Setting, encoder: Encoder) -> None:
    """Changes nothing in a backbone that takes padded texts only."""
    for module in encoder.modules():
        if "packed_position" in vars(module):
            vars(module)["packed_position"] = None


CHANGES: dict[str, Change] = {
    "compiled layers": compile_layers,
    "padded texts": pad_texts,
    "frozen weights in bf16": round_frozen_weights,
}
