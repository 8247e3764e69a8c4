"""Runs a backbone over packed texts: one row of tokens without padding.

Backbones of transformers take it by plain arguments: position ids that begin anew at each text, and
a `Packing` that reaches the attention function (`trainer.kernels.attention`). Whether a backbone
can do it is tried once (`use_packing`). Others get padded texts.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from trainer.batch import Texts, pin_for, to_device
from trainer.kernels.attention import NAME
from trainer.kernels.packing import Packing
from trainer.models.parts.backbone import embedding_rows, first_position, longest_input

_TOLERANCE = 1e-4
"""The largest difference between packed and padded outputs, as a share of the largest output."""
_PROBE_LENGTHS = (40, 23, 23, 7, 2, 1)
_LONGEST_PROBE = 600
_ROUNDED_BITS = 5
"""Row counts and lengths are rounded up to multiples of their highest power of two / 2^this."""


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Texts that go through a backbone together, sorted from long to short, on its device."""

    texts: Texts
    """On the CPU."""
    tokens: Int[Tensor, " token"]
    packing: Packing

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.tokens.device


def with_numbers(
    texts: Texts, device: torch.device, key_counts: Int[Tensor, " text"] | None = None
) -> Texts:
    """Returns texts, sorted from long to short, with the numbers that `device` needs of them, end
    to end: tokens, offsets, positions of tokens in their texts, and key counts.

    Of each text, the first `key_counts` tokens are attended to; None: all. One tensor makes one
    transfer to the device. It is in pinned memory if that is a GPU.
    """
    lengths, total = texts.lengths, len(texts.tokens)
    positions = torch.arange(total) - texts.offsets[:-1].repeat_interleave(lengths)
    keys = lengths if key_counts is None else key_counts
    numbers = pin_for(torch.cat([texts.tokens, texts.offsets, positions, keys]), device)
    # The tokens are a part of the same tensor, so that they are in memory once.
    return replace(texts, tokens=numbers[:total], numbers=numbers)


def micro_batch(texts: Texts, device: torch.device) -> MicroBatch:
    """Moves texts, sorted from long to short, to `device`, after `with_numbers` where they have no
    numbers yet.
    """
    if texts.numbers is None:
        return micro_batch(with_numbers(texts, device), device)
    lengths, total, count = texts.lengths, len(texts.tokens), len(texts)
    fill = rounded_up(total) - total
    tokens, offsets, positions, keys = to_device(texts.numbers, device).split(
        [total, count + 1, total, count]
    )
    packing = Packing(
        lengths=lengths.numpy(),
        key_counts=texts.numbers[-count:].numpy(),
        offsets=offsets,
        keys=keys,
        positions=positions,
        max_length=max(rounded_up(int(lengths[0])), fill),
        fill=fill,
    )
    return MicroBatch(texts, tokens, packing)


def rounded_up(number: int) -> int:
    """Returns `number` rounded up to one of few values, at most a sixteenth larger.

    Matrix products of a new shape cost time: oneDNN builds a kernel for each.

    >>> [rounded_up(number) for number in (1, 31, 33, 1000, 1025)]
    [1, 31, 34, 1024, 1088]
    """
    step = 1 << max(0, (number - 1).bit_length() - _ROUNDED_BITS)
    return -(-number // step) * step


def packed_inputs(tokens: Int[Tensor, " token"], packing: Packing, position: int) -> dict[str, Any]:
    """Returns the arguments of a backbone for packed texts, whose first token is at `position`.

    The attention mask has four axes, so transformers makes no other. It is not read.
    """
    fill = (0, packing.fill)
    return {
        "input_ids": functional.pad(tokens, fill)[None],
        "position_ids": functional.pad(packing.positions, fill)[None] + position,
        "attention_mask": tokens.new_ones(1, 1, 1, 1),
        "packing": packing,
    }


def padded_inputs(batch: MicroBatch) -> dict[str, Any]:
    """Returns the arguments of a backbone for padded texts, made on the device."""
    packing, mask = batch.packing, None
    if int(packing.key_counts.min()) < packing.longest:
        columns = torch.arange(packing.longest, device=batch.device)
        mask = (columns < packing.keys[:, None]).long()
    ids = packing.pad(batch.tokens[:, None], batch.texts.pad_token_id)[..., 0]
    return {"input_ids": ids, "attention_mask": mask}


def pack_inside(classifier: PreTrainedModel) -> None:
    """Makes a classifier with a head for padded texts pack them inside its transformer.

    This happens when it is called with a `packing`.
    """
    classifier.base_model.register_forward_pre_hook(_pack, with_kwargs=True)
    classifier.base_model.register_forward_hook(_pad, with_kwargs=True)


def _pack(
    transformer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    packing: Packing | None = kwargs.get("packing")
    if packing is None:
        return None
    ids = args[0] if args else kwargs["input_ids"]
    kwargs |= packed_inputs(packing.unpad(ids), packing, first_position(transformer))
    types = kwargs.get("token_type_ids")
    if types is not None:
        kwargs["token_type_ids"] = functional.pad(packing.unpad(types), (0, packing.fill))[None]
    return (), kwargs


def _pad(transformer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    packing: Packing | None = kwargs.get("packing")
    if packing is None:
        return None
    rows = output.last_hidden_state[0, : len(packing.positions)]
    output.last_hidden_state = packing.pad(rows)
    pooler = getattr(transformer, "pooler", None)
    if pooler is not None:
        output.pooler_output = pooler(output.last_hidden_state)
    return output


def packed_position(backbone: Any) -> int | None:
    """Returns the position of a text's first token, or None if the backbone takes padded texts."""
    return getattr(backbone, "packed_position", None)


def use_packing(backbone: PreTrainedModel) -> bool:
    """Makes a backbone take packed texts, if that gives the vectors of padded ones."""
    position = _tried_position(backbone)
    vars(backbone)["packed_position"] = position
    return position is not None


@torch.no_grad()
def _tried_position(backbone: PreTrainedModel) -> int | None:
    """Returns the position of a text's first token, or None if the backbone must have padding.

    It packs if it gives packed texts the vectors of padded ones. This is tried on texts of
    different lengths, one of them longer than a sliding window.
    """
    if backbone.config._attn_implementation != NAME:
        return None
    transformer: Any = backbone.base_model
    position = first_position(transformer)
    batch = micro_batch(_probes(transformer), transformer.device)
    modes = [(module, module.training) for module in transformer.modules()]
    transformer.eval()
    try:
        inputs = packed_inputs(batch.tokens, batch.packing, position)
        rows = transformer(**inputs).last_hidden_state[0]
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError):
        return None
    else:
        reference = batch.packing.unpad(transformer(**padded_inputs(batch)).last_hidden_state)
        difference = (rows[: len(reference)] - reference).abs().max()
        return position if difference <= _TOLERANCE * reference.abs().max() else None
    finally:
        for module, is_training in modes:
            module.training = is_training


def _probes(transformer: PreTrainedModel) -> Texts:
    longest = min(longest_input(transformer), _LONGEST_PROBE)
    window = getattr(transformer.config, "sliding_window", None) or 0
    lengths = [max(_PROBE_LENGTHS[0], 2 * window + 3), *_PROBE_LENGTHS[1:]]
    pad = max(0, transformer.config.pad_token_id or 0)  # -1 means none in some configurations
    words = [token for token in range(min(embedding_rows(transformer), 50)) if token != pad]
    lists = [
        [words[(7 * place + row) % len(words)] for place in range(min(longest, length))]
        for row, length in enumerate(lengths)
    ]
    return Texts.of(lists, range(len(lists)), pad)
