"""The base classes of models: a backbone, a tokenizer, an optional projection, and a contract.

A family adds a subclass of `VectorEncoder`, or of `PairEncoder` if it scores pairs of texts.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from trainer.batch import Texts, to_device
from trainer.errors import BadModel
from trainer.models.contracts.text import Role, TextContract
from trainer.models.formats.model_card import ModelCard
from trainer.models.parts import lora as adapters
from trainer.models.parts.packed import (
    MicroBatch,
    micro_batch,
    packed_inputs,
    packed_position,
    padded_inputs,
    with_numbers,
)
from trainer.models.parts.projection import Projection
from trainer.models.tokenizers.texts import RoleTokenizer, role_tokenizer
from trainer.vectors.vectors import Vectors


def role_tokenizers(
    tokenizer: PreTrainedTokenizerBase, contract: TextContract
) -> dict[Role, RoleTokenizer]:
    """The tokenizers of both roles, with the prompts and lengths of the contract. Raises
    BadModel.
    """
    roles: tuple[Role, Role] = ("query", "document")
    return {
        role: role_tokenizer(tokenizer, contract.prompt(role), contract.max_length_tokens(role))
        for role in roles
    }


class Encoder(nn.Module, ABC):
    """Texts to embeddings. What must not change between training and use is in `contract`;
    `pristine_config` is the backbone's, dropout untouched.
    """

    contract: TextContract
    CARD: ClassVar[ModelCard]
    """The text about the family in the README of a saved model."""
    PROJECTION_FOLDER: ClassVar[str] = "1_Dense"
    """The folder of the projection in the folder of an adapter."""
    HAS_ADAPTER_FOLDER: ClassVar[bool] = True
    """Whether the adapter is also saved by itself."""

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
    def text_backbone(self) -> nn.Module:
        """The transformer that reads texts."""
        return self.backbone

    @property
    def card(self) -> ModelCard:
        """The text in the README of this model."""
        return self.CARD

    @property
    def is_padded(self) -> bool:
        """True when the backbone takes no packed texts, so that padding costs time."""
        return packed_position(self.text_backbone) is None

    @property
    def dimensions(self) -> int:
        """The number of dimensions of a vector."""
        return self.contract.dimensions

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def output(self) -> str:
        """A phrase that describes the output of the model."""
        return f"vectors of {self.dimensions} dimensions"

    @property
    def has_layers(self) -> bool:
        """True when the backbone has layers, of which some can be left out."""
        return True

    @property
    def encodes_queries(self) -> bool:
        """True when the backbone reads queries by themselves."""
        return True

    @property
    def encodes_images(self) -> bool:
        """True when the documents are references to images (`trainer.images.reference`)."""
        return False

    @property
    def is_untrained(self) -> bool:
        """True when the output is random before training."""
        return False

    def tokenize(self, texts: Sequence[str], role: Role) -> Texts:
        """Returns the tokens of `texts` with the prompt of the role, cut to its maximum length.

        Any thread may call it.
        """
        return self._roles[role].tokenize(texts)

    def uncut_lengths(self, texts: Sequence[str], role: Role) -> Int[Tensor, " text"]:
        """Returns the number of tokens per text, with prompt and special tokens.

        A text that is too long has the maximum number plus one.
        """
        limit = self.contract.max_length_tokens(role)
        longer = role_tokenizer(self.tokenizer, self.contract.prompt(role), limit + 1)
        return longer.tokenize(texts).lengths

    def uncut_document_lengths(
        self, queries: Sequence[str], documents: Sequence[str]
    ) -> Int[Tensor, " document"]:
        """As `uncut_lengths` for documents; a cross-encoder reads each with its query."""
        return self.uncut_lengths(documents, "document")

    def sample_documents(self, count: int, length: int) -> Texts:
        """Returns `count` documents of `length` tokens each, with which memory is measured."""
        return Texts.zeros(count, length)

    def adapted_layers(self) -> list[str]:
        """Returns the names of the layers that get a LoRA adapter by default."""
        return adapters.linear_layers(self.backbone)

    def whole_modules(self) -> tuple[str, ...]:
        """Returns the names of modules that are fully trained in addition to a LoRA adapter."""
        return ()

    def forward(self, texts: Texts) -> Float[Tensor, "text ..."]:
        """Returns one embedding per text, in float32 also under autocast.

        It does not depend on the other texts.
        """
        return self.encode_sorted(
            texts, lambda batch: self.embed(self.hidden_states(batch)[-1], batch)
        )

    def encode_sorted(
        self, texts: Texts, encode: Callable[[MicroBatch], Float[Tensor, "text ..."]]
    ) -> Float[Tensor, "text ..."]:
        """Returns the embeddings that `encode` gives for the texts, sorted from long to short and
        on the device of the weights, in the order of `texts`.
        """
        if texts.numbers is not None:
            return encode(micro_batch(texts, self.device))
        lengths = texts.lengths
        if bool((lengths[1:] <= lengths[:-1]).all()):
            return self.encode_sorted(self.pack(texts), encode)
        order = lengths.argsort(descending=True, stable=True)
        embeddings = self.encode_sorted(texts.select(order), encode)
        return embeddings[to_device(order.argsort(), self.device)]

    def pack(self, texts: Texts) -> Texts:
        """Returns texts, sorted from long to short, with what the device needs of them.

        Training calls it ahead of the step. Any thread may call it.
        """
        return with_numbers(texts, self.device, self.key_counts(texts))

    def hidden_states(
        self, batch: MicroBatch, with_layer_inputs: bool = False
    ) -> list[Float[Tensor, "token width"]]:
        """Returns the output of the backbone, or before it also the input of each layer."""
        backbone = self.text_backbone
        first_position = packed_position(backbone)
        if first_position is None:
            inputs = padded_inputs(batch)
        else:
            inputs = packed_inputs(batch.tokens, batch.packing, first_position)
        outputs = backbone(**inputs, output_hidden_states=with_layer_inputs)
        states = [*(outputs.hidden_states or ())[:-1], outputs.last_hidden_state]
        if first_position is None:
            return [batch.packing.unpad(state) for state in states]
        return [state[0, : len(batch.tokens)] for state in states]

    def key_counts(self, texts: Texts) -> Int[Tensor, " text"] | None:
        """Returns how many tokens of each text, from its first, are attended to; None: all."""
        return None

    def embed(
        self, hidden_states: Float[Tensor, "token width"], batch: MicroBatch
    ) -> Float[Tensor, "text ..."]:
        """Returns the embeddings, given the output of the backbone."""
        raise NotImplementedError

    @abstractmethod
    def write_pipeline(self, folder: Path) -> None:
        """Writes the files that other libraries need in addition to weights and tokenizer."""

    def write_beside_adapter(self, folder: Path) -> None:
        """Writes weights outside of the backbone into the folder of an adapter."""
        if self.projection is not None:
            self.projection.write(folder / self.PROJECTION_FOLDER)

    def keep_scale(self, log_scale: Float[Tensor, " 1"], bias: Float[Tensor, " 1"] | None) -> None:
        """Takes the scale and bias of scores that training learned, if weights exist for them."""


class VectorEncoder(Encoder):
    """A model that encodes texts into vectors."""

    vectors: ClassVar[type[Vectors]]
    """The type of the vectors: how they are stored, compared and searched."""

    def texts_per_slice(self, role: Role) -> int:
        """Returns how many texts are tokenised at once, ahead of their encoding."""
        return self.vectors.TEXTS_PER_BLOCK

    def for_search(self, vectors: Vectors) -> Vectors:
        """Returns the vectors in the form for search."""
        return vectors

    def vectors_per_text(self, role: Role, mean_tokens: float) -> float:
        """Returns the mean number of vectors per text, given the mean number of tokens."""
        return 1.0

    def rows_per_text(self, role: Role, mean_tokens: float) -> float:
        """Returns about how many rows of `Vectors.rows` a text has, given its tokens."""
        return self.vectors_per_text(role, mean_tokens)

    def with_dimensions(self, dimensions: int) -> Self:
        """Returns an encoder with the same weights that gives only the first `dimensions` per
        vector.

        Raises BadModel when this is impossible, or when vectors have fewer dimensions.
        """
        raise BadModel(
            f"the model gives {self.output}, whose first numbers mean nothing by themselves;"
            " leave out --dimensions"
        )

    def cut_to_dimensions(self, dimensions: int) -> Self:
        """As `with_dimensions`, but without the weights of the other dimensions."""
        return self.with_dimensions(dimensions)


class PairEncoder(Encoder):
    """A model that scores pairs of a query and a document."""

    @property
    def encodes_queries(self) -> bool:
        """False: a query is read together with a document."""
        return False

    @abstractmethod
    def tokenize_pairs(self, queries: Sequence[str], documents: Sequence[str]) -> Texts:
        """Returns the tokens of each query with its document. Any thread may call it."""

    @abstractmethod
    def is_head(self, name: str) -> bool:
        """Returns true for the name of a parameter of the head, which may be new."""
