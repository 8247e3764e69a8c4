"""What models of every family share: a backbone, a tokenizer, perhaps a projection, and the
contract that holds them together.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from trainer.batch import Texts
from trainer.models.contract import Role, TextContract
from trainer.models.parts.projection import Projection
from trainer.models.tokenizers.texts import RoleTokenizer


class Encoder(nn.Module):
    """Texts to embeddings. What must not change between training and use is in `contract`;
    `pristine_config` is the backbone's, dropout untouched.
    """

    contract: TextContract

    def __init__(
        self,
        backbone: nn.Module,
        projection: Projection | None,
        tokenizer: PreTrainedTokenizerBase,
        roles: Mapping[Role, RoleTokenizer],
        pristine_config: PretrainedConfig,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = projection
        self.tokenizer = tokenizer
        self.pristine_config = pristine_config
        self._roles = roles

    @property
    def dimensions(self) -> int:
        """Width of a vector."""
        return self.contract.dimensions

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def tokenize(self, texts: Sequence[str], role: Role) -> Texts:
        """Tokens of `texts`, the role's prompt before each, cut to the role's length. May be called
        from any thread.
        """
        return self._roles[role].tokenize(texts)

    def whole_modules(self) -> tuple[str, ...]:
        """Names of the backbone's modules that are trained whole beside a LoRA adapter."""
        return ()

    def forward(self, texts: Texts) -> Float[Tensor, "text ..."]:
        """One embedding a text, float32 also under autocast, the same whatever else is in
        `texts`.
        """
        ids, real = (padded.to(self.device) for padded in texts.pad())
        hidden = self.backbone(
            input_ids=ids, attention_mask=self.attention_mask(texts, ids, real)
        ).last_hidden_state
        return self.embedded(hidden, texts, ids, real)

    def attention_mask(
        self, texts: Texts, ids: Int[Tensor, "text length"], real: Bool[Tensor, "text length"]
    ) -> Int[Tensor, "text length"] | None:
        """Which tokens are attended to; None: all."""
        return None if ids.numel() == texts.tokens.numel() else real.long()

    def embedded(
        self,
        hidden: Float[Tensor, "text length width"],
        texts: Texts,
        ids: Int[Tensor, "text length"],
        real: Bool[Tensor, "text length"],
    ) -> Float[Tensor, "text ..."]:
        """The embeddings that are made of the backbone's vectors of `texts`."""
        raise NotImplementedError
