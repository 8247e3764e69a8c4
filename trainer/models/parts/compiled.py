"""Layers compiled by torch.compile, and what compiling costs and saves."""

import copy
import math
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainer.batch import Texts
from trainer.models.encoder import Encoder
from trainer.models.parts.lora import blocks

_TURNS = 7


def compile_layers(encoder: Encoder, backend: str = "inductor") -> None:
    """Compiles each layer of the backbone at its first call, once for all numbers of tokens.

    `backend` is one of torch.compile. "aot_eager" traces the layers, but writes no code for them.
    """
    for layer in blocks(encoder.backbone) if encoder.has_layers else ():
        layer.compile(dynamic=True, backend=backend)


@dataclass(frozen=True)
class LayerTimes:
    """Seconds of one layer, forward and backward, and of compiling it."""

    plain_seconds: float
    compiled_seconds: float
    compilation_seconds: float
    """All layers share one compilation."""
    tokens: int
    """Tokens of the texts that the layer was measured with."""

    def steps_to_pay(self, layer_tokens_per_step: float) -> float:
        """Returns the number of steps that save the time of one compilation.

        Each takes that many tokens through a layer, summed over the layers.

        >>> times = LayerTimes(3.0, 2.0, compilation_seconds=50.0, tokens=100)
        >>> times.steps_to_pay(layer_tokens_per_step=1000.0)
        5.0
        """
        saving_per_token = (self.plain_seconds - self.compiled_seconds) / self.tokens
        saving = saving_per_token * layer_tokens_per_step
        return self.compilation_seconds / saving if saving > 0 else math.inf


def plain_seconds_per_token(encoder: Encoder, texts: Texts, tokens: int) -> float:
    """Returns the seconds per token of one layer, forward and backward, from one call with about
    that many tokens of the texts.
    """
    call = _first_layer_call(encoder, _repeat(texts, tokens))
    layer = copy.deepcopy(blocks(encoder.backbone)[0])
    call.seconds(layer)
    return call.seconds(layer) / call.tokens


def layer_times(encoder: Encoder, texts: Texts, tokens: int) -> LayerTimes:
    """Returns the times of one layer with about that many tokens of the texts: medians of turns.

    Copies of the layer are used, so the encoder does not change.
    """
    call = _first_layer_call(encoder, _repeat(texts, tokens))
    layers = plain_layer, compiled_layer = [
        copy.deepcopy(blocks(encoder.backbone)[0]) for _ in range(2)
    ]
    compiled_layer.compile(dynamic=True)
    first_seconds, _ = call.seconds(compiled_layer), call.seconds(plain_layer)
    turns = [[call.seconds(layer) for layer in layers] for _ in range(_TURNS)]
    plain_seconds, compiled_seconds = map(statistics.median, zip(*turns, strict=True))
    compilation_seconds = first_seconds - compiled_seconds
    return LayerTimes(plain_seconds, compiled_seconds, compilation_seconds, call.tokens)


class _LayerCall(Exception):
    """Ends a forward pass at a layer. It has the arguments of the layer for that many tokens."""

    def __init__(self, tokens: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.tokens, self.args, self.kwargs = tokens, args, kwargs

    def seconds(self, layer: nn.Module) -> float:
        """Returns the seconds of the layer with these arguments, forward and backward."""
        hidden_states = self.args[0].detach().requires_grad_()
        start = _clock_seconds(hidden_states.device)
        output = layer(hidden_states, *self.args[1:], **self.kwargs)
        output = output if isinstance(output, torch.Tensor) else output[0]
        output.backward(torch.ones_like(output))
        return _clock_seconds(hidden_states.device) - start


def _first_layer_call(encoder: Encoder, texts: Texts) -> _LayerCall:
    """Returns how the first layer is called for these texts. No layer is run."""

    def end(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _LayerCall(len(texts.tokens), args, kwargs)

    handle = blocks(encoder.backbone)[0].register_forward_pre_hook(end, with_kwargs=True)
    try:
        with torch.no_grad():  # arguments of all layers, such as MPNet's bias, need no gradient
            encoder(texts)
    except _LayerCall as call:
        return call
    finally:
        handle.remove()
    raise AssertionError(f"{type(encoder).__name__} does not call its first layer")


def _clock_seconds(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


def _repeat(texts: Texts, tokens: int) -> Texts:
    """Returns the texts, again and again, up to that many tokens; at least one text."""
    rows = torch.arange(len(texts)).repeat(1 + tokens // len(texts.tokens))
    count = int((texts.lengths[rows].cumsum(0) <= tokens).sum())
    return texts.select(rows[: max(1, count)])
