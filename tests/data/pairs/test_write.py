"""`nearfar data pairs`: a folder without leaks, the same bytes for the same documents."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from trainer.cli.groups.data import app
from trainer.data.readers.read import read_rows
from trainer.data.retrieval_set import read_retrieval_set
from trainer.data.summary.limitations import limitation_advice
from trainer.errors import BadData, BadFolder, BadRecipe, NearfarError

RUN = CliRunner()
NAMES = ("disk", "vault", "queue", "zone", "image", "router", "policy", "secret", "topic", "lock")


def write_documents(folder: Path) -> None:
    """Ten pages with three sections each, a module and a page that cannot be read."""
    folder.mkdir()
    for name in NAMES:
        sections = [
            f"## {verb} a {name}\n\nThe {verb.lower()} step of one {name} takes {number} minutes."
            f" Nobody may {verb.lower()} that {name} in between. Wait for {name} {number}.\n"
            for number, verb in enumerate(("Create", "Delete", "Move"))
        ]
        text = f"# {name.title()} manual\n\nA {name} is a thing of the {name} service.\n\n"
        (folder / f"{name}.md").write_text(text + "\n".join(sections))
    (folder / "code.py").write_text(
        'def grow(disk, by):\n    """Makes a disk larger."""\n    disk.size += by\n    return by\n'
        "def shrink(disk, by):\n    return grow(disk, -by)\n"
    )
    (folder / "bad.md").write_bytes(b"\xff")


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs") / "docs"
    write_documents(folder)
    return folder


@pytest.fixture(scope="module")
def written(documents: Path) -> tuple[Path, Result]:
    folder = documents.parent / "mine"
    return folder, call(documents, "-o", folder, "--dev", 0.2, "--test", 0.2)


def call(*arguments: object) -> Result:
    result = RUN.invoke(app, ["pairs", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def records(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()


def test_command_prints_counts_samples_and_what_was_set_aside(
    written: tuple[Path, Result],
) -> None:
    output = written[1].output
    assert "  bad.md: not UTF-8 (byte 0xff at byte 0)\n" in output
    assert "11 documents, 42 passages in the corpus\n" in output
    assert "docstring: 1 pairs" in output
    for kind in ("heading", "sentence", "definition"):
        samples = output.split(f"\n{kind}: ")[1].splitlines()[1:5]
        assert [line.startswith("    -> ") for line in samples] == [False, True] * 2
    assert "\nset aside: 1 functions without a docstring of at least 2 words\n" in output


def test_every_query_has_its_kind_and_document_and_is_in_no_passage(
    written: tuple[Path, Result],
) -> None:
    folder, _ = written
    queries = {record["_id"]: record for record in records(folder / "queries.jsonl")}
    corpus = {record["_id"]: record for record in records(folder / "corpus.jsonl")}
    assert len(corpus) == 42
    for split in ("train", "dev", "test"):
        for line in (folder / f"qrels/{split}.tsv").read_text().splitlines()[1:]:
            query, key, _ = line.split("\t")
            kind, text = queries[query]["kind"], queries[query]["text"]
            assert queries[query]["document"] == corpus[key]["document"]
            assert key.startswith(f"{queries[query]['document']}#")
            if kind in ("heading", "sentence"):
                assert text not in f"{corpus[key]['title']} {corpus[key]['text']}"


def test_no_document_is_in_two_splits(written: tuple[Path, Result]) -> None:
    folder, _ = written
    corpus = {record["_id"]: record["document"] for record in records(folder / "corpus.jsonl")}
    names = [
        {
            corpus[line.split("\t")[1]]
            for line in (folder / f"qrels/{split}.tsv").read_text().splitlines()[1:]
        }
        for split in ("train", "dev", "test")
    ]
    assert all(names)
    assert sum(map(len, names)) == len(set().union(*names)) == 11


def test_same_documents_give_the_same_bytes_anywhere(
    documents: Path, written: tuple[Path, Result], tmp_path: Path
) -> None:
    copy = tmp_path / "docs"
    shutil.copytree(documents, copy)
    call(copy, "-o", tmp_path / "mine", "--dev", 0.2, "--test", 0.2)
    assert dict(files(tmp_path / "mine")) == dict(files(written[0]))


def test_folder_is_training_data_and_its_figures_are_marked(
    written: tuple[Path, Result],
) -> None:
    folder, _ = written
    assert len(read_rows(str(folder))) > 40
    limitation = read_retrieval_set(str(folder)).limitation
    assert limitation == "made from the documents: figures say little about real questions"
    assert limitation_advice(limitation, "--corpus") == "Measure on real questions too."


def test_data_check_shows_samples_of_each_kind(written: tuple[Path, Result]) -> None:
    output = RUN.invoke(app, ["check", str(written[0])]).output
    assert "Leak" not in output
    for kind in ("heading", "sentence", "definition", "docstring"):
        assert f"\n{kind}: " in output
    assert "\n  Makes a disk larger.\n    -> def grow(disk, by):" in output


def test_existing_data_set_is_kept(documents: Path, written: tuple[Path, Result]) -> None:
    before = dict(files(written[0]))
    with pytest.raises(BadFolder, match="is not empty; choose another folder, or replace it"):
        call(documents, "-o", written[0])
    assert dict(files(written[0])) == before


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["{docs}", "--kind", "title"], BadRecipe, "no kind of pairs 'title'; kinds: heading,"),
        (
            ["{docs}/disk.md"],
            BadData,
            "test and dev would have no queries: 8 pairs come from 1 document,",
        ),
        (["{docs}", "--kind", "thread"], BadData, r"no pair can be made from 42 passages"),
        (["{docs}/bad.md"], BadData, "bad.md cannot be read: not UTF-8"),
    ],
)
def test_documents_without_pairs_are_refused_and_nothing_is_written(
    documents: Path, tmp_path: Path, words: list[str], error: type[NearfarError], message: str
) -> None:
    arguments = [word.format(docs=documents) for word in words]
    with pytest.raises(error, match=message) as refusal:
        call(*arguments, "-o", tmp_path / "mine")
    assert refusal.value.exit_code == 2
    assert not any(tmp_path.iterdir())


def test_one_document_is_enough_without_dev_and_test(documents: Path, tmp_path: Path) -> None:
    call(documents / "disk.md", "-o", tmp_path / "mine", "--dev", 0, "--test", 0)
    assert [path.name for path in (tmp_path / "mine" / "qrels").iterdir()] == ["train.tsv"]
