"""A pretend accelerator for tests of device code on a machine without one.

Its tensors are kept in CPU memory and say that they are on `pretend:0`. An operation that mixes
them with CPU tensors is refused, as on a GPU. Results are those of the CPU, so losses and gradients
can be compared. Every wait of the CPU for the device and every upload is counted, with the line of
the package that caused it. Random numbers come from a generator of the device.

It differs from CUDA in these points: arithmetic is that of the CPU; there is no autocast; nothing
runs asynchronously; `torch.cuda` and NCCL have no part in it; indexing by a CPU tensor, which CUDA
allows, is refused; and `torch.inference_mode` is `torch.no_grad`. It needs the experimental
backends in Python of PyTorch.

A backend is registered for a whole process and remains. So tests call `on_pretend_device`, which
forks.
"""

import gc
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ranks import on_ranks
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

import trainer

aten = torch.ops.aten
DEVICE = "pretend:0"
WAITS: Counter[str] = Counter()
"""Number of times that the CPU waited for the device, by place in the package."""
UPLOADS: Counter[str] = Counter()
"""Number of copies from the CPU to the device, by place in the package."""

_WAITING = {
    aten._local_scalar_dense.default,
    aten._unique2.default,
    aten.bincount.default,
    aten.equal.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
}
"""Operations whose result, or its size, the CPU must know: CUDA waits for them."""
_INDEXING = {
    aten._index_put_impl_.default,
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
}
_PACKAGE = f"{Path(trainer.__file__).parent}/"
_LIBRARIES = ("/transformers/", "/peft/", "/pytorch_lightning/", "/torch/optim/", "/torch/nn/")


def on_pretend_device(function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns the result of `function(*arguments)` in a forked process that has the device.

    An error is raised here with its traceback.
    """
    return on_ranks(1, _with_device, function, arguments)[0]


def move_to_device(module: torch.nn.Module) -> None:
    """Moves a module. Parameters that have several names keep them, as on a real device."""
    names: dict[torch.nn.Parameter, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    module.to(DEVICE)
    for first, *others in names.values():
        for name in others:
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, module.get_parameter(first))


def reset_counts() -> None:
    """Sets the counts of waits and uploads to zero."""
    WAITS.clear()
    UPLOADS.clear()


class PretendTensor(torch.Tensor):
    """A tensor on the device. Its numbers are in `values`, on the CPU."""

    values: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: Tensor) -> "PretendTensor":
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=torch.device(DEVICE),
        )
        tensor.values = values
        return tensor

    @classmethod
    def __torch_dispatch__(cls, operation, types, arguments=(), options=None):
        return _run(operation, arguments, options or {})

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self) -> str:
        return f"PretendTensor({self.values})"


class _Mode(TorchDispatchMode):
    """Brings operations without a tensor of the device, such as `torch.zeros`, to `_run`."""

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        return _run(operation, arguments, options or {})


class _Module(_DummyBackendModule):
    """`torch.pretend`: the generator of the device."""

    _initialized = True

    def __init__(self) -> None:
        self.generator_state = torch.get_rng_state()

    def manual_seed_all(self, seed: int) -> None:
        self.generator_state = torch.Generator().manual_seed(seed).get_state()

    def get_rng_state(self, device: Any = None) -> Tensor:
        return self.generator_state.clone()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        self.generator_state = state.clone()

    def device(self, device: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_module = _Module()


def _with_device(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    gc.freeze()  # what the parent has made is not looked through in every collection
    _setup_privateuseone_for_python_backend("pretend", backend_module=_module)
    torch.inference_mode = torch.no_grad  # in inference mode, no view of another tensor is possible
    with torch.library._scoped_library("aten", "IMPL") as library:
        # `Tensor.new_tensor` switches the mode off.
        library.impl("empty.memory_format", _empty, "PrivateUse1")
        library.impl("empty_strided", _empty_strided, "PrivateUse1")
        library.impl("_copy_from", _copy_from, "PrivateUse1")
        # Autograd may have started in the parent, and so has no thread for the device.
        with torch.autograd.set_multithreading_enabled(False), _Mode():
            torch.manual_seed(0)
            return function(*arguments)


def _empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    return PretendTensor(torch.empty(size, dtype=dtype, device="cpu"))


def _empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
    return PretendTensor(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    return _copy_into(target, source)


def _run(operation: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    tensors: list[Any] = []
    cpu_arguments = _on_cpu(list(arguments), tensors)
    cpu_options = {name: _on_cpu(value, tensors) for name, value in options.items()}
    device = None if options.get("device") is None else torch.device(options["device"])
    on_device = any(isinstance(tensor, PretendTensor) for tensor in tensors)
    if not on_device and (device is None or device.type != "pretend"):
        return operation(*arguments, **options)
    kind = _kind(operation)
    if operation is aten._to_copy.default:
        return _copy_to(arguments[0], device, cpu_options)
    if operation is aten.copy_.default:
        return _copy_into(*arguments[:2])
    _refuse_cpu_tensors(operation, tensors)
    if _waits(operation, arguments, options):
        WAITS[_place()] += 1
    result = _compute(operation, kind, cpu_arguments, cpu_options)
    if kind.writes:
        return options.get("out", arguments[0]) if kind.returns else None
    result = _on_device(result)
    if on_device and kind.gives_views:
        return return_and_correct_aliasing(operation, arguments, options, result)
    return result


class _Kind(NamedTuple):
    """The properties of an operation by its schema."""

    is_random: bool
    writes: bool
    returns: bool
    gives_views: bool


@cache
def _kind(operation: Any) -> _Kind:
    arguments, returns = operation._schema.arguments, operation._schema.returns
    return _Kind(
        torch.Tag.nondeterministic_seeded in operation.tags,
        any(each.alias_info and each.alias_info.is_write for each in arguments),
        bool(returns),
        any(each.alias_info for each in returns),
    )


def _compute(operation: Any, kind: _Kind, arguments: list[Any], options: dict[str, Any]) -> Any:
    """Computes on the CPU; random numbers are those of the device."""
    if not kind.is_random:
        return operation(*arguments, **options)
    cpu_state = torch.get_rng_state()
    torch.set_rng_state(_module.generator_state)
    try:
        return operation(*arguments, **options)
    finally:
        _module.generator_state = torch.get_rng_state()
        torch.set_rng_state(cpu_state)


def _copy_to(source: Tensor, device: torch.device | None, options: dict[str, Any]) -> Tensor:
    options = options | {"device": None}
    to_cpu = device is not None and device.type == "cpu"
    if isinstance(source, PretendTensor):
        if to_cpu:
            WAITS[_place()] += 1
        copy = aten._to_copy.default(source.values, **options)
        return copy if to_cpu else PretendTensor(copy)
    UPLOADS[_place()] += 1
    return PretendTensor(aten._to_copy.default(source, **options))


def _copy_into(target: Tensor, source: Tensor) -> Tensor:
    if isinstance(target, PretendTensor) != isinstance(source, PretendTensor):
        (UPLOADS if isinstance(target, PretendTensor) else WAITS)[_place()] += 1
    _on_cpu(target, []).copy_(_on_cpu(source, []))
    return target


def _on_cpu(value: Any, tensors: list[Any]) -> Any:
    """Returns the value with CPU tensors; `tensors` is extended by the tensors that it holds."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return value.values if isinstance(value, PretendTensor) else value
    if isinstance(value, list | tuple):
        return [_on_cpu(each, tensors) for each in value]
    is_device = isinstance(value, torch.device) and value.type == "pretend"
    return torch.device("cpu") if is_device else value


def _on_device(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_on_device, value))
    return PretendTensor(value) if isinstance(value, Tensor) else value


def _refuse_cpu_tensors(operation: Any, tensors: list[Tensor]) -> None:
    """Raises RuntimeError for a CPU tensor that has dimensions; others count as scalars."""
    for tensor in tensors:
        if not isinstance(tensor, PretendTensor) and tensor.ndim:
            raise RuntimeError(
                f"{operation}: a CPU tensor of shape {tuple(tensor.shape)} meets tensors of the"
                f" device at {_place()}"
            )


def _waits(operation: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
    if operation is aten.repeat_interleave.Tensor:
        return options.get("output_size") is None
    if operation in _INDEXING:
        return any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in arguments[1]
        )
    return operation in _WAITING


def _place() -> str:
    """Returns the innermost line of the package, and that of the library which it called.

    The line that calls `trainer.batch.to_device` counts, not the one inside it.
    """
    frame, library_place = sys._getframe(1), ""
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_PACKAGE) and frame.f_code.co_name != "to_device":
            return f"trainer/{path.removeprefix(_PACKAGE)}:{frame.f_lineno}{library_place}"
        if not library_place and any(folder in path for folder in _LIBRARIES):
            library_place = f" ({path.rpartition('/site-packages/')[2]}:{frame.f_lineno})"
        frame = frame.f_back
    return f"outside the package{library_place}"
