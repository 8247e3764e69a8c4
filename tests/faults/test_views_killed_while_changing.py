"""A process is killed while it changes the documents of an index, or of several views: they are as
before, or as after the change, and all views together. The same is seen by who reads meanwhile.

The child stops of itself at a given instant and says so; then SIGKILL ends it.
"""

import json
import multiprocessing
import os
import shutil
import signal
import time

import pytest
from late_interaction_toys import new_encoder
from toy_models import SENTENCES
from verbs import command_caller

from trainer.cli.index import add, delete, index
from trainer.errors import BadFolder
from trainer.models.formats.folder import save_encoder
from trainer.retrieval.changes.change import add_documents, delete_documents
from trainer.retrieval.indexes.index_corpus import open_index, open_together
from trainer.retrieval.indexes.views import index_folders

call = command_caller(add, delete, index)
WORDS = " ".join(SENTENCES).split()
OLD = {f"old{row}": " ".join(WORDS[row : row + 4]) for row in range(12)}
NEW = {f"new{row}": " ".join(WORDS[row : row + 5]) for row in range(6)}
WITHOUT = [name for name in OLD if name != "old3"]
STATES = {"add": ([*OLD], [*OLD, *NEW]), "delete": ([*OLD], WITHOUT)}
"""The ids before and after each action."""
BEFORE = (
    "after the first view",
    "before the manifest of the last view",
    "before the folders are exchanged",
)
AFTER = "before the former folder is removed"


def change_up_to(instant, say, folder, action):
    """What the child does: it says that it came to the instant, and waits there to be killed."""
    from trainer.retrieval.changes import change
    from trainer.retrieval.indexes import place
    from trainer.retrieval.token_index.manifest import TokenManifest

    def stop(*_, **__):
        os.write(say, b"here\n")
        time.sleep(600)

    match instant:
        case "after the first view":
            change.write_with = change.write_without = stop_after(change, action, stop)
        case "before the manifest of the last view":
            TokenManifest.write = stop
        case "before the folders are exchanged":
            place.move_into_place = stop
        case "before the former folder is removed":
            shutil.rmtree = stop_at_partial_folder(stop)
    act(folder, action)


def stop_after(module, action, stop):
    function = module.write_with if action == "add" else module.write_without

    def stopping(*arguments):
        function(*arguments)
        stop()

    return stopping


def stop_at_partial_folder(stop):
    function = shutil.rmtree

    def stopping(path, *arguments, **options):
        if str(path).endswith(".partial"):
            stop()
        function(path, *arguments, **options)

    return stopping


def act(folder, action):
    if action == "add":
        add_documents(folder, folder.parent / "new.jsonl")
    else:
        delete_documents(folder, ["old3"])


@pytest.fixture(scope="module")
def built(toy_folder, tmp_path_factory):
    """A folder of a dense and a late-interaction view, an ordinary index, and a corpus to add."""
    folder, bert = tmp_path_factory.mktemp("killed"), toy_folder("bert")
    save_encoder(new_encoder(bert), folder / "late")
    for name, texts in (("old", OLD), ("new", NEW)):
        lines = [json.dumps({"_id": document, "text": text}) for document, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    corpus, views = folder / "old.jsonl", folder / "views_folder"
    call("index", bert, corpus, "-o", views, "--view", "dense")
    call("index", folder / "late", corpus, "-o", views, "--view", "late", "--kind", "exact")
    call("index", bert, corpus, "-o", folder / "plain")
    return folder


@pytest.fixture
def copy(built, tmp_path):
    return shutil.copytree(built, tmp_path / "copy")


def killed(folder, action, instant):
    """Runs the child, a fork of this process, up to the instant and kills it."""
    hear, say = os.pipe()
    child = multiprocessing.get_context("fork").Process(
        target=change_up_to, args=(instant, say, folder, action)
    )
    child.start()
    os.close(say)
    try:
        with os.fdopen(hear, "rb") as heard:
            assert heard.readline() == b"here\n"
        if instant != AFTER:
            with pytest.raises(BadFolder, match="being changed by another process"):
                delete_documents(folder, ["old1"])
        os.kill(child.pid, signal.SIGKILL)
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
    finally:
        child.kill()


def ids_of(folder):
    """The ids in the index, which are those of every view."""
    opened = open_together(index_folders(folder))
    ids = {tuple(view.document(row).id for row in view.live_rows().tolist()) for view in opened}
    assert len(ids) == 1, "all views have the same documents"
    return list(ids.pop())


@pytest.mark.parametrize("action", STATES)
@pytest.mark.parametrize("instant", BEFORE)
def test_views_killed_before_the_exchange_keep_their_former_documents(copy, instant, action):
    former_ids, new_ids = STATES[action]
    folder = copy / "views_folder"
    killed(folder, action, instant)
    assert list(folder.glob(".views.*.partial")), "something was left, or nothing was tested"
    assert ids_of(folder) == former_ids
    act(folder, action)
    assert ids_of(folder) == new_ids
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "views"}


@pytest.mark.parametrize("action", STATES)
@pytest.mark.parametrize("name", ["views_folder", "plain"])
def test_index_killed_after_the_exchange_has_the_new_documents(copy, name, action):
    folder = copy / name
    killed(folder, action, AFTER)
    assert ids_of(folder) == STATES[action][1]
    delete_documents(folder, ["old1"])
    assert ids_of(folder) == [document for document in STATES[action][1] if document != "old1"]
    assert not [*copy.glob(".*.partial"), *folder.glob(".*.partial")]


@pytest.mark.parametrize("action", STATES)
@pytest.mark.parametrize("instant", [BEFORE[0], BEFORE[2]])
def test_index_killed_before_the_exchange_keeps_its_former_documents(copy, instant, action):
    folder = copy / "plain"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    killed(folder, action, instant)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    act(folder, action)
    assert ids_of(folder) == STATES[action][1]


def test_view_is_built_beside_what_a_killed_process_left(copy, toy_folder):
    folder = copy / "views_folder"
    killed(folder, "add", BEFORE[2])
    call("index", toy_folder("bert"), copy / "old.jsonl", "-o", folder, "--view", "more")
    assert open_index(folder / "views" / "more").manifest.count == len(OLD)


def change_repeatedly(folder):
    for _ in range(8):
        add_documents(folder, folder.parent / "new.jsonl")
        delete_documents(folder, NEW)


@pytest.mark.parametrize("name", ["views_folder", "plain"])
def test_reader_beside_a_writer_sees_one_state_of_all_views(copy, name):
    """It also keeps the documents that it has open."""
    folder, states = copy / name, set()
    first = open_together(index_folders(folder))
    child = multiprocessing.get_context("fork").Process(target=change_repeatedly, args=(folder,))
    child.start()
    while child.is_alive():
        states.add(tuple(ids_of(folder)))
    child.join()
    assert child.exitcode == 0
    assert states == {tuple(OLD), (*OLD, *NEW)}
    for view in first:
        assert [view.document(row).id for row in view.live_rows().tolist()] == [*OLD]
