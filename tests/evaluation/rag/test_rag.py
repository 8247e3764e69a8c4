"""`nearfar rag`: the measures by hand, a reader that fails at times, and a command that goes on."""

import json
from pathlib import Path

import pytest
from chat_server import ChatServer, Fault, chat_server
from typer.testing import CliRunner, Result

from trainer.cli.main import app
from trainer.errors import BadData, BadEndpoint, BadRecipe, NearfarError

TOWNS = ("Bonn", "Lima", "Oslo", "Rome", "Turin", "Quito", "Kiel", "Cork")


def write_set(folder: Path) -> Path:
    """Eight towns with a river each. `others.trec` finds the passage of the next town."""
    (folder / "qrels").mkdir(parents=True)
    corpus = [
        {"_id": f"d{n}", "text": f"{town} is at the river R{n}x."} for n, town in enumerate(TOWNS)
    ]
    queries = [
        {"_id": f"q{n}", "text": f"Which river is {town} at?", "answers": [f"the R{n}x", f"r{n}"]}
        for n, town in enumerate(TOWNS)
    ]
    del queries[7]["answers"]
    for name, records in (("corpus", corpus), ("queries", queries)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines)
    (folder / "qrels" / "test.tsv").write_text("".join(f"q{n}\td{n}\t1\n" for n in range(8)))
    run = "".join(f"q{n} Q0 d{(n + (n > 3)) % 8} 1 1.0 others\n" for n in range(8))
    (folder / "others.trec").write_text(run)
    return folder


def reply(prompt: str, times: int) -> "str | Fault":
    """The river of the first passage; the reader fails for Lima, and once for Rome."""
    passages, _, question = prompt.rpartition("Question: ")
    if "Lima" in question:
        return Fault("400")
    if "Rome" in question and times == 0:
        return Fault("429")
    return passages.split("[1] ")[1].split("river ")[1].split(".")[0]


def call(*words: object) -> Result:
    result = CliRunner().invoke(app, ["rag", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def systems_of(folder: Path) -> dict[str, dict[str, float]]:
    content = json.loads((folder / "rag.json").read_text())
    return {system["name"]: system["means"] for system in content["systems"]}


def rag(server: ChatServer, data: Path, out: Path, *words: object) -> str:
    run = f"run:{data / 'others.trec'}"
    options = ("--reader", server.url, "--passages", 1, "-o", out)
    return call(data, run, "bm25", *options, *words).stdout


def test_reader_is_measured_before_and_after_and_its_failures_are_counted(tmp_path: Path) -> None:
    data, out = write_set(tmp_path / "towns"), tmp_path / "out"
    with chat_server(reply) as server:
        output = rag(server, data, out)
        prompts = len(server.prompts)
        means = list(systems_of(out).values())
        assert means[0] == pytest.approx(
            {"answer recall@1": 4 / 7, "answer recall@5": 4 / 7, "answer recall@20": 4 / 7}
            | {"exact match": 3 / 6, "token F1": 3 / 6}
        )
        assert means[1]["answer recall@1"] == means[1]["exact match"] == 1.0
        assert "left out: 1 questions without an answer" in output
        assert "+0.500 [+0.167, +0.833]" in output.split("exact match")[1]
        assert "3 better, 3 equal, 0 worse" in output.split("exact match")[1]
        assert "p = 1.0000" in output.split("exact match")[1], "0.25 of one test, corrected"
        assert "each p is corrected for 5 tests by Holm's method" in output
        assert ": endpoint: 6 of 7 prompts answered, after rate limit (HTTP 429): 1; no" in output
        assert (
            "BM25: endpoint: 6 of 7 prompts answered; no answer, refusal (HTTP 400): 1; 60 tokens"
            " read, 18 written"
        ) in output
        assert "BM25:\n0 of 7 questions answered wrongly" in output
        again = rag(server, data, out)
        assert again.split("endpoint")[0] == output.split("endpoint")[0]
        assert all("Lima" in prompt for prompt in server.prompts[prompts:])


def test_wrong_answer_is_listed_with_the_passage_that_was_missing(tmp_path: Path) -> None:
    data = write_set(tmp_path / "towns")
    run = f"run:{data / 'others.trec'}"
    output = call(data, "bm25", run, "-o", tmp_path / "out", "--wrong", 1).stdout
    assert "3 of 7 questions without the answer in the first 5 passages\n" in output
    assert "  Which river is Turin at?\n    right: the R4x | r4\n" in output
    assert "missing: Turin is at the river R4x." in output
    assert "each system, and below it the difference to BM25\n" in output
    assert max(map(len, output.splitlines()[1:-1])) <= 80, "the first and last line have a path"
    assert "endpoint" not in output


def test_table_of_questions_is_searched_in_a_corpus(tmp_path: Path) -> None:
    data = write_set(tmp_path / "towns")
    table = tmp_path / "questions.csv"
    table.write_text("question,answer\nWhich river is Oslo at?,R2x\nWhat is at R9?,nobody\n")
    call(table, "bm25", "--corpus", data / "corpus.jsonl", "-o", tmp_path / "out")
    assert systems_of(tmp_path / "out")["BM25"]["answer recall@1"] == 0.5


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["{data}"], BadRecipe, "no system to measure; name a model, bm25, or --index FOLDER"),
        (["{data}", "bm25", "bm25"], BadRecipe, "named twice"),
        (["{data}/corpus.jsonl", "bm25"], BadData, "no documents to search; name them: --corpus"),
        (["{data}/others.trec", "bm25"], BadData, "neither a BEIR folder nor a table"),
        (["{data}/none", "bm25"], BadData, "none of 8 questions has an answer; add a field"),
        (["{data}", "bm25", "--reader", "x"], BadEndpoint, "'x' is no endpoint"),
    ],
)
def test_input_that_cannot_be_measured_is_refused(
    tmp_path: Path, words: list[str], error: type[NearfarError], message: str
) -> None:
    data = write_set(tmp_path / "towns")
    write_set(data / "none")
    queries = data / "none" / "queries.jsonl"
    queries.write_text(queries.read_text().replace('"answers"', '"solutions"'))
    with pytest.raises(error, match=message) as refusal:
        call(*(word.format(data=data) for word in words), "-o", tmp_path / "out")
    assert refusal.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_reader_that_answers_garbage_ends_the_command(tmp_path: Path) -> None:
    data = write_set(tmp_path / "towns")
    with (
        chat_server(lambda *_: Fault("not-json")) as server,
        pytest.raises(BadEndpoint, match=r"7 prompts in a row \(7 x broken answer \(not JSON\)\)"),
    ):
        rag(server, data, tmp_path / "out")
