"""Recipes with `refresh`: what they may not say, what is searched, and that `nearfar fit` runs
them, with teachers too.
"""

import json
from pathlib import Path

import pytest
from matrix import encoder_of
from pydantic import ValidationError
from ranks import on_ranks

from trainer.batch import identity
from trainer.build import checks as recipe_checks
from trainer.build import hardware
from trainer.build import refresh as build_refresh
from trainer.build.data import data_sets
from trainer.build.families.registry import family_of
from trainer.build.refresh import boundaries, explanation, limit_mining, searched_texts
from trainer.cli.fit import fit
from trainer.cli.main import main
from trainer.collectives import rank
from trainer.data.rows import Row, Rows
from trainer.errors import BadData, BadRecipe
from trainer.mining.task import read_task
from trainer.objectives.exclusions import RepeatedPositives
from trainer.preflight.check import check_run
from trainer.preflight.planned_run import Request
from trainer.recipe.schema.data import DataSection
from trainer.recipe.schema.families import FAMILIES
from trainer.recipe.schema.refresh import RefreshSection
from trainer.retrieval.encoding.taught_vectors import TaughtVectors
from trainer.vectors.dense import DenseVectors

RECIPE = Path(__file__).parents[2] / "recipes/refresh.yaml"
TAUGHT = {"kind": "distribution", "models": ("nowhere",), "candidates": "own"}


def run_of(refresh=None, **changes):
    return FAMILIES[changes.get("kind", "bi_encoder")].model_validate(
        {
            "name": "toy",
            "model": {"backbone": "nowhere"},
            "data": {"train": "none.jsonl"},
            "refresh": refresh or {},
        }
        | changes,
        strict=False,
    )


def rows_of(labels=None, negatives=()):
    return Rows.of(
        [
            Row(f"query {number}", f"document {number}", negatives, labels, f"rows:{number}")
            for number in range(80)
        ]
    )


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"refresh": {"negatives": 9, "depth": 8}},
                (
                    "9 negatives cannot come from ranks 1 to 8; give a larger refresh.depth, a "
                    "smaller refresh.skip_top"
                ),
            ),
            (
                {"refresh": {"min_score": 0.5, "max_score": 0.4}},
                "above refresh.min_score 0.5 and below refresh.max_score",
            ),
        ],
    )
    def test_rules_that_contradict_each_other(self, changes, message):
        with pytest.raises(BadRecipe, match=message):
            recipe_checks.check_objective(run_of(**changes), rows_of())

    def test_triplets_that_may_have_no_negative_are_refused(self):
        """The limit may leave queries without any."""
        with pytest.raises(ValidationError, match=r"set it to null, or data.negatives_per_query"):
            run_of({"max_documents": 9}, objective={"kind": "triplet"})
        run_of({"max_documents": 9})

    def test_missing_corpus_is_refused(self):
        with pytest.raises(BadData, match=r"refresh.corpus=/nowhere does not exist"):
            recipe_checks.check_objective(run_of({"corpus": "/nowhere"}), rows_of())

    def test_first_step_after_the_last_is_refused(self):
        with pytest.raises(
            BadRecipe, match=r"refresh.first_step=5 is never reached, because the run has 5 steps"
        ):
            boundaries(RefreshSection(first_step=5), 5)

    @pytest.mark.parametrize(
        "changes",
        [
            {"objective": {"kind": "triplet"}},
            {"teacher": TAUGHT},
            {"kind": "colbert"},
            {"objective": {"kind": "contrastive", "guide": "g"}},
        ],
    )
    def test_right_recipes_are_accepted(self, changes):
        recipe_checks.check_objective(run_of(**changes), rows_of())

    def test_contradiction_ends_the_command_with_2(self, training, monkeypatch, capsys):
        monkeypatch.setattr(
            "sys.argv", ["nearfar", "fit", str(RECIPE), *training, "refresh.depth=1"]
        )
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert "give a larger refresh.depth" in capsys.readouterr().err


@pytest.mark.parametrize(("accelerator", "precision"), [("cpu", "fp32"), ("cuda", "bf16")])
def test_run_on_a_gpu_mines_in_its_precision(monkeypatch, tmp_path, accelerator, precision):
    monkeypatch.setattr(hardware, "accelerator", lambda machine: accelerator)
    run = run_of(machine={"precision": "bf16"})
    refresh = build_refresh.refresh(run, rows_of(), tmp_path, 2000)
    assert refresh.precision == precision


def test_positive_may_be_padding_only_with_mined_negatives(toy_folder):
    run, encoder = run_of(), encoder_of(toy_folder("bert"), "dot", "full")
    assert family_of(run).exclusions(run, encoder) == [RepeatedPositives()]
    assert family_of(run).exclusions(run.without_refresh(), encoder) == []


@pytest.fixture
def training(tmp_path, toy_folder):
    """Overrides of a recipe: forty pairs with two negatives each, and a corpus beside them."""
    subjects, verbs = (
        ("disk", "account", "region", "machine", "database", "vault", "network", "cluster"),
        ("delete", "create", "list", "show", "query"),
    )
    pairs = [
        (f"{verb} {subject}", f"how to {verb} one {subject} {number}")
        for number, subject in enumerate(subjects)
        for verb in verbs
    ]
    lines = [
        {"query": query, "positive": text, "negatives": [f"no {text}", f"never {text}"]}
        for query, text in pairs
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "corpus.txt").write_text(
        "".join(f"{subject} {verb} further\n" for subject in subjects for verb in verbs)
    )
    settings = {
        "name": "toy",
        "output": tmp_path / "runs",
        "data.train": tmp_path / "train.jsonl",
        "model.backbone": toy_folder("bert"),
        "machine.accelerator": "cpu",
        "machine.precision": "fp32",
        "optimization.batch_size": 4,
        "optimization.max_steps": 5,
        "refresh.every_steps": 2,
        "refresh.percent_of_positive": 0,
        "refresh.corpus": tmp_path / "corpus.txt",
        "validation.every_steps": 2,
    }
    return [f"{key}={value}" for key, value in settings.items()]


def test_fit_mines_from_all_documents_except_held_out_ones(training, tmp_path):
    fit(RECIPE, training)
    folder = tmp_path / "runs/toy"
    assert mined_steps(folder) == [0, 2, 4]
    task = read_task(folder / "refresh/task")
    documents = set(task.documents.range(0, len(task.documents)))
    data = data_sets(DataSection(train=str(tmp_path / "train.jsonl")), 13, all_negatives=True)
    assert set(task.queries.range(0, len(task.queries))) == {row.query for row in data.train}
    corpus = set((tmp_path / "corpus.txt").read_text().splitlines())
    assert documents == corpus | {
        text for row in data.train for text in (row.positive, *row.negatives)
    }
    held_out = set(data.validation.documents) - documents
    assert held_out, "what validation is measured on is not learned from"
    assert (folder / "report.html").is_file()
    assert json.loads((folder / "environment.json").read_text())["data"]["corpus"]["sha256"]


def mined_steps(folder):
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [record["step"] for record in records if "refresh/queries" in record]


def test_nothing_is_mined_among_more_documents_than_the_limit(training, tmp_path, capsys):
    fit(RECIPE, [*training, "name=all", "refresh.max_documents=1000"])
    count = len(read_task(tmp_path / "runs/all/refresh/task").documents)
    capsys.readouterr()
    for name, limit in (("at", count), ("below", count - 1)):
        fit(RECIPE, [*training, f"name={name}", f"refresh.max_documents={limit}"])
        message = f"no negatives are mined, because more than {limit} documents"
        assert (message in capsys.readouterr().err) == (name == "below")
    assert mined_steps(tmp_path / "runs/at") == [0, 2, 4]
    assert mined_steps(tmp_path / "runs/below") == []
    assert not (tmp_path / "runs/below/refresh").exists()


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ([], []),
        (["refresh.corpus=/nowhere"], ["objective: refresh.corpus=/nowhere does not exist"]),
        (["optimization.batch_size=99"], ["steps: 36 training rows do not fill one batch of 99"]),
    ],
)
@pytest.mark.parametrize("limit", [1, None])
def test_check_tells_once_why_nothing_is_mined(training, more, wrong, limit):
    words = [*training, *([f"refresh.max_documents={limit}"] if limit else []), *more]
    findings = check_run(Request(RECIPE, None, words), probe_timeout_seconds=None).entries
    faults = [finding for finding in findings if finding.severity == "wrong"]
    assert [f"{fault.subject}: {fault.text}".partition(";")[0] for fault in faults] == wrong
    remarks = [finding.text for finding in findings if finding.subject == "refresh"]
    if limit and not wrong:
        (remark,) = remarks
        assert remark.startswith("no negatives are mined, because more than 1 documents")


def test_check_tells_when_the_run_validates_that_mines_nothing(training):
    """Mined negatives would make the training longer, and more early validations affordable."""

    def times_of(*words):
        request = Request(RECIPE, None, [*training, "validation.every_steps=null", *words])
        findings = check_run(request, probe_timeout_seconds=None).entries
        (steps,) = [finding.text for finding in findings if finding.subject == "steps"]
        return steps.partition("validation ")[2]

    words = ["optimization.max_steps=null"]
    assert times_of(*words) == "every 9 steps, and after 3, 6"
    assert times_of(*words, "refresh.max_documents=1") == "every 9 steps"


@pytest.mark.parametrize(("extra_lines", "is_mined"), [((0, 1), True), ((1, 0), False)])
def test_ranks_agree_on_mining_where_they_see_other_documents(tmp_path, extra_lines, is_mined):
    for number, count in enumerate(extra_lines):
        (tmp_path / f"{number}.txt").write_text("one\n" + "two\n" * count)
    assert on_ranks(2, _is_mined_on_this_rank, tmp_path) == [is_mined, is_mined]


def _is_mined_on_this_rank(folder):
    run = run_of({"corpus": str(folder / f"{rank()}.txt"), "max_documents": 81})
    return limit_mining(run, rows_of())[0].refresh_section is not None


def test_teacher_vectors_cover_every_text_that_may_be_mined(training, tmp_path, toy_folder):
    fit(
        RECIPE,
        [
            *training,
            f"teacher={{kind: distribution, models: [{toy_folder('mpnet')}], candidates: own}}",
        ],
    )
    (folder,) = (tmp_path / "runs/teachers").iterdir()
    seen = set(TaughtVectors.open(folder, DenseVectors).names["document"].tolist())
    corpus = (tmp_path / "corpus.txt").read_text().splitlines()
    assert {identity(text) for text in corpus} <= seen
    records = [
        json.loads(line) for line in (tmp_path / "runs/toy/log.jsonl").read_text().splitlines()
    ]
    assert all(record["train/teacher_loss"] > 0 for record in records if "train/loss" in record)


def test_explanation_counts_boundaries_and_texts(tmp_path):
    (tmp_path / "corpus.txt").write_text("document 3\nanother\n")
    run = run_of(
        {"corpus": str(tmp_path / "corpus.txt"), "every_steps": 2, "first_step": 1},
        optimization={"batch_size": 8},
    )
    assert explanation(run, rows_of(), 9) == (
        "4 negatives per query are mined 4 times, after 1, 3, 5, ... steps: 81 documents are"
        " encoded, and up to 16 queries search them"
    )
    assert "are mined once, after 1 steps" in explanation(run, rows_of(), 2)
    assert ": 80 documents (of the training pairs alone; refresh.corpus adds others) are" in (
        explanation(run_of(), rows_of(), 2000)
    )
    assert list(searched_texts(run_of().model_copy(update={"refresh": None}), rows_of())) == []
