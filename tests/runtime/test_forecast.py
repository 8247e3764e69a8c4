"""The time left of a whole run, on a clock of our own."""

import pytest

from trainer import progress
from trainer.progress import listening, phase
from trainer.runtime.forecast import Forecast


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now

    def pass_seconds(self, seconds):
        self.now += seconds


class Listener:
    def __init__(self):
        self.forecast = Forecast()
        self.current = None

    def begin(self, phase):
        self.current = phase

    def end(self, phase):
        self.forecast.end(phase)
        self.current = phase.parent

    def expect(self, phases):
        self.forecast.expect(phases)

    @property
    def left(self):
        return self.forecast.seconds_left(self.current)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def listener():
    listener = Listener()
    with listening(listener):
        yield listener


def test_run_ends_after_training_validations_and_the_last_test(clock, listener):
    progress.expect({"BM25": 1, "test": 2, "validation": 3, "training": 1})
    with phase("BM25 on test queries", kind="BM25"):
        clock.pass_seconds(7)
        assert listener.left is None, "nothing else has been measured"
    with phase("base model on test queries", kind="test"), phase("encoding"):
        clock.pass_seconds(100)
    with phase("validation before training", kind="validation"):
        clock.pass_seconds(20)
        assert listener.left is None
    with phase("training", 10, "steps") as training:
        for _ in range(5):
            clock.pass_seconds(3)
            training.advance()
        assert listener.left == pytest.approx(5 * 3 + 2 * 20 + 100)
        with phase("validation"):
            clock.pass_seconds(5)
            assert listener.left == pytest.approx(5 * 3 + 15 + 20 + 100)
            clock.pass_seconds(25)
            assert listener.left == pytest.approx(5 * 3 + 0 + 20 + 100), "it takes longer"
        assert listener.left == pytest.approx(5 * 3 + 25 + 100), "now the mean of two"
        for _ in range(5):
            clock.pass_seconds(3)
            training.advance()
        with phase("validation"):
            clock.pass_seconds(25)
    assert listener.left == pytest.approx(100)
    with phase("fine-tuned model on test queries", kind="test"):
        clock.pass_seconds(60)
        assert listener.left == pytest.approx(40)
    assert listener.left == 0


def test_training_that_stops_early_leaves_no_validation_to_wait_for(clock, listener):
    progress.expect({"test": 2, "validation": 10, "training": 1})
    with phase("test"):
        clock.pass_seconds(100)
    with phase("validation"):
        clock.pass_seconds(20)
    with phase("training", 10, "steps") as training:
        clock.pass_seconds(3)
        training.advance()
        with phase("validation"):
            clock.pass_seconds(20)
    assert listener.left == pytest.approx(100)


def test_first_phase_that_counts_gives_the_others_their_length(clock, listener):
    progress.expect({"part": 3})
    with phase("part", 10, "rows") as part:
        clock.pass_seconds(4)
        part.advance(2)
        assert listener.left == pytest.approx(16 + 2 * 20)


def test_time_left_is_unknown_without_a_plan(clock, listener):
    with phase("encoding", 10, "texts") as part:
        clock.pass_seconds(4)
        part.advance(2)
        assert listener.left is None
