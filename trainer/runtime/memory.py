"""How much of a step's activations may be kept: what one padded token costs, and how much memory
there is.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.batch import Texts
from trainer.microbatches import Encode, give_back

SHARE = {"cpu": 1 / 16, "cuda": 0.5}
"""Of what is available; the rest is for the recomputed micro-batch, the loss, and what else lives
on the machine: on a CPU, other programs.
"""
_BYTES_PER_TRAINED_WEIGHT = 16  # gradient, two moments, and room for the update


def activation_bytes_per_token(module: nn.Module, encode: Encode, texts: Texts) -> float:
    """Bytes that the backward pass keeps of `encode(texts)`, weights apart, for each padded
    token.
    """
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        tensor = (
            tensor.detach()
        )  # with its graph, which holds this function, it would stay for good
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = (
                tensor  # held, so that no other tensor takes its place in memory
            )
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        encode(texts)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / (
        len(texts) * int(texts.lengths.max())
    )


def available_bytes(device: torch.device, processes: int = 1) -> int:
    """Memory that one of `processes` on this machine may still take: of the GPU, or its share of
    what the CPU has free.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_free_in_system(), _free_in_group()) // processes


def kept_tokens(module: nn.Module, encode: Encode, texts: Texts, processes: int = 1) -> int:
    """How many padded tokens' activations fit beside the weights, their gradients and the
    optimizer's state.
    """
    first = next(module.parameters())
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    share = SHARE.get(first.device.type, SHARE["cpu"])
    room = share * available_bytes(first.device, processes) - _BYTES_PER_TRAINED_WEIGHT * trained
    each = activation_bytes_per_token(module, encode, texts)
    give_back()
    return max(0, int(room / each))


def _free_in_system() -> int:
    info = Path("/proc/meminfo")
    if not info.exists():
        return 8 * 2**30  # no Linux: a laptop
    fields = dict(line.split(":", 1) for line in info.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def _free_in_group() -> int:
    """What the container's limit leaves, where there is one (control groups, version 2)."""
    try:
        limit, used = (
            Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current")
        )
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):
        return 2**63
