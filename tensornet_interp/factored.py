"""Define the results with one factor per mode: sums of rank-one terms (CP), and cores with factors (Tucker)."""

from dataclasses import dataclass

from tensorly.cp_tensor import CPTensor
from tensorly.tucker_tensor import TuckerTensor
from torch import Tensor

from tensornet_interp.checks import check_kind, check_tensor
from tensornet_interp.contraction import Term
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.numerics import without_autocast
from tensornet_interp.results import Result
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record

__all__ = ["CPResult", "TuckerResult"]


@register_type("CPResult")
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class CPResult(Result):
    """A CP result holds weights and three factors.

    B[out, in1, in2] = sum_rank weights[rank] outputs[out, rank] left[in1, rank] right[in2, rank]

    The columns of the factors have unit norm, of input factors in the metric if there is one. The component with the
    largest weight magnitude comes first.
    """

    weights: Tensor  # (rank,)
    outputs: Tensor  # (out, rank)
    left: Tensor  # (in, rank)
    right: Tensor  # (in, rank)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_arrays(weights=("rank",), outputs=("out", "rank"), left=("in", "rank"), right=("in", "rank"))

    @property
    def rank(self) -> int:
        """Return the number of components."""
        return len(self.weights)

    def terms(self) -> tuple[Term, ...]:
        """Return four terms: the weights and the three factors."""
        return (
            Term(self.weights, ("rank",)),
            Term(self.outputs, ("out", "rank")),
            Term(self.left, ("in1", "rank")),
            Term(self.right, ("in2", "rank")),
        )

    def records(self) -> list[Record]:
        """Return one record per component: its weight, and the entries of its vectors if they have names."""
        return [
            {
                "component": at,
                "weight": weight,
                "outputs": self._output_entries(self.outputs[:, at]),
                "left": self._input_entries(self.left[:, at]),
                "right": self._input_entries(self.right[:, at]),
            }
            for at, weight in enumerate(self.weights.tolist())
        ]

    def _spectrum(self) -> tuple[Tensor, str]:
        return self.weights, "weights of the components"

    def to_layer(self) -> BilinearLayer:
        """Return the result as a layer; its factor down is outputs * weights."""
        return self.made_layer(down=self.outputs * self.weights, left=self.left, right=self.right)

    def to_tensorly(self) -> CPTensor:
        """Return the result as a `CPTensor` of TensorLy."""
        return CPTensor((self.weights, [self.outputs, self.left, self.right]))


@register_type("TuckerResult")
@dataclass(frozen=True, eq=False, kw_only=True)
class TuckerResult(Result):
    """A Tucker result holds a core (itself a layer), an output factor, and one input factor for both input modes.

    B[out, in1, in2] = sum_a,b,c core[a, b, c] outputs[out, a] inputs[in1, b] inputs[in2, c]

    The columns of the factors are orthonormal, of the input factor in the metric if there is one.
    """

    core: BilinearLayer  # (a, b, c)
    outputs: Tensor  # (out, a)
    inputs: Tensor  # (in, b)
    singular_values: tuple[Tensor, Tensor] | None = None  # all those of the output and the input unfolding; float64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kind("core", self.core, BilinearLayer)
        self.check_arrays(outputs=("out", "a"), inputs=("in", "b"))
        if self.singular_values is not None and not isinstance(self.singular_values, tuple):
            raise TypeError(f"singular_values must be a pair of tensors, got {type(self.singular_values).__name__}")
        for values in self.singular_values or ():
            check_tensor("singular_values", values, ("number",))

    def __repr__(self) -> str:
        n_out, n_in = self.outputs.shape[0], self.inputs.shape[0]
        return f"TuckerResult(out={n_out}, in={n_in}, ranks={self.ranks}, {self._provenance})"

    @property
    def ranks(self) -> tuple[int, int]:
        """Return the pair (output rank, input rank)."""
        return (self.outputs.shape[1], self.inputs.shape[1])

    @property
    def factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the factors of the three modes: (outputs, inputs, inputs)."""
        return (self.outputs, self.inputs, self.inputs)

    @property
    def filters(self) -> Tensor:
        """Return the input factor, (in, b)."""
        return self.inputs

    def terms(self) -> tuple[Term, ...]:
        """Return six terms: the output factor, the input factor twice, and the three factors of the core."""
        return (
            Term(self.outputs, ("out", "core_out")),
            Term(self.inputs, ("in1", "core_in1")),
            Term(self.inputs, ("in2", "core_in2")),
            Term(self.core.down, ("core_out", "rank")),
            Term(self.core.left, ("core_in1", "rank")),
            Term(self.core.right, ("core_in2", "rank")),
        )

    def records(self) -> list[Record]:
        """Return one record per column of the two factors: its side, its singular value if known, its named entries."""
        found = []
        for side, factor in enumerate((self.outputs, self.inputs)):
            known = self.singular_values[side].tolist() if self.singular_values else [None] * factor.shape[1]
            for at, (column, value) in enumerate(zip(factor.T, known, strict=False)):
                named = (None, self._input_entries(column)) if side else (self._output_entries(column), None)
                found.append({"side": "input" if side else "output", "component": at, "singular_value": value})
                found[-1] |= {"outputs": named[0], "inputs": named[1]}
        return found

    def _spectrum(self) -> tuple[Tensor, str]:
        if self.singular_values is None:
            return super()._spectrum()
        return self.singular_values[1], "singular values of the input unfolding"

    @without_autocast
    def to_layer(self) -> BilinearLayer:
        """Return the result as a layer with as many hidden units as the core; the factors of the two are multiplied."""
        return self.made_layer(
            down=self.outputs @ self.core.down, left=self.inputs @ self.core.left, right=self.inputs @ self.core.right
        )

    def to_tensorly(self) -> TuckerTensor:
        """Return the result as a `TuckerTensor` of TensorLy; its core is dense, with a * b * b entries."""
        return TuckerTensor((self.core.to_tensor(), list(self.factors)))
