"""A linear layer after pooling, stored as a Dense module of sentence-transformers."""

import json
from pathlib import Path
from typing import Literal, Self, assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainer.errors import BadModel
from trainer.models.files.vetting import inside, read_json, read_tensors
from trainer.storage.atomic import write_safetensors, write_text

Activation = Literal["Identity", "Tanh"]
_ACTIVATION_PATHS: dict[Activation, str] = {
    "Identity": "torch.nn.modules.linear.Identity",
    "Tanh": "torch.nn.modules.activation.Tanh",
}


class Projection(nn.Linear):
    """Computes activation(W x + b)."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool, activation: Activation = "Identity"
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.activation: Activation = activation
        self.is_new = False

    def forward(self, input: Float[Tensor, "*row width"]) -> Float[Tensor, "*row dimension"]:
        """Returns the projected vectors."""
        output = super().forward(input)
        match self.activation:
            case "Identity":
                return output
            case "Tanh":
                return torch.tanh(output)
            case _:
                assert_never(self.activation)

    @classmethod
    def fresh(cls, in_features: int, out_features: int) -> Self:
        """Returns a new orthogonal projection without bias, which preserves angles best."""
        projection = cls(in_features, out_features, bias=False)
        projection.is_new = True
        nn.init.orthogonal_(projection.weight)
        return projection

    @classmethod
    def of(cls, weight: Float[Tensor, "dimension width"]) -> Self:
        """Returns the layer without bias that has this weight."""
        projection = cls(weight.shape[1], weight.shape[0], bias=False)
        projection.load_state_dict({"weight": weight.float()})
        return projection

    @classmethod
    def read(cls, folder: Path, of: str = "sentence_embedding") -> Self:
        """Reads the Dense module in `folder`.

        Raises BadModel when it is not a linear layer with Identity or Tanh on the vectors `of`.
        """
        sizes, has_bias, activation = cls._read_config(folder, of)
        weights = inside(folder, "model.safetensors")
        if not weights.is_file():
            raise BadModel(
                f"{folder} holds no model.safetensors; weights in any other format are not opened"
            )
        projection = cls(*sizes, bias=has_bias, activation=activation)
        state = {
            name.removeprefix("linear."): value.float()
            for name, value in read_tensors(weights).items()
        }
        try:
            projection.load_state_dict(state)
        except RuntimeError as error:
            raise BadModel(
                f"{weights} does not fit the config.json beside it: {str(error)[:200]}"
            ) from error
        return projection

    @staticmethod
    def _read_config(folder: Path, of: str) -> tuple[tuple[int, int], bool, Activation]:
        """Reads both sizes, whether there is a bias, and the activation."""
        config = read_json(folder, "config.json")
        activation = next(
            (
                name
                for name, path in _ACTIVATION_PATHS.items()
                if config.get("activation_function") in (path, f"torch.nn.{name}")
            ),
            None,
        )
        plain = {config.get(key) for key in ("module_input_name", "module_output_name")} <= {
            of,
            None,
        }
        sizes = [config.get("in_features"), config.get("out_features")]
        if (
            activation is None
            or not plain
            or config.get("use_residual")
            or not all(type(size) is int and 0 < size < 2**20 for size in sizes)
        ):
            raise BadModel(
                f"{folder / 'config.json'}: only a linear layer with Identity or Tanh on {of} is"
                " read"
            )
        in_features, out_features = sizes
        return (in_features, out_features), config.get("bias") is not False, activation  # type: ignore[return-value]

    def write(self, folder: Path) -> None:
        """Writes the layer as a Dense module."""
        folder.mkdir()
        config = {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias is not None,
            "activation_function": _ACTIVATION_PATHS[self.activation],
        }
        write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
        state = {
            f"linear.{name}": value.detach().cpu().contiguous()
            for name, value in self.state_dict().items()
        }
        write_safetensors(folder / "model.safetensors", state, {"format": "pt"})
