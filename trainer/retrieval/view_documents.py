"""What several views know of one document: its text, and its image."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from trainer.data.readers.corpus import Document
from trainer.errors import BadFolder
from trainer.retrieval.fusion import fuse_ranks, fuse_scores
from trainer.retrieval.indexes.index import Hit, Index
from trainer.retrieval.indexes.index_corpus import open_index
from trainer.retrieval.indexes.views import views_of, views_of_images


def fuse_hits(rankings: Sequence[list[Hit]], weights: Sequence[float] | None, k: int) -> list[Hit]:
    """Returns the k best of the documents that several indexes found for one question, by
    `fuse_scores`, or without weights by `fuse_ranks`.
    """
    hits: dict[str, Hit] = {}
    for hit in chain.from_iterable(rankings):
        other_view = hits.get(hit.document.id, hit)
        hits[hit.document.id] = replace(hit, document=_join(other_view.document, hit.document))
    runs = [{"": {hit.document.id: hit.score for hit in ranking}} for ranking in rankings]
    fused_run = fuse_ranks(runs, k) if weights is None else fuse_scores(runs, weights, k)
    return [replace(hits[document], score=score) for document, score in fused_run[""].items()]


def _join(first: Document, second: Document) -> Document:
    """Returns a document as two views know it: the text of a view of texts, if it has one there,
    and the image of a view of images.
    """
    text = max(
        (second, first),
        key=lambda document: (bool(document.full_text.strip()), not document.image),
    )
    return replace(text, image=second.image or first.image)


class ViewDocuments:
    """The documents of a folder of views of which one holds images; else none.

    `note` names views that cannot be read.
    """

    def __init__(self, folder: Path, views: Sequence[Index]) -> None:
        """`views` are those of the folder that are open."""
        self.note = ""
        self._views: list[Index] = []
        if not views_of_images(folder):
            return
        self._views += views
        open_folders = {view.folder for view in views}
        for place in views_of(folder).values():
            if place not in open_folders:
                try:
                    self._views.append(open_index(place))
                except BadFolder as error:
                    problem = f"hits lack what the view {place.name} knows: {error}"
                    self.note = "; ".join(filter(None, [self.note, problem]))
        self._views.sort(key=lambda view: not view.has_images)  # a text of a view of texts counts

    def complete(self, hit: Hit) -> Hit:
        """Returns a hit with the text and the image that the views know.

        A document has the same row in all views, so no id is searched for.
        """
        document = hit.document
        for view in self._views:
            if hit.row < view.manifest.count:
                view_document = view.document(hit.row)
                if view_document.id == document.id:
                    document = _join(document, view_document)
        return replace(hit, document=document)
