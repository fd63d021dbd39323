"""Stacks over positions: attention, maps at every position, residuals and norms, evaluated part by part."""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.affine import lift_vectors
from tensornet_interp.attention.layer import AttentionLayer
from tensornet_interp.attention.parts import Norm, Part
from tensornet_interp.cards import Card, Shown
from tensornet_interp.checks import (
    DEFAULT_MAX_ELEMENTS,
    check_alike,
    check_choice,
    check_int,
    check_kind,
    check_list,
    check_number,
    check_size,
    check_tensor,
)
from tensornet_interp.contraction import Plan, contract
from tensornet_interp.layer import BilinearMap, TensorNetwork
from tensornet_interp.network import check_network
from tensornet_interp.places import move
from tensornet_interp.stepwise import Planner, Run, sliced, through
from tensornet_interp.store import register_type

_MAPS = (("out", "in1"), ("out", "in1", "in2"))


@register_type("SequenceNetwork")
@dataclasses.dataclass(frozen=True, eq=False, repr=False, init=False)
class SequenceNetwork(Shown):
    """A sequence network is a stack of parts over positions, bottom first: a whole transformer without its tokens.

    x_{l + 1} = residual_l x_l + map_l(norm_l(x_l)) + bias_l, x is (..., position, in)

    parts: a list of `Part`s, or of maps without residual and norm. A map is an attention layer, a bilinear map at every
    position (a layer or a decomposition of one), or a linear map. Biases of lifted maps are exact; their constant
    output is dropped, because the parts pass on plain vectors.

    The network is evaluated and planned part by part, outside `contract`: as one tensor, a stack of polynomial blocks
    has 10^blocks input modes. Raises ValueError if sizes, dtypes or devices differ, or if in and out differ at a
    residual.
    """

    parts: tuple[Part, ...]

    def __init__(self, parts: Sequence[Part | TensorNetwork]) -> None:
        given = check_list("parts", parts, "a network needs at least one")
        object.__setattr__(self, "parts", tuple(_checked(f"part {i}", part) for i, part in enumerate(given)))
        for i, (below, above) in enumerate(pairwise(self.parts)):
            if part_sizes(below)[1] != part_sizes(above)[0]:
                raise ValueError(
                    f"part {i} has {part_sizes(below)[1]} outputs but part {i + 1} takes {part_sizes(above)[0]} inputs"
                )
        check_alike(**{f"part {i}": array_of(part.map) for i, part in enumerate(self.parts)})

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, i: int) -> Part:
        return self.parts[check_int("part", i, -len(self), len(self) - 1)]

    def __iter__(self) -> Iterator[Part]:
        return iter(self.parts)

    def __repr__(self) -> str:
        return "SequenceNetwork([\n" + "".join(f"  {_line(part)},\n" for part in self.parts) + "])"

    def _card(self) -> Card:
        rows = [(f"part {i}", _line(part)) for i, part in enumerate(self.parts)]
        return Card(f"SequenceNetwork: {len(self)} parts", rows)

    def __call__(self, x: Tensor, *, chunk: str | None = None, max_elements: float = DEFAULT_MAX_ELEMENTS) -> Tensor:
        """Return the output (..., position, out) for inputs x (..., position, in).

        chunk: None, "batch" or "position". If the evaluation needs more than `max_elements` elements at once, it runs
        for fewer samples at a time, or, with "position", sample by sample and for fewer positions at a time; keys and
        values of all positions stay in memory. The whole output counts towards the limit.
        Raises ValueError, before any work, if the slices cannot be small enough.
        """
        flat = self._check_input(x)
        samples, step = self._slices(flat, chunk, check_number("max_elements", max_elements, 1))
        pieces = []
        for start in range(0, len(flat), samples):
            rows = slice(start, start + samples)
            y = flat[rows]
            for part in self.parts:
                y = _forward(_of_samples(part, rows), y, contract, step)
            pieces.append(y)
        return torch.cat(pieces).reshape(*x.shape[:-1], -1)

    def plan(self, batch: int, positions: int) -> tuple[tuple[Plan, ...], ...]:
        """Return the plans of the contractions of every part, for `batch` samples; nothing is allocated.

        Planning takes time in proportion to the number of parts. Sums of exponentials and squares are not counted.

        Example: `sum(plan.flops for part in network.plan(8, 256) for plan in part)`.
        """
        most = self.positions or DEFAULT_MAX_ELEMENTS
        size = check_int("batch", batch, 1, DEFAULT_MAX_ELEMENTS), check_int("positions", positions, 1, most)
        return self._planned(*size, None)[0]

    def streams(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the inputs (..., position, in) of every part, and last the output of the network."""
        flat, found = self._check_input(x), [x]
        for part in self.parts:
            flat = _forward(part, flat, contract, None)
            found.append(flat.reshape(*x.shape[:-1], -1))
        return tuple(found)

    def given(self, x: Tensor) -> "SequenceNetwork":
        """Return the network at the patterns and the scales of norms of the inputs x ([batch,] position, in).

        Attention and norms become linear maps, softmax or not, and for x the output stays the same. At given patterns
        every map is linear or bilinear, so writes, paths and read-backs are exact.
        """
        return self.trace(x)[0]

    def trace(self, x: Tensor) -> tuple["SequenceNetwork", tuple[Tensor, ...]]:
        """Return the network at the patterns and scales of x, as `given`, and the `streams` of x, from one pass."""
        if getattr(x, "ndim", 3) > 3:
            raise ValueError(f"x must be ([batch,] position, in), got shape {tuple(x.shape)}")
        flat, streams, frozen = self._check_input(x), [x], []
        for part in self.parts:
            norm = None if part.norm is None else part.norm.given(streams[-1])
            fixed = part.map
            if isinstance(fixed, AttentionLayer):
                fixed = fixed.given(fixed.pattern(streams[-1] if norm is None else norm(streams[-1])))
            frozen.append(part._replace(map=fixed, norm=norm))
            flat = _forward(frozen[-1], flat, contract, None)
            streams.append(flat.reshape(*x.shape[:-1], -1))
        return SequenceNetwork(frozen), tuple(streams)

    def replace(self, i: int, map: TensorNetwork) -> "SequenceNetwork":
        """Return the network with another map in part i, such as a decomposition of its map; the rest stays."""
        i = check_int("i", i, -len(self), len(self) - 1) % len(self)
        part = self.parts[i]._replace(map=check_network("map", map))
        return SequenceNetwork([*self.parts[:i], part, *self.parts[i + 1 :]])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "SequenceNetwork":
        """Return the network with the arrays of every part on a device and in a dtype; None leaves either unchanged."""
        moved = []
        for map, residual, norm, bias in self.parts:
            bias = None if bias is None else move("bias", bias, device, dtype)
            moved.append(Part(_movable(map).to(device, dtype), residual, norm and norm.to(device, dtype), bias))
        return SequenceNetwork(moved)

    @property
    def positions(self) -> int | None:
        """Return the largest number of positions of an input; None if no part mixes positions."""
        found = [part.map.positions for part in self.parts if isinstance(part.map, AttentionLayer)]
        return min(found) if found else None

    def _check_input(self, x: Tensor) -> Tensor:
        """Return x as (batch, position, in)."""
        lift_vectors("x", x, part_sizes(self.parts[0])[0], constant=False, like=array_of(self.parts[0].map))
        if x.ndim < 2:
            raise ValueError(f"x must be (..., position, in), got shape {tuple(x.shape)}")
        most = self.positions
        if most is not None and x.shape[-2] > most:
            raise ValueError(f"x has {x.shape[-2]} positions, but a mask has only {most}")
        flat = x.reshape(-1, *x.shape[-2:])
        for i, (map, _, norm, _) in enumerate(self.parts):
            of_layer = len(map.mask) if isinstance(map, AttentionLayer) and map.mask.ndim == 4 else None
            of_norm = len(norm.scale) if norm is not None and norm.scale is not None and norm.scale.ndim == 2 else None
            for count in (of_layer, of_norm):
                if count not in (None, len(flat)):
                    raise ValueError(f"part {i} is given for {count} samples, but x has {len(flat)}")
        return flat

    def _planned(self, batch: int, positions: int, step: int | None) -> tuple[tuple[tuple[Plan, ...], ...], int]:
        """Return the plans of every part for these sizes, and the most elements in memory at once."""
        plans, peak = [], 0
        x = torch.empty(
            batch, positions, part_sizes(self.parts[0])[0], device="meta", dtype=array_of(self.parts[0].map).dtype
        )
        for part in self.parts:
            planner = Planner()
            planner.start(batch * positions * sum(part_sizes(part)))
            x = _forward(_of_samples(part, slice(batch)), x, planner, step)
            plans.append(tuple(planner.plans))
            peak = max(peak, planner.peak_elements)
        return tuple(plans), peak

    def _slices(self, flat: Tensor, chunk: str | None, limit: float) -> tuple[int, int | None]:
        """Return how many samples, and how many positions of a sample, are evaluated at once."""
        batch, positions, _ = flat.shape
        whole = flat[..., 0].numel() * part_sizes(self.parts[-1])[1]
        peak = self._planned(batch, positions, None)[1]
        samples, step = batch, positions
        if chunk is not None and check_choice("chunk", chunk, ("batch", "position")) and peak > limit:
            room = max(limit - whole, 1)
            while peak > room and samples > 1:
                samples = max(1, min(samples - 1, int(samples * room / peak)))
                peak = self._planned(samples, positions, None)[1]
            while peak > room and step > 1 and chunk == "position":
                step = max(1, min(step - 1, int(step * room / peak)))
                peak = self._planned(1, positions, step)[1]
            peak += whole
        if peak > limit:
            cut = "batch" if batch > 1 else "position"
            remedies = {None: f'cut the evaluation with chunk="{cut}", or', "batch": 'use chunk="position", or'}
            raise ValueError(
                f"x of {batch} samples and {positions} positions needs {peak:.1e} elements at once, more than"
                f" max_elements={limit:.0e}; {remedies.get(chunk, 'use a shorter context, or')} increase max_elements"
            )
        return samples, None if step == positions else step


def _forward(part: Part, x: Tensor, run: Run, step: int | None) -> Tensor:
    """Return the output of a part for x (batch, position, in); a plan leaves out what changes no sizes."""
    map, residual, norm, bias = part
    h = x if norm is None or x.is_meta else norm(x)
    h = pad(h, (1, 0), value=1.0) if _constant(map, "in") else h
    if isinstance(map, AttentionLayer):
        layer, h, _ = map.batched(h)
        y = layer.evaluate((h,), run, step)
    else:
        rows = h.flatten(0, 1)
        y = sliced(run, len(rows), step, lambda some: through(map, rows[some], run), 0).unflatten(0, h.shape[:2])
    y = y[..., 1:] if _constant(map, "out") else y
    if x.is_meta:
        return y
    y = y if bias is None else y + bias
    return y + residual * x if residual else y


def _of_samples(part: Part, rows: slice) -> Part:
    """Return a part with the patterns and scales of some samples."""
    map, norm = part.map, part.norm
    if isinstance(map, AttentionLayer) and map.mask.ndim == 4:
        map = dataclasses.replace(map, mask=map.mask[rows])
    if norm is not None and norm.scale is not None and norm.scale.ndim == 2:
        norm = dataclasses.replace(norm, scale=norm.scale[rows])
    return part._replace(map=map, norm=norm)


def _checked(name: str, part: object) -> Part:
    """Return a part after checks; a map alone becomes a part without residual and norm."""
    map, residual, norm, bias = part if isinstance(part, Part) else (part, 0.0, None, None)
    network = check_network(f"the map of {name}", map)
    residual = check_number(f"the residual of {name}", residual)
    if norm is not None:
        check_kind(f"the norm of {name}", norm, Norm)
    if not isinstance(network, AttentionLayer) and network.modes not in _MAPS:
        raise ValueError(
            f"{name} must be an attention layer, a bilinear or a linear map, but its map has the modes {network.modes};"
            " take the parts of a network one by one"
        )
    if isinstance(network, BilinearMap):
        network = network.drop_constant()
    checked = Part(network, residual, norm, bias)
    size_in, size_out = part_sizes(checked)
    if bias is not None:
        check_tensor(f"the bias of {name}", bias, ("out",))
        check_size("out", map=size_out, bias=len(bias))
        check_alike(map=array_of(network), bias=bias)
    if residual and size_in != size_out:
        raise ValueError(f"the residual of {name} needs as many outputs as inputs, got {size_in} and {size_out}")
    return checked


def _constant(map: TensorNetwork, side: str) -> bool:
    return bool(getattr(map, f"constant_{side}", False))


def part_sizes(part: Part) -> tuple[int, int]:
    """Return the numbers of inputs and outputs, without constants."""
    sizes = part.map.sizes
    return sizes["in1"] - _constant(part.map, "in"), sizes["out"] - _constant(part.map, "out")


def array_of(map: TensorNetwork) -> Tensor:
    """Return an array of a map, for its dtype and device."""
    return map.down if isinstance(map, AttentionLayer) else map.terms()[0].data


def _movable(map: TensorNetwork) -> Any:
    if not hasattr(map, "to"):
        raise TypeError(f"a {type(map).__name__} cannot be moved: it has no method `to`")
    return map


def _line(part: Part) -> str:
    return repr(part.map) + f", residual={part.residual:g}" * bool(part.residual) + ", norm" * (part.norm is not None)
