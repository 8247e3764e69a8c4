"""A step of ColBERT, encoding, and exact search."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from gpu_stages.setting import Case, Setting
from gpu_stages.training import Work, speed
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.models.encoder import Encoder, VectorEncoder
from trainer.models.late_interaction import LateInteractionSettings, build_late_interaction_encoder
from trainer.objectives.contrastive import Contrastive
from trainer.retrieval.encoding.encode import encode
from trainer.scores import maxsim
from trainer.vectors.dense import DenseVectors
from trainer.vectors.tokens import TokenVectors
from trainer.vectors.vectors import Vectors, nearest_documents

WORDS = ("disk", "database", "account", "machine", "region", "storage", "western", "answers")


def cases(setting: Setting) -> Mapping[str, Case]:
    texts = setting.size(1024, 4)
    work = Work([32] * texts, [setting.size(180, 12)] * texts)
    return {
        "ColBERT step": partial(
            speed, setting, "full", work, build=late, objective=Contrastive(maxsim)
        ),
        "encode, dense": partial(encode_rate, setting, late_interaction=False),
        "encode, ColBERT": partial(encode_rate, setting, late_interaction=True),
        "exact search": partial(search_dense, setting),
        "exact search by MaxSim": partial(search_tokens, setting),
    }


def late(setting: Setting, tuning: str) -> Encoder:
    settings = LateInteractionSettings(backbone=str(setting.base), lora=None)
    return build_late_interaction_encoder(settings).to(setting.device)


def encode_rate(setting: Setting, late_interaction: bool) -> dict[str, float]:
    """Texts per second in bf16, with the tokenizer, of texts with a long tail of lengths."""
    encoder: VectorEncoder
    if late_interaction:
        encoder = late(setting, "full")  # type: ignore[assignment]
    else:
        encoder = build_dense_encoder(DenseSettings(backbone=str(setting.base), lora=None))
    encoder.to(setting.device)
    generator = np.random.default_rng(0)
    lengths = generator.lognormal(2.6, 0.65, setting.size(20000, 12)).clip(2, 90).astype(int)
    texts = [
        " ".join(generator.choice(WORDS, length)) + f" {row}" for row, length in enumerate(lengths)
    ]
    encode(encoder, texts[:200], "document", precision=setting.precision)
    found = setting.seconds_and_peak(
        lambda: encode(encoder, texts, "document", precision=setting.precision), repeats=1
    )
    return {"texts/s": len(texts) / found["seconds"], **found}


def search_dense(setting: Setting) -> dict[str, float]:
    """The 100 best of many documents for each of many queries."""
    documents, queries = setting.size((200_000, 2048), (500, 8))
    generator = np.random.default_rng(0)
    vectors = [
        DenseVectors(generator.standard_normal((rows, 768), np.float32))
        for rows in (queries, documents)
    ]
    return timed_search(setting, *vectors)


def search_tokens(setting: Setting) -> dict[str, float]:
    documents, queries = setting.size((10_000, 256), (50, 4))
    generator = np.random.default_rng(0)
    vectors = []
    for texts, tokens in ((queries, 32), (documents, 120)):
        rows = generator.standard_normal((texts * tokens, 128), np.float32)
        vectors.append(TokenVectors(rows, np.arange(texts + 1) * tokens))
    return timed_search(setting, *vectors)


def timed_search(setting: Setting, queries: Vectors, documents: Vectors) -> dict[str, float]:
    k = min(100, len(documents))
    seconds = setting.seconds(
        lambda: nearest_documents(queries, documents, k, setting.device), repeats=1, warm_up=0
    )
    return {"seconds": seconds, "queries/s": len(queries) / seconds}
