"""Reads the settings in a model folder: pooling, normalisation, projection, prompts, lengths.

Folders may be of Hugging Face, sentence-transformers or nearfar. Module types are only compared;
nothing is imported by name.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from trainer.errors import BadModel
from trainer.models.contracts.dense import DenseContract, PoolingKind
from trainer.models.files.vetting import inside, read_json, read_json_list
from trainer.models.formats.layout import TEXT_FIELDS, FolderLayout

AnyLayout = TypeVar("AnyLayout", bound=FolderLayout)
_TYPE = re.compile(
    r"sentence_transformers(\.[a-z_]+)+\.(Transformer|Pooling|Dense|Normalize|StaticEmbedding)"
)
_CLASSIC = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
KINDS: dict[str, PoolingKind] = {
    "mean": "mean",
    "cls": "cls",
    "lasttoken": "last_token",
    "weightedmean": "weighted_mean",
}
"""The names of poolings in sentence-transformers, and ours."""


@dataclass(frozen=True, slots=True)
class DenseLayout(FolderLayout):
    """The settings in the folder of a model with one vector per text."""

    is_pipeline: bool = False
    pooling: PoolingKind | None = None
    include_prompt: bool = True
    normalize: bool | None = None
    projection: Path | None = None
    similarity: Literal["cosine", "dot"] | None = None
    is_static: bool = False
    """`backbone` holds a table of token vectors (`trainer.models.static`)."""

    def as_contract_says(self, contract: DenseContract) -> Self:
        """Returns the layout with the settings of `contract`."""
        fields = contract.model_dump(
            include={*TEXT_FIELDS, "pooling", "include_prompt", "normalize", "similarity"}
        )
        return replace(self, contract=contract, **fields)


def read_layout(folder: Path) -> DenseLayout:
    """Reads the settings in `folder`.

    Raises BadModel for a pipeline other than transformer, pooling, one dense layer, normalisation.
    """
    if not (folder / "modules.json").exists():
        return DenseLayout(folder)
    contract = DenseContract.read(folder)  # first: it names a model of another kind as such
    parts = _parts(folder)
    if "StaticEmbedding" in parts:
        layout = DenseLayout(
            parts["StaticEmbedding"],
            is_pipeline=True,
            pooling="mean",
            normalize="Normalize" in parts,
            projection=parts.get("Dense"),
            is_static=True,
        )
    else:
        pooling = read_json(parts["Pooling"], "config.json")
        layout = with_lengths(
            DenseLayout(
                backbone=parts["Transformer"],
                is_pipeline=True,
                pooling=_pooling(parts["Pooling"], pooling),
                include_prompt=pooling.get("include_prompt", True) is not False,
                normalize="Normalize" in parts,
                projection=parts.get("Dense"),
            )
        )
    if contract is None:
        return _with_prompts(layout, folder)
    _check_agrees(layout, contract, folder)
    return layout.as_contract_says(contract)


def _parts(folder: Path) -> dict[str, Path]:
    """Returns the folder of each kind of module, in the order of the pipeline."""
    parts: dict[str, Path] = {}
    for entry in read_json_list(folder, "modules.json"):
        name, place = (
            (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
        )
        match = _TYPE.fullmatch(name) if isinstance(name, str) else None
        if match is None or not isinstance(place, str):
            raise BadModel(
                f"{folder / 'modules.json'}: module {str(name)[:100]!r} is none of Transformer,"
                " Pooling, StaticEmbedding, Dense and Normalize"
            )
        if match[2] in parts:
            raise BadModel(
                f"{folder / 'modules.json'}: more than one {match[2]} module; only one of each kind"
                " is read"
            )
        parts[match[2]] = inside(folder, place) if place else folder
    order = [
        kind
        for kind in ("Transformer", "Pooling", "StaticEmbedding", "Dense", "Normalize")
        if kind in parts
    ]
    if list(parts) != order or (
        "StaticEmbedding" not in order[:1]
        and (order[:2] != ["Transformer", "Pooling"] or "StaticEmbedding" in order)
    ):
        raise BadModel(
            f"{folder / 'modules.json'}: {', '.join(parts) or 'no module'}; what is read is"
            " Transformer, Pooling, then Dense and Normalize; or StaticEmbedding, then those"
        )
    return parts


def _pooling(folder: Path, config: dict[str, Any]) -> PoolingKind:
    classic_modes = [mode for key, mode in _CLASSIC.items() if config.get(key)]
    setting = config.get("pooling_mode") or classic_modes or ["mean"]
    modes = [*map(str, setting if isinstance(setting, list) else [setting])]
    if len(modes) != 1 or modes[0] not in KINDS:
        raise BadModel(
            f"{folder / 'config.json'}: pooling {'+'.join(modes)[:80]} is not one of"
            f" {', '.join(KINDS)}"
        )
    return KINDS[modes[0]]


def with_lengths(layout: AnyLayout) -> AnyLayout:
    """Adds the maximum length, and whether texts are lower-cased, if the folder has them."""
    if not (layout.backbone / "sentence_bert_config.json").exists():
        return layout
    config = read_json(layout.backbone, "sentence_bert_config.json")
    longest = config.get("max_seq_length")
    longest = longest if type(longest) is int and longest > 0 else None
    lower_case = config.get("do_lower_case") is True
    return replace(
        layout,
        query_max_length_tokens=longest,
        document_max_length_tokens=longest,
        lower_case=lower_case,
    )


def pipeline_settings(folder: Path) -> dict[str, Any]:
    """Returns the settings of a pipeline, or nothing if the folder has none."""
    has_settings = (folder / "config_sentence_transformers.json").exists()
    return read_json(folder, "config_sentence_transformers.json") if has_settings else {}


def stored_prompts(config: dict[str, Any], folder: Path) -> tuple[str | None, str | None]:
    """Returns the prompts of queries and documents in the settings of a pipeline, by the names of
    sentence-transformers, or the default prompt. Raises BadModel.
    """
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(
        isinstance(prompt, str) for prompt in prompts.values()
    ):
        raise BadModel(
            f"{folder / 'config_sentence_transformers.json'}: `prompts` must be names with texts"
        )
    default = prompts.get(config.get("default_prompt_name"))
    document_names = (name for name in ("document", "passage", "corpus") if name in prompts)
    return prompts.get("query", default), prompts.get(next(document_names, None), default)


def _with_prompts(layout: DenseLayout, folder: Path) -> DenseLayout:
    """Adds the prompts and the similarity."""
    config = pipeline_settings(folder)
    query_prompt, document_prompt = stored_prompts(config, folder)
    is_dot = config.get("similarity_fn_name") in ("dot", "dot_product")
    return replace(
        layout,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        similarity="dot" if is_dot else "cosine",
    )


def _check_agrees(layout: DenseLayout, contract: DenseContract, folder: Path) -> None:
    """Raises BadModel when the files for other libraries contradict the contract."""
    for key in ("pooling", "normalize", "include_prompt"):
        if getattr(layout, key) != getattr(contract, key):
            raise BadModel(
                f"{folder}: nearfar.json says {key} = {getattr(contract, key)}, the pipeline"
                f" {getattr(layout, key)}; one of them was changed by hand"
            )
