"""The results of a check, one finding per subject."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from trainer.errors import NearfarError

Severity = Literal["ok", "warning", "wrong", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One result about one subject. It prints as a line, or as several if its text has several."""

    severity: Severity
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.severity:<8} {self.subject}: {self.text}"


class Findings:
    """All findings of a check. `show` is called with each finding when it is made."""

    def __init__(self, show: Callable[[Finding], None] = lambda finding: None) -> None:
        self.entries: list[Finding] = []
        self._show = show

    def add(self, severity: Severity, subject: str, text: str) -> None:
        """Adds a finding."""
        finding = Finding(severity, subject, text)
        self.entries.append(finding)
        self._show(finding)

    @property
    def faults(self) -> int:
        """The number of findings that are `wrong`."""
        return sum(finding.severity == "wrong" for finding in self.entries)

    @contextmanager
    def catch(self, subject: str) -> Iterator[None]:
        """Within the block, a `NearfarError` becomes a finding and ends the block."""
        try:
            yield
        except NearfarError as error:
            self.add("wrong", subject, str(error))
