"""Loads a Hugging Face encoder or decoder as the backbone of a model.

Transformers gets a cleaned configuration and tensors, never the folder. So nothing in a folder can
make it fetch, import or unpickle.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Shaped
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PretrainedConfig, PreTrainedModel

from trainer.errors import BadModel
from trainer.models.files.vetting import (
    check_links,
    read_json,
    read_tensors,
    weight_files,
    without_code,
)
from trainer.models.parts.kept_layers import check_all_used, renumber_layers, shorten
from trainer.models.parts.size_check import check_counts, check_sizes

_CONFIG_ERRORS = (
    TypeError,
    ValueError,
    KeyError,
    AttributeError,
    ImportError,
    ArithmeticError,
    NotImplementedError,
    StrictDataclassError,
)


def read_config(folder: Path) -> PretrainedConfig:
    """Returns the configuration of an encoder or decoder of text (see `read_any_config`)."""
    config = read_any_config(folder)
    text = (
        hasattr(config, "vocab_size")
        and hasattr(config, "hidden_size")
        and not hasattr(config, "vision_config")
    )
    if not text or type(config) not in MODEL_MAPPING or config.is_encoder_decoder:
        raise BadModel(f"{folder}: {config.model_type} is not an encoder or decoder of text")
    return config


def read_any_config(folder: Path) -> PretrainedConfig:
    """Returns the configuration in `folder`, without keys that could load code.

    Raises BadModel for an architecture that needs its own code.
    """
    if not (folder / "config.json").exists():
        names = ", ".join(sorted(path.name for path in folder.glob("*"))[:5]) or "nothing"
        raise BadModel(f"{folder} is not a model folder: it has no config.json (found: {names})")
    check_links(folder)
    raw = read_json(folder, "config.json")
    check_counts(folder, raw)
    config = without_code(raw)
    kind = config.pop("model_type", None)
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        foreign = (
            ", and it asks for code of its own, which is never run" if "auto_map" in raw else ""
        )
        raise BadModel(
            f"{folder}: architecture {str(kind)[:80]!r} is not one that transformers"
            f" {transformers.__version__} knows{foreign}"
        )
    if "quantization_config" in config:
        raise BadModel(
            f"{folder} holds quantised weights, which cannot be trained further; take the model in"
            " its full precision"
        )
    try:
        with _quiet():
            return CONFIG_MAPPING[kind](**config)
    except _CONFIG_ERRORS as error:
        raise BadModel(
            f"{folder / 'config.json'} does not fit architecture {kind}: {str(error)[:200]}"
        ) from error


def load_backbone(
    folder: Path,
    config: PretrainedConfig,
    quantize_4bit: bool = False,
    layers: Sequence[int] | None = None,
) -> PreTrainedModel:
    """Loads the transformer in `folder`, in float32 and evaluation mode, without its unused pooler.

    Of its layers, only `layers` are loaded (None: all).
    """
    model_class: Any = MODEL_MAPPING[type(config)]
    model_arguments = (
        {"add_pooling_layer": False}
        if "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
        else {}
    )
    model, missing = load_into(model_class, folder, config, quantize_4bit, model_arguments, layers)
    if missing:
        raise BadModel(
            f"{folder}: {len(missing)} weights of {model_class.__name__} are missing, the first:"
            f" {', '.join(missing[:3])}"
        )
    return model


def load_into(
    model_class: Any,
    folder: Path,
    config: PretrainedConfig,
    quantize_4bit: bool = False,
    model_arguments: Mapping[str, Any] | None = None,
    layers: Sequence[int] | None = None,
) -> tuple[PreTrainedModel, list[str]]:
    """Returns a model of this class with the weights in `folder`, and the names of missing weights.

    The model is in float32 and evaluation mode.
    """
    check_sizes(folder, config, model_class)
    config.use_cache = False
    arguments: dict[str, Any] = {
        "attn_implementation": "sdpa" if model_class._supports_sdpa else "eager",
        **(model_arguments or {}),
    }
    if quantize_4bit:
        arguments |= {
            "quantization_config": _four_bits(),
            "device_map": {"": torch.cuda.current_device()},
        }
    weights = _read_weights(folder)
    if layers is not None:
        shorten(config, layers)
        weights = renumber_layers(weights, layers)
    try:
        with _quiet():
            model, report = model_class.from_pretrained(
                None,
                config=config,
                state_dict=weights,
                dtype=torch.float32,
                output_loading_info=True,
                **arguments,
            )
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadModel(
            f"{folder}: its weights do not fit its config.json: {str(error).strip()[:400]}"
        ) from error
    if layers is not None:
        check_all_used(layers, report["unexpected_keys"])
    return model, sorted(report["missing_keys"])


def _read_weights(folder: Path) -> dict[str, Shaped[Tensor, "..."]]:
    weights: dict[str, Tensor] = {}
    for path in weight_files(folder):
        weights |= read_tensors(path)
    return weights


def _four_bits() -> Any:
    """Returns QLoRA's format of the frozen weights (Dettmers et al. 2023).

    It is 4-bit NormalFloat with double quantisation; products are in bfloat16.
    """
    if not torch.cuda.is_available():
        raise BadModel(
            "`model.tuning.quantize_4bit` needs an NVIDIA GPU, and torch sees none here; set it to"
            " false"
        )
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise BadModel(
            "`model.tuning.quantize_4bit` needs bitsandbytes: pip install 'nearfar[qlora]', or set"
            " it to false"
        ) from error
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Context without transformers' progress bars and reports."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def set_dropout(config: PretrainedConfig, probability: float) -> None:
    """Sets every dropout probability of `config`, also that of attention and of whole blocks."""
    for name, value in config.to_dict().items():
        if (
            ("dropout" in name or name.endswith(("pdrop", "drop_path_rate", "drop_connect_rate")))
            and isinstance(value, int | float)
            and not isinstance(value, bool)
        ):
            setattr(config, name, probability)


def recompute_layers(backbone: PreTrainedModel) -> None:
    """Recomputes the activations of each layer in the backward pass.

    Raises BadModel when the architecture does not support it.
    """
    if not backbone.supports_gradient_checkpointing:
        raise BadModel(
            f"{type(backbone).__name__} does not support `model.activation_checkpointing`; set it"
            " to false. machine.kept_tokens=0 saves memory too: it computes every micro-batch again"
            " in the backward pass"
        )
    enable: Any = (
        getattr(backbone, "activation_checkpointing_enable", None)
        or backbone.gradient_checkpointing_enable
    )  # transformers < 5.20
    enable({"use_reentrant": False})


def is_decoder(config: PretrainedConfig) -> bool:
    """Returns true when tokens attend only to earlier ones; the last one has seen the text."""
    causal = (
        type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        and type(config) not in transformers.MODEL_FOR_MASKED_LM_MAPPING
    )
    return causal and not getattr(config, "use_bidirectional_attention", False)


def state_without_ties(backbone: nn.Module) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns the state without weights that are another name of an earlier one, such as those of
    an output layer that equals the input embeddings.
    """
    state: dict[str, Tensor] = backbone.state_dict(keep_vars=True)
    first_names = {id(value): name for name, value in reversed(state.items())}
    return {name: value for name, value in state.items() if first_names[id(value)] == name}


def embedding_rows(backbone: PreTrainedModel) -> int:
    """Returns the number of token ids that have an embedding."""
    table: Any = backbone.get_input_embeddings()
    return int(table.num_embeddings)


def longest_input(backbone: PreTrainedModel) -> int:
    """Returns the number of tokens that the position embeddings allow.

    Positions before the first token do not count.
    """
    table = _position_table(backbone)
    if table is not None:
        return table.num_embeddings - first_position(backbone)
    return int(getattr(backbone.config, "max_position_embeddings", None) or 2**20)


def first_position(backbone: Any) -> int:
    """Returns the position of a text's first token, which comes after a row of padding (RoBERTa,
    MPNet).
    """
    table = _position_table(backbone)
    return 0 if table is None or table.padding_idx is None else table.padding_idx + 1


def _position_table(backbone: Any) -> nn.Embedding | None:
    embeddings = getattr(backbone.base_model, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    return table if isinstance(table, nn.Embedding) else None
