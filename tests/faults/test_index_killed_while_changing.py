"""A process is killed while it builds an index of token vectors, adds to it or deletes from it:
what was there before stays, whole.

The child stops of itself at a given instant and says so; then SIGKILL ends it, as it does a process
that takes too much memory.
"""

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from late_interaction_toys import toy_late_interaction

from trainer.data.readers.corpus import Document
from trainer.errors import BadFolder
from trainer.retrieval.encoding.encode import Encoding, encode
from trainer.retrieval.indexes.manifest import belongs_to_index
from trainer.retrieval.token_index.build import build_token_index
from trainer.retrieval.token_index.change import add, delete
from trainer.retrieval.token_index.index import TokenIndex
from trainer.retrieval.token_index.manifest import TokenManifest, changing

OLD = [Document(f"old{row}", "", f"delete disk number {'a' * row}") for row in range(20)]
NEW = [Document(f"new{row}", "", f"create a storage account {'b' * row}") for row in range(20)]


def change_up_to(instant, say, folder, encoder, kind, action):
    """What the child does: it says that it came to the instant, and waits there to be killed."""
    from trainer.retrieval.token_index import growing_array, manifest

    def stop(*_):
        os.write(say, b"here\n")
        time.sleep(600)

    def stop_after(function):
        def stopping(*arguments, **keywords):
            function(*arguments, **keywords)
            stop()

        return stopping

    match instant:
        case "while vectors are written":
            growing_array.GrowingArray.append = stop_after(growing_array.GrowingArray.append)
        case "before files are on disk":
            manifest.flush_to_disk = stop
        case "before the manifest is exchanged":
            Path.replace = stop
        case "before files are removed":
            Path.unlink = stop
    match action:
        case "add":
            add(folder, Encoding(encoder), NEW)
        case "delete":
            delete(folder, ["old3", "old4"])
        case "build":
            build_token_index(Encoding(encoder), "toy", NEW, folder, kind, replace=True)


INSTANTS = (
    "while vectors are written",
    "before files are on disk",
    "before the manifest is exchanged",
)


@pytest.fixture(scope="module")
def encoder(toy_folder):
    return toy_late_interaction(str(toy_folder("bert")))


@pytest.fixture(scope="module")
def built(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    for kind in ("exact", "compressed"):
        build_token_index(Encoding(encoder), "toy", OLD, folder / kind, kind)
    return folder


def killed(folder, encoder, kind, action, instant):
    """Runs the child, a fork of this process, up to the instant and kills it."""
    hear, say = os.pipe()
    child = multiprocessing.get_context("fork").Process(
        target=change_up_to, args=(instant, say, folder, encoder, kind, action)
    )
    child.start()
    os.close(say)
    try:
        with os.fdopen(hear, "rb") as heard:
            assert heard.readline() == b"here\n"
        if action != "build":
            with (
                pytest.raises(BadFolder, match="being changed by another process"),
                changing(folder),
            ):
                pass
        os.kill(child.pid, signal.SIGKILL)
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
    finally:
        child.kill()


def found(folder, encoder):
    index = TokenIndex.open(folder)
    _, rows = index.search(encode(encoder, ["delete disk number a"], "query").to_padded(), 100)
    return [index.document(row).id for row in rows[0].tolist()]


@pytest.mark.parametrize("kind", ["exact", "compressed"])
@pytest.mark.parametrize("instant", INSTANTS)
def test_index_killed_while_adding_keeps_its_former_documents(
    built, encoder, tmp_path, kind, instant
):
    folder = shutil.copytree(built / kind, tmp_path / "index")
    before, files = found(folder, encoder), {path.name for path in folder.iterdir()}
    killed(folder, encoder, kind, "add", instant)
    assert {
        path.name for path in folder.iterdir()
    } > files  # something was left behind, or nothing was tested
    assert found(folder, encoder) == before
    assert add(folder, Encoding(encoder), NEW).count == 40
    assert len(found(folder, encoder)) == 40
    assert {path.name for path in folder.iterdir()} == TokenManifest.read(folder).needed_files() | {
        "manifest.json"
    }


@pytest.mark.parametrize("instant", INSTANTS[1:])
def test_index_killed_while_deleting_keeps_its_former_documents(built, encoder, tmp_path, instant):
    folder = shutil.copytree(built / "compressed", tmp_path / "index")
    before = found(folder, encoder)
    killed(folder, encoder, "compressed", "delete", instant)
    assert found(folder, encoder) == before
    assert delete(folder, ["old3"]).count == 19
    assert "old3" not in found(folder, encoder)


def test_index_killed_after_the_change_has_the_new_documents(built, encoder, tmp_path):
    """The second deletion has a file to remove, and does not come to it."""
    folder = shutil.copytree(built / "exact", tmp_path / "index")
    delete(folder, ["old1"])
    killed(folder, encoder, "exact", "delete", "before files are removed")
    assert set(found(folder, encoder)) == {document.id for document in OLD} - {
        "old1",
        "old3",
        "old4",
    }
    left = (
        {path.name for path in folder.iterdir()}
        - TokenManifest.read(folder).needed_files()
        - {"manifest.json"}
    )
    assert left == {"deleted-1-2.npy"}
    delete(folder, ["old2"])
    assert not left & {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("instant", INSTANTS)
def test_index_killed_while_being_replaced_keeps_its_former_documents(
    built, encoder, tmp_path, instant
):
    folder = shutil.copytree(built / "exact", tmp_path / "index")
    before = found(folder, encoder)
    killed(folder, encoder, "compressed", "build", instant)
    assert found(folder, encoder) == before
    assert all(belongs_to_index(path.name) for path in folder.iterdir())
    assert build_token_index(Encoding(encoder), "toy", NEW, folder, replace=True).count == 20
