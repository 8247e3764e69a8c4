"""The parts of a run of kind sparse."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.build.families.family import Learning, shared_settings
from trainer.build.families.vectors import VectorFamily
from trainer.build.students import sample_texts
from trainer.data.rows import Rows
from trainer.errors import BadRecipe
from trainer.models.sparse import (
    QueryTableKind,
    SparseEncoder,
    SparseSettings,
    build_sparse_encoder,
)
from trainer.objectives.regularizers.flops import RegularizedObjective
from trainer.objectives.teachers import Teacher
from trainer.recipe.schema.families import SparseRecipe
from trainer.scores import Score, dot

QUERY_WEIGHT = 0.003
"""The default weight of the FLOPS of queries that the model encodes."""
_MOST_COUNTED = 100_000
"""Documents in which words are counted: enough for the rarity of all but the rarest words."""
_COUNTED_AT_ONCE = 1024


class Sparse(VectorFamily[SparseRecipe, SparseEncoder]):
    """Builds runs of models with one weight per word of the vocabulary (SPLADE)."""

    def build_model(self, run: SparseRecipe) -> SparseEncoder:
        """Builds a masked language model whose head gives a maximum per text and word, and a table
        for queries if requested.
        """
        settings = SparseSettings(**shared_settings(run.model), layers=run.model.layers)
        if (table := run.model.query_table) is not None:
            kind: QueryTableKind = "trained" if table.learn_weights else "frozen"
            settings = replace(settings, query_table=kind)
        return build_sparse_encoder(settings)

    def start(self, run: SparseRecipe, encoder: SparseEncoder, rows: Rows) -> None:
        """Sets the weights of a new table for queries to the rarity of words, if requested."""
        super().start(run, encoder, rows)
        section, table = run.model.query_table, encoder.query_table
        if section is None or section.start == "ones" or table is None or not table.is_new:
            return
        rarity = inverse_document_frequency(encoder, sample_texts(rows, "document", _MOST_COUNTED))
        table.weight.data.copy_(table.weight.data * rarity)

    def check(self, run: SparseRecipe, encoder: SparseEncoder) -> None:
        """Raises BadRecipe when the recipe regularises queries that a table encodes."""
        super().check(run, encoder)
        if encoder.query_table is not None and run.regularizer.query_weight:
            raise BadRecipe(
                f"regularizer.query_weight={run.regularizer.query_weight:g}, but a table encodes"
                " the queries, so their terms are their words, and there is nothing to regularise;"
                " leave it out"
            )

    def score(self, run: SparseRecipe) -> Score:
        """Returns the dot product."""
        return dot

    def learning(
        self,
        run: SparseRecipe,
        encoder: SparseEncoder,
        teachers: Sequence[Teacher],
        steps: int,
    ) -> Learning:
        """Returns the objective with the lesson of the teachers and the regulariser."""
        learning = super().learning(run, encoder, teachers, steps)
        settings = run.regularizer
        query_weight = settings.query_weight
        if query_weight is None:
            query_weight = QUERY_WEIGHT if encoder.query_table is None else 0.0
        objective = RegularizedObjective(
            learning.objective,
            query_weight,
            settings.document_weight,
            round(settings.warmup_ratio * steps),
            settings.free_terms,
        )
        return replace(
            learning,
            objective=objective,
            is_head=is_query_table,
            check=partial(objective.check, vocabulary=encoder.dimensions),
        )


def is_query_table(name: str) -> bool:
    """Returns True for the weights of the table, which have the learning rate of the head."""
    return name.startswith("query_table.")


def inverse_document_frequency(
    encoder: SparseEncoder, documents: Sequence[str]
) -> Float[Tensor, " word"]:
    """Returns idf(n) / idf(0) for each word of the vocabulary, which n of the N documents contain,
    with idf(n) = log(1 + (N - n + 1/2) / (n + 1/2)), the weight of a word in BM25 as Lucene has it.

    It is between 0 and 1 for any N, so that scores have a similar scale for any data.
    """
    counts = torch.zeros(encoder.dimensions)
    for start in range(0, len(documents), _COUNTED_AT_ONCE):
        texts = encoder.tokenize(documents[start : start + _COUNTED_AT_ONCE], "document")
        rows = torch.arange(len(texts)).repeat_interleave(texts.lengths)
        terms = torch.stack([rows, texts.tokens]).unique(dim=1)[1]
        counts += torch.bincount(terms, minlength=encoder.dimensions)
    frequencies = torch.log1p((len(documents) - counts + 0.5) / (counts + 0.5))
    return frequencies / math.log1p((len(documents) + 0.5) / 0.5)
