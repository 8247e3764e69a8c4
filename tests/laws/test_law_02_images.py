"""Laws 1 and 2 for images and captions: neither micro-batches nor ranks change the gradient."""

import math

import pytest
import torch
from image_toys import caption, drawing, encoded
from matrix import likeness, trained
from ranks import on_ranks
from torch import distributed

from trainer.collectives import rank, ranks
from trainer.data.collate import collate
from trainer.data.rows import Row, known_positives
from trainer.images.reference import reference_to_bytes
from trainer.microbatches import in_microbatches
from trainer.models.settings import Lora
from trainer.models.towers.checkpoint import ImageTextSettings
from trainer.models.towers.image_text import build_image_text_encoder
from trainer.models.towers.two_towers import TwoTowerSettings, build_two_tower_encoder
from trainer.models.towers.vision import StoredTower
from trainer.objectives.contrastive import Contrastive
from trainer.objectives.sigmoid import Bias, Sigmoid
from trainer.scores import dot

# Rows 0 and 4 share an image, rows 1 and 5 a caption.
IMAGES, CAPTIONS = (0, 1, 2, 3, 0, 5, 6, 7), (0, 1, 2, 3, 4, 1, 6, 7)
ROWS = [
    Row(caption(said), reference_to_bytes(encoded(drawing(seen))))
    for said, seen in zip(CAPTIONS, IMAGES, strict=True)
]
CUTS = {"whole": None, "micro-batched": 40}
CASES = [
    (kind, objective, tuning, cut)
    for kind, objective in (("clip", "contrastive"), ("siglip", "sigmoid"))
    for tuning in ("full", "lora")
    for cut in CUTS
]
CASES += [("two towers", "contrastive", tuning, "micro-batched") for tuning in ("full", "lora")]


def loss_and_gradient(folder, kind, objective, tuning, cut):
    """On this rank's share of ROWS: the loss, and the mean of the gradient over the ranks."""
    torch.manual_seed(2)
    lora = Lora(rank=4) if tuning == "lora" else None
    if kind == "two towers":
        encoder = build_two_tower_encoder(
            TwoTowerSettings(
                backbone=str(folder / "text"),
                image_tower=StoredTower(str(folder / "vit")),
                projection_dimensions=16,
                lora=lora,
            )
        )
    else:
        settings = ImageTextSettings(backbone=str(folder / kind), lora=lora)
        encoder = build_image_text_encoder(settings)
    for name, weight in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    encoder = encoder.double()
    share = len(ROWS) // ranks()
    own_rows = ROWS[rank() * share : (rank() + 1) * share]
    batch = collate(own_rows, encoder.tokenize, known_positives(ROWS), 0)
    bias = Bias(-1.0, is_learned=True).double()
    function = {"contrastive": Contrastive(dot, symmetric=True), "sigmoid": Sigmoid(dot, bias)}
    log_temperature = torch.tensor([math.log(0.2)], dtype=torch.float64).requires_grad_()
    encode = in_microbatches(encoder, CUTS[cut], kept_tokens=0, is_padded=True)
    outcome = function[objective](batch, encode, log_temperature.exp()[0])
    weights = [*trained(encoder).values(), log_temperature]
    parts = torch.autograd.grad(outcome.loss, weights)
    gradient = torch.cat([part.flatten() for part in parts])
    if ranks() > 1:
        distributed.all_reduce(gradient)
        gradient /= ranks()
    assert outcome.metrics["masked_false_negatives"] > 0
    return float(outcome.loss.detach()), gradient


def all_cases(folder):
    return [loss_and_gradient(folder, *case) for case in CASES]


@pytest.mark.parametrize("count", [1, 2])
def test_ranks_and_micro_batches_of_images_equal_the_whole_batch(checkpoints, count):
    results = {case: loss_and_gradient(checkpoints, *case[:3], "whole") for case in CASES}
    for answers in on_ranks(count, all_cases, checkpoints):
        for case, (loss, gradient) in zip(CASES, answers, strict=True):
            expected_loss, expected = results[case]
            assert expected.norm() > 1e-3
            assert loss == pytest.approx(expected_loss, rel=1e-10), case
            norm, turned = likeness(gradient, expected)
            assert norm == pytest.approx(1, abs=1e-10), case
            assert turned <= 1e-20, case
