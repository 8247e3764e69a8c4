"""The embedding models that mteb knows, with what it knows of them. It asks no network."""

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from trainer.errors import BadRecipe
from trainer.evaluation.mteb.model import import_mteb

_MILLION = 1_000_000


@dataclass(frozen=True)
class ModelQuery:
    """Which models of the catalogue are wanted. None and () exclude nothing."""

    max_parameters_millions: int | None = None
    licences: tuple[str, ...] = ()
    """For example apache-2.0 and mit."""
    languages: tuple[str, ...] = ()
    """All of them are needed: eng, or with the script eng-Latn."""
    least_max_tokens: int | None = None
    """The number of tokens that a model must be able to read."""
    not_trained_on: tuple[str, ...] = ()
    """Names of mteb's tasks."""
    count: int = 5
    """The number of models: those with the most parameters."""


@dataclass(frozen=True)
class CatalogueModel:
    """A model of the catalogue."""

    name: str
    parameters: int
    trained_on: tuple[str, ...]
    """Names of mteb's tasks."""


def find_models(query: ModelQuery) -> list[CatalogueModel]:
    """Returns dense text models with open weights that fit a query, the largest first.

    Models whose size is unknown are left out. Raises BadRecipe without mteb, or if none fits.
    """
    metas = import_mteb().get_model_metas(
        open_weights=True,
        model_types=["dense"],
        modalities=["text"],
        exclusive_modality_filter=True,
    )
    models = [_catalogue_model(meta) for meta in metas if meta.n_parameters and _fits(meta, query)]
    if not models:
        raise BadRecipe(
            f"none of the {len(metas):,} dense models of mteb's catalogue fits {query}; ask for"
            " less"
        )
    models.sort(key=lambda model: (-model.parameters, model.name))
    return models[: query.count]


def training_data(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Returns what the catalogue says models were trained on; nothing without mteb, or for models
    that it does not know.
    """
    if importlib.util.find_spec("mteb") is None:
        return {}
    wanted_names = set(names)
    metas = import_mteb().get_model_metas()
    return {
        model.name: model.trained_on
        for model in map(_catalogue_model, metas)
        if model.name in wanted_names and model.trained_on
    }


def _catalogue_model(meta: Any) -> CatalogueModel:
    tasks = tuple(sorted(meta.training_datasets or ()))
    return CatalogueModel(str(meta.name), int(meta.n_parameters or 0), tasks)


def _fits(meta: Any, query: ModelQuery) -> bool:
    max_millions, min_tokens = query.max_parameters_millions, query.least_max_tokens
    languages = {part for language in meta.languages or () for part in (language, language[:3])}
    return (
        (max_millions is None or meta.n_parameters <= max_millions * _MILLION)
        and (not query.licences or str(meta.license) in query.licences)
        and languages.issuperset(query.languages)
        and (min_tokens is None or (meta.max_tokens or 0) >= min_tokens)
        and not set(query.not_trained_on).intersection(meta.training_datasets or ())
    )
