"""Estimates how long a command will still take, from the durations of its finished phases."""

from collections import defaultdict
from collections.abc import Mapping

from trainer.progress import Phase


class Forecast:
    """The expected number of phases of each kind, and the durations of finished phases.

    It assumes that phases of one kind take equally long. A validation takes as long as earlier
    ones, and the test after training as long as the test before it.
    """

    def __init__(self) -> None:
        self._expected_counts: dict[str, int] = {}
        self._durations: dict[str, list[float]] = defaultdict(list)
        self._inner_seconds: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        """Seconds of expected phases inside others, by kind."""

    def expect(self, phases: Mapping[str, int]) -> None:
        """Sets the number of phases of each kind that will follow."""
        self._expected_counts = dict(phases)

    def end(self, phase: Phase) -> None:
        """Stores the duration of a phase that has ended, without expected phases inside it.

        No more of these inner phases will follow, for example if training stops early.
        """
        if phase.kind not in self._expected_counts:
            return
        inner_seconds = self._inner_seconds.pop(id(phase), {})
        for kind in inner_seconds:
            self._expected_counts[kind] = len(self._durations[kind])
        self._durations[phase.kind].append(phase.seconds - sum(inner_seconds.values()))
        outer = phase.parent
        while outer is not None and outer.kind not in self._expected_counts:
            outer = outer.parent
        if outer is not None:
            self._inner_seconds[id(outer)][phase.kind] += phase.seconds

    def seconds_left(self, current: Phase | None) -> float | None:
        """Returns the estimated seconds to the end of the command.

        It is None until every kind of phase that will follow has been measured once.
        """
        if not self._expected_counts:
            return None
        running: dict[str, Phase] = {}
        while current is not None:
            running.setdefault(current.kind, current)
            current = current.parent
        total = 0.0
        for kind in self._expected_counts:
            seconds = self._seconds_left(kind, running.get(kind))
            if seconds is None:
                return None
            total += seconds
        return total

    def _seconds_left(self, kind: str, running: Phase | None) -> float | None:
        """Returns the estimated seconds for phases of one kind, of which one may be running."""
        durations = self._durations[kind]
        mean = sum(durations) / len(durations) if durations else None
        pending = self._expected_counts[kind] - len(durations)
        seconds = 0.0
        if running is not None:
            rest = running.seconds_left
            own_seconds = running.seconds - sum(self._inner_seconds[id(running)].values())
            if rest is None:
                if mean is None:
                    return None
                rest = max(0.0, mean - own_seconds)
            mean = own_seconds + rest if mean is None else mean
            seconds, pending = rest, pending - 1
        if pending <= 0:
            return seconds
        return None if mean is None else seconds + pending * mean
