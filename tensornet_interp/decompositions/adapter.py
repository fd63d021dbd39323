"""TensorLy's decompositions of a dense tensor: as baselines, and for users of TensorLy."""

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, make_dataclass, replace
from typing import Any, ClassVar, cast

import tensorly
import tensorly.decomposition
import torch
from tensorly.cp_tensor import CPTensor
from tensorly.tt_tensor import TTTensor
from tensorly.tucker_tensor import TuckerTensor
from torch import Tensor

from tensornet_interp.checks import check_int, suggestion
from tensornet_interp.contraction import Term
from tensornet_interp.decompositions.canonical import canonical_cp
from tensornet_interp.decompositions.errors import measured
from tensornet_interp.inner_products.distance import norm
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.report import Report
from tensornet_interp.results import CPResult, Result, TuckerResult

_OURS = ("rank", "random_state", "return_errors", "verbose", "callback")  # what the adapter itself answers for


@dataclass(frozen=True, eq=False, kw_only=True)
class TensorTrainResult(Result):
    """A tensor train: B[out, in1, in2] = sum_a,b outputs[out, a] middle[a, in1, b] inputs[in2, b]."""

    outputs: Tensor  # (out, a)
    middle: Tensor  # (a, in, b)
    inputs: Tensor  # (in, b)

    def __repr__(self) -> str:
        n_out, n_in = self.outputs.shape[0], self.inputs.shape[0]
        ranks = (self.outputs.shape[1], self.inputs.shape[1])
        return f"TensorTrainResult(out={n_out}, in={n_in}, ranks={ranks}, {self._provenance})"

    def terms(self) -> tuple[Term, ...]:
        """Return the three cores of the train."""
        return (
            Term(self.outputs, ("out", "a")),
            Term(self.middle, ("a", "in1", "b")),
            Term(self.inputs, ("in2", "b")),
        )

    def to_layer(self) -> BilinearLayer:
        """Return the train as a layer of rank a * b."""
        a, size, b = self.middle.shape
        return self._made_layer(
            down=self.outputs.repeat_interleave(b, 1),
            left=self.middle.permute(1, 0, 2).reshape(size, a * b),
            right=self.inputs.repeat(1, a),
        )

    def to_tensorly(self) -> TTTensor:
        """Return the train as TensorLy's `TTTensor`."""
        return TTTensor([self.outputs[None], self.middle, self.inputs.T[:, :, None]])


@dataclass(frozen=True, eq=False, kw_only=True)
class TensorlyDecomposition:
    """Decompose the symmetrized dense tensor B[out, in1, in2] by a function of `tensorly.decomposition`.

    `tensorly_adapter` makes one class per function; the other fields of that class are the options of the function.
    rank: as the function takes it, within the sizes of the tensor: one number for a CP tensor; (out, in1, in2) or one
    number for all modes for a Tucker tensor; (a, b) or one number for a tensor train.
    seed: TensorLy's random_state.
    max_elements: the size out * in^2 of the largest dense tensor that may be formed.

    Result: a `CPResult`, a `TuckerResult` or a tensor train, with TensorLy's relative errors as convergence, and
    "tolerance" or "max_iterations" as stop reason. TensorLy fits two input factors to a Tucker tensor: ours is an
    orthonormal basis of both, of rank up to twice the input rank, and the core is rotated into it; nothing is lost.
    Not differentiable.
    Cost: out * in^2 numbers, and TensorLy's own work on them.
    Raises ValueError if the rank or the dense tensor is too large, if the layer is zero, or if TensorLy returns numbers
    that are not finite; TypeError if it returns another kind of tensor.
    Source: Kossaifi, Panagakis, Anandkumar and Pantic, TensorLy, JMLR 20(26), 2019.
    """

    rank: int | Sequence[int]
    seed: int = 0
    max_elements: int = 10**8
    function: ClassVar[str]

    def __post_init__(self) -> None:
        for rank in self.rank if isinstance(self.rank, Sequence) else [self.rank]:
            check_int("rank", rank, 1)
        check_int("seed", self.seed, 0, 2**32 - 1, "numpy's limit")
        check_int("max_elements", self.max_elements, 1)

    def __repr__(self) -> str:
        shown = [f for f in fields(self) if f.default is MISSING or getattr(self, f.name) is not f.default]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in shown)})"

    @classmethod
    def ladder(cls, layer: BilinearLayer) -> Sequence["TensorlyDecomposition"]:
        """Return steps up to full ranks, which is exact, for Tucker tensors and tensor trains; none for the others."""
        n_out, n_in, _ = layer.shape
        half = (n_in + 1) // 2
        if cls.function == "tucker":
            ranks = [(1, 1, 1), (min(half, n_out), half, half), (n_out, n_in, n_in)]
            return [cls(rank=rank) for rank in ranks]
        if cls.function == "tensor_train":
            return [cls(rank=1), cls(rank=(min(n_out, n_in**2), n_in))]
        return []

    @torch.no_grad()
    def __call__(self, layer: BilinearLayer) -> Result:
        """Decompose the dense tensor. The work is done in float64, and the result has the layer's dtype."""
        rank = self._rank(*layer.shape[:2])
        elements = layer.shape[0] * layer.shape[1] ** 2
        if elements > self.max_elements:
            raise ValueError(
                f"TensorLy needs the dense tensor {layer.shape}: {elements:.1e} elements, more than"
                f" max_elements={self.max_elements:.0e}; raise it, or take a method that works on the factors"
            )
        scale = float(norm(layer))
        if scale == 0:
            raise ValueError(f"{layer!r} is zero: there is nothing that TensorLy could fit")
        # of norm 1, because TensorLy compares with fixed numbers: the result must not depend on the scale
        wide = layer.to(dtype=torch.float64)
        dense = replace(wide, down=wide.down / scale).to_tensor()
        with _pytorch_backend():
            found = getattr(tensorly.decomposition, self.function)((dense + dense.mT) / 2, rank, **self._arguments())
        tensor, errors = found if isinstance(found, tuple) else (found, [])
        if not isinstance(tensor, CPTensor | TuckerTensor | TTTensor):
            raise TypeError(f"{self.function} returned a {type(tensor).__name__}, which has no form of ours")
        if not all(bool(torch.isfinite(array).all()) for array in _arrays(tensor)):
            raise ValueError(f"{self!r} of {layer!r}: TensorLy returned numbers that are not finite")
        made = self._fields(tensor, scale)
        convergence = tuple(float(error) for error in errors)
        stop = self._stop_reason(len(convergence))
        report = Report.of(layer, self, seed=self.seed, convergence=convergence, stop_reason=stop)
        kind: type[Result] = CPResult if "weights" in made else TuckerResult if "core" in made else TensorTrainResult
        return measured(kind, layer, report, **made)

    def _arguments(self) -> dict[str, Any]:
        own = {f.name for f in fields(TensorlyDecomposition)}
        # copied: a start or a mask stays the caller's
        options = {f.name: copy.deepcopy(getattr(self, f.name)) for f in fields(self) if f.name not in own}
        known = inspect.signature(getattr(tensorly.decomposition, self.function)).parameters
        return options | {"random_state": self.seed} | ({"return_errors": True} if "return_errors" in known else {})

    def _rank(self, n_out: int, n_in: int) -> int | list[int]:
        """Return the rank as TensorLy takes it.

        A rank above a size raises, since TensorLy would fill up the factor with random columns.
        """
        several = isinstance(self.rank, Sequence)
        if "tucker" in self.function:
            sizes = {"out": n_out, "in1": n_in, "in2": n_in}
        elif "tensor_train" in self.function:
            sizes = {"a": min(n_out, n_in**2), "b": n_in}
        elif several:
            raise TypeError(f"rank of {self.function} must be one whole number, got {self.rank!r}")
        else:
            return check_int(
                "rank", self.rank, 1, min(n_out * n_in, n_in**2), f"min(out * in, in^2) for out={n_out}, in={n_in}"
            )
        ranks = list(cast(Sequence[int], self.rank)) if several else [cast(int, self.rank)] * len(sizes)
        if len(ranks) != len(sizes):
            raise ValueError(f"rank of {self.function} must be one number or {len(sizes)} {tuple(sizes)}, got {ranks}")
        for number, (mode, size) in zip(ranks, sizes.items(), strict=True):
            check_int("rank", number, 1, size, f"the size of mode '{mode}'")
        return [1, *ranks, 1] if "tensor_train" in self.function else ranks

    def _stop_reason(self, iterations: int) -> str:
        limit = getattr(self, "n_iter_max", 0)
        if not iterations:
            return "not told by TensorLy" if limit else "direct"
        return "max_iterations" if iterations >= limit else "tolerance"

    def _fields(self, tensor: Any, scale: float) -> dict[str, Any]:
        if isinstance(tensor, CPTensor):
            layer = BilinearLayer.from_cp(tensor)
            return canonical_cp(replace(layer, down=layer.down * scale))
        if isinstance(tensor, TuckerTensor):
            return _tucker_fields(tensor[0] * scale, *tensor[1])
        first, middle, last = tensor.factors
        return {"outputs": first[0], "middle": middle * scale, "inputs": last[:, :, 0].T}


def tensorly_adapter(function: str) -> type[TensorlyDecomposition]:
    """Return the decomposition class of `tensorly.decomposition.<function>(tensor, rank, ...)`.

    The options of the function are the fields of the class. Register it under a name of your own:
    `register_decomposition("tt")(tensorly_adapter("tensor_train"))`.
    Raises ValueError if there is no such function, or if it takes no rank or no random state.

    Example:
    >>> tensorly_adapter("parafac")(rank=2, n_iter_max=50)
    TensorlyParafac(rank=2, n_iter_max=50)
    """
    known = [name for name, item in vars(tensorly.decomposition).items() if inspect.isfunction(item)]
    if function not in known:
        raise ValueError(f"tensorly.decomposition has no function {function!r}{suggestion(function, known)}")
    parameters = inspect.signature(getattr(tensorly.decomposition, function)).parameters
    missing = [name for name in ("rank", "random_state") if name not in parameters]
    if missing:
        raise ValueError(f"tensorly.decomposition.{function} takes no {' and no '.join(missing)}: it cannot be adapted")
    options = list(parameters.values())[1:]  # the first is the tensor
    return make_dataclass(
        "Tensorly" + function.title().replace("_", ""),
        [
            (p.name, object, field() if p.default is inspect.Parameter.empty else field(default=p.default))
            for p in options
            if p.name not in _OURS
        ],
        bases=(TensorlyDecomposition,),
        namespace={"function": function, "__doc__": TensorlyDecomposition.__doc__, "__module__": __name__},
        frozen=True,
        eq=False,
        repr=False,
        kw_only=True,
    )


TensorlyParafac = tensorly_adapter("parafac")
TensorlyTucker = tensorly_adapter("tucker")
TensorlyNonNegativeParafac = tensorly_adapter("non_negative_parafac")


def _arrays(tensor: Any) -> list[Tensor]:
    if isinstance(tensor, CPTensor | TuckerTensor):
        return [tensor[0], *tensor[1]]
    return list(tensor.factors)


def _tucker_fields(core: Tensor, outputs: Tensor, first: Tensor, second: Tensor) -> dict[str, Any]:
    """Return one orthonormal basis of both input factors, with the core rotated into it; nothing is lost."""
    (outputs, r), (first, r1), (second, r2) = (torch.linalg.qr(factor) for factor in (outputs, first, second))
    both = torch.cat([first, second], 1)  # (in, b + c)
    basis, values, _ = torch.linalg.svd(both, full_matrices=False)
    basis = basis[:, values > max(both.shape) * torch.finfo(both.dtype).eps * values[0]]
    core = torch.einsum("abc,xa,yb,zc->xyz", core, r, basis.T @ first @ r1, basis.T @ second @ r2)
    return {"core": BilinearLayer.from_tensor(core, basis="Tucker factors"), "outputs": outputs, "inputs": basis}


@contextmanager
def _pytorch_backend() -> Iterator[None]:
    """Make TensorLy work on torch tensors in this thread; afterwards the backend is the one that the user chose.

    TensorLy's own context sets the backend of every thread on exit, even if it was entered for one thread only.
    """
    before = tensorly.get_backend()
    if before == "pytorch":
        yield
        return
    tensorly.set_backend("pytorch", local_threadsafe=True)
    try:
        yield
    finally:
        tensorly.set_backend(before, local_threadsafe=True)
