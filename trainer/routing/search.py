"""Search of an index by the way that a router chooses."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.errors import BadRecipe
from trainer.evaluation.systems.names import parse_system
from trainer.models.families import read_reranker
from trainer.retrieval.indexes.index_corpus import open_together
from trainer.retrieval.indexes.searcher import SearchedIndex, SearchedWords, Searcher
from trainer.retrieval.indexes.views import index_folders, views_of
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

    Only what is asked is opened. Raises BadRecipe if the index lacks one of the routes.
    """
    places = _places(index, routes)
    names = list(places) if choice == ALL_ROUTES else [list(places)[choice]]
    views = open_together([place for name in names if (place := places[name]) is not None])
    has_words = any(places[name] is None for name in names)
    searcher = Searcher(
        [*map(SearchedIndex.open, views)],
        read_reranker(reranker) if reranker is not None else None,
        rerank_depth,
        words=SearchedWords.open(index, views) if has_words else None,
    )
    return searcher, " + ".join(names)


def _places(index: Path, routes: Sequence[str]) -> Mapping[str, Path | None]:
    """Returns the folder of each route, and None for BM25, in their order."""
    own_folders = {folder.resolve(): folder for folder in index_folders(index)}
    places: dict[str, Path | None] = {}
    for route in routes:
        name = parse_system(route)
        folder = own_folders.get(Path(name.value).resolve()) if name.kind == "index" else None
        if folder is None and name.kind != "bm25":
            own_routes = ", ".join(["bm25", *(f"index:{view}" for view in own_folders.values())])
            raise BadRecipe(
                f"the router chooses between {', '.join(routes)}, but {index} has"
                f" no {route}; fit a router on its own routes: {own_routes}"
            )
        places[route] = folder
    return places
