"""From a recipe to a student: where it starts, who teaches it, what is refused; and runs of each
kind by the way `nearfar fit` goes.
"""

import json

import numpy as np
import pytest
import torch
from encoded import encode
from ranks import on_ranks
from teachers import teacher_of
from torch import distributed
from toy_models import SENTENCES, masked_lm
from trained_weights import largest_change

from trainer.build import students
from trainer.build.families import bi_encoder
from trainer.build.families.registry import build_model, family_of
from trainer.build.module import lightning_module
from trainer.build.objective import build_objective
from trainer.cli.encode import encode as encode_command
from trainer.cli.fit import fit
from trainer.collectives import rank, ranks
from trainer.data.rows import Row, Rows
from trainer.errors import BadData, BadFolder, BadModel, BadRecipe
from trainer.microbatches import in_microbatches
from trainer.models.cut import read_cut
from trainer.models.dense import DenseSettings, build_dense_encoder, read_encoder
from trainer.models.families import read_model
from trainer.models.formats.folder import save_encoder
from trainer.models.late_interaction import LateInteractionSettings, build_late_interaction_encoder
from trainer.models.parts.principal import principal_directions
from trainer.models.sparse import SparseSettings, build_sparse_encoder
from trainer.objectives.exclusions import Outscoring
from trainer.recipe.load import load_recipe
from trainer.recipe.schema.data import DataSection
from trainer.recipe.schema.families import BiEncoderRecipe
from trainer.recipe.schema.machine import MachineSection
from trainer.recipe.schema.model import BiEncoderModel, FullTuning
from trainer.recipe.schema.objective import (
    BiEncoderContrastiveObjective,
    MarginMseObjective,
)
from trainer.recipe.schema.teaching import (
    BiEncoderMatryoshka,
    DistributionTeacher,
    VectorsTeacher,
)
from trainer.scores import dot

FULL = FullTuning()
TAUGHT = DistributionTeacher(models=("t",))


def run_of(model=None, negatives=1, **sections):
    return BiEncoderRecipe(
        name="a",
        model=BiEncoderModel(**{"backbone": "b", "tuning": FULL} | (model or {})),
        data=DataSection(train="t", negatives_per_query=negatives),
        **sections,
    )


class TestPrincipalDirections:
    def test_principal_directions_keep_more_of_the_dot_products_than_random_ones(self):
        vectors = torch.randn(200, 12, dtype=torch.float64) @ torch.randn(
            12, 12, dtype=torch.float64
        )
        whole = vectors @ vectors.T

        def lost(directions):
            short = vectors @ directions.double().T
            return (short @ short.T - whole).norm()

        best = lost(principal_directions(vectors, 4))
        values = torch.linalg.svdvals(vectors)
        assert best.item() == pytest.approx((values[4:] ** 2).norm().item(), rel=1e-4), (
            "what Eckart and Young say is the least"
        )
        assert all(lost(torch.linalg.qr(torch.randn(12, 4))[0].T) > best for _ in range(5))


@pytest.fixture(scope="module")
def rows():
    words = ("disk", "account", "database", "machine", "query", "region")
    return Rows.of(
        [
            Row(f"{verb} a {word}", f"how to {verb} one {word} in {place}")
            for verb in ("delete", "create", "show")
            for word in words
            for place in "ab"
        ]
    )


class TestStart:
    def run(self, folder, **settings):
        model = {
            "backbone": str(folder),
            "projection_dimensions": 5,
            "projection_start": "pca",
            "normalize": True,
        } | settings
        return run_of(model, machine=MachineSection(accelerator="cpu", precision="fp32"))

    def test_projection_keeps_the_principal_directions_of_training_texts(self, toy_folder, rows):
        run = self.run(toy_folder("bert"))
        encoder = build_model(run)
        before = encoder.projection.weight.detach().clone()
        family_of(run).start(run, encoder, rows)
        whole = build_dense_encoder(DenseSettings(backbone=str(toy_folder("bert")), lora=None))
        vectors = np.concatenate(
            [
                encode(whole, sorted({row.query for row in rows}), "query"),
                encode(whole, sorted({row.positive for row in rows}), "document"),
            ]
        )
        _, _, directions = np.linalg.svd(vectors.astype(np.float64))
        found = encoder.projection.weight.detach().numpy()
        assert np.allclose(np.abs(found @ directions[:5].T), np.eye(5), atol=1e-3)
        assert (encoder.projection.weight - before).norm() > 0.1
        again = build_model(run)
        family_of(run).start(run, again, rows.select(np.arange(len(rows))[::-1].copy()))
        assert torch.allclose(again.projection.weight, encoder.projection.weight, atol=1e-5), (
            "whatever the order of the rows"
        )

    def test_second_initialisation_of_a_projection_is_refused(self, toy_folder, rows, tmp_path):
        save_encoder(build_model(self.run(toy_folder("bert"))), tmp_path / "model")
        run = self.run(tmp_path / "model")
        with pytest.raises(BadRecipe, match="would replace a trained projection"):
            family_of(run).start(run, build_model(run), rows)

    def test_more_directions_than_dimensions_are_refused(self, toy_folder, rows):
        run = self.run(toy_folder("bert"), projection_dimensions=40)
        with pytest.raises(BadRecipe, match="at most 32 directions"):
            family_of(run).start(run, build_model(run), rows)

    def test_too_few_texts_are_refused(self, toy_folder, rows):
        run = self.run(toy_folder("bert"))
        with pytest.raises(BadData, match="2 distinct training texts do not span 5 directions"):
            family_of(run).start(run, build_model(run), rows[:1])


class TestNarrowed:
    def test_narrow_vector_is_the_beginning_at_length_1(self, toy_folder):
        encoder = read_encoder(str(toy_folder("bert")))
        whole, short = (
            encode(encoder, SENTENCES, "query"),
            encode(encoder.with_dimensions(10), SENTENCES, "query"),
        )
        assert np.allclose(
            short, whole[:, :10] / np.linalg.norm(whole[:, :10], axis=1, keepdims=True), atol=1e-6
        )
        assert encoder.dimensions == 32
        assert encode(encoder, SENTENCES, "query").shape == (4, 32)
        assert next(encoder.parameters()) is next(encoder.with_dimensions(10).parameters())

    def test_more_dimensions_than_exist_are_refused(self, toy_folder):
        with pytest.raises(BadModel, match="can only be cut"):
            read_cut(str(toy_folder("bert")), None, 33)

    def test_token_vectors_are_not_narrowed(self, toy_folder, tmp_path):
        save_encoder(
            build_late_interaction_encoder(
                LateInteractionSettings(backbone=str(toy_folder("bert")), lora=None)
            ),
            tmp_path / "late",
        )
        with pytest.raises(BadModel, match="leave out --dimensions"):
            read_cut(str(tmp_path / "late"), None, 8)

    def test_sentence_transformers_truncates_the_same_way(self, toy_folder, tmp_path):
        from sentence_transformers import SentenceTransformer

        save_encoder(
            build_dense_encoder(DenseSettings(backbone=str(toy_folder("bert")), lora=None)),
            tmp_path / "model",
        )
        theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu", truncate_dim=10).encode(
            list(SENTENCES), normalize_embeddings=True
        )
        assert (
            np.abs(
                encode(read_cut(str(tmp_path / "model"), None, 10), SENTENCES, "document") - theirs
            ).max()
            < 1e-5
        )


class TestLoss:
    def loss(self, run, toy_folder, teachers):
        encoder = build_model(
            run.model_copy(
                update={"model": run.model.model_copy(update={"backbone": str(toy_folder("bert"))})}
            )
        )
        return encoder, *students.with_students(
            run,
            build_objective(run.objective)[0],
            dot,
            encoder,
            teachers,
            encoder.contract.normalize,
        )

    def test_loss_is_the_weighted_sum(self, toy_folder):
        parts = {}
        for weight, own in ((1.0, 0.0), (0.25, 3.0)):
            run = run_of(
                teacher=DistributionTeacher(models=("t",), weight=weight, objective_weight=own)
            )
            encoder, loss, _ = self.loss(run, toy_folder, [teacher_of()])
            outcome = loss(full_batch_of(encoder), encoder, torch.tensor(0.05))
            metrics = {"loss": outcome.loss, **outcome.metrics}
            parts[own] = {name: value.item() for name, value in metrics.items()}
        assert parts[0.0]["loss"] == parts[0.0]["teacher_loss"] > 1e-3
        assert parts[3.0]["teacher_loss"] == pytest.approx(parts[0.0]["teacher_loss"])
        assert parts[3.0]["loss"] == pytest.approx(
            3 * parts[3.0]["objective_loss"] + 0.25 * parts[3.0]["teacher_loss"]
        )

    def test_losses_of_widths_are_summed(self, toy_folder):
        run = run_of(matryoshka=BiEncoderMatryoshka(dimensions=(32, 8), weights=(1.0, 0.5)))
        encoder, loss, head = self.loss(run, toy_folder, [])
        found = loss(full_batch_of(encoder), encoder, torch.tensor(0.05))
        assert found.loss.item() == pytest.approx(
            found.metrics["loss_at_32"].item() + 0.5 * found.metrics["loss_at_8"].item()
        )
        assert abs(found.metrics["loss_at_32"] - found.metrics["loss_at_8"]) > 1e-3
        assert head is None

    def test_widths_without_the_full_width_are_refused(self, toy_folder):
        with pytest.raises(BadRecipe, match="have 32 dimensions, .* make 32 the largest"):
            self.loss(run_of(matryoshka=BiEncoderMatryoshka(dimensions=(16, 8))), toy_folder, [])

    def test_layers_without_the_full_depth_are_refused(self, toy_folder):
        with pytest.raises(BadRecipe, match="has 2 layers, .* make 2 the largest"):
            self.loss(run_of(matryoshka=BiEncoderMatryoshka(layers=(3, 1))), toy_folder, [])

    @pytest.mark.parametrize("objective", [BiEncoderContrastiveObjective(), MarginMseObjective()])
    @pytest.mark.parametrize("dimensions", [None, (32, 8)])
    def test_loss_of_layers_is_the_sum_over_cut_models(self, toy_folder, dimensions, objective):
        nest = BiEncoderMatryoshka(
            layers=(2, 1),
            layer_weights=(1.0, 0.25),
            dimensions=dimensions,
            weights=dimensions and (1.0, 0.5),
        )
        run = run_of(
            matryoshka=nest,
            objective=objective,
            teacher=DistributionTeacher(models=("t",), weight=0.5),
        )
        encoder, loss, _ = self.loss(run, toy_folder, [teacher_of()])
        batch, temperature = full_batch_of(encoder), torch.tensor(0.05)
        found = loss(
            batch, in_microbatches(students.training_encode(run, encoder), 24, 30), temperature
        )
        found.loss.backward()
        wanted, gradients = 0.0, {}
        for depth, of_depth in ((2, 1.0), (1, 0.25)):
            for width, of_width in ((32, 1.0), (8, 0.5)) if dimensions else ((32, 1.0),):
                shallow, plain, _ = self.loss(
                    run.model_copy(update={"matryoshka": None}), toy_folder, [teacher_of()]
                )
                del shallow.backbone.encoder.layer[depth:]
                part = plain(batch, shallow.with_dimensions(width), temperature).loss
                (of_depth * of_width * part).backward()
                wanted += of_depth * of_width * part.item()
                for name, parameter in shallow.named_parameters():
                    gradients[name] = gradients.get(name, 0) + parameter.grad
        assert found.loss.item() == pytest.approx(wanted, rel=1e-5)
        for name, parameter in encoder.named_parameters():
            assert torch.allclose(
                parameter.grad,
                gradients[name],
                rtol=1e-3,
                atol=1e-5 * parameter.grad.abs().max().item() + 1e-6,
            ), name
        assert gradients["backbone.encoder.layer.1.output.dense.weight"].norm() > 1e-3
        sizes = ("1_layers_8", "2_layers_32") if dimensions else ("1_layers", "2_layers")
        assert {f"loss_at_{size}" for size in sizes} <= set(found.metrics)

    def test_guide_and_teacher_encode_once_per_step(self, toy_folder, monkeypatch):
        folder = str(toy_folder("bert"))
        run = run_of(
            {"backbone": folder},
            objective=BiEncoderContrastiveObjective(guide=folder),
            matryoshka=BiEncoderMatryoshka(dimensions=(32, 8), layers=(2, 1)),
            machine=MachineSection(accelerator="cpu"),
        )
        asked = []

        class Watched(Outscoring):
            def __call__(self, batch):
                asked.append(batch)
                return super().__call__(batch)

        monkeypatch.setattr(bi_encoder, "Outscoring", Watched)
        encoder = build_model(run)
        module = lightning_module(run, encoder, 1)
        first, second = full_batch_of(encoder), full_batch_of(encoder)
        for batch in (first, second, first):
            module.objective(batch, module.micro_batching.for_step(0), module.temperature())
        assert [id(batch) for batch in asked] == [id(first), id(second), id(first)], (
            "once a step, and anew for another batch"
        )

    def test_projection_is_trained_only_if_widths_differ(self, toy_folder):
        run = run_of(teacher=VectorsTeacher(models=("t",)))
        assert self.loss(run, toy_folder, [teacher_of(32)])[2] is None
        first, second = (self.loss(run, toy_folder, [teacher_of(7)])[2] for _ in range(2))
        assert torch.equal(first.weight, second.weight), "of the recipe's seed"


def full_batch_of(encoder):
    from matrix import batch_of

    return batch_of(encoder, rank(), ranks())


def gradient_of_head(folder):
    """Of the projection to the teacher's width, the mean over ranks."""
    torch.manual_seed(1)
    run = run_of(
        {"backbone": str(folder)}, teacher=VectorsTeacher(models=("t",), distance="cosine")
    )
    encoder = build_model(run)
    loss, head = students.with_students(
        run, build_objective(run.objective)[0], dot, encoder, [teacher_of(7)], normalize=True
    )
    value = loss(full_batch_of(encoder), encoder, torch.tensor(0.05)).loss
    gradient = torch.autograd.grad(value, head.weight)[0]
    if ranks() > 1:
        distributed.all_reduce(gradient)
    return value.item(), gradient / ranks()


def pairs(folder):
    path = folder / "train.jsonl"
    subjects = ("disk", "account", "region", "machine", "database", "vault", "network", "cluster")
    rows = [
        (f"{verb} {subject}", f"how to {verb} one {subject}")
        for subject in subjects
        for verb in ("delete", "create", "list", "show")
    ]
    lines = [
        {"query": query, "positive": positive, "negative": rows[(number + 4) % len(rows)][1]}
        for number, (query, positive) in enumerate(rows)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


LATE, SPARSE = "late", "sparse"
RUNS = {
    "from a sparse teacher": (
        {},
        {"kind": "distribution", "models": [SPARSE], "teacher_temperature": 1.0},
        {},
    ),
    "from a late-interaction teacher": (
        {"layers": 1, "projection_dimensions": 8, "projection_start": "pca"},
        {"kind": "distribution", "models": [LATE], "teacher_temperature": 1.0},
        {},
    ),
    "from margins": (
        {},
        {"kind": "margins", "models": [LATE, "roberta"], "objective_weight": 0.0},
        {"data": {"negatives_per_query": 1}},
    ),
    "from wider vectors": (
        {"projection_dimensions": 8},
        {"kind": "vectors", "models": ["roberta"]},
        {},
    ),
    "static and nested": (
        {"static": {"dimensions": 16}},
        {"kind": "distribution", "models": ["roberta"]},
        {"matryoshka": {"dimensions": [16, 4]}},
    ),
    "inside layers": (
        {},
        {"kind": "distribution", "models": ["roberta"]},
        {"matryoshka": {"layers": [2, 1], "dimensions": [32, 8]}},
    ),
    "hard negatives": (
        {},
        None,
        {"objective": {"kind": "contrastive", "hardness": {"top_k": 3, "beta": 0.5}}},
    ),
}


def save_sparse_teacher(toy_folder, folder):
    """With a table of queries."""
    backbone = str(masked_lm(toy_folder("bert")))
    settings = SparseSettings(backbone=backbone, lora=None, query_table="trained")
    save_encoder(build_sparse_encoder(settings), folder)


def test_dense_vectors_of_a_sparse_teacher_are_refused(toy_folder, tmp_path, rows):
    save_sparse_teacher(toy_folder, tmp_path / SPARSE)
    run = run_of(
        machine=MachineSection(accelerator="cpu"),
        teacher=VectorsTeacher(models=(str(tmp_path / SPARSE),)),
    )
    with pytest.raises(BadRecipe, match="needs one dense vector per text, but .* sparse vectors"):
        students.load_teachers(run, rows)


@pytest.mark.parametrize("name", RUNS)
def test_student_is_trained_from_end_to_end(name, toy_folder, tmp_path):
    model, teacher, more = RUNS[name]
    torch.manual_seed(3)
    if teacher is not None and LATE in teacher["models"]:
        settings = LateInteractionSettings(
            backbone=str(toy_folder("bert")), projection_dimensions=8, lora=None
        )
        save_encoder(build_late_interaction_encoder(settings), tmp_path / LATE)
    if teacher is not None and SPARSE in teacher["models"]:
        save_sparse_teacher(toy_folder, tmp_path / SPARSE)
    if teacher is not None:
        models = [
            str(tmp_path / each) if each in (LATE, SPARSE) else str(toy_folder(each))
            for each in teacher["models"]
        ]
        more = {**more, "teacher": teacher | {"models": models}}
    content = {
        "name": "student",
        "output": str(tmp_path / "runs"),
        "model": {"backbone": str(toy_folder("bert")), "tuning": {"kind": "full"}, **model},
        "machine": {"accelerator": "cpu", "precision": "fp32"},
        "optimization": {"batch_size": 4, "max_steps": 2, "warmup_steps": 0},
        **more,
        "data": {"train": str(pairs(tmp_path)), **more.get("data", {})},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(content))
    fit(tmp_path / "recipe.yaml", [])
    records = [
        json.loads(line)
        for line in (tmp_path / "runs" / "student" / "log.jsonl").read_text().splitlines()
    ]
    steps = [record for record in records if "train/loss" in record]
    assert len(steps) == 2
    assert all(record["train/gradient_norm"] > 0 for record in steps)
    if teacher is not None:
        assert all(record["train/teacher_loss"] > 0 for record in steps)
        assert len(list((tmp_path / "runs" / "teachers").iterdir())) == len(teacher["models"])
    saved = read_model(str(tmp_path / "runs" / "student" / "model"))
    assert saved.dimensions == {
        "from a late-interaction teacher": 8,
        "from wider vectors": 8,
        "static and nested": 16,
    }.get(name, 32)
    started = build_model(load_recipe(tmp_path / "recipe.yaml"))
    assert largest_change(tmp_path / "runs" / "student", started) > 1e-6, "something was learned"


def test_stale_teacher_cache_is_refused_unless_replaced(toy_folder, tmp_path):
    teacher = read_encoder(str(toy_folder("roberta")))
    save_encoder(teacher, tmp_path / "teacher")
    content = {
        "name": "first",
        "output": str(tmp_path / "runs"),
        "model": {"backbone": str(toy_folder("bert")), "tuning": {"kind": "full"}},
        "machine": {"accelerator": "cpu", "precision": "fp32"},
        "optimization": {"batch_size": 4, "max_steps": 1},
        "teacher": {"kind": "distribution", "models": [str(tmp_path / "teacher")]},
        "data": {"train": str(pairs(tmp_path))},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(content))
    fit(tmp_path / "recipe.yaml", [])
    with torch.no_grad():
        next(teacher.parameters())[5, 0] += 1
    save_encoder(teacher, tmp_path / "teacher", replace=True)
    with pytest.raises(BadFolder, match="made of another teacher: its weights have changed"):
        fit(tmp_path / "recipe.yaml", ["name=second"])
    assert not (tmp_path / "runs" / "second").exists()
    fit(tmp_path / "recipe.yaml", ["name=second"], replace=True)
    assert (tmp_path / "runs" / "second" / "model").is_dir()


def test_projection_to_the_teacher_learns_the_same_on_any_number_of_ranks(toy_folder):
    value, wanted = gradient_of_head(toy_folder("bert"))
    assert wanted.norm() > 1e-3
    for found_value, found in on_ranks(2, gradient_of_head, toy_folder("bert")):
        assert found_value == pytest.approx(value, rel=1e-5)
        assert (found - wanted).norm() / wanted.norm() < 1e-5


def test_encode_command_writes_narrow_vectors(toy_folder, tmp_path, monkeypatch):
    import io
    import sys

    save_encoder(
        build_dense_encoder(DenseSettings(backbone=str(toy_folder("bert")), lora=None)),
        tmp_path / "model",
    )
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a disk\na region\n")))
    encode_command(
        str(tmp_path / "model"), "document", tmp_path / "v.npy", dimensions=6, precision="fp32"
    )
    assert np.load(tmp_path / "v.npy").shape == (2, 6)
