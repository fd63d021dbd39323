"""Second moments through bilinear layers: inner products of hidden units, and Gaussian inputs layer by layer."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.checks import check_alike, check_size, check_tensor
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.network import BilinearNetwork

__all__ = [
    "Gaussian",
    "HiddenMeans",
    "cross_gram",
    "cross_moment",
    "hidden_means",
    "input_gaussian",
    "input_gram",
    "input_moments",
]

_CHUNK_ELEMENTS = 2**22  # entries of a block of rows of a (rank, rank) matrix (32 MB)


def cross_gram(a: BilinearLayer, b: BilinearLayer, moment: Tensor | None = None) -> Tensor:
    """C[h, g] = <sym(w_h v_h), sym(w'_g v'_g)>: inner products of hidden units, (rank of a, rank of b).

    C = 1/2 [(W G W'^T) * (V G V'^T) + (W G V'^T) * (V G W'^T)] with G = `moment`, by default the identity.
    Cost: 4 (rank of a) (rank of b) in multiplications, nothing larger than the result.
    """
    left, right = (a.left, a.right) if moment is None else (moment.T @ a.left, moment.T @ a.right)
    direct = (left.T @ b.left) * (right.T @ b.right)
    return (direct + (left.T @ b.right) * (right.T @ b.left)) / 2


class HiddenMeans(NamedTuple):
    """Of the hidden units of a layer, (rank,) each: their mean, and their value at the mean of the input."""

    expected: Tensor
    at_mean: Tensor


def hidden_means(layer: BilinearLayer, mean: Tensor, moment: Tensor) -> HiddenMeans:
    """For a Gaussian input of this mean (in,) and raw second moment (in, in)."""
    expected = ((moment @ layer.left) * layer.right).sum(0)
    return HiddenMeans(expected, (mean @ layer.left) * (mean @ layer.right))


def cross_moment(
    f: BilinearLayer, g: BilinearLayer, moment: Tensor, means_f: HiddenMeans, means_g: HiddenMeans
) -> Tensor:
    """E[f(u) g(u')^T], (out, out'), for jointly Gaussian inputs with E[u u'^T] = moment (in, in'); exact."""
    hidden = 2 * cross_gram(f, g, moment) + torch.outer(means_f.expected, means_g.expected)
    return f.down @ (hidden - 2 * torch.outer(means_f.at_mean, means_g.at_mean)) @ g.down.T


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A Gaussian input over all coordinates: a constant one has mean 1 and no variance."""

    mean: Tensor  # (in,)
    covariance: Tensor  # (in, in)

    @property
    def moment(self) -> Tensor:
        """Raw second moment E[x x^T], (in, in)."""
        return self.covariance + torch.outer(self.mean, self.mean)

    @property
    def root(self) -> Tensor:
        """F with F F^T the covariance, (in, in): x = mean + F z for z standard normal."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return vectors * values.clamp_min(0).sqrt()


def input_moments(network: BilinearNetwork, mean: Tensor | None, covariance: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean (in,) and raw second moment (in, in) of the network's input in float64, its constant coordinate included."""
    x = input_gaussian(network.layers[0], mean, covariance)
    return x.mean, x.moment


def input_gaussian(first: BilinearLayer, mean: Tensor | None, covariance: Tensor | None) -> Gaussian:
    """The input of a first layer in float64, by default standard normal, its constant coordinate included."""
    size = first.shape[1] - first.constant_in
    like = first.down.new_zeros((), dtype=torch.float64)
    mean = like.new_zeros(size) if mean is None else check_tensor("mean", mean, ("in",)).to(torch.float64)
    if covariance is None:
        covariance = torch.eye(size, dtype=torch.float64, device=like.device)
    rounding = torch.finfo(check_tensor("covariance", covariance, ("in", "in")).dtype).eps
    covariance = covariance.to(torch.float64)
    check_size("in", network=size, mean=mean.shape[0], covariance=covariance.shape[0])
    check_size("in", network=size, covariance=covariance.shape[1])
    check_alike(network=like, mean=mean, covariance=covariance)
    tolerance = 10 * size * rounding * float(covariance.abs().max())  # of a covariance computed in its own dtype
    if float((covariance - covariance.T).abs().max()) > tolerance:
        raise ValueError("covariance must be symmetric")
    covariance = (covariance + covariance.T) / 2
    lowest = float(torch.linalg.eigvalsh(covariance)[0])
    if lowest < -tolerance:
        raise ValueError(f"covariance must be positive semidefinite, its lowest eigenvalue is {lowest:.3e}")
    if first.constant_in:
        mean = torch.cat([mean.new_ones(1), mean])
        covariance = torch.nn.functional.pad(covariance, (1, 0, 1, 0))
    return Gaussian(mean, covariance)


def input_gram(layer: BilinearLayer, moment: Tensor | None = None, metric: Tensor | None = None) -> Tensor:
    """G[in, in'] = sum B[out, in, j] X[j, j'] N[out, out'] B[out', in', j'] of the symmetrized tensor: (in, in).

    With Z = [W; V] and M = down^T N down it is 1/4 Z^T [[M*(V X V^T), M*(V X W^T)], [M*(W X V^T), M*(W X W^T)]] Z. X is
    `moment` (in, in), N is `metric` (out, out), symmetric, by default the identity.
    Cost: 4 rank^2 (2 in + out), in chunks of hidden units.
    """
    w, v = layer.left, layer.right
    w_moment, v_moment = (w, v) if moment is None else (moment @ w, moment @ v)
    outputs = layer.down if metric is None else metric @ layer.down
    gram = torch.zeros_like(w[:, :1] @ w[:, :1].T)
    for rows in torch.arange(layer.rank, device=w.device).split(max(1, _CHUNK_ELEMENTS // layer.rank)):
        weight = layer.down[:, rows].T @ outputs  # (chunk, rank)
        gram = gram + w[:, rows] @ ((weight * (v[:, rows].T @ v_moment)) @ w.T)
        gram = gram + v[:, rows] @ ((weight * (w[:, rows].T @ w_moment)) @ v.T)
        gram = gram + 2 * w[:, rows] @ ((weight * (v[:, rows].T @ w_moment)) @ v.T)  # and its transpose
    return (gram + gram.T) / 8
