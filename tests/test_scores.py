"""Scores against loops; law 2 as far as one process goes. Law 5 is in
tests/laws/test_law_05_scores.py.
"""

import pytest
import torch
from twins import alike, excluding, value_and_gradient

from trainer.kernels import maxsim as pieces
from trainer.log_partition import log_partition
from trainer.objectives.xtr import with_limits
from trainer.scores import dot, has_kernel, maxsim, plain_maxsim, xtr

DTYPES = [torch.float64, torch.float32]


def embeddings(dtype=torch.float64, queries=4, documents=12, dimensions=5):
    return (
        torch.randn(queries, dimensions, dtype=dtype, requires_grad=True),
        torch.randn(documents, dimensions, dtype=dtype, requires_grad=True),
    )


def slanted(queries, documents):
    """A score that is not symmetric and not linear: what holds for it holds for more than the dot
    product.
    """
    weight = torch.arange(1, queries.shape[-1] + 1, dtype=queries.dtype)
    return torch.einsum("...qd,d,...kd->...qk", queries.tanh(), weight, documents.square())


class TestDot:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_dot_equals_the_double_loop(self, dtype):
        queries, documents = embeddings(dtype)
        wanted = torch.stack(
            [
                torch.stack(
                    [
                        sum(a * b for a, b in zip(query, document, strict=True))
                        for document in documents
                    ]
                )
                for query in queries
            ]
        )
        weights = torch.randn(4, 12, dtype=dtype)
        found = dot(queries, documents)
        assert found.dtype == dtype
        tolerance = {torch.float64: 1e-10, torch.float32: 1e-5}[dtype]
        torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)
        both = [
            value_and_gradient((scores * weights).sum(), (queries, documents))
            for scores in (found, wanted)
        ]
        assert alike(*both, tolerance)

    def test_leading_axes_broadcast(self):
        queries, documents = torch.randn(3, 1, 2, 5), torch.randn(4, 6, 5)
        found = dot(queries, documents)
        assert found.shape == (3, 4, 2, 6)
        torch.testing.assert_close(found[2, 3], dot(queries[2, 0], documents[3]))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_summed_in_float32(self, dtype):
        queries, documents = (
            torch.full((1, 4096), 0.1, dtype=dtype),
            torch.full((1, 4096), 0.1, dtype=dtype),
        )
        found = dot(queries, documents)
        assert found.dtype == torch.float32
        torch.testing.assert_close(
            found.item(), 4096 * float(queries[0, 0]) ** 2, rtol=1e-5, atol=0
        )

    def test_autocast_does_not_lower_the_precision(self):
        queries, documents = torch.rand(3, 64), torch.rand(5, 64)
        with torch.autocast("cpu", torch.bfloat16):
            assert (queries @ documents.T).dtype == torch.bfloat16  # autocast is on
            found = dot(queries, documents)
        assert torch.equal(found, dot(queries, documents))

    def test_gradients_reach_half_precision_embeddings_in_their_own_type(self):
        queries = torch.rand(2, 4, dtype=torch.bfloat16, requires_grad=True)
        dot(queries, torch.rand(3, 4, dtype=torch.bfloat16)).sum().backward()
        assert queries.grad.dtype == torch.bfloat16
        assert queries.grad.abs().sum() > 0


@pytest.mark.parametrize("score", [dot, slanted])
@pytest.mark.parametrize("parts", [2, 4])
def test_law_2_divided_queries_have_the_partition_of_all(score, parts):
    """Each part of the queries against all documents, and each part of the documents with its share
    of the sum, give the whole.
    """
    queries, documents = embeddings()
    excluded = torch.rand(4, 12) < 0.3
    excluded[:, 0] = False
    whole = log_partition(queries, documents, score, 0.7, excluding(excluded)).queries
    by_queries = torch.cat(
        [
            log_partition(*part, 0.7, excluding(mask)).queries
            for part, mask in zip(
                _shared_queries(queries, documents, score, parts),
                excluded.chunk(parts),
                strict=True,
            )
        ]
    )
    shares = [
        log_partition(queries, some, score, 0.7, excluding(mask)).queries
        for some, mask in zip(documents.chunk(parts), excluded.chunk(parts, dim=1), strict=True)
    ]
    by_documents = torch.stack(shares).logsumexp(0)
    weights = torch.randn(4, dtype=torch.float64)
    wanted, *found = (
        value_and_gradient((each * weights).sum(), (queries, documents))
        for each in (whole, by_queries, by_documents)
    )
    assert all(alike(each, wanted, 1e-10) for each in found)
    detached = log_partition(queries, documents.detach(), score, 0.7, excluding(excluded)).queries
    assert not alike(
        value_and_gradient((detached * weights).sum(), (queries, documents)), wanted, 1e-10
    )


def _shared_queries(queries, documents, score, parts):
    return [(part, documents, score) for part in queries.chunk(parts)]


def token_vectors(*lengths, dtype=torch.float64):
    """Texts of so many tokens, filled up with rows of zeros to the longest."""
    values = torch.randn(len(lengths), max(lengths), 5, dtype=dtype)
    return (
        values * (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])[..., None]
    ).requires_grad_()


class TestMaxsim:
    def test_padding_is_no_token(self):
        """All similarities are negative, so a zero that counted would be the best match."""
        queries, documents = token_vectors(2, 2).abs(), -token_vectors(3, 1).abs()
        longer = torch.nn.functional.pad(documents, (0, 0, 0, 4))
        assert (maxsim(queries, documents) < -1e-3).all()
        torch.testing.assert_close(maxsim(queries, longer), maxsim(queries, documents))
        torch.testing.assert_close(
            maxsim(torch.nn.functional.pad(queries, (0, 0, 0, 2)), documents),
            maxsim(queries, documents),
        )

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_maxsim_is_summed_in_float32(self, dtype):
        assert (
            maxsim(token_vectors(2, dtype=dtype), token_vectors(3, dtype=dtype)).dtype
            == torch.float32
        )


def ragged(leading, count, longest, dimensions=6, dtype=torch.float64):
    """Token vectors of texts of 1 to `longest` tokens, some in the middle missing too."""
    values = torch.randn(*leading, count, longest, dimensions, dtype=dtype)
    lengths = torch.randint(1, longest + 1, (*leading, count, 1))
    there = (torch.arange(longest) < lengths) & (torch.rand(*leading, count, longest) > 0.2)
    there[..., 0] = True
    return (values * there[..., None]).requires_grad_()


CASES = {
    "a batch": (((), 9, 5), ((), 14, 7)),
    "documents of more than 255 tokens": (((), 2, 3), ((), 3, 300)),
    "own candidates": (((5,), 1, 4), ((5,), 3, 6)),
    "leading axes that broadcast": (((2, 1), 2, 4), ((3,), 5, 6)),
    "one of each": (((), 1, 1), ((), 1, 1)),
}


class TestMaxsimInPieces:
    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("room", [1, 64, 2**20])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_tiled_maxsim_equals_the_plain_form_in_value_and_gradient(
        self, monkeypatch, case, room, dtype
    ):
        monkeypatch.setitem(pieces.TILE_PRODUCTS, "cpu", room)
        monkeypatch.setattr(pieces, "_TILE_POSITIONS", max(room, 8))
        inputs = [ragged(*shape, dtype=dtype) for shape in CASES[case]]
        weights = torch.randn(plain_maxsim(*inputs).shape, dtype=dtype)
        # A query's rows of zeros are padding: the plain form sends a gradient of rounding's making
        # there, the other none; nobody reads it.
        real = inputs[0].detach().any(-1, keepdim=True)
        wanted, found = (
            value_and_gradient((form(inputs[0] * real, inputs[1]) * weights).sum(), inputs)
            for form in (plain_maxsim, maxsim)
        )
        assert alike(found, wanted, 1e-10 if dtype == torch.float64 else 1e-5)
        scores = maxsim(*inputs)
        torch.testing.assert_close(scores, plain_maxsim(*inputs), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(maxsim(*(part.detach() for part in inputs)), scores.detach())

    @pytest.mark.parametrize("threads", [1, 4])
    def test_tiled_maxsim_is_right_with_any_number_of_threads(self, threads):
        inputs = [ragged((), 6, 5), ragged((), 8, 7)]
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            wanted, found = (
                value_and_gradient(form(*inputs).square().sum(), inputs)
                for form in (plain_maxsim, maxsim)
            )
        finally:
            torch.set_num_threads(before)
        assert alike(found, wanted, 1e-10)

    def test_only_one_of_equal_tokens_gets_the_gradient(self):
        query = torch.tensor([[[1.0, 0.0]]])
        document = torch.tensor([[[2.0, 0.0], [2.0, 0.0]]], requires_grad=True)
        maxsim(query, document).sum().backward()
        assert document.grad.tolist() == [[[1.0, 0.0], [0.0, 0.0]]]

    def test_document_without_tokens_scores_minus_infinity_and_such_a_query_zero(self):
        queries, documents = ragged((), 2, 3).detach(), ragged((), 3, 4).detach()
        queries[1], documents[2] = 0, 0
        found = maxsim(queries, documents)
        assert torch.isneginf(found[0]).tolist() == [False, False, True]
        assert found[1].tolist() == [0.0, 0.0, 0.0]

    def test_backward_pass_stores_one_small_integer_per_query_token_and_document(self):
        queries, documents = (
            torch.randn(count, length, 16, requires_grad=True)
            for count, length in ((32, 8), (32, 64))
        )

        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.nbytes) or tensor, lambda tensor: tensor
        ):
            maxsim(queries, documents)
        places = 32 * 8 * 32
        assert places <= sum(sizes) - queries.nbytes - documents.nbytes <= 1.1 * places


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("case", CASES)
def test_kernel_on_a_gpu_equals_the_plain_form(case):
    assert has_kernel(torch.device("cuda"))
    inputs = [
        ragged(*shape, dimensions=16, dtype=torch.float32).detach().cuda().requires_grad_()
        for shape in CASES[case]
    ]
    wanted, found = (
        value_and_gradient(form(*inputs).square().sum(), inputs) for form in (plain_maxsim, maxsim)
    )
    assert alike(found, wanted, 1e-5)


class TestXtr:
    """Against the score matrix written out token by token, and sentence-transformers' own."""

    def plain(self, queries, documents, top_k):
        similarities = torch.einsum("qid,kjd->qikj", queries, documents)
        there = documents.any(-1)
        similarities = similarities.masked_fill(~there[None, None], -torch.inf)
        limit = similarities.flatten(2).topk(min(top_k, int(there.sum())), dim=2).values[..., -1:]
        best = similarities.amax(-1)
        counts = (best >= limit) & queries.any(-1)[..., None]
        return best.masked_fill(~counts, 0.0).sum(1) / counts.sum(1).clamp(min=1)

    @pytest.mark.parametrize("top_k", [1, 7, 30, 1000])
    @pytest.mark.parametrize("room", [1, 2**20])
    def test_xtr_equals_the_formula_in_value_and_gradient(self, monkeypatch, top_k, room):
        monkeypatch.setitem(pieces.TILE_PRODUCTS, "cpu", room)
        inputs = [ragged((), 5, 4), ragged((), 9, 7)]
        weights = torch.randn(5, 9, dtype=torch.float64)
        scores = [xtr(*with_limits(*inputs, top_k)), self.plain(*inputs, top_k)]
        torch.testing.assert_close(*scores, atol=1e-10, rtol=1e-10)
        wanted, found = (value_and_gradient((each * weights).sum(), inputs) for each in scores)
        assert alike(found, wanted, 1e-10)
        if top_k < 30:
            assert (scores[0] == 0).any(), "some document has nothing that is retrieved"

    @pytest.mark.parametrize("top_k", [5, 40])
    def test_xtr_equals_sentence_transformers(self, top_k):
        from sentence_transformers.multi_vector_encoder.scoring.xtr import xtr_scores

        queries, documents = (
            ragged((), 6, 4, dtype=torch.float32).detach(),
            ragged((), 12, 7, dtype=torch.float32).detach(),
        )
        wanted = xtr_scores(queries, documents.unflatten(0, (6, 2)), top_k=top_k)
        torch.testing.assert_close(
            xtr(*with_limits(queries, documents, top_k)), wanted, atol=1e-5, rtol=1e-5
        )

    def test_xtr_time_is_linear_in_the_length_of_the_query(self):
        queries, documents = with_limits(ragged((), 4, 3).detach(), ragged((), 8, 5).detach(), 6)
        torch.testing.assert_close(xtr(queries / 0.3, documents), xtr(queries, documents) / 0.3)

    def test_document_without_tokens_scores_minus_infinity(self):
        queries, documents = ragged((), 2, 3).detach(), ragged((), 3, 4).detach()
        documents[1] = 0
        assert (
            torch.isneginf(xtr(*with_limits(queries, documents, 1000))).tolist()
            == [[False, True, False]] * 2
        )
