"""The sections `machine` and `checkpoints`, which do not change what is learned."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from trainer.recipe.schema.section import NonNegativeInt, Section


class MachineSection(Section):
    """How this machine runs the training. These keys change only time, memory and rounding."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="device to compute on; auto: a GPU if there is one"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description=(
            "number format of the model; auto: bf16 if the hardware has instructions for it, else"
            " fp16 on a GPU and fp32 elsewhere"
        ),
    )
    micro_batch_tokens: PositiveInt | Literal["auto"] = Field(
        "auto",
        description=(
            "tokens per pass through the encoder; auto: 2048 on a CPU, 16384 to 65536 on a"
            " GPU if they fit, the more the smaller the model"
        ),
    )
    kept_tokens: NonNegativeInt | Literal["auto"] = Field(
        "auto",
        description=(
            "tokens per step whose activations are kept; other activations are computed"
            " again, which takes 1/3 more time; auto: as many as fit into memory"
        ),
    )
    maxsim: Literal["auto", "pieces", "plain"] = Field(
        "auto",
        description=(
            "how ColBERT's score is computed: in pieces, or directly by the formula; auto: by a"
            " Triton kernel on an NVIDIA GPU, elsewhere in pieces"
        ),
    )
    compile_layers: bool | Literal["auto"] = Field(
        False,
        description=(
            "compile each layer with torch.compile, in one process or with DDP, which takes one or"
            " two minutes at the start; it gains little on a CPU and was not measured on a GPU;"
            " auto: a long run measures one layer and compiles if that pays back"
        ),
    )
    threads: PositiveInt | None = Field(None, description="CPU threads; null: all cores")
    hang_minutes: PositiveFloat = Field(
        30.0, description="minutes without progress after which a run ends with exit code 88"
    )


class CheckpointSection(Section):
    """When the state of the training is saved, so that `--resume` can continue it."""

    every_minutes: PositiveFloat | None = Field(
        10.0, description="minutes between checkpoints; null: not by time"
    )
    every_steps: PositiveInt | None = Field(
        None, description="steps between checkpoints; null: not by steps"
    )
    keep_last: Annotated[int, Field(ge=2)] = Field(
        2, description="number of checkpoints to keep; the best weights are always kept"
    )
