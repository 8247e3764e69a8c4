import gzip

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from trainer.build import checks as recipe_checks
from trainer.build import hardware
from trainer.build.data import DataSets, data_sets, leaked_queries
from trainer.build.families.bi_encoder import BiEncoder
from trainer.build.families.colbert import ColBERT
from trainer.build.module import optimizer_settings, total_steps
from trainer.data.readers.corpus_texts import CorpusTexts
from trainer.data.retrieval_set import retrieval_set_from_rows
from trainer.data.rows import Row, Rows, known_positives
from trainer.errors import BadData, BadMachine, BadRecipe
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.recipe.schema.data import DataSection
from trainer.recipe.schema.families import BiEncoderRecipe, ColBERTRecipe, CrossEncoderRecipe
from trainer.recipe.schema.machine import MachineSection
from trainer.recipe.schema.model import BiEncoderModel, ColBERTModel, CrossEncoderModel, LoraTuning
from trainer.recipe.schema.objective import (
    BiEncoderContrastiveObjective,
    CosentObjective,
    DistillationObjective,
    MarginMseObjective,
)
from trainer.recipe.schema.ranking import (
    PairwiseObjective,
)
from trainer.recipe.schema.training import OptimizationSection
from trainer.runtime import memory
from trainer.scores import maxsim, maxsim_in_pieces, plain_maxsim
from trainer.strategies.machine.plan import SINGLE, Plan


def run_of(**sections):
    return BiEncoderRecipe(
        name="a", model=BiEncoderModel(backbone="b"), **{"data": DataSection(train="c"), **sections}
    )


def test_test_queries_that_are_training_queries_are_counted():
    rows = Rows.of([Row("delete a disk", "a"), Row("list disks", "b")])
    assert (
        leaked_queries(
            known_positives(rows),
            retrieval_set_from_rows(
                [Row("delete a disk", "a"), Row("Delete a disk", "a"), Row("other", "b")], "test"
            ),
        )
        == 1
    )


def test_few_documents_are_named_before_training():
    rows = [Row(f"question {number}", f"answer {number % 90}") for number in range(990)]
    held_out = retrieval_set_from_rows([Row("other", "text")], "validation", CorpusTexts.of({}))
    (warning,) = DataSets(Rows.of(rows), held_out, None).warnings
    assert warning.startswith("the 990 training pairs have only 90 different documents; ")
    assert "validation.interpolate=true" in warning
    more = [Row(f"question {number}", f"answer {number % 200}") for number in range(990)]
    assert not [*DataSets(Rows.of(more), held_out, None).warnings]


@pytest.mark.parametrize(
    ("samples", "advice"), [(5, "at most 5"), (1, "at least two rows"), (0, "at least two rows")]
)
def test_rows_that_fill_no_batch_are_refused_with_advice_that_can_be_followed(samples, advice):
    with pytest.raises(BadData, match=advice):
        total_steps(OptimizationSection(batch_size=8), samples)


def test_max_steps_takes_precedence_over_epochs():
    assert total_steps(OptimizationSection(batch_size=8, epochs=3), 17) == 7
    assert total_steps(OptimizationSection(batch_size=8, epochs=3, max_steps=4), 17) == 4


def test_min_steps_adds_passes_and_never_takes_any():
    few = OptimizationSection(batch_size=8, epochs=3, min_steps=20)
    assert (total_steps(few, 17), total_steps(few, 17_000)) == (20, 6375)
    assert total_steps(OptimizationSection(batch_size=8, min_steps=20, max_steps=4), 17) == 4


def test_cosent_says_that_the_rows_lack_scores():
    with pytest.raises(BadData, match="needs a score"):
        recipe_checks.check_objective(run_of(objective=CosentObjective()), Rows.of([Row("a", "b")]))


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(BadRecipe, match="use bf16 or fp32"):
        hardware.precision(MachineSection(accelerator="cpu", precision="fp16"))


def test_missing_rates_equal_the_main_one_and_warm_up_is_a_share_of_all_steps():
    settings = optimizer_settings(
        OptimizationSection(learning_rate=0.5, head_learning_rate=0.25, warmup_ratio=0.1), 40
    )
    assert (
        settings.learning_rate,
        settings.head_learning_rate,
        settings.temperature_learning_rate,
        settings.warmup_steps,
    ) == (0.5, 0.25, 0.5, 4)


class TestOnMachine:
    def run(self, **machine):
        return run_of(machine=MachineSection(**machine))

    def test_machine_file_decides_what_the_recipe_leaves_open(self):
        plan = Plan("ddp", 2, 1, 2, precision="bf16", accelerator="cpu")
        machine = hardware.on_machine(self.run(), plan).machine
        assert (machine.precision, machine.accelerator) == ("bf16", "cpu")
        assert (
            hardware.on_machine(self.run(precision="fp32"), Plan("ddp", 2, 1, 2)).machine.precision
            == "fp32"
        )

    def test_contradiction_of_recipe_and_machine_file_is_refused(self):
        with pytest.raises(BadMachine, match=r"precision=fp32, but the machine file says bf16"):
            hardware.on_machine(self.run(precision="fp32"), Plan("ddp", 2, 1, 2, precision="bf16"))

    @pytest.mark.parametrize("kind", ["fsdp2", "zero3"])
    def test_sharded_weights_in_4_bits_are_refused(self, kind):
        def run(quantize_4bit):
            model = BiEncoderModel(backbone="b", tuning=LoraTuning(quantize_4bit=quantize_4bit))
            return self.run().model_copy(update={"model": model})

        with pytest.raises(BadMachine, match=f"for {kind}.*quantize_4bit=true.*for DDP"):
            hardware.on_machine(run(True), Plan(kind, 2, 1, 2))
        hardware.on_machine(run(False), Plan(kind, 2, 1, 2))
        hardware.on_machine(run(True), Plan("ddp", 2, 1, 2))


class TestMicroBatching:
    def test_explicit_numbers_are_used(self, toy_folder):
        encoder = build_dense_encoder(DenseSettings(backbone=str(toy_folder("bert"))))
        assert hardware.micro_batching(
            MachineSection(micro_batch_tokens=77, kept_tokens=5, precision="fp32"), encoder, SINGLE
        ) == (77, 5)

    def test_available_memory_decides_by_default(self, toy_folder):
        encoder = build_dense_encoder(DenseSettings(backbone=str(toy_folder("bert"))))
        alone, shared = (
            hardware.micro_batching(
                MachineSection(precision="fp32", accelerator="cpu"), encoder, plan
            )
            for plan in (SINGLE, Plan("ddp", 8, 1, 8))
        )
        assert alone[0] == shared[0] == hardware.CPU_TOKENS
        assert 4 * shared[1] < alone[1]

    @pytest.mark.parametrize(
        ("layers", "width", "tokens"), [(6, 384, 65_000), (12, 768, 16_384), (24, 1024, 16_384)]
    )
    def test_small_models_have_larger_micro_batches_on_a_gpu(self, layers, width, tokens):
        config = BertConfig(
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            hidden_size=width,
            intermediate_size=4 * width,
        )
        with torch.device("meta"):
            model = BertModel(config, add_pooling_layer=False)
        assert hardware.tokens_for_gpu(model) == pytest.approx(tokens, rel=0.02)

    def test_memory_limits_micro_batches_on_a_gpu(self, toy_folder, monkeypatch):
        """A quarter of the free memory for one, and room for one that is recomputed."""
        encoder = build_dense_encoder(DenseSettings(backbone=str(toy_folder("bert"))))
        gpu = property(lambda _: torch.device("cuda"))
        monkeypatch.setattr(type(encoder), "device", gpu)
        monkeypatch.setattr(hardware, "accelerator", lambda _: "cuda")
        cost = memory.ActivationCost(per_token=10.0, per_micro_batch=1000.0)
        monkeypatch.setattr(hardware, "document_activation_cost", lambda *_: cost)
        for free_bytes, tokens in ((100_000.0, 2_400), (1e9, hardware.MOST_GPU_TOKENS)):
            monkeypatch.setattr(memory, "free_activation_bytes", lambda *_, free=free_bytes: free)
            found, kept_tokens = hardware.micro_batching(MachineSection(), encoder, SINGLE)
            assert found == tokens
            assert kept_tokens == cost.fitting_tokens(
                free_bytes - cost.total(tokens, tokens), tokens
            )
            both = cost.total(kept_tokens, tokens) + cost.total(tokens, tokens)
            assert 0.9 * free_bytes < both < free_bytes + cost.per_micro_batch


def test_guide_with_another_tokenizer_is_refused(toy_folder):
    encoder = build_dense_encoder(DenseSettings(backbone=str(toy_folder("bert"))))
    run = BiEncoderRecipe(
        name="x",
        model=BiEncoderModel(backbone="b"),
        data=DataSection(train="t"),
        objective=BiEncoderContrastiveObjective(guide=str(toy_folder("roberta"))),
    )
    with pytest.raises(BadRecipe, match="has another tokenizer than"):
        BiEncoder().exclusions(run, encoder)
    same = run.model_copy(
        update={
            "objective": BiEncoderContrastiveObjective(
                guide=str(toy_folder("bert")), teacher_margin=0.5
            )
        }
    )
    assert len(BiEncoder().exclusions(same, encoder)) == 2


@pytest.mark.parametrize(
    ("name", "score"), [("auto", maxsim), ("pieces", maxsim_in_pieces), ("plain", plain_maxsim)]
)
def test_recipe_chooses_how_maxsim_is_computed(name, score):
    run = ColBERTRecipe(
        name="x",
        model=ColBERTModel(backbone="b"),
        data=DataSection(train="t"),
        machine=MachineSection(accelerator="cpu", maxsim=name),
    )
    assert ColBERT().score(run) is score


class TestTaught:
    @pytest.mark.parametrize("objective", [DistillationObjective(), MarginMseObjective()])
    def test_candidate_without_a_score_of_the_teacher_is_refused(self, objective):
        run = BiEncoderRecipe(
            name="x",
            model=BiEncoderModel(backbone="b"),
            data=DataSection(train="t", negatives_per_query=1),
            objective=objective,
        )
        for labels in (None, (1.0,)):
            with pytest.raises(
                BadData,
                match=r"needs the teacher's score of every candidate.* has [01] for 2 candidates",
            ):
                recipe_checks.check_objective(run, Rows.of([Row("q", "p", ("n",), labels)]))
        recipe_checks.check_objective(run, Rows.of([Row("q", "p", ("n",), (1.0, 0.0))]))

    @pytest.mark.parametrize(
        ("family", "model", "objective"),
        [
            (BiEncoderRecipe, BiEncoderModel, DistillationObjective()),
            (BiEncoderRecipe, BiEncoderModel, BiEncoderContrastiveObjective(teacher_margin=0.1)),
            (CrossEncoderRecipe, CrossEncoderModel, PairwiseObjective(graded=True)),
        ],
    )
    def test_later_row_without_scores_is_named_before_training(self, family, model, objective):
        run = family(
            name="x",
            model=model(backbone="b"),
            data=DataSection(train="t", negatives_per_query=1),
            objective=objective,
        )
        rows = [
            Row("q", "p", ("n",), (1.0, 0.0)),
            Row("r", "s", ("t",), (1.0, 0.0)),
            Row("u", "v", ("w",), (1.0,), "t:3"),
        ]
        for some in (Rows.of(rows), Rows.of(rows[::-1]).select(np.array([1, 2, 0]))):
            with pytest.raises(BadData, match="^t:3: 1 scores for 2 candidates"):
                recipe_checks.check_objective(run, some)
        recipe_checks.check_objective(run, Rows.of(rows).select(np.array([1, 0])))

    def test_rows_without_scores_are_taken_where_none_are_compared(self):
        run = run_of(data=DataSection(train="t", negatives_per_query=1))
        rows = [Row("q", "p", ("n",), (1.0, 0.0)), Row("x", "y", ("z",))]
        recipe_checks.check_objective(run, Rows.of(rows))


def test_splits_of_a_compressed_folder_are_used(tmp_path):
    """A BEIR folder may hold .gz files; its dev and test queries are not to be passed over."""
    (tmp_path / "qrels").mkdir()
    files = {
        "corpus.jsonl": '{"_id": "d", "text": "Delete a disk."}\n{"_id": "e", "text": "List."}\n',
        "queries.jsonl": "".join(f'{{"_id": "{name}", "text": "disk {name}"}}\n' for name in "abc"),
        "qrels/train.tsv": "query-id\tcorpus-id\tscore\na\td\t1\n",
        "qrels/dev.tsv": "query-id\tcorpus-id\tscore\nb\td\t1\n",
        "qrels/test.tsv": "query-id\tcorpus-id\tscore\nc\te\t1\n",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    data = data_sets(DataSection(train=str(tmp_path)), seed=1)
    assert data.validation.queries == ("disk b",)
    assert data.test is not None
    assert data.test.queries == ("disk c",)
