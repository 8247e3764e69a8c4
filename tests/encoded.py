"""The vectors of texts as plain arrays, as tests compare them."""

from trainer.retrieval.encoding.encode import encode as encode_as_vectors


def encode(encoder, texts, role, *settings, **more_settings):
    """One row per text, or per token."""
    return encode_as_vectors(encoder, texts, role, *settings, **more_settings).rows
