"""The trained weights in groups of layers, whose gradient norms the log shows."""

import re
from collections.abc import Callable

from torch import nn

LAYER_GROUPS = ("lower_layers", "middle_layers", "upper_layers")
_NUMBER = re.compile(r"\.(\d+)\.")


def layer_groups(
    module: nn.Module, is_head: Callable[[str], bool]
) -> dict[str, list[nn.Parameter]]:
    """Returns the trained weights of a `Retriever` by group; groups without any are left out.

    They are the embeddings, each third of the layers, the heads and the temperature. The number of
    a layer is the first number in the name of its weights.
    """
    names = [name for name, weight in module.named_parameters() if weight.requires_grad]
    numbers = {name: int(match[1]) for name in names if (match := _NUMBER.search(name))}
    layers = 1 + max(numbers.values(), default=0)
    groups: dict[str, list[nn.Parameter]] = {}
    for name in names:
        part, _, inner_name = name.partition(".")
        if part != "encoder":
            group = part  # the temperature, or the head
        elif is_head(inner_name):
            group = "head"
        elif name in numbers:
            group = LAYER_GROUPS[numbers[name] * len(LAYER_GROUPS) // layers]
        else:
            group = "embeddings" if "embed" in name else "other"
        groups.setdefault(group, []).append(module.get_parameter(name))
    return groups
