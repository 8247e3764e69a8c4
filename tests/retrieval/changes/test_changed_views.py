"""Documents of all views are changed together, or none."""

import json
import shutil

import pytest
from corpus_files import write_corpus
from late_interaction_toys import new_encoder
from toy_models import SENTENCES, save_sparse_toy
from verbs import command_caller

from trainer.cli.index import add, delete, index
from trainer.cli.search import search
from trainer.errors import BadData, BadFolder, BadRecipe
from trainer.models.formats.folder import save_encoder
from trainer.retrieval.indexes.index_corpus import open_index
from trainer.storage.locks import exclusive

call = command_caller(add, delete, index, search)
WORDS = " ".join(SENTENCES).split()
TEXTS = {f"doc{row}": " ".join(WORDS[row % 13 : row % 13 + 3 + row % 4]) for row in range(40)}
OLD, NEW = dict(list(TEXTS.items())[:30]), dict(list(TEXTS.items())[30:])
QUESTION = "delete a disk in the region"
VIEWS = {"dense": "flat", "graph": "hnsw", "late": "exact", "sparse": "inverted"}
"""The kind of each view. The graph is of the model of the view `dense`."""


@pytest.fixture(scope="module")
def models(toy_folder, tmp_path_factory):
    folder, bert = tmp_path_factory.mktemp("models"), toy_folder("bert")
    save_sparse_toy(bert, folder / "sparse")
    save_encoder(new_encoder(bert), folder / "late")
    return {name: folder / name for name in ("late", "sparse")} | {"dense": bert, "graph": bert}


def build_views(folder, models, texts, views=VIEWS):
    corpus = write_corpus(folder.parent / f"{folder.name}.jsonl", texts)
    for name in views:
        options = ("-o", folder, "--view", name, "--kind", VIEWS[name])
        call("index", models[name], corpus, *options)
    return folder


@pytest.fixture(scope="module")
def built(models, tmp_path_factory):
    """A folder of views that no test changes."""
    return build_views(tmp_path_factory.mktemp("views") / "idx", models, OLD)


@pytest.fixture
def copy(built, tmp_path):
    return shutil.copytree(built, tmp_path / "copy")


def scores_of(folder, *options):
    page = call("search", folder, QUESTION, "-k", 40, "--json", *(options or ("--hybrid",))).stdout
    return {hit["id"]: hit["score"] for hit in json.loads(page)}


def contents(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def check_built_anew(folder, models, texts, tmp_path):
    """Each view, and all together, find what views find that are built from these documents."""
    anew = build_views(tmp_path / "anew", models, texts)
    for options in (*(("--view", name) for name in VIEWS), ("--hybrid",)):
        assert scores_of(folder, *options) == scores_of(anew, *options), options
    for name in ("dense", "graph", "sparse"):
        assert contents(folder / "views" / name) == contents(anew / "views" / name)
    assert {path.name for path in (folder / "views").iterdir()} == VIEWS.keys()
    assert not list(folder.glob(".*"))


def test_added_documents_are_in_all_views(copy, models, tmp_path):
    printed = call("add", copy, write_corpus(tmp_path / "new.jsonl", NEW)).stdout.splitlines()
    assert [line.split(",")[0] for line in printed] == [
        f"{copy}/views/{name}: 40 documents" for name in VIEWS
    ]
    check_built_anew(copy, models, TEXTS, tmp_path)


def test_deleted_and_replaced_documents_change_all_views(copy, models, tmp_path):
    new_texts = {"doc3": "another text", **NEW}
    call("delete", copy, "doc0", "doc29")
    call("add", copy, write_corpus(tmp_path / "new.jsonl", new_texts), "--replace")
    call("delete", copy, "doc12")
    kept_texts = {
        name: text for name, text in OLD.items() if name not in ("doc0", "doc3", "doc12", "doc29")
    }
    check_built_anew(copy, models, kept_texts | new_texts, tmp_path)


def test_view_of_a_changed_corpus_can_be_built(copy, models, tmp_path):
    call("add", copy, write_corpus(tmp_path / "new.jsonl", NEW))
    call("delete", copy, "doc5")
    texts = {name: text for name, text in TEXTS.items() if name != "doc5"}
    corpus = write_corpus(tmp_path / "all.jsonl", texts)
    for name in ("another", "dense"):
        options = ("-o", copy, "--view", name, "--replace")
        call("index", models["dense"], corpus, *options)
    assert scores_of(copy).keys() == texts.keys()
    former_corpus = write_corpus(tmp_path / "former.jsonl", TEXTS)
    with pytest.raises(BadData, match="document 6 is 'doc5' here, and 'doc6' there"):
        call("index", models["dense"], former_corpus, "-o", copy, "--view", "more")


@pytest.fixture
def refused(copy, tmp_path):
    """A function that calls a command, which must be refused and change nothing."""
    files = contents(copy)

    def refuse(error, message, *command):
        with pytest.raises(error, match=message):
            call(*command)
        assert contents(copy) == files
        assert not list(copy.glob(".*"))

    return refuse


def test_change_of_one_view_alone_is_refused(copy, refused):
    message = f"is a view, and all views .* together: give {copy}"
    for name in VIEWS:
        refused(BadFolder, message, "delete", copy / "views" / name, "doc0")
        refused(BadFolder, message, "add", copy / "views" / name, copy.parent / "any.jsonl")


def test_refused_change_leaves_every_view_as_it_was(copy, refused, tmp_path):
    corpus = write_corpus(tmp_path / "new.jsonl", NEW | {"doc7": "a disk"})
    refused(BadData, "already has a document 'doc7'", "add", copy, corpus)
    refused(BadData, "no document 'doc99'", "delete", copy, "doc1", "doc99")
    refused(BadData, "would have no documents left", "delete", copy, *OLD)
    refused(BadRecipe, "names one model, but .* 4 views", "add", copy, corpus, "--model", "x")
    with exclusive(copy / "views", is_shared=True):
        refused(BadFolder, "being changed by another process", "delete", copy, "doc1")


def test_view_that_fails_last_leaves_the_others_unchanged(copy, refused, tmp_path):
    """The sparse view comes last; its model is gone."""
    path = copy / "views" / "sparse" / "manifest.json"
    content = json.loads(path.read_text())
    content["model"] = str(tmp_path / "gone")
    del content["sha256"]
    path.write_text(json.dumps(content))
    files = contents(copy)
    with pytest.raises(Exception, match="gone"):
        call("add", copy, write_corpus(tmp_path / "new.jsonl", NEW))
    assert contents(copy) == files


def test_view_of_an_unknown_kind_is_named(copy, tmp_path):
    path = copy / "views" / "late" / "manifest.json"
    path.write_text(json.dumps({"format": 1, "kind": "pictures", "model": "m", "files": {}}))
    files = contents(copy)
    with pytest.raises(BadFolder, match="views/late"):
        call("delete", copy, "doc1")
    assert contents(copy) == files


@pytest.mark.parametrize("place", ["views", "views/dense"])
def test_folder_with_other_files_is_not_changed(copy, refused, place):
    (copy / place / "thesis.txt").write_text("years of work")
    with pytest.raises(BadFolder, match="holds something other than"):
        call("delete", copy, "doc1")
    assert (copy / place / "thesis.txt").read_text() == "years of work"
    (copy / place / "thesis.txt").unlink()
    call("delete", copy, "doc1")


def test_views_are_not_built_while_others_change(copy, models):
    corpus = write_corpus(copy.parent / "copy.jsonl", OLD)
    with exclusive(copy / "views"), pytest.raises(BadFolder, match="being changed by another"):
        call("index", models["dense"], corpus, "-o", copy, "--view", "new")


def test_compressed_view_keeps_its_codes_and_has_the_same_documents(models, tmp_path):
    folder = build_views(tmp_path / "idx", models, OLD, ["dense"])
    corpus = tmp_path / "idx.jsonl"
    call("index", models["late"], corpus, "-o", folder, "--view", "late", "--kind", "compressed")
    late = folder / "views" / "late"
    codec_files = ("centroids.npy", "rotation.npy", "books.npy", "spread.npy")
    codec = {name: (late / name).read_bytes() for name in codec_files}
    call("add", folder, write_corpus(tmp_path / "new.jsonl", NEW))
    call("delete", folder, "doc0", "doc35")
    opened = open_index(late)
    assert [opened.document(row).id for row in opened.live_rows().tolist()] == [
        name for name in TEXTS if name not in ("doc0", "doc35")
    ]
    assert {name: (late / name).read_bytes() for name in codec_files} == codec
    assert scores_of(folder).keys() == TEXTS.keys() - {"doc0", "doc35"}


def test_late_views_alone_may_become_empty_and_be_filled_again(models, tmp_path):
    folder = build_views(tmp_path / "idx", models, OLD, ["late"])
    with pytest.raises(BadData, match=f"{folder}/views/late has no document 'doc77'"):
        call("delete", folder, "doc77")
    call("delete", folder, *OLD)
    assert scores_of(folder) == {}
    call("add", folder, write_corpus(tmp_path / "new.jsonl", NEW))
    assert scores_of(folder).keys() == NEW.keys()
    assert open_index(folder / "views" / "late").manifest.count == 10
