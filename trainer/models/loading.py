"""Building a model for training and reading one for use, the same for every family."""

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
    """What is particular to one family of models."""

    model: type[Model]
    settings: type[Settings]
    contract: type[Contract]
    recognizes: Callable[[Path], bool]
    """Whether a folder holds a model of this family, or the adapter of one."""
    read_layout: Callable[[Path], Layout]
    """What a folder says about itself."""
    check_readable: Callable[[Path, Layout], None]
    """Raises BadModel when a folder holds no trained model of this family."""
    with_adapter: Callable[[Layout, Contract | None, Path], Layout]
    """The layout of a base model, used as the contract beside an adapter says, with what lies
    beside the adapter.
    """
    assemble: Callable[[Layout, Settings, str, Layers], Model]
    """A model from what its folder says; what the settings say takes precedence. The string names
    the backbone; the last argument says which of that backbone's layers the folder still has.
    """


def build_for_training(
    family: Family[Settings, Layout, Contract, Model], settings: Settings
) -> Model:
    """A model that starts from `settings.backbone`, in training mode, with a new adapter where LoRA
    is asked for. New weights are drawn from torch's generator. Raises BadModel.
    """
    layout = family.read_layout(locate(settings.backbone))
    model = family.assemble(layout, settings, public_name(settings.backbone), None)
    if settings.activation_checkpointing:
        recompute_layers(model.backbone)  # type: ignore[arg-type]
    if settings.lora is not None:
        model.backbone = adapters.add_lora(
            model.backbone,  # type: ignore[arg-type]
            settings.lora,
            model.whole_modules(),
        )
        use_onednn(model.backbone)
    return model.train()


def read(family: Family[Settings, Layout, Contract, Model], path_or_name: str) -> Model:
    """The model in a folder, or of a name, for use: adapters merged, in evaluation mode. Raises
    BadModel.
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
    """The base model that the adapter names, with the adapter merged in."""
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
    """Settings that leave everything to the folder."""
    return family.settings(backbone=backbone, layers=layers, dropout=None, lora=None)


def required_contract(folder: Path, contract: Contract | None) -> Contract:
    """The contract beside an adapter. Raises BadModel where there is none."""
    if contract is None:
        raise BadModel(
            f"{folder} has no {FILE}, so it is not known how its model prepares texts; take the"
            " merged folder above it"
        )
    return contract


def public_name(path_or_name: str) -> str:
    """The name itself, or the last part of a folder's path: where a folder lies on this machine is
    private.
    """
    path = Path(path_or_name).expanduser()
    return path.resolve().name if path.is_dir() else path_or_name


def _check_contract(folder: Path, stored: TextContract | None, actual: TextContract) -> None:
    """Raises BadModel where the contract in a folder differs from what its files say."""
    if stored is None or stored == actual:
        return
    field = next(
        name for name in type(actual).model_fields if getattr(stored, name) != getattr(actual, name)
    )
    raise BadModel(
        f"{folder}: nearfar.json says {field} = {getattr(stored, field)}, its files say"
        f" {getattr(actual, field)}; a file was exchanged after training: take the whole folder"
        " from where it was saved"
    )
