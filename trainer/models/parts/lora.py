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
from trainer.models.parts.backbone import state_without_ties
from trainer.models.parts.rounded import exact_weight
from trainer.models.settings import Lora
from trainer.storage.atomic import write_safetensors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def linear_layers(backbone: nn.Module) -> list[str]:
    """Returns the names of all linear layers in the transformer's blocks."""
    prefix, block_list = _named_blocks(backbone)
    return [
        f"{prefix}.{name}"
        for name, module in block_list.named_modules()
        if isinstance(module, nn.Linear)
    ]


def blocks(backbone: nn.Module) -> nn.ModuleList:
    """Returns the transformer's blocks: the longest list of modules in the backbone."""
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


def add_lora(
    backbone: PreTrainedModel, lora: Lora, names: list[str], trained_modules: Sequence[str] = ()
) -> PeftModel:
    """Freezes the backbone and adds a new adapter to every target layer.

    The targets are the layers `names`, unless `lora` has others. At first the adapter changes
    nothing (B is zero). The modules in `trained_modules` are fully trained.
    """
    targets = names if lora.target_modules is None else list(lora.target_modules)
    known_targets = [
        target
        for target in targets
        if any(
            name == target or name.endswith(f".{target}") for name, _ in backbone.named_modules()
        )
    ]
    if missing := sorted(set(targets) - set(known_targets)):
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
    for _, layer in _adapter_layers(model):
        # Autocast decides: peft would cast to float32 and back on every call.
        layer.cast_input_dtype_enabled = False
    for name in trained_modules:
        model.get_base_model().get_submodule(name).requires_grad_(True)
    return model


def _adapted_by(backbone: PreTrainedModel, config: PeftConfig) -> PeftModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers under an older name
        return get_peft_model(backbone, config)


def _adapter_layers(model: nn.Module) -> list[tuple[str, LoraLayer]]:
    return [
        (name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)
    ]


@torch.no_grad()
def _base_weight(layer: Any) -> Float[Tensor, "output input"]:
    """Returns the frozen weight of an adapted layer in float32, also from 4 bits."""
    weight = exact_weight(layer.get_base_layer())
    if hasattr(weight, "quant_state"):
        import bitsandbytes

        return bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state).float()
    return weight.detach().float()


@torch.no_grad()
def _merged_weight(layer: LoraLayer) -> Float[Tensor, "output input"]:
    """Returns W + scale B A (or DoRA's variant) of one layer.

    A copy of the layer is merged by peft; the layer itself is not changed.
    """
    base: Any = layer.get_base_layer()
    plain = nn.Linear(base.in_features, base.out_features, bias=False, device=base.weight.device)
    plain.weight.copy_(_base_weight(layer))
    original = layer._modules.pop("base_layer")
    try:
        merged_layer: Any = copy.deepcopy(layer)
    finally:
        layer._modules["base_layer"] = original
    merged_layer._modules["base_layer"] = plain
    merged_layer.merge(safe_merge=True)
    return plain.weight.detach()


@torch.no_grad()
def merged_state(backbone: nn.Module) -> dict[str, Shaped[Tensor, "..."]]:
    """Returns the backbone's weights with all adapters merged, by the names of the plain backbone.

    Tied weights are returned once, by their first name. The model is not changed.
    """
    if not isinstance(backbone, PeftModel):
        state = state_without_ties(backbone)
        return {name: value.detach().cpu().contiguous() for name, value in state.items()}
    plain = backbone.get_base_model()
    merged_layers = {f"{name}.weight": layer for name, layer in _adapter_layers(plain)}
    state = {}
    for name, value in state_without_ties(plain).items():
        if ".lora_" in name or ".base_layer.weight." in name:
            continue
        name = name.replace(".base_layer.", ".")
        value = _merged_weight(merged_layers[name]) if name in merged_layers else value.detach()
        state[name] = value.cpu().contiguous()
    return state


@torch.no_grad()
def adapter_changed(model: nn.Module) -> float:
    """Returns the largest relative change ||W' - W|| / ||W|| of an adapted weight."""
    changes = [0.0]
    for _, layer in _adapter_layers(model):
        base = _base_weight(layer)
        changes.append(
            ((_merged_weight(layer) - base).norm() / base.norm().clamp_min(1e-30)).item()
        )
    return max(changes)


def check_adapter_learned(model: nn.Module) -> None:
    """Raises BadModel when an adapter changed nothing, so that the base model would be saved."""
    if _adapter_layers(model) and not adapter_changed(model) > 0.0:
        raise BadModel(
            "LoRA changed nothing: after training every adapted weight equals the base model's. Is"
            " the learning rate above 0, are there steps, and do the target modules take part in"
            " the forward pass?"
        )


def save_adapter(
    model: PeftModel, folder: Path, base: str, trained_modules: Sequence[str] = ()
) -> None:
    """Writes only the adapter, as a PEFT folder with the base model `base`.

    It also holds the modules in `trained_modules`.
    """
    folder.mkdir()
    adapter_state = get_peft_model_state_dict(model, save_embedding_layers=False)
    adapter_state |= {
        f"base_model.model.{module}.{name}": value
        for module in trained_modules
        for name, value in model.get_base_model().get_submodule(module).state_dict().items()
    }
    weights = {name: value.detach().cpu().contiguous() for name, value in adapter_state.items()}
    write_safetensors(folder / WEIGHTS, weights, {"format": "pt"})
    config = copy.deepcopy(model.peft_config["default"])
    if trained_modules:
        config.modules_to_save, config.task_type = list(trained_modules), "SEQ_CLS"
    config.base_model_name_or_path = base
    config.inference_mode = True
    config.save_pretrained(str(folder))


def adapter_base(folder: Path, with_head: bool = False) -> str:
    """Returns the hub name of the base model of the adapter in `folder`.

    Raises BadModel for an adapter that is not LoRA, with a head if `with_head`.
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
    """Returns the backbone with the adapter in `folder` merged in.

    Raises BadModel, with the difference of keys, when the adapter belongs to another base model.
    """
    weights = inside(folder, WEIGHTS)
    if not weights.is_file():
        raise BadModel(f"{folder} has an {CONFIG} but no {WEIGHTS}")
    state = read_tensors(weights)
    known_keys = set(LoraConfig.__dataclass_fields__) - {
        "auto_mapping",
        "runtime_config",
        "base_model_name_or_path",
    }
    settings = {key: value for key, value in read_json(folder, CONFIG).items() if key in known_keys}
    try:
        config: PeftConfig = LoraConfig(
            **settings | {"inference_mode": True, "init_lora_weights": True}
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
    reference: dict[str, Shaped[Tensor, "..."]],
    actual: dict[str, Shaped[Tensor, "..."]],
) -> None:
    missing, foreign = (
        sorted(reference.keys() - actual.keys()),
        sorted(actual.keys() - reference.keys()),
    )
    shapes = [
        (f"{key} {tuple(actual[key].shape)} instead of {tuple(reference[key].shape)}")
        for key in reference.keys() & actual.keys()
        if actual[key].shape != reference[key].shape
    ]
    if missing or foreign or shapes:
        parts = [
            f"{len(keys)} {problem}, the first: {keys[0]}"
            for problem, keys in (
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
