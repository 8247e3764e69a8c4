"""Counts what one rank does in a step: its collectives with their bytes, and its memory."""

import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

KINDS = {
    "_allgather_base_": "gather",
    "allgather_": "gather",
    "_reduce_scatter_base_": "scatter",
    "allreduce_": "sum",
    "broadcast_": "broadcast",
    "barrier": "barrier",
}


@dataclass(frozen=True)
class Kind:
    """Collectives of one kind, among groups of one size."""

    name: str
    group: int
    is_control: bool
    """Whether they are agreements through `Control.group`, of a few numbers in main memory."""

    def sent(self, size: int) -> float:
        """The bytes that a rank sends in a ring for tensors of `size` bytes, counted where they are
        whole: once around for a gather or scatter, twice for a sum.
        """
        turns = {"gather": 1, "scatter": 1, "sum": 2}.get(self.name, 0)
        return turns * size * (self.group - 1) / self.group


class Ledger(TorchDispatchMode):
    """Within the block, counts collectives, also those of backward passes, and follows the memory
    of all tensors that are created there.
    """

    def __init__(self, control: "distributed.ProcessGroup | None" = None) -> None:
        super().__init__()
        self.calls: Counter[Kind] = Counter()
        self.bytes: Counter[Kind] = Counter()
        self.peak_bytes = 0
        self._control = control
        self._sizes: dict[int, int] = {}

    def sent(self) -> float:
        """The bytes that this rank sends, agreements left out."""
        return sum(kind.sent(size) for kind, size in self.bytes.items() if not kind.is_control)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "c10d":
            self._count(KINDS[func._schema.name.removeprefix("c10d::")], args)
        result = func(*args, **(kwargs or {}))
        self._follow(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result

    def _count(self, name: str, arguments: tuple[Any, ...]) -> None:
        group = next(group for group in map(_process_group, arguments) if group is not None)
        is_control = self._control is not None and group.group_name == self._control.group_name
        kind = Kind(name, group.size(), is_control)
        sides = [tree_leaves(argument) for argument in arguments[:2]]
        self.calls[kind] += 1
        self.bytes[kind] += max(
            sum(leaf.nbytes for leaf in side if isinstance(leaf, Tensor)) for side in sides
        )

    def _follow(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._sizes:
                self._sizes[key] = storage.nbytes()
                weakref.finalize(storage, self._sizes.pop, key, None)
        self.peak_bytes = max(self.peak_bytes, sum(self._sizes.values()))


def _process_group(argument: Any) -> "distributed.ProcessGroup | None":
    if not isinstance(argument, torch.ScriptObject):
        return None
    try:
        return distributed.ProcessGroup.unbox(argument)
    except RuntimeError:  # an operation, such as the sum
        return None
