import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def hangup_is_not_ignored() -> Iterator[None]:
    """nohup, which may have started the tests, ignores it, and so would what they start."""
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, former)
