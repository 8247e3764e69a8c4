"""Computes how many tokens' activations fit into memory, from bytes per token and free bytes."""

from pathlib import Path

import torch
from pytorch_lightning.utilities.memory import is_oom_error
from torch import Tensor, nn

from trainer.batch import Texts
from trainer.microbatches import Encode, release_freed_memory

MEMORY_SHARE = {"cpu": 1 / 16, "cuda": 0.5}
"""The share of the available memory for kept activations. The rest is for the recomputed
micro-batch, the loss and, on a CPU, other programs.
"""
_BYTES_PER_TRAINED_WEIGHT = 16  # the gradient, two moments, and space for the update


def activation_bytes_per_token(module: nn.Module, encode: Encode, texts: Texts) -> float:
    """Returns the bytes per padded token that `encode(texts)` stores for the backward pass, without
    weights.
    """
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    activations: dict[int, Tensor] = {}

    def store(tensor: Tensor) -> Tensor:
        # The graph of the tensor refers to this function. If the graph were stored, neither would
        # be freed.
        tensor = tensor.detach()
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            activations[address] = tensor  # keeps the memory, so that addresses stay distinct
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(store, lambda tensor: tensor):
        encode(texts)
    stored_bytes = sum(tensor.untyped_storage().nbytes() for tensor in activations.values())
    return stored_bytes / (len(texts) * int(texts.lengths.max()))


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that memory could not be allocated, on a GPU or elsewhere."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or is_oom_error(error)


def available_bytes(device: torch.device, processes: int = 1) -> int:
    """Returns the free memory of a GPU, or the share of one process in the free CPU memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_free_system_bytes(), _free_container_bytes()) // processes


def kept_tokens(module: nn.Module, encode: Encode, texts: Texts, processes: int = 1) -> int:
    """Returns the number of padded tokens whose activations fit into memory beside weights,
    gradients and optimizer state.
    """
    device = next(module.parameters()).device
    trained_weights = sum(
        parameter.numel() for parameter in module.parameters() if parameter.requires_grad
    )
    share = MEMORY_SHARE.get(device.type, MEMORY_SHARE["cpu"])
    free_bytes = (
        share * available_bytes(device, processes) - _BYTES_PER_TRAINED_WEIGHT * trained_weights
    )
    token_bytes = activation_bytes_per_token(module, encode, texts)
    release_freed_memory()
    return max(0, int(free_bytes / token_bytes))


def _free_system_bytes() -> int:
    info = Path("/proc/meminfo")
    if not info.exists():
        return 8 * 2**30  # an assumption for systems other than Linux, such as a laptop
    fields = dict(line.split(":", 1) for line in info.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def _free_container_bytes() -> int:
    """Returns the free bytes within a container's memory limit (control groups, version 2).

    Without a limit it is a huge number.
    """
    try:
        limit, current = (
            Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current")
        )
        return max(0, int(limit) - int(current))
    except (OSError, ValueError):
        return 2**63
