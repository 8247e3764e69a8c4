"""The cases of law 2 for images and captions: a model, an objective, what is trained, how
micro-batches are cut; and the gradient of one, on one rank or a share of it.
"""

import math
from pathlib import Path
from typing import Any

import torch
from image_toys import caption, drawing, encoded
from matrix import TUNINGS, trained
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.data.collate import collate
from trainer.data.rows import Row, known_positives
from trainer.images.reference import reference_to_bytes
from trainer.microbatches import in_microbatches
from trainer.models.towers.checkpoint import ImageTextSettings
from trainer.models.towers.image_text import build_image_text_encoder
from trainer.models.towers.two_towers import TwoTowerSettings, build_two_tower_encoder
from trainer.models.towers.vision import StoredTower
from trainer.objectives.contrastive import Contrastive
from trainer.objectives.objective import Objective
from trainer.objectives.sigmoid import Bias, Sigmoid
from trainer.scores import dot

# Rows 0 and 4 share an image, rows 1 and 5 a caption.
IMAGES, CAPTIONS = (0, 1, 2, 3, 0, 5, 6, 7), (0, 1, 2, 3, 4, 1, 6, 7)
ROWS = [
    Row(caption(caption_number), reference_to_bytes(encoded(drawing(image_number))))
    for caption_number, image_number in zip(CAPTIONS, IMAGES, strict=True)
]
CUTS: dict[str, dict[str, int | None]] = {
    "whole": {"tokens": None},
    "micro-batched": {"tokens": 40, "kept_tokens": 0},
    "partly kept": {"tokens": 40, "kept_tokens": 100},
}
CASES = [
    (kind, objective, tuning, cut)
    for kind, objective in (("clip", "contrastive"), ("siglip", "sigmoid"))
    for tuning in TUNINGS
    for cut in CUTS
]
CASES += [
    ("two towers", "contrastive", tuning, cut)
    for tuning in TUNINGS
    for cut in ("micro-batched", "partly kept")
]
TEMPERATURE = 0.2


def image_encoder_of(folder: Path, kind: str, tuning: str, dtype: torch.dtype) -> Any:
    """The same weights in every process."""
    torch.manual_seed(2)
    lora = TUNINGS[tuning]
    if kind == "two towers":
        encoder: Any = build_two_tower_encoder(
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
        if "lora_B" in name:  # zero at the start: half of the gradient would be zero
            nn.init.normal_(weight, std=0.1)
    return encoder.to(dtype)


def image_batch_of(encoder: Any, rank: int = 0, ranks: int = 1) -> Batch:
    """A rank's slice of the one global batch."""
    share = len(ROWS) // ranks
    own_rows = ROWS[rank * share : (rank + 1) * share]
    return collate(own_rows, encoder.tokenize, known_positives(ROWS), 0)


def image_objective_of(objective: str, dtype: torch.dtype) -> Objective:
    """A symmetric objective with the score of two towers."""
    if objective == "contrastive":
        return Contrastive(dot, symmetric=True)
    return Sigmoid(dot, Bias(-1.0, is_learned=True).to(dtype))


def image_gradient_of(
    encoder: nn.Module, batch: Batch, objective: str, cut: str
) -> tuple[float, Tensor]:
    """Loss and gradient (one vector) as this rank finds them, the temperature included."""
    weight = next(encoder.parameters())
    log_temperature = weight.new_full((1,), math.log(TEMPERATURE)).requires_grad_()
    encode = in_microbatches(encoder, **CUTS[cut], is_padded=True)  # type: ignore[arg-type]
    outcome = image_objective_of(objective, weight.dtype)(batch, encode, log_temperature.exp()[0])
    assert outcome.metrics["masked_false_negatives"] > 0
    parts = torch.autograd.grad(outcome.loss, [*trained(encoder).values(), log_temperature])
    return float(outcome.loss.detach()), torch.cat([part.flatten() for part in parts]).double()
