"""Questions that an endpoint writes: only those that find their passage again are used."""

import json
import re
from pathlib import Path

import pytest
from chat_server import ChatServer, Fault, chat_server
from typer.testing import CliRunner, Result

from trainer.cli.groups.data import app
from trainer.errors import BadEndpoint

NAMES = ("disk", "vault", "queue", "zone", "image", "router", "policy", "secret", "topic", "lock")


def write_documents(folder: Path) -> Path:
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.md").write_text(
            f"# The {name}\n\nOne {name} costs nothing. It is deleted by hand on every Monday.\n"
        )
    return folder


def reply(prompt: str, times: int) -> "str | Fault":
    """Two questions per passage: one with its name, and one that could be about any."""
    [name] = re.findall(r"One (\w+) costs", prompt)
    if name == "lock":
        return Fault("400")
    if name == "topic":
        return "I would rather not say."
    return f"1. What does the {name} cost?\n2. When are things removed on {name}?\n3. Too many?"


def call(server: ChatServer, documents: Path, *arguments: object) -> Result:
    words = ["pairs", documents, "-o", documents.parent / "mine", "--endpoint", server.url]
    result = CliRunner().invoke(app, [str(word) for word in (*words, *arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def records(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_questions_are_used_if_they_find_their_passage(tmp_path: Path) -> None:
    documents, folder = write_documents(tmp_path / "docs"), tmp_path / "mine"
    words = ("--found-within", 1, "--questions", 2, "--kind", "question")
    with chat_server(reply) as server:
        output = call(server, documents, *words).output
        assert (
            "endpoint: 9 of 10 prompts answered; no answer, refusal (HTTP 400): 1; 90 tokens read"
        ) in output
        assert "\nset aside: 1 answers of the endpoint without a question\n" in output
        assert "\nquestion: 16 pairs (" in output
        assert len(server.prompts) == 10
        first = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        call(server, documents, *words, "--replace")
        assert [prompt for prompt in server.prompts[10:] if "One lock" not in prompt] == []
    for name, content in first.items():
        assert (folder / name).read_bytes() == content, name
    texts = {record["text"] for record in records(folder / "queries.jsonl")}
    assert "What does the disk cost?" in texts
    corpus = {record["_id"]: record for record in records(folder / "corpus.jsonl")}
    assert corpus["disk.md#1"]["title"] == "The disk"
    assert json.loads((folder / "source.json").read_text())["questions_by"] == "toy-chat"


def test_question_that_finds_another_passage_is_set_aside(tmp_path: Path) -> None:
    documents = write_documents(tmp_path / "docs")
    with chat_server(lambda prompt, times: "What about the vault?\nHow is it here?") as server:
        output = call(server, documents, "--found-within", 1, "--dev", 0, "--test", 0).output
    assert "set aside: 19 written questions that do not find their passage within 1\n" in output
    assert "\nquestion: 1 pairs (train 1)" in output
    assert "\nheading: 9 pairs (train 9)" in output, "the vault keeps its title"


def test_command_continues_after_the_endpoint_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents, folder = write_documents(tmp_path / "docs"), tmp_path / "mine"
    monkeypatch.setenv("NEARFAR_ENDPOINT_KEY", "key-of-tests")
    with chat_server(lambda *_: "What is it about, please?") as server:
        call(server, documents, "--max-prompts", 1)
        assert server.headers[0]["Authorization"] == "Bearer key-of-tests"
    answers = (folder / "answers.jsonl").read_text()
    for path in folder.rglob("*"):
        assert path.is_dir() or "key-of-tests" not in path.read_text()
    for name in ("corpus.jsonl", "queries.jsonl", "source.json", "README.txt"):
        (folder / name).unlink()
    for path in (folder / "qrels").iterdir():
        path.unlink()
    (folder / "qrels").rmdir()
    with (
        chat_server(lambda *_: Fault("not-json")) as server,
        pytest.raises(BadEndpoint, match="10 prompts in a row .*broken answer"),
    ):
        call(server, documents, "--model", "other")
    assert (folder / "answers.jsonl").read_text() == answers, "nothing is lost"
    with chat_server(reply) as server:
        call(server, documents)
        assert len(server.prompts) == 9


def test_endpoint_without_any_question_is_refused(tmp_path: Path) -> None:
    documents = write_documents(tmp_path / "docs")
    with (
        chat_server(lambda *_: "Lorem ipsum dolor.") as server,
        pytest.raises(
            BadEndpoint, match="no answer of toy-chat has a question; .*'Lorem ipsum dolor.'"
        ),
    ):
        call(server, documents)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["answers.jsonl"]
