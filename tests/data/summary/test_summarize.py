"""`nearfar data check`: what it finds, says and exits with."""

import json
from collections.abc import Mapping
from pathlib import Path

import datasets
import pytest
from typer.testing import CliRunner

from trainer.cli.groups.data import app
from trainer.data.summary.summarize import Spread, summarize_data
from trainer.errors import BadData

RUN = CliRunner()


def write(path: Path, *records: Mapping[str, object]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def make_beir(folder: Path) -> str:
    (folder / "qrels").mkdir(parents=True)
    write(
        folder / "corpus.jsonl",
        *({"_id": f"d{at}", "text": f"document {at} of words"} for at in range(4)),
    )
    texts = ["Delete the disk", "delete a disk!", "show one", "DELETE the disk.", "list all"]
    write(
        folder / "queries.jsonl",
        *({"_id": f"q{at}", "text": text} for at, text in enumerate(texts)),
    )
    (folder / "qrels" / "train.tsv").write_text("q0\td0\t1\nq2\td1\t1\n")
    (folder / "qrels" / "dev.tsv").write_text("q1\td2\t1\n")
    (folder / "qrels" / "test.tsv").write_text("q3\td3\t1\nq4\td1\t1\n")
    return str(folder)


def test_file_is_summarised(tmp_path: Path) -> None:
    source = write(
        tmp_path / "pairs.jsonl",
        {
            "anchor": "one two three",
            "positive": ["a", "b c"],
            "negative_1": "n",
            "score": 1,
            "id": 1,
        },
        {"anchor": "one", "positive": "a", "negative_1": "", "score": 0.5, "id": 2},
        {"anchor": "", "positive": "a", "negative_1": "n", "score": 0, "id": 3},
    )
    found = summarize_data(source)
    [part] = found.parts
    assert (part.name, part.pairs, part.queries, part.answering_documents, part.labels) == (
        "all",
        3,
        2,
        2,
        (0.5, 1.0),
    )
    assert (part.positives_per_query, part.negatives_per_pair) == (
        Spread(1, 1, 2, 2),
        Spread(0, 1, 1, 1),
    )
    assert (part.query_words, part.document_words) == (Spread(1, 3, 3, 3), Spread(1, 1, 2, 2))
    assert (found.report.blank_rows_dropped, found.report.ignored_columns, found.exit_code) == (
        1,
        ("id",),
        0,
    )
    answer = RUN.invoke(app, ["check", source])
    assert answer.exit_code == 0
    for said in (
        "JSON Lines",
        "query     from column anchor",
        "not used: id",
        "1 blank rows dropped",
        "Ready: 3 pairs",
    ):
        assert said in answer.output


def test_leaks_between_splits_are_found_and_shown(tmp_path: Path) -> None:
    source = make_beir(tmp_path / "leaky")
    leaks = {(leak.kind, leak.splits): leak.examples for leak in summarize_data(source).leaks}
    assert leaks == {
        ("the same query", ("train", "test")): ("DELETE the disk.",),
        ("a near-identical query", ("train", "dev")): ("delete a disk!",),
        ("a near-identical query", ("dev", "test")): ("DELETE the disk.",),
        ("the same positive document", ("train", "test")): ("document 1 of words",),
    }
    answer = RUN.invoke(app, ["check", source])
    assert "Leak: 1 of test have the same query in train" in answer.output
    assert "corpus (4 documents)" in answer.output


def test_splits_of_a_saved_data_set_are_summarised(tmp_path: Path) -> None:
    records = datasets.Dataset.from_list([{"query": "same thing", "positive": "p"}])
    datasets.DatasetDict({"train": records, "test": records}).save_to_disk(tmp_path / "saved")
    found = summarize_data(str(tmp_path / "saved"))
    assert [part.name for part in found.parts] == ["train", "test"]
    assert {leak.kind for leak in found.leaks} == {"the same query", "the same positive document"}
    assert found.report.rows_read == 2


def test_excess_of_bad_rows_is_shown_and_ends_with_87(tmp_path: Path) -> None:
    source = tmp_path / "bad.jsonl"
    source.write_text('{"query": "q", "positive": "p"}\n' + "{\n" * 30)
    answer = RUN.invoke(app, ["check", str(source), "--rejected", str(tmp_path / "rejected.jsonl")])
    assert answer.exit_code == 87
    assert "Bad rows, not JSON: 30" in answer.output
    assert "bad.jsonl:2" in answer.output
    assert "30 of 31 rows could not be used" in answer.output
    rejected = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert [row["source"] for row in rejected] == [f"bad.jsonl:{line}" for line in range(2, 32)]
    assert {row["reason"] for row in rejected} == {"not JSON"}
    allowed = RUN.invoke(app, ["check", str(source), "--max-bad-rows-ratio", "1"])
    assert (allowed.exit_code, "Ready: 1 pairs" in allowed.output) == (0, True)


def test_json_has_the_same_content(tmp_path: Path) -> None:
    source = tmp_path / "bad.jsonl"
    source.write_text('{"q": "q", "positive": "p"}\n{\n')
    answer = RUN.invoke(app, ["check", str(source), "--json", "--column", "query=q"])
    found = json.loads(answer.output)
    assert (answer.exit_code, found["exit_code"], found["report"]["bad"]) == (
        87,
        87,
        {"not JSON": 1},
    )
    assert found["report"]["columns"] == {"query": ["q"], "positive": ["positive"]}
    assert found["parts"][0]["example"] == {"query": "q", "positive": "p"}


def test_advice_of_a_message_is_accepted(tmp_path: Path) -> None:
    source = write(tmp_path / "odd.jsonl", {"my title": "q", "body": "p"})
    with pytest.raises(BadData) as refused:
        summarize_data(source)
    assert "--column 'query=my title'" in str(refused.value)
    found = RUN.invoke(
        app, ["check", source, "--column", "query=my title", "--column", "positive=body"]
    )
    assert (found.exit_code, "Ready: 1 pairs" in found.output) == (0, True)


@pytest.mark.parametrize("source", ["nothing.jsonl", "no_such/../x"])
def test_missing_source_is_refused_by_name(source: str) -> None:
    with pytest.raises(BadData):
        summarize_data(source)


def test_folder_without_judgements_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "corpus.jsonl", {"_id": "d", "text": "t"})
    with pytest.raises(BadData, match="it is not known which document answers"):
        summarize_data(str(tmp_path))


def test_real_sets_have_no_leaked_documents(real_data: Path) -> None:
    found = summarize_data(str(real_data / "squad_dev"))
    assert [part.name for part in found.parts] == ["train", "dev", "test"]
    assert not [leak for leak in found.leaks if leak.kind == "the same positive document"]


def test_few_documents_are_named_for_training_pairs_alone(tmp_path: Path) -> None:
    few = [{"query": f"question {at}", "positive": f"answer {at % 9}"} for at in range(300)]
    result = RUN.invoke(app, ["check", write(tmp_path / "few.jsonl", *few)])
    text = " ".join(result.output.split())
    assert "To train on: the 300 training pairs have only 9 different documents" in text
    assert "Give pairs on more documents" in text
    many = [{"query": f"question {at}", "positive": f"answer {at}"} for at in range(300)]
    source = write(tmp_path / "many.jsonl", *many)
    assert "To train on" not in RUN.invoke(app, ["check", source]).output
