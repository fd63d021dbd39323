"""The result type of decompositions into tensor trains."""

from dataclasses import dataclass

from tensorly.tt_tensor import TTTensor
from torch import Tensor

from tensornet_interp.contraction import Term
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.results import Result
from tensornet_interp.store import register_type


@register_type("TensorTrainResult")
@dataclass(frozen=True, eq=False, kw_only=True)
class TensorTrainResult(Result):
    """A tensor-train result holds the three cores of a tensor train with the ranks a and b.

    B[out, in1, in2] = sum_a,b outputs[out, a] middle[a, in1, b] inputs[in2, b]
    """

    outputs: Tensor  # (out, a)
    middle: Tensor  # (a, in, b)
    inputs: Tensor  # (in, b)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_arrays(outputs=("out", "a"), middle=("a", "in", "b"), inputs=("in", "b"))

    def __repr__(self) -> str:
        n_out, n_in = self.outputs.shape[0], self.inputs.shape[0]
        ranks = (self.outputs.shape[1], self.inputs.shape[1])
        return f"TensorTrainResult(out={n_out}, in={n_in}, ranks={ranks}, {self._provenance})"

    def terms(self) -> tuple[Term, ...]:
        """Return three terms, one for each core of the train."""
        return (
            Term(self.outputs, ("out", "a")),
            Term(self.middle, ("a", "in1", "b")),
            Term(self.inputs, ("in2", "b")),
        )

    def to_layer(self) -> BilinearLayer:
        """Return the train as a layer with a * b hidden units."""
        a, size, b = self.middle.shape
        return self.made_layer(
            down=self.outputs.repeat_interleave(b, 1),
            left=self.middle.permute(1, 0, 2).reshape(size, a * b),
            right=self.inputs.repeat(1, a),
        )

    def to_tensorly(self) -> TTTensor:
        """Return the train as a `TTTensor` of TensorLy."""
        return TTTensor([self.outputs[None], self.middle, self.inputs.T[:, :, None]])
