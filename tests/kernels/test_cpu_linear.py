"""oneDNN products against `nn.Linear`: value, gradient norm and direction, in every shape and
setting, and where they step aside.
"""

import copy

import pytest
import torch
from torch import nn
from twins import alike, value_and_gradient

from trainer.kernels import matmul as products
from trainer.kernels.cpu_linear import OneDnnLinear, use_onednn

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of PyTorch has no oneDNN"
)


def layers(inputs=24, outputs=17, bias=True):
    """The same layer twice: plain, and ours."""
    plain = nn.Linear(inputs, outputs, bias=bias)
    ours = copy.deepcopy(plain)
    assert use_onednn(ours) == 1
    return plain, ours


@pytest.fixture(autouse=True)
def not_of_intel(monkeypatch):
    """On whatever the tests run, oneDNN is taken to be the faster."""
    monkeypatch.setattr(products, "MKL_IS_FASTER", False)


@pytest.fixture
def calls(monkeypatch):
    """Counts the products that really go through oneDNN."""
    counted = []
    product = products._product

    def counting(*arguments):
        counted.append(arguments[0].shape)
        return product(*arguments)

    monkeypatch.setattr(products, "_product", counting)
    return counted


@pytest.mark.parametrize("shape", [(1, 24), (7, 24), (3, 5, 24), (2, 3, 4, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_onednn_layer_equals_the_plain_layer(shape, bias, calls):
    plain, ours = layers(bias=bias)
    values, weights = torch.randn(shape), torch.randn(*shape[:-1], 17)
    results = []
    for layer in (plain, ours):
        given = values.clone().requires_grad_()
        results.append(
            value_and_gradient((layer(given) * weights).sum(), [given, *layer.parameters()])
        )
    assert alike(results[1], results[0], 1e-5)
    assert len(calls) == 3, "forward, of the values, of the weights"
    torch.testing.assert_close(ours(values), plain(values), rtol=1e-5, atol=1e-6)


def test_transposed_input_and_gradient_give_the_same():
    plain, ours = layers()
    values = torch.randn(24, 6).T
    assert not values.is_contiguous()
    results = [
        value_and_gradient(layer(values).T.square().sum(), list(layer.parameters()))
        for layer in (plain, ours)
    ]
    assert alike(results[1], results[0], 1e-5)


def test_swapped_operand_is_caught():
    plain = nn.Linear(8, 8)
    values = torch.randn(5, 8)
    wanted = value_and_gradient(plain(values).square().sum(), list(plain.parameters()))
    wrong = value_and_gradient(
        (values @ plain.weight + plain.bias).square().sum(), list(plain.parameters())
    )
    assert not alike(wrong, wanted, 1e-2)


class TestOnlyWhatIsAskedFor:
    def test_frozen_layer_passes_the_gradient_on_and_gets_none(self, calls):
        """As under LoRA: the product for the weights is not made."""
        plain, ours = layers()
        results = []
        for layer in (plain, ours):
            layer.requires_grad_(False)
            given = torch.linspace(-1, 1, 72).reshape(3, 24).requires_grad_()
            results.append(value_and_gradient(layer(given).square().sum(), [given]))
        assert alike(results[1], results[0], 1e-5)
        assert len(calls) == 2
        assert ours.weight.grad is None

    def test_input_of_a_first_layer_gets_no_gradient(self, calls):
        _, ours = layers()
        ours(torch.randn(3, 24)).sum().backward()
        assert len(calls) == 2
        assert ours.bias.grad.tolist() == [3.0] * 17

    def test_forward_pass_without_gradients_computes_one_product(self, calls):
        _, ours = layers()
        with torch.no_grad():
            ours(torch.randn(3, 24))
        assert len(calls) == 1

    def test_inference_mode_works(self):
        plain, ours = layers()
        values = torch.randn(3, 24)
        with torch.inference_mode():
            torch.testing.assert_close(ours(values), plain(values))


class TestStepsAside:
    """Where oneDNN is not the faster or not the same, the layer is `nn.Linear` to the last bit."""

    def equal(self, plain, ours, values, calls):
        assert torch.equal(ours(values), plain(values))
        assert calls == []

    def test_plain_product_is_used_on_intel_processors(self, calls, monkeypatch):
        plain, ours = layers()
        monkeypatch.setattr(products, "MKL_IS_FASTER", True)
        self.equal(plain, ours, torch.randn(3, 24), calls)

    def test_plain_product_is_used_for_float64(self, calls):
        plain, ours = layers()
        self.equal(plain.double(), ours.double(), torch.randn(3, 24, dtype=torch.float64), calls)

    def test_plain_product_is_used_under_autocast(self, calls):
        plain, ours = layers()
        with torch.autocast("cpu", torch.bfloat16):
            self.equal(plain, ours, torch.randn(3, 24), calls)

    def test_plain_product_is_used_for_a_single_vector_and_for_no_rows(self, calls):
        plain, ours = layers()
        self.equal(plain, ours, torch.randn(24), calls)
        self.equal(plain, ours, torch.randn(0, 24), calls)

    def test_plain_product_is_used_on_another_device(self, calls):
        _, ours = layers()
        assert ours.to("meta")(torch.randn(3, 24, device="meta")).shape == (3, 17)
        assert calls == []


class TestUse:
    def test_only_plain_layers_are_converted(self):
        class Special(nn.Linear):
            pass

        module = nn.Sequential(
            nn.Linear(2, 3), Special(3, 3), nn.Sequential(nn.Linear(3, 4)), nn.LayerNorm(4)
        )
        before = module.state_dict()
        assert use_onednn(module) == 2
        assert [type(layer) for layer in (module[0], module[1], module[2][0])] == [
            OneDnnLinear,
            Special,
            OneDnnLinear,
        ]
        assert list(module.state_dict()) == list(before)
        assert all(torch.equal(module.state_dict()[name], before[name]) for name in before)
        assert use_onednn(module) == 0, "a second time there is nothing to do"

    def test_training_gives_the_same_weights(self):
        plain = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
        ours = copy.deepcopy(plain)
        use_onednn(ours)
        values, wanted = torch.randn(16, 6), torch.randn(16, 1)
        for model in (plain, ours):
            optimizer = torch.optim.AdamW(model.parameters(), 0.01)
            for _ in range(20):
                optimizer.zero_grad()
                (model(values) - wanted).square().mean().backward()
                optimizer.step()
        for one, other in zip(plain.parameters(), ours.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
