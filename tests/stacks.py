"""Seeded layers and stacks that the tests of inner products share."""

import torch

from tensornet_interp import BilinearLayer, BilinearNetwork, lift


def tensor(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(n_out, n_in, rank, seed):
    return BilinearLayer.from_cp(
        (None, [tensor(size, rank, seed=seed + i) for i, size in enumerate((n_out, n_in, n_in))])
    )


def stack(widths, ranks, seed, lifted=False):
    """Layers widths[0] -> widths[1] -> ...; lifted with every bias, and with a residual where sizes allow."""
    layers = []
    for i, rank in enumerate(ranks):
        n_in, n_out = widths[i : i + 2]
        layer = make(n_out, n_in, rank, seed + 10 * i)
        if lifted:
            left, right, bias = (tensor(size, seed=seed + 5 + j) for j, size in enumerate((rank, rank, n_out)))
            residual = 0.7 if n_in == n_out else 0.0
            layer = lift(layer, left_bias=left, right_bias=right, bias=bias, residual=residual)
        layers.append(layer)
    return BilinearNetwork(layers)
