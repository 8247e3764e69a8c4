"""Models with one sparse vector per text: one weight per word of the vocabulary (SPLADE, Formal et
al. 2021).

The weight of a word is log(1 + relu(x)) for the largest x that the head of a masked language model
gives it at any token of the text. Texts are compared by the dot product.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from trainer.batch import Texts
from trainer.errors import BadModel
from trainer.models.contracts.sparse import SparseContract
from trainer.models.encoder import VectorEncoder, role_tokenizers
from trainer.models.formats import sparse_pipeline
from trainer.models.formats.layout import TEXT_FIELDS
from trainer.models.formats.sparse_pipeline import SparseLayout, is_sparse, read_sparse_layout
from trainer.models.loading import Family, build_for_training, read, required_contract
from trainer.models.masked_lm import load_masked_lm, vocabulary_head
from trainer.models.parts.loaded_backbone import LoadedBackbone
from trainer.models.parts.packed import MicroBatch, packed_inputs, packed_position, padded_inputs
from trainer.models.settings import ModelSettings
from trainer.scores import exact
from trainer.vectors.sparse import SparseVectors


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
    ) -> None:
        roles = role_tokenizers(tokenizer, contract)
        super().__init__(backbone, None, tokenizer, roles, pristine_config)
        self.contract: SparseContract = contract

    @property
    def output(self) -> str:
        """A phrase that describes the output of the model."""
        return f"sparse vectors over {self.dimensions} words"

    def forward(self, texts: Texts) -> Float[Tensor, "text vocabulary"]:
        """Returns one weight per text and word, in float32 also under autocast.

        It does not depend on the other texts.
        """
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


@dataclass(frozen=True, kw_only=True)
class SparseSettings(ModelSettings):
    """The settings of a sparse model: only those that all families have."""


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
    return replace(layout, contract=contract, **contract.model_dump(include=TEXT_FIELDS))


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
    contract = SparseContract(
        **backbone.contract_fields(layout, settings, name, layers),
        dimensions=vocabulary_head(backbone.model).out_features,
    )
    return SparseEncoder(backbone.model, contract, backbone.tokenizer, backbone.pristine_config)


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
