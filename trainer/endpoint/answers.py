"""Asks many prompts at once, and stores the answers, so that a command continues where it ended."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

from trainer.endpoint.client import ChatAnswer, ChatEndpoint
from trainer.errors import BadEndpoint, BadFolder
from trainer.progress import count_items

_FAILURES_IN_A_ROW = 10
"""After so many, the command ends: the endpoint does not answer."""


class StoredAnswers:
    """The good answers of an endpoint in a JSON Lines file, by a hash of model and prompt.

    Each is written at once. A last line that is not whole, because the command was killed, is
    ignored.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._answers: dict[str, ChatAnswer] = {}
        content = path.read_bytes() if path.is_file() else b""
        for line in content.splitlines():
            try:
                record = json.loads(line)
                counts = int(record["prompt_tokens"]), int(record["answer_tokens"])
                self._answers[record["key"]] = ChatAnswer(str(record["text"]), *counts)
            except (ValueError, LookupError, TypeError):
                continue
        self._needs_line_break = bool(content) and not content.endswith(b"\n")

    def get(self, model: str, prompt: str) -> ChatAnswer | None:
        """Returns the stored answer to a prompt."""
        return self._answers.get(_key(model, prompt))

    def add(self, model: str, prompt: str, answer: ChatAnswer) -> None:
        """Stores an answer. Raises BadFolder if it cannot be written."""
        key = _key(model, prompt)
        self._answers[key] = replace(answer, retries=())
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n" * self._needs_line_break + _line(key, answer))
        except OSError as error:
            raise BadFolder(f"{self._path} cannot be written: {error.strerror or error}") from error
        self._needs_line_break = False

    def lines(self) -> str:
        """Returns the content of the file, in the order of the hashes."""
        return "".join(_line(key, self._answers[key]) for key in sorted(self._answers))


def ask_all(
    endpoint: ChatEndpoint,
    prompts: Sequence[str],
    stored_answers: StoredAnswers,
    parallel: int = 4,
    max_answer_tokens: int = 512,
) -> list[ChatAnswer]:
    """Returns the answer to each prompt, from the store or from the endpoint.

    `parallel` prompts are asked at a time. Raises BadEndpoint if ten in a row have no answer, or if
    none has one; answers until then are stored.
    """
    answers = {prompt: stored_answers.get(endpoint.model, prompt) for prompt in prompts}
    new_prompts = [prompt for prompt in answers if answers[prompt] is None]
    new_answers = _in_parallel(endpoint, new_prompts, parallel, max_answer_tokens)
    failures: list[ChatAnswer] = []
    for prompt, answer in zip(
        new_prompts,
        count_items(new_answers, f"asking {endpoint.model}", "prompts", len(new_prompts)),
        strict=True,
    ):
        answers[prompt] = answer
        if answer.failure:
            failures.append(answer)
            if len(failures) == _FAILURES_IN_A_ROW:
                raise _no_answer(endpoint, failures)
        else:
            failures = []
            stored_answers.add(endpoint.model, prompt, answer)
    all_answers = [item for prompt in prompts if (item := answers[prompt]) is not None]
    if all_answers and all(item.failure for item in all_answers):
        raise _no_answer(endpoint, failures)
    return all_answers


def answer_summary(answers: Sequence[ChatAnswer]) -> str:
    """Returns one line: the answers, what went wrong, and the tokens.

    >>> answers = [ChatAnswer("A.", 9, 2, retries=("time-out",)), ChatAnswer(failure="time-out")]
    >>> answer_summary(answers)
    'endpoint: 1 of 2 prompts answered, after time-out: 1; no answer, time-out: 1;
    9 tokens read, 2 written'
    """
    retries = Counter(name for answer in answers for name in answer.retries if not answer.failure)
    failures = Counter(answer.failure for answer in answers if answer.failure)
    answer_count = len(answers) - failures.total()
    parts = [f"endpoint: {answer_count:,} of {len(answers):,} prompts answered"]
    parts[0] += "".join(f", after {name}: {count:,}" for name, count in retries.items())
    parts += [f"no answer, {name}: {count:,}" for name, count in failures.items()]
    prompt_tokens, answer_tokens = (
        sum(getattr(answer, name) for answer in answers)
        for name in ("prompt_tokens", "answer_tokens")
    )
    return "; ".join([*parts, f"{prompt_tokens:,} tokens read, {answer_tokens:,} written"])


def _in_parallel(
    endpoint: ChatEndpoint, prompts: Sequence[str], parallel: int, max_answer_tokens: int
) -> Iterator[ChatAnswer]:
    """Yields the answers in order. At most twice as many are asked ahead as are asked at a time."""
    pool = ThreadPoolExecutor(parallel)
    try:
        waiting = iter(prompts)
        tasks = [
            pool.submit(endpoint.ask, prompt, max_answer_tokens)
            for prompt in islice(waiting, 2 * parallel)
        ]
        while tasks:
            yield tasks.pop(0).result()
            tasks.extend(
                pool.submit(endpoint.ask, prompt, max_answer_tokens)
                for prompt in islice(waiting, 1)
            )
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _no_answer(endpoint: ChatEndpoint, failures: Sequence[ChatAnswer]) -> BadEndpoint:
    listing = ", ".join(
        f"{count} x {name}" for name, count in Counter(item.failure for item in failures).items()
    )
    detail = f" The last one: {failures[-1].detail}." if failures[-1].detail else ""
    return BadEndpoint(
        f"{endpoint.url} gave no answer to {len(failures)} prompts in a row ({listing}).{detail}"
        f" Answers so far are stored: the same command continues. Check the address, the model"
        f" {endpoint.model!r} and the key"
    )


def _key(model: str, prompt: str) -> str:
    return hashlib.sha256(f"{model}\n{prompt}".encode()).hexdigest()


def _line(key: str, answer: ChatAnswer) -> str:
    record = {
        "key": key,
        "text": answer.text,
        "prompt_tokens": answer.prompt_tokens,
        "answer_tokens": answer.answer_tokens,
    }
    return json.dumps(record, ensure_ascii=False) + "\n"
