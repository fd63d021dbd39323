"""A stack of bilinear layers, or of decompositions of layers, as one tensor network."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from tensornet_interp.checks import check_alike, check_int
from tensornet_interp.contraction import Modes, TensorNetwork, Term, rename
from tensornet_interp.layer import BilinearLayer, BilinearMap, as_layer

__all__ = ["BilinearNetwork"]


class BilinearNetwork(TensorNetwork):
    """y = part_L(... part_1(x)): a stack, bottom first, homogeneous of degree 2**L in its (lifted) input.

    Each part is a layer or a decomposition of one; anything else with modes (out, in1, in2) is taken as its dense
    tensor. The constant output coordinate of a lifted last part is dropped. Raises where sizes do not meet, or
    lifted and plain layers are mixed. Open modes of `terms()`: "out", "in1" ... f"in{2**L}".
    """

    def __init__(self, parts: Sequence[TensorNetwork]) -> None:
        if not isinstance(parts, Iterable):
            raise TypeError(f"a network is made from a list of parts, bottom first; got one {type(parts).__name__}")
        for i, part in enumerate(parts):
            if not isinstance(part, TensorNetwork):
                raise TypeError(_refusal(i, part))
        maps = [part if isinstance(part, BilinearMap) else as_layer(part) for part in parts]
        if not maps:
            raise ValueError("a network needs at least one part")
        maps[-1] = maps[-1].drop_constant()
        for i, (below, above) in enumerate(pairwise(maps)):
            if below.constant_out != above.constant_in:
                raise ValueError(
                    f"part {i} {'has' if below.constant_out else 'lacks'} the constant output coordinate that part"
                    f" {i + 1} {'expects' if above.constant_in else 'does not take'}; lift every layer or none"
                )
            size_below, size_above = below.sizes["out"], above.sizes["in1"]
            if size_below != size_above:
                raise ValueError(f"part {i} has {size_below} outputs but part {i + 1} takes {size_above} inputs")
        check_alike(**{f"part {i}": part.to_layer().down for i, part in enumerate(maps)})
        self.parts = tuple(maps)

    @property
    def layers(self) -> tuple[BilinearLayer, ...]:
        """Every part as a CP tensor, bottom first."""
        return tuple(part.to_layer() for part in self.parts)

    @property
    def modes(self) -> Modes:
        """("out", "in1", ..., "in{2**L}")."""
        return ("out", *(f"in{i + 1}" for i in range(2 ** len(self.parts))))

    @property
    def constant_in(self) -> bool:
        """Whether input coordinate 0 is the constant 1, which a call adds."""
        return self.parts[0].constant_in

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, i: int) -> BilinearMap:
        return self.parts[check_int("part", i, -len(self), len(self) - 1)]

    def __iter__(self) -> Iterator[BilinearMap]:
        return iter(self.parts)

    def __repr__(self) -> str:
        return "BilinearNetwork([\n" + "".join(f"  {part!r},\n" for part in self.parts) + "])"

    def __call__(self, x: Tensor) -> Tensor:
        """Layer by layer: (..., in) -> (..., out), plain coordinates in and out.

        Between lifted layers the constant coordinate is handed on as it is, as in the contraction of `terms()`.
        """
        return self.multilinear(self.parts[0].lift_input("x", x))

    def multilinear(self, x: Tensor) -> Tensor:
        """Layer by layer over all coordinates: the constant of a lifted network is a coordinate like any other."""
        for part in self.parts:
            x = part.multilinear(x)
        return x

    def terms(self) -> tuple[Term, ...]:
        """One tree of 2**L - 1 parts; copies of a part share its arrays, so `contract` does their work once."""
        return self._tree(len(self.parts) - 1, "out", 1)

    def replace(self, i: int, part: TensorNetwork) -> "BilinearNetwork":
        """The network with part i exchanged: a decomposition in the place of its layer, say."""
        i = check_int("part", i, -len(self), len(self) - 1) % len(self)
        return BilinearNetwork([*self.parts[:i], part, *self.parts[i + 1 :]])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "BilinearNetwork":
        """The network on a device, in a dtype: the arrays of every part."""
        return BilinearNetwork([part.to(device, dtype) for part in self.parts])

    def _tree(self, level: int, out: str, copy: int) -> tuple[Term, ...]:
        """Terms of copy number `copy` of the part at `level` with everything below it; its output mode is `out`."""
        below = [2 * copy - 1, 2 * copy]
        legs = [f"in{i}" if level == 0 else f"bond{level}.{i}" for i in below]
        terms = self.parts[level].terms()
        inner = {mode for term in terms for mode in term.modes} - {"out", "in1", "in2"}
        # a part's own mode "bond" would become the name of a leg
        stems = {mode: f"{mode}_" if mode.startswith("bond") else mode for mode in inner}
        names = {mode: f"{stems[mode]}{level}.{copy}" for mode in inner}
        tree = rename(terms, names | {"out": out, "in1": legs[0], "in2": legs[1]})
        if level == 0:
            return tree
        return (*tree, *self._tree(level - 1, legs[0], below[0]), *self._tree(level - 1, legs[1], below[1]))


def _refusal(i: int, part: object) -> str:
    kind = type(part)
    if isinstance(part, torch.nn.Linear):
        todo = "absorb a linear map into the layer before or after it: layer.change_basis(inputs=... or outputs=...)"
    elif isinstance(part, torch.nn.Bilinear):
        todo = "make it a layer: BilinearLayer.from_torch_bilinear(module)"
    elif isinstance(part, torch.nn.Module) or callable(part):
        todo = (
            "only bilinear maps make one tensor network: a gate, a norm or a softmax has none. Retrain without it or"
            " fold it into a linear map (a norm with fixed statistics), or take the stack up to it and from it on as"
            " two networks; a bilinear module goes in by its weights: BilinearLayer.from_weights, lift for biases"
        )
    else:
        todo = "give layers or decompositions of layers"
    name = f"torch.nn.{kind.__name__}" if kind.__module__.startswith("torch.nn") else kind.__name__
    return f"part {i} is a {name}, not a layer or a decomposition of one; {todo}"
