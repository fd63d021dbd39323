"""Similarity of a list is that of its pairs, and work is shared."""

import math
from dataclasses import replace

import pytest
import torch

from tensornet_interp import BilinearLayer, BilinearNetwork, Moments, lift, similarity
from tensornet_interp.inner_products import Gaussian, Symmetric, Tree, kinds, similarity_by_output
from tensornet_interp.inner_products import table as tables
from tensornet_interp.inner_products.table import standard_error


def tensor(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stack(depth, seed, lifted=False):
    widths, layers = (*(4, 3, 5)[:depth], 2), []
    for i in range(depth):
        sizes, rank = (widths[i + 1], widths[i], widths[i]), 3 + seed % 3 + i
        layer = BilinearLayer.from_cp(
            (None, [tensor(size, rank, seed=seed + 10 * i + j) for j, size in enumerate(sizes)])
        )
        layers.append(lift(layer, left_bias=tensor(rank, seed=seed + 5)) if lifted else layer)
    return BilinearNetwork(layers)


SHIFTED = Moments(tensor(4, seed=9), torch.eye(4))
CALLS = [
    (1, Tree()),
    (2, Tree()),
    (2, Symmetric()),
    (1, Gaussian(SHIFTED)),
    (2, Gaussian()),
    (2, Gaussian(method="closure")),
    (3, Gaussian(SHIFTED)),
    (3, Symmetric(samples=50)),
    (2, Gaussian(method="sampled", samples=50)),
]


@pytest.mark.parametrize(("call", "shape"), [(similarity, (3, 3)), (similarity_by_output, (3, 3, 2))])
@pytest.mark.parametrize("lifted", [False, True])
@pytest.mark.parametrize(("depth", "kind"), CALLS, ids=[f"{depth}-{kind}" for depth, kind in CALLS])
def test_a_list_is_its_pairs(depth, kind, lifted, call, shape, device):
    networks = [stack(depth, seed, lifted).to(device) for seed in (1, 102, 203)]
    if isinstance(kind, Gaussian) and kind.moments:
        kind = replace(kind, moments=kind.moments.to(device))
    table = call(networks, kind=kind)
    assert table.value.shape == shape
    assert (table.standard_error is not None) == (table.method == "sampled")
    for i, one in enumerate(networks):
        for j, other in enumerate(networks):
            # the joint basis of a pair, and so rounding, depends on the order
            pair = call(one, other, kind=kind)
            assert pair.method == table.method
            torch.testing.assert_close(table.value[i, j], pair.value, rtol=0, atol=1e-12)
            if pair.standard_error is not None:
                torch.testing.assert_close(table.standard_error[i, j], pair.standard_error, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [Tree(), Symmetric(), Gaussian(method="closure")])
def test_work_is_shared(kind, monkeypatch):
    """Five networks: each prepared once, 15 products for 25 entries."""
    counts = dict.fromkeys(("layer_moments", "closure", "tree", "symmetric"), 0)

    def counting(name, call):
        def counted(*args):
            counts[name] += 1
            return call(*args)

        return counted

    for name in counts:
        monkeypatch.setattr(kinds, name, counting(name, getattr(kinds, name)))
    similarity([stack(2, seed) for seed in range(5)], kind=kind)
    expected = {"gaussian": {"layer_moments": 5, "closure": 15}}.get(kind.name, {kind.name: 15})
    assert {name: count for name, count in counts.items() if count} == expected


def test_progress_is_shown_on_request_only(monkeypatch):
    shown = []

    class Bar:
        def __init__(self, iterable, *, disable, leave, delay, desc):
            shown.append((disable, leave, desc))
            self.iterable = iterable

        def __iter__(self):
            return iter(self.iterable)

    monkeypatch.setattr(tables, "tqdm", Bar)
    networks = [stack(1, seed) for seed in range(3)]
    similarity(networks)
    similarity(networks, progress=False)
    similarity(*networks[:2])
    assert [disable for disable, _, _ in shown] == [False, True, True]
    assert not any(leave for _, leave, _ in shown)
    assert shown[0][2] == "tree products"


def test_one_zero_network_is_named():
    zero = BilinearLayer(down=torch.zeros(2, 3).double(), left=tensor(4, 3, seed=1), right=tensor(4, 3, seed=2))
    with pytest.raises(ValueError, match="network 2 is zero"):
        similarity([stack(1, 1), stack(1, 2), zero])


def test_standard_error_is_of_a_mean():
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0]])
    expected = torch.tensor([math.sqrt(5 / 3) / 2, 0.0])
    torch.testing.assert_close(standard_error(values, 1), expected)
