"""Systems as models of mteb: `mteb.evaluate(MtebModel("runs/x/model"), tasks)`."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainer.errors import BadData, BadRecipe
from trainer.evaluation.metrics import RetrievalRun
from trainer.evaluation.systems.names import parse_system
from trainer.evaluation.systems.open import DEFAULTS, SystemOpener, SystemSettings
from trainer.evaluation.systems.system import Corpus, System


def import_mteb() -> Any:
    """Returns the module mteb. Raises BadRecipe if it is not installed."""
    try:
        import mteb
    except ImportError as error:
        raise BadRecipe(
            f"mteb cannot be imported ({error}); install it with `pip install 'nearfar[mteb]'`"
        ) from error
    return mteb


class MtebModel:
    """A system of any kind, for the retrieval and reranking tasks of mteb (its `SearchProtocol`).

    mteb calls `index` with the corpus of a task, then `search`.
    """

    def __init__(
        self,
        system: str,
        settings: SystemSettings = DEFAULTS,
        find_model: Callable[[str], str] = str,
    ) -> None:
        """Raises BadRecipe for a system that is written wrongly, and if mteb is not installed."""
        self._name, self._settings = parse_system(system).with_models(find_model), settings
        self._system: System | None = None
        self.mteb_model_meta = model_meta(system)

    def index(self, corpus: Any, *, task_metadata: Any, **_: Any) -> None:
        """Opens the system on the documents of a task."""
        documents = Corpus(task_metadata.name, list(corpus["id"]), document_texts(corpus))
        self._system = SystemOpener(documents, self._settings).open(self._name)
        self._document_count = len(documents.ids)

    def search(
        self,
        queries: Any,
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **_: Any,
    ) -> RetrievalRun:
        """Returns the best documents per query; of a reranking task, among its candidates."""
        if self._system is None:
            raise RuntimeError("search was called before index")
        return search_for_task(self._system, queries, top_k, top_ranked, self._document_count)


class OpenMtebModel(MtebModel):
    """A system that is open on the corpus of the task already."""

    def __init__(self, system: System, document_count: int) -> None:
        self._system, self._document_count = system, document_count
        self.mteb_model_meta = model_meta(system.name)

    def index(self, corpus: Any, *, task_metadata: Any, **_: Any) -> None:
        """Checks that it is the corpus of the system."""
        if len(corpus) != self._document_count:
            raise ValueError(
                f"{task_metadata.name} has {len(corpus)} documents, not those searched"
            )


def model_meta(system: str) -> Any:
    """Returns mteb's description of a system. Its name decides the folder of results."""
    import_mteb()
    from mteb.models.model_meta import ModelMeta

    owner, slash, name = system.partition("/")
    is_hub_name = slash and "/" not in name and re.fullmatch(r"[\w.-]+", owner)
    label = system if is_hub_name else f"nearfar/{re.sub(r'[^0-9A-Za-z_.-]+', '_', system)}"
    return ModelMeta.create_empty(overwrites={"name": label, "modalities": ["text"]})


def search_for_task(
    system: System,
    queries: Any,
    top_k: int,
    top_ranked: Mapping[str, Sequence[str]] | None,
    document_count: int,
) -> RetrievalRun:
    """Returns the first `top_k` documents per query of a task."""
    texts = query_texts(queries)
    if top_ranked is None:
        return system.search(texts, top_k)
    run = system.search(texts, document_count)
    return {
        query: {
            document: run[query][document]
            for document in top_ranked[query]
            if document in run[query]
        }
        for query in texts
    }


def document_texts(corpus: Any) -> list[str]:
    """Returns the texts of documents: title, a space and text, as in BEIR."""
    titles = corpus["title"] if "title" in corpus.column_names else [""] * len(corpus)
    return [
        f"{title or ''} {text}".strip() for title, text in zip(titles, corpus["text"], strict=True)
    ]


def query_texts(queries: Any) -> dict[str, str]:
    """Returns query id to text, followed by the instruction of the query if there is one.

    Raises BadData for queries that are no texts, such as conversations.
    """
    instructions = (
        queries["instruction"] if "instruction" in queries.column_names else [""] * len(queries)
    )
    texts: dict[str, str] = {}
    for query, text, instruction in zip(queries["id"], queries["text"], instructions, strict=True):
        if not isinstance(text, str):
            raise BadData(f"query {query!r} of the task is no text; choose a task of single texts")
        texts[query] = f"{text} {instruction or ''}".strip()
    return texts
