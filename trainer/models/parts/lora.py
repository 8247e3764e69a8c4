"""Low-rank adapters on a frozen backbone (Hu et al. 2021), through peft."""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from trainer.errors import BadModel
from trainer.models.files.vetting import inside, read_json, read_tensors
from trainer.models.settings import Lora
from trainer.storage.atomic import write_safetensors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def linear_layers(backbone: nn.Module) -> list[str]:
    """Names of all linear layers inside the transformer's blocks."""
    prefix, found = _named_blocks(backbone)
    return [
        f"{prefix}.{name}"
        for name, module in found.named_modules()
        if isinstance(module, nn.Linear)
    ]


def blocks(backbone: nn.Module) -> nn.ModuleList:
    """The transformer's blocks: the longest list of modules the backbone has."""
    return _named_blocks(backbone)[1]


def _named_blocks(backbone: nn.Module) -> tuple[str, nn.ModuleList]:
    lists = [
        (name, module)
        for name, module in backbone.named_modules()
        if isinstance(module, nn.ModuleList)
    ]
    if not lists:
        raise BadModel(
            f"{type(backbone).__name__} has no list of transformer blocks; name"
            " `model.tuning.target_modules`"
        )
    return max(lists, key=lambda item: len(item[1]))


def add_lora(backbone: PreTrainedModel, lora: Lora, whole: Sequence[str] = ()) -> PeftModel:
    """The backbone with its weights frozen and a fresh adapter on every target layer; at first it
    changes nothing (B is zero).

    Modules of the names in `whole` are trained as they are, beside the adapter.
    """
    names = linear_layers(backbone)
    targets = list(lora.target_modules) if lora.target_modules is not None else names
    known = [
        target
        for target in targets
        if any(
            name == target or name.endswith(f".{target}") for name, _ in backbone.named_modules()
        )
    ]
    if missing := sorted(set(targets) - set(known)):
        endings = sorted({name.rsplit(".", 1)[-1] for name in names})
        raise BadModel(
            f"`model.tuning.target_modules`: the backbone has no layer {missing[0]!r}; its linear"
            f" layers end in {', '.join(endings)}"
        )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        task_type="FEATURE_EXTRACTION",
    )
    if lora.quantize_4bit:
        for parameter in backbone.parameters():
            parameter.requires_grad = False
    model = _adapted_by(backbone, config)
    for _, layer in _adapted(model):
        layer.cast_input_dtype_enabled = (
            False  # autocast decides: peft would cast to float32 and back on every call
        )
    for name in whole:
        model.get_base_model().get_submodule(name).requires_grad_(True)
    return model


def _adapted_by(backbone: PreTrainedModel, config: PeftConfig) -> PeftModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers under an older name
        return get_peft_model(backbone, config)


def _adapted(model: nn.Module) -> list[tuple[str, LoraLayer]]:
    return [
        (name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)
    ]


@torch.no_grad()
def _base_weight(layer: Any) -> Float[Tensor, "output input"]:
    """The frozen weight of an adapted layer in float32, out of its 4 bits where it is quantised."""
    weight = layer.get_base_layer().weight
    if hasattr(weight, "quant_state"):
        import bitsandbytes

        return bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state).float()
    return weight.detach().float()


@torch.no_grad()
def _merged_weight(layer: LoraLayer) -> Float[Tensor, "output input"]:
    """W + scale B A (or DoRA's form of it) of one layer. The layer in training is not touched: a
    copy is merged by peft.
    """
    base: Any = layer.get_base_layer()
    plain = nn.Linear(base.in_features, base.out_features, bias=False, device=base.weight.device)
    plain.weight.copy_(_base_weight(layer))
    original = layer._modules.pop("base_layer")
    try:
        merged: Any = copy.deepcopy(layer)
    finally:
        layer._modules["base_layer"] = original
    merged._modules["base_layer"] = plain
    merged.merge(safe_merge=True)
    return plain.weight.detach()


@torch.no_grad()
def merged_state(backbone: nn.Module) -> dict[str, Shaped[Tensor, "..."]]:
    """The backbone's weights with every adapter merged in, under the names of the plain backbone;
    the live model stays as it is.
    """
    if not isinstance(backbone, PeftModel):
        return {
            name: value.detach().cpu().contiguous() for name, value in backbone.state_dict().items()
        }
    plain = backbone.get_base_model()
    merged = {f"{name}.weight": layer for name, layer in _adapted(plain)}
    state: dict[str, Tensor] = {}
    for name, value in plain.state_dict().items():
        if ".lora_" in name or ".base_layer.weight." in name:
            continue
        name = name.replace(".base_layer.", ".")
        value = _merged_weight(merged[name]) if name in merged else value.detach()
        state[name] = value.cpu().contiguous()
    return state


@torch.no_grad()
def adapter_changed(model: nn.Module) -> float:
    """The largest relative change of any adapted weight, ||W' - W|| / ||W||; 0 when the adapter
    does nothing.
    """
    changes = [0.0]
    for _, layer in _adapted(model):
        base = _base_weight(layer)
        changes.append(
            ((_merged_weight(layer) - base).norm() / base.norm().clamp_min(1e-30)).item()
        )
    return max(changes)


def check_adapter_learned(model: nn.Module) -> None:
    """BadModel when an encoder or backbone has an adapter that changed nothing, so that what is
    saved would be the base model.
    """
    if _adapted(model) and not adapter_changed(model) > 0.0:
        raise BadModel(
            "LoRA changed nothing: after training every adapted weight equals the base model's. Is"
            " the learning rate above 0, are there steps, and do the target modules take part in"
            " the forward pass?"
        )


def save_adapter(model: PeftModel, folder: Path, base: str, whole: Sequence[str] = ()) -> None:
    """The adapter alone as a PEFT folder, naming `base` as what it belongs to, with the modules of
    the names in `whole` beside it.
    """
    folder.mkdir()
    found = get_peft_model_state_dict(model, save_embedding_layers=False)
    found |= {
        f"base_model.model.{module}.{name}": value
        for module in whole
        for name, value in model.get_base_model().get_submodule(module).state_dict().items()
    }
    weights = {name: value.detach().cpu().contiguous() for name, value in found.items()}
    write_safetensors(folder / WEIGHTS, weights, {"format": "pt"})
    config = copy.deepcopy(model.peft_config["default"])
    if whole:
        config.modules_to_save, config.task_type = list(whole), "SEQ_CLS"
    config.base_model_name_or_path = base
    config.inference_mode = True
    config.save_pretrained(str(folder))


def adapter_base(folder: Path, with_head: bool = False) -> str:
    """The hub name of the model that the adapter in `folder` was trained on; BadModel for anything
    but LoRA, and perhaps a head beside it.
    """
    config = read_json(folder, CONFIG)
    if config.get("peft_type") != "LORA":
        raise BadModel(
            f"{folder} holds an adapter of type {str(config.get('peft_type'))[:40]!r}; only LORA is"
            " read"
        )
    if (
        config.get("auto_mapping")
        or (config.get("modules_to_save") and not with_head)
        or config.get("trainable_token_indices")
    ):
        raise BadModel(
            f"{folder}: an adapter that also replaces whole modules is not read; merge it with the"
            " library that trained it"
        )
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise BadModel(
            f"{folder / CONFIG} does not name the base model that the adapter belongs to"
        )
    return base


def merge_adapter(backbone: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The backbone with the adapter in `folder` merged in; BadModel with the difference of keys
    when it belongs to another base.
    """
    weights = inside(folder, WEIGHTS)
    if not weights.is_file():
        raise BadModel(f"{folder} has an {CONFIG} but no {WEIGHTS}")
    state = read_tensors(weights)
    known = set(LoraConfig.__dataclass_fields__) - {
        "auto_mapping",
        "runtime_config",
        "base_model_name_or_path",
    }
    given = {key: value for key, value in read_json(folder, CONFIG).items() if key in known}
    try:
        config: PeftConfig = LoraConfig(
            **given | {"inference_mode": True, "init_lora_weights": True}
        )
        model = _adapted_by(backbone, config)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadModel(
            f"the adapter in {folder} does not fit its base model: {str(error)[:300]}"
        ) from error
    _check_keys(folder, get_peft_model_state_dict(model, save_embedding_layers=False), state)
    set_peft_model_state_dict(model, state)
    return model.merge_and_unload(safe_merge=True)


def _check_keys(
    folder: Path,
    expected: dict[str, Shaped[Tensor, "..."]],
    found: dict[str, Shaped[Tensor, "..."]],
) -> None:
    missing, foreign = (
        sorted(expected.keys() - found.keys()),
        sorted(found.keys() - expected.keys()),
    )
    shapes = [
        (f"{key} {tuple(found[key].shape)} instead of {tuple(expected[key].shape)}")
        for key in expected.keys() & found.keys()
        if found[key].shape != expected[key].shape
    ]
    if missing or foreign or shapes:
        parts = [
            f"{len(keys)} {what}, the first: {keys[0]}"
            for what, keys in (
                ("missing", missing),
                ("unknown", foreign),
                (("of another shape"), sorted(shapes)),
            )
            if keys
        ]
        raise BadModel(
            f"the adapter in {folder} was trained on another base model: of its keys"
            f" {'; '.join(parts)}"
        )
