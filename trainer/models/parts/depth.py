"""Embeddings after several depths of a backbone, for training with matryoshka.

`trainer.models.cut` writes the first layers as a model. Some architectures apply a module after the
last layer, such as the final norm of decoders and ModernBERT. It is applied after each depth, so
that the vectors are those of the smaller model.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainer.batch import Texts
from trainer.errors import BadModel
from trainer.models.encoder import Encoder
from trainer.models.parts.lora import blocks
from trainer.models.parts.packed import MicroBatch


def depth_of(encoder: Encoder) -> int:
    """Returns the number of layers of the backbone. Raises BadModel for a static model."""
    if not encoder.has_layers:
        raise BadModel(
            "a static model is a table of token vectors without layers; leave the layers out"
        )
    return int(encoder.pristine_config.num_hidden_layers)


class AtDepths:
    """Encodes texts at several depths in one pass; embeddings are concatenated in the last axis.

    Raises BadModel when the architecture applies more than one module after its last layer.
    """

    def __init__(self, encoder: Encoder, depths: Sequence[int]) -> None:
        self.encoder, self.depths, self._full_depth = encoder, depths, depth_of(encoder)
        self._closing = _closing(encoder)

    def __call__(self, texts: Texts) -> Float[Tensor, "text ..."]:
        """Returns the embeddings of all depths per text."""
        return self.encoder.encode_sorted(texts, self._embed)

    def _embed(self, batch: MicroBatch) -> Float[Tensor, "text ..."]:
        encoder = self.encoder
        layer_inputs = encoder.hidden_states(batch, with_layer_inputs=True)
        close = (
            encoder.backbone.get_submodule(self._closing)
            if self._closing is not None
            else nn.Identity()
        )
        hidden_states = [
            layer_inputs[-1] if depth == self._full_depth else close(layer_inputs[depth])
            for depth in self.depths
        ]
        return torch.cat([encoder.embed(states, batch) for states in hidden_states], -1)


def _closing(encoder: Encoder) -> str | None:
    """Returns the name of the module that is applied to the output of the last layer, or None.

    It is found by hooks while the backbone encodes one text.
    """
    last, backbone = blocks(encoder.backbone)[-1], encoder.backbone
    calls: list[tuple[str, Any, Any]] = []
    handles = [
        module.register_forward_hook(
            lambda _, inputs, module_output, name=name: calls.append((name, inputs, module_output))
        )
        for name, module in backbone.named_modules()
    ]
    ids = encoder.tokenize(["a"], "document").tokens[None].to(encoder.device)
    try:
        with torch.no_grad():
            output = backbone(input_ids=ids).last_hidden_state
    finally:
        for handle in handles:
            handle.remove()
    last_output = next(
        module_output for name, _, module_output in calls if backbone.get_submodule(name) is last
    )
    last_hidden_states = last_output[0] if isinstance(last_output, tuple) else last_output
    if last_hidden_states is output:
        return None
    for name, inputs, module_output in calls:
        if module_output is output and inputs and inputs[0] is last_hidden_states:
            return name
    raise BadModel(
        f"{type(backbone).__name__} does more behind its last layer than to call one module, so its"
        " first layers are no model of their own"
    )
