"""The test run checks every shape annotation of the package: without this, a wrong annotation would
never be noticed.
"""

import pytest
import torch
from jaxtyping import Float
from shape_checker import WRONG_TYPES, check, jaxtyped
from torch import Tensor

from trainer.batch import Texts


def test_wrong_shape_is_refused():
    texts = Texts.of([[5, 6], [7]], identities=[1, 2])
    with pytest.raises(WRONG_TYPES):
        texts.select(torch.zeros(1, 1, dtype=torch.long))


def test_wrong_type_of_number_is_refused():
    with pytest.raises(WRONG_TYPES):
        Texts(torch.zeros(2), torch.tensor([0, 2]), torch.tensor([1]))


@jaxtyped(typechecker=check)
def weighted(
    values: Float[Tensor, " row"], weights: Float[Tensor, " row"]
) -> Float[Tensor, " row"]:
    return (values * weights)[: int(values[0])]


def test_axis_has_one_length_in_all_arguments_and_the_result():
    assert weighted(torch.tensor([2.0, 1.0]), torch.ones(2)).tolist() == [2.0, 1.0]
    with pytest.raises(WRONG_TYPES):
        weighted(torch.tensor([2.0, 1.0]), torch.ones(1))
    with pytest.raises(WRONG_TYPES):
        weighted(torch.tensor([1.0, 1.0]), torch.ones(2))
