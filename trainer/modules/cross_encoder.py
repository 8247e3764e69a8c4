"""The cross-encoder: one transformer reads query and document together (Nogueira & Cho 2019)."""

from typing import Any

from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig

from trainer.modules.bi_encoder import BiEncoder
from trainer.modules.optimizer import adamw


class Reranker(BiEncoder):
    """The bi-encoder's step where the model gives a score a pair in place of an embedding a text:
    micro-batches and recomputation are the same.
    """

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW and its schedule; the classifier's head has the head's rate."""
        encoder: Any = self.encoder
        return adamw(encoder, self.temperature, self.optimizer_settings, is_head=encoder.is_head)
