"""Measurement of several systems, given by name, on the same judged queries."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.data.retrieval_set import RetrievalSet
from trainer.errors import BadRecipe
from trainer.evaluation.evaluate import evaluate_run, measured_run
from trainer.evaluation.image_text import CAPTION_METRICS
from trainer.evaluation.judged_data import JudgedData, data_of_images, may_have_images
from trainer.evaluation.metrics import RetrievalRun
from trainer.evaluation.results import Evaluation, Failure, SystemResult, compare
from trainer.evaluation.run_file import read_run_file, write_runs
from trainer.evaluation.systems.encoded_documents import EncodedDocuments
from trainer.evaluation.systems.failures import SystemErrors
from trainer.evaluation.systems.names import SystemName, parse_systems
from trainer.evaluation.systems.open import DEFAULTS, DEPTH, SystemOpener, SystemSettings
from trainer.evaluation.systems.system import Corpus, System
from trainer.models.families import reads_images
from trainer.models.files.locate import locate
from trainer.retrieval.indexes.index_corpus import open_index
from trainer.retrieval.indexes.views import has_views


@dataclass(frozen=True)
class SystemComparison:
    """An evaluation of systems, with what was measured and the rankings of each system."""

    evaluation: Evaluation
    judged_set: RetrievalSet
    runs: dict[str, RetrievalRun]
    """The documents that were measured, by the name of the system."""
    by_image: "SystemComparison | None" = None
    """The same for the queries that are images, by the systems that hold images."""

    def write_runs(self, folder: Path) -> list[Path]:
        """Writes run files and judgements, those of images to `images/`. Returns the paths."""
        paths = write_runs(self.runs, self.judged_set.qrels, folder)
        return paths + (self.by_image.write_runs(folder / "images") if self.by_image else [])


def evaluate_systems(
    systems: Sequence[str],
    data: JudgedData,
    *,
    bm25: bool = True,
    index: Path | None = None,
    reranker: str | None = None,
    settings: SystemSettings = DEFAULTS,
    find_model: Callable[[str], str] = str,
    on_measured: Callable[[System, RetrievalSet], None] = lambda system, judged_set: None,
    tell: Callable[[str], None] = lambda line: None,
) -> SystemComparison:
    """Measures systems, and compares BM25 and each other one with the first.

    `index` is an index of the set's documents by the only system, which is a model; it is measured
    in addition to exact search. `reranker` names a cross-encoder, which re-ranks the first
    documents of each system. `find_model` returns the folder of a model for what a user wrote, such
    as the folder of a run. `on_measured` is called with each system while it is open.

    Queries that are images are an evaluation of their own. A system that cannot be measured is
    among the failures. Raises BadRecipe when one is written wrongly or named twice, and the error
    of the systems if all fail.
    """
    names = parse_systems(systems)
    has_baseline = bm25 and SystemName("bm25") not in names
    names = [*([SystemName("bm25")] if has_baseline else []), *_table(names, index, reranker)]
    if reranker is not None:
        locate(find_model(reranker))  # the error of an option ends the command
    attempts = _Attempts(tell, has_baseline)
    names = attempts.check(names, find_model)
    if must_read_images(names, data):
        names, data = _only_systems_of_images(names, has_baseline), data_of_images(data)
        attempts.has_baseline = False
    judged_set, dev_set = data.read(), None
    if any(name.contains("weighted") for name in names):
        dev_set = data.read_dev()
        names = _without_weights(names, judged_set, tell) if dev_set is None else names
    if index is not None:
        settings = replace(settings, layers=settings.layers or open_index(index).manifest.layers)
    memory = EncodedDocuments() if judged_set.has_images and judged_set.image_queries else None
    opener = SystemOpener(Corpus.of(judged_set), settings, dev_set, memory)
    _open_options(opener, names, reranker)
    attempts.measure_all(names, opener, judged_set, on_measured)
    result = attempts.comparison(judged_set, data.split)
    return _with_image_queries(result, names, settings, memory, tell)


def _with_image_queries(
    comparison: SystemComparison,
    names: Sequence[SystemName],
    settings: SystemSettings,
    memory: EncodedDocuments | None,
    tell: Callable[[str], None],
) -> SystemComparison:
    """Returns a comparison together with that of the queries that are images, if there are any.

    `memory` has the vectors of the images.
    """
    evaluation, judged_set = comparison.evaluation, comparison.judged_set.image_queries
    if judged_set is None:
        return comparison
    failures = {failure.system for failure in evaluation.failures}
    names = [name for name in names if str(name) not in failures and searches_images(name)]
    if not names:
        tell(f"{len(judged_set.queries):,} queries are images: no system here can answer them")
        return comparison
    judged_set = replace(judged_set, name=f"{judged_set.name}, images")
    settings = replace(settings, query_role="document")
    opener = SystemOpener(Corpus.of(judged_set), settings, encoded_documents=memory)
    attempts = _Attempts(tell, has_baseline=False, by_image=True)
    attempts.measure_all(names, opener, judged_set)
    by_image = attempts.comparison(judged_set, evaluation.split) if attempts.runs else None
    failures_by_image = [
        replace(failure, system=f"{failure.system} by image") for failure in attempts.failures()
    ]
    evaluation = replace(
        evaluation,
        failures=(*evaluation.failures, *failures_by_image),
        image_queries=by_image.evaluation if by_image else None,
    )
    return replace(comparison, evaluation=evaluation, by_image=by_image)


def must_read_images(names: Sequence[SystemName], data: JudgedData) -> bool:
    """Returns True for models of images; for indexes of images, unless the data are texts with the
    same ids.
    """
    kinds = {name.kind for name in names if searches_images(name)}
    return "model" in kinds or ("index" in kinds and may_have_images(data))


def searches_images(name: SystemName) -> bool:
    """Returns True for a model of images, and for an index or single view of one."""
    if name.kind == "index":
        folder = Path(name.value)
        return not has_views(folder) and open_index(folder).has_images
    return name.kind == "model" and reads_images(name.value)


def _only_systems_of_images(names: Sequence[SystemName], has_baseline: bool) -> list[SystemName]:
    """Returns the systems without BM25 as a baseline, which cannot search images.

    Raises BadRecipe if any other system is no model of images, nor an index of one.
    """
    names = names[1:] if has_baseline else list(names)
    for name in names:
        if not searches_images(name):
            raise BadRecipe(
                f"{name} cannot search images; measure models of captions and images, and indexes"
                " or single views of them, by themselves"
            )
    return list(names)


def _table(
    names: Sequence[SystemName], index: Path | None, reranker: str | None
) -> Iterator[SystemName]:
    """Yields the systems in the order of the table, with those that the options ask for.

    The first one is the last row, after those with which it is compared.
    """
    if index is not None and [name.kind for name in names] != ["model"]:
        raise BadRecipe("an index belongs to one model; give that model alone with --index")
    for name in reversed(names):
        yield name
        last = name
        if index is not None:
            last = SystemName("index", str(index), index_model=name.value)
            yield last
        if reranker is not None:
            yield SystemName("rerank", reranker, (last,))


def _open_options(opener: SystemOpener, names: Sequence[SystemName], reranker: str | None) -> None:
    """Opens what options name before anything is encoded: an error ends the command."""
    for name in names:
        if reranker is not None and name.kind == "rerank":
            opener.reranker(name.value)
        if name.index_model:
            opener.open(name)


def _without_weights(
    names: Sequence[SystemName], judged_set: RetrievalSet, tell: Callable[[str], None]
) -> list[SystemName]:
    tell(
        f"weighted: the data of {judged_set.name} have no dev queries beside those that are"
        " measured, so no weights can be chosen; hybrid: is measured instead (reciprocal ranks)"
    )

    def without_weights(name: SystemName) -> SystemName:
        return replace(name, kind="hybrid") if name.kind == "weighted" else name

    return list(dict.fromkeys(name.change(without_weights) for name in names))


class _Attempts:
    """The results of systems, and the errors of those that failed."""

    def __init__(
        self, tell: Callable[[str], None], has_baseline: bool, by_image: bool = False
    ) -> None:
        """With `by_image`, the queries are images."""
        self._tell, self.has_baseline, self._by_image = tell, has_baseline, by_image
        self._errors = SystemErrors(tell)
        self._results: list[SystemResult] = []
        self.runs: dict[str, RetrievalRun] = {}

    def check(
        self, names: Sequence[SystemName], find_model: Callable[[str], str]
    ) -> list[SystemName]:
        """Returns the systems whose files exist, with the folders of their models.

        Raises BadData for a malformed run file, and the error of the systems if none is left.
        """
        for single in (single for name in names for single in name.single_systems):
            if single.kind == "run":
                read_run_file(Path(single.value))

        systems = list(self._errors.usable_systems(names, find_model))
        if len(systems) <= int(self.has_baseline):
            self._errors.raise_error()
        return systems

    def measure_all(
        self,
        names: Sequence[SystemName],
        opener: SystemOpener,
        judged_set: RetrievalSet,
        on_measured: Callable[[System, RetrievalSet], None] = lambda system, judged_set: None,
    ) -> None:
        """Measures systems, one after the other, and closes what is not used any more."""
        for number, name in enumerate(names):
            self._tell(f"measuring {name}" + (" by image" if self._by_image else ""))
            with self._errors.note_failure(str(name)):
                system = self._measure(name, opener, judged_set)
                on_measured(system, judged_set)
            opener.close(names[number + 1 :])

    def _measure(self, name: SystemName, opener: SystemOpener, judged_set: RetrievalSet) -> System:
        system = opener.open(name)
        if system.name in self.runs:
            raise BadRecipe(f"{system.name} is measured already; name each system once")
        run = measured_run(system.search(judged_set.queries_by_id, DEPTH), judged_set)
        notes = filter(None, [system.note, _note_of_missing(run)])
        result = evaluate_run(run, judged_set, system.name)
        if judged_set.has_images and not self._by_image:
            reverse = opener.image_to_text(name, judged_set, result.query_ids)
            metrics = {metric: result.metrics[metric] for metric in CAPTION_METRICS}
            result = replace(result, metrics=metrics | reverse)
        self.runs[system.name] = run
        self._results.append(replace(result, note="; ".join(notes)))
        return system

    def failures(self) -> tuple[Failure, ...]:
        """Returns the systems that failed, and why."""
        return self._errors.failures()

    def comparison(self, judged_set: RetrievalSet, split: str) -> SystemComparison:
        """Returns the results. Raises the error of the systems if all of them failed."""
        if self._errors and len(self._results) <= int(self.has_baseline):
            self._errors.raise_error()
        evaluation = compare(judged_set, split, self._results)
        evaluation = replace(evaluation, failures=self.failures())
        return SystemComparison(evaluation, judged_set, self.runs)


def _note_of_missing(run: RetrievalRun) -> str:
    count = sum(not hits for hits in run.values())
    return (
        f"nothing was found for {count:,} of {len(run):,} queries, which count 0" if count else ""
    )
