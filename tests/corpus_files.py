"""Corpora that tests write."""

import json
from collections.abc import Mapping
from pathlib import Path


def write_corpus(path: Path, texts: Mapping[str, str]) -> Path:
    """Writes a JSON Lines file of texts by id, without titles, and returns its path."""
    lines = [{"_id": name, "title": "", "text": text} for name, text in texts.items()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
