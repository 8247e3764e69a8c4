"""Two fixed texts whose vectors are stored in an index, by which its model is recognised."""

import numpy as np
from jaxtyping import Float32

from trainer.models.encoder import VectorEncoder
from trainer.retrieval.encoding.encode import encode_documents

PROBES = (
    "What is searched for?",
    "A document about disks, networks and the weather, written to be compared.",
)
_TOLERANCE = 0.05
"""Relative distance; bf16 stays below 0.02, another model is above 0.1."""


def vectors_of_probes(encoder: VectorEncoder) -> Float32[np.ndarray, "probe dimension"]:
    """Returns the vectors of the two texts."""
    return encode_documents(encoder, PROBES).to_padded()


def probe_difference(
    encoder: VectorEncoder, reference: Float32[np.ndarray, "probe dimension"]
) -> str | None:
    """Returns how the encoder's vectors differ from those of the index's model, or None."""
    length = max(float(np.linalg.norm(reference)), 1e-12)
    distance = float(np.linalg.norm(vectors_of_probes(encoder) - reference)) / length
    if distance <= _TOLERANCE:
        return None
    return f"other vectors than the model that made the index ({distance:.0%} apart)"
