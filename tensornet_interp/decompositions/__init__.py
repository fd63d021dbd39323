"""Decompositions of layers. A decomposition is a frozen set of options; calling it on a layer returns a result.

The result is a tensor network with the same open modes as the layer, so it can stand wherever the layer stood.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar, cast, overload

from tensornet_interp.checks import check_int
from tensornet_interp.contents import explain_missing_names
from tensornet_interp.decompositions.adapter import (
    TensorlyDecomposition,
    TensorlyNonNegativeParafac,
    TensorlyParafac,
    TensorlyTucker,
    tensorly_adapter,
)
from tensornet_interp.decompositions.affine_result import AffineResult
from tensornet_interp.decompositions.block_term import BlockTerm
from tensornet_interp.decompositions.cp import CP, SymmetricCP
from tensornet_interp.decompositions.eigen import Eigen
from tensornet_interp.decompositions.errors import measured
from tensornet_interp.decompositions.output_svd import OutputSVD
from tensornet_interp.decompositions.priors import Factors, NonNegative, Prior, Smooth, Sparse
from tensornet_interp.decompositions.random_components import RandomComponents
from tensornet_interp.decompositions.solve import FitOptions
from tensornet_interp.decompositions.strategies import (
    Decomposition,
    Strategy,
    apply_strategy,
    check_acts_on,
    own_options,
)
from tensornet_interp.decompositions.tensor_train import TensorTrainResult
from tensornet_interp.decompositions.tensorly_forms import from_tensorly
from tensornet_interp.decompositions.tucker import HOSVD, Tucker
from tensornet_interp.decompositions.whitened import Whitened, build, moments_by_part
from tensornet_interp.factored import CPResult, TuckerResult
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import BilinearLayer, BilinearMap, TensorNetwork
from tensornet_interp.moments import Moments
from tensornet_interp.network import BilinearNetwork, check_network
from tensornet_interp.registry import register_decomposition
from tensornet_interp.spectral import SpectralResult

__all__ = [
    "BUILT_IN",
    "CP",
    "HOSVD",
    "AffineResult",
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
    "Whitened",
    "build",
    "decompose",
    "from_tensorly",
    "measured",
    "tensorly_adapter",
]


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


@needs_float64
def decompose(part: TensorNetwork, method: Strategy | Mapping[int, Strategy], /, **options: object) -> TensorNetwork:
    """Decompose a layer, or every layer of a network: `decompose(layer, "eigen", rank=8)` is `Eigen(rank=8)(layer)`.

    method: a registered name, with its options as keywords, or a decomposition object. For a network it can also be a
    mapping from the index of a part to a name or an object; parts that the mapping does not name stay unchanged.
    options: also `moments`, and with it "ridge" and "linear": the method is then a `Whitened` strategy, which
    decomposes in the metric of the inputs. For a network `moments` is a list with one `Moments` per part, or a mapping
    from the index of a part. If a method has an option of such a name itself, it gets the option; use `Whitened` then.

    Result: for a layer, the result of the decomposition, as a bilinear map; for a network, a network whose parts are
    decomposed. A type checker knows the type of the result for every built-in name and for every decomposition object.
    Cost: that of the decomposition. Most methods then measure the relative error: 2 * out * in^2 * (hidden + rank)
    flops, and 2 * hidden^2 * (4 * in + out) for the norm of the layer. hidden and rank count the hidden units of the
    layer and of the result. If 2 * out * in^2 * hidden is above 2e11, the error is computed from the factors instead.
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
    if isinstance(part, BilinearNetwork):
        moments: Sequence[Moments | None] = [None] * len(part)
        if options.get("moments") is not None and "moments" not in own_options(method):
            moments = moments_by_part(part, options.pop("moments"))
        strategies = [build(method, options if given is None else options | {"moments": given}) for given in moments]
        check_acts_on(strategies[0], part)
        return BilinearNetwork([apply_strategy(*pair) for pair in zip(strategies, part.layers, strict=True)])
    strategy = build(method, options)
    check_acts_on(strategy, check_network("part", part))
    if hasattr(strategy, "acts_on"):
        return strategy(cast(BilinearLayer, part))
    return apply_strategy(strategy, part.to_layer())
