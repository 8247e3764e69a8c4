"""Which family the model in a folder belongs to, and the encoder of a recipe."""

from typing import assert_never

from trainer.models.cross_encoder import load_cross_encoder, read_cross_encoder
from trainer.models.dense import load_encoder, read_encoder
from trainer.models.encoder import Encoder
from trainer.models.files.locate import locate
from trainer.models.formats.pylate import is_late_interaction
from trainer.models.late_interaction import load_late_encoder, read_late_encoder
from trainer.models.parts.classifier import is_cross_encoder
from trainer.models.static_student import static_student
from trainer.recipe import schema as recipe


def read_model(path_or_name: str) -> Encoder:
    """The model in a folder, or of a name, for use: a `DenseEncoder` or a `LateInteractionEncoder`.
    Raises BadModel.
    """
    return (
        read_late_encoder(path_or_name)
        if is_late_interaction(locate(path_or_name))
        else read_encoder(path_or_name)
    )


def read_any(path_or_name: str) -> Encoder:
    """As `read_model`, or the `CrossEncoder` where it is one, which has no vectors. Raises
    BadModel.
    """
    return (
        read_cross_encoder(path_or_name)
        if is_cross_encoder(locate(path_or_name))
        else read_model(path_or_name)
    )


def load_model(run: recipe.Recipe) -> Encoder:
    """The encoder that a recipe trains, in training mode. Raises BadModel."""
    match run.kind:
        case "bi_encoder":
            return (
                load_encoder(run.model) if run.model.static is None else static_student(run.model)
            )
        case "colbert":
            return load_late_encoder(run.model)
        case "cross_encoder":
            return load_cross_encoder(run.model)
        case _:
            assert_never(run.kind)
