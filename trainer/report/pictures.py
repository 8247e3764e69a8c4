"""Thumbnails of the pictures that a report shows: `pictures.json` in a run folder, which maps the
ids of documents to data URIs.

A thumbnail is decoded and encoded anew, so no byte of a file of the data is in the page.
"""

import base64
import json
import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from trainer.errors import BadFolder
from trainer.evaluation.results import Evaluation
from trainer.images.decode import BadImage, decode
from trainer.images.reference import read_image_bytes
from trainer.report.query_changes import MOST_CHANGES, largest_changes, query_changes
from trainer.storage.atomic import write_text

PICTURES = "pictures.json"
_EDGE = 96
"""Length in pixels of the longer edge, at most."""
_MOST_CHARACTERS = 16_000
"""Of a thumbnail as a data URI. One that is longer is left out."""
_MOST_PICTURES = 2 * MOST_CHANGES * 3
_PREFIX = "data:image/webp;base64,"
_URI = re.compile(rf"{_PREFIX}[A-Za-z0-9+/]+={{0,2}}")


def write_pictures(folder: Path, evaluation: Evaluation, references: Mapping[str, str]) -> None:
    """Writes the pictures of the queries that became better or worse. `references` are the images
    of the set by id; those that cannot be decoded are left out.
    """
    ids = dict.fromkeys(
        document
        for changes in largest_changes(query_changes(evaluation))
        for change in changes[:MOST_CHANGES]
        for document in change.document_ids
        if document in references
    )
    thumbnails = {document: _thumbnail(references[document]) for document in ids}
    content = {document: uri for document, uri in thumbnails.items() if uri is not None}
    write_text(folder / PICTURES, json.dumps(content, indent=0))


def read_pictures(content: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Returns the pictures in the content of `path`. Raises BadFolder for anything else."""
    are_thumbnails = len(content) <= _MOST_PICTURES and all(
        isinstance(uri, str) and len(uri) <= _MOST_CHARACTERS and _URI.fullmatch(uri)
        for uri in content.values()
    )
    if not are_thumbnails:
        raise BadFolder(
            f"{path} holds more than the thumbnails of a report; remove it for a report without"
            " pictures"
        )
    return dict(content)


def _thumbnail(reference: str) -> str | None:
    try:
        image = decode(read_image_bytes(reference))
    except BadImage:
        return None
    image.thumbnail((_EDGE, _EDGE))
    file = BytesIO()
    image.save(file, "WEBP", quality=75)
    uri = _PREFIX + base64.b64encode(file.getvalue()).decode("ascii")
    return uri if len(uri) <= _MOST_CHARACTERS else None
