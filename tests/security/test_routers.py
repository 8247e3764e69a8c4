"""Folders of routers that are damaged or hostile are refused by name."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from trainer.errors import BadFolder
from trainer.retrieval.indexes.views import has_views
from trainer.routing.features import FEATURES, WordCounts
from trainer.routing.router import Router
from trainer.routing.settings import CurvePoint, RouterSettings
from trainer.storage.manifest import digest_files, read_manifest, write_manifest

NAME = "router.safetensors"
TERMS = len(FEATURES) * (len(FEATURES) + 3) // 2


@pytest.fixture
def folder(tmp_path):
    settings = RouterSettings(
        routes=["bm25", "a"],
        milliseconds=[1.0, 2.0],
        queries=50,
        learned_from="toy dev",
        qualities=[0.1, 0.2, 0.3],
        curve=[CurvePoint(price=0.0, cost=0.5, quality=0.2)],
    )
    Router(
        settings,
        WordCounts.of(["one two"]),
        np.zeros(len(FEATURES)),
        np.ones(len(FEATURES)),
        np.zeros((2, TERMS)),
        np.zeros(2),
    ).save(tmp_path / "router")
    return tmp_path / "router"


def seal(folder, **change):
    """Writes the manifest again, with hashes that are right, as an attacker would."""
    content = read_manifest(folder)
    del content["files"]
    content["settings"] |= change
    write_manifest(folder, content, digest_files(folder, [NAME]))


def test_whole_folder_is_read(folder):
    assert Router.open(folder).choose(["one"]).tolist() == [-1]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"files": 3}', b"\xff\xfe", b"null", b"[" * 10**5]
)
def test_damaged_manifest_is_refused(folder, content):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(BadFolder, match="is damaged"):
        Router.open(folder)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x80" + b"\x00" * 7 + b"{" * 200])
def test_damaged_weights_are_refused_also_with_right_hashes(folder, content):
    (folder / NAME).write_bytes(content)
    with pytest.raises(BadFolder, match="is damaged"):
        Router.open(folder)
    seal(folder)
    with pytest.raises(BadFolder, match="is damaged"):
        Router.open(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"routes": ["bm25"]},
        {"routes": ["bm25", "a", "b"]},
        {"milliseconds": [1.0]},
        {"qualities": []},
        {"curve": []},
        {"curve": [{"price": -1.0, "cost": 0.5, "quality": 0.2}]},
        {"queries": "many"},
        {"shell": "rm"},
        {"image_routes": ["bm25"]},
        {"image_routes": ["index:other"]},
        {"image_routes": "index:idx"},
    ],
)
def test_settings_that_do_not_belong_together_are_refused(folder, change):
    seal(folder, **change)
    with pytest.raises(BadFolder, match="is damaged"):
        Router.open(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": np.zeros((2, 3))},
        {"weights": np.full((2, TERMS), np.nan)},
        {"weights": np.zeros((2, TERMS), np.float32)},
        {"intercepts": np.zeros(5)},
        {"word_counts": np.zeros(7, np.int64)},
        {"word_hashes": np.zeros((2, 2), np.int64)},
        {"word_hashes": np.zeros(2)},
        {"means": None},
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(folder, change):
    from safetensors import safe_open

    with safe_open(folder / NAME, "np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    arrays |= change
    arrays = {name: array for name, array in arrays.items() if array is not None}
    save_file(arrays, folder / NAME, metadata)
    seal(folder)
    with pytest.raises(BadFolder, match="is damaged"):
        Router.open(folder)


def test_no_metadata_and_no_router_are_refused(folder, tmp_path):
    from safetensors import safe_open

    with safe_open(folder / NAME, "np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(arrays, folder / NAME, {"documents": "-3"})
    seal(folder)
    with pytest.raises(BadFolder, match="is damaged"):
        Router.open(folder)
    with pytest.raises(BadFolder, match="is no router; make a router with"):
        Router.open(tmp_path)
    with pytest.raises(BadFolder, match="routr does not exist; did you mean .*router"):
        Router.open(folder.parent / "routr")


def test_index_and_router_are_not_mistaken_for_each_other(folder, tmp_path):
    for kind in ("flat", "views"):
        (tmp_path / kind).mkdir()
        content = json.dumps({"format": 1, "kind": kind})
        (tmp_path / kind / "manifest.json").write_text(content)
        with pytest.raises(BadFolder, match=f"{kind} is an index, no router; make a router"):
            Router.open(tmp_path / kind)
    with pytest.raises(BadFolder, match="router is a router, no index; write `nearfar search"):
        has_views(folder)


def test_manifest_of_another_version_is_refused(folder):
    content = read_manifest(folder)
    files = content.pop("files")
    write_manifest(folder, content | {"features": ["other"]}, files)
    with pytest.raises(BadFolder, match="made by another version"):
        Router.open(folder)
    assert json.loads((folder / "manifest.json").read_text())["features"] == ["other"]
