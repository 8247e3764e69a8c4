"""Models with one score per pair: a transformer reads query and document together (Nogueira & Cho
2019).
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from trainer.batch import Texts, to_device
from trainer.errors import BadModel
from trainer.models.contracts.cross_encoder import CrossEncoderContract
from trainer.models.encoder import PairEncoder, role_tokenizers
from trainer.models.formats.layout import TEXT_FIELDS, FolderLayout
from trainer.models.formats.library_examples import pair_examples
from trainer.models.formats.model_card import ModelCard
from trainer.models.loading import Family, build_for_training, read, required_contract
from trainer.models.parts.classifier import (
    is_cross_encoder,
    load_classifier,
    one_score,
    whole_modules,
)
from trainer.models.parts.loaded_backbone import LoadedBackbone
from trainer.models.parts.packed import MicroBatch, pack_inside, padded_inputs
from trainer.models.settings import ModelSettings
from trainer.models.tokenizers.pairs import PairTokenizer, pair_tokenizer
from trainer.scores import exact

CARD = ModelCard(
    header="""library_name: sentence-transformers
pipeline_tag: text-ranking
tags: [cross-encoder, sentence-transformers, text-classification, nearfar]""",
    title="A cross-encoder",
    use="""Written by nearfar. It scores a query and a document together; the higher, the better the document answers the query, and only the order means
something. `nearfar search --rerank` and `nearfar evaluate --rerank` use this folder as it is, and so does sentence-transformers:

```python
from sentence_transformers import CrossEncoder
model = CrossEncoder("path/to/this/folder")
scores = model.predict([("a question", "a document"), ("a question", "another document")])
```""",  # noqa: E501 - a line of Markdown
    examples=pair_examples,
)


class CrossEncoder(PairEncoder):
    """Gives one score per (query, document) pair; a higher score means a better answer."""

    CARD = CARD

    def __init__(
        self,
        backbone: nn.Module,
        contract: CrossEncoderContract,
        tokenizer: PreTrainedTokenizerBase,
        pristine_config: PretrainedConfig,
        has_new_head: bool,
    ) -> None:
        roles = role_tokenizers(tokenizer, contract)
        super().__init__(backbone, None, tokenizer, roles, pristine_config)
        if not self.is_padded:
            pack_inside(backbone)  # type: ignore[arg-type]
        self.contract: CrossEncoderContract = contract
        self._has_new_head = has_new_head
        self._pairs = self.pairs_of(contract.document_max_length_tokens)
        takes = inspect.signature(backbone.forward).parameters
        self._takes_types = (
            "token_type_ids" in takes and "token_type_ids" in tokenizer.model_input_names
        )
        self._heads = whole_modules(backbone)  # type: ignore[arg-type]

    @property
    def is_untrained(self) -> bool:
        """True when the head is new and random."""
        return self._has_new_head

    @property
    def output(self) -> str:
        """A phrase that describes the output of the model."""
        return "one score per pair"

    def uncut_document_lengths(
        self, queries: Sequence[str], documents: Sequence[str]
    ) -> Int[Tensor, " document"]:
        """Returns the number of tokens per pair; the maximum plus one for longer pairs."""
        limit = self.contract.document_max_length_tokens
        return self.pairs_of(limit + 1).tokenize(queries, documents).lengths

    def write_pipeline(self, folder: Path) -> None:
        """Writes nothing: config.json fully describes a sequence classifier."""

    def pairs_of(self, max_length_tokens: int) -> PairTokenizer:
        """Returns the tokenizer of pairs with at most this length."""
        contract = self.contract
        return pair_tokenizer(
            self.tokenizer,
            contract.query_prompt,
            contract.document_prompt,
            contract.query_max_length_tokens,
            max_length_tokens,
        )

    def tokenize_pairs(self, queries: Sequence[str], documents: Sequence[str]) -> Texts:
        """Returns the tokens of each query with its document. Any thread may call it."""
        return self._pairs.tokenize(queries, documents)

    def forward(self, texts: Texts) -> Float[Tensor, " text"]:
        """Returns one score per pair, in float32 or better, also under autocast.

        It does not depend on the other pairs.
        """
        return self.encode_sorted(texts, self._scores)

    def _scores(self, batch: MicroBatch) -> Float[Tensor, " text"]:
        inputs = padded_inputs(batch)
        if not self.is_padded:
            inputs["packing"] = batch.packing
        if self._takes_types and batch.texts.second is not None:
            second = batch.texts.second.repeat_interleave(batch.texts.lengths)
            types = batch.packing.positions >= to_device(second, batch.device)
            inputs["token_type_ids"] = batch.packing.pad(types[:, None].long())[..., 0]
        return exact(self.backbone(**inputs).logits.squeeze(-1))

    def whole_modules(self) -> tuple[str, ...]:
        """Returns the names of the head and of the modules between it and the transformer."""
        return self._heads

    def is_head(self, name: str) -> bool:
        """Returns true for the name of a parameter of the head."""
        name = name.removeprefix("backbone.").removeprefix("base_model.model.")
        return any(name.startswith(f"{head}.") for head in self._heads)


@dataclass(frozen=True, kw_only=True)
class CrossEncoderSettings(ModelSettings):
    """The settings of a cross-encoder: only those that all families have."""


def build_cross_encoder(settings: CrossEncoderSettings) -> CrossEncoder:
    """Builds the cross-encoder that the settings describe, in training mode. Raises BadModel.

    It starts from any encoder, with a new head, or from a cross-encoder with one score. The head is
    fully trained.
    """
    return build_for_training(FAMILY, settings)


def read_cross_encoder(path_or_name: str) -> CrossEncoder:
    """Reads the cross-encoder of a folder or name, in evaluation mode. Raises BadModel.

    It reads folders of nearfar, sentence-transformers and Hugging Face (sequence classifiers with
    one label), and adapters of nearfar. Adapters are merged.
    """
    return read(FAMILY, path_or_name)


@dataclass(frozen=True, slots=True)
class CrossLayout(FolderLayout):
    """The settings in the folder of a cross-encoder, or of its backbone."""

    has_head: bool = False


def _read_layout(folder: Path) -> CrossLayout:
    if not is_cross_encoder(folder):
        return CrossLayout(folder)
    contract = CrossEncoderContract.read(folder)
    layout = CrossLayout(folder, has_head=True)
    return layout if contract is None else _as_contract_says(layout, contract)


def _as_contract_says(layout: CrossLayout, contract: CrossEncoderContract) -> CrossLayout:
    fields = contract.model_dump(include=TEXT_FIELDS)
    return replace(layout, contract=contract, has_head=True, **fields)


def _check_readable(folder: Path, layout: CrossLayout) -> None:
    if not layout.has_head:
        raise BadModel(
            f"{folder} is no cross-encoder: it gives vectors and cannot score a query and a"
            " document together. Give a cross-encoder, such as one that `nearfar fit"
            " recipes/cross-encoder.yaml` has trained"
        )


def _with_adapter(
    layout: CrossLayout, contract: CrossEncoderContract | None, folder: Path
) -> CrossLayout:
    return _as_contract_says(layout, required_contract(folder, contract))


def _assemble(
    layout: CrossLayout,
    settings: CrossEncoderSettings,
    name: str,
    layers: tuple[int, ...] | None,
) -> CrossEncoder:
    backbone = LoadedBackbone(
        layout.backbone,
        dropout=settings.dropout,
        quantize_4bit=settings.lora is not None and settings.lora.quantize_4bit,
        layers=settings.layers,
        load=load_classifier,
    )
    one_score(backbone.pristine_config)
    # Else sentence-transformers gives sigmoids of the scores.
    activation = {"activation_fn": "torch.nn.modules.linear.Identity"}
    backbone.pristine_config.sentence_transformers = activation
    for config in (backbone.model.config, backbone.pristine_config):
        if config.pad_token_id is None:  # decoders find a text's last token by it
            config.pad_token_id = backbone.tokenizer.pad_token_id
    longest = backbone.length(
        settings.document_max_length_tokens, layout.document_max_length_tokens
    )
    fields = backbone.contract_fields(layout, settings, name, layers, lengths=(longest, None))
    fields["query_max_length_tokens"] = min(fields["query_max_length_tokens"], longest)
    backbone.tokenizer.model_max_length = longest
    return CrossEncoder(
        backbone.model,
        CrossEncoderContract(**fields, dimensions=1),
        backbone.tokenizer,
        backbone.pristine_config,
        has_new_head=not layout.has_head,
    )


FAMILY = Family(
    model=CrossEncoder,
    settings=CrossEncoderSettings,
    contract=CrossEncoderContract,
    recognizes=is_cross_encoder,
    read_layout=_read_layout,
    check_readable=_check_readable,
    with_adapter=_with_adapter,
    assemble=_assemble,
)
