"""Principal directions: fewer numbers a vector that keep most of what the vectors say."""

import torch
from jaxtyping import Float
from torch import Tensor


def principal_directions(
    vectors: Float[Tensor, "row width"], dimensions: int
) -> Float[Tensor, "dimension width"]:
    """The directions of length 1 that keep most of the dot products between `vectors`, the most
    important first.

    They are the eigenvectors of the uncentred second moment with the largest eigenvalues: no other
    projection to so many numbers brings the matrix of all dot products as near to what it was
    (Eckart & Young 1936). Centre the vectors first for PCA proper. The sign is such that the
    largest number of each direction is positive, so the answer is the same every time. Computed in
    float64.

    >>> principal_directions(
    ...     torch.tensor([[3.0, 0.0], [-2.0, 0.1], [0.0, 1.0]]), 1
    ... ).round().abs().tolist()
    [[1.0, 0.0]]
    """
    wide = vectors.double()
    _, found = torch.linalg.eigh(wide.T @ wide / len(wide))
    directions = found.T.flip(0)[:dimensions]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return (directions * largest.sign()).float()
