"""A second device without hardware: tensors that say they are elsewhere, and whose operations run on the CPU.

    import second_device
    second_device.install()
    torch.ones(3, device=second_device.NAME)

It refuses what a GPU refuses: to compute with tensors of the CPU (apart from single numbers, and indices), to be read
as a numpy array, and generators of the CPU; with `install(float64=False)` also float64, like the GPUs of Apple. `syncs`
counts by operation how often the host waited for a number (`item`, `tolist`, `bool`), for a size or for a tensor.

The hooks of torch that this needs are experimental, so it is made for the version of torch that CI pins. It changes the
process: use it in one of its own (`pytest --second-device`).
"""

import os
import sys
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

NAME = "second"
TORCH = "2.13.0"
syncs: Counter[str] = Counter()

_aten = torch.ops.aten
_INDEXED = (_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_)
_COPIES = (_aten.copy_, _aten._to_copy, _aten._copy_from)
_SIZES = (_aten.nonzero, _aten.masked_select, _aten._unique2, _aten.unique_dim, _aten.unique_consecutive)
_WIDE = (torch.float64, torch.complex128)
_REFUSED = f"Cannot convert a tensor of {NAME!r} to float64: the device has none"
_settings = {"float64": True}


class SecondTensor(Tensor):
    """A tensor on the second device; `inner` is the tensor on the CPU that holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "SecondTensor":
        if inner.dtype in _WIDE and not _settings["float64"]:
            raise TypeError(_REFUSED)
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
            layout=inner.layout,
        )
        made.inner = inner
        return made

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"second({self.inner!r})"

    def numpy(self, *args: object, **kwargs: object) -> Any:
        raise TypeError(f"can't convert a tensor of device {NAME!r} to numpy: copy it to the CPU first")

    __array__ = numpy

    def tolist(self) -> Any:
        syncs["tensor"] += 1
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Everywhere(TorchDispatchMode):
    """Sees the operations without a tensor of the device too, such as torch.zeros(3, device="second")."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    packet, leaves = func.overloadpacket, tree_leaves((args, kwargs))
    ours = [leaf for leaf in leaves if isinstance(leaf, SecondTensor)]
    device = kwargs.get("device")
    target = None if device is None else torch.device(device).type
    if not ours and target != NAME:
        return func(*args, **kwargs)
    _check_places(packet, args, leaves, bool(ours), target)
    if ours and kwargs.get("dtype") in _WIDE and not _settings["float64"]:  # on the way to the CPU too
        raise TypeError(_REFUSED)
    if packet is _aten._local_scalar_dense:
        syncs["number"] += 1
        return args[0].inner.item()
    by_inner = {id(leaf.inner): leaf for leaf in ours}
    inner_args, inner_kwargs = tree_map_only(SecondTensor, lambda leaf: leaf.inner, (args, kwargs))
    if target == NAME:
        inner_kwargs["device"] = torch.device("cpu")
    if ours and (target == "cpu" or (packet is _aten.copy_ and not isinstance(args[0], SecondTensor))):
        syncs["tensor"] += 1
    elif packet in _SIZES or (packet in _INDEXED[:1] and any(_is_mask(index) for index in args[1])):
        syncs["size"] += 1
    found = func(*inner_args, **inner_kwargs)
    if target not in (None, NAME):
        return found
    if packet is _aten.copy_ and not isinstance(args[0], SecondTensor):
        return args[0]
    if torch.Tag.inplace_view in func.tags:  # the shape of the wrapper changes too, which runs nothing
        with no_dispatch():
            func(*args, **kwargs)
    return tree_map(lambda leaf: _wrapped(leaf, by_inner, packet), found)


def _wrapped(leaf: object, by_inner: dict[int, SecondTensor], packet: Any) -> object:
    if not isinstance(leaf, Tensor):
        return leaf
    known = by_inner.get(id(leaf))  # what was changed in place
    if known is not None and known.shape != leaf.shape:
        raise NotImplementedError(f"the second device cannot change shapes in place: {packet}")
    return SecondTensor(leaf.resolve_conj().resolve_neg()) if known is None else known


def _is_mask(index: object) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def _check_places(packet: Any, args: Any, leaves: list[Any], ours: bool, target: str | None) -> None:
    generators = [leaf for leaf in leaves if isinstance(leaf, torch.Generator)]
    if any(generator.device.type != NAME for generator in generators):
        raise RuntimeError(f"Expected a {NAME!r} device type for generator but found {generators[0].device}")
    if not ours or packet in _COPIES:
        return
    for leaf in tree_leaves((args[0], args[2:])) if packet in _INDEXED else leaves:
        if isinstance(leaf, Tensor) and not isinstance(leaf, SecondTensor) and leaf.dim():
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found {leaf.device} and {NAME}:0 in {packet}"
            )


def install(*, float64: bool = True) -> None:
    """Make the device of this process; once."""
    _settings["float64"] = float64
    module = backend_registration._DummyBackendModule()
    module.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=module)
    library = torch.library.Library("aten", "IMPL", "PrivateUse1")
    _settings["library"] = library  # it is forgotten with its owner

    def empty(size: Any, **options: Any) -> Tensor:
        return SecondTensor(torch.empty(size, dtype=options.get("dtype"), device="cpu"))

    def empty_strided(size: Any, stride: Any, **options: Any) -> Tensor:
        return SecondTensor(torch.empty_strided(size, stride, dtype=options.get("dtype"), device="cpu"))

    def copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
        return _run(_aten.copy_.default, (target, source), {})

    def number(tensor: Any) -> Any:
        syncs["number"] += 1
        return tensor.inner.item()

    library.impl("empty.memory_format", empty)
    library.impl("empty_strided", empty_strided)
    library.impl("_copy_from", copy_from)
    library.impl("_local_scalar_dense", number)
    _Everywhere().__enter__()


def leave(status: int) -> None:
    """End the process at once: torch's threads for the gradients of the device may abort one that ends by itself."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
