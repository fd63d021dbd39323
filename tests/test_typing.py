"""What a user's type checker knows of `decompose`: mypy reads this file in strict mode, and it runs as a test.

`assert_type` is an error for mypy if a type is Any or another one; `isinstance` shows that the type is true.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_type

import pytest

from tensornet_interp import (
    CP,
    HOSVD,
    BilinearLayer,
    BilinearMap,
    BilinearNetwork,
    BlockTerm,
    CPResult,
    Decomposition,
    Eigen,
    OutputSVD,
    SpectralResult,
    SymmetricCP,
    TensorNetwork,
    Term,
    Tucker,
    TuckerResult,
    __version__,
    decompose,
    register_decomposition,
)
from tensornet_interp.decompositions import RandomComponents
from tensornet_interp.registry import scratch_registry
from tensornet_interp.testing import random_layer

LAYER = random_layer(2, 3, 4, seed=0)
NETWORK = BilinearNetwork([LAYER])


def test_strategies_by_object_have_the_type_of_their_result() -> None:
    assert isinstance(assert_type(decompose(LAYER, Eigen(rank=2)), SpectralResult), SpectralResult)
    assert isinstance(assert_type(decompose(LAYER, OutputSVD(blocks=1)), SpectralResult), SpectralResult)
    assert isinstance(assert_type(decompose(LAYER, SymmetricCP(rank=2)), SpectralResult), SpectralResult)
    assert isinstance(assert_type(decompose(LAYER, BlockTerm(blocks=1, rank=2)), SpectralResult), SpectralResult)
    assert isinstance(assert_type(decompose(LAYER, CP(rank=2)), CPResult), CPResult)
    assert isinstance(assert_type(decompose(LAYER, RandomComponents(rank=2)), CPResult), CPResult)
    assert isinstance(assert_type(decompose(LAYER, HOSVD(ranks=(1, 2))), TuckerResult), TuckerResult)
    assert isinstance(assert_type(decompose(LAYER, Tucker(ranks=(1, 2))), TuckerResult), TuckerResult)


def test_strategies_by_name_have_the_type_of_their_result() -> None:
    assert isinstance(assert_type(decompose(LAYER, "eigen", rank=2), SpectralResult), SpectralResult)
    assert isinstance(assert_type(decompose(LAYER, "output_svd", blocks=1), SpectralResult), SpectralResult)
    assert isinstance(assert_type(decompose(LAYER, "symmetric_cp", rank=2), SpectralResult), SpectralResult)
    assert isinstance(assert_type(decompose(LAYER, "block_term", blocks=1, rank=2), SpectralResult), SpectralResult)
    assert isinstance(assert_type(decompose(LAYER, "cp", rank=2), CPResult), CPResult)
    assert isinstance(assert_type(decompose(LAYER, "random_components", rank=2), CPResult), CPResult)
    assert isinstance(assert_type(decompose(LAYER, "tensorly_parafac", rank=2), CPResult), CPResult)
    assert isinstance(assert_type(decompose(LAYER, "tensorly_non_negative_parafac", rank=2), CPResult), CPResult)
    assert isinstance(assert_type(decompose(LAYER, "hosvd", ranks=(1, 2)), TuckerResult), TuckerResult)
    assert isinstance(assert_type(decompose(LAYER, "tucker", ranks=(1, 2)), TuckerResult), TuckerResult)
    assert isinstance(assert_type(decompose(LAYER, "tensorly_tucker", rank=(2, 2, 2)), TuckerResult), TuckerResult)


def test_a_result_is_decomposed_again_as_a_layer_is() -> None:
    result = decompose(LAYER, "cp", rank=2)
    assert isinstance(assert_type(decompose(result, "eigen"), SpectralResult), SpectralResult)


def test_a_network_gives_a_network() -> None:
    mapping: dict[int, CP] = {0: CP(rank=2)}
    assert isinstance(assert_type(decompose(NETWORK, "eigen", rank=2), BilinearNetwork), BilinearNetwork)
    assert isinstance(assert_type(decompose(NETWORK, Eigen(rank=2)), BilinearNetwork), BilinearNetwork)
    assert isinstance(assert_type(decompose(NETWORK, {0: "hosvd"}), BilinearNetwork), BilinearNetwork)
    assert isinstance(assert_type(decompose(NETWORK, mapping), BilinearNetwork), BilinearNetwork)


@dataclass(frozen=True)
class Units:
    """A decomposition of a user, that says what it returns."""

    count: int = 1

    def __call__(self, layer: BilinearLayer) -> CPResult:
        return RandomComponents(rank=self.count)(layer)

    @classmethod
    def ladder(cls, layer: BilinearLayer) -> Sequence["Units"]:
        return [cls(count) for count in (1, layer.rank)]


class Dense(TensorNetwork):
    """A map that is no layer: its dense tensor alone."""

    @property
    def modes(self) -> tuple[str, ...]:
        return ("out", "in1", "in2")

    def terms(self) -> tuple[Term, ...]:
        return (Term(LAYER.to_tensor(), self.modes),)


def dense(layer: BilinearLayer) -> Dense:
    return Dense()


def test_a_decomposition_of_ones_own_keeps_its_type() -> None:
    assert isinstance(assert_type(decompose(LAYER, Units()), CPResult), CPResult)
    assert isinstance(assert_type(decompose(LAYER, dense), BilinearMap), BilinearMap)
    own: Decomposition = Units(2)
    assert isinstance(assert_type(decompose(LAYER, own), BilinearMap), BilinearMap)
    either: list[str | Decomposition] = ["eigen", Eigen()]
    for method in either:
        assert isinstance(assert_type(decompose(LAYER, method), BilinearMap), BilinearMap)


@scratch_registry()
def test_a_name_that_is_not_ours_gives_a_bilinear_map() -> None:
    assert register_decomposition("units")(Units) is Units
    assert isinstance(assert_type(decompose(LAYER, "units", count=2), BilinearMap), BilinearMap)


def test_any_other_network_gives_a_network_or_a_map() -> None:
    assert isinstance(assert_type(decompose(Dense(), "eigen"), TensorNetwork), SpectralResult)


def test_what_is_wrong_is_wrong_for_the_type_checker_too() -> None:
    with pytest.raises(TypeError, match="a mapping of methods needs a BilinearNetwork"):
        decompose(LAYER, {0: "eigen"})  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="method must be a registered name or a decomposition object"):
        decompose(LAYER, Eigen)  # type: ignore
    with pytest.raises(ImportError):
        from tensornet_interp import decompse  # type: ignore[attr-defined]  # noqa: F401
    assert_type(__version__, str)
