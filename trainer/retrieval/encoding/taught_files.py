"""Files in which the vectors of a teacher are stored.

teacher.json             fingerprint of the teacher's weights and contract, the contract, whether
                         the teacher gives one vector per text or per token, and size and SHA-256
                         of each file
query-names.npy, ...     identities of the texts, sorted
query-vectors.npy, ...   one row per text in that order, or one row per token (float16)
query-terms.npy, ...     for sparse vectors in their place: one row per term, its word and weight
query-offsets.npy, ...   for token vectors and terms: where the rows of each text begin
query-vocabulary.npy     for sparse vectors: the number of words
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from trainer.batch import identity
from trainer.errors import BadFolder
from trainer.models.contracts.text import Role
from trainer.models.encoder import VectorEncoder
from trainer.retrieval.token_index.growing_array import GrowingArray
from trainer.storage.atomic import write_array, write_text
from trainer.storage.manifest import Damaged, digest_files, verify_files
from trainer.vectors.vectors import Vectors

FILE = "teacher.json"
TEXTS_AT_ONCE = 8192
_ROWS_AT_ONCE = 1 << 16


class TaughtFiles:
    """Writes the vectors of one role: first old vectors, then new ones as they come.

    At the end they are sorted by the identities of their texts.
    """

    def __init__(
        self,
        folder: Path,
        role: Role,
        teacher: VectorEncoder,
        old_texts: tuple[Int64[np.ndarray, " text"], Vectors] | None,
    ) -> None:
        self.folder, self.role, self.kind = folder, role, teacher.vectors
        self.dimensions = teacher.dimensions
        self.names: list[int] = []
        self.lengths = [np.empty(0, np.int64)]
        self.unsorted_path = folder / f".{role}.npy"
        width = self.kind.row_width(teacher.dimensions)
        self.file = GrowingArray(self.unsorted_path, self.kind.COMPACT, width)
        if old_texts is not None:
            old_names, old_vectors = old_texts
            self.names += old_names.tolist()
            self.lengths.append(old_vectors.lengths)
            for start in range(0, len(old_vectors.rows), _ROWS_AT_ONCE):
                self.file.append(old_vectors.rows[start : start + _ROWS_AT_ONCE])

    def append(self, texts: Sequence[str], vectors: Vectors) -> None:
        self.names += map(identity, texts)
        self.lengths.append(vectors.lengths)
        self.file.append(vectors.rows)

    def finish(self) -> None:
        self.file.__exit__(None, None, None)
        names = np.array(self.names, np.int64)
        rows = np.load(self.unsorted_path, mmap_mode="r", allow_pickle=False)
        unsorted_texts = self.kind.from_rows(rows, np.concatenate(self.lengths))
        order = np.argsort(names, kind="stable")
        write_array(self.folder / f"{self.role}-names.npy", names[order])
        rows_name = self.kind.ARRAYS[0]
        path = self.folder / f"{self.role}-{rows_name}.npy"
        with GrowingArray(path, self.kind.COMPACT, rows.shape[1]) as sorted_file:
            for start in range(0, len(order), TEXTS_AT_ONCE):
                part = unsorted_texts.select(order[start : start + TEXTS_AT_ONCE])
                sorted_file.append(part.rows)
        sorted_rows = np.load(path, mmap_mode="r", allow_pickle=False)
        lengths = unsorted_texts.lengths[order]
        vectors = self.kind.from_rows(sorted_rows, lengths, self.dimensions)
        for part_name, array in vectors.arrays.items():
            if part_name != rows_name:
                write_array(self.folder / f"{self.role}-{part_name}.npy", array)
        self.unsorted_path.unlink()


def write_content(folder: Path, content: dict[str, Any]) -> None:
    """Writes `teacher.json`, with the records of all files in `folder`."""
    files = digest_files(folder, [path.name for path in folder.iterdir()])
    write_text(folder / FILE, json.dumps({**content, "files": files}, indent=2) + "\n")


def check_unaltered(folder: Path) -> None:
    """Reads all files. Raises BadFolder if one is missing, truncated or altered."""
    try:
        verify_files(folder, stored_content(folder)["files"])
    except Damaged as error:
        raise BadFolder(
            f"{error}; remove {folder}, and the teacher's vectors are computed again"
        ) from error


def stored_content(folder: Path) -> dict[str, Any]:
    """Returns the content of `teacher.json`.

    Raises BadFolder when there is none or it is damaged, so that a user's own files are never
    replaced.
    """
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if (
            content["version"] == 2
            and isinstance(content["files"], dict)
            and isinstance(content["tokens"], bool)
            and isinstance(content["fingerprint"], str)
        ):
            return content
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise BadFolder(
        f"{folder} is the folder for a teacher's vectors, but it holds something else or damaged"
        " files; move or remove it, and the vectors are computed again"
    )
