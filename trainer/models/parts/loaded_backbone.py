"""Loads the backbone and the tokenizer of a folder, and checks that they fit together."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from transformers import PretrainedConfig, PreTrainedModel

from trainer.errors import BadModel
from trainer.kernels.attention import use_attention
from trainer.kernels.cpu_linear import use_onednn
from trainer.models.formats.layout import FolderLayout
from trainer.models.parts import backbone as backbones
from trainer.models.parts.kept_layers import kept_layers, shorten
from trainer.models.parts.packed import use_packing
from trainer.models.parts.projection import Projection
from trainer.models.settings import ModelSettings
from trainer.models.tokenizers import texts as tokenization

Value = TypeVar("Value")
Load = Callable[[Path, PretrainedConfig, bool, Sequence[int] | None], PreTrainedModel]
"""Loads a transformer from (folder, configuration, 4 bits or not, layers to keep or None)."""


class LoadedBackbone:
    """A backbone with its tokenizer, ready for an encoder of any family."""

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
        """The layers of the backbone that were kept. None: all."""
        if self.layers is not None:
            shorten(self.pristine_config, self.layers)
        self.decoder = backbones.is_decoder(config)
        self.tokenizer = tokenization.read_tokenizer(folder, config, lower_case)
        if dropout is not None:
            backbones.set_dropout(config, dropout)
        self.model: PreTrainedModel = load(folder, config, quantize_4bit, self.layers)
        use_onednn(self.model)
        use_attention(self.model)
        use_packing(self.model)
        tokenization.check_matches(self.tokenizer, backbones.embedding_rows(self.model), folder)
        self.width: int = self.model.config.hidden_size

    @property
    def longest(self) -> int:
        """The number of tokens that both backbone and tokenizer allow."""
        return min(backbones.longest_input(self.model), self.tokenizer.model_max_length)

    def length(
        self, setting: int | None, folder_value: int | None, default: int | None = None
    ) -> int:
        """Returns the maximum length in tokens: `setting`, else the folder's, else `default`.

        Without all of these, it is the limit of backbone and tokenizer. Raises BadModel when the
        backbone has too few positions for `setting`.
        """
        limit = backbones.longest_input(self.model)
        if setting is not None and setting > limit:
            raise BadModel(
                f"a maximum length of {setting} tokens was requested, but the backbone has only"
                f" {limit} positions; use at most {limit}"
            )
        return (
            setting if setting is not None else min(folder_value or default or self.longest, limit)
        )

    def projection(
        self, folder_value: Projection | None, dimensions: int | None
    ) -> Projection | None:
        """Returns the folder's projection, or a new one for another number of dimensions."""
        fitting = folder_value is not None and dimensions in (None, folder_value.out_features)
        projection = (
            folder_value
            if fitting or dimensions is None
            else Projection.fresh(self.width, dimensions)
        )
        if projection is not None and projection.in_features != self.width:
            raise BadModel(
                f"the projection takes vectors with {projection.in_features} dimensions, but the"
                f" backbone gives {self.width}; use the backbone that belongs to it"
            )
        return projection

    def contract_fields(
        self,
        layout: FolderLayout,
        settings: ModelSettings,
        name: str,
        layers: tuple[int, ...] | None,
        prompts: tuple[str, str] = ("", ""),
        lengths: tuple[int | None, int | None] = (None, None),
    ) -> dict[str, Any]:
        """Returns the fields of a contract that every family has.

        Values come from the settings, else from the folder, else from `prompts` and `lengths` (of
        queries and of documents). `layers` are those of the model `name` that the folder has.
        """
        return {
            "backbone": name,
            "layers": self.layers or layers,
            "query_prompt": first_given(settings.query_prompt, layout.query_prompt, prompts[0]),
            "document_prompt": first_given(
                settings.document_prompt, layout.document_prompt, prompts[1]
            ),
            "query_max_length_tokens": self.length(
                settings.query_max_length_tokens, layout.query_max_length_tokens, lengths[0]
            ),
            "document_max_length_tokens": self.length(
                settings.document_max_length_tokens, layout.document_max_length_tokens, lengths[1]
            ),
            "tokenizer_fingerprint": tokenization.tokenizer_fingerprint(self.tokenizer),
        }


def first_given(*values: Value | None) -> Value:
    """Returns the first value that is not None."""
    return next(value for value in values if value is not None)
