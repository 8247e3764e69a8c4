"""Models with one vector per token (ColBERT, Khattab & Zaharia 2020).

A projection follows the backbone, and vectors are scaled to length 1. Tokens that do not count have
rows of zeros.
"""

import string
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from trainer.batch import Texts
from trainer.errors import BadModel
from trainer.models.contracts.late_interaction import LateInteractionContract
from trainer.models.contracts.text import Role
from trainer.models.encoder import VectorEncoder
from trainer.models.files.vetting import check_links
from trainer.models.formats import late_interaction_pipeline
from trainer.models.formats.pylate import LateLayout, is_late_interaction, read_late_layout
from trainer.models.loading import Family, build_for_training, read, required_contract
from trainer.models.parts.loaded_backbone import LoadedBackbone, first_given
from trainer.models.parts.packed import MicroBatch
from trainer.models.parts.projection import Projection
from trainer.models.settings import ModelSettings
from trainer.models.tokenizers import texts as tokenization
from trainer.models.tokenizers.marking import filling_id, marked_tokenizer, token_id
from trainer.scores import exact
from trainer.vectors.tokens import TokenVectors

DIMENSIONS, QUERY_TOKENS, DOCUMENT_TOKENS = 128, 32, 180
"""The defaults of ColBERT."""
MARKERS = ("[unused0]", "[unused1]")
PROMPTS = ("query: ", "document: ")
"""The default prompts, when there are no markers in the folder, the settings or the vocabulary."""


class LateInteractionEncoder(VectorEncoder):
    """Encodes texts into one vector per token."""

    vectors = TokenVectors
    CARD = late_interaction_pipeline.CARD

    def __init__(
        self,
        backbone: nn.Module,
        projection: Projection,
        contract: LateInteractionContract,
        tokenizer: PreTrainedTokenizerBase,
        pristine_config: PretrainedConfig,
    ) -> None:
        roles: dict[Role, tokenization.RoleTokenizer] = {
            role: marked_tokenizer(tokenizer, contract, role) for role in ("query", "document")
        }
        super().__init__(backbone, projection, tokenizer, roles, pristine_config)
        self.contract: LateInteractionContract = contract
        self._filling_id = filling_id(tokenizer)
        skipped_ids = [token_id(tokenizer, token) for token in contract.skipped_tokens]
        self.register_buffer("_skipped_ids", torch.tensor(skipped_ids), persistent=False)

    def key_counts(self, texts: Texts) -> Int[Tensor, " text"] | None:
        """Returns how many tokens of each text, from its first, are attended to; None: all.

        Tokens that expand a query are attended to only if the contract says so.
        """
        if self.contract.attend_to_expansion or texts.role != "query":
            return None
        places = torch.arange(1, len(texts.tokens) + 1)
        last = (texts.tokens != self._filling_id) * places
        ends = torch.segment_reduce(last.double(), "max", lengths=texts.lengths).long()
        return (ends - texts.offsets[:-1]).clamp(min=0)

    def embed(
        self, hidden_states: Float[Tensor, "token width"], batch: MicroBatch
    ) -> Float[Tensor, "text length dimension"]:
        """Returns one vector of length 1 per token, in float32 or better.

        Padding, and tokens of documents that the contract skips, have zeros.
        """
        assert self.projection is not None
        vectors = functional.normalize(exact(self.projection(hidden_states)), dim=-1)
        if batch.texts.role != "query":
            is_skipped = torch.isin(batch.tokens, self.get_buffer("_skipped_ids"))
            vectors = vectors.masked_fill(is_skipped[:, None], 0.0)
        return batch.packing.pad(vectors)

    def vectors_per_text(self, role: Role, mean_tokens: float) -> float:
        """Returns the mean number of tokens, or the maximum length for expanded queries."""
        is_filled = role == "query" and self.contract.query_expansion
        return float(self.contract.query_max_length_tokens) if is_filled else mean_tokens

    def write_pipeline(self, folder: Path) -> None:
        """Writes the settings of PyLate."""
        assert self.projection is not None
        late_interaction_pipeline.write_late_interaction_pipeline(
            folder, self.contract, self.projection
        )


@dataclass(frozen=True, kw_only=True)
class LateInteractionSettings(ModelSettings):
    """The settings of a model with one vector per token.

    None means the value of the folder, or else the default.
    """

    projection_dimensions: int | None = None
    """The number of dimensions of a vector (default 128)."""
    query_marker: str | None = None
    """The token before every query, '' for none (default [unused0], if the vocabulary has it)."""
    document_marker: str | None = None
    """The token before every document, '' for none (default [unused1], as above)."""
    query_expansion: bool | None = None
    """Expand queries with mask tokens that count, too (default: if there is a mask token)."""
    attend_to_expansion: bool | None = None
    """Other tokens attend to these mask tokens (default false)."""
    skip_punctuation: bool | None = None
    """Punctuation in documents has no vector (default true)."""


def build_late_interaction_encoder(settings: LateInteractionSettings) -> LateInteractionEncoder:
    """Builds the encoder that the settings describe, in training mode.

    It starts from any backbone, a sentence-transformers model (without its pooling), or a
    late-interaction model in the layout of PyLate, sentence-transformers, Stanford or nearfar.
    Raises BadModel.
    """
    return build_for_training(FAMILY, settings)


def read_late_encoder(path_or_name: str) -> LateInteractionEncoder:
    """Reads the late-interaction model of a folder or name, in evaluation mode. Raises BadModel.

    Adapters are merged.
    """
    return read(FAMILY, path_or_name)


def _check_readable(folder: Path, layout: LateLayout) -> None:
    if layout.projection is None:
        raise BadModel(
            f"{folder} holds an encoder without the projection of a late-interaction model; train"
            " such a model from it with a recipe of kind colbert"
        )


def _with_adapter(
    layout: LateLayout, contract: LateInteractionContract | None, folder: Path
) -> LateLayout:
    contract = required_contract(folder, contract)
    check_links(folder)
    return layout.as_contract_says(
        contract,
        Projection.read(folder / LateInteractionEncoder.PROJECTION_FOLDER, "token_embeddings"),
    )


def _assemble(
    layout: LateLayout, settings: LateInteractionSettings, name: str, layers: tuple[int, ...] | None
) -> LateInteractionEncoder:
    backbone = LoadedBackbone(
        layout.backbone,
        layout.lower_case,
        settings.dropout,
        settings.lora is not None and settings.lora.quantize_4bit,
        settings.layers,
    )
    dimensions = settings.projection_dimensions
    if layout.projection is None:
        dimensions = dimensions or DIMENSIONS
    projection = backbone.projection(layout.projection, dimensions)
    assert projection is not None
    tokenizer = backbone.tokenizer
    tokenizer.padding_side = "right"  # PyLate puts the marker at the second place of the padded row
    contract = _contract(backbone, layout, settings, name, layers, projection.out_features)
    return LateInteractionEncoder(
        backbone.model, projection, contract, tokenizer, backbone.pristine_config
    )


def _contract(
    backbone: LoadedBackbone,
    layout: LateLayout,
    settings: LateInteractionSettings,
    name: str,
    layers: tuple[int, ...] | None,
    dimensions: int,
) -> LateInteractionContract:
    tokenizer = backbone.tokenizer
    has_markers = all(token_id(tokenizer, marker) is not None for marker in MARKERS)
    markers = MARKERS if has_markers else ("", "")
    query_markers = (settings.query_marker, layout.query_marker)
    document_markers = (settings.document_marker, layout.document_marker)
    lacks_markers = not has_markers and query_markers == document_markers == (None, None)
    skip_lists = {None: layout.skipped_tokens, True: tuple(string.punctuation), False: ()}
    return LateInteractionContract(
        **backbone.contract_fields(
            layout,
            settings,
            name,
            layers,
            prompts=PROMPTS if lacks_markers else ("", ""),
            lengths=(None, None) if layout.bounded_lengths else (QUERY_TOKENS, DOCUMENT_TOKENS),
        ),
        query_marker=first_given(*query_markers, markers[0]),
        document_marker=first_given(*document_markers, markers[1]),
        query_expansion=first_given(
            settings.query_expansion, layout.query_expansion, tokenizer.mask_token_id is not None
        ),
        attend_to_expansion=first_given(
            settings.attend_to_expansion, layout.attend_to_expansion, False
        ),
        skipped_tokens=tuple(
            word
            for word in first_given(
                skip_lists[settings.skip_punctuation], tuple(string.punctuation)
            )
            if _is_token(tokenizer, word)
        ),
        dimensions=dimensions,
    )


def _is_token(tokenizer: PreTrainedTokenizerBase, word: str) -> bool:
    """Returns true when the vocabulary holds the word; the unknown token does not count."""
    return token_id(tokenizer, word) not in (None, tokenizer.unk_token_id)


FAMILY = Family(
    model=LateInteractionEncoder,
    settings=LateInteractionSettings,
    contract=LateInteractionContract,
    recognizes=is_late_interaction,
    read_layout=read_late_layout,
    check_readable=_check_readable,
    with_adapter=_with_adapter,
    assemble=_assemble,
)
