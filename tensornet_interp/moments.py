"""Second moments through bilinear layers: inner products of hidden units, and Gaussian inputs layer by layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tensornet_interp.checks import check_alike, check_size, check_tensor
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.network import BilinearNetwork

_CHUNK_ELEMENTS = 2**22  # entries of a block of rows of a (rank, rank) matrix (32 MB)


def cross_gram(a: BilinearLayer, b: BilinearLayer, moment: Tensor | None = None) -> Tensor:
    """C[h, g] = <sym(w_h v_h), sym(w'_g v'_g)>: inner products of hidden units, (rank of a, rank of b).

    C = 1/2 [(W G W'^T) * (V G V'^T) + (W G V'^T) * (V G W'^T)] with G = `moment`, by default the identity.
    Cost: 4 (rank of a) (rank of b) in multiplications, nothing larger than the result.
    """
    left, right = (a.left, a.right) if moment is None else (moment.T @ a.left, moment.T @ a.right)
    direct = (left.T @ b.left) * (right.T @ b.right)
    return (direct + (left.T @ b.right) * (right.T @ b.left)) / 2


@dataclass
class Moments:
    """Mean (in,) and raw second moments (in, in') of the inputs u of f and u' of g."""

    mean_f: Tensor
    mean_g: Tensor
    ff: Tensor
    gg: Tensor
    fg: Tensor


def propagate(f: BilinearLayer, g: BilinearLayer, at: Moments) -> Moments:
    """Moments of the outputs of two layers whose inputs are jointly Gaussian; exact."""
    a_f = ((at.ff @ f.left) * f.right).sum(0)  # mean of every hidden unit
    a_g = ((at.gg @ g.left) * g.right).sum(0)
    m_f = (at.mean_f @ f.left) * (at.mean_f @ f.right)
    m_g = (at.mean_g @ g.left) * (at.mean_g @ g.right)

    def moment(x: BilinearLayer, y: BilinearLayer, xy: Tensor, means: tuple[Tensor, ...]) -> Tensor:
        a_x, a_y, m_x, m_y = means
        hidden = 2 * cross_gram(x, y, xy) + torch.outer(a_x, a_y) - 2 * torch.outer(m_x, m_y)
        return x.down @ hidden @ y.down.T

    return Moments(
        f.down @ a_f,
        g.down @ a_g,
        moment(f, f, at.ff, (a_f, a_f, m_f, m_f)),
        moment(g, g, at.gg, (a_g, a_g, m_g, m_g)),
        moment(f, g, at.fg, (a_f, a_g, m_f, m_g)),
    )


def input_moments(network: BilinearNetwork, mean: Tensor | None, covariance: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean (in,) and raw second moment (in, in) of the network's input in float64, its constant coordinate included."""
    first = network.layers[0]
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
    return mean, covariance + torch.outer(mean, mean)


def input_gram(layer: BilinearLayer, moment: Tensor | None = None) -> Tensor:
    """G[in, in'] = sum B[out, in, j] X[j, j'] B[out, in', j'] of the symmetrized tensor: (in, in), X = `moment`.

    With Z = [W; V] and N = down^T down it is 1/4 Z^T [[N*(V X V^T), N*(V X W^T)], [N*(W X V^T), N*(W X W^T)]] Z; X is
    by default the identity. Cost: 4 rank^2 (2 in + out), in chunks of hidden units.
    """
    left, right = (layer.left, layer.right) if moment is None else (moment @ layer.left, moment @ layer.right)
    total = torch.zeros_like(layer.left[:, :1] @ layer.left[:, :1].T)
    chunk = max(1, _CHUNK_ELEMENTS // layer.rank)
    for rows in torch.arange(layer.rank, device=layer.down.device).split(chunk):
        outputs = layer.down[:, rows].T @ layer.down  # (chunk, rank)
        w, v = layer.left[:, rows], layer.right[:, rows]
        by_w = (outputs * (v.T @ right)) @ layer.left.T + (outputs * (v.T @ left)) @ layer.right.T  # (chunk, in)
        by_v = (outputs * (w.T @ right)) @ layer.left.T + (outputs * (w.T @ left)) @ layer.right.T
        total = total + w @ by_w + v @ by_v
    return total / 4
