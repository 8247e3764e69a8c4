"""Search of an index by the way that a router chooses."""

from collections.abc import Sequence
from pathlib import Path

from trainer.errors import BadModel, BadRecipe
from trainer.evaluation.systems.names import parse_system
from trainer.retrieval.indexes.index_corpus import open_together
from trainer.retrieval.indexes.searcher import Searcher
from trainer.retrieval.indexes.views import VIEWS, index_folders, views_of
from trainer.retrieval.view_weights import OpenViews
from trainer.routing.router import ALL_ROUTES


def routes_of_views(word: str) -> list[str]:
    """Returns the views of a folder as routes; a word that names no such folder, as it is."""
    views = views_of(Path(word)) if Path(word).is_dir() else {}
    return [f"index:{view}" for view in views.values()] or [word]


def open_route(
    index: Path,
    routes: Sequence[str],
    choice: int,
    reranker: str | None = None,
    rerank_depth: int = 100,
) -> tuple[Searcher, str]:
    """Returns a searcher of the route that a router has chosen from its `routes`, and what it is
    called.

    A view is found in the index by its name, wherever the router has learned. Only what is asked is
    opened. Raises BadRecipe if the index lacks one of the routes.
    """
    places = _places(index, routes)
    if choice != ALL_ROUTES:
        places = [places[choice]]
    views = open_together([place for place in places if place is not None])
    open_views = OpenViews(views, has_words=None in places)
    searcher = Searcher(index, open_views, reranker=reranker, rerank_depth=rerank_depth)
    return searcher, " + ".join("bm25" if place is None else f"index:{place}" for place in places)


def open_image_routes(index: Path, routes: Sequence[str], image_routes: Sequence[str]) -> Searcher:
    """Returns a searcher, by images, of the `image_routes` of a router, which hold images.

    Raises BadRecipe as `open_route` does, and BadModel if one of them holds texts now.
    """
    places = dict(zip(routes, _places(index, routes), strict=True))
    folders = [places[route] for route in image_routes]
    views = open_together([folder for folder in folders if folder is not None])
    for view in views:
        if not view.has_images:
            raise BadModel(
                f"{view.folder} held images when the router was fitted, and holds texts now; fit"
                " the router again"
            )
    return Searcher(index, OpenViews(views))


def _places(index: Path, routes: Sequence[str]) -> list[Path | None]:
    """Returns the folder of each route, and None for BM25, in their order."""
    own_folders = {_view_name(folder): folder for folder in index_folders(index)}
    places: list[Path | None] = []
    for route in routes:
        name = parse_system(route)
        folder = own_folders.get(_view_name(Path(name.value))) if name.kind == "index" else None
        if name.kind != "bm25" and (folder is None or folder in places):
            own_routes = ", ".join(["bm25", *(f"index:{view}" for view in own_folders.values())])
            raise BadRecipe(
                f"the router chooses between {', '.join(routes)}, but {index} has"
                f" no {route}; fit a router on its own routes: {own_routes}"
            )
        places.append(folder)
    return places


def _view_name(folder: Path) -> str:
    """Returns the name of a view; "" for an index that is none."""
    folder = folder.absolute()
    return folder.name if folder.parent.name == VIEWS else ""
