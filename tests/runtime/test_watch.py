import os
import signal
import threading

import pytest

from trainer import stopping
from trainer.runtime.watch import watching


@pytest.fixture(autouse=True)
def no_former_signal(monkeypatch):
    monkeypatch.setattr(stopping._State, "was_asked_to_end", False)


def test_signal_at_the_very_end_is_recorded_but_not_followed():
    """A launcher ends the other ranks while each of them refuses the same input."""
    with watching():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopping.was_asked_to_end()
    assert stopping.requested_stop() == stopping.Stop.NO_REQUEST


def test_no_signal_leaves_no_record_and_ends_the_thread():
    before = signal.getsignal(signal.SIGTERM)
    with watching():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert not stopping.was_asked_to_end()
    assert signal.getsignal(signal.SIGTERM) is before
    assert "watch" not in {thread.name for thread in threading.enumerate()}
