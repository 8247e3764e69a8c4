"""The order of samples: a pure function of (seed, step). There is no state to save or to lose."""

import numpy as np
from jaxtyping import Int, UInt64

from trainer.errors import BadRecipe

_ROUNDS = 6
_GOLDEN = 0x9E3779B97F4A7C15


def hash_numbers(
    numbers: UInt64[np.ndarray, " number"], key: int = 0
) -> UInt64[np.ndarray, " number"]:
    """Pseudo-random 64 bits for each number and the key: number `key` of the stream that SplitMix64
    starts there (Steele et al. 2014).
    """
    bits = numbers + np.uint64((key * _GOLDEN + _GOLDEN) % 2**64)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def permute(
    positions: Int[np.ndarray, " position"], size: int, key: int
) -> Int[np.ndarray, " position"]:
    """Returns the new place of each position of `range(size)` in the permutation with this `key`,
    without building the permutation.

    It is a Feistel network over the smallest even number of bits for `size`, repeated until the
    value is below `size` (Black and Rogaway 2002). So every position can be computed separately, on
    any rank.

    >>> sorted(permute(np.arange(10), 10, key=7).tolist()) == list(range(10))
    True
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    values = positions.astype(np.uint64)
    outside = np.ones(len(values), bool)
    while outside.any():
        high, low = values[outside] >> half, values[outside] & mask
        for round_number in range(_ROUNDS):
            high, low = low, high ^ (hash_numbers(low, key * _ROUNDS + round_number) & mask)
        values[outside] = (high << half) | low
        outside = values >= np.uint64(size)
    return values.astype(np.int64)


def steps_for_passes(samples: int, batch_size: int, passes: int) -> int:
    """Returns the fewest optimizer steps after which every sample has been in `passes` batches.

    >>> steps_for_passes(samples=151, batch_size=64, passes=1)
    3
    """
    return -(-samples * passes // batch_size)


def batch_samples(
    seed: int, step: int, samples: int, batch_size: int
) -> Int[np.ndarray, " sample"]:
    """Returns the sample numbers of the global batch of optimizer step `step`, counted from 0.

    Batches are cut from one endless stream: pass after pass, each a permutation of all samples.
    Samples that fill no batch at the end of a pass share one with the first of the next pass.

    >>> two_passes = np.concatenate(
    ...     [batch_samples(0, step, samples=5, batch_size=2) for step in range(5)]
    ... )
    >>> sorted(two_passes[:5].tolist()), sorted(two_passes[5:].tolist())
    ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    """
    return stream_samples(np.arange(batch_size) + step * batch_size, samples, seed)


def stream_samples(
    places: Int[np.ndarray, " sample"], samples: int, seed: int, source: int = 0
) -> Int[np.ndarray, " sample"]:
    """Returns the sample numbers at these places of the endless stream of data set number `source`.

    The stream consists of passes, each of which is its own permutation.

    >>> both = stream_samples(np.arange(10), samples=5, seed=0, source=1)
    >>> sorted(both[:5].tolist()), sorted(both[5:].tolist())
    ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    """
    passes, places_in_pass = np.divmod(places, samples)
    numbers = np.empty(len(places), np.int64)
    for number in np.unique(passes).tolist():
        in_pass = passes == number
        numbers[in_pass] = permute(
            places_in_pass[in_pass], samples, key=(source << 53) + (seed << 20) + number
        )
    return numbers


def own_part(
    samples: Int[np.ndarray, " sample"], rank: int, ranks: int
) -> Int[np.ndarray, " sample_of_rank"]:
    """Returns the contiguous part of a global batch for one rank. The parts of all ranks,
    concatenated, are the batch.

    >>> own_part(np.array([7, 3, 9, 1]), rank=1, ranks=2).tolist()
    [9, 1]
    """
    return np.split(samples, ranks)[rank]


def check_batch_divisible(batch_size: int, ranks: int) -> None:
    """Raises BadRecipe if the global batch cannot be divided into equal parts, one per rank. The
    message suggests the nearest valid sizes.

    >>> check_batch_divisible(10, ranks=4)
    Traceback (most recent call last):
    ...
    trainer.errors.BadRecipe: optimization.batch_size=10 cannot be cut into 4 equal parts, ...
    """
    if batch_size % ranks == 0:
        return
    smaller_size = batch_size // ranks * ranks
    sizes = f"{smaller_size} or {smaller_size + ranks}" if smaller_size else f"{ranks}"
    divisors = ", ".join(str(number) for number in range(1, 2 * ranks) if batch_size % number == 0)
    raise BadRecipe(
        f"optimization.batch_size={batch_size} cannot be cut into {ranks} equal parts, one for each"
        f" rank; set it to {sizes}, or start a number of ranks that divides it ({divisors})"
    )
