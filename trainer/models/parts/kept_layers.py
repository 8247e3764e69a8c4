"""A student of fewer layers: those of a backbone that are kept, chosen before its weights are
loaded.

The configuration and the names of the weights are changed, so what is loaded is an ordinary,
shallower model of its architecture: it is saved, and read by others, as any model is.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from jaxtyping import Shaped
from torch import Tensor
from transformers import PretrainedConfig

from trainer.errors import BadModel

_NUMBERED = re.compile(r"^(.*?\.)(\d+)(\..*)$")


def kept_layers(wish: int | Sequence[int], layers: int) -> tuple[int, ...]:
    """The numbers of the layers to keep, from 0: those named, or so many evenly spaced ones, the
    first and the last among them.

    Raises BadModel for numbers that are not there, twice there, or not in order.

    >>> kept_layers(3, 12), kept_layers([0, 5], 12)
    ((0, 6, 11), (0, 5))
    """
    if isinstance(wish, int):
        if wish > layers:
            raise BadModel(
                f"model.layers={wish}: the backbone has {layers} layers; ask for at most so many"
            )
        return tuple(int((layers - 1) * number / max(1, wish - 1) + 0.5) for number in range(wish))
    wrong = [number for number in wish if not 0 <= number < layers]
    if wrong:
        raise BadModel(
            f"model.layers names layer {wrong[0]}, and the backbone has layers 0 to {layers - 1}"
        )
    if not wish or list(wish) != sorted(set(wish)):
        raise BadModel(
            f"model.layers={list(wish)} must name at least one layer, each once and in rising"
            f" order, e.g. [0, {layers - 1}]"
        )
    return tuple(wish)


def shorten(config: PretrainedConfig, layers: Sequence[int]) -> None:
    """Makes `config` that of the model with these layers only."""
    before = config.num_hidden_layers
    for name in ("layer_types", "mlp_layer_types"):
        kinds = getattr(config, name, None)
        if isinstance(kinds, list | tuple) and len(kinds) == before:
            setattr(config, name, [kinds[layer] for layer in layers])
    config.num_hidden_layers = len(layers)


def renumbered(
    weights: Mapping[str, Shaped[Tensor, "..."]], layers: Sequence[int]
) -> dict[str, Shaped[Tensor, "..."]]:
    """The weights without those of other layers, the kept ones numbered from 0: the first number in
    a name is its layer's.

    >>> import torch
    >>> list(
    ...     renumbered(
    ...         {"layer.0.w": torch.ones(1), "layer.2.w": torch.ones(1), "norm.w": torch.ones(1)},
    ...         [2],
    ...     )
    ... )
    ['layer.0.w', 'norm.w']
    """
    places = {layer: place for place, layer in enumerate(layers)}
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        match = _NUMBERED.match(name)
        if match is None:
            found[name] = value
        elif int(match[2]) in places:
            found[f"{match[1]}{places[int(match[2])]}{match[3]}"] = value
    return found


def check_all_used(layers: Sequence[int], unused: Iterable[str]) -> None:
    """Raises BadModel where the first layer has no place for weights of the layer that is put
    there; `unused` are the names of weights left over.

    ModernBERT's first layer is such a one: it has no norm before its attention, and each of the
    others has.
    """
    lost = sorted(
        name
        for name in unused
        if layers[0] != 0
        and name.endswith(".weight")
        and (match := _NUMBERED.match(name))
        and match[2] == "0"
    )
    if lost:
        raise BadModel(
            f"model.layers={list(layers)}: the first layer of this architecture is unlike the"
            f" others, and has no place for {lost[0].split('.0.', 1)[1]} of layer {layers[0]}; keep"
            " layer 0 too"
        )
