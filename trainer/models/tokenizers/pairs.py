"""(Query, document) pairs to token ids, as the tokenizer of a cross-encoder joins them."""

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
    """Tokenises each distinct text once and puts pairs together: `before`, query, `between`,
    document, `after`.
    """

    query: RoleTokenizer
    document: RoleTokenizer
    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    first_between: int
    """How many tokens of `between` belong to the first part of the pair, by the tokenizer's token
    types.
    """
    max_length_tokens: int
    truncation_side: Literal["left", "right"]

    def tokenize(self, queries: Sequence[str], documents: Sequence[str]) -> Texts:
        """Pair i is of query i and document i, cut to the length of a pair; identified by both
        texts, never empty.
        """
        asked, answers = self._each(self.query, queries), self._each(self.document, documents)
        lists, seconds = [], []
        for query, document in zip(queries, documents, strict=True):
            first, second = self._cut(asked[query], answers[document])
            seconds.append(len(self.before) + len(first) + self.first_between)
            lists.append(
                [*self.before, *first, *self.between, *second, *self.after]
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
    def _each(tokenizer: RoleTokenizer, texts: Sequence[str]) -> dict[str, list[int]]:
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, tokenizer.ids(distinct), strict=True)) if distinct else {}

    def _cut(self, first: list[int], second: list[int]) -> tuple[list[int], list[int]]:
        """The longer of the two is cut until both are equally long, then both: as the Hugging Face
        tokenizers do ("longest_first").
        """
        room = self.max_length_tokens - len(self.before) - len(self.between) - len(self.after)
        if len(first) + len(second) <= room:
            return first, second
        if len(first) <= len(second):
            kept = min(len(first), room // 2)
            lengths = kept, room - kept
        else:
            kept = min(len(second), room // 2)
            lengths = room - kept, kept
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
    """What of `tokenizer` makes pairs of at most `max_length_tokens`, frozen. BadModel where the
    special tokens leave no room for both texts.
    """
    backend: Any = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    joined = backend.encode("a", "a")
    places = list(joined.sequence_ids)
    first, second = places.index(0), places.index(1)
    end_of_first = len(places) - places[::-1].index(0)
    end_of_second = len(places) - places[::-1].index(1)
    between = joined.ids[end_of_first:second]
    specials = first + len(between) + len(places) - end_of_second
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
        before=tuple(joined.ids[:first]),
        between=tuple(between),
        after=tuple(joined.ids[end_of_second:]),
        first_between=joined.type_ids[end_of_first:second].count(0),
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
