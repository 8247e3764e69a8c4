"""The first layers of a backbone as a model of their own, trained beside the whole in one pass.
`trainer.models.cut` makes the model itself.

Such a model is its architecture with fewer layers. So what the architecture does behind its last
layer (decoders and ModernBERT normalise there) is done behind each of these too, and the vectors
are those of the model that is saved.
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


def depth_of(encoder: Encoder) -> int:
    """How many layers the backbone has. Raises BadModel for a static model, which has none."""
    if not encoder.has_layers:
        raise BadModel(
            "a static model is a table of token vectors and has no layers that could be left out"
        )
    return int(encoder.pristine_config.num_hidden_layers)


class AtDepths:
    """Texts to their embeddings after each of `depths` layers, end to end in the last axis, by one
    pass through the backbone.

    Raises BadModel where the architecture does more behind its last layer than to call one module.
    """

    def __init__(self, encoder: Encoder, depths: Sequence[int]) -> None:
        self.encoder, self.depths, self._whole = encoder, depths, depth_of(encoder)
        self._closing = _closing(encoder)

    def __call__(self, texts: Texts) -> Float[Tensor, "text ..."]:
        """One embedding a text and depth."""
        encoder = self.encoder
        ids, real = (padded.to(encoder.device) for padded in texts.pad())
        found = encoder.backbone(
            input_ids=ids,
            attention_mask=encoder.attention_mask(texts, ids, real),
            output_hidden_states=True,
        )
        close = (
            encoder.backbone.get_submodule(self._closing)
            if self._closing is not None
            else nn.Identity()
        )
        hidden = [
            found.last_hidden_state if depth == self._whole else close(found.hidden_states[depth])
            for depth in self.depths
        ]
        return torch.cat([encoder.embed(each, texts, ids, real) for each in hidden], -1)


def _closing(encoder: Encoder) -> str | None:
    """The name of the module that makes the backbone's output of that of its last layer; None: they
    are one. Seen by watching one text pass.
    """
    last, backbone = blocks(encoder.backbone)[-1], encoder.backbone
    passed: list[tuple[str, Any, Any]] = []
    handles = [
        module.register_forward_hook(
            lambda _, given, made, name=name: passed.append((name, given, made))
        )
        for name, module in backbone.named_modules()
    ]
    ids, _ = (padded.to(encoder.device) for padded in encoder.tokenize(["a"], "document").pad())
    try:
        with torch.no_grad():
            output = backbone(input_ids=ids).last_hidden_state
    finally:
        for handle in handles:
            handle.remove()
    of_last = next(made for name, _, made in passed if backbone.get_submodule(name) is last)
    before = of_last[0] if isinstance(of_last, tuple) else of_last
    if before is output:
        return None
    for name, given, made in passed:
        if made is output and given and given[0] is before:
            return name
    raise BadModel(
        f"{type(backbone).__name__} does more behind its last layer than to call one module, so its"
        " first layers are no model of their own"
    )
