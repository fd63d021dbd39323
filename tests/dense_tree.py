"""Networks for the tests of bonds, and their dense trees, built from the symmetrized cores of the layers."""

import itertools

import pytest
import torch
from helpers import layer_of, normal

from tensornet_interp import BilinearNetwork, Moments, lift, odt

TIGHT = 1e-11  # of float64 sums over some 1e4 entries, with singular values s seen to eps / s, s > 1e-3
SIZES = (3, 4, 5, 2)  # sizes of the plain network's bonds, input first
HIDDEN = (6, 7, 8)


def plain(device="cpu"):
    return BilinearNetwork([layer_of(SIZES[i + 1], SIZES[i], HIDDEN[i], 10 * i, device, scale=0.5) for i in range(3)])


def lifted(device="cpu"):
    """Biases everywhere, residuals of 0.7 in the first two layers; sizes 3, 3, 3, 2 and a constant."""
    layers = []
    for i, n_out in enumerate((3, 3, 2)):
        a, b, c = (normal(n, seed=70 + 3 * i + j, device=device) / 2 for j, n in enumerate((HIDDEN[i],) * 2 + (n_out,)))
        layer = layer_of(n_out, 3, HIDDEN[i], 40 + 10 * i, device, scale=0.5)
        layers.append(lift(layer, left_bias=a, right_bias=b, bias=c, residual=0.7 if n_out == 3 else 0.0))
    return BilinearNetwork(layers)


def moments(device="cpu"):
    root = normal(3, 3, seed=5, device=device)
    return Moments(normal(3, seed=6, device=device), root @ root.T)


NETWORKS = {"plain": plain, "lifted": lifted}
INPUTS = {"isotropic": lambda device="cpu": None, "second moment": moments}
every_case = pytest.mark.parametrize(("network", "given"), list(itertools.product(NETWORKS, INPUTS)))


def case(network, given, device="cpu"):
    return odt(NETWORKS[network](device), INPUTS[given](device))


def cores(network):
    """Dense symmetrized cores (out, in, in)."""
    return [torch.einsum("or,ir,jr->oij", *layer.symmetrize().cp.factors) for layer in network.layers]


def leaf(result):
    """A square root of X_0 (in, in), which every leaf of the dense tree carries."""
    values, vectors = torch.linalg.eigh(result.input_moment)
    return vectors * values.clamp_min(0).sqrt()


def tree(result, projectors=(), copies=None):
    """(out, leaves): the dense tree, with dec enc at the bonds of `projectors` (at one copy of the bond, if given)."""
    dense, projectors = cores(result.network), dict(projectors)

    def below(level, copy):
        if level == 0:
            matrix = leaf(result)
        else:
            pair = below(level - 1, 2 * copy), below(level - 1, 2 * copy + 1)
            matrix = torch.einsum("kij,ia,jb->kab", dense[level - 1], *pair).flatten(1)
        here = level in projectors and (copies is None or copy in copies)
        return projectors[level] @ matrix if here else matrix

    return below(len(dense), 0)


def unfolded(result, index):
    """(leaves below the first copy of the bond, everything else)."""
    whole = tree(result)
    leaves = len(result.input_moment) ** (2**index)
    return whole.reshape(len(whole), leaves, -1).transpose(0, 1).reshape(leaves, -1)


def projector(bond, rank):
    encoder, decoder = bond.maps(rank)
    return decoder @ encoder


def lowest(bond):
    return 0 if bond.center is not None else 1
