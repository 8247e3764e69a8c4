"""Measurement of models that compare images with captions, in both directions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from trainer.data.retrieval_set import RetrievalSet
from trainer.evaluation.evaluate import evaluate_run, nearest_run, search_set
from trainer.evaluation.metrics import per_query_metrics
from trainer.evaluation.results import SystemResult
from trainer.models.encoder import VectorEncoder
from trainer.strategies.devices import Precision
from trainer.vectors.vectors import Vectors

CAPTION_METRICS = ("ndcg@10", "mrr@10", "recall@10")
"""The metrics from caption to image."""
_IMAGE_METRICS = ("ndcg@10", "recall@10")
_DEPTH = 101


def evaluate_image_text(
    encoder: VectorEncoder,
    judged_set: RetrievalSet,
    name: str = "model",
    precision: Precision = "fp32",
    micro_batch_tokens: int | None = None,
) -> SystemResult:
    """Measures an encoder of captions (the queries) and images (the documents) by exact search.

    The metrics from image to caption (`image_to_text_metrics`) are there too.
    """
    run, captions, images = search_set(encoder, judged_set, _DEPTH, precision, micro_batch_tokens)
    result = evaluate_run(run, judged_set, name, metrics=CAPTION_METRICS)
    reverse = image_to_text_metrics(captions, images, judged_set, result.query_ids, encoder)
    return replace(result, metrics=result.metrics | reverse)


def image_to_text_metrics(
    captions: Vectors,
    images: Vectors,
    judged_set: RetrievalSet,
    query_ids: Sequence[str],
    encoder: VectorEncoder,
) -> dict[str, Float64[np.ndarray, " query"]]:
    """Returns the metrics of a search for the captions of each image, among all captions.

    They have one value per caption of `query_ids`, so that systems can be compared by a paired
    test: it is that of the image, or the mean over the images, to which the caption belongs.
    """
    captions_of_images: dict[str, dict[str, int]] = {}
    for caption, grades in judged_set.qrels.items():
        for image, grade in grades.items():
            if grade > 0:
                captions_of_images.setdefault(image, {})[caption] = grade
    rows = [row for row, id_ in enumerate(judged_set.document_ids) if id_ in captions_of_images]
    ids = [judged_set.document_ids[row] for row in rows]
    judged_images = images.select(np.array(rows, np.int64))
    run = nearest_run(judged_images, captions, ids, judged_set.query_ids, _DEPTH, encoder)
    qrels = {image: captions_of_images[image] for image in ids}
    metrics = per_query_metrics(run, qrels, _IMAGE_METRICS)
    return {
        f"image_to_text_{metric}": _per_caption(
            dict(zip(ids, values.tolist(), strict=True)), judged_set.qrels, query_ids
        )
        for metric, values in metrics.items()
    }


def _per_caption(
    value_of_image: Mapping[str, float],
    qrels: Mapping[str, Mapping[str, int]],
    captions: Sequence[str],
) -> Float64[np.ndarray, " query"]:
    """Returns the mean of the values of each caption's images."""
    return np.array(
        [
            np.mean([value_of_image[image] for image, grade in qrels[caption].items() if grade > 0])
            for caption in captions
        ]
    )
