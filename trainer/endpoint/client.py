"""A client of endpoints that speak the chat protocol of OpenAI (vLLM, llama.cpp, Ollama, ...)."""

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from trainer.errors import BadEndpoint

KEY_VARIABLE = "NEARFAR_ENDPOINT_KEY"
"""The environment variable with the key of the endpoint. The key is never stored."""
_OPTIONS = "--model NAME (nearfar rag: --reader-model NAME)"
_MAX_ANSWER_BYTES = 4 * 2**20
_MAX_DETAIL = 200
_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_RATE_LIMIT, _TIME_OUT = "rate limit (HTTP 429)", "time-out"


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """The answer to a prompt, or why there is none."""

    text: str = ""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    failure: str = ""
    """"" for an answer, else what happened, such as "time-out"."""
    detail: str = ""
    """What the endpoint said to that."""
    retries: tuple[str, ...] = ()
    """The failures of earlier attempts."""


class _Failure(Exception):
    """An attempt without an answer: the failure, and details."""

    def __init__(self, name: str, detail: str = "", wait: float | None = None) -> None:
        super().__init__(name, detail)
        self.name, self.detail, self.wait = name, detail, wait


class ChatEndpoint:
    """Sends prompts. It may be used by several threads.

    After a time-out, a rate limit (HTTP 408 and 429), an error of the server (HTTP 5xx) or a broken
    connection it asks again, at most `attempts` times in all. It waits as long as `Retry-After`
    says, or 1, 2, 4, ... seconds, at most `longest_wait_seconds`. Redirections are refused: they
    would send the key elsewhere. Raises BadEndpoint for a URL or key that cannot be used.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        key: str = "",
        timeout_seconds: float = 60.0,
        attempts: int = 3,
        longest_wait_seconds: float = 60.0,
    ) -> None:
        self.url = _checked_url(url)
        self._timeout_seconds, self._attempts = timeout_seconds, attempts
        self._longest_wait_seconds = longest_wait_seconds
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key.strip():
            self._headers["Authorization"] = f"Bearer {_checked_key(key)}"
        self._opener = build_opener(_NoRedirection)
        self.model = model or self._only_model()

    def ask(self, prompt: str, max_answer_tokens: int = 512) -> ChatAnswer:
        """Returns the answer to a prompt at temperature 0. Failures are answers with `failure`."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": max_answer_tokens,
            "stream": False,
        }
        retries: list[str] = []
        while True:
            try:
                answer = _answer_of(self._request("/chat/completions", body))
                return ChatAnswer(*answer, retries=tuple(retries))
            except _Failure as failure:
                is_last = len(retries) + 1 == self._attempts
                if failure.wait is None or is_last:
                    name, detail = failure.name, failure.detail
                    return ChatAnswer(failure=name, detail=detail, retries=tuple(retries))
                time.sleep(min(failure.wait or 2.0 ** len(retries), self._longest_wait_seconds))
                retries.append(failure.name)

    def _only_model(self) -> str:
        """Returns the model of an endpoint that has one."""
        try:
            records = self._request("/models", None).get("data")
        except _Failure as failure:
            raise BadEndpoint(
                f"{self.url}/models does not say which model there is: {failure.name}"
                f" {failure.detail}".rstrip()
                + f". Check the URL, or name a model: {_OPTIONS}"
            ) from failure
        names = [
            str(record.get("id"))
            for record in (records if isinstance(records, list) else [])
            if isinstance(record, dict)
        ]
        if len(names) != 1:
            raise BadEndpoint(
                f"{self.url} has {len(names)} models ({', '.join(names[:10])}); name one:"
                f" {_OPTIONS}"
            )
        return names[0]

    def _request(self, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        """Returns the JSON object that answers a request. Raises _Failure."""
        content = None if body is None else json.dumps(body).encode()
        request = Request(self.url + path, content, self._headers)  # noqa: S310 - http(s), checked
        deadline = time.monotonic() + self._timeout_seconds
        try:
            with self._opener.open(request, timeout=self._timeout_seconds) as response:
                raw = _read(response, deadline)
        except HTTPError as error:
            raise _failure_of(error) from error
        except TimeoutError as error:
            raise _Failure(_TIME_OUT, f"after {self._timeout_seconds:g} s", 0.0) from error
        except (URLError, HTTPException, OSError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            if isinstance(reason, TimeoutError):
                raise _Failure(_TIME_OUT, f"after {self._timeout_seconds:g} s", 0.0) from error
            raise _Failure("no connection", str(reason)[:_MAX_DETAIL], 0.0) from error
        try:
            record = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise _Failure("broken answer (not JSON)", _detail(raw)) from error
        if not isinstance(record, dict):
            raise _Failure("broken answer (no JSON object)", _detail(raw))
        return record


def open_endpoint(url: str, model: str | None, timeout_seconds: float) -> ChatEndpoint:
    """Returns an endpoint whose key is in NEARFAR_ENDPOINT_KEY. Raises BadEndpoint."""
    return ChatEndpoint(url, model, os.environ.get(KEY_VARIABLE, ""), timeout_seconds)


class _NoRedirection(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Makes an error of every redirection."""


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadEndpoint(
            f"{url!r} is no endpoint; give its address up to the version, e.g."
            " http://127.0.0.1:8000/v1"
        )
    if parts.username or parts.password or parts.query:
        raise BadEndpoint(
            "the address of an endpoint may not contain a key, a user or a password; put the key"
            f" into the environment variable {KEY_VARIABLE}"
        )
    return url.rstrip("/").removesuffix("/chat/completions")


def _checked_key(key: str) -> str:
    key = key.strip()
    if not key.isascii() or not key.isprintable():
        raise BadEndpoint(f"the key in {KEY_VARIABLE} has characters that no header may have")
    return key


def _read(response: HTTPResponse, deadline: float) -> bytes:
    """Returns the body. Raises TimeoutError if it is not complete at the deadline."""
    parts: list[bytes] = []
    size = 0
    while part := response.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if size > _MAX_ANSWER_BYTES:
            raise _Failure(f"broken answer (more than {_MAX_ANSWER_BYTES >> 20} MB)")
        if time.monotonic() > deadline:
            raise TimeoutError
    if response.length:
        raise _Failure("broken answer (cut off)", f"{response.length} bytes are missing", 0.0)
    return b"".join(parts)


def _failure_of(error: HTTPError) -> _Failure:
    try:
        detail = _detail(error.read(_MAX_ANSWER_BYTES))
    except (HTTPException, OSError):
        detail = ""
    status = error.code
    if status == 429:
        return _Failure(_RATE_LIMIT, detail, _seconds(error.headers.get("Retry-After", "")))
    if status == 408:
        return _Failure(_TIME_OUT, detail, 0.0)
    if status >= 500:
        wait = _seconds(error.headers.get("Retry-After", ""))
        return _Failure(f"server error (HTTP {status})", detail, wait)
    return _Failure(f"refusal (HTTP {status})", detail)


def _seconds(retry_after: str) -> float:
    """Returns the seconds of a Retry-After, which may be a date; 0 if it says none.

    >>> _seconds("2.5"), _seconds("soon"), _seconds("Wed, 21 Oct 2015 07:28:00 GMT")
    (2.5, 0.0, 0.0)
    """
    if re.fullmatch(r"\d+(\.\d+)?", retry_after.strip()):
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _answer_of(record: Mapping[str, Any]) -> tuple[str, int, int]:
    """Returns the text and the tokens of prompt and answer. Raises _Failure."""
    try:
        text = record["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        text = None
    if not isinstance(text, str):
        detail = _detail(json.dumps(record).encode())
        raise _Failure("broken answer (no choices[0].message.content)", detail)
    text = _THOUGHTS.sub("", text).strip()
    if not text:
        raise _Failure("broken answer (empty)")
    usage = record.get("usage")
    counts = [
        usage.get(name) if isinstance(usage, dict) else 0
        for name in ("prompt_tokens", "completion_tokens")
    ]
    prompt_tokens, answer_tokens = (count if isinstance(count, int) else 0 for count in counts)
    return text, prompt_tokens, answer_tokens


def _detail(raw: bytes) -> str:
    return " ".join(raw.decode("utf-8", "replace").split())[:_MAX_DETAIL]
