"""The cases of law 2: an objective, a score, what is trained, how micro-batches are cut; and the
gradient of one, on one rank or a share of it.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from teachers import teacher_of
from torch import Tensor, distributed, nn
from toy_models import SENTENCES, masked_lm

from trainer.batch import Batch, identity, pair_identity
from trainer.collectives import ranks
from trainer.microbatches import Encode, in_microbatches
from trainer.models.cross_encoder import CrossEncoder, CrossEncoderSettings, build_cross_encoder
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.models.encoder import Encoder
from trainer.models.late_interaction import LateInteractionSettings, build_late_interaction_encoder
from trainer.models.parts.depth import AtDepths
from trainer.models.settings import Lora
from trainer.models.sparse import SparseSettings, build_sparse_encoder
from trainer.objectives import ranking_losses
from trainer.objectives.candidates import (
    Distillation,
    EmbeddingScores,
    MarginMse,
    gather_pair_scores,
)
from trainer.objectives.contrastive import Contrastive
from trainer.objectives.hard_negatives import Hardness
from trainer.objectives.matryoshka import Matryoshka, Weights
from trainer.objectives.objective import Objective
from trainer.objectives.ranking import Ranking
from trainer.objectives.regularizers.flops import RegularizedObjective
from trainer.objectives.sigmoid import Bias, Sigmoid
from trainer.objectives.teachers import (
    BatchDistribution,
    CandidateDistribution,
    Lesson,
    LessonObjective,
    Margins,
    TeacherVectors,
)
from trainer.scores import Score, dot, maxsim, xtr

XTR_TOP_K = 20
HARD = {
    "hardest": Hardness(top_k=4),
    "semi-hard": Hardness(top_k=9, semi_hard=True),
    "weighted": Hardness(beta=0.8),
}
DEPTHS: Weights = {2: 1.0, 1: 0.5}
WIDTHS: Weights = {8: 1.0, 20: 1.0, 32: 1.0}


class Head(nn.Module):
    """A projection of a student's 32 numbers to 7, the same in every process and precision."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(6)
        self.weight = nn.Parameter(torch.randn(7, 32, generator=generator), requires_grad=False)

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors @ self.weight.to(vectors).T


def contrastive(score: Score, symmetric: bool = False) -> Contrastive:
    """With the limits of tokens where the score takes them."""
    return Contrastive(score, symmetric, xtr_top_k=XTR_TOP_K if score is xtr else None)


def taught(score: Score) -> LessonObjective:
    """The in-batch distribution of two teachers beside InfoNCE, in one pass through the encoder."""
    teachers = (teacher_of(), teacher_of(tokens=True))
    return LessonObjective(
        Contrastive(score), BatchDistribution(score, teachers, 0.5, 0.7), weight=0.5
    )


def alone(lesson: Lesson) -> LessonObjective:
    """What a teacher teaches, and nothing else."""
    return LessonObjective(Contrastive(dot), lesson, objective_weight=0.0)


TAUGHT: dict[str, Callable[[Score], Objective]] = {
    "taught batch": lambda score: alone(
        BatchDistribution(score, (teacher_of(tokens=True),), 0.3, 0.5)
    ),
    "taught candidates": lambda score: alone(
        CandidateDistribution(score, (teacher_of(), teacher_of(seed=1)), 0.3, 0.2)
    ),
    "taught margins": lambda score: alone(Margins(score, (teacher_of(),))),
    "taught vectors": lambda _: alone(TeacherVectors(teacher_of(7), Head(), cosine=False)),
    "taught angles": lambda _: alone(TeacherVectors(teacher_of(32), None, cosine=True)),
}
DEEP: dict[str, Callable[[Score], Objective]] = {
    "deep and nested": lambda score: Matryoshka(taught(score), {32: 1.0, 8: 0.5}, DEPTHS, True),
    "deep": lambda score: Matryoshka(contrastive(score), {None: 1.0}, DEPTHS, True),
}
"""Objectives of the first layer too, whose embeddings are those of all DEPTHS."""
OBJECTIVES: dict[str, Callable[[Score], Objective]] = {
    "contrastive": contrastive,
    "symmetric": lambda score: contrastive(score, symmetric=True),
    "sigmoid": lambda score: Sigmoid(score, Bias(-2.0, is_learned=True)),
    "kl": lambda score: Distillation(EmbeddingScores(score), teacher_temperature=2.0),
    "margin-mse": lambda score: MarginMse(EmbeddingScores(score)),
    "taught": taught,
    "nested": lambda score: Matryoshka(contrastive(score), WIDTHS, {None: 1.0}, True),
    **DEEP,
    **{
        name: lambda score, hardness=hardness: Contrastive(score, hardness=hardness)
        for name, hardness in HARD.items()
    },
    **TAUGHT,
}
SCORES: dict[str, Score] = {"dot": dot, "maxsim": maxsim, "xtr": xtr}
OF_VECTORS = ("nested", "deep and nested", "taught vectors", "taught angles")
PAIRS = [
    (objective, score)
    for objective in OBJECTIVES
    for score in SCORES
    if score == "dot"
    or (score == "maxsim" and objective not in OF_VECTORS)
    or (score == "xtr" and objective in ("contrastive", "symmetric"))
]
"""Objectives with the scores they take."""
OF_PAIRS: dict[str, Objective] = {
    "pointwise": Ranking(ranking_losses.binary_cross_entropy),
    "pairwise": Ranking(ranking_losses.rank_net),
    "listwise": Ranking(ranking_losses.softmax_cross_entropy),
    "lambda-loss": Ranking(ranking_losses.lambda_loss),
    "pairwise, graded": Ranking(ranking_losses.rank_net, (-math.inf, math.inf)),
    "kl": Distillation(gather_pair_scores),
    "margin-mse": MarginMse(gather_pair_scores),
}
"""Objectives of a cross-encoder, whose score is JOINT: query and document are encoded together."""
JOINT = "joint"
PAIRS += [(objective, JOINT) for objective in OF_PAIRS]
SPARSE_TERMS = 10
"""More than some texts of ROWS have active terms, and fewer than others."""


def regularized(
    objective: Objective, free_terms: int | None = None, query_weight: float = 8.0
) -> RegularizedObjective:
    """With the share of the weights of the first of two steps of warm-up."""
    return RegularizedObjective(objective, query_weight, 5.0, warmup_steps=2, free_terms=free_terms)


OF_SPARSE: dict[str, Objective] = {
    "flops": regularized(Contrastive(dot)),
    "flops above free terms": regularized(Contrastive(dot), SPARSE_TERMS),
    "kl, flops": regularized(Distillation(EmbeddingScores(dot), teacher_temperature=2.0)),
    "margin-mse, flops": regularized(MarginMse(EmbeddingScores(dot))),
    "contrastive": Contrastive(dot),
}
"""Objectives of a sparse model, whose score is SPARSE: the dot product of its vectors."""
SPARSE = "sparse"
PAIRS += [(objective, SPARSE) for objective in OF_SPARSE]
QUERY_TABLE = "query table"
"""The score of a sparse model whose queries are encoded by a table."""
PAIRS += [("flops", QUERY_TABLE)]
MICRO_BATCHES: dict[str, dict[str, int | None]] = {
    "whole": {"tokens": None},
    "micro-batched": {"tokens": 24, "kept_tokens": 0},
    "partly kept": {"tokens": 24, "kept_tokens": 60},
}
TUNINGS: dict[str, Lora | None] = {
    "full": None,
    "lora": Lora(rank=4),
}
NEW = ("sigmoid", "taught", "nested", *DEEP, *HARD, *TAUGHT, *list(OF_SPARSE)[1:-1])
"""Objectives that go through the same encoder and partition as the others, and so are held against
one process in one way, not six.
"""
CASES = [
    (*pair, tuning, micro)
    for pair in PAIRS
    for tuning in TUNINGS
    for micro in MICRO_BATCHES
    if pair[0] not in NEW or (tuning, micro) == ("full", "partly kept")
]
"""All of law 2."""
TEMPERATURE = 0.2
SEED = 4
"""Of weights with which no document token is the best by a hair, nor rounding is amplified: see
`test_the_matrix_is_well_conditioned`.
"""

WORDS = ("disk", "database", "account", "machine")
ROWS = [
    (f"{'find the ' * (row % 3)}{WORDS[row % 4]} {row}",
     SENTENCES[row % 4] if row % 4 < 2 else (f"{WORDS[row % 4]} number "
                                             f"{row}{' and more of it' * (row % 3)}"),
     SENTENCES[2] if row % 3 == 0 else f"no {WORDS[(row + 1) % 4]}",
     f"{'not this ' * (row % 5)}{row}")
    for row in range(8)
]  # fmt: skip
"""Eight queries of three documents. Lengths differ between ranks; positives 0 and 4, 1 and 5 are
twins, and hard negatives 0, 3 and 6.
"""

MORE_POSITIVES = {ROWS[0][0]: (ROWS[6][1],), ROWS[5][0]: (ROWS[2][2], ROWS[3][1])}
"""Texts of other rows that are right too; so ranks know of different numbers of positives a
query.
"""
ALSO_RIGHT = {ROWS[3][0]: (ROWS[3][2],), ROWS[6][0]: (ROWS[6][3],)}
"""For a cross-encoder, which compares a query's own candidates alone: hard negatives that are known
to be right.
"""


def encoder_of(
    folder: Path, score: str, tuning: str, dtype: torch.dtype = torch.float32
) -> Encoder:
    """The same weights in every process."""
    torch.manual_seed(SEED)
    if score in (SPARSE, QUERY_TABLE):
        encoder: Encoder = build_sparse_encoder(
            SparseSettings(
                backbone=str(masked_lm(folder)),
                lora=TUNINGS[tuning],
                query_table="trained" if score == QUERY_TABLE else None,
            )
        )
    elif score == JOINT:
        encoder = build_cross_encoder(
            CrossEncoderSettings(backbone=str(folder), lora=TUNINGS[tuning])
        )
    elif score == "dot":
        encoder = build_dense_encoder(DenseSettings(backbone=str(folder), lora=TUNINGS[tuning]))
    else:  # queries as they are, so that their lengths differ between ranks too
        encoder = build_late_interaction_encoder(
            LateInteractionSettings(
                backbone=str(folder),
                lora=TUNINGS[tuning],
                projection_dimensions=8,
                query_expansion=False,
            )
        )
    for name, parameter in encoder.named_parameters():
        if name == "query_table.weight":  # special tokens keep their zero
            parameter.data *= torch.rand(len(parameter))
        if "lora_B" in name:  # zero at the start: half of the gradient would be zero
            nn.init.normal_(parameter, std=0.03)
    return encoder.to(dtype)


def batch_of(encoder: Encoder, rank: int = 0, ranks: int = 1) -> Batch:
    """A rank's slice of the one global batch."""
    share = len(ROWS) // ranks
    rows = ROWS[rank * share : (rank + 1) * share]
    generator = torch.Generator().manual_seed(2)
    labels = 3 * torch.randn(len(ROWS), 3, generator=generator)
    known = [[identity(row[1]), *map(identity, MORE_POSITIVES.get(row[0], ()))] for row in rows]
    candidates = [text for row in rows for text in row[1:]]
    if isinstance(encoder, CrossEncoder):
        documents = encoder.tokenize_pairs([row[0] for row in rows for _ in row[1:]], candidates)
        right = [
            [*names, *map(identity, ALSO_RIGHT.get(row[0], ()))]
            for row, names in zip(rows, known, strict=True)
        ]
        known = [
            [pair_identity(identity(row[0]), name) for name in names]
            for row, names in zip(rows, right, strict=True)
        ]
    else:
        documents = encoder.tokenize(candidates, "document")
    widest = max(map(len, known))
    return Batch(
        queries=encoder.tokenize([row[0] for row in rows], "query"),
        documents=documents,
        known_positives=torch.tensor([names + [-1] * (widest - len(names)) for names in known]),
        labels=labels[rank * share : (rank + 1) * share],
        sample_ids=tuple(f"rows:{rank * share + number}" for number in range(share)),
    )


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters in question, by name."""
    return {
        name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad
    }


def encode_of(encoder: Any, objective: str) -> Encode:
    """What is given to an objective of the matrix: the encoder, or its embeddings at several
    depths.
    """
    return AtDepths(encoder, list(map(int, filter(None, DEPTHS)))) if objective in DEEP else encoder


def objective_of(objective: str, score: str) -> Objective:
    """An objective of the matrix with its score."""
    if score == QUERY_TABLE:
        return regularized(Contrastive(dot), query_weight=0.0)
    objectives = {JOINT: OF_PAIRS, SPARSE: OF_SPARSE}.get(score)
    return objectives[objective] if objectives else OBJECTIVES[objective](SCORES[score])


def gradient_of(
    encoder: nn.Module, batch: Batch, objective: str, score: str, micro: str
) -> tuple[float, Tensor]:
    """Loss and gradient (one vector) as this rank finds them, a learned temperature included."""
    weight = next(encoder.parameters())
    log_temperature = weight.new_full((1,), math.log(TEMPERATURE)).requires_grad_()
    encode = in_microbatches(encode_of(encoder, objective), **MICRO_BATCHES[micro])  # type: ignore[arg-type]
    loss = objective_of(objective, score)(batch, encode, log_temperature.exp()[0]).loss
    found = torch.autograd.grad(
        loss,
        [*trained(encoder).values(), log_temperature],
        allow_unused=True,
        materialize_grads=True,
    )
    return float(loss.detach()), torch.cat([each.flatten() for each in found]).double().cpu()


def mean_over_ranks(gradient: Tensor) -> Tensor:
    """The mean of what the ranks give, in place."""
    if ranks() > 1:
        distributed.all_reduce(gradient)
        gradient /= ranks()
    return gradient


def likeness(found: Tensor, wanted: Tensor) -> tuple[float, float]:
    """(ratio of norms, 1 - cosine): (1, 0) for equal gradients."""
    direction = (found / found.norm() - wanted / wanted.norm()).norm()
    return float(found.norm() / wanted.norm()), float(direction**2 / 2)
