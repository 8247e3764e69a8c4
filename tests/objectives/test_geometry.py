"""What the log shows of negatives and embeddings: equal to a double loop, and on all ranks."""

import math

import pytest
import torch
from matrix import SCORES, batch_of, encoder_of
from ranks import on_ranks

from trainer.collectives import rank, ranks
from trainer.objectives.contrastive import Contrastive
from trainer.objectives.geometry import squared_distances, uniformity
from trainer.objectives.hard_negatives import Hardness

OBJECTIVES = {
    "all negatives": Contrastive(SCORES["dot"]),
    "hardest negatives": Contrastive(SCORES["dot"], hardness=Hardness(top_k=2)),
}


def test_figures_equal_a_double_loop():
    generator = torch.Generator().manual_seed(1)
    queries, positives = torch.randn(2, 7, 5, generator=generator, dtype=torch.float64)
    lengths = [vectors / vectors.norm(dim=1, keepdim=True) for vectors in (queries, positives)]
    distances = [float((one - other).square().sum()) for one, other in zip(*lengths, strict=True)]
    assert float(squared_distances(queries, positives)) == pytest.approx(sum(distances))
    directions = lengths[0]
    terms = [
        math.exp(-2 * float((one - other).square().sum()))
        for row, one in enumerate(directions)
        for other in directions[row + 1 :]
    ]
    assert float(uniformity(queries)) == pytest.approx(math.log(sum(terms) / len(terms)))


def figures(folder):
    """The metrics of both objectives on this rank."""
    encoder = encoder_of(folder, "dot", "lora", torch.float64)
    batch = batch_of(encoder, rank(), ranks())
    return [
        {name: float(value) for name, value in objective(batch, encoder, 0.1).metrics.items()}
        for objective in OBJECTIVES.values()
    ]


def test_figures_are_those_of_the_global_batch_on_every_rank(toy_folder):
    folder = toy_folder("bert")
    ((one_rank,), two_ranks) = (on_ranks(count, figures, folder) for count in (1, 2))
    for name, alone, *shared in zip(OBJECTIVES, one_rank, *two_ranks, strict=True):
        assert {"effective_negatives_per_query", "alignment", "uniformity"} <= alone.keys()
        assert alone["alignment"] > 0 > alone["uniformity"]
        for metrics in shared:
            assert metrics == pytest.approx(alone, rel=1e-9), name


def test_hardest_negatives_alone_are_effective(toy_folder):
    ((everything, hardest),) = on_ranks(1, figures, toy_folder("bert"))
    assert hardest["effective_negatives_per_query"] <= 2.5 < 4
    assert everything["effective_negatives_per_query"] > 4
