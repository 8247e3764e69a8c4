"""Law 5: maxsim equals the double loop over tokens, and the scores of a query's own documents equal
the diagonal blocks of the score matrix.
"""

import pytest
import torch
from twins import alike, value_and_gradient

from trainer.objectives.xtr import with_limits
from trainer.scores import dot, maxsim, own_scores, xtr

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
QUERY_LENGTHS, DOCUMENT_LENGTHS = (3, 1, 4), (2, 6, 1, 5, 3, 2)


def vectors(queries=4, documents=12):
    """One vector per text."""
    return [
        torch.randn(count, 5, dtype=torch.float64, requires_grad=True)
        for count in (queries, documents)
    ]


def token_vectors(dtype=torch.float64):
    """Vectors of texts of different lengths, padded with rows of zeros."""
    texts = []
    for lengths in (QUERY_LENGTHS, DOCUMENT_LENGTHS):
        values = torch.randn(len(lengths), max(lengths), 5, dtype=dtype)
        real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        texts.append((values * real[..., None]).requires_grad_())
    return texts


def double_loop(queries, documents):
    """The formula of maxsim, one token pair at a time, over real tokens alone."""
    return torch.stack(
        [
            torch.stack(
                [
                    sum(
                        max(queries[q, i] @ documents[d, j] for j in range(document_length))
                        for i in range(query_length)
                    )
                    for d, document_length in enumerate(DOCUMENT_LENGTHS)
                ]
            )
            for q, query_length in enumerate(QUERY_LENGTHS)
        ]
    )


def padding_counted(queries, documents):
    """The planted error: a row of zeros is matched like a token."""
    return torch.einsum("qid,kjd->qkij", queries, documents).amax(3).sum(2)


def with_gradients(scores, inputs):
    """The scores and the gradient of one fixed function of them, each as a vector."""
    weights = torch.linspace(-1, 2, scores.numel(), dtype=scores.dtype).view_as(scores)
    return scores.detach(), value_and_gradient((scores * weights).sum(), inputs)


class TestMaxsim:
    @pytest.mark.parametrize("dtype", TOLERANCE)
    def test_maxsim_equals_the_double_loop(self, dtype):
        inputs = token_vectors(dtype)
        scores, gradient = with_gradients(maxsim(*inputs), inputs)
        expected, expected_gradient = with_gradients(double_loop(*inputs), inputs)
        torch.testing.assert_close(scores, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
        assert alike(gradient, expected_gradient, TOLERANCE[dtype])

    def test_counted_padding_is_caught(self):
        inputs = token_vectors()
        lengths = [[int(text.any(-1).sum()) for text in texts] for texts in inputs]
        assert lengths == [list(QUERY_LENGTHS), list(DOCUMENT_LENGTHS)], "there is padding"
        wrong, gradient = with_gradients(padding_counted(*inputs), inputs)
        expected, expected_gradient = with_gradients(double_loop(*inputs), inputs)
        assert (wrong - expected).abs().max() > 0.1
        assert not alike(gradient, expected_gradient, 1e-3)


def slanted(queries, documents):
    """A score that is neither symmetric nor linear."""
    weight = torch.arange(1, queries.shape[-1] + 1, dtype=queries.dtype)
    return torch.einsum("...qd,d,...kd->...qk", queries.tanh(), weight, documents.square())


def limited_token_vectors():
    """Token vectors with the limits that XTR's score reads."""
    return [part.detach().requires_grad_() for part in with_limits(*token_vectors(), top_k=6)]


SCORES = {
    "dot": (dot, vectors),
    "slanted": (slanted, vectors),
    "maxsim": (maxsim, token_vectors),
    "xtr": (xtr, limited_token_vectors),
}


def diagonal_blocks(queries, documents, score):
    """The scores of all queries with all documents, cut to each query's own documents."""
    matrix, candidates = score(queries, documents), len(documents) // len(queries)
    return torch.stack(
        [matrix[row, row * candidates : (row + 1) * candidates] for row in range(len(queries))]
    )


@pytest.mark.parametrize("name", SCORES)
class TestOwnScores:
    def test_own_scores_are_the_diagonal_blocks(self, name):
        score, make = SCORES[name]
        inputs = make()
        scores, gradient = with_gradients(own_scores(*inputs, score), inputs)
        expected, expected_gradient = with_gradients(diagonal_blocks(*inputs, score), inputs)
        assert scores.shape == (len(inputs[0]), len(inputs[1]) // len(inputs[0]))
        torch.testing.assert_close(scores, expected, atol=1e-10, rtol=1e-10)
        assert alike(gradient, expected_gradient, 1e-10)

    def test_one_document_per_query_gives_the_diagonal(self, name):
        score, make = SCORES[name]
        queries, documents = make()
        one_each = documents[: len(queries)]
        torch.testing.assert_close(
            own_scores(queries, one_each, score)[:, 0], score(queries, one_each).diagonal()
        )

    def test_document_major_order_is_caught(self, name):
        score, make = SCORES[name]
        queries, documents = make()
        candidates = len(documents) // len(queries)
        transposed = documents.unflatten(0, (candidates, -1)).transpose(0, 1).flatten(0, 1)
        wrong = own_scores(queries, transposed, score)
        assert (wrong - diagonal_blocks(queries, documents, score)).abs().max() > 0.1
