"""One vector a text: backbone, pooling, an optional projection, normalisation."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from trainer.batch import Texts
from trainer.errors import BadModel
from trainer.models.contract import Contract, PoolingKind, Role
from trainer.models.encoder import (
    Base,
    Encoder,
    check_contract,
    first,
    for_training,
    public_name,
    quantized,
)
from trainer.models.files.locate import locate, locate_public
from trainer.models.files.vetting import check_links
from trainer.models.formats.sentence_transformers import Layout, read_layout
from trainer.models.parts import lora as adapters
from trainer.models.parts.classifier import check_gives_vectors
from trainer.models.parts.pooling import pool
from trainer.models.parts.projection import Projection
from trainer.models.static import StaticBase, TokenTable
from trainer.models.tokenizers import texts as tokenization
from trainer.recipe import schema as recipe

WISHES = (
    "pooling",
    "normalize",
    "query_prompt",
    "document_prompt",
    "query_max_length_tokens",
    "document_max_length_tokens",
)
"""What a recipe may say otherwise than the folder; the contract has fields of the same names."""


class DenseEncoder(Encoder):
    """Texts to one vector each."""

    def __init__(
        self,
        backbone: nn.Module,
        projection: Projection | None,
        contract: Contract,
        tokenizer: PreTrainedTokenizerBase,
        pristine_config: PretrainedConfig,
    ) -> None:
        roles: dict[Role, tokenization.RoleTokenizer] = {
            role: tokenization.role_tokenizer(
                tokenizer, contract.prompt(role), contract.max_length_tokens(role)
            )
            for role in ("query", "document")
        }
        super().__init__(backbone, projection, tokenizer, roles, pristine_config)
        self.contract: Contract = contract
        self._leading_special_tokens = tokenization.leading_special_tokens(tokenizer)

    def embedded(
        self,
        hidden: Float[Tensor, "text length width"],
        texts: Texts,
        ids: Int[Tensor, "text length"],
        real: Bool[Tensor, "text length"],
    ) -> Float[Tensor, "text dimension"]:
        """One vector a text, of length 1 where the contract says so."""
        vectors = pool(self.contract.pooling, hidden, real, self._excluded(texts))
        if self.projection is not None:
            vectors = self.projection(vectors).to(vectors.dtype)
        vectors = vectors[:, : self.contract.dimensions]
        return functional.normalize(vectors, dim=-1) if self.contract.normalize else vectors

    @property
    def is_static(self) -> bool:
        """Whether the backbone is a table of token vectors."""
        return isinstance(self.backbone, TokenTable)

    def narrowed(self, dimensions: int) -> Self:
        """An encoder of the same weights that gives the first `dimensions` numbers of each vector,
        brought to length 1 again where whole ones are.

        For models trained with `matryoshka`, and to see what becomes of others. Raises BadModel for
        more than there are.
        """
        if dimensions > self.contract.dimensions:
            raise BadModel(
                f"vectors of {dimensions} numbers were asked for; the model's have"
                f" {self.contract.dimensions}, and can only be cut"
            )
        return self._with(contract=self.contract.model_copy(update={"dimensions": dimensions}))

    def without_projection(self) -> Self:
        """An encoder of the same weights that gives the vectors its projection is applied to."""
        width = self.contract.dimensions if self.projection is None else self.projection.in_features
        return self._with(
            projection=None, contract=self.contract.model_copy(update={"dimensions": width})
        )

    def _with(self, **changes: Any) -> Self:
        other = copy.copy(self)
        other._modules = dict(self._modules)
        for name, value in changes.items():
            setattr(other, name, value)
        return other

    def _excluded(self, texts: Texts) -> int:
        """Leading tokens that pooling leaves out: special ones and the prompt, where the contract
        excludes the prompt.
        """
        if self.contract.include_prompt or texts.prompt_tokens == 0:
            return 0
        return self._leading_special_tokens + texts.prompt_tokens


def load_encoder(model: recipe.Model) -> DenseEncoder:
    """The encoder a recipe describes, in training mode, with a fresh adapter where LoRA is asked
    for.

    What the recipe leaves open is taken from the folder, else: last-token pooling for decoders and
    mean for the rest, normalised, no prompts, as long as the backbone allows. A pipeline without
    normalisation whose vectors are compared by cosine is trained with it: the scores are the same,
    and training takes the dot product. A fresh projection is drawn from torch's generator. Raises
    BadModel.
    """
    layout = read_layout(locate(model.backbone))
    if layout.normalize is False and layout.similarity == "cosine":
        layout = replace(layout, normalize=True)
    encoder = assemble(
        layout,
        name=public_name(model.backbone),
        dropout=model.dropout,
        quantize_4bit=quantized(model),
        wishes=model.model_dump(include={*WISHES, "projection_dimensions", "layers"}),
    )
    return for_training(encoder, model)


def read_encoder(path_or_name: str) -> DenseEncoder:
    """The encoder in a folder, or of a name, for use: adapters merged, in evaluation mode.

    Reads our folders, sentence-transformers', plain Hugging Face ones, and a LoRA adapter that
    names its base. Raises BadModel.
    """
    folder = locate(path_or_name)
    if (folder / adapters.CONFIG).exists() and not (folder / "config.json").exists():
        return _read_adapter(folder)
    check_gives_vectors(folder)
    layout = read_layout(folder)
    name = layout.contract.backbone if layout.contract is not None else public_name(path_or_name)
    kept = layout.contract.layers if layout.contract is not None else None
    encoder = assemble(layout, name, dropout=None, quantize_4bit=False, wishes={}, kept=kept)
    check_contract(folder, layout.contract, encoder.contract)
    return encoder.eval()


def _read_adapter(folder: Path) -> DenseEncoder:
    """The base model that the adapter names, used as the contract beside the adapter says, with the
    adapter merged in.
    """
    base, contract = adapters.adapter_base(folder), Contract.read(folder)
    wishes = {} if contract is None else contract.model_dump(include={*WISHES, "layers"})
    layout = read_layout(locate_public(base))
    if (folder / "2_Dense").is_dir():
        check_links(folder / "2_Dense")
        layout = replace(layout, projection=folder / "2_Dense")
    encoder = assemble(layout, base, dropout=None, quantize_4bit=False, wishes=wishes)
    check_contract(folder, contract, encoder.contract)
    encoder.backbone = adapters.merge_adapter(encoder.backbone, folder)  # type: ignore[arg-type]
    return encoder.eval()


def assemble(
    layout: Layout,
    name: str,
    dropout: float | None,
    quantize_4bit: bool,
    wishes: dict[str, Any],
    kept: tuple[int, ...] | None = None,
) -> DenseEncoder:
    """An encoder from what `layout` says; of `wishes` (WISHES, projection_dimensions and layers)
    those that are not None win over it.

    `kept`: of the layers of the model called `name` those that `layout` still has.
    """
    if layout.is_static:
        return assemble_static(StaticBase.read(layout.backbone), name, wishes, layout)
    base = Base(layout.backbone, layout.lower_case, dropout, quantize_4bit, wishes.get("layers"))
    pooling = wishes.get("pooling") or layout.pooling or ("last_token" if base.decoder else "mean")
    if pooling == "last_token" and base.decoder and not layout.is_pipeline:
        tokenization.append_end_token(base.tokenizer)
    return _around(base, name, pooling, layout, wishes, kept)


def assemble_static(
    base: StaticBase, name: str, wishes: dict[str, Any], layout: Layout | None = None
) -> DenseEncoder:
    """An encoder around a table of token vectors, of which a text's vector is the mean; nothing is
    cut.
    """
    return _around(base, name, "mean", layout or Layout(Path()), wishes)


def _around(
    base: Base,
    name: str,
    pooling: PoolingKind,
    layout: Layout,
    wishes: dict[str, Any],
    kept: tuple[int, ...] | None = None,
) -> DenseEncoder:
    projection = base.projection(layout.projection, wishes.get("projection_dimensions"))
    normalize = first(wishes.get("normalize"), layout.normalize, True)
    contract = Contract(
        backbone=name,
        layers=base.layers or kept,
        pooling=pooling,
        include_prompt=layout.include_prompt,
        normalize=normalize,
        query_prompt=first(wishes.get("query_prompt"), layout.query_prompt, ""),
        document_prompt=first(wishes.get("document_prompt"), layout.document_prompt, ""),
        query_max_length_tokens=base.length(
            wishes.get("query_max_length_tokens"), layout.query_max_length_tokens
        ),
        document_max_length_tokens=base.length(
            wishes.get("document_max_length_tokens"), layout.document_max_length_tokens
        ),
        similarity="cosine" if normalize else layout.similarity or "dot",
        dimensions=base.width if projection is None else projection.out_features,
        tokenizer_fingerprint=tokenization.fingerprint(base.tokenizer),
    )
    return DenseEncoder(base.model, projection, contract, base.tokenizer, base.pristine_config)
