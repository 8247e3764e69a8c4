"""What models of every family share: a backbone, a tokenizer, perhaps a projection, and the
contract that holds them together.

A family adds a subclass of `VectorEncoder`, or of `Encoder` where it scores pairs of texts.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from trainer.batch import Texts
from trainer.errors import BadModel
from trainer.models.contracts.text import Role, TextContract
from trainer.models.formats.model_card import ModelCard
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
    """What the README of a saved model says of the family."""
    PROJECTION_FOLDER: ClassVar[str] = "1_Dense"
    """Where the projection is beside an adapter."""

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

    @property
    def output(self) -> str:
        """What the model gives, in words."""
        return f"vectors of {self.dimensions} dimensions"

    @property
    def has_layers(self) -> bool:
        """Whether the backbone is a stack of layers, of which some can be left out."""
        return True

    @property
    def is_untrained(self) -> bool:
        """Whether the output means nothing before training."""
        return False

    def tokenize(self, texts: Sequence[str], role: Role) -> Texts:
        """Tokens of `texts`, the role's prompt before each, cut to the role's length. May be called
        from any thread.
        """
        return self._roles[role].tokenize(texts)

    def uncut_lengths(self, texts: Sequence[str], role: Role) -> Int[Tensor, " text"]:
        """Tokens of each text, prompt and special tokens included. A text that is longer than the
        model takes counts one token more than it takes.
        """
        limit = self.contract.max_length_tokens(role)
        longer = role_tokenizer(self.tokenizer, self.contract.prompt(role), limit + 1)
        return longer.tokenize(texts).lengths

    def uncut_document_lengths(
        self, queries: Sequence[str], documents: Sequence[str]
    ) -> Int[Tensor, " document"]:
        """As `uncut_lengths`, of documents, each read together with its query where the model does
        so.
        """
        return self.uncut_lengths(documents, "document")

    def whole_modules(self) -> tuple[str, ...]:
        """Names of the backbone's modules that are trained whole beside a LoRA adapter."""
        return ()

    def forward(self, texts: Texts) -> Float[Tensor, "text ..."]:
        """One embedding per text, float32 also under autocast, the same whatever else is in
        `texts`.
        """
        ids, real = (padded.to(self.device) for padded in texts.pad())
        hidden_states = self.backbone(
            input_ids=ids, attention_mask=self.attention_mask(texts, ids, real)
        ).last_hidden_state
        return self.embed(hidden_states, texts, ids, real)

    def attention_mask(
        self, texts: Texts, ids: Int[Tensor, "text length"], real: Bool[Tensor, "text length"]
    ) -> Int[Tensor, "text length"] | None:
        """Which tokens are attended to; None: all."""
        return None if ids.numel() == texts.tokens.numel() else real.long()

    def embed(
        self,
        hidden_states: Float[Tensor, "text length width"],
        texts: Texts,
        ids: Int[Tensor, "text length"],
        real: Bool[Tensor, "text length"],
    ) -> Float[Tensor, "text ..."]:
        """The embeddings that are made of the backbone's vectors of `texts`."""
        raise NotImplementedError

    @abstractmethod
    def write_pipeline(self, folder: Path) -> None:
        """Writes what other libraries need beside weights and tokenizer."""


class VectorEncoder(Encoder):
    """Texts to vectors, which are compared with each other."""

    vectors: ClassVar[type[Vectors]]
    """What the model gives, and how it is stored, compared and searched."""

    def for_search(self, vectors: Vectors) -> Vectors:
        """The vectors in the form that a search compares."""
        return vectors

    def vectors_per_text(self, role: Role, mean_tokens: float) -> float:
        """How many vectors a text of the role has on average, if texts have `mean_tokens`
        tokens.
        """
        return 1.0

    def narrowed(self, dimensions: int) -> Self:
        """An encoder of the same weights that gives the first `dimensions` numbers of each vector.
        Raises BadModel where they mean nothing, or there are fewer.
        """
        raise BadModel(
            f"the model gives one vector per {self.vectors.UNIT}, whose first numbers mean nothing"
            " by themselves; leave out --dimensions"
        )

    def narrowed_for_good(self, dimensions: int) -> Self:
        """As `narrowed`, and the weights behind the other numbers are gone."""
        return self.narrowed(dimensions)


class PairEncoder(Encoder):
    """Pairs of a query and a document to one score each."""

    @abstractmethod
    def tokenize_pairs(self, queries: Sequence[str], documents: Sequence[str]) -> Texts:
        """Tokens of pair i, of query i and document i. May be called from any thread."""

    @abstractmethod
    def is_head(self, name: str) -> bool:
        """Whether the parameter of this name belongs to the head, which may start at random."""
