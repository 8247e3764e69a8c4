"""Training steps of every family on the pretend device, through the real module and trainer: the
records of the log are those of the CPU, validation included.
"""

from functools import partial

import pytest
import torch
from late_interaction_toys import make_marked_bert, new_encoder
from matrix import SENTENCES, batch_of
from pretend_device import DEVICE, on_pretend_device
from pretend_trainer import fit
from toy_models import masked_lm

from trainer.data.retrieval_set import RetrievalSet
from trainer.evaluation.evaluate import evaluate, evaluate_reranking
from trainer.microbatches import MicroBatching
from trainer.models.cross_encoder import CrossEncoder, CrossEncoderSettings, build_cross_encoder
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.models.parts.depth import AtDepths
from trainer.models.sparse import SparseSettings, build_sparse_encoder
from trainer.models.static_student import StaticSettings, build_static_encoder
from trainer.modules.optimizer import OptimizerSettings
from trainer.modules.retriever import Retriever, Temperature
from trainer.objectives.contrastive import Contrastive
from trainer.objectives.matryoshka import Matryoshka
from trainer.objectives.ranking import Ranking
from trainer.objectives.ranking_losses import softmax_cross_entropy
from trainer.objectives.regularizers.flops import RegularizedObjective
from trainer.scores import dot, maxsim

NESTED = Matryoshka(Contrastive(dot), {32: 1.0, 8: 0.5}, {2: 1.0, 1: 0.5}, True)
HELD_OUT = RetrievalSet(
    "held out",
    ("q0", "q1"),
    SENTENCES[:2],
    tuple(f"d{number}" for number in range(4)),
    (*SENTENCES[2:], "a disk", "an account"),
    {"q0": {"d2": 1}, "q1": {"d3": 1}},
)


def dense(folder):
    return build_dense_encoder(DenseSettings(backbone=str(folder)))


def cross_encoder(folder):
    return build_cross_encoder(CrossEncoderSettings(backbone=str(folder)))


def static(folder):
    return build_static_encoder(StaticSettings(backbone=str(folder), dimensions=12))


def sparse(folder, query_table=None):
    settings = SparseSettings(backbone=str(masked_lm(folder)), query_table=query_table)
    return build_sparse_encoder(settings)


RUNS = {
    "dense": (dense, Contrastive(dot, symmetric=True)),
    "matryoshka": (dense, NESTED),
    "late interaction": (new_encoder, Contrastive(maxsim)),
    "cross-encoder": (cross_encoder, Ranking(softmax_cross_entropy)),
    "static": (static, Contrastive(dot)),
    "sparse": (sparse, RegularizedObjective(Contrastive(dot), 1.0, 1.0, warmup_steps=2)),
    "query table": (
        partial(sparse, query_table="trained"),
        RegularizedObjective(Contrastive(dot), 0.0, 1.0, warmup_steps=2),
    ),
}


def records_of(folder, name, device, steps=2):
    torch.manual_seed(0)
    build, objective = RUNS[name]
    encoder = build(folder).double()
    is_cross_encoder = isinstance(encoder, CrossEncoder)
    measure = partial(evaluate_reranking, first_stage=None) if is_cross_encoder else evaluate
    module = Retriever(
        encoder,
        MicroBatching(
            AtDepths(encoder, [2, 1]) if objective is NESTED else encoder,
            80,
            160,
            pack=encoder.pack,
        ),
        objective,
        Temperature(0.1, is_learned=not is_cross_encoder),
        OptimizerSettings(1e-3, 2e-3, 1e-2, 0.05, "linear", warmup_steps=1, total_steps=6),
        lambda held_out: {"ndcg": float(measure(encoder, held_out).metrics["ndcg@10"].mean())},
    )
    batch = batch_of(encoder)
    if device != "cpu":
        batch = module.micro_batching.prepare(batch)
    return fit(module, [batch] * steps, HELD_OUT, device)


@pytest.mark.parametrize("name", RUNS)
def test_log_of_a_run_on_the_device_is_that_of_the_cpu(toy_folder, tmp_path, name):
    folder = toy_folder("bert")
    if name == "late interaction":
        folder = tmp_path / "marked"
        make_marked_bert(folder)
    found, expected = (
        on_pretend_device(records_of, folder, name, device) for device in (DEVICE, "cpu")
    )
    assert len(expected) == 3, "two steps and a validation"
    assert "validation/ndcg" in expected[-1]
    assert expected[0]["train/gradient_norm"] > 0.5, "clipping has something to do"
    for record, expected_record in zip(found, expected, strict=True):
        assert record == pytest.approx(expected_record, rel=1e-6, abs=1e-9)
