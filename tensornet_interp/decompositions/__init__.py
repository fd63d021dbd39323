"""Decompositions of layers. Each is a frozen set of options; called on a layer, it returns a result with its modes."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, TypeVar, cast, overload, runtime_checkable

from tensornet_interp.checks import check_int, suggestion
from tensornet_interp.decompositions.adapter import (
    TensorlyDecomposition,
    TensorlyNonNegativeParafac,
    TensorlyParafac,
    TensorlyTucker,
    TensorTrainResult,
    tensorly_adapter,
)
from tensornet_interp.decompositions.block_term import BlockTerm
from tensornet_interp.decompositions.cp import CP, SymmetricCP
from tensornet_interp.decompositions.eigen import Eigen
from tensornet_interp.decompositions.output_svd import OutputSVD
from tensornet_interp.decompositions.priors import Factors, NonNegative, Prior, Smooth, Sparse
from tensornet_interp.decompositions.random_components import RandomComponents
from tensornet_interp.decompositions.solve import FitOptions
from tensornet_interp.decompositions.tucker import HOSVD, Tucker
from tensornet_interp.layer import BilinearLayer, BilinearMap, TensorNetwork
from tensornet_interp.network import BilinearNetwork, check_network
from tensornet_interp.pages import explain_missing_names
from tensornet_interp.registry import get_decomposition, register_decomposition
from tensornet_interp.results import CPResult, TuckerResult
from tensornet_interp.spectral import SpectralResult

__all__ = [
    "BUILT_IN",
    "CP",
    "HOSVD",
    "BlockTerm",
    "Decomposition",
    "Eigen",
    "Factors",
    "FitOptions",
    "NonNegative",
    "OutputSVD",
    "Prior",
    "RandomComponents",
    "Smooth",
    "Sparse",
    "Strategy",
    "SymmetricCP",
    "TensorTrainResult",
    "TensorlyDecomposition",
    "TensorlyNonNegativeParafac",
    "TensorlyParafac",
    "TensorlyTucker",
    "Tucker",
    "build",
    "decompose",
    "tensorly_adapter",
]


@runtime_checkable
class Decomposition(Protocol):
    """An object whose fields are options, and which is called on a layer. A frozen dataclass is one."""

    def __call__(self, layer: BilinearLayer) -> TensorNetwork:
        """Return a network with modes (out, in1, in2) that stands for the layer."""

    @classmethod
    def ladder(cls, layer: BilinearLayer) -> Sequence["Decomposition"]:
        """Return decompositions of this layer from small to exact; none if the method has no exact end."""


BUILT_IN: dict[str, type] = {
    "block_term": BlockTerm,
    "cp": CP,
    "eigen": Eigen,
    "hosvd": HOSVD,
    "output_svd": OutputSVD,
    "random_components": RandomComponents,
    "symmetric_cp": SymmetricCP,
    "tensorly_non_negative_parafac": TensorlyNonNegativeParafac,
    "tensorly_parafac": TensorlyParafac,
    "tensorly_tucker": TensorlyTucker,
    "tucker": Tucker,
}
for _name, _class in BUILT_IN.items():
    register_decomposition(_name)(_class)

explain_missing_names(__name__)


Strategy = str | Callable[[BilinearLayer], TensorNetwork]
R = TypeVar("R", bound=BilinearMap)
SpectralName = Literal["block_term", "eigen", "output_svd", "symmetric_cp"]
CPName = Literal["cp", "random_components", "tensorly_non_negative_parafac", "tensorly_parafac"]
TuckerName = Literal["hosvd", "tensorly_tucker", "tucker"]


@overload
def decompose(part: BilinearMap, method: SpectralName, /, **options: object) -> SpectralResult: ...
@overload
def decompose(part: BilinearMap, method: CPName, /, **options: object) -> CPResult: ...
@overload
def decompose(part: BilinearMap, method: TuckerName, /, **options: object) -> TuckerResult: ...
@overload
def decompose(part: BilinearMap, method: Callable[[BilinearLayer], R], /) -> R: ...
@overload
def decompose(part: BilinearMap, method: Strategy, /, **options: object) -> BilinearMap: ...
@overload
def decompose(
    part: BilinearNetwork, method: Strategy | Mapping[int, Strategy], /, **options: object
) -> BilinearNetwork: ...
@overload
def decompose(part: TensorNetwork, method: Strategy, /, **options: object) -> TensorNetwork: ...


def decompose(
    part: TensorNetwork, method: Strategy | Mapping[int, Strategy], /, **options: object
) -> BilinearMap | BilinearNetwork:
    """Decompose a layer, or every layer of a network: `decompose(layer, "eigen", rank=8)` is `Eigen(rank=8)(layer)`.

    method: a registered name with its options, a decomposition object, or for a network a mapping from part numbers to
    either; parts that the mapping does not name stay as they are.

    Result: for a layer, what the decomposition returns, as a bilinear map; for a network, the network with its parts
    decomposed. A type checker knows the type of the result for every built-in name and for every decomposition object.
    Cost: that of the decomposition.
    Raises ValueError that lists the known names if the name is unknown, TypeError that lists the known options if an
    option is unknown, and ValueError if the result has other modes than the layer.
    """
    if isinstance(method, Mapping):
        if not isinstance(part, BilinearNetwork):
            raise TypeError("a mapping of methods needs a BilinearNetwork; a single layer takes one method")
        if options:
            raise ValueError(f"options {sorted(options)} with a mapping: put them in it, as {{0: Eigen(rank=8)}}")
        chosen = [check_int("part", i, -len(part), len(part) - 1) % len(part) for i in method]
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"the mapping names a part twice: {list(method)} of {len(part)} parts")
        for i, strategy in method.items():
            part = part.replace(i, decompose(part[i], strategy))
        return part
    strategy = build(method, options)
    if isinstance(part, BilinearNetwork):
        return BilinearNetwork([_apply(strategy, layer) for layer in part.layers])
    return _apply(strategy, check_network("part", part).to_layer())


def build(method: Strategy, options: Mapping[str, object]) -> Callable[[BilinearLayer], TensorNetwork]:
    """Return the decomposition of that name with these options, checked; an object is returned unchanged."""
    if not isinstance(method, str):
        if not callable(method) or isinstance(method, type):
            raise TypeError(f"method must be a registered name or a decomposition object, got {method!r}")
        if options:
            raise ValueError(f"options {sorted(options)} go with a name; {method!r} has its own")
        return method
    factory = get_decomposition(method)
    known = list(inspect.signature(factory).parameters)
    for option in options:
        if option not in known:
            hint = suggestion(option, known)
            raise TypeError(f"'{method}' has no option '{option}'; it has: {', '.join(known) or 'none'}{hint}")
    return cast(Callable[[BilinearLayer], TensorNetwork], factory(**options))


def _apply(strategy: Callable[[BilinearLayer], TensorNetwork], layer: BilinearLayer) -> BilinearMap:
    result = strategy(layer)
    if not isinstance(result, TensorNetwork):
        raise TypeError(f"{strategy!r} returned {type(result).__name__}, not a TensorNetwork")
    if result.sizes != layer.sizes:
        raise ValueError(f"{strategy!r} changed the open modes from {layer.sizes} to {result.sizes}")
    if isinstance(result, BilinearMap):
        return result
    history = (*layer.history, repr(strategy))
    made = result.to_layer()
    return dataclasses.replace(layer, down=made.down, left=made.left, right=made.right, history=history)
