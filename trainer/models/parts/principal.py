"""Principal directions of vectors, to reduce their dimensions."""

import torch
from jaxtyping import Float
from torch import Tensor


def principal_directions(
    vectors: Float[Tensor, "row width"], dimensions: int
) -> Float[Tensor, "dimension width"]:
    """Returns the directions of length 1 that preserve the dot products of `vectors` best.

    They are the eigenvectors of the uncentred second moment with the largest eigenvalues, largest
    first. No other projection to as many dimensions has a smaller error of all dot products (Eckart
    & Young 1936). For PCA, centre the vectors first. The largest component of each direction is
    positive, so the result is unique. It is computed in float64.

    >>> principal_directions(
    ...     torch.tensor([[3.0, 0.0], [-2.0, 0.1], [0.0, 1.0]]), 1
    ... ).round().abs().tolist()
    [[1.0, 0.0]]
    """
    wide = vectors.double()
    _, eigenvectors = torch.linalg.eigh(wide.T @ wide / len(wide))
    directions = eigenvectors.T.flip(0)[:dimensions]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return (directions * largest.sign()).float()
