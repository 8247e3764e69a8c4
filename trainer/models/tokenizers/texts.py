"""Tokenizers of texts, which are the same in training and in use.

Each role has its own frozen copy with its own truncation, so any thread may tokenise while another
computes.
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
from trainer.errors import BadModel, BadText
from trainer.models.files.vetting import inside, read_json, without_code
from trainer.models.tokenizers.length import check_length
from trainer.models.tokenizers.regexes import check_regexes, is_panic, panics
from trainer.storage.visible import visible

FIRST_CHARACTERS_PER_TOKEN = 64
MOST_CHARACTERS = 1_000_000
"""The number of characters after which a text is cut, even if it has fewer tokens than allowed."""
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
    """Tokenises the texts of one role, with its prompt and maximum length."""

    backend: Tokenizer
    prompt: str
    prompt_tokens: int
    max_length_tokens: int
    pad_token_id: int
    stand_in_id: int

    def tokenize(self, texts: Sequence[str]) -> Texts:
        """Returns the tokens of `prompt + text` with special tokens; never none."""
        lists = [ids or [self.stand_in_id] for ids in self.ids(texts)]
        return Texts.of(
            lists, [identity(text) for text in texts], self.pad_token_id, self.prompt_tokens
        )

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of `prompt + text`, cut to the maximum length; may be empty.

        Raises BadText if the tokenizer fails at a text.
        """
        try:
            return self._ids([self.prompt + text for text in texts])
        except BaseException as error:
            if not is_panic(error):
                raise
            text = next(text for text in texts if panics(self._ids, [self.prompt + text]))
            raise BadText(
                f"the tokenizer fails at the text {visible(text, 80)!r}"
                f" ({_first_line(error)}); correct or remove the text, or take another model",
                text,
            ) from None

    def _ids(self, texts: list[str]) -> list[list[int]]:
        limit = max(4096, self.max_length_tokens * FIRST_CHARACTERS_PER_TOKEN)
        short = [text if len(text) <= limit else "" for text in texts]
        try:
            id_lists = [encoding.ids for encoding in self.backend.encode_batch_fast(short)]
        except (
            TypeError,
            UnicodeEncodeError,
        ):  # a lone surrogate: half a character, which UTF-8 has no form for
            return self._ids([text.encode("utf-8", "replace").decode() for text in texts])
        return [
            ids if len(text) <= limit else self._start_of(text, limit)
            for text, ids in zip(texts, id_lists, strict=True)
        ]

    def _start_of(self, text: str, limit: int) -> list[int]:
        """Returns the ids of a very long text, which is read only as far as necessary.

        The text is cut well after the last token that is used.
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
    """Returns the tokenizer of one role, which leaves room for `markers` markers.

    Raises BadModel when there is no room for a text.
    """
    plain = _plain_copy(tokenizer)
    specials, prompt_count = (
        len(plain.encode("").ids),
        (len(plain.encode(prompt, add_special_tokens=False).ids) if prompt else 0),
    )
    if max_length_tokens <= specials + prompt_count + markers:
        parts = [
            f"{specials} special tokens",
            *["1 marker"] * markers,
            *([f"a prompt of {prompt_count}"] if prompt_count else []),
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
        backend, prompt, prompt_count, max_length_tokens, tokenizer.pad_token_id, stand_in
    )


def leading_special_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the number of special tokens before a text."""
    return _specials(_plain_copy(tokenizer))[0]


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Returns the ids of the special tokens before and after a text."""
    backend = _plain_copy(tokenizer)
    leading_count, trailing_count = _specials(backend)
    ids = backend.encode("a").ids
    return ids[:leading_count], ids[len(ids) - trailing_count :]


def read_tokenizer(
    folder: Path, config: PretrainedConfig, lower_case: bool = False
) -> PreTrainedTokenizerBase:
    """Reads the tokenizer in `folder`.

    Raises BadModel when there is none, or none that works without foreign code.
    """
    check_regexes(folder)
    with TemporaryDirectory() as staging_folder:
        if not _stage(folder, Path(staging_folder)):
            raise BadModel(
                f"{folder} has no tokenizer: no tokenizer.json and no vocabulary; copy them from"
                " the model it was made from"
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                staging_folder, config=config, local_files_only=True, trust_remote_code=False
            )
            _plain_copy(tokenizer).encode_batch(list(_PROBES))
        except BaseException as error:
            if not (isinstance(error, Exception) or is_panic(error)):
                raise
            raise BadModel(
                f"{folder} has no tokenizer that can be read ({_first_line(error)}); it needs"
                " tokenizer.json"
            ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise BadModel(
            f"{folder} has only a slow tokenizer ({type(tokenizer).__name__}); it needs"
            " tokenizer.json"
        )
    check_length(tokenizer, folder)
    tokenizer.name_or_path = ""
    give_pad_token(tokenizer)
    if lower_case:
        _lower_case_first(tokenizer.backend_tokenizer)
    return tokenizer


def _stage(folder: Path, staging_folder: Path) -> bool:
    """Links the tokenizer's files into an empty folder; returns true when there is a vocabulary.

    The new tokenizer_config.json names neither code nor other files. Without a vocabulary,
    transformers would invent an empty tokenizer.
    """
    names = [path.name for path in folder.glob("*") if path.is_file()]
    for name in filter(_TOKENIZER_FILE.fullmatch, names):
        (staging_folder / name).symlink_to(inside(folder, name).resolve())
    if (folder / "tokenizer_config.json").exists():
        settings = without_code(read_json(folder, "tokenizer_config.json"))
        safe_settings = {
            key: value
            for key, value in settings.items()
            if not key.endswith(("_file", "_path", "files"))
        }
        (staging_folder / "tokenizer_config.json").write_text(
            json.dumps(safe_settings), encoding="utf-8"
        )
    return any(map(_VOCABULARY.fullmatch, names))


def check_matches(tokenizer: PreTrainedTokenizerBase, rows: int, folder: Path) -> None:
    """Raises BadModel when the tokenizer gives ids for which the model has no embedding."""
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= rows:
        raise BadModel(
            f"{folder}: the tokenizer knows {largest + 1} tokens, the model has embeddings for"
            f" {rows}; they do not belong together: take both from the same model"
        )


def give_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Sets a missing pad token to the end-of-text token. Padding is masked, so any token works."""
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise BadModel(
                "the tokenizer has neither a pad nor an end-of-text token; set `pad_token` in its"
                " tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token


def append_end_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Makes the tokenizer append its end-of-text token to every text, if it has one.

    Models with last-token pooling are trained so: the last token has seen the whole text.
    """
    eos, backend = tokenizer.eos_token_id, tokenizer.backend_tokenizer
    leading_count, trailing_count = _specials(_plain_copy(tokenizer))
    if eos is None:
        return
    ids = _plain_copy(tokenizer).encode("a").ids
    if trailing_count and ids[-1] == eos:
        return
    around = [
        str(tokenizer.convert_ids_to_tokens(token))
        for token in [*ids[:leading_count], *ids[len(ids) - trailing_count :], eos]
    ]
    pieces = [*around[:leading_count], "$A", *around[leading_count:]]
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
    """Returns the SHA-256 of the vocabulary and of the ids of a few texts."""
    backend = _plain_copy(tokenizer)
    probes = [encoding.ids for encoding in backend.encode_batch(list(_PROBES))]
    content = json.dumps([sorted(backend.get_vocab().items()), probes])
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def _plain_copy(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Returns a copy of the tokenizer's backend, without truncation and padding."""
    backend: Any = tokenizer.backend_tokenizer
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _specials(backend: Tokenizer) -> tuple[int, int]:
    """Returns the numbers of special tokens before and after a text."""
    mask = backend.encode("a").special_tokens_mask
    plain = len(backend.encode("a", add_special_tokens=False).ids)
    leading_count = mask.index(0) if 0 in mask else 0
    return leading_count, len(mask) - leading_count - plain


def _lower_case_first(backend: Tokenizer) -> None:
    existing = backend.normalizer
    backend.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), *([existing] if existing is not None else [])]
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
