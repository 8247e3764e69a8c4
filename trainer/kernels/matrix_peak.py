"""The speed of matrix products on a device: what a step could reach at most."""

import time

import torch

from trainer.kernels.matmul import linear

_SIDES = {"cuda": 8192}
_CPU_SIDE = 768
_TRIES = 3


@torch.no_grad()
def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Returns the operations per second of large square matrix products on this device.

    It is the best of three tries, measured now. The other processes of the machine measure at the
    same time, so they share its processors as in a step.
    """
    side = _SIDES.get(device.type, _CPU_SIDE)
    factor = torch.ones(side, side, dtype=dtype, device=device)
    linear(factor, factor)
    seconds = []
    for _ in range(_TRIES):
        _wait_for(device)
        start = time.perf_counter()
        linear(factor, factor)
        _wait_for(device)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
