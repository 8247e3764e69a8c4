"""A small set of drawn images with captions, as files and in tables."""

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw

COLORS = {
    "red": (220, 20, 20),
    "green": (20, 200, 20),
    "blue": (20, 20, 220),
    "yellow": (230, 230, 10),
}
SHAPES = ("disk", "machine", "account", "database")


def drawing(number: int) -> Image.Image:
    """An image whose colour and shape depend on its number; sizes differ."""
    image = Image.new("RGB", (20 + number % 5, 18), (128, 128, 128))
    draw = ImageDraw.Draw(image)
    color = COLORS[list(COLORS)[number % 4]]
    corner = 1 + number % 3
    match number // 4 % 4:
        case 0:
            draw.ellipse((corner, 2, corner + 12, 14), fill=color)
        case 1:
            draw.rectangle((corner, 2, corner + 12, 14), fill=color)
        case 2:
            draw.rectangle((corner, 7, corner + 14, 9), fill=color)
        case _:
            draw.ellipse((corner, 2, corner + 12, 14), outline=color, width=2)
    return image


def caption(number: int) -> str:
    """A caption that names colour, shape and number."""
    return f"a {list(COLORS)[number % 4]} {SHAPES[number // 4 % 4]} {number}"


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of an image file."""
    content = BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def write_image_set(folder: Path, numbers: Sequence[int], name: str = "pairs.jsonl") -> Path:
    """A JSON Lines file of captions and paths; the images are in `img/` beside it."""
    (folder / "img").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in numbers:
        drawing(number).save(folder / "img" / f"{number}.png")
        rows.append({"image": f"img/{number}.png", "caption": caption(number)})
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
