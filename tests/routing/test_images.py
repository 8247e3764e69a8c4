"""A router whose routes are views of images and of texts."""

import json

import pytest
from forked import nearfar
from image_toys import caption, write_image_set
from toy_models import make_image_text_toy

NUMBERS = range(60)
ROUTES = ("bm25", "index:idx/views/image", "index:idx/views/text")
QUESTION = "a red disk"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, toy_folder):
    """An index with a view of images and one of their captions."""
    folder = tmp_path_factory.mktemp("routed_images")
    make_image_text_toy("clip", folder / "clip")
    (folder / "bert").symlink_to(toy_folder("bert"))
    write_image_set(folder, NUMBERS)
    texts = [{"_id": f"i{number}", "text": caption(number)} for number in NUMBERS]
    images = [{"_id": f"i{number}", "image": f"img/{number}.png"} for number in NUMBERS]
    for model, view, rows in (("clip", "image", images), ("bert", "text", texts)):
        write_rows(folder / f"{view}s.jsonl", rows)
        run(folder, "index", model, f"{view}s.jsonl", "-o", "idx", "--view", view)
    return folder


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(folder, *words):
    process = nearfar(*words, folder=folder)
    assert process.returncode == 0, process.stderr
    return process


@pytest.mark.parametrize("gains", [[0.1, 0, 0], [0, 0.1, 0], [0, 0, 0.1], [-0.1, -0.1, -0.1]])
def test_hits_of_any_route_have_the_texts_and_images_of_all_views(folder, write_router, gains):
    write_router(folder, [float(gain) for gain in gains], ROUTES)
    process = run(folder, "search", "idx", QUESTION, "--json", "--router", "router")
    hits = json.loads(process.stdout)
    assert len(hits) == 5
    for hit in hits:
        number = int(hit["id"][1:])
        assert hit["text"] == caption(number)
        assert hit["image"] == str(folder / "img" / f"{number}.png")
