"""The families of models. A new family is a new file and one line here."""

from typing import Any, TypeVar

from trainer.errors import BadModel
from trainer.models import cross_encoder, dense, late_interaction, sparse
from trainer.models.encoder import Encoder, PairEncoder, VectorEncoder
from trainer.models.files.locate import locate
from trainer.models.loading import Family, read
from trainer.models.towers import image_text, two_towers

FAMILIES: tuple[Family[Any, Any, Any, Any], ...] = (
    cross_encoder.FAMILY,
    late_interaction.FAMILY,
    sparse.FAMILY,
    two_towers.FAMILY,
    image_text.FAMILY,
    dense.FAMILY,  # last: it reads whatever no other family recognizes
)
EncoderKind = TypeVar("EncoderKind", bound=Encoder)


def read_any(path_or_name: str) -> Encoder:
    """Reads the model of a folder or name, for use. Raises BadModel."""
    return _read(Encoder, path_or_name)  # type: ignore[type-abstract]


def read_model(path_or_name: str) -> VectorEncoder:
    """Reads a model that gives vectors of texts. Raises BadModel for one that scores pairs, or
    whose documents are images.
    """
    if reads_images(path_or_name):
        raise BadModel(
            f"{path_or_name} compares captions with images, and this command takes a model of"
            " texts; `nearfar fit`, `evaluate`, `index` and `search` work with images"
        )
    return read_vector_model(path_or_name)


def read_vector_model(path_or_name: str) -> VectorEncoder:
    """Reads a model that gives vectors, of texts or of images too. Raises BadModel."""
    return _read(VectorEncoder, path_or_name)  # type: ignore[type-abstract]


def read_single_vector_model(path_or_name: str) -> VectorEncoder:
    """Reads a model that gives one dense or sparse vector per text. Raises BadModel for others."""
    if sparse.FAMILY.recognizes(locate(path_or_name)):
        return read(sparse.FAMILY, path_or_name)
    return read(dense.FAMILY, path_or_name)


def reads_images(path_or_name: str) -> bool:
    """Returns True if the documents of a model are images. Raises BadModel if there is no such
    model.
    """
    folder = locate(path_or_name)
    return any(family.recognizes(folder) for family in (two_towers.FAMILY, image_text.FAMILY))


def read_reranker(path_or_name: str) -> PairEncoder:
    """Reads a model that scores pairs. Raises BadModel for one that gives vectors."""
    return _read(PairEncoder, path_or_name)  # type: ignore[type-abstract]


def _read(kind: type[EncoderKind], path_or_name: str) -> EncoderKind:
    """If no family of this kind recognizes the folder, the last one raises the error."""
    folder = locate(path_or_name)
    families = [family for family in FAMILIES if issubclass(family.model, kind)]
    family = next((family for family in families if family.recognizes(folder)), families[-1])
    encoder = read(family, path_or_name)
    assert isinstance(encoder, kind)
    return encoder
