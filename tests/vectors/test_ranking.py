import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.vectors.ranking import largest_by_keys, largest_by_values


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 99), st.data())
def test_keys_and_values_select_the_same_columns(queries, documents, seed, data):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-3, 3, (queries, documents), generator=generator) / 3.0
    scores[torch.rand(scores.shape, generator=generator) < 0.2] = -torch.inf
    k = data.draw(st.integers(1, documents))
    expected, found = (
        select(scores, k).sort(1).values for select in (largest_by_values, largest_by_keys)
    )
    assert torch.equal(found, expected)
