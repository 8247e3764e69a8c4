"""Answers are stored at once and asked for once; an endpoint without answers ends the command."""

from pathlib import Path

import pytest
from chat_server import ChatServer, Fault, chat_server

from trainer.endpoint.answers import StoredAnswers, answer_summary, ask_all
from trainer.endpoint.client import ChatEndpoint
from trainer.errors import BadEndpoint

PROMPTS = [f"prompt {number}" for number in range(12)]


def endpoint_of(server: ChatServer) -> ChatEndpoint:
    return ChatEndpoint(server.url, timeout_seconds=5.0, attempts=2, longest_wait_seconds=0.01)


def test_failures_are_counted_and_asked_again_by_the_next_command(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.jsonl"
    faults = {"prompt 1": "400", "prompt 2": "429", "prompt 3": "not-json"}
    with chat_server(
        lambda prompt, times: Fault(faults[prompt]) if prompt in faults else prompt.upper()
    ) as server:
        answers = ask_all(endpoint_of(server), [*PROMPTS, PROMPTS[0]], StoredAnswers(path))
        assert [answer.text for answer in answers[4:]] == [
            prompt.upper() for prompt in [*PROMPTS[4:], PROMPTS[0]]
        ]
        assert answer_summary(answers) == (
            "endpoint: 10 of 13 prompts answered; no answer, refusal (HTTP 400): 1; no answer, rate"
            " limit (HTTP 429): 1; no answer, broken answer (not JSON): 1; 100 tokens read, 30"
            " written"
        )
        assert server.times_asked["prompt 0"] == 1
        faults.clear()
        server.prompts.clear()
        answers = ask_all(endpoint_of(server), PROMPTS, StoredAnswers(path))
        assert sorted(server.prompts) == PROMPTS[1:4]
        assert [answer.text for answer in answers] == [prompt.upper() for prompt in PROMPTS]


def test_line_that_was_cut_off_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with chat_server(lambda prompt, times: "Yes.") as server:
        ask_all(endpoint_of(server), PROMPTS[:3], StoredAnswers(path), parallel=1)
        path.write_bytes(path.read_bytes()[:-9])
        server.prompts.clear()
        ask_all(endpoint_of(server), PROMPTS[:3], StoredAnswers(path))
        assert server.prompts == PROMPTS[2:3]
        ask_all(endpoint_of(server), PROMPTS[:3], StoredAnswers(path))
        assert server.prompts == PROMPTS[2:3]


def test_endpoint_that_stops_answering_ends_the_command_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with (
        chat_server(
            lambda prompt, times: "Yes." if prompt == "prompt 0" else Fault("not-json")
        ) as server,
        pytest.raises(BadEndpoint, match=r"no answer to 10 prompts in a row \(10 x broken") as end,
    ):
        ask_all(endpoint_of(server), PROMPTS, StoredAnswers(path))
    assert "The last one: <html>It works!</html>" in str(end.value)
    assert StoredAnswers(path).get("toy-chat", "prompt 0") is not None


def test_single_prompt_without_an_answer_ends_the_command(tmp_path: Path) -> None:
    with (
        chat_server(lambda prompt, times: Fault("401")) as server,
        pytest.raises(BadEndpoint, match="1 prompts in a row.*invalid key.*and the key"),
    ):
        ask_all(endpoint_of(server), PROMPTS[:1], StoredAnswers(tmp_path / "answers.jsonl"))
    assert not any(tmp_path.iterdir())
