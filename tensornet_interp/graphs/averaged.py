"""The sources of a target on average: mean patterns by offset and mean scales, and how well they predict new text."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.attention import AttentionLayer
from tensornet_interp.features import Dictionary
from tensornet_interp.graphs.arrivals import Arrival, Reader, Setting, reader_size
from tensornet_interp.graphs.places import Place, Places, Trace, place_name, share_explained
from tensornet_interp.graphs.pruning import Atom, Kept, Sources

_CHUNK = 2**24  # numbers worked on at once: 128 MB
_FEATURES = 8192  # features whose rows are formed at once


@dataclass(eq=False)
class Activity:
    """How active the features of one place are on a text."""

    count: Tensor  # (feature,) active positions
    total: Tensor  # (feature,) sum of |activations|
    largest: Tensor  # (feature,) largest |activation|
    least: Tensor  # (feature,) smallest |activation| of an active feature
    vectors: Tensor  # (in,) sum of the vectors that the features stand for
    decoded: Tensor  # (offset, in) sum of what features write, without bias, n positions before
    most: int = 0  # active features at one position
    left: float = 0.0  # sum of squares that the dictionary does not reconstruct
    square: float = 0.0  # of the vectors
    tokens: int = 0

    @property
    def mean(self) -> Tensor:
        """Return the mean |activation| where a feature is active, 0 for one that never is."""
        return self.total / self.count.clamp(min=1)

    def explained(self) -> float:
        """Return the share of the variance of the vectors that the dictionary reconstructs."""
        square = self.vectors.new_tensor(self.square)
        spread = square - self.vectors.square().sum() / self.tokens
        return float(share_explained(self.vectors.new_tensor(self.left), spread, square))


@dataclass(frozen=True, eq=False)
class Averaged:
    """A network at the mean patterns and scales of a text, with the activity of all features there."""

    setting: Setting
    activity: dict[Place, Activity]
    means: dict[Place, Tensor]  # of the vectors at every place of the network, and of its output
    offsets: int

    @classmethod
    def of(cls, places: Places, x: Tensor, offsets: int) -> "Averaged":
        """Average over a text x (sample, position, in)."""
        network, size = places.network, offsets + 1
        activity = {}
        for place, item in places.dictionaries.items():
            zero, width = item.encoder.new_zeros(item.features), len(item.decoder)
            sums_of = zero.new_zeros(width), zero.new_zeros(size, width)
            activity[place] = Activity(zero, zero.clone(), zero.clone(), zero + math.inf, *sums_of)
        scales = [0.0 if part.norm is not None else None for part in network]
        kernels = [
            part.map.down.new_zeros(part.map.heads, size) if isinstance(part.map, AttentionLayer) else None
            for part in network
        ]
        sums = dict[Place, Tensor]()
        for rows in chunked(places, x):
            trace, share = Trace.of(network, rows), len(rows) / len(x)
            for i, part in enumerate(trace.frozen):
                before, kernel = scales[i], kernels[i]
                if before is not None and part.norm is not None and part.norm.scale is not None:
                    scales[i] = before + share * float(part.norm.scale.mean())
                if kernel is not None and isinstance(part.map, AttentionLayer):
                    pattern = part.map.mask
                    for n in range(min(size, pattern.shape[-1])):
                        kernel[:, n] += share * pattern.diagonal(-n, -2, -1).mean((0, -1))
                for side in ("stream", "in", "out"):
                    add_mean(sums, (i, side), trace.vectors((i, side)), share)
            add_mean(sums, (len(network), "stream"), trace.streams[-1], share)
            for place, found in activity.items():
                _count(found, places, place, trace, size)
        patterns = tuple(None if kernel is None else _toeplitz(kernel) for kernel in kernels)
        fixed = tuple(None if scale is None else x.new_tensor(scale) for scale in scales)
        return cls(Setting(places, fixed, patterns), activity, sums, offsets)

    @property
    def explained(self) -> dict[str, float]:
        """Return the share of the variance that each dictionary explains, by place."""
        return {place_name(place): found.explained() for place, found in self.activity.items()}

    def start(self, _position: int) -> Tensor:
        """Return the weights of the reader's own position."""
        return pad(next(iter(self.means.values())).new_ones(1), (0, self.offsets))

    def activation(self, place: Place, feature: int, _position: int) -> float:
        """Return the mean |activation| of a feature where it is active."""
        return float(self.activity[place].mean[feature])

    def end(self, atom: Atom, _position: int) -> tuple[int, int]:
        """Return the position of the node of an atom, and the offset from its target."""
        return -1, -atom.position

    def _arriving(self, reader: Reader, hops: int) -> tuple[list[Arrival], Tensor]:
        """Return the features that reach a reader, and the row of the mean of all else, without its constant."""
        features = [a for a in reader.arrivals(self.setting, self.start(0), hops) if a.kind == "feature"]
        mean = reader.covector @ self.means[mean_place(self.setting.places, reader)]
        for _, place, _, covector, weights in features:
            found = self.activity[place]
            mean = mean - covector @ (weights @ found.decoded) / found.tokens
        return features, mean

    def sources(self, reader: Reader, _position: int, hops: int, sources: Sources) -> dict[str, Tensor]:
        """Add the features that reach a reader, and return the row of the mean of all else."""
        features, mean = self._arriving(reader, hops)
        mean = mean + reader.constant
        for _, place, path, covector, weights in features:
            found, decoder = self.activity[place], self.setting.places.dictionaries[place].decoder
            alive = found.count.nonzero()[:, 0]
            for chosen in alive.split(_FEATURES):
                rows = decoder[:, chosen].T @ covector.T
                for n in weights.nonzero()[:, 0].tolist():
                    amounts, largest = found.mean[chosen], found.largest[chosen]
                    at = torch.full_like(chosen, n)
                    sources.add(place, path, weights[n] * rows, chosen, at, amounts, largest, mean)
            sources.active += found.most * int((weights != 0).sum())
        return {"mean": mean}

    def value(self, reader: Reader, place: Place, feature: int, position: int) -> float:
        """Return NaN: a mean pre-activation has no single value."""
        return math.nan

    def r_squared(
        self, x: Tensor, targets: Sequence[tuple[Reader, Place, int, Kept]], hops: int
    ) -> list[tuple[float, float, float]]:
        """Return R squared of every target on a text (sample, position, in), from three predictions.

        From all features; from the kept ones; and from the kept ones where those that are targets themselves have the
        activation that the graph predicts. targets: those that others depend on come last.
        """
        places, whole = self.setting.places, dict[Place, tuple[list[Arrival], Tensor]]()
        for reader, _, _, _ in targets:
            if reader.place not in whole:
                whole[reader.place] = self._arriving(reader.with_identity(reader_size(places, reader)), hops)
        sums = x.new_zeros(len(targets), 6)  # n, sum p, sum p^2, squared errors of the three predictions
        for rows in chunked(places, x):
            trace = Trace.of(places.network, rows)
            codes = {place: item.encode(trace.vectors(place)) for place, item in places.dictionaries.items()}
            read = {}
            for key, (arrivals, mean) in whole.items():
                read[key] = mean.expand(*rows.shape[:2], -1)
                for _, place, _, covector, weights in arrivals:
                    written = codes[place] @ places.dictionaries[place].decoder.T
                    read[key] = read[key] + shifted(written, weights) @ covector.T
            predicted: dict[tuple[Place, int], Tensor] = {}
            for number in reversed(range(len(targets))):
                reader, place, feature, kept = targets[number]
                truth = pre_activation(places, trace, reader, place, feature)
                some = [kept.others["mean"].expand(*rows.shape[:2], -1)] * 2
                for atom, row in zip(kept.atoms, kept.rows, strict=True):
                    true = codes[atom.place][..., atom.feature]
                    for i, code in enumerate((true, predicted.get((atom.place, atom.feature), true))):
                        moved = pad(code, (atom.position, 0))[:, : rows.shape[1]]
                        some[i] = some[i] + moved[..., None] * row
                guesses = [reader(read[reader.place] @ reader.covector.T + reader.constant), *map(reader, some)]
                if place[0] >= 0:
                    predicted[place, feature] = self._activated(place, feature, guesses[2])
                errors = [(truth - guess).square().sum() for guess in guesses]
                sums[number, 0] += truth.numel()
                sums[number, 1:] += torch.stack([truth.sum(), truth.square().sum(), *errors])
        spread = sums[:, 2] - sums[:, 1].square() / sums[:, 0]
        shares = share_explained(sums[:, 3:], spread[:, None], sums[:, 2:3])
        return [(a, b, c) for a, b, c in shares.tolist()]

    def _activated(self, place: Place, feature: int, values: Tensor) -> Tensor:
        """Return activations from pre-activations; TopK is replaced by the smallest activation in the text."""
        least = self.activity[place].least[feature]
        return torch.where(activated(self.setting.places.dictionaries[place], feature, values).abs() < least, 0, values)


def activated(dictionary: Dictionary, feature: int, values: Tensor) -> Tensor:
    """Return activations from pre-activations of one feature, without TopK, which needs those of all."""
    values = values.clamp(min=0) if dictionary.rectify else values
    return values if dictionary.threshold is None else values * (values > dictionary.threshold[feature])


def pre_activation(places: Places, trace: Trace, reader: Reader, place: Place, feature: int) -> Tensor:
    """Return the pre-activations of a feature of a dictionary, or the outputs along a direction, as computed."""
    if place[0] < 0:
        return trace.streams[-1] @ reader.covector[0]
    found: Tensor = places.dictionaries[place].pre_activations(trace.vectors(place))[..., feature]
    return found


def shifted(vectors: Tensor, weights: Tensor) -> Tensor:
    """Return sum_n weights[n] vectors[..., s - n, :], with zeros before the first position."""
    total = torch.zeros_like(vectors)
    for n in weights.nonzero()[:, 0].tolist():
        if n < vectors.shape[-2]:
            total[..., n:, :] += weights[n] * vectors[..., : vectors.shape[-2] - n, :]
    return total


def mean_place(places: Places, reader: Reader) -> Place:
    """Return the place of the vectors that a reader's covector is for."""
    part, side = reader.place
    return (part, "in") if side == "out" and reader.signs is not None else (part, side)


def chunked(places: Places, x: Tensor) -> Iterator[Tensor]:
    """Yield as many samples at a time as fit."""
    features = sum(item.features for item in places.dictionaries.values())
    yield from x.split(max(1, _CHUNK // (x.shape[1] * features)))


def add_mean(sums: dict[Place, Tensor], place: Place, vectors: Tensor, share: float) -> None:
    """Add the mean of some samples to the sum."""
    mean = share * vectors.mean((0, 1))
    sums[place] = sums[place] + mean if place in sums else mean


def _count(found: Activity, places: Places, place: Place, trace: Trace, offsets: int) -> None:
    dictionary, vectors = places.dictionaries[place], trace.vectors(place)
    codes = dictionary.encode(vectors)
    on = codes != 0
    found.count += on.sum((0, 1))
    found.total += codes.abs().sum((0, 1))
    found.largest = torch.maximum(found.largest, codes.abs().amax((0, 1)))
    found.least = torch.minimum(found.least, torch.where(on, codes.abs(), math.inf).amin((0, 1)))
    found.most = max(found.most, int(on.sum(-1).max()))
    made = trace.vectors(place if dictionary.point_out is None else (place[0], "out"))
    written = codes @ dictionary.decoder.T
    left = made - written if dictionary.decoder_bias is None else made - written - dictionary.decoder_bias
    left = left if dictionary.skip is None else left - vectors @ dictionary.skip.T
    found.left += float(left.square().sum())
    found.square += float(made.square().sum())
    found.tokens += made[..., 0].numel()
    before = [written[:, : max(0, written.shape[1] - n)].sum((0, 1)) for n in range(offsets)]
    found.vectors += made.sum((0, 1))
    found.decoded += torch.stack(before)


def _toeplitz(kernel: Tensor) -> Tensor:
    """Return patterns (head, n, m): what is m before the reader, through a head that stands n before it."""
    size = kernel.shape[1]
    n = torch.arange(size, device=kernel.device)
    behind = n[None] - n[:, None]
    return torch.where(behind < 0, 0.0, kernel[:, behind.clamp(min=0)])
