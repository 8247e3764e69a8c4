"""Where the judged queries of an evaluation come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from trainer.data.readers.beir import beir_splits, is_beir_folder
from trainer.data.readers.read import Split
from trainer.data.retrieval_set import RetrievalSet, read_retrieval_set
from trainer.errors import BadRecipe

_MOST_DEV_QUERIES = 500


@runtime_checkable
class JudgedData(Protocol):
    """Judged queries that are read when they are needed."""

    @property
    def split(self) -> str:
        """The split that is measured."""

    def read(self) -> RetrievalSet:
        """Returns the queries that are measured, with their documents."""

    def read_dev(self) -> RetrievalSet | None:
        """Returns other queries on the same documents, if there are any."""


@dataclass(frozen=True)
class LocalData:
    """A split of a data set in any layout, as `read_retrieval_set` reads it."""

    source: str
    split: Split = "test"
    columns: Mapping[str, str] = field(default_factory=dict)
    corpus: str | None = None
    max_queries: int | None = None
    has_images: bool = False
    """Whether the documents are images."""

    def read(self) -> RetrievalSet:
        """Reads the queries of the split."""
        return read_retrieval_set(
            self.source,
            self.split,
            self.columns,
            self.max_queries,
            corpus=self.corpus,
            has_images=self.has_images,
        )

    def read_dev(self) -> RetrievalSet | None:
        """Reads at most 500 dev queries of a BEIR folder; None if it has none besides `split`."""
        folder = Path(self.source)
        if (
            self.has_images
            or self.split == "dev"
            or not is_beir_folder(folder)
            or "dev" not in beir_splits(folder)
        ):
            return None
        return read_retrieval_set(self.source, "dev", max_queries=_MOST_DEV_QUERIES)


def may_have_images(data: JudgedData) -> bool:
    """Returns False for data whose documents are texts for certain."""
    if not isinstance(data, LocalData) or data.corpus is not None:
        return False
    return not is_beir_folder(Path(data.source))


def data_of_images(data: JudgedData) -> JudgedData:
    """Returns the same data, whose documents are read as images. Raises BadRecipe for a corpus of
    texts, or a task of mteb.
    """
    if not isinstance(data, LocalData) or data.corpus is not None:
        raise BadRecipe(
            "a model of images is measured on the images of --data alone: a file of captions and"
            " images, or a folder of judged images; leave out --corpus and --mteb"
        )
    return replace(data, has_images=True)
