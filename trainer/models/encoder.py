"""What every encoder is made of: a backbone, perhaps a projection, a tokenizer, and the contract
that holds them together.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from trainer.batch import Texts
from trainer.errors import BadModel
from trainer.kernels.cpu_attention import use_cpu_attention
from trainer.kernels.cpu_linear import use_onednn
from trainer.models.contract import Role, TextContract
from trainer.models.parts import backbone as backbones
from trainer.models.parts import lora as adapters
from trainer.models.parts.kept_layers import kept_layers, shorten
from trainer.models.parts.projection import Projection
from trainer.models.tokenizers import texts as tokenization
from trainer.models.tokenizers.texts import RoleTokenizer
from trainer.recipe import schema as recipe


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
        ids, real = (padded.to(self.device) for padded in texts.padded())
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


Kind = TypeVar("Kind", bound=Encoder)
Load = Callable[[Path, PretrainedConfig, bool, Sequence[int] | None], PreTrainedModel]
"""A transformer from the folder that holds its weights and its configuration, in 4 bits or not,
with some of its layers or all.
"""


class Base:
    """The backbone in a folder with its tokenizer, ready for an encoder of any family."""

    def __init__(
        self,
        folder: Path,
        lower_case: bool = False,
        dropout: float | None = None,
        quantize_4bit: bool = False,
        layers: int | Sequence[int] | None = None,
        load: Load = backbones.load_backbone,
    ) -> None:
        config = backbones.read_config(folder)
        self.pristine_config = backbones.read_config(folder)
        self.layers = None if layers is None else kept_layers(layers, config.num_hidden_layers)
        """Of the backbone's layers those that are kept; None: all."""
        if self.layers is not None:
            shorten(self.pristine_config, self.layers)
        self.decoder = backbones.is_decoder(config)
        self.tokenizer = tokenization.read_tokenizer(folder, config, lower_case)
        if dropout is not None:
            backbones.set_dropout(config, dropout)
        self.model: PreTrainedModel = load(folder, config, quantize_4bit, self.layers)
        use_onednn(self.model)
        use_cpu_attention(self.model)
        tokenization.check_matches(self.tokenizer, backbones.embedding_rows(self.model), folder)
        self.width: int = self.model.config.hidden_size

    @property
    def longest(self) -> int:
        """Tokens that both backbone and tokenizer allow."""
        return min(backbones.longest_input(self.model), self.tokenizer.model_max_length)

    def length(self, wish: int | None, said: int | None, otherwise: int | None = None) -> int:
        """The wish, refused where the backbone has no positions for it; else what the folder says,
        else `otherwise`, else all, bounded.
        """
        allowed = backbones.longest_input(self.model)
        if wish is not None and wish > allowed:
            raise BadModel(
                f"a maximum length of {wish} tokens was asked for; the backbone has positions for"
                f" {allowed}"
            )
        return wish if wish is not None else min(said or otherwise or self.longest, allowed)

    def projection(self, folder: Path | None, wish: int | None) -> Projection | None:
        """The projection in `folder`, unless the recipe wishes for another width: then a fresh
        one.
        """
        said = Projection.read(folder) if folder is not None else None
        if said is not None and said.in_features != self.width:
            raise BadModel(
                f"{folder} takes vectors of {said.in_features} numbers, the backbone gives"
                f" {self.width}"
            )
        if wish is None or (said is not None and said.out_features == wish):
            return said
        return Projection.fresh(self.width, wish)


def for_training(encoder: Kind, model: recipe.Model) -> Kind:
    """The encoder in training mode, with layers computed again and a fresh adapter where the recipe
    asks for them.
    """
    if model.activation_checkpointing:
        backbones.recompute_layers(encoder.backbone)  # type: ignore[arg-type]
    if isinstance(model.tuning, recipe.Lora):
        encoder.backbone = adapters.add_lora(
            encoder.backbone,  # type: ignore[arg-type]
            model.tuning,
            encoder.whole_modules(),
        )
        use_onednn(encoder.backbone)
    return encoder.train()


def quantized(model: recipe.Model) -> bool:
    """Whether the frozen backbone is to be loaded in 4 bits."""
    return isinstance(model.tuning, recipe.Lora) and model.tuning.quantize_4bit


def first(*values: Any) -> Any:
    """The first that is not None."""
    return next(value for value in values if value is not None)


def public_name(path_or_name: str) -> str:
    """The name itself, of a folder the last part only: where it lies on this machine is nobody's
    business.
    """
    path = Path(path_or_name).expanduser()
    return path.resolve().name if path.is_dir() else path_or_name


def check_contract(folder: Path, said: TextContract | None, found: TextContract) -> None:
    """BadModel where the contract in a folder says something else than its files."""
    if said is None or said == found:
        return
    field = next(
        name for name in type(found).model_fields if getattr(said, name) != getattr(found, name)
    )
    raise BadModel(
        f"{folder}: nearfar.json says {field} = {getattr(said, field)}, its files say"
        f" {getattr(found, field)}; a file was exchanged after training: take the whole folder from"
        " where it was saved"
    )
