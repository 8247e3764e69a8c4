"""Tokenizers of late interaction: a marker per role, and queries expanded with mask tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedTokenizerBase

from trainer.batch import Texts
from trainer.errors import BadModel
from trainer.models.contracts.late_interaction import LateInteractionContract
from trainer.models.contracts.text import Role
from trainer.models.tokenizers.texts import RoleTokenizer, leading_special_tokens, role_tokenizer


@dataclass(frozen=True, slots=True)
class MarkedTokenizer(RoleTokenizer):
    """Puts the marker after the first special tokens; expands every text to `width` with
    `filling_id`.
    """

    role: Role
    marker_id: int | None
    marker_place: int
    width: int | None
    filling_id: int

    def tokenize(self, texts: Sequence[str]) -> Texts:
        """Returns the tokens of marker, prompt and text, cut to the maximum length of the role."""
        role_texts = replace(RoleTokenizer.tokenize(self, texts), role=self.role)
        if self.marker_id is not None:
            role_texts = _with_marker(role_texts, self.marker_id, self.marker_place)
        return (
            role_texts
            if self.width is None
            else _filled_up(role_texts, self.width, self.filling_id)
        )


def marked_tokenizer(
    tokenizer: PreTrainedTokenizerBase, contract: LateInteractionContract, role: Role
) -> MarkedTokenizer:
    """Returns the tokenizer of one role. Raises BadModel for a marker that is not a token."""
    marker = contract.marker(role)
    marker_id = token_id(tokenizer, marker) if marker else None
    if marker and marker_id is None:
        raise BadModel(
            f"the {role} marker {marker!r} is no token of {type(tokenizer).__name__}; name one of"
            f" its vocabulary in model.late_interaction.{role}_marker, or '' for none and a text"
            f" before every {role} in model.{role}_prompt"
        )
    length = contract.max_length_tokens(role)
    plain = role_tokenizer(
        tokenizer, contract.prompt(role), length, markers=int(marker_id is not None)
    )
    return MarkedTokenizer(
        backend=plain.backend,
        prompt=plain.prompt,
        prompt_tokens=plain.prompt_tokens,
        max_length_tokens=plain.max_length_tokens,
        pad_token_id=plain.pad_token_id,
        stand_in_id=plain.stand_in_id,
        role=role,
        marker_id=marker_id,
        marker_place=leading_special_tokens(tokenizer),
        width=length if role == "query" and contract.query_expansion else None,
        filling_id=filling_id(tokenizer),
    )


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    """Returns the id of a token, also without a space after it as in PyLate's files, or None."""
    backend = (
        tokenizer.backend_tokenizer
    )  # whose whole vocabulary takes 0.2 s to list, of 250 000 tokens
    id_as_written = backend.token_to_id(token)
    return backend.token_to_id(token.strip()) if id_as_written is None else id_as_written


def filling_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the id that expands queries: the mask token, else padding."""
    return tokenizer.pad_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id


def _with_marker(texts: Texts, marker: int, place: int) -> Texts:
    """Puts `marker` after the first `place` tokens of every text, or after all of a shorter one."""
    count = torch.arange(len(texts) + 1)
    at = texts.offsets[:-1] + texts.lengths.clamp(max=place) + count[:-1]
    old = torch.ones(len(texts.tokens) + len(texts), dtype=torch.bool)
    old[at] = False
    tokens = texts.tokens.new_full(old.shape, marker)
    tokens[old] = texts.tokens
    return replace(texts, tokens=tokens, offsets=texts.offsets + count)


def _filled_up(texts: Texts, width: int, filling: int) -> Texts:
    ids, real = texts.pad()
    full = ids.new_full((len(texts), width), filling)
    full[:, : ids.shape[1]][real] = texts.tokens
    return replace(texts, tokens=full.flatten(), offsets=torch.arange(len(texts) + 1) * width)
