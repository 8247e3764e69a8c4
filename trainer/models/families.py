"""The families of models. A new family is a new file and one line here."""

from typing import Any

from trainer.models import cross_encoder, dense, late_interaction
from trainer.models.encoder import Encoder
from trainer.models.files.locate import locate
from trainer.models.loading import Family, read

_OF_VECTORS: tuple[Family[Any, Any, Any, Any], ...] = (
    late_interaction.FAMILY,
    dense.FAMILY,  # last: it reads whatever no other family recognizes
)
_OF_PAIRS: tuple[Family[Any, Any, Any, Any], ...] = (cross_encoder.FAMILY,)


def read_model(path_or_name: str) -> Encoder:
    """The model in a folder, or of a name, for use, where it gives vectors. Raises BadModel."""
    return _read(_OF_VECTORS, path_or_name)


def read_any(path_or_name: str) -> Encoder:
    """As `read_model`, or a model that scores pairs of texts. Raises BadModel."""
    return _read((*_OF_PAIRS, *_OF_VECTORS), path_or_name)


def _read(families: tuple[Family[Any, Any, Any, Any], ...], path_or_name: str) -> Encoder:
    folder = locate(path_or_name)
    return read(next(family for family in families if family.recognizes(folder)), path_or_name)
