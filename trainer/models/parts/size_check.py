"""Compares a configuration with the headers of the weights, before a model is built from either."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from trainer.errors import BadModel
from trainer.models.files.vetting import check_safetensors, weight_files

LARGEST_COUNT = 1_000
"""More layers or experts than any model has. Each is an object of Python, which takes time."""
_REPEATED_PART = re.compile(r"(?:^|_)(?:layers?|experts|blocks|groups|stages|depths?)$")
_NEVER_NEGATIVE = re.compile(r"num_.*|max_position_embeddings")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_MOST_MISSING_RATIO = 0.5
"""The largest share of a model that its files may lack, e.g. a new head on tiny embeddings."""


def check_counts(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises BadModel if a configuration, as it is in the file, has absurdly many layers, or less
    than none of something.
    """
    for key, value in config.items():
        if isinstance(value, Mapping):
            check_counts(folder, value)
        elif not isinstance(value, int | float):
            continue
        elif _NEVER_NEGATIVE.fullmatch(key) and value < 0:
            raise BadModel(
                f"{folder / 'config.json'}: {key} is {value:,}, and a count is not negative; the"
                " file is damaged"
            )
        elif _REPEATED_PART.search(key) and value > LARGEST_COUNT:
            raise BadModel(
                f"{folder / 'config.json'}: {key} is {value:,}, and at most {LARGEST_COUNT:,} is"
                " possible; the file is damaged or hostile"
            )


def check_sizes(folder: Path, config: PretrainedConfig, model_class: Any) -> None:
    """Raises BadModel unless the weights in `folder` have the shapes of this configuration.

    Only headers are read, and the model is described without memory for its weights.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        shapes |= check_safetensors(path)
    layers = getattr(config, "num_hidden_layers", 1)
    if not 1 <= layers <= len(shapes):
        raise _contradiction(folder, f"{layers:,} layers", f"{len(shapes):,} tensors in all")
    try:
        with torch.device("meta"):
            model: nn.Module = model_class(config)
    except (
        RuntimeError,
        ValueError,
        TypeError,
        ArithmeticError,
        LookupError,  # the name of an activation or of position embeddings
        MemoryError,
        AssertionError,
    ) as error:
        raise BadModel(
            f"{folder / 'config.json'} describes no possible {config.model_type} model:"
            f" {str(error).strip()[:200]}"
        ) from error
    parameters = {name: tuple(value.shape) for name, value in model.named_parameters()}
    _check_shapes(folder, parameters, shapes, model_class)
    weights, weights_in_files = (sum(map(math.prod, s.values())) for s in (parameters, shapes))
    if weights > weights_in_files / _MOST_MISSING_RATIO:
        raise _contradiction(folder, f"{weights:,} weights", f"{weights_in_files:,}")


def _check_shapes(
    folder: Path,
    parameters: Mapping[str, tuple[int, ...]],
    shapes: Mapping[str, tuple[int, ...]],
    model_class: Any,
) -> None:
    """Raises BadModel if a weight in a file has another shape, or belongs to a layer too many."""
    prefix = f"{model_class.base_model_prefix}."
    model_shapes = {name.removeprefix(prefix): shape for name, shape in parameters.items()}
    stems = {_NUMBER.sub("N", name) for name in model_shapes}
    ignore_pattern = re.compile("|".join(model_class._keys_to_ignore_on_load_unexpected or ["$^"]))
    for name, shape in shapes.items():
        plain_name = name.removeprefix(prefix)
        if plain_name not in model_shapes:
            if _NUMBER.sub("N", plain_name) in stems and not ignore_pattern.search(name):
                raise _contradiction(folder, f"no {name}", "it")
        elif shape != model_shapes[plain_name]:
            raise _contradiction(
                folder, f"{name} of shape {model_shapes[plain_name]}", f"shape {shape}"
            )


def _contradiction(folder: Path, configuration: str, content: str) -> BadModel:
    return BadModel(
        f"{folder}: config.json describes {configuration}, its files have {content}; they do not"
        " belong together: download both again"
    )
