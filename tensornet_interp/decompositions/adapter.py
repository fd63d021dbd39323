"""Decompose the dense tensor of a layer by functions of TensorLy, as baselines or because users know them."""

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

from tensornet_interp.checks import check_int, check_kind, suggestion
from tensornet_interp.decompositions.errors import measured
from tensornet_interp.decompositions.tensor_train import TensorTrainResult
from tensornet_interp.decompositions.tensorly_forms import fields_of
from tensornet_interp.factored import CPResult, TuckerResult
from tensornet_interp.float64 import needs_float64
from tensornet_interp.inner_products.distance import norm
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.report import Report
from tensornet_interp.results import Result

_OURS = ("rank", "random_state", "return_errors", "verbose", "callback")  # arguments that the adapter itself sets


@dataclass(frozen=True, eq=False, kw_only=True)
class TensorlyDecomposition:
    """Decompose the symmetrized dense tensor B[out, in1, in2] by a function of `tensorly.decomposition`.

    `tensorly_adapter` makes one class for each function. The further fields of such a class are the options of the
    function.
    rank: the rank in the form that the function takes. A CP tensor takes one number; a Tucker tensor takes (out, in1,
    in2) or one number for all modes; a tensor train takes (a, b) or one number for both. No rank may be above the size
    of its mode; the rank of a CP tensor is at most min(out * in, in^2).
    seed: a whole number, passed to TensorLy as random_state.
    max_elements: the largest number of entries, out * in^2, of a dense tensor that may be formed.

    Result: a `CPResult`, a `TuckerResult` or a `TensorTrainResult`. The convergence in its report holds TensorLy's
    errors, which are the errors of tensors that are not symmetrized; its last entry is the relative error of the
    result. The stop reason is "tolerance" or "max_iterations"; "direct" for a function that does not iterate; "not told
    by TensorLy" for a function that iterates and returns no errors. TensorLy fits two different input factors to a
    Tucker tensor. The `TuckerResult` instead holds one orthonormal basis of both factors, so its input rank can be
    twice the given input rank. The core is transformed to this basis without loss. The result is not differentiable.
    Cost: memory for out * in^2 numbers, and the work of TensorLy on these numbers.
    Raises ValueError if the rank or the dense tensor is too large, if the layer is zero, or if TensorLy returns numbers
    that are not finite; TypeError if TensorLy returns another kind of tensor.
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
        """Return decompositions of growing rank for "tucker" and "tensor_train"; the last has full ranks and is exact.

        Return an empty list for all other functions.
        """
        n_out, n_in, _ = layer.shape
        few = (n_in + 3) // 4  # TensorLy's two input factors together span twice as many
        if cls.function == "tucker":
            ranks = [(1, 1, 1), (min(few, n_out), few, few), (n_out, n_in, n_in)]
            return [cls(rank=rank) for rank in dict.fromkeys(ranks)]
        if cls.function == "tensor_train":
            return [cls(rank=rank) for rank in dict.fromkeys([(1, 1), (min(n_out, n_in**2), n_in)])]
        return []

    @needs_float64
    @torch.no_grad()
    def __call__(self, layer: BilinearLayer) -> Result:
        """Decompose the dense tensor of a layer in float64; the result has the dtype of the layer."""
        check_kind("layer", layer, BilinearLayer, "; decompose() takes results and networks")
        rank = self._rank(*layer.shape[:2])
        elements = layer.shape[0] * layer.shape[1] ** 2
        if elements > self.max_elements:
            raise ValueError(
                f"TensorLy needs the dense tensor {layer.shape}: {elements:.1e} elements, more than"
                f" max_elements={self.max_elements:.0e}; increase it, or use a method that works on the factors"
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
            raise TypeError(f"{self.function} returned a {type(tensor).__name__}, which no result type can hold")
        if not all(bool(torch.isfinite(array).all()) for array in _arrays(tensor)):
            raise ValueError(f"{self!r} of {layer!r}: TensorLy returned numbers that are not finite")
        kinds: dict[type, type[Result]] = {CPTensor: CPResult, TuckerTensor: TuckerResult, TTTensor: TensorTrainResult}
        kind = kinds[type(tensor)]
        made = fields_of(_times(tensor, scale), kind)
        convergence = tuple(float(error) for error in errors)
        stop = self._stop_reason(len(convergence))
        report = Report.of(layer, self, seed=self.seed, convergence=convergence, stop_reason=stop)
        result = measured(kind, layer, report, **made)
        if convergence and result.relative_error is not None:
            ended = replace(result.report, convergence=(*convergence[:-1], result.relative_error))
            result = replace(result, report=ended)
        return result

    def _arguments(self) -> dict[str, Any]:
        own = {f.name for f in fields(TensorlyDecomposition)}
        # copied: a start or a mask stays the caller's
        options = {f.name: copy.deepcopy(getattr(self, f.name)) for f in fields(self) if f.name not in own}
        known = inspect.signature(getattr(tensorly.decomposition, self.function)).parameters
        return options | {"random_state": self.seed} | ({"return_errors": True} if "return_errors" in known else {})

    def _rank(self, n_out: int, n_in: int) -> int | list[int]:
        """Return the rank in the form that the TensorLy function takes.

        Raises ValueError if a rank is above the size of its mode, because TensorLy would add random columns to the
        factor.
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


def tensorly_adapter(function: str) -> type[TensorlyDecomposition]:
    """Return the decomposition class that calls `tensorly.decomposition.<function>(tensor, rank, ...)`.

    The fields of the class are the options of the function. Register the class under a name of your choice:
    `register_decomposition("tt")(tensorly_adapter("tensor_train"))`.
    Raises ValueError if TensorLy has no such function, or if the function has no argument rank or random_state.

    Example:
    >>> tensorly_adapter("parafac")(rank=2, n_iter_max=50)
    TensorlyParafac(rank=2, n_iter_max=50)
    """
    known = [name for name, item in vars(tensorly.decomposition).items() if inspect.isfunction(item)]
    if not isinstance(function, str) or function not in known:
        raise ValueError(f"tensorly.decomposition has no function {function!r}{suggestion(function, known)}")
    parameters = inspect.signature(getattr(tensorly.decomposition, function)).parameters
    missing = [name for name in ("rank", "random_state") if name not in parameters]
    if missing:
        raise ValueError(f"tensorly.decomposition.{function} takes no {' and no '.join(missing)}: it cannot be adapted")
    options = list(parameters.values())[1:]  # the first is the tensor
    anyone = "a function of `tensorly.decomposition`"
    described = (TensorlyDecomposition.__doc__ or "").replace(anyone, f"`tensorly.decomposition.{function}`")
    return make_dataclass(
        "Tensorly" + function.title().replace("_", ""),
        [
            (p.name, object, field() if p.default is inspect.Parameter.empty else field(default=p.default))
            for p in options
            if p.name not in _OURS
        ],
        bases=(TensorlyDecomposition,),
        namespace={"function": function, "__doc__": described, "__module__": __name__},
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


def _times(tensor: Any, scale: float) -> Any:
    """Return a tensor of TensorLy, multiplied by `scale`."""
    if isinstance(tensor, CPTensor):
        first, *others = tensor.factors
        return CPTensor((tensor.weights, [first * scale, *others]))
    if isinstance(tensor, TuckerTensor):
        return TuckerTensor((tensor.core * scale, tensor.factors))
    first, *others = tensor.factors
    return TTTensor([first * scale, *others])


@contextmanager
def _pytorch_backend() -> Iterator[None]:
    """Use TensorLy's PyTorch backend in this thread during a `with` block; afterwards restore the backend of the user.

    TensorLy's own context manager is not used: on exit it changes the backend of every thread.
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
