"""What a check found, one finding per subject."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from trainer.errors import NearfarError

Verdict = Literal["ok", "warning", "wrong", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One verdict on one subject. It prints as a line; a text of several lines continues below."""

    verdict: Verdict
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.verdict:<8} {self.subject}: {self.text}"


class Findings:
    """All findings of a check; `show` is called with each one when it is made."""

    def __init__(self, show: Callable[[Finding], None] = lambda finding: None) -> None:
        self.entries: list[Finding] = []
        self._show = show

    def add(self, verdict: Verdict, subject: str, text: str) -> None:
        """Adds a finding."""
        finding = Finding(verdict, subject, text)
        self.entries.append(finding)
        self._show(finding)

    @property
    def faults(self) -> int:
        """How many findings are `wrong`."""
        return sum(finding.verdict == "wrong" for finding in self.entries)

    @contextmanager
    def about(self, subject: str) -> Iterator[None]:
        """Inside, an error that a person can act on becomes a finding and ends the block."""
        try:
            yield
        except NearfarError as error:
            self.add("wrong", subject, str(error))
