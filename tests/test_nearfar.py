"""`import nearfar`: quick, ours, and whole: each function does what its command does."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import nearfar
from trainer.recipe.load import load_recipe

WORDS = ("disk", "storage", "account", "query", "database", "machine", "region", "western")
TEXTS = [f"{first} {second}" for first in WORDS for second in WORDS]


def python(*arguments, path, cwd):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


class TestImport:
    def test_import_loads_nothing_heavy(self, repository, tmp_path):
        code = (
            "import sys, nearfar; print([name for name in ('torch', 'numpy', 'pydantic', 'rich')"
            " if name in sys.modules])"
        )
        assert python("-c", code, path=[repository], cwd=tmp_path).stdout == "[]\n"

    @pytest.fixture
    def shadow(self, tmp_path):
        """A folder on the path before ours, with another `trainer` in it."""
        (tmp_path / "shadow/trainer").mkdir(parents=True)
        (tmp_path / "shadow/trainer/__init__.py").write_text('"""Trains puppies."""\n')
        return tmp_path / "shadow"

    def test_other_trainer_on_the_path_is_named(self, shadow, repository, tmp_path):
        ended = python("-c", "import nearfar", path=[shadow, repository], cwd=tmp_path)
        assert ended.returncode == 1
        line = ended.stderr.splitlines()[-1]
        assert line.startswith("ImportError: nearfar cannot start: the import name `trainer`")
        assert str(shadow / "trainer/__init__.py") in line
        assert "rename that one, or start Python where it is not on the path" in line

    def test_distribution_of_another_trainer_is_named(self, shadow, repository, tmp_path):
        metadata = shadow / "puppy_school-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: puppy-school\nVersion: 1")
        (metadata / "top_level.txt").write_text("trainer\n")
        ended = python("-c", "import nearfar", path=[shadow, repository], cwd=tmp_path)
        line = ended.stderr.splitlines()[-1]
        assert "of the distribution puppy-school" in line
        assert "pip uninstall puppy-school" in line

    def test_command_reports_the_other_trainer_in_one_line(self, shadow, repository, tmp_path):
        script = tmp_path / "nearfar"  # as pip writes it
        script.write_text("import sys\nfrom nearfar import main\nsys.exit(main())\n")
        ended = python(script, "--help", path=[shadow, repository], cwd=tmp_path)
        assert ended.returncode == 2
        (line,) = ended.stderr.splitlines()
        assert line.startswith("error: nearfar cannot start: the import name `trainer` belongs to")
        helped = python(script, "--help", path=[repository], cwd=tmp_path)
        assert helped.returncode == 0
        assert "evaluate" in helped.stdout

    def test_other_trainer_that_was_imported_first_is_named(self, repository, tmp_path):
        (tmp_path / "trainer.py").write_text("")
        code = "import trainer, sys; sys.path.insert(0, sys.argv[1]); import nearfar"
        ended = python("-c", code, repository, path=[tmp_path], cwd=tmp_path)
        assert f"belongs to {tmp_path / 'trainer.py'}" in ended.stderr.splitlines()[-1]


@pytest.fixture
def settings(tmp_path, toy_folder):
    rows = [{"query": f"the {text}", "positive": f"a {text}"} for text in TEXTS]
    for name, part in (("train", rows[:48]), ("held-out", rows[48:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (tmp_path / "corpus.jsonl").write_text(
        "".join(
            json.dumps({"_id": str(number), "text": f"a {text}"}) + "\n"
            for number, text in enumerate(TEXTS)
        )
    )
    return {
        "name": "toy",
        "output": str(tmp_path),
        "model": {"backbone": str(toy_folder("bert")), "tuning": {"kind": "full"}},
        "data": {
            "train": str(tmp_path / "train.jsonl"),
            "validation": str(tmp_path / "held-out.jsonl"),
            "test": str(tmp_path / "held-out.jsonl"),
        },
        "optimization": {"batch_size": 16, "epochs": 3, "learning_rate": 0.01},
        "machine": {"accelerator": "cpu", "precision": "fp32"},
    }


def test_model_is_trained_evaluated_and_searched_with(settings, tmp_path, capsys):
    result = nearfar.fit(settings, {"optimization.epochs": 2, "name": "changed"})
    assert result.folder == tmp_path / "changed"
    assert load_recipe(result.folder / "recipe.yaml").optimization.epochs == 2
    text = repr(result)
    assert text.splitlines()[0] == str(result.verdict)
    assert text.splitlines()[-1] == f"model: {result.model}"
    assert "ndcg@10" in text

    model = nearfar.load(result.model)
    vectors = model.encode(TEXTS[:3])
    assert vectors.shape == (3, 32)
    np.testing.assert_allclose(model.encode(TEXTS[1]), vectors[1], atol=1e-6)
    assert "32 dimensions" in repr(model)
    with pytest.raises(nearfar.NearfarError, match="compare what encode"):
        model.score([("a", "b")])

    measured = nearfar.evaluate(result.model, tmp_path / "held-out.jsonl", precision="fp32")
    assert measured.systems[-1].mean() == pytest.approx(result.evaluation.systems[-1].mean())
    assert "<td>BM25</td>" in measured._repr_html_()

    mined = nearfar.mine(result.model, tmp_path / "train.jsonl", tmp_path / "mined", negatives=2)
    rows = [json.loads(line) for line in mined.negatives.read_text().splitlines()]
    assert {len(row["negatives"]) for row in rows} <= {1, 2}
    assert "negatives per query" in repr(mined)

    index = nearfar.index(result.model, tmp_path / "corpus.jsonl", tmp_path / "index")
    assert "64 documents" in repr(index)
    found = nearfar.search(tmp_path / "index", "the disk storage", k=3)
    assert len(found) == 3
    assert found[0].score >= found[1].score
    assert repr(found).startswith("the disk storage\n  1. ")
    several = nearfar.search(tmp_path / "index", ["the disk storage", "the disk"], k=3)
    assert [hit.document.id for hit in several[0]] == [hit.document.id for hit in found]
    assert capsys.readouterr().out == "", "results are returned, not printed"


def test_replaced_index_is_opened_again(settings, tmp_path, toy_folder):
    model, place = toy_folder("bert"), tmp_path / "index"
    nearfar.index(model, tmp_path / "corpus.jsonl", place)
    assert len(nearfar.search(place, "disk", k=100)) == 64
    (tmp_path / "one.txt").write_text("one document\n")
    nearfar.index(model, tmp_path / "one.txt", place, replace=True)
    assert len(nearfar.search(place, "disk", k=100)) == 1


def test_documents_are_added_to_all_views_replaced_and_deleted(settings, tmp_path, toy_folder):
    model, place = toy_folder("bert"), tmp_path / "index"
    views = ("words", "more")
    for view in views:
        nearfar.index(model, tmp_path / "corpus.jsonl", place, view=view)
    new_corpus = tmp_path / "new.jsonl"
    new_corpus.write_text('{"_id": "new", "text": "the disk storage of a new machine"}\n')
    with pytest.raises(nearfar.NearfarError, match="not-there"):
        nearfar.delete(place, "not-there")

    summaries = nearfar.add(place, new_corpus)
    assert sorted(summary.folder.name for summary in summaries) == sorted(views)
    assert all("65 documents" in repr(summary) for summary in summaries)
    with pytest.raises(nearfar.NearfarError, match="new"):
        nearfar.add(place, new_corpus)
    nearfar.add(place, new_corpus, replace=True)
    best = nearfar.search(place, "the disk storage of a new machine", k=1, hybrid=True)[0]
    assert best.document.id == "new"
    weights = {"words": 0.3, "bm25": 0.7}
    by_weights = nearfar.search(place, "a new machine", k=1, hybrid=True, weights=weights)[0]
    by_ranks = nearfar.search(place, "a new machine", k=1, hybrid=True, weights={})[0]
    assert by_weights.document.id == "new"
    assert by_weights.score > 0.7 > by_ranks.score, "scaled scores, and reciprocals of ranks"
    with pytest.raises(nearfar.NearfarError, match="give --hybrid too"):
        nearfar.search(place, "a new machine", weights={"bm25": 1})
    for bad in (
        {"words": -1},
        {"words": 0, "bm25": 0},
        {"words": float("nan")},
        "words",
        {"words": "x"},
    ):
        with pytest.raises(nearfar.NearfarError, match="is not a view and a weight above 0"):
            nearfar.search(place, "a new machine", hybrid=True, weights=bad)
    with pytest.raises(ValueError, match="k is -1; ask for at least one document"):
        nearfar.search(place, "a new machine", k=-1, hybrid=True)
    as_text = nearfar.search(place, "a new machine", hybrid=True, weights="words=0.3,bm25=0.7")
    assert as_text[0].score == by_weights.score
    with pytest.raises(TypeError, match="cost is that of a router"):
        nearfar.search(place, "a new machine", cost=0.5)

    nearfar.delete(place, ["new"])
    for view in views:
        assert len(nearfar.search(place, "disk", k=100, view=view)) == 64


def test_bad_arguments_raise_an_error_and_do_not_exit(settings, tmp_path):
    with pytest.raises(nearfar.NearfarError, match=r"optimization\.batch_size"):
        nearfar.fit(settings, {"optimization.batchsize": 8})
    with pytest.raises(nearfar.NearfarError, match="no-such-model"):
        nearfar.load("no-such-model")
    with pytest.raises(
        nearfar.NearfarError,
        match="'negative' is not a setting of mining; its settings are negatives",
    ):
        nearfar.mine("m", "d", tmp_path / "mined", negative=3)


def test_markup_in_documents_is_text_in_a_notebook(settings, tmp_path, toy_folder):
    (tmp_path / "nasty.txt").write_text("<script>alert(1)</script>\x1b[31m\n")
    nearfar.index(toy_folder("bert"), tmp_path / "nasty.txt", tmp_path / "index")
    found = nearfar.search(tmp_path / "index", "<b>")
    assert "<script>" not in found._repr_html_()
    assert "<b>" not in found._repr_html_()
    assert "\x1b" not in repr(found)
