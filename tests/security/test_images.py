"""Rows of images cannot read files outside of the data folder, and cannot reach the network."""

import os
import socket

import pytest
from image_toys import drawing, write_image_set

from trainer.data.readers.read import read_rows
from trainer.data.readers.report import BadRow
from trainer.errors import BadText, TooManyBadRows
from trainer.images.decode import BadImage
from trainer.images.images import read_images
from trainer.images.preparation import ImagePreparation
from trainer.images.reference import read_image_bytes

LEADING_OUT = [
    "../secret.png",
    "img/../../secret.png",
    "..\\secret.png",
    "/etc/passwd",
    "~/secret.png",
    "img/a\0.png",
]
URLS = [
    "http://169.254.169.254/x.png",
    "https://example.org/x.png",
    "file:///etc/passwd",
    "C:x.png",
]


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def bad_rows_of(folder, name):
    """What is said of a row with this path, beside a good one."""
    path = write_image_set(folder / "data", [0])
    with path.open("a") as file:
        file.write(f'{{"image": {name!r}, "caption": "x"}}\n'.replace("'", '"'))
    bad: list[BadRow] = []
    rows = read_rows(str(path), max_bad_rows_ratio=1.0, on_bad=bad.append, has_images=True)
    assert len(rows) == 1
    return [row.reason for row in bad]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", URLS)
def test_url_is_not_fetched(tmp_path, name):
    assert bad_rows_of(tmp_path, name) == ["image is a URL, and only files are read"]


@pytest.mark.parametrize("name", LEADING_OUT, ids=ascii)
def test_path_out_of_the_data_folder_is_not_opened(tmp_path, name):
    drawing(1).save(tmp_path / "secret.png")
    name = name.replace("\\", "\\\\").replace("\0", "\\u0000")
    path = write_image_set(tmp_path / "data", [0])
    with path.open("a") as file:
        file.write(f'{{"image": "{name}", "caption": "x"}}\n')
    bad: list[BadRow] = []
    read_rows(str(path), max_bad_rows_ratio=1.0, on_bad=bad.append, has_images=True)
    assert [row.reason for row in bad] == ["image path leads out of the data folder"]


def test_links_out_of_the_data_folder_are_not_followed(tmp_path):
    drawing(1).save(tmp_path / "secret.png")
    (tmp_path / "data" / "img").mkdir(parents=True)
    (tmp_path / "data" / "img" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "data" / "up").symlink_to(tmp_path)
    for name in ("img/link.png", "up/secret.png"):
        assert bad_rows_of(tmp_path, name) == [
            "image path is a link that leads out of the data folder"
        ]


def test_pipe_is_not_waited_for(tmp_path):
    (tmp_path / "data").mkdir()
    os.mkfifo(tmp_path / "data" / "pipe.png")
    assert bad_rows_of(tmp_path, "pipe.png") == ["image file does not exist"]
    with pytest.raises(BadImage, match="does not exist"):
        read_image_bytes(str(tmp_path / "data" / "pipe.png"))


def test_bad_images_count_against_the_budget(tmp_path):
    path = write_image_set(tmp_path, range(8))
    for number in (1, 2):
        image = tmp_path / "img" / f"{number}.png"
        image.write_bytes(image.read_bytes()[:60])
    with pytest.raises(TooManyBadRows, match=r"2 of 8 rows.*\n.*cannot be decoded"):
        read_rows(str(path), max_bad_rows_ratio=0.2, has_images=True)
    rows = read_rows(str(path), max_bad_rows_ratio=0.25, has_images=True)
    assert (len(rows), rows.report.bad) == (6, {"image cannot be decoded": 2})


def test_image_that_was_exchanged_after_reading_is_set_aside_in_training(tmp_path):
    path = write_image_set(tmp_path, [0])
    reference = read_rows(str(path), has_images=True)[0].positive
    (tmp_path / "img" / "0.png").write_bytes(b"#!/bin/sh")
    with pytest.raises(BadText, match="not an image"):
        read_images([reference], ImagePreparation(16, 16, "exact", 3), 5)
