"""The client names what went wrong, waits as asked, and sends the key nowhere else."""

import socket

import pytest
from chat_server import Fault, chat_server

from trainer.endpoint.client import ChatAnswer, ChatEndpoint
from trainer.errors import BadEndpoint


def ask(url: str, prompt: str = "Hello?", timeout_seconds: float = 5.0) -> ChatAnswer:
    return ChatEndpoint(
        url, "toy-chat", "key-of-tests", timeout_seconds, longest_wait_seconds=0.01
    ).ask(prompt)


def test_answer_has_its_text_and_tokens_without_thoughts() -> None:
    with chat_server(lambda prompt, times: f"<think>Hm.</think>\nYou said {prompt}") as server:
        assert ask(f"{server.url}/chat/completions") == ChatAnswer("You said Hello?", 10, 3)
        assert server.headers[0]["Authorization"] == "Bearer key-of-tests"


@pytest.mark.parametrize(
    ("fault", "failure", "attempts"),
    [
        ("429", "rate limit (HTTP 429)", 3),
        ("503", "server error (HTTP 503)", 3),
        ("cut", "broken answer (cut off)", 3),
        ("400", "refusal (HTTP 400)", 1),
        ("401", "refusal (HTTP 401)", 1),
        ("redirect", "refusal (HTTP 307)", 1),
        ("not-json", "broken answer (not JSON)", 1),
        ("no-choices", "broken answer (no choices[0].message.content)", 1),
        ("empty", "broken answer (empty)", 1),
    ],
)
def test_fault_is_named_and_asked_again_if_that_can_help(
    fault: str, failure: str, attempts: int
) -> None:
    with chat_server(lambda prompt, times: Fault(fault)) as server:
        answer = ask(server.url)
        assert (answer.text, answer.failure) == ("", failure)
        assert answer.retries == (failure,) * (attempts - 1)
        assert len(server.prompts) == attempts


@pytest.mark.parametrize("fault", ["hangs", "drips"])
def test_answer_that_takes_too_long_is_a_time_out(fault: str) -> None:
    with chat_server(lambda prompt, times: Fault(fault)) as server:
        answer = ask(server.url, timeout_seconds=0.15)
        assert (answer.failure, answer.detail) == ("time-out", "after 0.15 s")


def test_rate_limit_that_ends_is_counted_as_a_retry() -> None:
    with chat_server(lambda prompt, times: Fault("429") if times == 0 else "Yes.") as server:
        assert ask(server.url) == ChatAnswer("Yes.", 10, 3, retries=("rate limit (HTTP 429)",))


def test_closed_port_is_no_connection() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        answer = ask(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
    assert (answer.failure, len(answer.retries)) == ("no connection", 2)


def test_only_model_is_asked_for() -> None:
    with chat_server(lambda prompt, times: "Yes.") as server:
        assert ChatEndpoint(server.url).model == "toy-chat"
    with (
        chat_server(lambda prompt, times: "Yes.", models=("a", "b")) as server,
        pytest.raises(BadEndpoint, match=r"has 2 models \(a, b\); name one: --model NAME"),
    ):
        ChatEndpoint(server.url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/v1", "is no endpoint; give its address up to the version"),
        ("host:8000", "is no endpoint"),
        ("http://me:secret@host/v1", "may not contain a key, a user or a password; put the key"),
        ("http://host/v1?key=secret", "NEARFAR_ENDPOINT_KEY"),
    ],
)
def test_address_that_cannot_be_used_is_refused_without_its_secret(url: str, message: str) -> None:
    with pytest.raises(BadEndpoint, match=message) as refusal:
        ChatEndpoint(url, "m")
    assert "secret" not in str(refusal.value)


def test_key_that_no_header_may_have_is_refused() -> None:
    with pytest.raises(BadEndpoint, match="has characters that no header may have"):
        ChatEndpoint("http://host/v1", "m", "a\nb")
