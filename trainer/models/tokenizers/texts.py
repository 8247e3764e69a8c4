"""Texts to token ids, the same in training and in use.

Each role has its own frozen copy of the tokenizer with its own truncation, so any thread may
tokenise while another computes.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer, normalizers, processors
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from trainer.batch import Texts, identity
from trainer.errors import BadModel
from trainer.models.files.vetting import inside, read_json, without_code

FIRST_CHARACTERS_PER_TOKEN = 64
MOST_CHARACTERS = 1_000_000
"""What lies beyond is never looked at: a text is cut there even if the first million characters
hold fewer tokens than allowed.
"""
_UNTOUCHED_CHARACTERS = 256
_VOCABULARY = re.compile(r"tokenizer\.json|vocab\.(txt|json)|[A-Za-z0-9_.-]+\.model")
_TOKENIZER_FILE = re.compile(
    rf"{_VOCABULARY.pattern}|merges\.txt|special_tokens_map\.json|added_tokens\.json"
)
_PROBES = (
    "",
    "A database, restarted.",
    "naïve Ünïcode 検索 поиск",
    "def f(x):\n    return x[0] != 'y'  # 12,345",
    "  spaces\tand\nlines  ",
)


@dataclass(frozen=True, slots=True)
class RoleTokenizer:
    """Tokenises the texts of one role: prompt put before, cut to the role's length, never empty."""

    backend: Tokenizer
    prompt: str
    prompt_tokens: int
    max_length_tokens: int
    pad_token_id: int
    stand_in_id: int

    def tokenize(self, texts: Sequence[str]) -> Texts:
        """The tokens of `prompt + text`, special tokens included; of a text without any token, the
        stand-in alone.
        """
        lists = [ids or [self.stand_in_id] for ids in self.ids(texts)]
        return Texts.of(
            lists, [identity(text) for text in texts], self.pad_token_id, self.prompt_tokens
        )

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of `prompt + text`, cut to the role's length; none for a text without any
        token.
        """
        return self._ids([self.prompt + text for text in texts])

    def _ids(self, texts: list[str]) -> list[list[int]]:
        limit = max(4096, self.max_length_tokens * FIRST_CHARACTERS_PER_TOKEN)
        short = [text if len(text) <= limit else "" for text in texts]
        try:
            found = [encoding.ids for encoding in self.backend.encode_batch_fast(short)]
        except (
            TypeError,
            UnicodeEncodeError,
        ):  # a lone surrogate: half a character, which UTF-8 has no form for
            return self._ids([text.encode("utf-8", "replace").decode() for text in texts])
        return [
            ids if len(text) <= limit else self._start_of(text, limit)
            for text, ids in zip(texts, found, strict=True)
        ]

    def _start_of(self, text: str, limit: int) -> list[int]:
        """Ids of a very long text from no more of it than they need: the cut must lie well behind
        the last token kept.
        """
        text = text[:MOST_CHARACTERS]
        while True:
            encoding = self.backend.encode(text[:limit])
            last = max((stop for _, stop in encoding.offsets), default=0)
            if limit >= len(text) or (
                len(encoding.ids) >= self.max_length_tokens
                and last <= limit - _UNTOUCHED_CHARACTERS
            ):
                return encoding.ids
            limit *= 4


def role_tokenizer(
    tokenizer: PreTrainedTokenizerBase, prompt: str, max_length_tokens: int, markers: int = 0
) -> RoleTokenizer:
    """The part of `tokenizer` that one role needs, frozen; it leaves room for so many markers.
    BadModel where there is none for a text.
    """
    plain = _plain_copy(tokenizer)
    specials, of_prompt = (
        len(plain.encode("").ids),
        (len(plain.encode(prompt, add_special_tokens=False).ids) if prompt else 0),
    )
    if max_length_tokens <= specials + of_prompt + markers:
        parts = [
            f"{specials} special tokens",
            *["1 marker"] * markers,
            *([f"a prompt of {of_prompt}"] if of_prompt else []),
        ]
        raise BadModel(
            f"a maximum length of {max_length_tokens} tokens leaves no room for a text beside"
            f" {' and '.join(parts)}; allow more"
        )
    max_length_tokens -= markers
    backend = _plain_copy(tokenizer)
    backend.enable_truncation(max_length_tokens, direction=tokenizer.truncation_side)
    stand_in = next(
        token for token in (tokenizer.eos_token_id, tokenizer.pad_token_id) if token is not None
    )
    return RoleTokenizer(
        backend, prompt, of_prompt, max_length_tokens, tokenizer.pad_token_id, stand_in
    )


def leading_special_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many special tokens the tokenizer puts before a text."""
    return _specials(_plain_copy(tokenizer))[0]


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Ids of the special tokens that the tokenizer puts before and after a text."""
    backend = _plain_copy(tokenizer)
    before, after = _specials(backend)
    ids = backend.encode("a").ids
    return ids[:before], ids[len(ids) - after :]


def read_tokenizer(
    folder: Path, config: PretrainedConfig, lower_case: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`; BadModel where there is none, or none that works without foreign
    code.
    """
    with TemporaryDirectory() as staged:
        if not _stage(folder, Path(staged)):
            raise BadModel(
                f"{folder} has no tokenizer: no tokenizer.json and no vocabulary; copy them from"
                " the model it was made from"
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                staged, config=config, local_files_only=True, trust_remote_code=False
            )
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            ImportError,
            RecursionError,
        ) as error:
            raise BadModel(
                f"{folder} has no tokenizer that can be read ({_first_line(error)}); it needs"
                " tokenizer.json"
            ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise BadModel(
            f"{folder} has only a slow tokenizer ({type(tokenizer).__name__}); it needs"
            " tokenizer.json"
        )
    tokenizer.name_or_path = ""
    give_pad_token(tokenizer)
    if lower_case:
        _lower_case_first(tokenizer.backend_tokenizer)
    return tokenizer


def _stage(folder: Path, staged: Path) -> bool:
    """Links the tokenizer's own files into an empty folder, with a tokenizer_config.json that can
    name neither code nor other files.

    Whether there is a vocabulary: without one transformers would make up an empty tokenizer.
    """
    names = [path.name for path in folder.glob("*") if path.is_file()]
    for name in filter(_TOKENIZER_FILE.fullmatch, names):
        (staged / name).symlink_to(inside(folder, name).resolve())
    if (folder / "tokenizer_config.json").exists():
        settings = without_code(read_json(folder, "tokenizer_config.json"))
        kept = {
            key: value
            for key, value in settings.items()
            if not key.endswith(("_file", "_path", "files"))
        }
        (staged / "tokenizer_config.json").write_text(json.dumps(kept), encoding="utf-8")
    return any(map(_VOCABULARY.fullmatch, names))


def check_matches(tokenizer: PreTrainedTokenizerBase, rows: int, folder: Path) -> None:
    """BadModel when the tokenizer gives ids that the model has no embedding for."""
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= rows:
        raise BadModel(
            f"{folder}: the tokenizer knows {largest + 1} tokens, the model has embeddings for"
            f" {rows}; they do not belong together: take both from the same model"
        )


def give_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Makes the end-of-text token the pad token where there is none, as in many decoders. Padding
    is masked: any token will do.
    """
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise BadModel(
                "the tokenizer has neither a pad nor an end-of-text token; set `pad_token` in its"
                " tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token


def append_end_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Makes the tokenizer end every text with its end-of-text token, where it has one and does not
    do so already.

    A decoder's last token has seen the whole text; that it is always the same token is what models
    with last-token pooling are trained with.
    """
    eos, backend = tokenizer.eos_token_id, tokenizer.backend_tokenizer
    before, after = _specials(_plain_copy(tokenizer))
    if eos is None:
        return
    ids = _plain_copy(tokenizer).encode("a").ids
    if after and ids[-1] == eos:
        return
    around = [
        str(tokenizer.convert_ids_to_tokens(token))
        for token in [*ids[:before], *ids[len(ids) - after :], eos]
    ]
    pieces = [*around[:before], "$A", *around[before:]]
    template = processors.TemplateProcessing(
        single=" ".join(pieces),
        special_tokens=[
            (token, tokenizer.convert_tokens_to_ids(token)) for token in dict.fromkeys(around)
        ],
    )
    if hasattr(tokenizer, "add_eos_token"):
        tokenizer.add_eos_token = True
    backend.post_processor = template


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A name of what the tokenizer does: SHA-256 of its vocabulary and of the ids of a few probe
    texts.
    """
    backend = _plain_copy(tokenizer)
    probes = [encoding.ids for encoding in backend.encode_batch(list(_PROBES))]
    content = json.dumps([sorted(backend.get_vocab().items()), probes])
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def _plain_copy(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizer's backend on its own, without truncation and padding."""
    backend: Any = tokenizer.backend_tokenizer
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _specials(backend: Tokenizer) -> tuple[int, int]:
    """How many special tokens stand before and after a text."""
    mask = backend.encode("a").special_tokens_mask
    plain = len(backend.encode("a", add_special_tokens=False).ids)
    before = mask.index(0) if 0 in mask else 0
    return before, len(mask) - before - plain


def _lower_case_first(backend: Tokenizer) -> None:
    existing = backend.normalizer
    backend.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), *([existing] if existing is not None else [])]
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
