"""Builds models for training and reads models for use, for all families."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from trainer.errors import BadModel
from trainer.kernels.cpu_linear import use_onednn
from trainer.models.contracts.text import FILE, TextContract
from trainer.models.encoder import Encoder
from trainer.models.files.locate import locate, locate_public
from trainer.models.formats.layout import FolderLayout
from trainer.models.parts import lora as adapters
from trainer.models.parts.backbone import recompute_layers
from trainer.models.settings import ModelSettings

Settings = TypeVar("Settings", bound=ModelSettings)
Layout = TypeVar("Layout", bound=FolderLayout)
Contract = TypeVar("Contract", bound=TextContract)
Model = TypeVar("Model", bound=Encoder)
Layers = tuple[int, ...] | None


@dataclass(frozen=True)
class Family(Generic[Settings, Layout, Contract, Model]):
    """The parts that differ between families of models."""

    model: type[Model]
    settings: type[Settings]
    contract: type[Contract]
    recognizes: Callable[[Path], bool]
    """Returns true for a folder with a model of this family, or its adapter."""
    read_layout: Callable[[Path], Layout]
    """Reads the settings in a folder."""
    check_readable: Callable[[Path, Layout], None]
    """Raises BadModel when a folder holds no trained model of this family."""
    with_adapter: Callable[[Layout, Contract | None, Path], Layout]
    """Adds the contract and the files of an adapter folder to the layout of its base model."""
    assemble: Callable[[Layout, Settings, str, Layers], Model]
    """Builds a model from its folder and settings, which take precedence.

    The string is the name of the backbone. The last argument is the layers of it that the folder
    has.
    """


def build_for_training(
    family: Family[Settings, Layout, Contract, Model], settings: Settings
) -> Model:
    """Builds a model that starts from `settings.backbone`, in training mode. Raises BadModel.

    If requested, it has a new LoRA adapter. New weights are drawn from torch's generator.
    """
    layout = family.read_layout(locate(settings.backbone))
    model = family.assemble(layout, settings, public_name(settings.backbone), None)
    if settings.activation_checkpointing:
        recompute_layers(model.backbone)  # type: ignore[arg-type]
    if settings.lora is not None:
        model.backbone = adapters.add_lora(
            model.backbone,  # type: ignore[arg-type]
            settings.lora,
            model.adapted_layers(),
            model.whole_modules(),
        )
        use_onednn(model.backbone)
    return model.train()


def read(family: Family[Settings, Layout, Contract, Model], path_or_name: str) -> Model:
    """Reads the model of a folder or name, in evaluation mode. Raises BadModel.

    Adapters are merged.
    """
    folder = locate(path_or_name)
    if (folder / adapters.CONFIG).exists() and not (folder / "config.json").exists():
        return _read_adapter(family, folder)
    layout = family.read_layout(folder)
    family.check_readable(folder, layout)
    contract = layout.contract
    name, layers = (
        (public_name(path_or_name), None)
        if contract is None
        else (contract.backbone, contract.layers)
    )
    model = family.assemble(layout, _as_stored(family, str(folder)), name, layers)
    _check_contract(folder, contract, model.contract)
    return model.eval()


def _read_adapter(family: Family[Settings, Layout, Contract, Model], folder: Path) -> Model:
    """Reads the base model that the adapter names, and merges the adapter."""
    contract = family.contract.read(folder)
    base = adapters.adapter_base(folder, family.contract.ADAPTER_HAS_HEAD)
    layout = family.with_adapter(family.read_layout(locate_public(base)), contract, folder)
    layers = None if contract is None else contract.layers
    model = family.assemble(layout, _as_stored(family, base, layers), base, None)
    _check_contract(folder, contract, model.contract)
    model.backbone = adapters.merge_adapter(model.backbone, folder)  # type: ignore[arg-type]
    return model.eval()


def _as_stored(
    family: Family[Settings, Layout, Contract, Model], backbone: str, layers: Layers = None
) -> Settings:
    """Returns settings that leave everything to the folder."""
    return family.settings(backbone=backbone, layers=layers, dropout=None, lora=None)


def required_contract(folder: Path, contract: Contract | None) -> Contract:
    """Returns the contract of an adapter folder. Raises BadModel if there is none."""
    if contract is None:
        raise BadModel(
            f"{folder} has no {FILE}, so it is not known how its model prepares texts; take the"
            " merged folder above it"
        )
    return contract


def public_name(path_or_name: str) -> str:
    """Returns the name itself, or the last part of a folder's path, because paths are private."""
    path = Path(path_or_name).expanduser()
    return path.resolve().name if path.is_dir() else path_or_name


def _check_contract(
    folder: Path, stored_contract: TextContract | None, actual: TextContract
) -> None:
    """Raises BadModel when the contract in a folder does not fit its other files."""
    if stored_contract is None or stored_contract == actual:
        return
    field = next(
        name
        for name in type(actual).model_fields
        if getattr(stored_contract, name) != getattr(actual, name)
    )
    raise BadModel(
        f"{folder}: nearfar.json says {field} = {getattr(stored_contract, field)}, its files say"
        f" {getattr(actual, field)}; a file was exchanged after training: take the whole folder"
        " from where it was saved"
    )
