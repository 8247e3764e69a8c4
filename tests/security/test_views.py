"""Folders of views that attack: manifests and names that someone else has written."""

import json
import os

import pytest
from verbs import command_caller

from trainer.cli.index import delete, index
from trainer.cli.search import search
from trainer.errors import BadFolder

call = command_caller(delete, index, search)


@pytest.fixture
def victim(toy_folder, tmp_path):
    """A folder of one view."""
    (tmp_path / "corpus.txt").write_text("delete a disk\ncreate a storage account\n")
    options = ("-o", tmp_path / "idx", "--view", "dense")
    call("index", toy_folder("bert"), tmp_path / "corpus.txt", *options)
    return tmp_path / "idx"


def manifest_with(**change):
    """A manifest with weights of the view, and hostile changes of them."""
    weights = {
        "weights": {"dense": 1.0},
        "probes": {"dense": "0"},
        "learned_on": "toys",
        "queries": 5,
        "ndcg_at_10": 0.5,
    }
    return json.dumps({"format": 1, "kind": "views", "weights": weights | change})


def test_text_of_a_manifest_cannot_move_the_cursor(victim):
    (victim / "manifest.json").write_text(manifest_with(learned_on="evil\x1b[2J" + "a" * 5000))
    page = call("search", victim, "disk", "--hybrid")
    assert "void" in page.stderr
    assert "evil" in page.stderr
    assert "\x1b" not in page.stderr
    assert len(page.stderr) < 500


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (manifest_with(weights={"dense": -1.0}), "damaged"),
        (manifest_with(weights={"dense": float("nan")}), "damaged"),
        (manifest_with(weights={"dense": 1e999}), "damaged"),
        (manifest_with(weights={"dense": 0.0}), "no view has a weight"),
        (manifest_with(weights={"bm25": 1.0}, probes={}), "no view has a weight"),
        (manifest_with(weights={"../x": 1.0}, probes={"../x": ""}), "not that of a view"),
        (manifest_with(probes={}), "a view has no probe"),
        (manifest_with(probes={"dense": "0", "other": "0"}), "a view has no probe"),
        (manifest_with(queries=0), "damaged"),
        (manifest_with(loader="os.system"), "damaged"),
        ('{"format": 1, "kind": "views", "loader": "os.system"}', "damaged"),
        ('{"format": 2, "kind": "views"}', "format 2"),
        ('{"format": 1, "kind": "views", "sha256": "0"}', "altered"),
        ('["views"]', "not a JSON object"),
        ("{", "damaged"),
    ],
)
def test_altered_manifest_is_refused(victim, toy_folder, manifest, message):
    (victim / "manifest.json").write_text(manifest)
    for command in (
        ("search", victim, "disk", "--hybrid"),
        ("search", victim, "disk"),
        ("delete", victim, "1"),
        ("index", toy_folder("bert"), victim.parent / "corpus.txt", "-o", victim, "--view", "b"),
    ):
        with pytest.raises(BadFolder, match=message):
            call(*command)


def test_names_that_are_no_views_are_neither_opened_nor_printed(victim):
    """A name may hold an escape sequence, or be too long for a line."""
    whole = call("search", victim, "disk", "--hybrid", "--json").stdout
    for name in ("evil\x1b[31m", "..hidden", "Upper", "a" * 41, "with space"):
        (victim / "views" / name).symlink_to("/etc")
    os.mkfifo(victim / "views" / "Pipe")
    assert call("search", victim, "disk", "--hybrid", "--json").stdout == whole
    with pytest.raises(BadFolder, match="has no view 'x'; it has dense$"):
        call("search", victim, "disk", "--view", "x")


def test_view_that_leads_out_of_the_folder_is_not_searched_by_name(victim):
    for name in ("../views/dense", "../../idx/views/dense", "/etc", "."):
        with pytest.raises(BadFolder, match="has no view"):
            call("search", victim, "disk", "--view", name)


def test_views_inside_a_view_are_refused(victim):
    inner = victim / "views" / "inner"
    inner.mkdir()
    (inner / "manifest.json").write_text(json.dumps({"format": 1, "kind": "views"}))
    (inner / "views").symlink_to(victim / "views")
    with pytest.raises(BadFolder, match="inner holds the views"):
        call("search", victim, "disk", "--hybrid")
