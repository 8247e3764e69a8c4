"""Decodes images of unknown origin with Pillow, in bounded memory."""

import warnings
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""The formats that are read. No other parser of Pillow sees a file."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
"""The endings, in lower case, of names of files in these formats."""
MOST_BYTES = 32 * 2**20
"""The largest image file."""
MOST_PIXELS = 64_000_000
"""The largest image: decoded, it takes 192 MB."""
LONGEST_SHAPE = 100
"""The largest ratio of the longer edge to the shorter one. A model resizes the shorter one."""
# `decode` has a lower limit than the one from which Pillow warns.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class BadImage(Exception):
    """An image that cannot be used: the reason, and details if there are any."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return self.reason + (f" ({self.detail})" if self.detail else "")


def decode(content: bytes) -> Image.Image:
    """Returns an image in RGB, upright according to its EXIF data.

    Transparent parts are white. Of an animation, it is the first frame. Raises BadImage for a file
    that is too large, has too many pixels, is truncated, or is no image of these formats.
    """
    if len(content) > MOST_BYTES:
        raise BadImage(
            "image file too large", f"{len(content):,} bytes, at most {MOST_BYTES:,} are read"
        )
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise BadImage(
                    "image has too many pixels",
                    f"{width:,} x {height:,}, at most {MOST_PIXELS:,} are decoded",
                )
            if max(width, height) > LONGEST_SHAPE * min(width, height):
                raise BadImage("image is too long for its width", f"{width:,} x {height:,}")
            image.load()
            return _as_rgb(ImageOps.exif_transpose(image))
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage("image has too many pixels", str(error)[:100]) from None
    except Image.UnidentifiedImageError:
        raise BadImage(
            "not an image", f"of {', '.join(FORMATS)}; convert other formats to PNG"
        ) from None
    except Exception as error:  # noqa: BLE001 - a hostile file may raise anything
        raise BadImage(
            "image cannot be decoded", (str(error).splitlines() or [type(error).__name__])[0][:100]
        ) from None


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow would cut them off at 255
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        background = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(background, layer).convert("RGB")
    return image.convert("RGB")
