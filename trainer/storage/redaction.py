"""Removes secrets from texts before they are written to a file or printed.

Secrets are recognized by their form, and by their value: those in environment variables, on the
command line, in the YAML files that it names, and in the token files of Hugging Face and netrc.
"""

import netrc
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from io import TextIOBase
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import unquote

REDACTION = "***"

_SENSITIVE = r"(?:token|secret|password|passwd|passphrase|pwd|api[_-]?key|access[_-]?key|private[_-]?key|secret[_-]?key|authorization|credentials?|sig|signature)"  # noqa: E501 - one pattern
_SECRET_NAME = re.compile(rf"(?:^|[._\-])\W*{_SENSITIVE}$", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(
    r"TOKEN(?!IZER)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|COOKIE|KEY$|(?<!BY)PASS$|_AUTH$|_PAT$|_?PWD$",
    re.IGNORECASE,
)
_NO_SECRETS = {"PWD", "OLDPWD"}
"""Variables that are named like secrets and are folders."""
_ASSIGNMENT = re.compile(
    rf"((?:^|(?<=[\s?&;,{{\"'._\-])){_SENSITIVE}[\"']?\s*[=:]\s*[\"']?)([^\s\"'&;,}}]+)",
    re.IGNORECASE | re.MULTILINE,
)
_USER_IN_URL = re.compile(r"(?<=://)[^\s/@\"']+(?=@)")
_KNOWN_FORM = re.compile(
    r"\b(?:(?:Bearer|Basic)\s+[\w.~+/=-]{8,}|hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|AKIA[A-Z0-9]{16}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+)"
)
_SHORTEST_SECRET = 6
"""Shorter values of secret variables are not searched for, because values such as `1` or `yes`
occur everywhere.
"""
_LARGEST_FILE = 1_000_000


def redact(text: str) -> str:
    """Returns `text` with secrets replaced by `***`.

    Secrets are users in URLs, values of keys named like secrets, tokens of well-known forms, and
    what `redact_values` replaces.

    >>> redact("data.train=https://me:pass@host/pairs.jsonl --token=abc optimization.batch_size=64")
    'data.train=https://***@host/pairs.jsonl --token=*** optimization.batch_size=64'
    >>> redact("micro_batch_tokens: 4096, pooling: last_token")
    'micro_batch_tokens: 4096, pooling: last_token'
    """
    text = _KNOWN_FORM.sub(REDACTION, _USER_IN_URL.sub(REDACTION, redact_values(text)))
    return _ASSIGNMENT.sub(rf"\1{REDACTION}", text)


def redact_values(text: str) -> str:
    """Returns `text` with the values of this process's secrets replaced by `***`.

    It is meant for data, where `password=abc` can be a part of a document.
    """
    secrets = {*_secrets_of_environment(), *_secrets_of_command(tuple(sys.argv)), *_stored_tokens()}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, REDACTION)
    return text


def redact_tree(value: Any) -> Any:
    """Redacts nested dicts and lists: all strings, and all values of keys named like secrets.

    >>> redact_tree({"token": "abc", "data": ["ftp://me:pass@host/x"], "rank": 32})
    {'token': '***', 'data': ['ftp://***@host/x'], 'rank': 32}
    """
    if isinstance(value, dict):
        return {
            key: (
                REDACTION
                if _SECRET_NAME.search(str(key)) and inner is not None
                else redact_tree(inner)
            )
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact_tree(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value


def redact_command(command: Sequence[str]) -> str:
    """Returns a command line that can be typed again, without its secrets.

    >>> redact_command(["nearfar", "fit", "a recipe.yaml", "--token", "abc", "seed=1"])
    "nearfar fit 'a recipe.yaml' --token *** seed=1"
    """
    words: list[str] = []
    for number, word in enumerate(command):
        clean = REDACTION if _follows_secret_option(command, number) else redact(word)
        words.append(clean if REDACTION in clean else shlex.quote(clean))
    return " ".join(words)


def without_user(url: str) -> str:
    """Returns the URL without user and password.

    >>> without_user("https://me:pass@host/x")
    'https://host/x'
    """
    return re.sub(rf"{_USER_IN_URL.pattern}@", "", url)


class RedactedStream:
    """A text stream whose text passes through `clean` before it is written."""

    def __init__(self, stream: TextIO | TextIOBase, clean: Callable[[str], str]) -> None:
        self._stream, self._clean = stream, clean

    def write(self, text: str) -> int:
        """Writes the text without its secrets."""
        self._stream.write(self._clean(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _follows_secret_option(command: Sequence[str], number: int) -> bool:
    option = command[number - 1] if number > 0 else ""
    return option.startswith("-") and _SECRET_NAME.search(option) is not None


def _secrets_of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name) and name not in _NO_SECRETS:
            yield from value.splitlines()
        elif "://" in value:
            yield from _passwords_in(value)


@cache
def _secrets_of_command(command: tuple[str, ...]) -> frozenset[str]:
    texts = []
    secrets: set[str] = set()
    for number, word in enumerate(command):
        if _follows_secret_option(command, number):
            secrets.add(word)
        texts.append(word)
        if word.endswith((".yaml", ".yml")):
            texts.append(_small_text(Path(word)))
    for text in texts:
        secrets.update(_passwords_in(text))
        secrets.update(value for _, value in _ASSIGNMENT.findall(text))
    return frozenset(secrets)


def _passwords_in(text: str) -> Iterator[str]:
    for user in _USER_IN_URL.findall(text):
        password = user.partition(":")[2]
        yield from (user, password, unquote(password))


@cache
def _stored_tokens() -> frozenset[str]:
    """The tokens in the files of Hugging Face and netrc."""
    hub = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    tokens = {_small_text(Path(os.environ.get("HF_TOKEN_PATH", hub / "token"))).strip()}
    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        hosts = {}
    return frozenset(tokens | {password for _, _, password in hosts.values() if password})


def _small_text(path: Path) -> str:
    try:
        if path.is_file() and path.stat().st_size <= _LARGEST_FILE:
            return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        pass
    return ""
