"""What is read through the cache: the same batches, sets and messages as without it."""

import json
import os
import tracemalloc
from dataclasses import astuple, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from image_toys import drawing, encoded
from twins import texts_of

from trainer.build.data import DataSets, data_fingerprint, data_sets
from trainer.data.cache import read as cached_reading
from trainer.data.cache.read import CachedReader
from trainer.data.collate import collate
from trainer.data.fingerprint import fingerprint_of
from trainer.data.module import Steps
from trainer.data.retrieval_set import RetrievalSet
from trainer.data.rows import known_positives
from trainer.errors import BadData, TooManyBadRows
from trainer.recipe.schema.data import DataSection, Source
from trainer.recipe.schema.families import BiEncoderRecipe
from trainer.recipe.schema.model import BiEncoderModel

SUBJECTS = ("disk", "account", "region", "machine", "database", "vault", "network", "cluster")
PAIRS = [
    (f"{verb} {subject}", f"how to {verb} the {subject}")
    for verb in ("delete", "create", "list", "show", "copy")
    for subject in SUBJECTS
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("NEARFAR_CACHE", str(folder))
    return folder


@pytest.fixture
def parsed(monkeypatch) -> list[str]:
    """The sources that were parsed, in order."""
    sources: list[str] = []

    def counted(function, place):
        def call(*arguments, **options):
            sources.append(str(arguments[place]))
            return function(*arguments, **options)

        return call

    readers = {"write_rows": 1, "read_set_and_report": 0, "read_document_ids": 0}
    for name, place in (readers | {"choose_held_out": 0}).items():
        original = getattr(cached_reading, name)
        monkeypatch.setattr(cached_reading, name, counted(original, place))
    return sources


def scored_lines(path: Path) -> Path:
    """Rows with negatives and scores, further positives, bad and blank rows, and a duplicate."""
    records = [
        {"query": query, "positive": [positive, f"{positive} too"], "negatives": ["no", "ñо\n"]}
        for query, positive in PAIRS
    ] + [{"query": PAIRS[0][0], "positive": PAIRS[0][1], "negatives": ["no"]}]
    lines = [json.dumps(record) for record in records]
    path.write_text("\n".join([*lines, '{"query": " ", "positive": "x"}', "not JSON"]) + "\n")
    return path


def plain_lines(path: Path) -> Path:
    path.write_text(
        "".join(
            json.dumps({"query": f"cost of {query}", "positive": f"{positive} costs"}) + "\n"
            for query, positive in PAIRS
        )
    )
    return path


def beir_folder(folder: Path) -> Path:
    (folder / "qrels").mkdir(parents=True)
    for name, place in (("queries", 0), ("corpus", 1)):
        (folder / f"{name}.jsonl").write_text(
            "".join(
                json.dumps({"_id": f"{name}{number}", "text": pair[place]}) + "\n"
                for number, pair in enumerate(PAIRS)
            )
            + json.dumps({"_id": "blank", "text": " "})
            + "\n"
        )
    for split, numbers in (("train", range(30)), ("dev", range(30, 34)), ("test", range(34, 40))):
        judgements = [f"queries{n}\tcorpus{n}\t1\nqueries{n}\tcorpus0\t0\n" for n in numbers]
        (folder / "qrels" / f"{split}.tsv").write_text("".join(judgements))
    return folder


def sections(tmp_path: Path) -> dict[str, DataSection]:
    scored = str(scored_lines(tmp_path / "scored.jsonl"))
    plain = str(plain_lines(tmp_path / "plain.jsonl"))
    saved = Dataset.from_dict(
        dict(zip(("query", "positive"), zip(*PAIRS, strict=True), strict=True))
    )
    saved.save_to_disk(str(tmp_path / "saved"))
    shared = {"max_bad_rows_ratio": 0.1, "validation_ratio": 0.2}
    corpus = tmp_path / "docs.txt"
    corpus.write_text("\n".join([*(positive for _, positive in PAIRS), "a further document"]))
    return {
        "a file": DataSection(train=scored, negatives_per_query=2, test=plain, **shared),
        "a corpus": DataSection(train=scored, test=plain, corpus=str(corpus), **shared),
        "a mixture": DataSection(
            train=(Source(source=scored, weight=2.0), Source(source=plain, weight=1.0)), **shared
        ),
        "a folder": DataSection(train=str(beir_folder(tmp_path / "beir"))),
        "a saved data set": DataSection(train=str(tmp_path / "saved"), validation_ratio=0.2),
    }


def batches(data: DataSets, negatives: int) -> list[torch.Tensor | tuple[str, ...]]:
    known = data.known_positives
    assert dict(known) == dict(known_positives([*data.train]))
    steps = Steps(
        data.train,
        lambda rows: collate(rows, lambda texts, _: texts_of(texts), known, negatives),
        seed=13,
        batch_size=4,
        first=0,
        last=30,
        mixture=data.mixture,
    )
    return [
        value
        for batch in steps
        for value in (
            batch.queries.tokens,
            batch.queries.identities,
            batch.documents.tokens,
            batch.documents.identities,
            batch.known_positives,
            batch.sample_ids,
        )
    ]


def content(retrieval_set: RetrievalSet | None) -> list[object]:
    assert retrieval_set is not None
    texts = {
        name: tuple(getattr(retrieval_set, name))
        for name in ("query_ids", "queries", "document_ids", "documents")
    }
    order = [(query, list(grades.items())) for query, grades in retrieval_set.qrels.items()]
    return [*astuple(replace(retrieval_set, **texts)), order]


@pytest.mark.parametrize(
    "name", ["a file", "a corpus", "a mixture", "a folder", "a saved data set"]
)
def test_cached_data_give_the_same_batches_and_sets(name, tmp_path, monkeypatch, parsed):
    section = sections(tmp_path)[name]
    monkeypatch.setenv("NEARFAR_CACHE", "off")
    plain = data_sets(section, seed=3)
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    assert parsed
    for parses in (True, False):
        parsed.clear()
        data = data_sets(section, seed=3)
        assert bool(parsed) == parses
        expected = batches(plain, section.negatives_per_query)
        for value, other in zip(batches(data, section.negatives_per_query), expected, strict=True):
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
        assert content(data.validation) == content(plain.validation)
        if plain.test is not None:
            assert content(data.test) == content(plain.test)
        assert data.mixture == plain.mixture
        assert data.remarks == plain.remarks
        assert [*data.train] == [*plain.train]


def test_remarks_about_dropped_rows_are_repeated_at_every_start(tmp_path):
    section = DataSection(
        train=str(scored_lines(tmp_path / "x.jsonl")), max_bad_rows_ratio=0.1, validation_ratio=0.2
    )
    first, second = (data_sets(section, seed=3).remarks for _ in range(2))
    assert first == second
    assert "bad rows set aside: 1 (not JSON), blank rows dropped: 1" in first[0]


def test_smaller_budget_for_bad_rows_is_checked_on_cached_rows(tmp_path):
    path = str(scored_lines(tmp_path / "x.jsonl"))
    data_sets(DataSection(train=path, max_bad_rows_ratio=0.1, validation_ratio=0.2), seed=3)
    with pytest.raises(TooManyBadRows, match=r"x.jsonl:43: not JSON"):
        data_sets(DataSection(train=path, validation_ratio=0.2), seed=3)


@pytest.mark.parametrize(
    "changes",
    [
        {"columns": {"query": "positive", "positive": "query"}},
        {"negatives_per_query": 1},
        {"validation_ratio": 0.4},
        {"validation_max_queries": 2},
    ],
)
def test_other_options_are_not_answered_from_the_cache(changes, tmp_path, parsed):
    path = str(plain_lines(tmp_path / "x.jsonl"))
    data_sets(DataSection(train=path), seed=3)
    parsed.clear()
    data_sets(DataSection(train=path, **changes), seed=3)
    assert parsed


def test_code_that_reads_data_is_part_of_the_key(tmp_path, monkeypatch, parsed):
    section = DataSection(train=str(plain_lines(tmp_path / "x.jsonl")))
    data_sets(section, seed=3)
    parsed.clear()
    monkeypatch.setattr(cached_reading, "_code", lambda: "another version")
    data_sets(section, seed=3)
    assert len(parsed) == 2


def test_run_may_write_into_the_folder_of_its_data(tmp_path, parsed):
    folder = beir_folder(tmp_path / "beir")
    section = DataSection(train=str(folder))
    data_sets(section, seed=3)
    parsed.clear()
    (folder / "runs").mkdir()
    (folder / "runs" / "log.jsonl").write_text("{}")
    data_sets(section, seed=3)
    assert not parsed
    with (folder / "qrels" / "train.tsv").open("a") as file:
        file.write("queries0\tcorpus5\t1\n")
    assert len(data_sets(section, seed=3).train) == 31
    assert parsed


def test_changed_pairs_and_images_beside_a_corpus_are_read_again(tmp_path):
    """Training pairs of judged images, and queries that are images."""
    folder = beir_folder(tmp_path / "beir")
    (folder / "0.png").write_bytes(encoded(drawing(0)))
    for text in ("a red disk", "a blue disk"):
        (folder / "train.jsonl").write_text(json.dumps({"caption": text, "image": "0.png"}) + "\n")
        (folder / "qrels" / "train.tsv").unlink(missing_ok=True)
        rows = CachedReader(0.0, has_images=True).rows(str(folder), {})
        assert [row.query for row in rows] == [text]
    queries = CachedReader(0.0).retrieval_set(str(folder), {}, "test").query_ids
    table = pa.table({"_id": [queries[0]], "image": [encoded(drawing(0))]})
    pq.write_table(table, folder / "queries.parquet")
    assert CachedReader(0.0).retrieval_set(str(folder), {}, "test").query_ids == queries[1:]


def test_changed_file_of_the_same_size_and_time_is_read_again(tmp_path):
    path = plain_lines(tmp_path / "x.jsonl")
    section = DataSection(train=str(path), validation_ratio=0.2)
    before = data_sets(section, seed=3)
    times = path.stat()
    path.write_text(path.read_text().replace("cost of", "size of"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size
    assert path.stat().st_mtime_ns == times.st_mtime_ns
    after = data_sets(section, seed=3)
    assert {row.query[:7] for row in before.train} == {"cost of"}
    assert {row.query[:7] for row in after.train} == {"size of"}


def test_fingerprint_of_the_run_is_that_of_the_rows_that_were_read(tmp_path):
    path = plain_lines(tmp_path / "x.jsonl")
    run = BiEncoderRecipe(
        name="run", model=BiEncoderModel(backbone="toy"), data=DataSection(train=str(path))
    )
    expected = fingerprint_of(str(path))
    data = data_sets(run.data, seed=3)
    path.write_text(path.read_text() + "\n")
    fingerprint = data_fingerprint(run, len(data.train), data.digests)
    assert fingerprint["train"] == expected != fingerprint_of(str(path))


def test_unreadable_source_has_the_same_error_as_without_the_cache(tmp_path, cache, monkeypatch):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "a"}\n')
    for source in (str(bad), str(tmp_path / "absent.jsonl"), str(tmp_path), "no/such/set/here"):
        messages = []
        for folder in ("off", str(cache)):
            monkeypatch.setenv("NEARFAR_CACHE", folder)
            with pytest.raises(BadData) as caught:
                data_sets(DataSection(train=source), seed=3)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
    assert not list(cache.rglob("*.arrow"))


def test_mixture_is_not_divided_like_its_first_set(tmp_path, monkeypatch):
    mixture = sections(tmp_path)["a mixture"]
    first = mixture.model_copy(update={"train": mixture.sources[0].source})
    data_sets(first, seed=3)
    data = data_sets(mixture, seed=3)
    monkeypatch.setenv("NEARFAR_CACHE", "off")
    assert [*data.train] == [*data_sets(mixture, seed=3).train]


def test_documents_of_a_corpus_stay_on_disk(tmp_path):
    plain, corpus = plain_lines(tmp_path / "plain.jsonl"), tmp_path / "docs.txt"
    corpus.write_text("\n".join(f"{number} {'word ' * 200}" for number in range(5000)))
    section = DataSection(train=str(plain), corpus=str(corpus), validation_ratio=0.2)
    data_sets(section, seed=3)
    tracemalloc.start()
    data = data_sets(section, seed=3)
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data.validation.documents) == 5000 + len(data.validation.queries)
    assert kept_bytes < corpus.stat().st_size / 5
