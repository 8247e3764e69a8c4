"""Finds icons of a style that training never saw: Lucide's, drawn with thin strokes, by models that
learned from Material Design Icons, which are mostly filled.

Queries are words (names and synonyms of Lucide's authors) and, for Material Design Icons of the
same name, Lucide's drawings. A caption is `known` if it is one of training, `in part` if a word of
it is in one, and `new` if none is.
"""

import argparse
import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring.data import REAL_DATA, model_folder
from measuring.icons import MOST_ICONS, pack_lucide, read_lucide, words, write_lucide
from measuring.record import save, table

MATERIAL = REAL_DATA / "icons"
OWN_STYLE = "names, known, own style"
METRICS = ("recall@10", "ndcg@10")
Groups = Mapping[str, Sequence[int]]


def is_possible() -> bool:
    """Prints why not, if something is missing."""
    if importlib.util.find_spec("cairosvg") is None:
        print("skipped: drawing SVG files needs `pip install cairosvg==2.9.1`")
    elif not (MATERIAL / "train.parquet").is_file():
        print(f"skipped: there is no {MATERIAL / 'train.parquet'}; it is not in the repository")
    else:
        return True
    return False


def caption_groups(judged_set: Any, tags: set[str]) -> dict[str, list[int]]:
    """Returns the rows of the queries by origin and by what training has of them."""
    from pyarrow import parquet

    captions = parquet.read_table(MATERIAL / "train.parquet", columns=["caption"])["caption"]
    known = {words(caption) for caption in captions.to_pylist()}
    vocabulary = {word for caption in known for word in caption.split()}
    groups: dict[str, list[int]] = {"all words": []}
    for origin in ("names", "tags"):
        groups |= {f"{origin}, {kind}": [] for kind in ("known", "in part", "new")}
    for row, query in enumerate(judged_set.queries):
        is_part = not vocabulary.isdisjoint(query.split())
        kind = "known" if query in known else "in part" if is_part else "new"
        groups[f"{'tags' if query in tags else 'names'}, {kind}"].append(row)
        groups["all words"].append(row)
    return groups


def means(values: Mapping[str, np.ndarray], groups: Groups) -> dict[str, Any]:
    """Returns the mean and 95 % interval of each metric in each group, with its queries."""
    from trainer.evaluation.significance import bootstrap_interval

    return {
        group: {
            "queries": len(rows),
            **{
                metric: [float(own[rows].mean()), *bootstrap_interval(own[rows])]
                for metric, own in values.items()
            },
        }
        for group, rows in groups.items()
        if rows
    }


def picture_pairs(package: Path, judged_set: Any) -> dict[str, str]:
    """Returns the icon of Material Design Icons that has the same name, by Lucide's icon."""
    ids = set(judged_set.document_ids)
    icons = read_lucide(package)
    return {
        name: min(names & ids, key=lambda other: (other != name, other))
        for name, (_, names) in icons.items()
        if names & ids
    }


def pixel_vectors(references: Sequence[str]) -> np.ndarray:
    """Returns the darkness of all pixels of each drawing, with length 1."""
    import io

    from PIL import Image

    from trainer.images.reference import read_image_bytes

    pixels = [np.asarray(Image.open(io.BytesIO(read_image_bytes(each)))) for each in references]
    rows = 255.0 - np.stack(pixels).reshape(len(pixels), -1)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9))


class OwnStyle:
    """The search of Material Design Icons: by Lucide's icons of the same name, and, to compare
    with, by captions of training that are names in Lucide too.
    """

    def __init__(
        self, pairs: Mapping[str, str], lucide: Any, material: Any, captions: Sequence[str]
    ) -> None:
        from pyarrow import parquet

        from trainer.images.reference import reference_to_bytes

        self.material, self.names, self.captions = material, list(pairs), list(captions)
        self.drawings = [lucide.documents_by_id[name] for name in pairs]
        ids: dict[str, set[str]] = {}
        for id_, drawing in material.documents_by_id.items():
            ids.setdefault(drawing, set()).add(id_)
        self.qrels: dict[str, dict[str, int]] = {caption: {} for caption in captions}
        trained: set[str] = set()
        for row in parquet.read_table(MATERIAL / "train.parquet").to_pylist():
            own = ids[reference_to_bytes(row["image"])]
            trained |= own
            self.qrels.get(words(row["caption"]), {}).update(dict.fromkeys(own, 1))
        self.qrels_of_drawings = {name: {own: 1} for name, own in pairs.items()}
        seen = [own in trained for own in pairs.values()]
        self.groups = {
            "pictures, known": [row for row, known in enumerate(seen) if known],
            "pictures, new": [row for row, known in enumerate(seen) if not known],
        }

    def measure(self, encoder: Any) -> dict[str, Any]:
        from trainer.evaluation.evaluate import nearest_run
        from trainer.evaluation.metrics import per_query_metrics
        from trainer.retrieval.encoding.encode import encode_documents, encode_queries

        ids = self.material.document_ids
        drawings = encode_documents(encoder, self.drawings)
        captions = encode_queries(encoder, self.captions)
        documents = encode_documents(encoder, self.material.documents)
        run = nearest_run(captions, documents, self.captions, ids, 10, encoder)
        values = per_query_metrics(run, self.qrels, METRICS)
        return {
            **means(values, {OWN_STYLE: range(len(self.captions))}),
            **self._means(nearest_run(drawings, documents, self.names, ids, 10, encoder)),
        }

    def measure_pixels(self) -> dict[str, Any]:
        scores = pixel_vectors(self.drawings) @ pixel_vectors(self.material.documents).T
        ids = self.material.document_ids
        best = np.argsort(-scores, axis=1)[:, :10]
        return self._means(
            {
                name: {ids[at]: float(own[at]) for at in rows}
                for name, own, rows in zip(self.names, scores, best, strict=True)
            }
        )

    def _means(self, run: Any) -> dict[str, Any]:
        from trainer.evaluation.metrics import per_query_metrics

        return means(per_query_metrics(run, self.qrels_of_drawings, METRICS), self.groups)


def measured_words(judged_set: Any, run: Any, groups: Groups) -> dict[str, Any]:
    from trainer.evaluation.evaluate import evaluate_run

    result = evaluate_run(run, judged_set, "system", metrics=METRICS)
    assert result.query_ids == judged_set.query_ids
    return means(result.metrics, groups)


def runs_over_names(judged_set: Any, package: Path) -> dict[str, Any]:
    """Runs of systems that see no picture: the documents are the names of the icons."""
    from dataclasses import replace

    from trainer.evaluation.evaluate import retrieve
    from trainer.models.families import read_model
    from trainer.retrieval.bm25 import bm25_run

    names = {name: names for name, (_, names) in read_lucide(package).items()}
    texts = [" ".join(map(words, sorted(names[id_]))) for id_ in judged_set.document_ids]
    named = replace(judged_set, documents=texts, has_images=False)
    return {
        "BM25 over names": bm25_run(named, 10),
        "all-MiniLM-L6-v2 over names": retrieve(read_model(model_folder()), named, 10),
    }


def measurements(models: Sequence[str], package: Path, folder: Path) -> dict[str, Any]:
    """Means by system and group; those of chance are recall@10 alone."""
    from trainer.data.retrieval_set import read_retrieval_set
    from trainer.evaluation.evaluate import retrieve
    from trainer.models.families import read_vector_model

    tags = write_lucide(package, folder)
    lucide = read_retrieval_set(str(folder), "test", has_images=True)
    material = read_retrieval_set(str(MATERIAL), "test", has_images=True)
    groups = caption_groups(lucide, tags)
    known = [lucide.queries[row] for row in groups["names, known"]]
    own_style = OwnStyle(picture_pairs(package, material), lucide, material, known)
    systems = {
        "chance": dict.fromkeys(groups, 10 / len(lucide.documents))
        | dict.fromkeys([OWN_STYLE, *own_style.groups], 10 / len(material.documents)),
        **{
            name: measured_words(lucide, run, groups)
            for name, run in runs_over_names(lucide, package).items()
        },
        "pixels": own_style.measure_pixels(),
    }
    for model in models:
        encoder = read_vector_model(model)
        in_words = measured_words(lucide, retrieve(encoder, lucide, 10), groups)
        name = Path(model).parent.name if Path(model).name == "model" else model
        systems[name] = in_words | own_style.measure(encoder)
    return systems


def rows_of(systems: Mapping[str, Any]) -> list[list[str]]:
    def cell(mean: float, low: float, high: float) -> str:
        return f"{mean:.3f} [{low:.3f}, {high:.3f}]"

    chance = systems["chance"]
    return [
        [group, name, str(own["queries"]), f"{chance[group]:.3f}"]
        + [cell(*own[metric]) for metric in METRICS]
        for group in chance
        for name, by_group in systems.items()
        if name != "chance" and (own := by_group.get(group))
    ]


def main(arguments: argparse.Namespace) -> None:
    if not is_possible():
        return
    with tempfile.TemporaryDirectory() as folder:
        if (package := pack_lucide(Path(folder))) is None:
            return
        target = arguments.target or Path(folder) / "lucide"
        systems = measurements(arguments.models, package, target)
    header = ["queries", "system", "number", "chance, recall@10", *METRICS]
    title = f"icons of another style; tags of at most {MOST_ICONS} icons; 95 % bootstrap intervals"
    save("icon-styles", table(title, header, rows_of(systems)), systems)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="models of captions and images")
    parser.add_argument("--target", type=Path, help="keep the judged images in this folder")
    main(parser.parse_args())
