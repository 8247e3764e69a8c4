"""One vector a text: backbone, pooling, an optional projection, normalisation."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from trainer import recipe
from trainer.batch import Texts
from trainer.errors import BadModel
from trainer.models import backbone as backbones
from trainer.models import lora as adapters
from trainer.models import tokenization
from trainer.models.contract import Contract, Role
from trainer.models.cpu_attention import use_cpu_attention
from trainer.models.cpu_linear import use_onednn
from trainer.models.layout import Layout, read_layout
from trainer.models.locate import locate, locate_public
from trainer.models.pooling import pool
from trainer.models.projection import Projection
from trainer.models.vetting import check_links

WISHES = ("pooling", "normalize", "query_prompt", "document_prompt", "query_max_length_tokens", "document_max_length_tokens")
"""What a recipe may say otherwise than the folder; the contract has fields of the same names."""


class DenseEncoder(nn.Module):
    """Texts to vectors. What must not change between training and use is in `contract`; `pristine_config` is the backbone's, dropout untouched."""

    def __init__(
        self,
        backbone: nn.Module,
        projection: Projection | None,
        contract: Contract,
        tokenizer: PreTrainedTokenizerBase,
        pristine_config: PretrainedConfig,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = projection
        self.contract = contract
        self.tokenizer = tokenizer
        self.pristine_config = pristine_config
        self._roles = {
            role: tokenization.role_tokenizer(tokenizer, contract.prompt(role), contract.max_length_tokens(role)) for role in ("query", "document")
        }
        self._leading_special_tokens = tokenization.leading_special_tokens(tokenizer)

    @property
    def dimensions(self) -> int:
        """Width of a vector."""
        return self.contract.dimensions

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def tokenize(self, texts: Sequence[str], role: Role) -> Texts:
        """Tokens of `texts`, the role's prompt before each, cut to the role's length. May be called from any thread."""
        return self._roles[role].tokenize(texts)

    def forward(self, texts: Texts) -> Float[Tensor, "text dimension"]:
        """One vector a text, of length 1 where the contract says so, float32 also under autocast; the same whatever else is in `texts`."""
        ids, real = (padded.to(self.device) for padded in texts.padded())
        unpadded = ids.numel() == texts.tokens.numel()
        hidden = self.backbone(input_ids=ids, attention_mask=None if unpadded else real.long()).last_hidden_state
        vectors = pool(self.contract.pooling, hidden, real, self._excluded(texts))
        if self.projection is not None:
            vectors = self.projection(vectors).to(vectors.dtype)
        return functional.normalize(vectors, dim=-1) if self.contract.normalize else vectors

    def _excluded(self, texts: Texts) -> int:
        """Leading tokens that pooling leaves out: special ones and the prompt, where the contract excludes the prompt."""
        if self.contract.include_prompt or texts.prompt_tokens == 0:
            return 0
        return self._leading_special_tokens + texts.prompt_tokens


def load_encoder(model: recipe.Model) -> DenseEncoder:
    """The encoder a recipe describes, in training mode, with a fresh adapter where LoRA is asked for.

    What the recipe leaves open is taken from the folder, else: last-token pooling for decoders and mean for the rest, normalised, no prompts,
    as long as the backbone allows. A pipeline without normalisation whose vectors are compared by cosine is trained with it: the scores are
    the same, and training takes the dot product. A fresh projection is drawn from torch's generator. Raises BadModel.
    """
    layout = read_layout(locate(model.backbone))
    if layout.normalize is False and layout.similarity == "cosine":
        layout = replace(layout, normalize=True)
    lora = model.tuning if isinstance(model.tuning, recipe.Lora) else None
    encoder = assemble(
        layout,
        name=_public_name(model.backbone),
        dropout=model.dropout,
        quantize_4bit=lora is not None and lora.quantize_4bit,
        wishes=model.model_dump(include={*WISHES, "projection_dimensions"}),
    )
    if model.activation_checkpointing:
        backbones.recompute_layers(encoder.backbone)  # type: ignore[arg-type]
    if lora is not None:
        encoder.backbone = adapters.add_lora(encoder.backbone, lora)  # type: ignore[arg-type]
        use_onednn(encoder.backbone)
    return encoder.train()


def read_encoder(path_or_name: str) -> DenseEncoder:
    """The encoder in a folder, or of a name, for use: adapters merged, in evaluation mode.

    Reads our folders, sentence-transformers', plain Hugging Face ones, and a LoRA adapter that names its base. Raises BadModel.
    """
    folder = locate(path_or_name)
    if (folder / adapters.CONFIG).exists() and not (folder / "config.json").exists():
        return _read_adapter(folder)
    layout = read_layout(folder)
    name = layout.contract.backbone if layout.contract is not None else _public_name(path_or_name)
    encoder = assemble(layout, name, dropout=None, quantize_4bit=False, wishes={})
    _check_contract(folder, layout.contract, encoder.contract)
    return encoder.eval()


def _read_adapter(folder: Path) -> DenseEncoder:
    """The base model that the adapter names, used as the contract beside the adapter says, with the adapter merged in."""
    base, contract = adapters.adapter_base(folder), Contract.read(folder)
    wishes = {} if contract is None else contract.model_dump(include=set(WISHES))
    layout = read_layout(locate_public(base))
    if (folder / "2_Dense").is_dir():
        check_links(folder / "2_Dense")
        layout = replace(layout, projection=folder / "2_Dense")
    encoder = assemble(layout, base, dropout=None, quantize_4bit=False, wishes=wishes)
    _check_contract(folder, contract, encoder.contract)
    encoder.backbone = adapters.merge_adapter(encoder.backbone, folder)  # type: ignore[arg-type]
    return encoder.eval()


def _check_contract(folder: Path, said: Contract | None, found: Contract) -> None:
    if said is None or said == found:
        return
    field = next(name for name in Contract.model_fields if getattr(said, name) != getattr(found, name))
    raise BadModel(
        f"{folder}: nearfar.json says {field} = {getattr(said, field)}, its files say {getattr(found, field)}; "
        "a file was exchanged after training: take the whole folder from where it was saved"
    )


def _public_name(path_or_name: str) -> str:
    """The name itself, of a folder the last part only: where it lies on this machine is nobody's business."""
    path = Path(path_or_name).expanduser()
    return path.resolve().name if path.is_dir() else path_or_name


def assemble(layout: Layout, name: str, dropout: float | None, quantize_4bit: bool, wishes: dict[str, Any]) -> DenseEncoder:
    """An encoder from what `layout` says; of `wishes` (WISHES and projection_dimensions) those that are not None win over it."""
    config = backbones.read_config(layout.backbone)
    pristine = backbones.read_config(layout.backbone)
    decoder = backbones.is_decoder(config)
    tokenizer = tokenization.read_tokenizer(layout.backbone, config, layout.lower_case)
    if dropout is not None:
        backbones.set_dropout(config, dropout)
    model = backbones.load_backbone(layout.backbone, config, quantize_4bit)
    use_onednn(model)
    use_cpu_attention(model)
    tokenization.check_matches(tokenizer, backbones.embedding_rows(model), layout.backbone)
    pooling = wishes.get("pooling") or layout.pooling or ("last_token" if decoder else "mean")
    if pooling == "last_token" and decoder and not layout.is_pipeline:
        tokenization.append_end_token(tokenizer)
    projection = _projection(layout, model.config.hidden_size, wishes.get("projection_dimensions"))
    normalize = _first(wishes.get("normalize"), layout.normalize, True)
    longest = min(backbones.longest_input(model), tokenizer.model_max_length)
    contract = Contract(
        backbone=name,
        pooling=pooling,
        include_prompt=layout.include_prompt,
        normalize=normalize,
        query_prompt=_first(wishes.get("query_prompt"), layout.query_prompt, ""),
        document_prompt=_first(wishes.get("document_prompt"), layout.document_prompt, ""),
        query_max_length_tokens=_length(wishes.get("query_max_length_tokens"), layout.query_max_length_tokens, longest, model),
        document_max_length_tokens=_length(wishes.get("document_max_length_tokens"), layout.document_max_length_tokens, longest, model),
        similarity="cosine" if normalize else layout.similarity or "dot",
        dimensions=model.config.hidden_size if projection is None else projection.out_features,
        tokenizer_fingerprint=tokenization.fingerprint(tokenizer),
    )
    return DenseEncoder(model, projection, contract, tokenizer, pristine)


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _length(wish: int | None, said: int | None, longest: int, model: Any) -> int:
    """The wish, refused where the backbone has no positions for it; else what the folder says, bounded."""
    allowed = backbones.longest_input(model)
    if wish is not None and wish > allowed:
        raise BadModel(f"a maximum length of {wish} tokens was asked for; the backbone has positions for {allowed}")
    return wish if wish is not None else min(said or longest, allowed)


def _projection(layout: Layout, width: int, wish: int | None) -> Projection | None:
    """The folder's projection, unless the recipe wishes for another width: then a fresh one."""
    said = Projection.read(layout.projection) if layout.projection is not None else None
    if said is not None and said.in_features != width:
        raise BadModel(f"{layout.projection} takes vectors of {said.in_features} numbers, the backbone gives {width}")
    if wish is None or (said is not None and said.out_features == wish):
        return said
    return Projection.fresh(width, wish)
