"""The data facts of a real run, and their section in the report."""

import json
import re
import shutil

import pytest

import nearfar
from trainer.errors import BadFolder
from trainer.report.charts.length_chart import length_chart
from trainer.report.read import read_run
from trainer.report.run_page import write_report


def test_run_counts_pairs_repetitions_and_leaks(toy_run):
    facts = json.loads((toy_run / "data.json").read_text())
    assert facts["training"] == {"pairs": 49, "queries": 48, "documents": 48, "duplicate_pairs": 1}
    assert facts["validation"] == {"queries": 8, "documents": 64}
    assert facts["test"] == {"queries": 10, "documents": 65}
    assert [leak for leak in facts["leaks"] if leak["split"] == "test"] == [
        {"split": "test", "kind": "the same query", "count": 1},
        {"split": "test", "kind": "a near-identical query", "count": 1},
    ]


def test_run_measures_lengths_of_whole_texts(toy_run):
    queries, documents = read_run(toy_run).data.lengths
    assert (queries.texts, queries.cut_texts, sum(queries.bins)) == (49, 0, 49)
    assert (documents.texts, documents.cut_texts, sum(documents.bins)) == (49, 3, 46)
    assert documents.cut_share == pytest.approx(3 / 49)


def test_run_warns_before_the_first_step_where_many_texts_are_cut(settings, capsys):
    settings["model"]["document_max_length_tokens"] = 4
    settings["optimization"]["max_steps"] = 1
    nearfar.fit(settings)
    console = capsys.readouterr().err
    (warning,) = [line for line in console.splitlines() if "are cut" in line]
    assert "of 49 sampled document texts are longer than 4 tokens" in warning
    assert "model.document_max_length_tokens" in warning
    assert console.index("are cut") < console.index("validation at step 1")


def test_report_shows_the_data(toy_run):
    page = (toy_run / "report.html").read_text()
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert "training 49 48 48 1 validation – 8 64 – test – 10 65 –" in text
    assert "1 in test: the same query in training" in text
    assert "Length of documents tokens; 6.1 % cut at 64" in text


def test_report_names_few_documents_twice(toy_run):
    page = (toy_run / "report.html").read_text()
    problem = "The 49 training pairs have only 48 different documents"
    assert page.count(problem) == 2, "what to do next, and the data"


def test_report_of_an_older_run_has_no_data_section(toy_run, tmp_path):
    run = shutil.copytree(toy_run, tmp_path / "run")
    (run / "data.json").unlink()
    assert "<h2>Data</h2>" not in write_report(run).read_text()


@pytest.mark.parametrize("content", ["[]", '{"training": 5}', '{"training": {}, "lengths": {}}'])
def test_damaged_data_file_is_named(toy_run, tmp_path, content):
    run = shutil.copytree(toy_run, tmp_path / "run")
    (run / "data.json").write_text(content)
    with pytest.raises(BadFolder, match=r"data\.json.*remove it"):
        write_report(run)


def test_histogram_has_a_bar_for_texts_that_are_cut():
    chart = length_chart("Lengths", 4, [3, 0, 2], 5)
    assert re.findall(r"<title>([^<]*)</title>", chart) == [
        "3 texts: 1 to 4 tokens",
        "0 texts: 5 to 8 tokens",
        "2 texts: 9 to 12 tokens",
        "5 texts: cut",
    ]
    assert length_chart("Lengths", 4, [], 0) == ""
