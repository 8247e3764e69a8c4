"""The log of the partition sum, in tiles."""

import pytest
import torch
from twins import excluding

from trainer.partition import log_partition
from trainer.scores import dot


class TestLogPartition:
    def test_equals_the_sum_over_what_is_not_excluded(self):
        queries, documents = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
        excluded = torch.tensor([[False] * 5, [True, False, True, False, True], [True, True, True, True, False]])
        found = log_partition(queries, documents, dot, 0.3, excluding(excluded)).of_queries
        for row in range(3):
            kept = [torch.exp(queries[row] @ documents[place] / 0.3) for place in range(5) if not excluded[row, place]]
            assert found[row].item() == pytest.approx(torch.log(sum(kept)).item(), abs=1e-10)

    def test_what_is_excluded_has_a_gradient_of_exactly_zero_even_when_its_score_is_huge(self):
        queries = torch.ones(1, 1, dtype=torch.float64)
        documents = torch.tensor([[1.0], [1e300]], dtype=torch.float64, requires_grad=True)
        log_partition(queries, documents, dot, 0.05, excluding(torch.tensor([[False, True]]))).of_queries.sum().backward()
        assert documents.grad.flatten().tolist() == [20.0, 0.0]

    def test_large_scores_do_not_overflow(self):
        assert log_partition(torch.tensor([[1.0]]), torch.tensor([[1.0], [1.0]]), dot, 1e-3, lambda *_: None).of_queries.item() == pytest.approx(
            1000.693, abs=1e-3
        )
