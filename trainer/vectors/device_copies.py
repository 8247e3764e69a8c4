"""Copies of document vectors on a device, which stay there between searches where there is room."""

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from trainer.batch import to_device

_FREE_RATIO = 0.25
"""The share of a GPU's memory that copies leave free."""


@dataclass
class DeviceCopies:
    """The copies of parts of some vectors. They are freed together with the vectors."""

    _copies: dict[Hashable, Tensor] = field(default_factory=dict)

    def get(
        self, part: slice, rows: Shaped[np.ndarray, "row ..."], device: torch.device
    ) -> Shaped[Tensor, "part ..."]:
        """Returns a copy of `rows[part]`, which must always be of the same array."""
        key = (part.start, part.stop, device)
        if key in self._copies:
            return self._copies[key]
        copy = upload(rows[part], device)
        if has_room(device):
            self._copies[key] = copy
        return copy


def upload(values: Shaped[np.ndarray, "*axis"], device: torch.device) -> Shaped[Tensor, "*axis"]:
    """Returns a copy on the device. The host does not wait for it."""
    return to_device(torch.from_numpy(np.ascontiguousarray(values)), device)


def has_room(device: torch.device) -> bool:
    """Returns true when the copies on this device may grow."""
    if device.type != "cuda":
        return False
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return free_bytes > _FREE_RATIO * total_bytes
