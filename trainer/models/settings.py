"""Settings from which a model is built for training."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on the frozen backbone (Hu et al. 2021)."""

    rank: int = 32
    alpha: float = 64.0
    """The update is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout before the adapter, in training only."""
    target_modules: tuple[str, ...] | None = None
    """Names of the linear layers to adapt. None: all linear layers of the transformer blocks."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank)."""
    dora: bool = False
    """Learn magnitude and direction separately."""
    quantize_4bit: bool = False
    """Load the frozen backbone in 4 bits (QLoRA)."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The settings of all families. None means the value in the folder of the backbone.

    The defaults are those of a recipe.
    """

    backbone: str
    """Folder or hub name of the model that training starts from."""
    layers: int | tuple[int, ...] | None = None
    """The layers of the backbone to keep, counted from 0, or how many evenly spaced ones."""
    query_prompt: str | None = None
    document_prompt: str | None = None
    query_max_length_tokens: int | None = None
    document_max_length_tokens: int | None = None
    dropout: float | None = 0.0
    lora: Lora | None = Lora()
    """None: every weight is trained."""
    activation_checkpointing: bool = False
    """Recompute the activations of each layer in the backward pass."""
