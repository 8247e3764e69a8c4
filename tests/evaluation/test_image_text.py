"""The metrics from image to caption, with numbers that can be checked by hand."""

import math

import numpy as np
import pytest
from toy_models import make_image_text_toy

from trainer.data.retrieval_set import RetrievalSet
from trainer.evaluation.image_text import image_to_text_metrics
from trainer.models.towers.image_text import read_image_text_encoder
from trainer.vectors.dense import DenseVectors

SET = RetrievalSet(
    "toy test",
    query_ids=("c0", "c1", "c2"),
    queries=("first", "second", "third"),
    document_ids=("i0", "i1", "i2"),
    documents=("0.png", "1.png", "2.png"),
    qrels={"c0": {"i0": 1}, "c1": {"i0": 1}, "c2": {"i1": 1}},
    has_images=True,
)
"""Two captions of the first image, one of the second, none of the third."""


def test_metrics_of_a_caption_are_those_of_its_image(tmp_path):
    make_image_text_toy("clip", tmp_path)
    encoder = read_image_text_encoder(str(tmp_path))
    captions = np.array([[1.0, 0.0], [0.8, 0.0], [0.0, 0.5]], np.float32)
    images = np.array([[1.0, 0.1], [1.0, 0.5], [0.0, 1.0]], np.float32)
    # i0 finds c0, c1, c2; i1 finds c0, c1, c2, of which the third is right.
    metrics = image_to_text_metrics(
        DenseVectors(captions), DenseVectors(images), SET, ("c0", "c1", "c2"), encoder
    )
    third = 1 / math.log2(4)
    assert metrics["image_to_text_ndcg@10"].tolist() == pytest.approx([1.0, 1.0, third])
    assert metrics["image_to_text_recall@10"].tolist() == [1.0, 1.0, 1.0]
