"""Similarity of a list is that of its pairs, and work is shared."""

from dataclasses import replace

import pytest
import torch
from helpers import normal, stack
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from tensornet_interp import BilinearLayer, Moments, similarity
from tensornet_interp.inner_products import Gaussian, Symmetric, Tree, similarity_by_output


def network(depth, seed, lifted=False):
    """Stacks of the same inputs and outputs, whose ranks depend on the seed."""
    return stack((*(4, 3, 5)[:depth], 2), [3 + seed % 3 + i for i in range(depth)], seed, lifted)


SHIFTED = Moments(normal(4, seed=9), torch.eye(4))
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
    networks = [network(depth, seed, lifted).to(device) for seed in (1, 102, 203)]
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
def test_work_is_shared(kind):
    """n networks cost n products with themselves and n (n - 1) / 2 others, for n^2 entries.

    What belongs to one network is computed once, and its product with itself costs no more than one with another; only
    the closure prepares moments besides.
    """

    def flops(count):
        networks = [stack((4, 3, 2), (5, 6), seed) for seed in range(count)]
        with FlopCounterMode(display=False) as counter:
            similarity(networks, kind=kind)
        return counter.get_total_flops()

    own = flops(1)
    product = flops(2) - 2 * own
    assert own > 0
    assert product > 0 if isinstance(kind, Gaussian) else product >= own
    assert [flops(3), flops(5)] == [3 * own + 3 * product, 5 * own + 10 * product]


def test_progress_is_shown_on_request_only(monkeypatch):
    shown = []
    start = tqdm.__init__

    def started(self, *args, **options):
        shown.append(options)
        start(self, *args, **options)

    monkeypatch.setattr(tqdm, "__init__", started)
    networks = [network(1, seed) for seed in range(3)]
    similarity(networks)
    similarity(networks, progress=False)
    similarity(*networks[:2])
    assert [options["disable"] for options in shown] == [False, True, True]
    assert not any(options["leave"] for options in shown)
    assert shown[0]["desc"] == "tree products"


def test_one_zero_network_is_named():
    zero = BilinearLayer(down=torch.zeros(2, 3).double(), left=normal(4, 3, seed=1), right=normal(4, 3, seed=2))
    with pytest.raises(ValueError, match="network 2 is zero"):
        similarity([network(1, 1), network(1, 2), zero])
