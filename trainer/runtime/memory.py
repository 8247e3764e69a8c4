"""Computes how many tokens' activations fit into memory, from what they cost and free bytes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from pytorch_lightning.utilities.memory import is_oom_error
from torch import Tensor, nn

from trainer.batch import Texts
from trainer.kernels.freed_memory import release_freed_memory
from trainer.microbatches import Encode

MEMORY_SHARE = {"cpu": 1 / 16, "cuda": 0.85}
"""The share of the available memory for activations. On a CPU, the rest is for the recomputed
micro-batch, the loss and other programs; on a GPU, for the loss and temporary results.
"""
_BYTES_PER_TRAINED_WEIGHT = 16  # the gradient, two moments, and space for the update


@dataclass(frozen=True)
class ActivationCost:
    """The bytes of activations that the backward pass needs.

    >>> cost = ActivationCost(per_token=10.0, per_micro_batch=100.0)
    >>> cost.total(50, micro_batch_tokens=20), cost.fitting_tokens(800.0, micro_batch_tokens=20)
    (800.0, 53)
    >>> cost.largest_micro_batch(800.0)
    70
    """

    per_token: float
    per_micro_batch: float
    """Independent of tokens, such as copies of the weights that autocast makes."""

    def total(self, tokens: int, micro_batch_tokens: int) -> float:
        """Returns the bytes of that many tokens."""
        micro_batches = -(-tokens // micro_batch_tokens)
        return self.per_token * tokens + self.per_micro_batch * micro_batches

    def fitting_tokens(self, free_bytes: float, micro_batch_tokens: int) -> int:
        """Returns the number of tokens that fit into memory in full micro-batches."""
        token_bytes = self.per_token + self.per_micro_batch / micro_batch_tokens
        return max(0, int(free_bytes / token_bytes))

    def largest_micro_batch(self, free_bytes: float) -> int:
        """Returns the number of tokens of the largest micro-batch that fits into memory."""
        return max(0, int((free_bytes - self.per_micro_batch) / self.per_token))


def activation_cost(
    module: nn.Module,
    encode: Encode,
    length: int,
    tokens: int,
    make_texts: Callable[[int, int], Texts] = Texts.zeros,
) -> ActivationCost:
    """Returns the cost of texts of `length` tokens, from micro-batches of two sizes.

    `make_texts` returns a number of texts of a number of tokens.

    The larger one has about `tokens` tokens, at least one text, and the other half of them. Their
    difference is what tokens cost, and the rest is per micro-batch.
    """
    texts = tokens // (2 * length)
    sizes = [(texts, length), (2 * texts, length)] if texts else [(1, -(-length // 2)), (1, length)]
    small, large = (
        stored_bytes(module, encode, make_texts(count, length)) for count, length in sizes
    )
    small_tokens, large_tokens = (count * length for count, length in sizes)
    per_token = max(1.0, (large - small) / max(1, large_tokens - small_tokens))
    return ActivationCost(per_token, max(0.0, small - per_token * small_tokens))


def stored_bytes(module: nn.Module, encode: Encode, texts: Texts) -> int:
    """Returns the bytes that `encode(texts)` stores for the backward pass, without weights."""
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
    return sum(tensor.untyped_storage().nbytes() for tensor in activations.values())


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that memory could not be allocated, on a GPU or elsewhere."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or is_oom_error(error)


def available_bytes(device: torch.device, processes: int = 1) -> int:
    """Returns the free memory of a GPU, or the share of one process in the free CPU memory."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the allocator holds without need counts as free
        return torch.cuda.mem_get_info(device)[0]
    release_freed_memory()
    return min(_free_system_bytes(), _free_container_bytes()) // processes


def free_activation_bytes(module: nn.Module, processes: int = 1, ranks_per_copy: int = 1) -> float:
    """Returns the bytes for activations beside weights, gradients and optimizer state.

    All weights are in memory already. Later, `ranks_per_copy` ranks share one copy of them.
    """
    parameters = list(module.parameters())
    device = parameters[0].device
    weight_bytes = sum(parameter.nbytes for parameter in parameters)
    trained_weights = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    share = MEMORY_SHARE.get(device.type, MEMORY_SHARE["cpu"])
    later_bytes = available_bytes(device, processes) + weight_bytes * (1 - 1 / ranks_per_copy)
    return share * later_bytes - _BYTES_PER_TRAINED_WEIGHT * trained_weights / ranks_per_copy


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
