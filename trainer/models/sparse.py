"""Models with one sparse vector per text: one weight per word of the vocabulary (SPLADE, Formal et
al. 2021).

The weight of a word is log(1 + relu(x)) for the largest x that the head of a masked language model
gives it at any token of the text. Texts are compared by the dot product. A model for inference-free
search encodes only documents so; queries get their weights from a table (`QueryWeights`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from trainer.batch import Texts
from trainer.errors import BadModel
from trainer.models.contracts.sparse import SparseContract
from trainer.models.contracts.text import Role
from trainer.models.encoder import VectorEncoder, role_tokenizers
from trainer.models.files.vetting import inside
from trainer.models.formats import sparse_pipeline
from trainer.models.formats.layout import TEXT_FIELDS
from trainer.models.formats.model_card import ModelCard
from trainer.models.formats.sparse_pipeline import (
    QUERY_TABLE,
    SparseLayout,
    is_sparse,
    read_sparse_layout,
)
from trainer.models.loading import Family, build_for_training, read, required_contract
from trainer.models.masked_lm import load_masked_lm, vocabulary_head
from trainer.models.parts.loaded_backbone import LoadedBackbone
from trainer.models.parts.packed import MicroBatch, packed_inputs, packed_position, padded_inputs
from trainer.models.settings import ModelSettings
from trainer.models.tokenizers.texts import read_tokenizer, tokenizer_fingerprint
from trainer.models.towers.query_weights import QueryWeights, special_ids
from trainer.scores import exact
from trainer.vectors.sparse import SparseVectors

QueryTableKind = Literal["trained", "frozen"]


class SparseEncoder(VectorEncoder):
    """Encodes texts into one weight per word of the vocabulary, most of which are zero."""

    vectors = SparseVectors
    CARD = sparse_pipeline.CARD

    def __init__(
        self,
        backbone: nn.Module,
        contract: SparseContract,
        tokenizer: PreTrainedTokenizerBase,
        pristine_config: PretrainedConfig,
        query_table: QueryWeights | None = None,
    ) -> None:
        roles = role_tokenizers(tokenizer, contract)
        super().__init__(backbone, None, tokenizer, roles, pristine_config)
        self.contract: SparseContract = contract
        self.query_table = query_table

    @property
    def card(self) -> ModelCard:
        """The text in the README: a table of queries has a maximum length of its own."""
        return replace(self.CARD, has_lengths_apart=self.query_table is None)

    @property
    def output(self) -> str:
        """A phrase that describes the output of the model."""
        table = "" if self.query_table is None else ", those of queries from a table"
        return f"sparse vectors over {self.dimensions} words{table}"

    @property
    def encodes_queries(self) -> bool:
        """True when the backbone reads queries, and not a table."""
        return self.query_table is None

    def rows_per_text(self, role: Role, mean_tokens: float) -> float:
        """Returns about how many active terms a text has: most models have fewer."""
        return 2 * mean_tokens

    def tokenize(self, texts: Sequence[str], role: Role) -> Texts:
        """Returns the tokens of `texts`, with their role if queries are encoded by a table.

        Any thread may call it.
        """
        tokens = super().tokenize(texts, role)
        return tokens if self.query_table is None else replace(tokens, role=role)

    def forward(self, texts: Texts) -> Float[Tensor, "text vocabulary"]:
        """Returns one weight per text and word, in float32 also under autocast.

        It does not depend on the other texts.
        """
        if self.query_table is not None and texts.role == "query":
            return self.encode_sorted(texts, self.query_table)
        return self.encode_sorted(texts, self._weights)

    def _weights(self, batch: MicroBatch) -> Float[Tensor, "text vocabulary"]:
        vocabulary_head(self.backbone).packing = batch.packing
        first_position = packed_position(self.backbone)
        if first_position is None:
            inputs = padded_inputs(batch)
        else:
            inputs = packed_inputs(batch.tokens, batch.packing, first_position)
        return exact(self.backbone(**inputs).logits)

    def write_pipeline(self, folder: Path) -> None:
        """Writes the modules of sentence-transformers."""
        sparse_pipeline.write_sparse_pipeline(folder, self.contract)
        self.write_beside_adapter(folder)

    def write_beside_adapter(self, folder: Path) -> None:
        """Writes the table of queries, if there is one."""
        if self.query_table is not None:
            most_tokens = self.contract.query_max_length_tokens
            self.query_table.write(folder / QUERY_TABLE, self.tokenizer, most_tokens)


@dataclass(frozen=True, kw_only=True)
class SparseSettings(ModelSettings):
    """The settings of a sparse model."""

    query_table: QueryTableKind | None = None
    """Queries are encoded by a table. None: as in the folder of the backbone, trained."""


def build_sparse_encoder(settings: SparseSettings) -> SparseEncoder:
    """Builds the encoder that the settings describe, in training mode. Raises BadModel.

    It starts from a masked language model, or from a sparse model of sentence-transformers or
    nearfar.
    """
    encoder = build_for_training(FAMILY, settings)
    vocabulary_head(encoder.backbone)  # raises if an adapter is around it
    return encoder


def read_sparse_encoder(path_or_name: str) -> SparseEncoder:
    """Reads the sparse model of a folder or name, in evaluation mode. Raises BadModel.

    Adapters are merged.
    """
    return read(FAMILY, path_or_name)


def _check_readable(folder: Path, layout: SparseLayout) -> None:
    if not layout.is_pipeline:
        raise BadModel(
            f"{folder} is not a sparse model; train one from it with a recipe of kind sparse"
        )


def _with_adapter(
    layout: SparseLayout, contract: SparseContract | None, folder: Path
) -> SparseLayout:
    contract = required_contract(folder, contract)
    table = inside(folder, QUERY_TABLE) if contract.has_query_table else None
    fields = contract.model_dump(include=TEXT_FIELDS)
    return replace(layout, contract=contract, query_table=table, **fields)


def _assemble(
    layout: SparseLayout, settings: SparseSettings, name: str, layers: tuple[int, ...] | None
) -> SparseEncoder:
    backbone = LoadedBackbone(
        layout.backbone,
        layout.lower_case,
        settings.dropout,
        settings.lora is not None and settings.lora.quantize_4bit,
        settings.layers,
        load_masked_lm,
    )
    words = vocabulary_head(backbone.model).out_features
    table = _query_table(layout, settings, backbone, words)
    if layout.contract is None and layout.query_table is not None:
        longest = layout.query_max_length_tokens  # of the words alone
        layout = replace(
            layout,
            query_max_length_tokens=longest and longest + len(special_ids(backbone.tokenizer)),
        )
    contract = SparseContract(
        **backbone.contract_fields(layout, settings, name, layers),
        dimensions=words,
        has_query_table=table is not None,
    )
    return SparseEncoder(
        backbone.model, contract, backbone.tokenizer, backbone.pristine_config, table
    )


def _query_table(
    layout: SparseLayout, settings: SparseSettings, backbone: LoadedBackbone, words: int
) -> QueryWeights | None:
    """Returns the table of the folder, or a new one if the settings ask for it.

    Raises BadModel when that of the folder does not fit the backbone.
    """
    if layout.query_table is None and settings.query_table is None:
        return None
    if layout.query_table is None:
        table = QueryWeights.fresh(words, backbone.tokenizer)
    else:
        table = QueryWeights.read(layout.query_table, words, backbone.tokenizer)
        tokenizer = read_tokenizer(layout.query_table, backbone.pristine_config)
        if tokenizer_fingerprint(tokenizer) != tokenizer_fingerprint(backbone.tokenizer):
            raise BadModel(
                f"{layout.query_table} has another tokenizer than the documents, so words have"
                " other numbers there; take both from the same model"
            )
    table.weight.requires_grad_(settings.query_table != "frozen")
    return table


FAMILY = Family(
    model=SparseEncoder,
    settings=SparseSettings,
    contract=SparseContract,
    recognizes=is_sparse,
    read_layout=read_sparse_layout,
    check_readable=_check_readable,
    with_adapter=_with_adapter,
    assemble=_assemble,
)
