"""The order of samples: a pure function of (seed, epoch, step). There is no state to save and none to lose."""

import numpy as np
from jaxtyping import Int, UInt64

_ROUNDS = 6


def _mixed(values: UInt64[np.ndarray, " value"], key: int) -> UInt64[np.ndarray, " value"]:
    """Each value well mixed with the key (the finaliser of SplitMix64, Steele et al. 2014)."""
    mixed = values + np.uint64((key * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def permuted(positions: Int[np.ndarray, " position"], size: int, key: int) -> Int[np.ndarray, " position"]:
    """Where each position of `range(size)` goes in the permutation that `key` names, without building the permutation.

    A Feistel network over the smallest even number of bits that holds `size`, walked until the value is below it (Black and
    Rogaway 2002): every position can be asked for alone, on any rank.

    >>> sorted(permuted(np.arange(10), 10, key=7).tolist()) == list(range(10))
    True
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    values = positions.astype(np.uint64)
    outside = np.ones(len(values), bool)
    while outside.any():
        left, right = values[outside] >> half, values[outside] & mask
        for round_number in range(_ROUNDS):
            left, right = right, left ^ (_mixed(right, key * _ROUNDS + round_number) & mask)
        values[outside] = (left << half) | right
        outside = values >= np.uint64(size)
    return values.astype(np.int64)


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Whole batches in one pass; the samples that fill no batch are left out of this pass and take part in others."""
    return samples // batch_size


def batch_samples(seed: int, step: int, samples: int, batch_size: int) -> Int[np.ndarray, " sample"]:
    """The sample numbers of the global batch of optimizer step `step`, counted from 0 over all epochs.

    >>> one_epoch = np.concatenate([batch_samples(0, step, samples=6, batch_size=2) for step in range(3)])
    >>> sorted(one_epoch.tolist())
    [0, 1, 2, 3, 4, 5]
    """
    epoch, step_in_epoch = divmod(step, steps_per_epoch(samples, batch_size))
    positions = np.arange(step_in_epoch * batch_size, (step_in_epoch + 1) * batch_size)
    return permuted(positions, samples, key=(seed << 20) + epoch)
