"""Figures of a test file: among the documents of `data.corpus` or `--corpus`, or marked as too
high wherever they appear.
"""

import json
import re

import pytest
from forked import nearfar
from killable import TEXTS, Run

TOO_HIGH = "figures are too high"
MARK = f"earched among the 24 answers of the test set alone, not a whole corpus: {TOO_HIGH}"
VALIDATION_MARK = MARK.replace("test", "validation")
ANSWERS = [f"a {text}" for text in TEXTS[80:104]]
OTHERS = [f"some {text}" for text in TEXTS]


@pytest.fixture
def run(tmp_path, toy_folder):
    words = ("optimization.max_steps=4", "validation.every_steps=2")
    return Run(tmp_path, toy_folder("bert"), "bi-encoder-full", *words)


@pytest.fixture
def corpus(tmp_path):
    """Half of the answers, each twice, and other documents."""
    path = tmp_path / "docs.jsonl"
    texts = [*ANSWERS[:12], *ANSWERS[:12], *OTHERS]
    records = [{"_id": f"doc {number}", "text": text} for number, text in enumerate(texts)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def done(*words):
    """The text that a command printed, on one line."""
    ended = nearfar(*words)
    assert ended.returncode == 0, ended.stderr
    return " ".join((ended.stdout + ended.stderr).split())


def evaluation(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_fit_without_a_corpus_is_marked_wherever_its_figures_appear(run, tmp_path):
    text = done(*run.words("alone"))
    folder = run.path("alone")
    assert text.count(f"the test queries are s{MARK}. Name a file of all documents") == 1
    assert text.count(f"the validation queries are s{VALIDATION_MARK}") == 1
    assert text.count(f"S{MARK}.") + text.count(f"S{VALIDATION_MARK}.") > 1, "verdict and table"

    file = evaluation(folder / "evaluation.json")
    assert (file["limitation"], file["documents"]) == (f"s{MARK}", 24)
    assert file["selection"]["limitation"] == f"s{VALIDATION_MARK}"
    assert run.status("alone")["selection"]["limitation"] == f"s{VALIDATION_MARK}"
    assert evaluation(folder / "baselines.json")["limitation"] == f"s{MARK}"

    page = (folder / "report.html").read_text(encoding="utf-8")
    headline = re.search(r'<p class="headline">(.*?)</p>', page, re.DOTALL)[1]
    assert f"S{MARK}." in headline or f"S{VALIDATION_MARK}." in headline
    assert f'<p class="notice">S{MARK}.</p>' in page
    assert f"on held-out queries, s{VALIDATION_MARK}" in page

    runs = done("runs", folder)
    assert re.search(r" \d\.\d{3}\* ", runs)
    assert f"* s{VALIDATION_MARK}" in runs
    (row,) = json.loads(nearfar("runs", folder, "--json").stdout)
    assert row["score_limitation"] == f"s{VALIDATION_MARK}"


def test_fit_with_a_corpus_searches_it_and_is_not_marked(run, corpus):
    text = done(*run.words("whole", f"data.corpus={corpus}"))
    assert "12 of its 24 answers are not in the corpus, and were added to it" in text
    folder = run.path("whole")
    file = evaluation(folder / "evaluation.json")
    assert file["documents"] == 24 + len(OTHERS)
    assert file["limitation"] == file["selection"]["limitation"] == ""
    files = ("evaluation.json", "report.html", "attempts.json", "status.json", "console.txt")
    texts = [(folder / name).read_text(encoding="utf-8") for name in files]
    assert TOO_HIGH not in "".join([*texts, text, done("runs", folder)])
    data = evaluation(folder / "environment.json")["data"]
    assert data["evaluation_corpus"]["source"] == str(corpus)
    assert len(data["evaluation_corpus"]["sha256"]) == 64


def test_held_out_rows_are_searched_in_the_corpus_too(run, corpus):
    words = ("data.validation=null", "data.test=null", "data.validation_ratio=0.2")
    text = done(*run.words("alone", *words))
    mark = r"alidation nDCG@10 .*?; nothing was measured on test queries\. Searched among the \d+"
    assert re.search(rf"{mark} answers of the validation set alone", text)
    text = done(*run.words("whole", *words, f"data.corpus={corpus}"))
    assert TOO_HIGH not in text


def test_evaluate_searches_the_corpus(run, corpus, tmp_path):
    judged, out = tmp_path / "held-out.jsonl", tmp_path / "out.json"
    words = ("evaluate", run.backbone, "--data", judged, "--examples", "0", "--out", out)
    text = done(*words)
    assert f"S{MARK}." in text
    assert "Name a file of all documents with --corpus." in text
    alone = evaluation(out)
    text = done(*words, "--corpus", corpus)
    assert TOO_HIGH not in text
    whole = evaluation(out)
    assert (alone["documents"], whole["documents"]) == (24, 24 + len(OTHERS))
    means = [[each["summary"]["mrr@10"]["mean"] for each in e["systems"]] for e in (whole, alone)]
    assert all(now <= before for now, before in zip(*means, strict=True))
    assert means[0] != means[1]
    # The documents have the ids of the corpus; the first of two equal texts counts.
    known = {f"doc {number}" for number in [*range(12), *range(24, 24 + len(OTHERS))]}
    assert {id for id in whole["texts"] if id.startswith("doc")} <= known
    assert {"doc 0", "doc 30"} & whole["texts"].keys()


def test_negatives_of_the_file_are_searched_too(run, tmp_path):
    path = tmp_path / "test.jsonl"
    record = {"query": "disk", "positive": "a disk", "negatives": ["a vault", "a disk", "a region"]}
    path.write_text(json.dumps(record) + "\n")
    text = done("evaluate", run.backbone, "--data", path)
    assert "Searched among the 3 answers and negatives of the test set alone" in text
    corpus = tmp_path / "docs.txt"
    corpus.write_text("a vault\na machine\n")
    text = done("evaluate", run.backbone, "--data", path, "--corpus", corpus)
    assert "1 queries, 4 documents" in text


def test_index_of_the_corpus_can_be_measured(run, tmp_path):
    corpus = tmp_path / "docs.csv"
    corpus.write_text("_id,text\n" + "".join(f"{n},{t}\n" for n, t in enumerate(ANSWERS + OTHERS)))
    done("index", run.backbone, corpus, "-o", tmp_path / "index")
    words = ("--data", tmp_path / "held-out.jsonl", "--corpus", corpus)
    text = done("evaluate", run.backbone, *words, "--index", tmp_path / "index", "--examples", "0")
    assert f"24 queries, {len(ANSWERS + OTHERS)} documents" in text


def test_corpus_that_would_not_be_searched_or_has_no_documents_is_refused(run, corpus, tmp_path):
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "d", "text": "a disk"}\n')
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "disk"}\n')
    (folder / "qrels/test.tsv").write_text("q\td\t1\n")
    words = ("evaluate", run.backbone, "--data")
    ended = nearfar(*words, folder, "--corpus", corpus)
    assert ended.returncode == 2
    assert "would not be searched" in ended.stderr
    both = (f"data.validation={folder}", f"data.test={folder}")
    ended = nearfar(*run.words("refused", *both, f"data.corpus={corpus}"))
    assert ended.returncode == 2
    assert "would not be searched" in ended.stderr
    (tmp_path / "empty.jsonl").write_text("\n")
    for name, problem in (("empty.jsonl", "has no documents"), ("none.jsonl", "cannot be read")):
        corpus = tmp_path / name
        ended = nearfar(*words, tmp_path / "held-out.jsonl", "--corpus", corpus)
        assert (ended.returncode, problem in ended.stderr) == (2, True), ended.stderr
        ended = nearfar(*run.words("refused", f"data.corpus={corpus}"))
        assert (ended.returncode, problem in ended.stderr) == (2, True), ended.stderr
    assert not run.path("refused").exists()


def test_beir_folder_as_corpus(run, tmp_path):
    """Its documents are searched; its queries and judgements are not used."""
    folder = tmp_path / "beir"
    folder.mkdir()
    (folder / "corpus.jsonl").write_text('{"_id": "d", "title": "a", "text": "disk disk"}\n')
    words = ("--data", tmp_path / "held-out.jsonl", "--corpus", folder)
    assert "24 queries, 25 documents" in done("evaluate", run.backbone, *words)
