"""References to images: a path, or a data URI that holds the bytes of the file (RFC 2397).

A reference is a text, so an image takes the place of a document wherever only equality counts.
"""

import base64
import binascii
import os
import re
from pathlib import Path

from trainer.errors import BadData
from trainer.images.decode import MOST_BYTES, BadImage, decode

_PREFIX = "data:;base64,"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_LABEL_CHARACTERS = 80


def reference_to_bytes(content: bytes) -> str:
    """Returns a reference that holds the bytes of an image file.

    >>> reference_to_bytes(b"GIF")
    'data:;base64,R0lG'
    """
    return _PREFIX + base64.b64encode(content).decode("ascii")


def reference_to_file(folder: Path, name: str) -> str:
    """Returns a reference to an image file that a data file in `folder` names.

    Raises BadImage unless `name` is the relative path of a file inside of `folder`.
    """
    if _URL.match(name):
        raise BadImage("image is a URL, and only files are read", "download it first")
    if "\0" in name or name.startswith(("/", "\\", "~")) or ".." in re.split(r"[/\\]", name):
        raise BadImage("image path leads out of the data folder")
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BadImage("image path is a link that leads out of the data folder")
        if not path.is_file():
            raise BadImage("image file does not exist", name[:200])
    except OSError as error:
        raise BadImage("image path is not possible", error.strerror or "") from None
    return str(path)


def read_image_bytes(reference: str) -> bytes:
    """Returns the bytes of the image file that a reference names. Raises BadImage.

    >>> read_image_bytes("data:;base64,R0lG")
    b'GIF'
    """
    try:
        if is_inline(reference):
            return base64.b64decode(reference[len(_PREFIX) :], validate=True)
        path = Path(reference)
        if path.is_dir():
            raise BadImage("image is a folder")
        if not path.is_file():  # also a pipe, which would wait for ever
            raise BadImage("image file does not exist")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MOST_BYTES:
                raise BadImage("image file too large", f"at most {MOST_BYTES:,} bytes are read")
            return file.read(MOST_BYTES + 1)
    except (OSError, ValueError, binascii.Error) as error:
        raise BadImage("image file cannot be read", str(error)[:100]) from None


def read_query_image(image: str | Path | bytes) -> str:
    """Returns a reference that holds the bytes of an image that is searched for.

    `image` is the path of a file, or its bytes. Raises BadData for one that cannot be decoded.
    """
    try:
        content = (
            image if isinstance(image, bytes) else read_image_bytes(f"{Path(image).absolute()}")
        )
        decode(content)
    except BadImage as error:
        name = f"the image of {len(image):,} bytes" if isinstance(image, bytes) else image
        raise BadData(
            f"{name} cannot be searched for: {error}; give the file of a whole image"
        ) from None
    return reference_to_bytes(content)


def is_inline(reference: str) -> bool:
    """Returns true for a reference that holds the bytes of its file.

    >>> is_inline("data:;base64,R0lG"), is_inline("img/7.png")
    (True, False)
    """
    return reference.startswith(_PREFIX)


def label(reference: str) -> str:
    """Returns what tables show in place of an image: its path, without a long beginning."""
    if is_inline(reference):
        return f"[image of {3 * (len(reference) - len(_PREFIX)) // 4:,} bytes]"
    return reference[-_LABEL_CHARACTERS:]
