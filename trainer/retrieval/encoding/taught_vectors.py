"""What a teacher makes of the training texts: encoded once, kept memory-mapped by the identity of
each text, and looked up batch by batch.

teacher.json             which teacher (a fingerprint of its weights and contract, and the
                         contract), and whether it gives one vector per text or one per token
query-names.npy, ...     identities of the texts, sorted
query-vectors.npy, ...   one row per text in that order, or one per token (float16)
query-offsets.npy, ...   of tokens: where each text's begin
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from trainer.batch import Batch, Texts, identity
from trainer.collectives import MAX, all_reduce_integers, on_first_rank
from trainer.data.rows import Row
from trainer.errors import BadData, BadFolder
from trainer.models.contracts.text import Role
from trainer.models.encoder import VectorEncoder
from trainer.retrieval.encoding.encode import encode
from trainer.retrieval.token_index.growing_array import GrowingArray
from trainer.storage.atomic import folder_state, move_if_free, move_into_place, partial_folder
from trainer.vectors.vectors import Vectors

FILE = "teacher.json"
_TEXTS_AT_ONCE = 8192
_ROWS_AT_ONCE = 1 << 16
_ROLES: tuple[Role, Role] = ("query", "document")
Names = dict[Role, Int64[np.ndarray, " text"]]
Further = Callable[[], Iterable[str]]
"""Documents that stand in no row."""


@dataclass(frozen=True, slots=True)
class TaughtVectors:
    """The embeddings in a folder, by text."""

    names: Names
    vectors: dict[Role, Vectors]

    @classmethod
    def open(cls, folder: Path, kind: type[Vectors]) -> "TaughtVectors":
        """The embeddings in `folder`, memory-mapped. Raises BadFolder where files are missing or no
        arrays, or hold another kind of vectors.
        """
        if _content(folder)["tokens"] != (kind.UNIT == "token"):
            raise BadFolder(
                f"{folder} holds the vectors of another kind of model than one that gives one per"
                f" {kind.UNIT}; remove it, and it is made again"
            )
        try:
            names = {
                role: np.load(folder / f"{role}-names.npy", mmap_mode="r", allow_pickle=False)
                for role in _ROLES
            }
            return cls(names, {role: kind.load(folder, role) for role in _ROLES})
        except (OSError, ValueError) as error:
            raise BadFolder(
                f"{folder} is not whole ({error}); remove it, and it is made again"
            ) from error

    def embeddings(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "query ..."], Float[Tensor, "document ..."]]:
        """Of a batch's queries and documents: one vector per text, or one per token with rows of
        zeros behind the last. Raises BadData for a new text.
        """
        return self._embeddings(batch.queries, "query"), self._embeddings(
            batch.documents, "document"
        )

    @property
    def dimensions(self) -> int:
        """Width of a vector."""
        return int(self.vectors["query"].rows.shape[1])

    def compared(self, role: Role, names: Int64[np.ndarray, " text"]) -> tuple[int, int]:
        """How many of these texts are not here, and how many that are here are not among them."""
        return int((~np.isin(names, self.names[role])).sum()), int(
            (~np.isin(self.names[role], names)).sum()
        )

    def _embeddings(self, texts: Texts, role: Role) -> Float[Tensor, "text ..."]:
        wanted, names = texts.identities.cpu().numpy(), self.names[role]
        places = np.searchsorted(names, wanted).clip(max=len(names) - 1)
        if missing := int((names[places] != wanted).sum()):
            raise BadData(
                f"the teacher has not seen {missing} of {len(wanted)} texts of a batch; start the"
                " run again"
            )
        return torch.from_numpy(self.vectors[role].select(places).to_padded())


def taught_vectors(
    folder: Path,
    teacher: VectorEncoder,
    rows: Iterable[Row],
    negatives_per_query: int,
    micro_batch_tokens: int | None = None,
    say: Callable[[str], None] = lambda text: None,
    replace: bool = False,
    further: Further = tuple,
) -> TaughtVectors:
    """The teacher's embeddings of all queries, positives and first `negatives_per_query` negatives
    of `rows`, and of `further` documents: those in `folder`, made there where it is not there.

    Texts that have come to those in `folder` are encoded and added. What another teacher has made,
    or other data, is refused with BadFolder that says what has changed, and left as it is; with
    `replace` it is made anew, and the former goes when the new is whole. `say` is told what is
    made.

    In float32 whatever the machine, so that what is taught depends on the recipe alone; token
    vectors are kept in float16. All ranks encode together, the first one writes. Where another run
    has made `folder` meanwhile, that is used. Raises BadFolder where it is of something else, or no
    such folder.
    """
    texts: dict[Role, Callable[[], Iterator[str]]] = {
        role: partial(_texts, rows, role, negatives_per_query, further) for role in _ROLES
    }
    wanted = wanted_vectors(teacher, names_of(rows, negatives_per_query, further))
    seen = on_first_rank(lambda: folder_state(folder))
    made, kept = all_reduce_integers(
        list(on_first_rank(lambda: to_do(folder, wanted, replace, say)) or (0, 0)), MAX
    )
    if made:
        _make(
            folder,
            teacher,
            texts,
            TaughtVectors.open(folder, teacher.vectors) if kept else None,
            micro_batch_tokens,
            say,
            lambda unfinished: _finish(unfinished, folder, seen, wanted, say),
        )
    return TaughtVectors.open(folder, teacher.vectors)


def names_of(rows: Iterable[Row], negatives_per_query: int, further: Further = tuple) -> Names:
    """The identities of the texts that a teacher encodes of `rows`, and of `further` documents,
    sorted.
    """
    return {
        role: np.unique(
            np.array([*map(identity, _texts(rows, role, negatives_per_query, further))], np.int64)
        )
        for role in _ROLES
    }


@dataclass(frozen=True)
class Wanted:
    """The vectors that a run needs of a teacher."""

    content: dict[str, Any]
    """What `teacher.json` says of them."""
    kind: type[Vectors]
    names: Names


def wanted_vectors(teacher: VectorEncoder, names: Names) -> Wanted:
    """The vectors of this teacher, of the texts with these identities."""
    content = {
        "version": 1,
        "fingerprint": teacher_fingerprint(teacher),
        "contract": teacher.contract.model_dump(mode="json"),
        "tokens": teacher.vectors.UNIT == "token",
    }
    return Wanted(content, teacher.vectors, names)


def to_do(
    folder: Path, wanted: Wanted, replace: bool, say: Callable[[str], None]
) -> tuple[int, int]:
    """Whether the vectors of these texts are to be made, which `say` is told, and whether those in
    `folder` are kept beside them. Raises BadFolder where they are of something else.
    """
    texts = sum(map(len, wanted.names.values()))
    if not folder.exists():
        say(f"the teacher encodes {texts:,} training texts, once; kept in {folder}")
        return 1, 0
    missing, changed = _compared(folder, wanted)
    if not missing:
        return 0, 0
    if changed is None:
        say(
            f"the teacher encodes {missing:,} texts that have come to the {texts - missing:,} in"
            f" {folder}"
        )
        return 1, 1
    if not replace:
        raise BadFolder(
            f"{folder} was made of {changed}. Nothing was changed; give back what it was made of,"
            " or set another `output`, or start with --replace, which lets the teacher encode anew"
        )
    say(f"{folder} was made of {changed}; the teacher encodes {texts:,} training texts anew")
    return 1, 0


def _compared(folder: Path, wanted: Wanted) -> tuple[int, str | None]:
    """How many of these texts the vectors in `folder` lack, and, where not by addition alone, what
    else they were made of. Raises BadFolder.
    """
    content, names = _content(folder), wanted.names
    texts = sum(map(len, names.values()))
    if content["fingerprint"] == wanted.content["fingerprint"]:
        stored = TaughtVectors.open(folder, wanted.kind)
        counts = {role: stored.compared(role, names[role]) for role in _ROLES}
        missing, others = (sum(each) for each in zip(*counts.values(), strict=True))
        of_roles = " and ".join(
            f"{new:,} new and {gone:,} gone as {role}" for role, (new, gone) in counts.items()
        )
        return missing, (
            f"other data: since then {of_roles}, of {texts:,} texts" if missing and others else None
        )
    before, now = content.get("contract") or {}, wanted.content["contract"]
    fields = [
        f"{name} was {before.get(name)!r:.80}, is {now[name]!r:.80}"
        for name in now
        if before and before.get(name) != now[name]
    ]
    weights = "its weights have changed" if before else "its weights or its contract have changed"
    return texts, f"another teacher: {'; '.join(fields) or weights}"


def teacher_fingerprint(teacher: VectorEncoder) -> str:
    """SHA-256 of all weights and the contract: another one gives other vectors."""
    digest = hashlib.sha256(teacher.contract.model_dump_json().encode())
    for name, value in sorted(teacher.state_dict().items()):
        digest.update(
            name.encode()
            + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def _make(
    folder: Path,
    teacher: VectorEncoder,
    all_texts: dict[Role, Callable[[], Iterator[str]]],
    kept: TaughtVectors | None,
    micro_batch_tokens: int | None,
    say: Callable[[str], None],
    finish: Callable[[Path], None],
) -> None:
    unfinished: Path | None = on_first_rank(lambda: partial_folder(folder))
    try:
        for role in _ROLES:
            files: Any = on_first_rank(partial(_Files, unfinished, role, teacher, kept))  # type: ignore[arg-type]
            known = set() if kept is None else set(kept.names[role].tolist())
            for texts in _slices(text for text in all_texts[role]() if identity(text) not in known):
                vectors = teacher.for_search(encode(teacher, texts, role, micro_batch_tokens))
                on_first_rank(lambda: files.append(texts, vectors))  # noqa: B023
                say(f"{len(texts):,} texts encoded by the teacher, as {role}")
            on_first_rank(lambda: files.finish())  # noqa: B023, PLW0108 - `files` is None on the other ranks
        on_first_rank(lambda: finish(unfinished))  # type: ignore[arg-type]
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)


class _Files:
    """The arrays of one role, those `kept` first, written as they come and put in the order of
    their names at the end.
    """

    def __init__(
        self, folder: Path, role: Role, teacher: VectorEncoder, kept: TaughtVectors | None
    ) -> None:
        self.folder, self.role, self.kind = folder, role, teacher.vectors
        self.names: list[int] = []
        self.lengths = [np.empty(0, np.int64)]
        self.unsorted = folder / f".{role}.npy"
        self.file = GrowingArray(self.unsorted, self.kind.COMPACT, teacher.dimensions)
        if kept is not None:
            stored = kept.vectors[role]
            self.names += kept.names[role].tolist()
            self.lengths.append(stored.lengths)
            for start in range(0, len(stored.rows), _ROWS_AT_ONCE):
                self.file.append(stored.rows[start : start + _ROWS_AT_ONCE])

    def append(self, texts: Sequence[str], vectors: Vectors) -> None:
        self.names += map(identity, texts)
        self.lengths.append(vectors.lengths)
        self.file.append(vectors.rows)

    def finish(self) -> None:
        self.file.__exit__(None, None, None)
        names = np.array(self.names, np.int64)
        rows = np.load(self.unsorted, mmap_mode="r", allow_pickle=False)
        unsorted = self.kind.from_rows(rows, np.concatenate(self.lengths))
        order = np.argsort(names, kind="stable")
        np.save(self.folder / f"{self.role}-names.npy", names[order], allow_pickle=False)
        path = self.folder / f"{self.role}-vectors.npy"
        with GrowingArray(path, self.kind.COMPACT, rows.shape[1]) as sorted_file:
            for start in range(0, len(order), _TEXTS_AT_ONCE):
                part = unsorted.select(order[start : start + _TEXTS_AT_ONCE])
                sorted_file.append(part.rows)
        sorted_rows = np.load(path, mmap_mode="r", allow_pickle=False)
        vectors = self.kind.from_rows(sorted_rows, unsorted.lengths[order])
        for part_name, array in vectors.arrays.items():
            if part_name != "vectors":
                np.save(self.folder / f"{self.role}-{part_name}.npy", array, allow_pickle=False)
        self.unsorted.unlink()


def _finish(
    unfinished: Path,
    folder: Path,
    seen: tuple[int, int, int] | None,
    wanted: Wanted,
    say: Callable[[str], None],
) -> None:
    """Puts what was made into the place of what was `seen` there. Another run's that came there
    since stays: it will do, or BadFolder says why not.
    """
    (unfinished / FILE).write_text(json.dumps(wanted.content, indent=2) + "\n", encoding="utf-8")
    if seen is not None and folder_state(folder) == seen:
        move_into_place(unfinished, folder)
        return
    if move_if_free(unfinished, folder):
        return
    missing, changed = _compared(folder, wanted)
    if missing:
        raise BadFolder(
            f"{folder} was made by another run while this one encoded, of"
            f" {changed or f'fewer texts: {missing:,} are missing'}. Nothing of it was changed;"
            " start again once that run has ended, or set another `output`"
        )
    say(f"{folder} was made by another run meanwhile, of the same teacher and texts; it is used")


def _content(folder: Path) -> dict[str, Any]:
    """What `teacher.json` says. Raises BadFolder where there is none: nothing of a person's is
    replaced.
    """
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if (
            content["version"] == 1
            and isinstance(content["tokens"], bool)
            and isinstance(content["fingerprint"], str)
        ):
            return content
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise BadFolder(
        f"{folder} is where a teacher's vectors are kept, and holds something else, or damaged"
        " files; remove it, and it is made again"
    )


def _texts(rows: Iterable[Row], role: Role, negatives: int, further: Further) -> Iterator[str]:
    """Each distinct text of a role once, in the order of the rows, then the further ones."""
    of_rows = (
        text
        for row in rows
        for text in (
            (row.query,) if role == "query" else (row.positive, *row.negatives[:negatives])
        )
    )
    seen: set[int] = set()
    for text in chain(of_rows, () if role == "query" else further()):
        if (name := identity(text)) not in seen:
            seen.add(name)
            yield text


def _slices(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while some := list(islice(rest, _TEXTS_AT_ONCE)):
        yield some
