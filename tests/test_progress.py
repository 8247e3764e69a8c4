"""Phases: what library code says of its progress, and who hears it."""

import time

import pytest

from trainer.progress import Phase, expect, listening, phase


class Notes:
    """A listener that writes down what it hears."""

    def __init__(self):
        self.heard = []

    def begin(self, phase):
        self.heard.append(f"begin {phase.name}")

    def end(self, phase):
        self.heard.append(f"end {phase.name} at {phase.position}")

    def expect(self, phases):
        self.heard.append(f"expect {dict(phases)}")


def test_listener_hears_phases_in_order():
    notes = Notes()
    with listening(notes):
        expect({"test": 2})
        with phase("test", total=2) as outer:
            outer.advance()
            with phase("encoding", 3, "texts") as inner:
                inner.advance(3)
            outer.advance()
    assert notes.heard == [
        "expect {'test': 2}",
        "begin test",
        "begin encoding",
        "end encoding at 3",
        "end test at 2",
    ]


def test_nobody_listens_afterwards_and_phases_still_count():
    notes = Notes()
    with listening(notes):
        pass
    expect({"test": 1})
    with phase("encoding", 10, "texts") as progress:
        progress.advance(4)
        assert progress.position == 4
    assert notes.heard == []


def test_part_of_the_same_unit_counts_for_the_whole():
    notes = Notes()
    with listening(notes), phase("encoding the corpus", 10, "texts") as corpus:
        for _ in range(2):
            with phase("encoding documents", 5, "texts") as part:
                assert part is corpus
                part.advance(5)
        with phase("searching", 3, "queries") as search:
            assert search is not corpus
    assert notes.heard == [
        "begin encoding the corpus",
        "begin searching",
        "end searching at 0",
        "end encoding the corpus at 10",
    ]


def test_no_more_is_done_than_there_is():
    with phase("encoding", 10, "texts") as progress:
        progress.advance(64)
    assert progress.position == 10


def test_error_ends_the_phases():
    notes = Notes()
    with listening(notes), pytest.raises(ZeroDivisionError), phase("outer"), phase("inner"):
        raise ZeroDivisionError
    assert notes.heard[-2:] == ["end inner at 0", "end outer at 0"]
    with phase("next") as following:
        assert following.parent is None


def test_rate_and_time_left_leave_inner_phases_out():
    with phase("training", 20, "steps") as training:
        for step in range(10):
            time.sleep(0.01)
            training.advance()
            if step == 5:
                with phase("validation"):
                    time.sleep(0.5)
        assert training.own_seconds < 0.4 < 0.5 < training.seconds
        assert 30 < training.units_per_second < 100
        assert training.seconds_left == pytest.approx(10 / training.units_per_second)


def test_nothing_is_claimed_before_the_first_advance():
    progress = Phase("encoding", 10, "texts", "encoding", (1, "texts"))
    assert progress.units_per_second is None
    assert progress.seconds_left is None
