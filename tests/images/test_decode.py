"""Images of every kind become upright RGB, and what cannot be decoded says why."""

import struct
import zlib

import numpy as np
import pytest
from image_toys import drawing, encoded
from PIL import Image

from trainer.images import decode as decoding
from trainer.images.decode import BadImage, decode


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP", "JPEG"])
def test_formats_are_decoded(kind):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
    image = decode(encoded(drawing(1), kind, **options))
    assert (image.mode, image.size) == ("RGB", drawing(1).size)
    difference = np.asarray(image).astype(int) - np.asarray(drawing(1))
    assert abs(difference).mean() < 10


def test_exif_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image = decode(encoded(Image.new("RGB", (30, 10), "red"), "JPEG", exif=exif))
    assert image.size == (10, 30)


def test_transparent_parts_are_white():
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    clear.putpixel((0, 0), (200, 0, 0, 255))
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    palette.putpixel((0, 0), 1)
    for content in (encoded(clear), encoded(palette, transparency=0)):
        image = decode(content)
        assert image.getpixel((0, 0)) == (200, 0, 0)
        assert image.getpixel((3, 3)) == (255, 255, 255)


def test_other_colour_models_become_rgb():
    cmyk = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    assert np.abs(np.array(cmyk.getpixel((4, 4))) - (255, 0, 0)).max() < 12
    assert decode(encoded(Image.new("L", (2, 2), 77))).getpixel((0, 0)) == (77, 77, 77)
    assert decode(encoded(Image.new("1", (2, 2), 1))).getpixel((0, 0)) == (255, 255, 255)
    deep = Image.fromarray(np.full((2, 2), 0x8000, np.uint16))
    assert decode(encoded(deep)).getpixel((0, 0)) == (128, 128, 128)


def test_first_frame_of_an_animation_counts():
    frames = [Image.new("RGB", (6, 6), color) for color in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(content).getpixel((3, 3)) == (255, 0, 0)


def header_of_png(width, height):
    """A PNG that says its size, without pixels."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (encoded(drawing(0), "TIFF"), "not an image"),
        (encoded(drawing(0))[:-40], "cannot be decoded"),
        (encoded(drawing(0), "JPEG")[:400], "cannot be decoded"),
        (header_of_png(50_000, 50_000), "too many pixels"),
        (header_of_png(9_000, 9_000), "too many pixels"),
        (header_of_png(30_000, 3), "too long for its width"),
        (header_of_png(20, 20), "cannot be decoded"),
    ],
    ids=["empty", "svg", "tiff", "cut png", "cut jpeg", "bomb", "large", "line", "no pixels"],
)
def test_bad_image_says_why(content, reason):
    with pytest.raises(BadImage, match=reason):
        decode(content)


def test_huge_file_is_not_decoded(monkeypatch):
    monkeypatch.setattr(decoding, "MOST_BYTES", 50)
    with pytest.raises(BadImage, match="too large"):
        decode(encoded(drawing(0)))
