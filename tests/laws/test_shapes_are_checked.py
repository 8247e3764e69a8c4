"""The test run checks every shape annotation of the package: without this, a wrong annotation would
never be noticed.
"""

import jaxtyping
import pytest
import torch

from trainer.batch import Texts


def test_wrong_shape_is_refused():
    texts = Texts.of([[5, 6], [7]], identities=[1, 2])
    with pytest.raises(jaxtyping.TypeCheckError):
        texts.select(torch.zeros(1, 1, dtype=torch.long))


def test_wrong_type_of_number_is_refused():
    with pytest.raises(jaxtyping.TypeCheckError):
        Texts(torch.zeros(2), torch.tensor([0, 2]), torch.tensor([1]))
