"""Decompositions of layers. A decomposition is a frozen set of options; calling it on a layer returns a result.

The result is a tensor network with the same open modes as the layer, so it can stand wherever the layer stood.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, TypeVar, cast, overload, runtime_checkable

from tensornet_interp.checks import check_int, check_mapping, suggestion
from tensornet_interp.contents import explain_missing_names
from tensornet_interp.decompositions.adapter import (
    TensorlyDecomposition,
    TensorlyNonNegativeParafac,
    TensorlyParafac,
    TensorlyTucker,
    tensorly_adapter,
)
from tensornet_interp.decompositions.block_term import BlockTerm
from tensornet_interp.decompositions.cp import CP, SymmetricCP
from tensornet_interp.decompositions.eigen import Eigen
from tensornet_interp.decompositions.errors import measured
from tensornet_interp.decompositions.output_svd import OutputSVD
from tensornet_interp.decompositions.priors import Factors, NonNegative, Prior, Smooth, Sparse
from tensornet_interp.decompositions.random_components import RandomComponents
from tensornet_interp.decompositions.solve import FitOptions
from tensornet_interp.decompositions.tensor_train import TensorTrainResult
from tensornet_interp.decompositions.tensorly_forms import from_tensorly
from tensornet_interp.decompositions.tucker import HOSVD, Tucker
from tensornet_interp.layer import BilinearLayer, BilinearMap, TensorNetwork
from tensornet_interp.network import BilinearNetwork, check_network
from tensornet_interp.registry import (
    Listed,
    decomposition_problems,
    get_decomposition,
    list_decompositions,
    register_decomposition,
)
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
    "from_tensorly",
    "measured",
    "tensorly_adapter",
]


@runtime_checkable
class Decomposition(Protocol):
    """A decomposition is an object, such as a frozen dataclass, whose fields are options; it is called on a layer.

    Any object with these two methods is one. Its class may declare what holds for the steps of its ladder:
    `nested = True`, the error never rises along the ladder; `fitted = True`, no scalar times the result fits the layer
    better; `odd = True`, the decomposition of -layer is minus that of the layer. What a class does not declare counts
    as False. `check_decomposition` tests what is declared.
    """

    def __call__(self, layer: BilinearLayer) -> TensorNetwork:
        """Return a network with modes (out, in1, in2) that approximates the layer, or equals it."""

    @classmethod
    def ladder(cls, layer: BilinearLayer) -> Sequence["Decomposition"]:
        """Return decompositions of this layer, from a small one to an exact one.

        The sequence is empty if the method cannot reproduce a layer exactly.
        """


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


def decompose(part: TensorNetwork, method: Strategy | Mapping[int, Strategy], /, **options: object) -> TensorNetwork:
    """Decompose a layer, or every layer of a network: `decompose(layer, "eigen", rank=8)` is `Eigen(rank=8)(layer)`.

    method: a registered name, with its options as keywords, or a decomposition object. For a network it can also be a
    mapping from the index of a part to a name or an object; parts that the mapping does not name stay unchanged.

    Result: for a layer, the result of the decomposition, as a bilinear map; for a network, a network whose parts are
    decomposed. A type checker knows the type of the result for every built-in name and for every decomposition object.
    Cost: that of the decomposition. Most methods then measure the relative error: 2 * out * in^2 * (hidden + rank)
    flops, where hidden and rank count the hidden units of the layer and of the result. If 2 * out * in^2 * hidden is
    above 2e11, the error is computed from the factors instead.
    A strategy that acts on another kind of network, such as "ov_svd" on attention layers, says so by its class
    attribute acts_on; it returns a network of that kind.
    Raises TypeError if a strategy does not act on the kind of the part; the error lists those that do.
    Raises ValueError with the known names if the name is unknown, TypeError with the known options if an option is
    unknown, and ValueError if the result and the layer have different modes or sizes.
    """
    if isinstance(method, Mapping):
        if not isinstance(part, BilinearNetwork):
            raise TypeError("a mapping of methods needs a BilinearNetwork; a single layer takes one method")
        if options:
            raise ValueError(
                f"options {sorted(options)} with a mapping of methods: write them into the mapping, as in"
                " {0: Eigen(rank=8)}"
            )
        chosen = [check_int("part", i, -len(part), len(part) - 1) % len(part) for i in method]
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"the mapping names a part twice: {list(method)} of {len(part)} parts")
        for i, strategy in method.items():
            part = part.replace(i, decompose(part[i], strategy))
        return part
    strategy = build(method, options)
    _check_acts_on(strategy, check_network("part", part))
    if hasattr(strategy, "acts_on"):
        return strategy(cast(BilinearLayer, part))
    if isinstance(part, BilinearNetwork):
        return BilinearNetwork([_apply(strategy, layer) for layer in part.layers])
    return _apply(strategy, part.to_layer())


def build(method: Strategy, options: Mapping[str, object]) -> Callable[[BilinearLayer], TensorNetwork]:
    """Return the decomposition with this registered name and these options; an object is returned unchanged.

    Raises TypeError if the decomposition has no such option, and ValueError if options are given together with an
    object.
    """
    if not isinstance(method, str):
        if not callable(method) or isinstance(method, type):
            raise TypeError(f"method must be a registered name or a decomposition object, got {method!r}")
        if options:
            raise ValueError(f"options {sorted(options)} go with a name only; {method!r} has its own options")
        return method
    factory = get_decomposition(method)
    known = list(inspect.signature(factory).parameters)
    for option in check_mapping("options", options):
        if option not in known:
            hint = suggestion(option, known)
            raise TypeError(f"'{method}' has no option '{option}'; it has: {', '.join(known) or 'none'}{hint}")
    return cast(Callable[[BilinearLayer], TensorNetwork], factory(**options))


def _check_acts_on(strategy: object, part: TensorNetwork) -> None:
    """Raise TypeError unless the strategy acts on networks of this kind; it lists the strategies that do."""
    own, bilinear = getattr(strategy, "acts_on", None), isinstance(part, BilinearMap | BilinearNetwork)
    if bilinear if own is None else isinstance(part, own):
        return
    declared = {listed.name: getattr(get_decomposition(listed.name), "acts_on", None) for listed in _usable()}
    fitting = [name for name, other in declared.items() if other is not None and isinstance(part, other)]
    if own is None and not fitting:
        return
    fitting = fitting or [name for name, other in declared.items() if other is None]
    wanted = BilinearLayer if own is None else own
    raise TypeError(
        f"{strategy!r} acts on {wanted.__name__}, not on {type(part).__name__}; these do: {', '.join(fitting)}"
    )


def _usable() -> list[Listed]:
    broken = decomposition_problems()
    return [listed for listed in list_decompositions() if listed.name not in broken]


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
