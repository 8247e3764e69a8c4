"""The sections `machine` and `trackers`: what changes nothing that is learned."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from trainer.recipe.schema.section import NonNegativeInt, Section


class MachineSection(Section):
    """How this machine carries the run out: what changes the time and, beyond rounding, nothing."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="where to compute; auto: on a GPU where there is one"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description=(
            "auto: bf16 where the hardware has instructions for it, else fp16 on a GPU and fp32"
            " elsewhere"
        ),
    )
    micro_batch_tokens: PositiveInt | Literal["auto"] = Field(
        "auto",
        description=(
            "padded tokens per pass through the encoder; auto: 2048 on a CPU, up to 16384 on a GPU"
        ),
    )
    kept_tokens: NonNegativeInt | Literal["auto"] = Field(
        "auto",
        description=(
            "padded tokens per step whose activations are kept; those of the rest are computed"
            " again, 1/3 more time; auto: what fits in memory"
        ),
    )
    maxsim: Literal["auto", "pieces", "plain", "kernels"] = Field(
        "auto",
        description=(
            "ColBERT's score: in pieces, exactly as the formula, or by late-interaction-kernels on"
            " an NVIDIA GPU; auto: in pieces"
        ),
    )
    threads: PositiveInt | None = Field(None, description="CPU threads; null: all cores")


class WandbTracker(Section):
    """Weights & Biases, offline where there is no key."""

    kind: Literal["wandb"] = "wandb"
    project: str = Field("nearfar", description="W&B project")


class TensorboardTracker(Section):
    """TensorBoard event files in the run folder."""

    kind: Literal["tensorboard"] = "tensorboard"


Tracker = Annotated[WandbTracker | TensorboardTracker, Field(discriminator="kind")]
