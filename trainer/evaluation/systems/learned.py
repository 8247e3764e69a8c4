"""Learns weights of the views of a folder on judged queries, and keeps them in the folder."""

from collections.abc import Sequence
from pathlib import Path

from trainer.errors import BadRecipe
from trainer.evaluation.judged_data import JudgedData
from trainer.evaluation.systems.combined import learn_weights
from trainer.evaluation.systems.names import MOST_WEIGHTS, SystemName, parse_systems
from trainer.evaluation.systems.open import DEFAULTS, SystemOpener, SystemSettings
from trainer.evaluation.systems.system import Corpus
from trainer.retrieval.indexes.index_corpus import open_together
from trainer.retrieval.indexes.views import BM25, has_views, searched_views
from trainer.retrieval.view_weights import keep_weights


def learn_view_weights(
    systems: Sequence[str],
    views: Sequence[str],
    data: JudgedData,
    settings: SystemSettings = DEFAULTS,
) -> str:
    """Chooses the weights of views with the best nDCG@10 on dev queries, and writes them into the
    folder of views among the systems, unless BM25 alone is best. One of the `views` may be `bm25`.

    Returns what was found. Raises BadRecipe unless there is one such folder and there are dev
    queries, and BadFolder for a view that is not there.
    """
    folder = _folder_to_learn(systems, views)
    names = [view for view in views if view != BM25]
    indexes = dict(zip(names, open_together(searched_views(folder, names)), strict=True))
    judged_set, dev_set = data.read(), data.read_dev()
    if dev_set is None:
        raise BadRecipe(
            f"--learn-weights: the data of {judged_set.name} have no dev queries beside those that"
            " are measured; give a folder in BEIR layout with judgements of the splits dev and test"
        )
    opener = SystemOpener(Corpus.of(judged_set), settings)
    parts = [
        SystemName("bm25") if view == BM25 else SystemName("index", str(indexes[view].folder))
        for view in views
    ]
    weights, quality = learn_weights([opener.open(part) for part in parts], dev_set)
    weights_by_view = dict(zip(views, weights, strict=True))
    if not any(weights_by_view[view] for view in names):
        return (
            f"on the dev queries of {dev_set.name} BM25 alone is best (nDCG@10 {quality:.3f}), so"
            f" there are no weights of views to keep; {folder} is as before"
        )
    count = len(dev_set.queries)
    keep_weights(folder, weights_by_view, indexes, dev_set.name, count, quality)
    return f"weights are kept in {folder}"


def _folder_to_learn(systems: Sequence[str], views: Sequence[str]) -> Path:
    folders = [Path(name.value) for name in parse_systems(systems) if name.kind == "index"]
    folders = [folder for folder in folders if has_views(folder)]
    if len(folders) != 1:
        raise BadRecipe(
            "--learn-weights is for one folder of views among the systems; name it, for example"
            " index:idx"
        )
    if not 2 <= len(set(views)) == len(views) <= MOST_WEIGHTS:
        raise BadRecipe(
            f"--learn-weights {','.join(views)}: write two or three different views, such as"
            f" dense,sparse or dense,{BM25}"
        )
    return folders[0]
