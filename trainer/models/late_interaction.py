"""One vector a token: backbone, projection, length 1, and rows of zeros for what is not scored
(ColBERT, Khattab & Zaharia 2020).
"""

import string
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from trainer.batch import Texts
from trainer.errors import BadModel
from trainer.models.contract import LateContract, Role
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
from trainer.models.formats.pylate import LateLayout, read_late_layout
from trainer.models.parts import lora as adapters
from trainer.models.parts.projection import Projection
from trainer.models.tokenizers import texts as tokenization
from trainer.models.tokenizers.marking import filling_id, marked_tokenizer, token_id
from trainer.recipe import schema as recipe
from trainer.scores import exact

DIMENSIONS, QUERY_TOKENS, DOCUMENT_TOKENS = 128, 32, 180
"""ColBERT's own, where neither recipe nor folder says otherwise."""
MARKERS = ("[unused0]", "[unused1]")
WISHES = (
    "query_prompt",
    "document_prompt",
    "query_max_length_tokens",
    "document_max_length_tokens",
)


class LateInteractionEncoder(Encoder):
    """Texts to one vector a token."""

    def __init__(
        self,
        backbone: nn.Module,
        projection: Projection,
        contract: LateContract,
        tokenizer: PreTrainedTokenizerBase,
        pristine_config: PretrainedConfig,
    ) -> None:
        roles: dict[Role, tokenization.RoleTokenizer] = {
            role: marked_tokenizer(tokenizer, contract, role) for role in ("query", "document")
        }
        super().__init__(backbone, projection, tokenizer, roles, pristine_config)
        self.contract: LateContract = contract
        self._filling_id = filling_id(tokenizer)
        self._skipped_ids = [token_id(tokenizer, token) for token in contract.skipped_tokens]

    def attention_mask(
        self, texts: Texts, ids: Int[Tensor, "text length"], real: Bool[Tensor, "text length"]
    ) -> Int[Tensor, "text length"] | None:
        """Which tokens are attended to: all real ones, those that fill a query up only where the
        contract says so; None: all.
        """
        attended = (
            real
            if self.contract.attend_to_expansion or texts.role != "query"
            else real & self._written(ids)
        )
        return None if attended.all() else attended.long()

    def embedded(
        self,
        hidden: Float[Tensor, "text length width"],
        texts: Texts,
        ids: Int[Tensor, "text length"],
        real: Bool[Tensor, "text length"],
    ) -> Float[Tensor, "text length dimension"]:
        """One vector of length 1 a token, in float32 or better; zeros for padding, and for the
        tokens of documents that the contract skips.
        """
        assert self.projection is not None
        vectors = functional.normalize(exact(self.projection(hidden)), dim=-1)
        return vectors.masked_fill(~self.scored(ids, real, texts.role)[..., None], 0.0)

    def scored(
        self, ids: Int[Tensor, "text token"], real: Bool[Tensor, "text token"], role: str | None
    ) -> Bool[Tensor, "text token"]:
        """Which tokens have a vector: all real ones of a query, those of a document that are not
        skipped.
        """
        return (
            real
            if role == "query"
            else real
            & ~torch.isin(ids, torch.tensor(self._skipped_ids, dtype=ids.dtype, device=ids.device))
        )

    def _written(self, ids: Int[Tensor, "text token"]) -> Bool[Tensor, "text token"]:
        """True up to the last token that is not filling."""
        place = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        return place <= ((ids != self._filling_id) * place).amax(1, keepdim=True)


def load_late_encoder(model: recipe.Model) -> LateInteractionEncoder:
    """The encoder a recipe describes, in training mode, with a fresh adapter where LoRA is asked
    for.

    Starts from any backbone, a sentence-transformers model (its pooling is left out), or a
    late-interaction model in PyLate's, sentence-transformers', Stanford's or our layout. What the
    recipe leaves open is taken from the folder, else: 128 dimensions, queries of 32 and documents
    of 180 tokens, BERT's unused tokens as markers, expansion where there is a mask token,
    punctuation skipped. Raises BadModel.
    """
    encoder = _assemble(
        read_late_layout(locate(model.backbone)),
        public_name(model.backbone),
        model,
        model.dropout,
        quantized(model),
    )
    return for_training(encoder, model)


def read_late_encoder(path_or_name: str) -> LateInteractionEncoder:
    """The late-interaction model in a folder, or of a name, for use: adapters merged, in evaluation
    mode. Raises BadModel.
    """
    folder = locate(path_or_name)
    if (folder / adapters.CONFIG).exists() and not (folder / "config.json").exists():
        return _read_adapter(folder)
    layout = read_late_layout(folder)
    if layout.projection is None:
        raise BadModel(
            f"{folder} holds an encoder without the projection of a late-interaction model; train"
            " one from it with a recipe of kind colbert"
        )
    if layout.contract is not None:
        encoder = _assemble(layout, layout.contract.backbone, kept=layout.contract.layers)
    else:
        encoder = _assemble(layout, public_name(path_or_name))
    check_contract(folder, layout.contract, encoder.contract)
    return encoder.eval()


def _read_adapter(folder: Path) -> LateInteractionEncoder:
    """The base model that the adapter names, with the contract and projection beside the adapter,
    and the adapter merged in.
    """
    contract = LateContract.read(folder)
    if contract is None:
        raise BadModel(
            f"{folder} has no nearfar.json, so how its model marks and cuts texts is not known;"
            " take the merged folder above it"
        )
    check_links(folder)
    base = adapters.adapter_base(folder)
    layout = read_late_layout(locate_public(base)).as_contract_says(
        contract, Projection.read(folder / "1_Dense", "token_embeddings")
    )
    encoder = _assemble(layout, base, layers=contract.layers)
    check_contract(folder, contract, encoder.contract)
    encoder.backbone = adapters.merge_adapter(encoder.backbone, folder)  # type: ignore[arg-type]
    return encoder.eval()


def _assemble(
    layout: LateLayout,
    name: str,
    model: recipe.Model | None = None,
    dropout: float | None = None,
    quantize_4bit: bool = False,
    layers: int | tuple[int, ...] | None = None,
    kept: tuple[int, ...] | None = None,
) -> LateInteractionEncoder:
    """An encoder from what `layout` says; what the recipe says wins over it.

    `layers` is what of the backbone's layers to keep; `kept`: of the layers of the model called
    `name` those that `layout` still has.
    """
    wishes: dict[str, Any] = (
        {} if model is None else model.model_dump(include={*WISHES, "projection_dimensions"})
    )
    late: dict[str, Any] = (
        {}
        if model is None or model.late_interaction is None
        else model.late_interaction.model_dump()
    )
    base = Base(
        layout.backbone,
        layout.lower_case,
        dropout,
        quantize_4bit,
        layers if model is None else model.layers,
    )
    width = wishes.get("projection_dimensions")
    projection = layout.projection
    if projection is None or (width is not None and width != projection.out_features):
        projection = Projection.fresh(base.width, width or DIMENSIONS)
    if projection.in_features != base.width:
        raise BadModel(
            f"the projection takes vectors of {projection.in_features} numbers, the backbone gives"
            f" {base.width}"
        )
    masked = base.tokenizer.mask_token_id is not None
    base.tokenizer.padding_side = (  # PyLate puts the marker at the second place of the padded row
        "right"
    )
    markers = (
        MARKERS
        if all(token_id(base.tokenizer, marker) is not None for marker in MARKERS)
        else ("", "")
    )
    said = [
        late.get("query_marker"),
        layout.query_marker,
        late.get("document_marker"),
        layout.document_marker,
    ]
    prompts = (
        ("query: ", "document: ") if markers == ("", "") and said == [None] * 4 else ("", "")
    )  # where nothing else tells the two apart
    skipped = {None: layout.skipped_tokens, True: tuple(string.punctuation), False: ()}[
        late.get("skip_punctuation")
    ]
    usual = (None, None) if layout.bounded_lengths else (QUERY_TOKENS, DOCUMENT_TOKENS)
    contract = LateContract(
        backbone=name,
        layers=base.layers or kept,
        query_marker=first(*said[:2], markers[0]),
        document_marker=first(*said[2:], markers[1]),
        query_prompt=first(wishes.get("query_prompt"), layout.query_prompt, prompts[0]),
        document_prompt=first(wishes.get("document_prompt"), layout.document_prompt, prompts[1]),
        query_max_length_tokens=base.length(
            wishes.get("query_max_length_tokens"), layout.query_max_length_tokens, usual[0]
        ),
        document_max_length_tokens=base.length(
            wishes.get("document_max_length_tokens"), layout.document_max_length_tokens, usual[1]
        ),
        query_expansion=first(late.get("query_expansion"), layout.query_expansion, masked),
        attend_to_expansion=first(
            late.get("attend_to_expansion"), layout.attend_to_expansion, False
        ),
        skipped_tokens=tuple(
            word
            for word in first(skipped, tuple(string.punctuation))
            if _is_token(base.tokenizer, word)
        ),
        dimensions=projection.out_features,
        tokenizer_fingerprint=tokenization.fingerprint(base.tokenizer),
    )
    return LateInteractionEncoder(
        base.model, projection, contract, base.tokenizer, base.pristine_config
    )


def _is_token(tokenizer: PreTrainedTokenizerBase, word: str) -> bool:
    """Whether the vocabulary holds the word; the stand-in for unknown ones is not skipped for
    it.
    """
    return token_id(tokenizer, word) not in (None, tokenizer.unk_token_id)
