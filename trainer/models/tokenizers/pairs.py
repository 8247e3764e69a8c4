"""Tokenizers of (query, document) pairs for cross-encoders."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerBase

from trainer.batch import Texts, identity, pair_identity
from trainer.errors import BadModel
from trainer.models.tokenizers.texts import RoleTokenizer, role_tokenizer


@dataclass(frozen=True, slots=True)
class PairTokenizer:
    """Tokenises each distinct text once, and joins pairs: `prefix_ids`, query, `between_ids`,
    document, `suffix_ids`.
    """

    query: RoleTokenizer
    document: RoleTokenizer
    prefix_ids: tuple[int, ...]
    between_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]
    first_part_between: int
    """The number of tokens of `between_ids` that have the token type of the query."""
    max_length_tokens: int
    truncation_side: Literal["left", "right"]

    def tokenize(self, queries: Sequence[str], documents: Sequence[str]) -> Texts:
        """Returns pairs of query i and document i, cut to the maximum length.

        Their identity depends on both texts. A pair has at least one token.
        """
        query_ids, answers = (
            self._ids_by_text(self.query, queries),
            self._ids_by_text(self.document, documents),
        )
        lists, seconds = [], []
        for query, document in zip(queries, documents, strict=True):
            first, second = self._cut(query_ids[query], answers[document])
            seconds.append(len(self.prefix_ids) + len(first) + self.first_part_between)
            lists.append(
                [*self.prefix_ids, *first, *self.between_ids, *second, *self.suffix_ids]
                or [self.query.stand_in_id]
            )
        names = {text: identity(text) for text in {*queries, *documents}}
        identities = [
            pair_identity(names[query], names[document])
            for query, document in zip(queries, documents, strict=True)
        ]
        return replace(
            Texts.of(lists, identities, self.query.pad_token_id), second=torch.tensor(seconds)
        )

    @staticmethod
    def _ids_by_text(tokenizer: RoleTokenizer, texts: Sequence[str]) -> dict[str, list[int]]:
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, tokenizer.ids(distinct), strict=True)) if distinct else {}

    def _cut(self, first: list[int], second: list[int]) -> tuple[list[int], list[int]]:
        """Cuts the longer text until both are equally long, then both ("longest_first")."""
        room = (
            self.max_length_tokens
            - len(self.prefix_ids)
            - len(self.between_ids)
            - len(self.suffix_ids)
        )
        if len(first) + len(second) <= room:
            return first, second
        if len(first) <= len(second):
            shorter_length = min(len(first), room // 2)
            lengths = shorter_length, room - shorter_length
        else:
            shorter_length = min(len(second), room // 2)
            lengths = room - shorter_length, shorter_length
        return self._part(first, lengths[0]), self._part(second, lengths[1])

    def _part(self, ids: list[int], length: int) -> list[int]:
        return ids[:length] if self.truncation_side == "right" else ids[max(0, len(ids) - length) :]


def pair_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    query_prompt: str,
    document_prompt: str,
    query_max_length_tokens: int,
    max_length_tokens: int,
) -> PairTokenizer:
    """Returns a tokenizer of pairs with at most `max_length_tokens`.

    Raises BadModel when the special tokens leave no room for both texts.
    """
    backend: Any = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    pair_encoding = backend.encode("a", "a")
    places = list(pair_encoding.sequence_ids)
    first, second = places.index(0), places.index(1)
    end_of_first = len(places) - places[::-1].index(0)
    end_of_second = len(places) - places[::-1].index(1)
    between_ids = pair_encoding.ids[end_of_first:second]
    specials = first + len(between_ids) + len(places) - end_of_second
    if max_length_tokens < specials + 2:
        raise BadModel(
            f"pairs of at most {max_length_tokens} tokens leave no room beside {specials} special"
            " tokens; allow more"
        )
    plain = _without_special_tokens(tokenizer)
    prompts = (
        (query_prompt, min(query_max_length_tokens, max_length_tokens)),
        (
            document_prompt,
            max_length_tokens,
        ),
    )
    query, document = (role_tokenizer(plain, prompt, length) for prompt, length in prompts)
    return PairTokenizer(
        query=query,
        document=document,
        prefix_ids=tuple(pair_encoding.ids[:first]),
        between_ids=tuple(between_ids),
        suffix_ids=tuple(pair_encoding.ids[end_of_second:]),
        first_part_between=pair_encoding.type_ids[end_of_first:second].count(0),
        max_length_tokens=max_length_tokens,
        truncation_side="left" if tokenizer.truncation_side == "left" else "right",
    )


def _without_special_tokens(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    plain = copy.deepcopy(tokenizer)
    backend: Any = plain.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(
        single="$A", pair="$A $B", special_tokens=[]
    )
    return plain
