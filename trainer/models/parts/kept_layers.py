"""Students with fewer layers: some layers of a backbone are kept, before its weights are loaded.

The configuration and the names of the weights are changed. So the result is an ordinary model with
fewer layers, which is saved and read like any other model.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from jaxtyping import Shaped
from torch import Tensor
from transformers import PretrainedConfig

from trainer.errors import BadModel

_LAYER_NUMBER = re.compile(r"^(.*?\.)(\d+)(\..*)$")


def kept_layers(wish: int | Sequence[int], layers: int) -> tuple[int, ...]:
    """Returns the numbers of the layers to keep, from 0.

    `wish` is a list of numbers, or how many evenly spaced layers to keep, with the first and last.
    Raises BadModel for numbers that do not exist, are repeated, or do not ascend.

    >>> kept_layers(3, 12), kept_layers([0, 5], 12)
    ((0, 6, 11), (0, 5))
    """
    if isinstance(wish, int):
        if wish > layers:
            raise BadModel(
                f"model.layers={wish}: the backbone has {layers} layers; give at most {layers}"
            )
        return tuple(int((layers - 1) * number / max(1, wish - 1) + 0.5) for number in range(wish))
    wrong = [number for number in wish if not 0 <= number < layers]
    if wrong:
        raise BadModel(
            f"model.layers names layer {wrong[0]}, but the backbone has layers 0 to {layers - 1}"
        )
    if not wish or list(wish) != sorted(set(wish)):
        raise BadModel(
            f"model.layers={list(wish)} must name at least one layer, each once and in ascending"
            f" order, e.g. [0, {layers - 1}]"
        )
    return tuple(wish)


def shorten(config: PretrainedConfig, layers: Sequence[int]) -> None:
    """Changes `config` to that of the model with these layers only."""
    old_count = config.num_hidden_layers
    for name in ("layer_types", "mlp_layer_types"):
        kinds = getattr(config, name, None)
        if isinstance(kinds, list | tuple) and len(kinds) == old_count:
            setattr(config, name, [kinds[layer] for layer in layers])
    config.num_hidden_layers = len(layers)


def renumber_layers(
    weights: Mapping[str, Shaped[Tensor, "..."]], layers: Sequence[int]
) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns the weights of the kept layers, numbered from 0, and those outside of layers.

    The first number in a name is that of the layer.

    >>> import torch
    >>> list(
    ...     renumber_layers(
    ...         {"layer.0.w": torch.ones(1), "layer.2.w": torch.ones(1), "norm.w": torch.ones(1)},
    ...         [2],
    ...     )
    ... )
    ['layer.0.w', 'norm.w']
    """
    places = {layer: place for place, layer in enumerate(layers)}
    kept_weights: dict[str, Tensor] = {}
    for name, value in weights.items():
        match = _LAYER_NUMBER.match(name)
        if match is None:
            kept_weights[name] = value
        elif int(match[2]) in places:
            kept_weights[f"{match[1]}{places[int(match[2])]}{match[3]}"] = value
    return kept_weights


def check_all_used(layers: Sequence[int], unused_names: Iterable[str]) -> None:
    """Raises BadModel when the first layer lacks a weight that the kept layer has.

    For example, ModernBERT's first layer has no norm before its attention, unlike the others.
    `unused_names` are the names of weights that were not loaded.
    """
    lost_names = sorted(
        name
        for name in unused_names
        if layers[0] != 0
        and name.endswith(".weight")
        and (match := _LAYER_NUMBER.match(name))
        and match[2] == "0"
    )
    if lost_names:
        raise BadModel(
            f"model.layers={list(layers)}: the first layer of this architecture is unlike the"
            f" others, and has no weight {lost_names[0].split('.0.', 1)[1]} as layer {layers[0]};"
            " keep layer 0 too"
        )
