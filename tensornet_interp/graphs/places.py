"""The places of a stack where dictionaries are taken, and the vectors and codes there."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tensornet_interp.attention import AttentionLayer, LinearMap, Part, SequenceNetwork
from tensornet_interp.checks import check_int, check_kind, check_mapping, check_size
from tensornet_interp.features import Dictionary

PLACES = ("stream", "in", "out")
_EQUAL = 1e-12  # vectors are equal, up to rounding, if their spread is a smaller share of their squares
Place = tuple[int, str]
_POINT = re.compile(r"(?:blocks\.)?(?P<layer>\d+)[-.](?P<place>.+)")


@dataclass(frozen=True, eq=False)
class Places:
    """The dictionaries of a network, by place (part, "stream" | "in" | "out").

    "stream" is the stream that the part reads, before its norm; "in" is after the norm; "out" is what the part adds to
    the stream. A transcoder stands at "in", and its features write at "out".
    """

    network: SequenceNetwork
    dictionaries: dict[Place, Dictionary]

    @classmethod
    def of(cls, network: SequenceNetwork, dictionaries: Mapping[Place, Dictionary]) -> "Places":
        """Check every dictionary against its place."""
        check_kind("network", network, SequenceNetwork)
        if not check_mapping("dictionaries", dictionaries):
            raise ValueError("dictionaries is empty: give at least one, such as {(1, 'out'): dictionary}")
        known = {}
        for place, dictionary in dictionaries.items():
            part, side = check_place_of("a place of dictionaries", network, place)
            name = f"dictionaries[{part}, {side!r}]"
            check_kind(name, dictionary, Dictionary)
            _check_sizes(name, network, part, side, dictionary)
            _check_point(name, network, part, side, dictionary)
            known[part, side] = dictionary
        for part, side in known:
            if side == "in" and known[part, side].point_out is not None and (part, "out") in known:
                raise ValueError(
                    f"part {part} has a transcoder at 'in' and a dictionary at 'out': both say what it writes; give one"
                )
        return cls(network, known)

    def wide(self) -> "Places":
        """Return the same in float64."""
        dictionaries = {place: item.to(dtype=torch.float64) for place, item in self.dictionaries.items()}
        return Places(self.network.to(dtype=torch.float64), dictionaries)

    def writer(self, part: int) -> Place | None:
        """Return the place of the dictionary of what a part writes; None if there is none."""
        if (part, "out") in self.dictionaries:
            return part, "out"
        found = self.dictionaries.get((part, "in"))
        return (part, "in") if found is not None and found.point_out is not None else None

    def reads(self, place: Place) -> bool:
        """Return whether there is an autoencoder at a place, whose features make up the vectors there."""
        found = self.dictionaries.get(place)
        return found is not None and found.point_out is None

    def order(self) -> list[Place]:
        """Return the places, top of the network first: those that depend on others come before them."""
        return sorted(self.dictionaries, key=lambda place: (place[0], PLACES.index(place[1])), reverse=True)


@dataclass(frozen=True, eq=False)
class Trace:
    """What happens in a network for inputs x: streams, vectors after norms and what parts write, ([batch,] s, in)."""

    frozen: SequenceNetwork  # at the patterns and scales of x
    streams: tuple[Tensor, ...]

    @classmethod
    def of(cls, network: SequenceNetwork, x: Tensor) -> "Trace":
        """Run the network once."""
        return cls(*network.trace(x))

    def normed(self, part: int) -> Tensor:
        """Return the vectors that the map of a part reads."""
        norm = self.frozen[part].norm
        return self.streams[part] if norm is None else norm(self.streams[part])

    def written(self, part: int) -> Tensor:
        """Return what a part adds to the stream: its map and its bias."""
        return written(self.frozen[part], self.normed(part))

    def vectors(self, place: Place) -> Tensor:
        """Return the vectors at a place."""
        part, side = place
        if side == "stream":
            return self.streams[part]
        return self.normed(part) if side == "in" else self.written(part)


def share_explained(left: Tensor, spread: Tensor, square: Tensor) -> Tensor:
    """Return 1 - left / spread, sums of squares of what is left and around the mean; NaN if all vectors are equal."""
    return torch.where(spread > _EQUAL * square, 1 - left / spread, math.nan)


def place_name(place: Place) -> str:
    """Return a place in words, such as "1 out"."""
    return f"{place[0]} {place[1]}"


def written(part: Part, h: Tensor) -> Tensor:
    """Return what a part adds to the stream for vectors h after its norm."""
    y: Tensor = SequenceNetwork([Part(part.map)])(h)
    return y if part.bias is None else y + part.bias


def check_place_of(name: str, network: SequenceNetwork, place: Any) -> Place:
    """Return a place after checks."""
    if not isinstance(place, tuple) or len(place) != 2:
        raise TypeError(f"{name} must be (part, 'stream' | 'in' | 'out'), such as (1, 'out'), got {place!r}")
    part = check_int(f"the part of {name}", place[0], 0, len(network) - 1, f"the network has {len(network)} parts")
    if place[1] not in PLACES:
        raise ValueError(f"{name} must name one of {', '.join(PLACES)}, got {place[1]!r}")
    return part, place[1]


def size_of(network: SequenceNetwork, part: int, side: str) -> int:
    """Return the size of the vectors at a place."""
    map = network[part].map
    mode = "out" if side == "out" else "in1"
    constant = "constant_out" if side == "out" else "constant_in"
    return map.sizes[mode] - bool(getattr(map, constant, False))


def _check_sizes(name: str, network: SequenceNetwork, part: int, side: str, dictionary: Dictionary) -> None:
    check_size("d", network=size_of(network, part, side), **{name: dictionary.width})
    if dictionary.point_out is None:
        return
    if side != "in":
        raise ValueError(f"{name} is a transcoder, which reads what a part reads: give it at ({part}, 'in')")
    check_size("d_out", network=size_of(network, part, "out"), **{name: len(dictionary.decoder)})


def _check_point(name: str, network: SequenceNetwork, part: int, side: str, dictionary: Dictionary) -> None:
    """Raise ValueError if the `point` of a dictionary says that it is of another layer, point or normalisation."""
    found = _POINT.fullmatch(dictionary.point)
    if found is None:
        return
    layer, point = int(found["layer"]), found["place"].replace("hook_", "").replace("_", "-")
    if found["place"] == "hook_mlp_in":  # TransformerLens's hook of this name is before the norm
        point = "resid-mid"
    heads = [i for i, item in enumerate(network) if isinstance(item.map, AttentionLayer)]
    maps = [i for i, item in enumerate(network) if not isinstance(item.map, AttentionLayer | LinearMap)]
    of_mlp, of_head = (parts[layer] if layer < len(parts) else None for parts in (maps, heads))
    after = None if of_mlp is None else of_mlp + 1
    before = of_mlp if not heads else of_head
    meant: dict[str, tuple[int | None, str]] = dict.fromkeys(("mlp-in", "mlp.in", "ln2.normalized"), (of_mlp, "in"))
    meant |= dict.fromkeys(("mlp-out", "mlp.out"), (of_mlp, "out"))
    meant |= {"resid-pre": (before, "stream"), "resid-mid": (of_mlp, "stream"), "resid-post": (after, "stream")}
    meant |= {"attn-out": (of_head, "out"), "ln1.normalized": (of_head, "in")}
    if point not in meant:
        return
    wanted, where = meant[point]
    if (wanted, where) != (part, side):
        place = f"({wanted}, {where!r})" if wanted is not None else "in no part, because there are fewer layers"
        raise ValueError(
            f"{name}={dictionary!r} is of {point} of layer {layer}, which in this network is {place}; vectors before"
            " and after a norm are two places"
        )
