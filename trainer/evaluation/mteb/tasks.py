"""Tasks of mteb as retrieval sets, retrieval sets as tasks, and mteb's results files."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from trainer.data.readers.hub import cache_unless_reached
from trainer.data.retrieval_set import RetrievalSet, select_queries
from trainer.errors import BadData, BadRecipe
from trainer.evaluation.judged_data import JudgedData
from trainer.evaluation.mteb.model import (
    OpenMtebModel,
    document_texts,
    import_mteb,
    query_texts,
)
from trainer.evaluation.systems.system import System


@dataclass(frozen=True)
class MtebData:
    """One split of one subset of a retrieval task of mteb."""

    name: str
    subset: str
    split: str
    max_queries: int | None = None

    @classmethod
    def find(cls, name: str, split: str = "test", max_queries: int | None = None) -> Self:
        """Returns the data of a task, without loading them.

        It is named `task`, `task:subset` or `task:subset:split`. The only split of a task is taken,
        whatever `split` is. Raises BadRecipe for a task, subset or split that does not exist.
        """
        mteb = import_mteb()
        from mteb.abstasks import AbsTaskRetrieval

        name, subset, named_split = [*name.split(":", 2), "", ""][:3]
        split = named_split or split
        try:
            task = mteb.get_task(name)
        except KeyError as error:
            raise BadRecipe(
                f"mteb has no task {name!r} ({error.args[0]}); `mteb available-tasks` lists them"
            ) from error
        if not isinstance(task, AbsTaskRetrieval):
            raise BadRecipe(f"{name} is a task of {task.metadata.type}; name a retrieval task")
        subsets, splits = list(task.hf_subsets), list(task.metadata.eval_splits)
        if subset not in subsets and (subset or len(subsets) > 1):
            raise BadRecipe(
                f"the subsets of {name} are {', '.join(subsets)}; name one as {name}:{subsets[0]}"
            )
        if split not in splits and (named_split or len(splits) > 1):
            raise BadRecipe(
                f"{name} has no split {split!r}, but {', '.join(splits)}; name one as"
                f" {name}:{subset or subsets[0]}:{splits[0]}"
            )
        return cls(name, subset or subsets[0], split if split in splits else splits[0], max_queries)

    @cached_property
    def task(self) -> Any:
        """The task with its data, which come from the hub or its cache.

        Raises BadData if they cannot be loaded.
        """
        task = import_mteb().get_task(self.name, eval_splits=[self.split], hf_subsets=[self.subset])
        try:
            with cache_unless_reached(task.metadata.dataset["path"]):
                task.load_data()
            task.convert_v1_dataset_format_to_v2(num_proc=None)
        except (OSError, ValueError) as error:
            raise BadData(
                f"mteb cannot load {self.name} ({type(error).__name__}: {error}); its data come"
                " from the hub: check the network, or copy the hub's cache from a machine that has"
                " them"
            ) from error
        return task

    def read(self) -> RetrievalSet:
        """Returns the queries and documents of the task."""
        retrieval_set = set_from_task(self.task)
        if self.max_queries is None:
            return retrieval_set
        return select_queries(retrieval_set, self.max_queries)

    def read_dev(self) -> None:
        """Returns None: no other queries of the task are read."""


def set_from_task(task: Any) -> RetrievalSet:
    """Returns the retrieval set of a loaded task. Queries without a relevant document are left out.

    Raises BadData if no query is left.
    """
    subset, split = task.hf_subsets[0], task.eval_splits[0]
    data = task.dataset[subset][split]
    qrels = {
        query: {document: int(grade) for document, grade in grades.items()}
        for query, grades in data["relevant_docs"].items()
        if max(grades.values(), default=0) > 0
    }
    queries = {
        query: text for query, text in query_texts(data["queries"]).items() if query in qrels
    }
    if not queries:
        raise BadData(f"{task.metadata.name} {split} has no query with a relevant document")
    return RetrievalSet(
        f"{task.metadata.name} {split}",
        tuple(queries),
        tuple(queries.values()),
        tuple(data["corpus"]["id"]),
        tuple(document_texts(data["corpus"])),
        {query: qrels[query] for query in queries},
    )


def task_from_set(retrieval_set: RetrievalSet, split: str = "test") -> Any:
    """Returns a task of mteb that holds a retrieval set. It asks no network."""
    import_mteb()
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    name = retrieval_set.name.removesuffix(f" {split}")

    class LocalTask(AbsTaskRetrieval):
        """The retrieval set, as mteb wants it."""

        ignore_identical_ids = _has_queries_among_documents(retrieval_set)
        metadata = TaskMetadata(
            dataset={"path": name, "revision": fingerprint(retrieval_set)},
            name=name,
            description=f"Local data: {len(retrieval_set.documents)} documents",
            type="Retrieval",
            category="t2t",
            eval_splits=[split],
            eval_langs=["und-Zyyy"],
            main_score="ndcg_at_10",
        )

        def load_data(self, num_proc: int | None = None, **_: Any) -> None:
            """Sets `dataset`."""
            ids, texts = list(retrieval_set.document_ids), list(retrieval_set.documents)
            queries = {
                "id": list(retrieval_set.query_ids),
                "text": list(retrieval_set.queries),
            }
            data = {
                "corpus": Dataset.from_dict({"id": ids, "text": texts}),
                "queries": Dataset.from_dict(queries),
                "relevant_docs": {q: dict(retrieval_set.qrels[q]) for q in queries["id"]},
                "top_ranked": None,
            }
            self.dataset = {"default": {split: data}}
            self.data_loaded = True

    return LocalTask()


def results_writer(
    folder: Path, data: JudgedData, tell: Callable[[str], None] = lambda line: None
) -> Callable[[System, RetrievalSet], None]:
    """Returns a function that measures an open system with mteb, and writes mteb's results file.

    Local data are made a task. Raises BadRecipe if mteb is not installed.
    """
    mteb = import_mteb()
    cache = mteb.ResultCache(folder)

    def write(system: System, judged_set: RetrievalSet) -> None:
        if judged_set.has_images:
            raise BadRecipe("mteb measures models of texts here; leave out --mteb-results")
        task = data.task if isinstance(data, MtebData) else task_from_set(judged_set, data.split)
        model = OpenMtebModel(system, len(judged_set.documents))
        mteb.evaluate(
            model,
            task,
            cache=cache,
            overwrite_strategy="always",
            co2_tracker=False,
            show_progress_bar=False,
        )
        tell(f"wrote {cache.get_task_result_path(task.metadata.name, model.mteb_model_meta)}")

    return write


def fingerprint(retrieval_set: RetrievalSet) -> str:
    """Returns a hash of queries, documents and judgements, which stands for the data's revision."""
    digest = hashlib.sha256()
    for part in (
        retrieval_set.document_ids,
        retrieval_set.documents,
        retrieval_set.query_ids,
        retrieval_set.queries,
        sorted((query, sorted(grades.items())) for query, grades in retrieval_set.qrels.items()),
    ):
        for item in part:
            digest.update(repr(item).encode() + b"\n")
    return digest.hexdigest()[:16]


def _has_queries_among_documents(retrieval_set: RetrievalSet) -> bool:
    """Returns True if a query may be in the corpus, under its own id."""
    document_ids = frozenset(retrieval_set.document_ids)
    return any(
        query in document_ids and query not in retrieval_set.qrels[query]
        for query in retrieval_set.query_ids
    )
