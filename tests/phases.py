"""What tests see of progress: the phases of a command, and an action when one first ends."""

from trainer.progress import listening


class Phases:
    """Keeps the names of the phases, with how much of them was done."""

    def __init__(self, at_end=None):
        self.finished = []
        self._at_end = dict(at_end or {})

    def begin(self, phase):
        pass

    def end(self, phase):
        self.finished.append((phase.name, phase.position, phase.total))
        if action := self._at_end.pop(phase.name, None):
            action()

    def expect(self, phases):
        pass


def when_encoded(action):
    """Within the block, `action` runs once, when documents have been encoded."""
    return listening(Phases({"encoding documents": action}))
