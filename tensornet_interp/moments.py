"""Compute moments of inputs, and the Gram matrices that carry second moments through bilinear layers."""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.checks import check_alike, check_int, check_iterations, check_size, check_tensor, check_text
from tensornet_interp.float64 import needs_float64, to_float64
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.places import kept_place
from tensornet_interp.store import register_type

__all__ = [
    "HiddenMeans",
    "Moments",
    "check_moments",
    "cross_gram",
    "cross_moment",
    "hidden_means",
    "hidden_slopes",
    "input_gram",
    "input_moments",
]

_CHUNK_ELEMENTS = 2**22  # entries of a block of rows that is held at once (32 MB)


@register_type("Moments", make=lambda **fields: Moments._stored(**fields))
@dataclass(frozen=True, eq=False)
class Moments:
    """Moments are the mean and the covariance of the inputs of a layer or network.

    Both are in plain coordinates, without the constant; a lifted network adds its constant coordinate itself (see
    `lifted`). Both are stored in float64 on the device of `mean`.
    Raises ValueError if sizes or devices differ, if an entry is not finite, or if the covariance is not symmetric and
    positive semidefinite up to the rounding error of its given dtype. Cost: O(in^3).

    Example:
    >>> Moments(torch.zeros(3), torch.eye(3), note="whitened images")
    Moments(in=3, count=None, note='whitened images')
    """

    mean: Tensor  # (in,)
    covariance: Tensor  # (in, in)
    count: int | None = None  # how many inputs they were computed from, if they come from data
    note: str = ""  # where they come from

    def __post_init__(self) -> None:
        check_tensor("mean", self.mean, ("in",))
        check_tensor("covariance", self.covariance, ("in", "in"))
        rounding = torch.finfo(self.covariance.dtype).eps
        mean, covariance = to_float64(self.mean), to_float64(self.covariance)
        for size in covariance.shape:
            check_size("in", mean=len(mean), covariance=size)
        check_alike(mean=mean, covariance=covariance)
        if covariance.device.type != "meta":
            _check_covariance(covariance.detach(), rounding)
        if self.count is not None:
            check_int("count", self.count, 1)
        check_text("note", self.note, empty=True)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "covariance", (covariance + covariance.T) / 2)

    @classmethod
    @needs_float64
    def of(cls, x: Tensor | Iterable[Tensor]) -> "Moments":
        """Return the mean and the covariance (divided by count - 1) of inputs x (batch, in), or of a stream of batches.

        A stream is anything that yields tensors (batch, in), such as a generator or a data loader; it is read once, and
        one batch is in memory at a time.
        Raises ValueError for fewer than two inputs, for an empty stream, if batches differ in size or device, and for
        an entry that is NaN or infinite; the message names its row.
        Cost: 2 * count * in^2 flops, in one pass in blocks of rows.
        """
        found = RunningMoments()
        for name, batch in batches("x", x):
            found.add(batch, name)
        return found.moments()

    @classmethod
    def standard(cls, size: int, *, device: torch.device | str | None = None) -> "Moments":
        """Return moments with mean 0 and the identity as covariance, for `size` inputs."""
        check_iterations("size", size)
        device = None if device is None else kept_place(device, torch.empty(0, dtype=torch.float64, device="cpu"))
        mean = torch.zeros(size, dtype=torch.float64, device=device)
        return cls(mean, torch.eye(size, dtype=torch.float64, device=device), note="standard normal")

    def __repr__(self) -> str:
        return f"Moments(in={len(self.mean)}, count={self.count}, note={self.note!r})"

    @property
    def second_moment(self) -> Tensor:
        """Return the raw (not centred) second moment E[x x^T], (in, in)."""
        return self.covariance + torch.outer(self.mean, self.mean)

    @property
    def root(self) -> Tensor:
        """Return F (in, in) with F F^T = covariance.

        If z is standard normal, x = mean + F z has these moments.
        """
        values, vectors = torch.linalg.eigh(self.covariance)
        return vectors * values.clamp_min(0).sqrt()

    def to(self, device: torch.device | str) -> "Moments":
        """Return the same moments on another device, or on the CPU if that has no float64."""
        place = kept_place(device, self.mean)
        return self._with(self.mean.to(place), self.covariance.to(place))

    def lifted(self) -> "Moments":
        """Return the moments of [1, x], where the constant coordinate has mean 1 and variance 0."""
        return self._with(torch.cat([self.mean.new_ones(1), self.mean]), pad(self.covariance, (1, 0, 1, 0)))

    @needs_float64
    def divided_by(self, scale: Tensor) -> "Moments":
        """Return the moments of x / scale; `scale` is a positive number."""
        check_tensor("scale", scale, ())
        return self._with(self.mean / scale, self.covariance / scale / scale)

    @classmethod
    def _stored(cls, mean: Tensor, covariance: Tensor, count: int | None = None, note: str = "") -> "Moments":
        """Make stored moments again: the covariance was checked up to the rounding of the dtype it was given in."""
        size = len(check_tensor("mean", mean, ("in",)))
        check_tensor("covariance", covariance, ("in", "in"))
        for found in covariance.shape:
            check_size("in", mean=size, covariance=found)
        unit = cls(torch.zeros_like(mean), torch.eye(size, dtype=mean.dtype, device=mean.device), count, note)
        return unit._with(mean, covariance)

    def _with(self, mean: Tensor, covariance: Tensor) -> "Moments":
        """Return a copy with another mean and covariance, which are not checked because they come from checked ones."""
        changed = copy.copy(self)
        object.__setattr__(changed, "mean", mean)
        object.__setattr__(changed, "covariance", covariance)
        return changed


def check_moments(value: object) -> Moments | None:
    """Return moments or None unchanged; raises TypeError for any other object."""
    if value is None or isinstance(value, Moments):
        return value
    raise TypeError(
        f"moments must be a Moments object, got {type(value).__name__}; make one with Moments(mean, covariance),"
        " Moments.of(x) or Moments.standard(size)"
    )


def input_moments(first: BilinearLayer, moments: Moments | None) -> Moments:
    """Return the moments of all input coordinates of a network's first layer, including a constant coordinate.

    The default None means mean 0 and the identity as covariance. Raises ValueError if `moments` and the layer differ in
    size or device.
    """
    size = first.shape[1] - first.constant_in
    given = check_moments(moments) or Moments.standard(size, device=first.down.device)
    check_size("in", network=size, moments=len(given.mean))
    check_alike(network=first.down.new_zeros((), dtype=torch.float64), moments=given.mean)
    return given.lifted() if first.constant_in else given


class RunningMoments:
    """Running moments take batches of inputs one at a time, and keep only their number, mean and scatter."""

    def __init__(self) -> None:
        self.count = 0
        self._mean: Tensor | None = None
        self._scatter: Tensor | None = None

    @needs_float64
    def add(self, x: Tensor, name: str = "x") -> None:
        """Add inputs x (batch, in); `name` stands for x in errors. Cost: 2 * batch * in^2 flops.

        Raises ValueError if size or device differ from those of earlier batches, and for an entry that is NaN or
        infinite; the message names its row.
        """
        size = check_tensor(name, x, ("batch", "in"), finite=False).shape[1]
        if self._mean is None or self._scatter is None:
            self._mean, self._scatter = (x.new_zeros(shape, dtype=torch.float64) for shape in ((size,), (size, size)))
        check_size("in", **{"the first batch": len(self._mean), name: size})
        check_alike(**{"the first batch": self._mean, name: x.new_zeros((), dtype=torch.float64)})
        bad = ~torch.isfinite(x).all(1)
        if x.device.type != "meta" and bool(bad.any()):
            rows = bad.nonzero()[:, 0].tolist()
            raise ValueError(f"{name} has {len(rows)} rows with NaN or infinite entries, the first is row {rows[0]}")
        for block in x.split(max(1, _CHUNK_ELEMENTS // size)):
            part = block.to(torch.float64)
            center, total = part.mean(0), self.count + len(part)
            shift, deviations = center - self._mean, part - center
            between = (self.count * len(part) / total) * torch.outer(shift, shift)
            self._scatter = self._scatter + deviations.T @ deviations + between
            self._mean, self.count = self._mean + (len(part) / total) * shift, total

    def moments(self) -> Moments:
        """Return the mean and the covariance (divided by count - 1); raises ValueError for fewer than two inputs."""
        if self._mean is None or self._scatter is None or self.count < 2:
            raise ValueError(f"a covariance needs at least 2 inputs, got {self.count}")
        return Moments(self._mean, self._scatter / (self.count - 1), self.count, "computed from data")


def batches(name: str, x: object) -> Iterator[tuple[str, Tensor]]:
    """Yield a tensor, or each batch of a stream, with its name for errors; raise TypeError for other objects."""
    if isinstance(x, Tensor):
        yield name, x
    elif isinstance(x, str) or not isinstance(x, Iterable):
        raise TypeError(f"{name} must be a torch.Tensor or a stream of them, got {type(x).__name__}")
    else:
        yield from ((f"batch {number} of {name}", batch) for number, batch in enumerate(x))


def _check_covariance(covariance: Tensor, rounding: float) -> None:
    # rounding errors of entries do not add up: the norm of their matrix is about sqrt(in) times one of them
    """Raise ValueError if the covariance is not symmetric or not positive semidefinite up to rounding errors."""
    largest = float(covariance.abs().max())
    slack = 32 * rounding * largest
    tolerance = 10 * len(covariance) ** 0.5 * rounding * largest
    asymmetry = float((covariance - covariance.T).abs().max())
    if asymmetry > slack:
        raise ValueError(f"covariance must be symmetric, entries differ from their mirror image by {asymmetry:.3e}")
    lowest = float(torch.linalg.eigvalsh((covariance + covariance.T) / 2)[0])
    if lowest < -tolerance:
        raise ValueError(f"covariance must be positive semidefinite, its lowest eigenvalue is {lowest:.3e}")


def cross_gram(a: BilinearLayer, b: BilinearLayer, moment: Tensor | None = None) -> Tensor:
    """Return the inner products of the hidden units of two layers, (rank of a, rank of b).

    C[h, g] = <sym(w_h v_h), sym(w'_g v'_g)> = 1/2 [(W G W'^T) * (V G V'^T) + (W G V'^T) * (V G W'^T)]

    G is `moment`, (in of a, in of b), by default the identity; if a is b, it need not be symmetric: positions share a
    layer. W, V are left^T, right^T of a, and W', V' those of b.
    Cost: 4 * (rank of a) * (rank of b) * in multiplications; with `moment` also 2 * (rank of a) * in^2.
    """
    left, right = (a.left, a.right) if moment is None else (moment.T @ a.left, moment.T @ a.right)
    crossed = left.T @ b.right
    back = crossed.T if a is b and moment is None else right.T @ b.left
    return torch.addcmul((left.T @ b.left) * (right.T @ b.right), crossed, back) / 2


def hidden_slopes(layer: BilinearLayer, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the expected hidden units (..., rank) and their expected slopes (..., rank, in), for Gaussian inputs.

    mean: (..., in). covariance: (..., in, in). With slopes J and J' of two layers, the covariance of their hidden units
    is 2 C + J (covariance of their inputs) J'^T; C is the `cross_gram` of this covariance.
    """
    left, right = mean @ layer.left, mean @ layer.right
    slopes = left[..., None] * layer.right.T + right[..., None] * layer.left.T
    return left * right + ((covariance @ layer.left) * layer.right).sum(-2), slopes


class HiddenMeans(NamedTuple):
    """Hidden means are the expected values of a layer's hidden units, (rank,), and their values at the mean input."""

    expected: Tensor
    at_mean: Tensor


def hidden_means(layer: BilinearLayer, mean: Tensor, moment: Tensor) -> HiddenMeans:
    """Return the hidden means for a Gaussian input with this mean (in,) and raw second moment (in, in)."""
    expected = ((moment @ layer.left) * layer.right).sum(0)
    return HiddenMeans(expected, (mean @ layer.left) * (mean @ layer.right))


def cross_moment(
    f: BilinearLayer, g: BilinearLayer, moment: Tensor, means_f: HiddenMeans, means_g: HiddenMeans
) -> Tensor:
    """Return E[f(u) g(u')^T], (out, out'), exactly for jointly Gaussian inputs with E[u u'^T] = moment (in, in').

    f and g are single layers; means_f and means_g are their `hidden_means` for u and u'.
    """
    (expected, at_mean), (expected_g, at_mean_g) = ([f.down @ m for m in means_f], [g.down @ m for m in means_g])
    centered = f.down @ cross_gram(f, g, moment) @ g.down.T - torch.outer(at_mean, at_mean_g)
    return 2 * centered + torch.outer(expected, expected_g)


def input_gram(layer: BilinearLayer, moment: Tensor | None = None, metric: Tensor | None = None) -> Tensor:
    """Return the Gram matrix (in, in) of a layer's input coordinates, from its symmetrized tensor B.

    G[in, in'] = sum B[out, in, j] X[j, j'] N[out, out'] B[out', in', j']
    G = 1/4 Z^T [[M*(V X V^T), M*(V X W^T)], [M*(W X V^T), M*(W X W^T)]] Z, Z = [W; V], M = down^T N down

    X is `moment` (in, in) and N is `metric` (out, out); both are symmetric and by default the identity. The code
    computes the second form, in chunks of hidden units.
    Cost in flops: rank^2 * (12 * in + 2 * out) + 4 * rank * in^2; with `moment` also 4 * rank * in^2, with `metric`
    also 2 * rank * out^2.
    """
    w, v = layer.left, layer.right
    w_moment, v_moment = (w, v) if moment is None else (moment @ w, moment @ v)
    outputs = layer.down if metric is None else metric @ layer.down
    gram = torch.zeros_like(w[:, :1] @ w[:, :1].T)
    for rows in torch.arange(layer.rank, device=w.device).split(max(1, _CHUNK_ELEMENTS // layer.rank)):
        weight = layer.down[:, rows].T @ outputs  # (chunk, rank)
        vv, vw = v[:, rows].T @ v_moment, v[:, rows].T @ w_moment  # of vw, the transpose is added below
        gram = torch.addmm(gram, w[:, rows], torch.addmm((weight * vv) @ w.T, weight * vw, v.T, alpha=2))
        gram = torch.addmm(gram, v[:, rows], (weight * (w[:, rows].T @ w_moment)) @ v.T)
    return (gram + gram.T) / 8
