"""Systems that cannot be measured, while the others go on."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from trainer.errors import BadModel, NearfarError, SystemsFailed
from trainer.evaluation.results import Failure
from trainer.evaluation.systems.names import SystemName
from trainer.models.files.locate import locate
from trainer.retrieval.indexes.index_corpus import open_index
from trainer.retrieval.indexes.views import index_folders


class SystemErrors:
    """The errors of systems that failed, by their names.

    `tell` says at once which one failed. The reason is in `failures`, or in the error.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._errors: dict[str, NearfarError] = {}

    def __len__(self) -> int:
        return len(self._errors)

    @contextmanager
    def note_failure(self, name: str) -> Iterator[None]:
        """Within the block, an error of the input is kept. Other errors are raised."""
        try:
            yield
        except NearfarError as error:
            if error.exit_code != NearfarError.exit_code:
                raise
            self._errors[name] = error
            self._tell(f"{name} cannot be measured; the reason follows at the end")

    def usable_systems(
        self, names: Sequence[SystemName], find_model: Callable[[str], str]
    ) -> dict[SystemName, str]:
        """Returns the systems whose files exist, with the folders of their models, and what the
        user wrote for each.
        """
        systems: dict[SystemName, str] = {}
        for name in names:
            with self.note_failure(str(name)):
                system = name.with_models(find_model)
                check_system(system)
                systems[system] = str(name)
        return systems

    def failures(self) -> tuple[Failure, ...]:
        """Returns the systems that failed, and why."""
        return tuple(Failure(name, str(error)) for name, error in self._errors.items())

    def raise_error(self, kind: str = "system") -> NoReturn:
        """Raises the only error, or one with all of them. `kind` names what was measured."""
        if len(self._errors) == 1:
            raise next(iter(self._errors.values()))
        problems = "\n".join(f"{name}: {error}" for name, error in self._errors.items())
        raise BadModel(f"no {kind} could be measured\n{problems}")


def check_system(system: SystemName) -> None:
    """Raises BadModel or BadFolder when a model or an index of a system is missing."""
    if system.kind == "rerank":
        locate(system.value)
    for single in system.single_systems:
        if single.kind == "index":
            for folder in index_folders(Path(single.value)):
                open_index(folder)
        if single.kind == "model":
            locate(single.value)


def check_complete(failures: Sequence[Failure]) -> None:
    """Raises SystemsFailed, after the result was shown, if some systems were not measured."""
    if failures:
        names = ", ".join(failure.system for failure in failures)
        raise SystemsFailed(
            f"{names} could not be measured, for the reasons above; the figures of the others are"
            " complete"
        )
