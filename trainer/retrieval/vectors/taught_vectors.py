"""The vectors of a teacher for the training texts: encoded once, memory-mapped, looked up by batch.

teacher.json             fingerprint of the teacher's weights and contract, and the contract
query-names.npy, ...     identities of the texts, sorted
query-vectors.npy, ...   one row per text in that order, or one per token (float16)
query-offsets.npy, ...   token vectors only: the first row of each text
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
from trainer.models.contract import Role
from trainer.models.encoder import Encoder
from trainer.models.late_interaction import LateInteractionEncoder
from trainer.retrieval.token_index.growing_array import GrowingArray
from trainer.retrieval.vectors.encode import encode_for_search
from trainer.retrieval.vectors.token_vectors import TokenVectors, encode_tokens, offsets_of
from trainer.storage.atomic import folder_state, move_if_free, move_into_place, partial_folder

FILE = "teacher.json"
_TEXTS_AT_ONCE = 8192
_ROLES: tuple[Role, Role] = ("query", "document")
Names = dict[Role, Int64[np.ndarray, " text"]]
Further = Callable[[], Iterable[str]]
"""Documents that stand in no row."""


@dataclass(frozen=True, slots=True)
class TaughtVectors:
    """The embeddings in a folder, by text."""

    names: Names
    vectors: dict[Role, Float[np.ndarray, "row dimension"]]
    offsets: dict[Role, Int64[np.ndarray, " text_plus_one"]] | None

    @classmethod
    def open(cls, folder: Path) -> "TaughtVectors":
        """The embeddings in `folder`, memory-mapped. Raises BadFolder where files are missing or no
        arrays.
        """
        tokens = _content(folder)["tokens"]
        try:
            of = {
                part: {
                    role: np.load(folder / f"{role}-{part}.npy", mmap_mode="r", allow_pickle=False)
                    for role in _ROLES
                }
                for part in _parts(tokens)
            }
        except (OSError, ValueError) as error:
            raise BadFolder(
                f"{folder} is not whole ({error}); remove it, and it is made again"
            ) from error
        return cls(of["names"], of["vectors"], of.get("offsets"))

    def embeddings(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "query ..."], Float[Tensor, "document ..."]]:
        """Of a batch's queries and documents: one vector a text, or one a token with rows of zeros
        behind the last. Raises BadData for a new text.
        """
        return self._of(batch.queries, "query"), self._of(batch.documents, "document")

    @property
    def dimensions(self) -> int:
        """Width of a vector."""
        return int(self.vectors["query"].shape[1])

    def compared(self, role: Role, names: Int64[np.ndarray, " text"]) -> tuple[int, int]:
        """How many of these texts are not here, and how many that are here are not among them."""
        return int((~np.isin(names, self.names[role])).sum()), int(
            (~np.isin(self.names[role], names)).sum()
        )

    def _of(self, texts: Texts, role: Role) -> Float[Tensor, "text ..."]:
        wanted, there = texts.identities.cpu().numpy(), self.names[role]
        rows = np.searchsorted(there, wanted).clip(max=len(there) - 1)
        if (there[rows] != wanted).any():
            raise BadData(
                f"the teacher has not seen {int((there[rows] != wanted).sum())} of {len(wanted)}"
                " texts of a batch; start the run again"
            )
        if self.offsets is None:
            return torch.from_numpy(np.ascontiguousarray(self.vectors[role][rows]))
        return torch.from_numpy(
            TokenVectors(self.vectors[role], self.offsets[role]).select(rows).padded()
        )


def taught_vectors(
    folder: Path,
    teacher: Encoder,
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
    wanted, names = content_of(teacher), names_of(rows, negatives_per_query, further)
    seen = on_first_rank(lambda: folder_state(folder))
    made, kept = all_reduce_integers(
        list(on_first_rank(lambda: to_do(folder, wanted, names, replace, say)) or (0, 0)), MAX
    )
    if made:
        there = TaughtVectors.open(folder) if kept else None
        _make(
            folder,
            teacher,
            texts,
            there,
            micro_batch_tokens,
            say,
            lambda unfinished: _finish(unfinished, folder, seen, wanted, names, say),
        )
    return TaughtVectors.open(folder)


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


def content_of(teacher: Encoder) -> dict[str, Any]:
    """What `teacher.json` says of a teacher's vectors."""
    late, contract = (
        isinstance(teacher, LateInteractionEncoder),
        teacher.contract.model_dump(mode="json"),
    )
    return {
        "version": 1,
        "fingerprint": teacher_fingerprint(teacher),
        "contract": contract,
        "tokens": late,
    }


def to_do(
    folder: Path, wanted: dict[str, Any], names: Names, replace: bool, say: Callable[[str], None]
) -> tuple[int, int]:
    """Whether the vectors of these texts are to be made, which `say` is told, and whether those in
    `folder` are kept beside them. Raises BadFolder where they are of something else.
    """
    texts = sum(map(len, names.values()))
    if not folder.exists():
        say(f"the teacher encodes {texts:,} training texts, once; kept in {folder}")
        return 1, 0
    missing, changed = _compared(folder, wanted, names)
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


def _compared(folder: Path, wanted: dict[str, Any], names: Names) -> tuple[int, str | None]:
    """How many of these texts the vectors in `folder` lack, and, where not by addition alone, what
    else they were made of. Raises BadFolder.
    """
    content, texts = _content(folder), sum(map(len, names.values()))
    if content["fingerprint"] == wanted["fingerprint"]:
        found = TaughtVectors.open(folder)
        counts = {role: found.compared(role, names[role]) for role in _ROLES}
        missing, others = (sum(each) for each in zip(*counts.values(), strict=True))
        of_roles = " and ".join(
            f"{new:,} new and {gone:,} gone as {role}" for role, (new, gone) in counts.items()
        )
        return missing, (
            f"other data: since then {of_roles}, of {texts:,} texts" if missing and others else None
        )
    before, now = content.get("contract") or {}, wanted["contract"]
    fields = [
        f"{name} was {before.get(name)!r:.80}, is {now[name]!r:.80}"
        for name in now
        if before and before.get(name) != now[name]
    ]
    weights = "its weights have changed" if before else "its weights or its contract have changed"
    return texts, f"another teacher: {'; '.join(fields) or weights}"


def teacher_fingerprint(teacher: Encoder) -> str:
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
    teacher: Encoder,
    all_texts: dict[Role, Callable[[], Iterator[str]]],
    kept: TaughtVectors | None,
    micro_batch_tokens: int | None,
    say: Callable[[str], None],
    finish: Callable[[Path], None],
) -> None:
    tokens = isinstance(teacher, LateInteractionEncoder)
    unfinished: Path | None = on_first_rank(lambda: partial_folder(folder))
    try:
        for role in _ROLES:
            files: Any = on_first_rank(
                partial(_Files, unfinished, role, tokens, teacher.dimensions, kept)  # type: ignore[arg-type]
            )
            known = set() if kept is None else set(kept.names[role].tolist())
            for texts in _slices(text for text in all_texts[role]() if identity(text) not in known):
                if tokens:
                    found: Any = encode_tokens(teacher, texts, role, micro_batch_tokens)
                else:
                    found = encode_for_search(teacher, texts, role, micro_batch_tokens)  # type: ignore[arg-type]
                on_first_rank(lambda: files.append(texts, found))  # noqa: B023
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
        self, folder: Path, role: Role, tokens: bool, dimensions: int, kept: TaughtVectors | None
    ) -> None:
        self.folder, self.role, self.tokens = folder, role, tokens
        self.names: list[int] = []
        self.lengths = [np.empty(0, np.int64)]
        self.unsorted = folder / f".{role}.npy"
        self.file = GrowingArray(self.unsorted, np.float16 if tokens else np.float32, dimensions)
        if kept is not None:
            self.names += kept.names[role].tolist()
            if kept.offsets is not None:
                self.lengths.append(np.diff(kept.offsets[role]))
            for start in range(0, len(kept.vectors[role]), _TEXTS_AT_ONCE):
                self.file.append(kept.vectors[role][start : start + _TEXTS_AT_ONCE])

    def append(self, texts: Sequence[str], found: Any) -> None:
        self.names += map(identity, texts)
        if self.tokens:
            self.lengths.append(found.lengths)
        self.file.append(found.vectors if self.tokens else found)

    def finish(self) -> None:
        self.file.__exit__(None, None, None)
        names, vectors = (
            np.array(self.names, np.int64),
            np.load(self.unsorted, mmap_mode="r", allow_pickle=False),
        )
        order = np.argsort(names, kind="stable")
        unsorted = (
            TokenVectors(vectors, offsets_of(np.concatenate(self.lengths))) if self.tokens else None
        )
        with GrowingArray(
            self.folder / f"{self.role}-vectors.npy", vectors.dtype.type, vectors.shape[1]
        ) as sorted_file:
            for start in range(0, len(order), _TEXTS_AT_ONCE):
                some = order[start : start + _TEXTS_AT_ONCE]
                sorted_file.append(
                    vectors[some] if unsorted is None else unsorted.select(some).vectors
                )
        np.save(self.folder / f"{self.role}-names.npy", names[order], allow_pickle=False)
        if unsorted is not None:
            np.save(
                self.folder / f"{self.role}-offsets.npy",
                offsets_of(unsorted.lengths[order]),
                allow_pickle=False,
            )
        self.unsorted.unlink()


def _finish(
    unfinished: Path,
    folder: Path,
    seen: tuple[int, int, int] | None,
    wanted: dict[str, Any],
    names: Names,
    say: Callable[[str], None],
) -> None:
    """Puts what was made into the place of what was `seen` there. Another run's that came there
    since stays: it will do, or BadFolder says why not.
    """
    (unfinished / FILE).write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
    if seen is not None and folder_state(folder) == seen:
        move_into_place(unfinished, folder)
        return
    if move_if_free(unfinished, folder):
        return
    missing, changed = _compared(folder, wanted, names)
    if missing:
        raise BadFolder(
            f"{folder} was made by another run while this one encoded, of"
            f" {changed or f'fewer texts: {missing:,} are missing'}. Nothing of it was changed;"
            " start again once that run has ended, or set another `output`"
        )
    say(f"{folder} was made by another run meanwhile, of the same teacher and texts; it is used")


def _parts(tokens: bool) -> tuple[str, ...]:
    return ("names", "vectors", "offsets") if tokens else ("names", "vectors")


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
