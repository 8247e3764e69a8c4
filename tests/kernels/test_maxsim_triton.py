"""MaxSim's Triton kernels against the plain form, in Triton's interpreter, which runs them with
NumPy on the CPU. The kernels are also compiled for NVIDIA GPUs, but they do not run on one here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from twins import alike, value_and_gradient

pytest.importorskip(
    "triton", "3.7", reason="needs Triton 3.7 or newer; older ones cannot interpret"
)

from trainer.kernels import maxsim_triton
from trainer.kernels.maxsim_triton import flat_maxsim, is_right_on, triton_maxsim
from trainer.scores import plain_maxsim

on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU, test_scores.py runs them")

SHAPES = {
    "a batch": ((1, 9, 5), (1, 14, 7), 6),
    "documents of more than 255 tokens": ((1, 2, 3), (1, 3, 300), 6),
    "queries of more than 64 tokens": ((1, 3, 100), (1, 2, 40), 6),
    "own candidates": ((5, 1, 4), (5, 3, 6), 6),
    "one of each": ((1, 1, 1), (1, 1, 1), 6),
    "vectors that are longer than a tile": ((1, 3, 4), (1, 2, 5), 70),
    "vectors that are too long to be unrolled": ((1, 2, 2), (1, 2, 3), 200),
}


def token_vectors(groups, texts, longest, dimensions):
    """Texts of 1 to `longest` tokens, with rows of zeros in the middle too."""
    values = torch.randn(groups, texts, longest, dimensions)
    lengths = torch.randint(1, longest + 1, (groups, texts, 1))
    is_token = (torch.arange(longest) < lengths) & (torch.rand(groups, texts, longest) > 0.2)
    is_token[..., 0] = True
    return (values * is_token[..., None]).requires_grad_()


def inputs_of(shape):
    queries, documents, dimensions = SHAPES[shape]
    return [token_vectors(*queries, dimensions), token_vectors(*documents, dimensions)]


def gradients_agree(inputs, weights, tolerance):
    real = inputs[0].detach().any(-1, keepdim=True)  # the plain form lets padding have a gradient
    wanted, found = (
        value_and_gradient((form(inputs[0] * real, inputs[1]) * weights).sum(), inputs)
        for form in (plain_maxsim, triton_maxsim)
    )
    return alike(found, wanted, tolerance)


@on_cpu
class TestInterpreted:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_value_and_gradient_are_those_of_the_plain_form(self, shape):
        inputs = inputs_of(shape)
        wanted = plain_maxsim(*inputs)
        torch.testing.assert_close(triton_maxsim(*inputs), wanted, atol=1e-5, rtol=1e-5)
        assert gradients_agree(inputs, torch.randn(wanted.shape), 1e-5)
        without_gradient = triton_maxsim(*(part.detach() for part in inputs))
        torch.testing.assert_close(without_gradient, wanted.detach(), atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_multiplied_exactly_and_summed_in_float32(self, dtype):
        inputs = [part.detach().to(dtype).requires_grad_() for part in inputs_of("a batch")]
        scores = triton_maxsim(*inputs)
        assert scores.dtype == torch.float32
        torch.testing.assert_close(scores, plain_maxsim(*inputs), atol=1e-5, rtol=1e-5)
        scores.square().sum().backward()
        assert inputs[0].grad.dtype == inputs[1].grad.dtype == dtype
        assert gradients_agree(inputs, torch.randn(scores.shape), 1e-2)

    def test_gradient_of_documents_has_the_precision_of_float32(self):
        """It is a product in bfloat16, of a number that is split into three."""
        query = torch.tensor([[[[1.0 + 2.0**-20, 3.0 - 2.0**-21]]]])
        document = torch.ones(1, 1, 1, 2, requires_grad=True)
        triton_maxsim(query, document).sum().backward()
        assert document.grad.flatten().tolist() == query.flatten().tolist()

    def test_padding_is_no_token(self):
        """All products are negative: a zero that counted would be the best match."""
        queries, documents = (part.detach().abs() for part in inputs_of("a batch"))
        scores = triton_maxsim(queries, -documents)
        assert (scores < -1e-3).all()
        longer = torch.nn.functional.pad(-documents, (0, 0, 0, 40))
        torch.testing.assert_close(triton_maxsim(queries, longer), scores)
        longer = torch.nn.functional.pad(queries, (0, 0, 0, 3))
        torch.testing.assert_close(triton_maxsim(longer, -documents), scores)

    def test_texts_without_tokens_score_as_in_the_plain_form_and_have_no_gradient(self):
        queries, documents = (part.detach() for part in inputs_of("a batch"))
        queries[0, 1], documents[0, 2] = 0, 0
        queries.requires_grad_(), documents.requires_grad_()
        scores = triton_maxsim(queries, documents)
        torch.testing.assert_close(scores, plain_maxsim(queries, documents), atol=1e-5, rtol=1e-5)
        assert torch.isneginf(scores[0, 0, 2])
        scores.masked_fill(torch.isneginf(scores), 0.0).sum().backward()
        assert not queries.grad[0, 1].any()
        assert not documents.grad[0, 2].any()
        assert documents.grad[0, 1].any()

    def test_first_of_equal_tokens_gets_the_gradient(self):
        query = torch.tensor([[[[1.0, 0.0]]]])
        document = torch.tensor([[[[1.0, 0.0], [2.0, 0.0], *[[2.0, 0.0]] * 50]]])
        document.requires_grad_()
        triton_maxsim(query, document).sum().backward()
        assert document.grad[0, 0, :3].tolist() == [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
        assert document.grad.sum() == 1

    @pytest.mark.parametrize("side", [0, 1])
    def test_nan_in_a_vector_is_not_hidden(self, side):
        inputs = [part.detach() for part in inputs_of("a batch")]
        inputs[side][0, 3, 0, 0] = torch.nan
        is_nan = triton_maxsim(*inputs).isnan()[0]
        assert is_nan.select(side, 3).all()
        assert is_nan.sum() == is_nan.select(side, 3).numel()

    def test_nothing_is_read_by_the_host(self):
        with _NoRead():
            triton_maxsim(*inputs_of("a batch")).sum().backward()

    def test_one_small_integer_is_stored_per_query_token_and_document(self):
        queries, documents = inputs_of("a batch")
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.nbytes) or tensor, lambda tensor: tensor
        ):
            triton_maxsim(queries, documents)
        lengths = 14 * 8
        assert sum(sizes) == queries.nbytes + documents.nbytes + 9 * 5 * 14 + lengths

    def test_flat_form_is_that_of_padded_documents(self):
        lengths = [3, 0, 40, 1]
        offsets = torch.tensor([0, *np.cumsum(lengths)])
        rows, queries = torch.randn(44, 6), token_vectors(1, 5, 4, 6).detach()[0]
        padded = torch.nn.utils.rnn.pad_sequence(list(rows.split(lengths)), batch_first=True)
        found = flat_maxsim(queries, rows, offsets)
        torch.testing.assert_close(found, plain_maxsim(queries, padded), atol=1e-5, rtol=1e-5)
        part = flat_maxsim(queries, rows, offsets[2:])
        torch.testing.assert_close(part, found[:, 2:])


@on_cpu
class TestChecked:
    """The trial that decides whether a GPU uses the kernels."""

    @pytest.fixture(autouse=True)
    def without_former_results(self):
        is_right_on.cache_clear()
        yield
        is_right_on.cache_clear()

    @pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
    def test_right_kernels_are_used(self, mode):
        with mode():
            assert is_right_on(torch.device("cpu"))

    @pytest.mark.parametrize("error", [4e-5, torch.nan])
    @pytest.mark.parametrize("part", ["scores", "gradient"])
    def test_wrong_kernels_are_not_used(self, monkeypatch, part, error):
        """TF32 alone has errors of 4e-5."""

        def wrong(queries, documents):
            if part == "scores":
                return triton_maxsim(queries, documents) * (1 + error)
            queries.register_hook(lambda gradient: gradient * (1 + error))
            return triton_maxsim(queries, documents)

        monkeypatch.setattr(maxsim_triton, "triton_maxsim", wrong)
        with pytest.warns(UserWarning, match=r"in pieces, .* fail on cpu \(relative errors"):
            assert not is_right_on(torch.device("cpu"))

    def test_kernels_that_cannot_be_compiled_are_not_used(self, monkeypatch):
        def compile_without_compiler(queries, documents):
            raise RuntimeError("Failed to find C compiler")

        monkeypatch.setattr(maxsim_triton, "triton_maxsim", compile_without_compiler)
        with pytest.warns(UserWarning, match="Failed to find C compiler"):
            assert not is_right_on(torch.device("cpu"))


class _NoRead(TorchDispatchMode):
    """Refuses operations for whose result the host would wait."""

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = str(function)
        assert "_local_scalar_dense" not in name, name
        assert "nonzero" not in name, name
        return function(*arguments, **keywords or {})


SHARED_MEMORY = {80: 99 * 2**10, 90: 227 * 2**10 // 2}
"""Bytes per program: all that the smallest GPUs since 2020 have, and half of an H100's, so that two
programs share a processor.
"""


def test_kernels_compile_for_nvidia_gpus_and_fit(tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    del environment["TRITON_INTERPRET"]
    script = Path(__file__).with_name("compiled_maxsim.py")
    process = subprocess.run(
        [sys.executable, script, *map(str, SHARED_MEMORY)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    compiled = [json.loads(line) for line in process.stdout.splitlines()]
    assert len(compiled) == 8
    for kernel in compiled:
        assert kernel["shared_memory"] <= SHARED_MEMORY[kernel["architecture"]], kernel
