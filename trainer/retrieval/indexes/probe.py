"""Two fixed texts whose vectors are stored in an index, by which its model is recognised.

For a model of images, these are a text and an image.
"""

from io import BytesIO

import numpy as np
from jaxtyping import Float32
from PIL import Image

from trainer.images.reference import reference_to_bytes
from trainer.models.encoder import VectorEncoder
from trainer.retrieval.encoding.encode import encode_documents, encode_queries

PROBES = (
    "What is searched for?",
    "A document about disks, networks and the weather, written to be compared.",
)
_TOLERANCE = 0.05
"""Relative distance; bf16 stays below 0.02, another model is above 0.1."""


def vectors_of_probes(encoder: VectorEncoder) -> Float32[np.ndarray, "probe dimension"]:
    """Returns the vectors of the two texts, or of a caption and an image: each has a tower."""
    if encoder.encodes_images:
        caption = encode_queries(encoder, PROBES[:1]).to_padded()
        return np.concatenate([caption, encode_documents(encoder, [_image()]).to_padded()])
    return encode_documents(encoder, PROBES).to_padded()


def _image() -> str:
    """Returns a reference to an image of three gradients."""
    rows, columns = np.mgrid[0:256:4, 0:256:4]
    pixels = np.stack([rows, columns, (rows * columns) % 256], axis=-1).astype(np.uint8)
    content = BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return reference_to_bytes(content.getvalue())


def probe_difference(
    encoder: VectorEncoder, reference: Float32[np.ndarray, "probe dimension"]
) -> str | None:
    """Returns how the encoder's vectors differ from those of the index's model, or None."""
    length = max(float(np.linalg.norm(reference)), 1e-12)
    distance = float(np.linalg.norm(vectors_of_probes(encoder) - reference)) / length
    if distance <= _TOLERANCE:
        return None
    return f"other vectors than the model that made the index ({distance:.0%} apart)"
