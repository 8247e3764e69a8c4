import numpy as np
import pytest

from trainer.retrieval.token_index.growing_array import GrowingArray


@pytest.mark.parametrize("rows", [0, 1, 9, 12345])
def test_appended_values_are_read_back(tmp_path, rows):
    path = tmp_path / "array.npy"
    values = np.random.default_rng(0).normal(size=(rows, 3))
    with GrowingArray(path, np.float16, 3) as array:
        for start in range(0, rows, 5000):
            array.append(values[start : start + 5000])
    assert array.rows == rows
    np.testing.assert_array_equal(np.load(path, allow_pickle=False), values.astype(np.float16))


def test_numbers_are_appended_and_a_wrong_width_is_refused(tmp_path):
    with GrowingArray(tmp_path / "array.npy", np.uint16) as array:
        array.append(np.array([1, 2]))
    assert np.load(tmp_path / "array.npy", mmap_mode="r", allow_pickle=False).tolist() == [1, 2]
    with GrowingArray(tmp_path / "array.npy", np.uint16, 2) as array, pytest.raises(AssertionError):
        array.append(np.ones((4, 3)))
