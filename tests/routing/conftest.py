"""Judged queries to learn a router from, an index of two views, and routers that are given."""

import json
import shutil

import numpy as np
import pytest
from forked import nearfar
from toy_models import masked_lm

from trainer.models.formats.folder import save_encoder
from trainer.models.sparse import SparseSettings, build_sparse_encoder
from trainer.routing.features import FEATURES, WordCounts
from trainer.routing.router import Router
from trainer.routing.settings import CurvePoint, RouterSettings

TEXTS = ["disk storage account", "query the database", "a machine in a region", "western vault"]
ROUTES = ("bm25", "index:idx/views/dense", "index:idx/views/sparse")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A BEIR folder of 80 queries per split: keywords, and questions that share no word."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "qrels").mkdir()
    documents = [{"_id": f"d{n}", "text": f"how do list all disks zq{n}"} for n in range(80)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    queries = []
    for split in ("dev", "test"):
        judgements = ["query-id\tcorpus-id\tscore"]
        for number in range(80):
            text = f"zq{number}" if number % 2 else f"disks of {split} {number} ?"
            queries.append({"_id": f"{split}{number}", "text": text})
            judgements.append(f"{split}{number}\td{number}\t1")
        (folder / f"qrels/{split}.tsv").write_text("\n".join(judgements) + "\n")
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    return folder


@pytest.fixture(scope="module")
def folder(toy_folder, tmp_path_factory):
    """An index with the views `dense` and `sparse`, whose models are beside it."""
    folder = tmp_path_factory.mktemp("routed")
    shutil.copytree(toy_folder("bert"), folder / "bert")
    sparse = SparseSettings(backbone=str(masked_lm(toy_folder("bert"))))
    save_encoder(build_sparse_encoder(sparse), folder / "splade")
    rows = [{"_id": f"d{number}", "text": text} for number, text in enumerate(TEXTS)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for model, view in (("bert", "dense"), ("splade", "sparse")):
        made = nearfar("index", model, "corpus.jsonl", "-o", "idx", "--view", view, folder=folder)
        assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="session")
def write_router():
    return _write_router


def _write_router(folder, gains, routes=ROUTES, gains_of_questions=None, texts=TEXTS):
    """A router that predicts the same gains for every query, or others with a question mark."""
    settings = RouterSettings(
        routes=list(routes),
        milliseconds=[1.0] * len(routes),
        queries=50,
        learned_from="toy dev",
        qualities=[0.5] * (len(routes) + 1),
        curve=[CurvePoint(price=0.0, cost=0.3, quality=0.5)],
    )
    terms = len(FEATURES) * (len(FEATURES) + 3) // 2
    zeros, ones = np.zeros(len(FEATURES)), np.ones(len(FEATURES))
    weights = np.zeros((len(routes), terms))
    if gains_of_questions is not None:
        weights[:, FEATURES.index("question mark")] = np.subtract(gains_of_questions, gains)
    router = Router(settings, WordCounts.of(texts), zeros, ones, weights, np.array(gains))
    router.save(folder / "router", replace=True)
