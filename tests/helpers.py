"""What several tests share: random numbers, layers and stacks, dense references, comparisons, tables on disk."""

import csv
import itertools
import signal
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tensornet_interp import BilinearLayer, BilinearNetwork, lift


def normal(*shape, seed=0, device="cpu", dtype=torch.float64):
    """Standard normal numbers, drawn in float64 on the CPU: the same on every device and, rounded, in every dtype."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device, dtype)


def orthonormal(size, rank, *, seed, device="cpu"):
    return torch.linalg.qr(normal(size, rank, seed=seed)).Q.to(device)


def layer_of(n_out, n_in, rank, seed=0, device="cpu", *, dtype=torch.float64, scale=1.0, name=""):
    """A layer of `normal` factors of seeds `seed`, `seed` + 1, `seed` + 2, each times `scale`."""
    sizes = enumerate((n_out, n_in, n_in), seed)
    factors = [scale * normal(size, rank, seed=i, device=device, dtype=dtype) for i, size in sizes]
    return BilinearLayer.from_cp((None, factors), name=name)


def of_factors(down, left, right):
    """A layer of these very tensors, through which gradients flow."""
    return BilinearLayer(down=down, left=left, right=right)


def with_spectra(eigenvalues, seed):
    """A layer whose i-th output has the interaction matrix of the i-th row of eigenvalues, each in its own basis."""
    count, size = eigenvalues.shape
    basis = torch.cat([orthonormal(size, size, seed=seed * count + i) for i in range(count)], 1)
    return BilinearLayer(down=torch.block_diag(*eigenvalues[:, None, :]), left=basis, right=basis, name="made")


def stack(widths, ranks, seed, lifted=False):
    """Layers widths[0] -> widths[1] -> ...; lifted with every bias, and with a residual if sizes allow it."""
    layers = []
    for i, rank in enumerate(ranks):
        n_in, n_out = widths[i : i + 2]
        layer = layer_of(n_out, n_in, rank, seed + 10 * i)
        if lifted:
            left, right, bias = (normal(size, seed=seed + 5 + j) for j, size in enumerate((rank, rank, n_out)))
            residual = 0.7 if n_in == n_out else 0.0
            layer = lift(layer, left_bias=left, right_bias=right, bias=bias, residual=residual)
        layers.append(layer)
    return BilinearNetwork(layers)


def times(layer, factor):
    """The layer of `factor` times the function."""
    return BilinearLayer(down=layer.down * factor, left=layer.left, right=layer.right, name=layer.name)


def permuted(layer):
    """The same function, its hidden units in another order."""
    order = torch.randperm(layer.rank, generator=torch.Generator().manual_seed(5)).to(layer.down.device)
    return BilinearLayer(down=layer.down[:, order], left=layer.left[:, order], right=layer.right[:, order])


def rescaled(layer):
    """The same function, the scale of every hidden unit moved between its three factors."""
    scale = torch.linspace(0.5, 3, layer.rank, dtype=torch.float64, device=layer.down.device)
    return BilinearLayer(down=layer.down / scale, left=layer.left * scale**3, right=layer.right / scale**2)


def swapped(layer):
    """The same function, left and right exchanged."""
    return BilinearLayer(down=layer.down, left=layer.right, right=layer.left)


def unsymmetrized(layer):
    """The tensor (out, in1, in2) of a layer as its factors say it."""
    return torch.einsum("or,ir,jr->oij", layer.down, layer.left, layer.right)


def dense(part):
    """The symmetrized tensor (out, in, in) of a layer or a result, whose arrays are taken as they are, in float64."""
    layer = part.to(dtype=torch.float64).to_layer()
    return symmetrized(torch.einsum("or,ir,jr->oij", layer.down, layer.left, layer.right))


def dense_error(part, layer):
    return float((dense(part) - dense(layer)).norm() / dense(layer).norm())


def unfold(tensor, mode):
    """(out, in in) or (in, out in)."""
    return tensor.flatten(1) if mode == "out" else tensor.transpose(0, 1).flatten(1)


def symmetrized(dense, first=1):
    """The mean of a dense tensor over all permutations of its modes from `first` on."""
    orders = list(itertools.permutations(range(first, dense.ndim)))
    return sum(dense.permute(*range(first), *order) for order in orders) / len(orders)


def assert_close(found, expected, tolerance=1e-12):
    """Tensors, or sequences of them, differ by at most `tolerance` of the largest entry expected.

    The default holds for sums of some thousand products in float64.
    """
    pairs = [(found, expected)] if isinstance(expected, torch.Tensor) else zip(found, expected, strict=True)
    for value, reference in pairs:
        assert value.shape == reference.shape
        assert (value - reference).abs().max() <= tolerance * reference.abs().max()


def read_rows(path):
    """The rows of a CSV file, as text."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class LargestArray(TorchDispatchMode):
    """The most elements of any array made."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result


@contextmanager
def within(seconds):
    """TimeoutError if what is inside takes longer, instead of a hang."""

    def stop(*_):
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
