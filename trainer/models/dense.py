"""Models with one vector per text: backbone, pooling, optional projection, normalisation."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from trainer.batch import Texts, to_device
from trainer.errors import BadModel
from trainer.models.contracts.dense import DenseContract, PoolingKind
from trainer.models.encoder import VectorEncoder, role_tokenizers
from trainer.models.files.vetting import check_links
from trainer.models.formats import dense_pipeline
from trainer.models.formats.sentence_transformers import DenseLayout, read_layout
from trainer.models.loading import Family, build_for_training, read
from trainer.models.parts.classifier import check_gives_vectors
from trainer.models.parts.loaded_backbone import LoadedBackbone, first_given
from trainer.models.parts.packed import MicroBatch
from trainer.models.parts.pooling import pool
from trainer.models.parts.projection import Projection
from trainer.models.settings import ModelSettings
from trainer.models.static import StaticBackbone, TokenTable
from trainer.models.tokenizers import texts as tokenization
from trainer.vectors.dense import DenseVectors
from trainer.vectors.vectors import Vectors


class DenseEncoder(VectorEncoder):
    """Encodes texts into one vector each."""

    vectors = DenseVectors
    CARD = dense_pipeline.CARD
    PROJECTION_FOLDER = "2_Dense"

    def __init__(
        self,
        backbone: nn.Module,
        projection: Projection | None,
        contract: DenseContract,
        tokenizer: PreTrainedTokenizerBase,
        pristine_config: PretrainedConfig,
    ) -> None:
        roles = role_tokenizers(tokenizer, contract)
        super().__init__(backbone, projection, tokenizer, roles, pristine_config)
        self.contract: DenseContract = contract
        self._leading_special_tokens = tokenization.leading_special_tokens(tokenizer)

    def forward(self, texts: Texts) -> Float[Tensor, "text dimension"]:
        """Returns one vector per text, in float32 also under autocast.

        It does not depend on the other texts.
        """
        is_mean = self.contract.pooling == "mean" and not self._excluded_tokens(texts)
        if not (is_mean and isinstance(self.backbone, TokenTable)):
            return super().forward(texts)
        sizes = [len(texts.tokens), len(texts.offsets)]
        numbers = texts.numbers
        if numbers is None:
            numbers = torch.cat([texts.tokens, texts.offsets])
        # One transfer; the numbers of a transformer begin with those of a table.
        tokens, offsets = to_device(numbers[: sum(sizes)], self.device).split(sizes)
        return self._finish(self.backbone(tokens, offsets))

    def hidden_states(
        self, batch: MicroBatch, with_layer_inputs: bool = False
    ) -> list[Float[Tensor, "token width"]]:
        """Returns the output of the backbone, or before it also the input of each layer.

        Of a table it is the vector of each token.
        """
        if not isinstance(self.backbone, TokenTable):
            return super().hidden_states(batch, with_layer_inputs)
        each_token = torch.arange(len(batch.tokens) + 1, device=batch.device)
        return [self.backbone(batch.tokens, each_token)]

    def embed(
        self, hidden_states: Float[Tensor, "token width"], batch: MicroBatch
    ) -> Float[Tensor, "text dimension"]:
        """Returns one vector per text, of length 1 if the contract says so."""
        excluded_tokens = self._excluded_tokens(batch.texts)
        return self._finish(pool(self.contract.pooling, hidden_states, batch, excluded_tokens))

    def _finish(self, vectors: Float[Tensor, "text width"]) -> Float[Tensor, "text dimension"]:
        if self.projection is not None:
            vectors = self.projection(vectors).to(vectors.dtype)
        vectors = vectors[:, : self.contract.dimensions]
        return functional.normalize(vectors, dim=-1) if self.contract.normalize else vectors

    @property
    def is_padded(self) -> bool:
        """True when the backbone takes no packed texts, so that padding costs time."""
        return self.has_layers and super().is_padded

    @property
    def has_layers(self) -> bool:
        """True when the backbone is a transformer, false for a table of token vectors."""
        return not isinstance(self.backbone, TokenTable)

    def for_search(self, vectors: Vectors) -> Vectors:
        """Returns vectors whose dot product is the similarity of the model.

        For cosine similarity, they have length 1.
        """
        if self.contract.similarity == "dot" or self.contract.normalize:
            return vectors
        lengths = np.linalg.norm(vectors.rows, axis=1, keepdims=True).clip(min=1e-12)
        return DenseVectors(vectors.rows / lengths)

    def write_pipeline(self, folder: Path) -> None:
        """Writes the modules of sentence-transformers."""
        if self.has_layers:
            width = self.pristine_config.hidden_size
            dense_pipeline.write_dense_pipeline(folder, self.contract, self.projection, width)
        else:
            dense_pipeline.write_static_pipeline(folder, self.contract, self.projection)

    def with_dimensions(self, dimensions: int) -> Self:
        """Returns an encoder with the same weights that gives only the first `dimensions` per
        vector.

        Vectors of length 1 are normalised again. It is meant for models that were trained with
        matryoshka. Raises BadModel when vectors have fewer dimensions.
        """
        if dimensions > self.contract.dimensions:
            raise BadModel(
                f"vectors with {dimensions} dimensions were requested, but the model's have"
                f" {self.contract.dimensions} and can only be cut; give a smaller number"
            )
        return self._with(contract=self.contract.model_copy(update={"dimensions": dimensions}))

    @torch.no_grad()
    def cut_to_dimensions(self, dimensions: int) -> Self:
        """As `with_dimensions`, but without the weights of the other dimensions.

        The first columns of a table, or the first rows of a projection, remain. Without a
        projection, one is added.
        """
        narrow = self.with_dimensions(dimensions)
        if dimensions == self.dimensions:
            return narrow
        full_projection = self.projection
        if full_projection is None and isinstance(self.backbone, TokenTable):
            narrow.backbone = TokenTable(self.backbone.embedding.weight[:, :dimensions].clone())
            return narrow.eval()
        if full_projection is None:
            projection = Projection.of(torch.eye(dimensions, self.dimensions))
        else:
            projection = Projection(
                full_projection.in_features,
                dimensions,
                full_projection.bias is not None,
                full_projection.activation,
            )
            projection.load_state_dict(
                {name: value[:dimensions] for name, value in full_projection.state_dict().items()}
            )
        narrow.projection = projection.to(self.device)
        return narrow.eval()

    def without_projection(self) -> Self:
        """Returns an encoder with the same weights and without the projection."""
        width = self.contract.dimensions if self.projection is None else self.projection.in_features
        return self._with(
            projection=None, contract=self.contract.model_copy(update={"dimensions": width})
        )

    def _with(self, **changes: Any) -> Self:
        copied_encoder = copy.copy(self)
        copied_encoder._modules = dict(self._modules)
        for name, value in changes.items():
            setattr(copied_encoder, name, value)
        return copied_encoder

    def _excluded_tokens(self, texts: Texts) -> int:
        """Returns the number of leading tokens (special ones, prompt) that pooling excludes."""
        if self.contract.include_prompt or texts.prompt_tokens == 0:
            return 0
        return self._leading_special_tokens + texts.prompt_tokens


@dataclass(frozen=True, kw_only=True)
class DenseSettings(ModelSettings):
    """The settings of a model with one vector per text.

    None means the value of the folder, or else the default.
    """

    pooling: PoolingKind | None = None
    """The default is last_token for decoders, and mean for others."""
    projection_dimensions: int | None = None
    """The dimensions of a linear layer after pooling (default: no layer)."""
    normalize: bool | None = None
    """The default is true."""


def build_dense_encoder(settings: DenseSettings) -> DenseEncoder:
    """Builds the encoder that the settings describe, in training mode. Raises BadModel.

    A stored pipeline may compare by cosine without normalising. Then training normalises: the
    scores are the same, and the objective can use the dot product.
    """
    return build_for_training(replace(FAMILY, read_layout=_layout_to_train), settings)


def read_encoder(path_or_name: str) -> DenseEncoder:
    """Reads the encoder of a folder or name, in evaluation mode. Raises BadModel.

    It reads folders of nearfar, sentence-transformers and Hugging Face, and LoRA adapters that name
    their base model. Adapters are merged.
    """
    return read(FAMILY, path_or_name)


def _layout_to_train(folder: Path) -> DenseLayout:
    layout = read_layout(folder)
    if layout.normalize is False and layout.similarity == "cosine":
        return replace(layout, normalize=True)
    return layout


def _check_readable(folder: Path, _: DenseLayout) -> None:
    check_gives_vectors(folder)


def _with_adapter(layout: DenseLayout, contract: DenseContract | None, folder: Path) -> DenseLayout:
    if contract is not None:
        layout = layout.as_contract_says(contract)
    projection = folder / DenseEncoder.PROJECTION_FOLDER
    if projection.is_dir():
        check_links(projection)
        layout = replace(layout, projection=projection)
    return layout


def _assemble(
    layout: DenseLayout, settings: DenseSettings, name: str, layers: tuple[int, ...] | None
) -> DenseEncoder:
    if layout.is_static:
        return around(StaticBackbone.read(layout.backbone), layout, settings, name)
    backbone = LoadedBackbone(
        layout.backbone,
        layout.lower_case,
        settings.dropout,
        settings.lora is not None and settings.lora.quantize_4bit,
        settings.layers,
    )
    pooling = settings.pooling or layout.pooling or ("last_token" if backbone.decoder else "mean")
    if pooling == "last_token" and backbone.decoder and not layout.is_pipeline:
        tokenization.append_end_token(backbone.tokenizer)
    return around(backbone, replace(layout, pooling=pooling), settings, name, layers)


def around(
    backbone: LoadedBackbone,
    layout: DenseLayout,
    settings: DenseSettings,
    name: str,
    layers: tuple[int, ...] | None = None,
) -> DenseEncoder:
    """Builds an encoder from a loaded backbone.

    `layers` are those of the model `name` that the backbone has; None: all.
    """
    stored_projection = None if layout.projection is None else Projection.read(layout.projection)
    projection = backbone.projection(stored_projection, settings.projection_dimensions)
    normalize = first_given(settings.normalize, layout.normalize, True)
    contract = DenseContract(
        **backbone.contract_fields(layout, settings, name, layers),
        pooling=settings.pooling or layout.pooling or "mean",
        include_prompt=layout.include_prompt,
        normalize=normalize,
        similarity="cosine" if normalize else layout.similarity or "dot",
        dimensions=backbone.width if projection is None else projection.out_features,
    )
    return DenseEncoder(
        backbone.model, projection, contract, backbone.tokenizer, backbone.pristine_config
    )


FAMILY = Family(
    model=DenseEncoder,
    settings=DenseSettings,
    contract=DenseContract,
    recognizes=lambda folder: True,
    read_layout=read_layout,
    check_readable=_check_readable,
    with_adapter=_with_adapter,
    assemble=_assemble,
)
