"""`nearfar data split` on real files: what it writes, says and refuses."""

import json
import os
import signal
import subprocess
import sys

import pytest
from forked import nearfar
from killable import Run

from trainer.data.retrieval_set import read_retrieval_set
from trainer.retrieval.bm25 import bm25_run

SUBJECTS = (
    "disk",
    "vault",
    "key",
    "queue",
    "zone",
    "image",
    "topic",
    "policy",
    "cluster",
    "secret",
)
VERBS = ("delete", "create", "list", "show", "copy", "move")


@pytest.fixture
def pairs(tmp_path):
    """60 queries with one answer each, of which two answers have two more queries."""
    pairs = [
        (f"how to {verb} one {subject}", f"{verb}s a {subject}")
        for verb in VERBS
        for subject in SUBJECTS
    ]
    pairs += [("remove my disk", "deletes a disk"), ("disk away", "deletes a disk")]
    pairs += [("How to copy one ZONE?", "copys a zone twice"), pairs[0]]
    return write(tmp_path / "pairs.jsonl", [{"query": q, "positive": p} for q, p in pairs])


@pytest.fixture
def corpus(tmp_path):
    """The answers but one, one of them twice, and other documents with titles."""
    texts = [f"{verb}s a {subject}" for verb in VERBS for subject in SUBJECTS][1:]
    records = [{"_id": f"doc-{number}", "text": text} for number, text in enumerate(texts)]
    records += [{"_id": "twice", "text": texts[0]}]
    records += [
        {"_id": f"q{number}", "title": "no", "text": f"answer {number}"} for number in range(50)
    ]
    return write(tmp_path / "docs.jsonl", records)


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def split(*words):
    ended = nearfar("data", "split", *words)
    assert ended.returncode == 0, ended.stderr
    return ended


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_folder_has_no_leaks_and_is_searched_in_its_corpus(pairs, corpus, tmp_path):
    folder = tmp_path / "data/mine"
    said = split(pairs, "--corpus", corpus, "-o", folder, "--dev", "0.2", "--test", "0.3")
    lines = said.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[1:4]] == ["train", "dev", "test"]
    assert lines[4] == (
        "5 queries stay together in 2 groups, the largest of 3; 2 queries are near-identical to"
        " another"
    )
    assert f"109 documents of {corpus}; 2 of the pairs were not in it and were added" in said.stdout
    assert "1 duplicate pairs were dropped" in said.stdout
    assert "1 documents with the text of another were dropped" in said.stdout
    assert (folder / "README.txt").read_text().endswith("\n".join(lines[:-1]) + "\n")
    counts = json.loads((folder / "source.json").read_text())["counts"]
    assert (counts["documents"], counts["queries"]) == (111, 63)

    checked = nearfar("data", "check", folder, "--json")
    assert checked.returncode == 0, checked.stdout
    summary = json.loads(checked.stdout)
    assert summary["leaks"] == []
    assert {part["name"]: part["queries"] for part in summary["parts"]} == {
        "train": counts["train_queries"],
        "dev": 13,
        "test": 19,
    }
    assert sum(part["pairs"] for part in summary["parts"]) == 63
    test = read_retrieval_set(str(folder))
    assert len(test.documents) == 111
    assert test.limitation == ""
    assert not {*test.query_ids} & {*test.document_ids}
    assert all(bm25_run(test, 5).values())


def test_model_is_trained_and_measured_on_the_folder(pairs, corpus, tmp_path, toy_folder):
    folder = tmp_path / "mine"
    split(pairs, "--corpus", corpus, "-o", folder)
    run = Run(tmp_path, toy_folder("bert"), "bi-encoder-full", f"data.train={folder}")
    null = ("data.validation=null", "data.test=null")
    ended = nearfar(*run.words("run", *null, "optimization.max_steps=3"))
    assert ended.returncode == 0, ended.stderr
    assert "figures are too high" not in ended.stdout + ended.stderr
    evaluation = json.loads((run.path("run") / "evaluation.json").read_text())
    assert (evaluation["documents"], evaluation["limitation"]) == (111, "")


def test_splits_are_the_same_for_any_order_of_the_lines(pairs, corpus, tmp_path):
    split(pairs, "--corpus", corpus, "-o", tmp_path / "one")
    split(pairs, "--corpus", corpus, "-o", tmp_path / "same")
    one, same = (content(tmp_path / name) for name in ("one", "same"))
    assert {name for name in one if one[name] != same[name]} <= {"README.txt", "source.json"}
    lines = pairs.read_text().splitlines()
    pairs.write_text("\n".join(reversed(lines)) + "\n")
    split(pairs, "--corpus", corpus, "-o", tmp_path / "other")
    for name in ("dev", "test"):
        first, second = (
            {*read_retrieval_set(str(tmp_path / folder), name).queries}
            for folder in ("one", "other")
        )
        assert first == second


def test_corpus_of_the_pairs_alone_is_said(pairs, tmp_path):
    said = split(pairs, "-o", tmp_path / "mine")
    text = "the corpus is the 61 documents of the pairs, as no --corpus was given"
    assert text in said.stdout
    assert text in (tmp_path / "mine/README.txt").read_text()


def test_negatives_and_low_scores_become_documents(tmp_path):
    records = [
        {"query": f"query {n}", "positive": f"answer {n}", "negatives": [f"no {n}"]}
        for n in range(10)
    ]
    said = split(write(tmp_path / "n.jsonl", records), "-o", tmp_path / "negatives")
    assert "10 negatives are documents of the corpus" in said.stdout
    assert len(read_retrieval_set(str(tmp_path / "negatives")).documents) == 20
    records = [
        {"query": f"query {n}", "positive": f"text {n} {score}", "score": score}
        for n in range(10)
        for score in (0, 1)
    ]
    said = split(write(tmp_path / "s.jsonl", records), "-o", tmp_path / "scores")
    assert "10 pairs with low scores are no answers" in said.stdout
    test = read_retrieval_set(str(tmp_path / "scores"))
    assert len(test.documents) == 20
    assert all(len(grades) == 1 for grades in test.qrels.values())


def test_giant_group_gives_a_warning_or_is_refused(tmp_path):
    records = [{"query": f"query {n}", "positive": "the same"} for n in range(90)]
    records += [{"query": f"other {n}", "positive": f"answer {n}"} for n in range(10)]
    path = write(tmp_path / "giant.jsonl", records)
    said = split(path, "-o", tmp_path / "small", "--test", "0.09", "--dev", "0.05")
    assert "dev has 1 of the 5 queries that were asked for: the largest group has 90 of 100" in (
        said.stderr
    )
    assert "warning: test" not in said.stderr
    ended = nearfar("data", "split", path, "-o", tmp_path / "refused")
    assert (ended.returncode, "would have no queries" in ended.stderr) == (2, True)
    assert not (tmp_path / "refused").exists()
    said = split(path, "-o", tmp_path / "shared", "--shared-documents")
    assert said.stderr == ""
    assert "dev: 10 pairs, 10 queries" in said.stdout


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--test", "0.9", "--dev", "0.2"], "leave nothing for training"),
        (["--corpus", "absent.jsonl"], "absent.jsonl cannot be read"),
        (["--column", "query=title"], "no column 'title'"),
        (["-o", "."], "cannot be replaced"),
        (["-o", "full"], "full is not empty"),
        (["-o", "full", "--replace"], "it has files that this command does not write (mine.txt)"),
        (["-o", "a-file"], "is a file or a link"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(words, problem, pairs, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("precious")
    (tmp_path / "a-file").write_text("")
    before = content(tmp_path)
    ended = nearfar("data", "split", pairs, "-o", "new", *words, folder=tmp_path)
    assert (ended.returncode, problem in ended.stderr) == (2, True), ended.stderr
    assert content(tmp_path) == before


def test_bad_sources_are_refused(pairs, tmp_path):
    split(pairs, "-o", tmp_path / "mine")
    corpus = write(tmp_path / "docs.jsonl", [{"_id": "a\tb", "text": "x"}])
    ended = nearfar("data", "split", pairs, "--corpus", corpus, "-o", tmp_path / "new")
    assert (ended.returncode, "the id 'a\\tb' cannot be used" in ended.stderr) == (2, True)
    bad = tmp_path / "bad.jsonl"
    bad.write_text(pairs.read_text() + '{"query": "q"}\n')
    for source, code, problem in (
        (tmp_path / "mine", 2, "is a BEIR folder"),
        (tmp_path / "absent.jsonl", 2, "does not exist"),
        (bad, 87, "the field 'positive' is missing"),
    ):
        ended = nearfar("data", "split", source, "-o", tmp_path / "new")
        assert (ended.returncode, problem in ended.stderr) == (code, True), ended.stderr
        assert not (tmp_path / "new").exists()
    split(bad, "-o", tmp_path / "new", "--max-bad-rows-ratio", "0.1")


def test_replace_replaces_a_data_set(pairs, corpus, tmp_path):
    split(pairs, "-o", tmp_path / "mine")
    split(pairs, "--corpus", corpus, "-o", tmp_path / "mine", "--replace")
    assert len(read_retrieval_set(str(tmp_path / "mine")).documents) == 111
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "pairs.jsonl", "docs.jsonl"}


def test_killed_command_leaves_the_former_folder(pairs, tmp_path):
    """It is killed as it renames the new folder, when all files are written."""
    split(pairs, "-o", tmp_path / "mine")
    before = content(tmp_path / "mine")
    code = (
        "import os, signal, sys; from trainer.storage import atomic\n"
        "atomic.move_into_place = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from trainer.cli.main import main; main()"
    )
    words = ("data", "split", pairs, "-o", tmp_path / "mine", "--replace", "--test", "0.3")
    ended = subprocess.run([sys.executable, "-c", code, *map(str, words)], env=os.environ)
    assert ended.returncode == -signal.SIGKILL
    assert content(tmp_path / "mine") == before
