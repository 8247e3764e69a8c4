"""Requests to end a run early, and the points at which it ends.

A signal only records a request. The work goes on to its next stop point, where nothing is lost.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from trainer.errors import Interrupted, NearfarError, NoSpace, Preempted


class Stop(IntEnum):
    """Why a run should end. When ranks have different reasons, the highest number counts."""

    NO_REQUEST = 0
    CTRL_C = 1
    SIGNAL_HANGUP = 2
    SIGNAL_USR1 = 3
    SIGNAL_TERM = 4
    LAUNCHER_GONE = 5
    FOLDER_GONE = 6

    def error(self) -> NearfarError:
        """Returns the error that ends the run."""
        match self:
            case Stop.CTRL_C:
                return Interrupted("by Ctrl-C")
            case Stop.FOLDER_GONE:
                return NoSpace(
                    "the run folder was removed, or its disk was unmounted, while the run was"
                    " going on; restore it and continue with --resume, or start again"
                )
            case _:
                return Preempted(f"{_TEXTS[self]}; continue with --resume")


_TEXTS = {
    Stop.SIGNAL_HANGUP: "the terminal was closed (SIGHUP)",
    Stop.SIGNAL_USR1: "the time limit is near (SIGUSR1)",
    Stop.SIGNAL_TERM: "this process was asked to end (SIGTERM)",
    Stop.LAUNCHER_GONE: "the process that started this one has ended",
}


class _State:
    """The request of this process, and whether its stop points count."""

    request = Stop.NO_REQUEST
    former_request = Stop.NO_REQUEST
    has_partners = False
    is_shielded = False
    was_asked_to_end = False


def request_stop(stop: Stop) -> None:
    """Records a request. A weaker one than the latest, or than one that was followed, counts not.

    Another rank may still tell of a request that all ranks have followed already.
    """
    _State.was_asked_to_end |= stop == Stop.SIGNAL_TERM
    if stop > _State.former_request:
        _State.request = max(_State.request, stop)


def requested_stop() -> Stop:
    """Returns the request of this process that a stop point must follow."""
    return Stop.NO_REQUEST if _State.is_shielded else _State.request


def was_asked_to_end() -> bool:
    """Returns whether this process has ever got SIGTERM."""
    return _State.was_asked_to_end


def clear_request() -> None:
    """Forgets all requests, before and after a run."""
    _State.request = _State.former_request = Stop.NO_REQUEST


def follow_request(stop: Stop) -> None:
    """Ends a request that the ranks have agreed to follow, so that no stop point raises for it."""
    _State.request, _State.former_request = Stop.NO_REQUEST, stop


def stop_point() -> None:
    """Ends work that no other rank waits for, if a stop was requested.

    Raises Preempted, Interrupted or NoSpace. It does nothing inside `in_step`.
    """
    if (stop := requested_stop()) and not _State.has_partners:
        raise stop.error()


@contextmanager
def in_step(with_others: bool = True) -> Iterator[None]:
    """Within the block, the ranks work in step, so they must stop together
    (`trainer.collectives.agree`). With `with_others=False`, none waits for this one.
    """
    former, _State.has_partners = _State.has_partners, with_others
    try:
        yield
    finally:
        _State.has_partners = former


@contextmanager
def shield() -> Iterator[None]:
    """Within the block, a request is recorded but not followed: it must not be left halfway."""
    former, _State.is_shielded = _State.is_shielded, True
    try:
        yield
    finally:
        _State.is_shielded = former
