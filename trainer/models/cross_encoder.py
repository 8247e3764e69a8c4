"""One score a pair: a transformer that reads query and document together (Nogueira & Cho 2019)."""

import inspect
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from trainer.batch import Texts
from trainer.errors import BadModel
from trainer.models.contract import CrossContract, Role
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
from trainer.models.parts import lora as adapters
from trainer.models.parts.classifier import (
    is_cross_encoder,
    load_classifier,
    one_score,
    whole_modules,
)
from trainer.models.tokenizers import texts as tokenization
from trainer.models.tokenizers.pairs import PairTokenizer, pair_tokenizer
from trainer.recipe import schema as recipe
from trainer.scores import exact

WISHES = (
    "query_prompt",
    "document_prompt",
    "query_max_length_tokens",
    "document_max_length_tokens",
)
"""What a recipe may say otherwise than the folder; the contract has fields of the same names."""


class CrossEncoder(Encoder):
    """(Query, document) pairs to one score each, any real number: the higher, the better the
    document answers the query.
    """

    def __init__(
        self,
        backbone: nn.Module,
        contract: CrossContract,
        tokenizer: PreTrainedTokenizerBase,
        pristine_config: PretrainedConfig,
        fresh_head: bool,
    ) -> None:
        roles: dict[Role, tokenization.RoleTokenizer] = {
            role: tokenization.role_tokenizer(
                tokenizer, contract.prompt(role), contract.max_length_tokens(role)
            )
            for role in ("query", "document")
        }
        super().__init__(backbone, None, tokenizer, roles, pristine_config)
        self.contract: CrossContract = contract
        self.fresh_head = fresh_head
        """Whether the head was drawn at random when the model was loaded, so that its scores mean
        nothing until it is trained.
        """
        self._pairs = self.pairs_of(contract.document_max_length_tokens)
        takes = inspect.signature(backbone.forward).parameters
        self._takes_types = (
            "token_type_ids" in takes and "token_type_ids" in tokenizer.model_input_names
        )
        self._heads = whole_modules(backbone)  # type: ignore[arg-type]

    def pairs_of(self, max_length_tokens: int) -> PairTokenizer:
        """How pairs are made where they may be so long."""
        said = self.contract
        return pair_tokenizer(
            self.tokenizer,
            said.query_prompt,
            said.document_prompt,
            said.query_max_length_tokens,
            max_length_tokens,
        )

    def tokenize_pairs(self, queries: Sequence[str], documents: Sequence[str]) -> Texts:
        """Tokens of pair i, of query i and document i. May be called from any thread."""
        return self._pairs.tokenize(queries, documents)

    def forward(self, texts: Texts) -> Float[Tensor, " text"]:
        """One score a pair, in float32 or better also under autocast; the same whatever else is in
        `texts`.
        """
        ids, real = (padded.to(self.device) for padded in texts.padded())
        inputs = {"input_ids": ids}
        if ids.numel() != texts.tokens.numel():
            inputs["attention_mask"] = real.long()
        if self._takes_types and texts.second is not None:
            place = torch.arange(ids.shape[1], device=self.device)
            inputs["token_type_ids"] = (
                (place >= texts.second.to(self.device)[:, None]) & real
            ).long()
        return exact(self.backbone(**inputs).logits.squeeze(-1))

    def whole_modules(self) -> tuple[str, ...]:
        """The head and what lies between it and the transformer."""
        return self._heads

    def is_head(self, name: str) -> bool:
        """Whether the parameter of this name is the head's."""
        name = name.removeprefix("backbone.").removeprefix("base_model.model.")
        return any(name.startswith(f"{head}.") for head in self._heads)


def load_cross_encoder(model: recipe.Model) -> CrossEncoder:
    """The cross-encoder a recipe describes, in training mode, with a fresh adapter where LoRA is
    asked for; the head is trained whole.

    Starts from any encoder (the head is new then, drawn from torch's generator) or from a
    cross-encoder of one score. Raises BadModel.
    """
    folder = locate(model.backbone)
    said = CrossContract.read(folder) if is_cross_encoder(folder) else None
    return for_training(_assemble(folder, said, public_name(model.backbone), model), model)


def read_cross_encoder(path_or_name: str) -> CrossEncoder:
    """The cross-encoder in a folder, or of a name, for use: adapters merged, in evaluation mode.

    Reads our folders, sentence-transformers', plain Hugging Face sequence classifiers of one label,
    and an adapter of ours. Raises BadModel.
    """
    folder = locate(path_or_name)
    if (folder / adapters.CONFIG).exists() and not (folder / "config.json").exists():
        return _read_adapter(folder)
    if not is_cross_encoder(folder):
        raise BadModel(
            f"{folder} is no cross-encoder: it gives vectors and cannot score a query and a"
            " document together. Give a cross-encoder, such as one that `nearfar fit"
            " recipes/cross-encoder.yaml` has trained"
        )
    contract = CrossContract.read(folder)
    encoder = _assemble(
        folder, contract, contract.backbone if contract is not None else public_name(path_or_name)
    )
    check_contract(folder, contract, encoder.contract)
    return encoder.eval()


def _read_adapter(folder: Path) -> CrossEncoder:
    """The base model that the adapter names, with the head beside the adapter, and the adapter
    merged in.
    """
    contract = CrossContract.read(folder)
    if contract is None:
        raise BadModel(
            f"{folder} has no nearfar.json, so how its model joins and cuts pairs is not known;"
            " take the merged folder above it"
        )
    base = adapters.adapter_base(folder, with_head=True)
    encoder = _assemble(locate_public(base), contract, base)
    check_contract(folder, contract, encoder.contract)
    encoder.backbone = adapters.merge_adapter(encoder.backbone, folder)  # type: ignore[arg-type]
    encoder.fresh_head = False
    return encoder.eval()


def _assemble(
    folder: Path, said: CrossContract | None, name: str, model: recipe.Model | None = None
) -> CrossEncoder:
    """A cross-encoder from what the folder says; what the recipe says wins over it."""
    wishes = {} if model is None else model.model_dump(include=set(WISHES))
    dropout, four_bits = (None, False) if model is None else (model.dropout, quantized(model))
    base = Base(folder, dropout=dropout, quantize_4bit=four_bits, load=load_classifier)
    one_score(base.pristine_config)
    for config in (base.model.config, base.pristine_config):
        if config.pad_token_id is None:  # decoders find a text's last token by it
            config.pad_token_id = base.tokenizer.pad_token_id
    pair = base.length(
        wishes.get("document_max_length_tokens"), said.document_max_length_tokens if said else None
    )
    contract = CrossContract(
        backbone=name,
        query_prompt=first(wishes.get("query_prompt"), said.query_prompt if said else None, ""),
        document_prompt=first(
            wishes.get("document_prompt"), said.document_prompt if said else None, ""
        ),
        query_max_length_tokens=min(
            base.length(
                wishes.get("query_max_length_tokens"),
                said.query_max_length_tokens if said else None,
                pair,
            ),
            pair,
        ),
        document_max_length_tokens=pair,
        dimensions=1,
        tokenizer_fingerprint=tokenization.fingerprint(base.tokenizer),
    )
    base.tokenizer.model_max_length = pair
    return CrossEncoder(
        base.model,
        contract,
        base.tokenizer,
        base.pristine_config,
        fresh_head=not is_cross_encoder(folder),
    )
