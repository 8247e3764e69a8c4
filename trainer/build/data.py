"""The data of a recipe: training rows, validation queries and test queries."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trainer.batch import Batch, identity
from trainer.build.families.registry import family_of
from trainer.data.cache.read import CachedReader, cached_hold_out, cached_known_positives
from trainer.data.fingerprint import SourceDigests, fingerprint_sources
from trainer.data.mixture import Mixture, build_mixture, check_weights, concatenate
from trainer.data.module import PairData, Steps
from trainer.data.readers.beir import is_beir_folder, source_of_split
from trainer.data.readers.corpus_texts import CorpusTexts
from trainer.data.retrieval_set import (
    RetrievalSet,
    check_takes_corpus,
    retrieval_set_from_rows,
    with_images,
)
from trainer.data.rows import KnownPositives, Rows
from trainer.data.summary.document_shortage import ADVICE, document_shortage
from trainer.data.summary.limitations import limitation_advice
from trainer.errors import BadData
from trainer.mining.refresh import Refresh
from trainer.models.encoder import Encoder
from trainer.recipe.schema.data import DataSection
from trainer.recipe.schema.families import Recipe
from trainer.storage.near_paths import nearest_path


@dataclass(frozen=True)
class DataSets:
    """The training rows, validation queries and test queries of a run."""

    train: Rows
    validation: RetrievalSet
    test: RetrievalSet | None
    general: tuple[RetrievalSet, ...] = ()
    """The general collections, which have nothing to do with the training rows."""
    mixture: Mixture | None = None
    """How `train` combines several data sets; None for a single one."""
    digests: SourceDigests = field(default_factory=SourceDigests)
    """The SHA-256 of each source that was read."""
    remarks: tuple[str, ...] = ()
    """A line per source of which rows or texts were dropped."""

    @cached_property
    def known_positives(self) -> KnownPositives:
        """The known positives of each training query."""
        return cached_known_positives(self.train)

    @cached_property
    def training_documents(self) -> int:
        """The number of different positives of the training rows."""
        return len(np.unique(self.train.identities("positive")))

    @property
    def final_sets(self) -> tuple[RetrievalSet, ...]:
        """What is measured before and after training: the test queries, then the general
        collections; nothing without test queries.
        """
        return () if self.test is None else (self.test, *self.general)

    @property
    def held_out_sets(self) -> dict[str, RetrievalSet]:
        """All judged queries: "validation", "test", and the general collections by their names."""
        names = ("validation", "test", *(collection.name for collection in self.general))
        return dict(zip(names, (self.validation, *self.final_sets), strict=False))

    @property
    def warnings(self) -> Iterator[str]:
        """Why training may do harm, and why scores on held-out queries say too little."""
        if problem := document_shortage(len(self.train), self.training_documents):
            yield f"{problem}. {ADVICE}"
        for name, held_out in self.held_out_sets.items():
            if held_out.limitation and name in ("validation", "test"):
                advice = limitation_advice(held_out.limitation, "data.corpus")
                yield f"the {name} queries are {held_out.limitation}. {advice}"
            if leaks := leaked_queries(self.known_positives, held_out):
                yield (
                    f"{leaks:,} of {len(held_out.queries):,} {name} queries are training queries"
                    " too; what is measured on them proves nothing"
                )


def data_sets(
    data: DataSection, seed: int, all_negatives: bool = False, has_images: bool = False
) -> DataSets:
    """Reads all data of a recipe. Each row has the negatives that are used, or all of them. With
    `has_images`, its positive is an image.

    Raises BadData or TooManyBadRows with the place of the fault, and BadRecipe when only some data
    sets have a weight.
    """
    check_weights([source.weight for source in data.sources])
    reader = CachedReader(data.max_bad_rows_ratio, has_images)
    sets = [
        reader.rows(
            source.source,
            data.columns if source.columns is None else source.columns,
            negatives_per_query=None if all_negatives else data.negatives_per_query,
        )
        for source in data.sources
    ]
    rows = concatenate(sets)
    training_sets = [source.source for source in data.sources]
    validation_source, test_source = (
        data.validation or source_of_split(training_sets, "dev"),
        data.test or source_of_split(training_sets, "test"),
    )
    corpus = _corpus(data.corpus, reader, validation_source, test_source)
    if validation_source:
        validation = reader.retrieval_set(
            validation_source, data.columns, "dev", data.validation_max_queries, corpus
        )
    else:
        rows, validation_rows = cached_hold_out(
            rows, data.validation_ratio, data.validation_max_queries, seed
        )
        validation = retrieval_set_from_rows(validation_rows, "validation", corpus)
        validation = with_images(validation) if has_images else validation
    mixture = _mixture(data, sets, rows)
    test = None
    if test_source:
        test = reader.retrieval_set(test_source, data.columns, "test", corpus=corpus)
    general = _general_collections(data.general_folders, reader, test)
    reports = {id(report): report for report in [*reader.reports, rows.report]}.values()
    remarks = tuple(report.remark for report in reports if report.remark)
    return DataSets(rows, validation, test, general, mixture, reader.digests, remarks)


def _mixture(data: DataSection, sets: Sequence[Rows], rows: Rows) -> Mixture | None:
    """Returns how the training rows combine several sets; None for a single one."""
    if len(sets) == 1:
        return None
    weights = [source.weight for source in data.sources]
    return build_mixture(sets, rows, weights, data.mixing == "one_source_per_batch")


def _corpus(
    name: str | None, reader: CachedReader, validation_source: str | None, test_source: str | None
) -> CorpusTexts | None:
    """Returns the documents of a corpus. Raises BadData if it would not be searched.

    It is searched, too, if validation rows are held out of the training rows.
    """
    if name is None:
        return None
    if validation_source is not None:
        check_takes_corpus(name, validation_source, *filter(None, [test_source]))
    return reader.corpus_texts(name)


def _general_collections(
    folders: Sequence[str], reader: CachedReader, test: RetrievalSet | None
) -> tuple[RetrievalSet, ...]:
    """Returns general collections with their whole corpora. Raises BadData."""
    if not folders:
        return ()
    if test is None:
        raise BadData(
            "data.general is measured together with the test queries, but there are none; name"
            " judged queries as data.test, or leave data.general out"
        )
    for folder in folders:
        if not is_beir_folder(Path(folder)):
            raise BadData(
                f"data.general names {folder}, which is not a BEIR folder (corpus.jsonl,"
                " queries.jsonl and qrels/test.tsv), so there is no whole corpus to"
                f" search{nearest_path(folder) or '; check the path'}"
            )
    general = tuple(reader.retrieval_set(folder, {}, "test") for folder in folders)
    names = [test.name, *(collection.name for collection in general)]
    if repetitions := [name for name, count in Counter(names).items() if count > 1]:
        raise BadData(
            f"data.general and data.test name several sets that are called {repetitions[0]!r}, so"
            " their figures could not be told apart; name each set once, or rename a folder"
        )
    return general


def leaked_queries(positives: KnownPositives, held_out: RetrievalSet) -> int:
    """Returns how many of the held-out queries are also training queries, word for word."""
    queries = np.array([identity(query) for query in held_out.queries])
    return int(positives.has_queries(queries).sum())


def data_fingerprint(
    run: Recipe, training_rows: int, digests: SourceDigests | None = None
) -> dict[str, Any]:
    """Returns a fingerprint of the recipe's data, by which a change is noticed.

    With `digests`, it is that of the data that were read.
    """
    train, refresh = run.data.train, run.refresh_section
    sources = {
        "validation": run.data.validation,
        "test": run.data.test,
        "general": run.data.general_folders,
        "evaluation_corpus": run.data.corpus,
        "corpus": refresh.corpus if refresh is not None else None,
    }
    names = train if isinstance(train, str) else [source.source for source in train]
    return fingerprint_sources(names, training_rows, sources, digests or SourceDigests())


def pair_data(
    run: Recipe,
    data: DataSets,
    encoder: Encoder,
    steps: int,
    refresher: Refresh | None = None,
    first: int = 0,
    prepare: Callable[[Batch], Batch] = lambda batch: batch,
) -> PairData:
    """Returns the training steps from `first` on, tokenised according to the encoder's contract.

    `refresher` mines their negatives (`trainer.build.refresh`). `prepare` does what else can be
    done ahead of the step (`MicroBatching.prepare`).
    """
    family, positives = family_of(run), data.known_positives
    collate = family.collate(run, encoder, positives)
    steps_in_order = Steps(
        data.train,
        lambda rows: prepare(collate(rows)),
        run.seed,
        run.optimization.batch_size,
        first=first,
        last=steps,
        mixture=data.mixture,
        random_negatives=family.random_negatives(run, data.train, positives),
        refresher=refresher,
        max_bad_rows_ratio=run.data.max_bad_rows_ratio,
    )
    return PairData(steps_in_order, data.validation)
