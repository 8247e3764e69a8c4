"""Measures candidates in rounds, drops the worse half, and chooses among the rest."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from trainer.data.retrieval_set import RetrievalSet
from trainer.evaluation.judged_data import JudgedData
from trainer.evaluation.results import Failure
from trainer.evaluation.systems.encoded_documents import EncodedDocuments
from trainer.evaluation.systems.failures import SystemErrors
from trainer.evaluation.systems.names import SystemName
from trainer.evaluation.systems.open import DEFAULTS, SystemOpener, SystemSettings
from trainer.evaluation.systems.system import Corpus
from trainer.selection.candidates import Limits, SystemCandidate
from trainer.selection.choice import Choice, choose
from trainer.selection.halving import LEAST_QUERIES, SHARES, Drop, drop
from trainer.selection.measure import MEGABYTE, Measurement, measure
from trainer.selection.probe import Probe
from trainer.selection.samples import sample_set

NO_LIMITS = Limits()
Tell = Callable[[str], None]


@dataclass(frozen=True)
class ModelSelection:
    """What was measured, what was dropped, and what follows."""

    judged_set: RetrievalSet
    limits: Limits
    measurements: tuple[Measurement, ...]
    """The candidates that were measured on all queries, the best first."""
    drops: tuple[Drop, ...]
    failures: tuple[Failure, ...]
    """The candidates that could not be measured."""
    choice: Choice
    warnings: tuple[str, ...]
    seconds: float
    probes: tuple[Probe, ...] = ()
    """Short training runs of the models that were measured on all queries, the best first."""


def select(
    candidates: Sequence[SystemCandidate],
    data: JudgedData,
    limits: Limits = NO_LIMITS,
    *,
    halving: bool = True,
    settings: SystemSettings = DEFAULTS,
    find_model: Callable[[str], str] = str,
    tell: Tell = lambda line: None,
) -> ModelSelection:
    """Measures the candidates on judged queries and chooses.

    The weights of a fusion are chosen on dev queries. `find_model` returns the folder of a model
    for what a user wrote. A candidate that cannot be measured is among the failures; raises
    BadModel if all are.
    """
    start = time.monotonic()
    judged_set = data.read()
    has_weights = any(candidate.system.contains("weighted") for candidate in candidates)
    rounds = _Rounds(judged_set, data.read_dev() if has_weights else None, settings, tell)
    systems = rounds.check([candidate.system for candidate in candidates], find_model)
    # An index holds all documents, so it cannot search a sample of them.
    indexes = [system for system in systems if system.contains("index")]
    systems = [system for system in systems if system not in indexes]
    if halving and limits.memory_mb is not None:
        systems = rounds.drop_heavy(systems, limits.memory_mb)
    for share in SHARES if halving else ():
        if len(systems) > 2 and rounds.is_worthwhile(share):
            systems = rounds.halve(systems, share, limits)
    measurements = rounds.measure([*systems, *indexes])
    return ModelSelection(
        judged_set,
        limits,
        tuple(sorted(measurements, key=lambda measurement: -measurement.result.mean())),
        tuple(rounds.drops),
        rounds.errors.failures(),
        choose(measurements, limits),
        tuple(_warnings(candidates, judged_set, data.split)),
        time.monotonic() - start,
    )


def _warnings(
    candidates: Sequence[SystemCandidate], judged_set: RetrievalSet, split: str
) -> Iterator[str]:
    data_name = judged_set.name.removesuffix(f" {split}").rstrip("/").rpartition("/")[2]
    for candidate in candidates:
        if candidate.has_seen(data_name):
            yield (
                f"{candidate.system} was trained on {data_name}: its figure proves nothing"
                " for other queries"
            )
    if judged_set.limitation:
        yield judged_set.limitation


class _Rounds:
    """The rounds of a selection, with the candidates that are dropped or fail on the way."""

    def __init__(
        self,
        judged_set: RetrievalSet,
        dev_set: RetrievalSet | None,
        settings: SystemSettings,
        tell: Tell,
    ) -> None:
        self._judged_set, self._dev_set = judged_set, dev_set
        self._settings, self._tell = settings, tell
        self._queries = 0
        self._encoded_documents = EncodedDocuments()
        self._names: dict[SystemName, str] = {}
        self.drops: list[Drop] = []
        self.errors = SystemErrors(tell)

    def check(
        self, systems: Sequence[SystemName], find_model: Callable[[str], str]
    ) -> list[SystemName]:
        """Returns the systems whose files exist, with the folders of their models."""
        self._names = self.errors.usable_systems(systems, find_model)
        self._check_any(self._names)
        return list(self._names)

    def drop_heavy(self, systems: Sequence[SystemName], most_megabytes: float) -> list[SystemName]:
        """Drops candidates whose weights alone take more memory; returns the others, or all if none
        would be left. A model that cannot be read is dropped too.
        """
        opener = SystemOpener(Corpus.of(self._judged_set), self._settings)
        megabytes = {}
        for system in systems:
            with self.errors.note_failure(self._names[system]):
                megabytes[system] = opener.weight_bytes(system) / MEGABYTE
        light_systems = [system for system in megabytes if megabytes[system] <= most_megabytes]
        for system, value in megabytes.items():
            if light_systems and system not in light_systems:
                reason = f"over the limits: {value:,.1f} MB of weights"
                self._note_drop(Drop(self._names[system], 0, None, reason))
        self._check_any(megabytes)
        return light_systems or list(megabytes)

    def is_worthwhile(self, share: float) -> bool:
        """Returns True if a round with this share has enough queries more than the last one."""
        queries = max(LEAST_QUERIES, round(share * len(self._judged_set.queries)))
        is_larger = queries >= self._queries + LEAST_QUERIES
        return is_larger and queries <= len(self._judged_set.queries) / 2

    def halve(
        self, systems: Sequence[SystemName], share: float, limits: Limits
    ) -> list[SystemName]:
        """Measures the systems on a share of queries and documents; returns those that go on."""
        sample = sample_set(self._judged_set, share, LEAST_QUERIES, self._dev_set)
        self._queries = len(sample.queries)
        self._tell(
            f"{len(systems)} candidates on {len(sample.queries):,} queries and"
            f" {len(sample.documents):,} documents"
        )
        measurements = self._measure(systems, sample)
        drops = drop(list(measurements.values()), limits)
        for loss in drops:
            self._note_drop(loss)
        dropped_names = {loss.candidate for loss in drops}
        return [system for system in measurements if self._names[system] not in dropped_names]

    def measure(self, systems: Sequence[SystemName]) -> list[Measurement]:
        """Measures the systems on all queries and documents."""
        self._tell(f"measuring {len(systems)} on all queries and documents")
        return list(self._measure(systems, self._judged_set).values())

    def _measure(
        self, systems: Sequence[SystemName], judged_set: RetrievalSet
    ) -> dict[SystemName, Measurement]:
        corpus = Corpus.of(judged_set)
        self._encoded_documents.forget_others(
            {model.value for system in systems for model in system.single_systems}
        )
        opener = SystemOpener(corpus, self._settings, self._dev_set, self._encoded_documents)
        measurements: dict[SystemName, Measurement] = {}
        for number, system in enumerate(systems):
            name = self._names[system]
            with self.errors.note_failure(name):
                measurement = measure(system, opener, judged_set)
                result = replace(measurement.result, name=name)
                measurements[system] = replace(measurement, candidate=name, result=result)
            opener.close(systems[number + 1 :])
        self._check_any(measurements)
        return measurements

    def _note_drop(self, loss: Drop) -> None:
        self._tell(f"  {loss}")
        self.drops.append(loss)

    def _check_any(self, systems: object) -> None:
        if not systems:
            self.errors.raise_error("candidate")
