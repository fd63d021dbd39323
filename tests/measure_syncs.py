"""How often the host waits for a device in one call: `python tests/measure_syncs.py`.

Counted on the second device: numbers that the host reads (`item`, `bool`), sizes that depend on numbers (masks), and
tensors that are copied to the CPU. On a GPU each is a wait of 10 to 50 microseconds while its queue runs empty.
"""

from collections.abc import Callable

import second_device
import torch

from tensornet_interp import BilinearNetwork, Moments, decompose, inner, relative_error, similarity
from tensornet_interp.features import feature_interactions
from tensornet_interp.fidelity import certificate, fidelity
from tensornet_interp.inner_products import Gaussian, Symmetric
from tensornet_interp.spectra import spectra
from tensornet_interp.testing import random_layer

MOST = {  # what was counted when this was written; more is a step back
    'decompose(layer, "eigen")': 78,
    'decompose(layer, "output_svd")': 98,
    'decompose(layer, "hosvd")': 121,
    'decompose(layer, "tucker")': 693,
    'decompose(layer, "cp")': 512,
    'decompose(layer, "symmetric_cp")': 579,
    'decompose(layer, "block_term")': 301,
    "layer(x)": 1,
    "relative_error(result, layer)": 64,
    "inner(layer, other)": 28,
    "similarity(a, b)": 58,
    'similarity(a, b, kind="symmetric")': 97,
    "similarity(a, b, kind=Gaussian(...))": 146,
    "spectra(layer, directions, 2)": 33,
    "fidelity(result, layer, x)": 45,
    "certificate(whole, 2, x)": 7,
    "feature_interactions(...).top(10)": 26,
}


def calls() -> dict[str, Callable[[], object]]:
    """One call of each kind, on layers of 6 outputs, 16 inputs and 24 hidden units on the second device."""
    device = second_device.NAME
    layer, other = (random_layer(6, 16, 24, seed=seed, device=device) for seed in (0, 1))
    square = [random_layer(16, 16, 24, seed=seed, device=device) for seed in (2, 3)]
    a, b = BilinearNetwork([square[0], layer]), BilinearNetwork([square[1], other])
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
    decoder = torch.randn(16, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)
    result, whole = decompose(layer, "eigen", rank=4), decompose(layer, "eigen")
    directions = torch.eye(6, dtype=torch.float64, device=device)
    found: dict[str, Callable[[], object]] = {
        f'decompose(layer, "{method}")': lambda method=method, options=options: decompose(layer, method, **options)
        for method, options in {
            "eigen": {"rank": 4},
            "output_svd": {"rank": 4},
            "hosvd": {"ranks": (3, 5)},
            "tucker": {"ranks": (3, 5), "max_iterations": 20},
            "cp": {"rank": 4, "max_iterations": 20},
            "symmetric_cp": {"rank": 4, "max_iterations": 20},
            "block_term": {"blocks": 2, "rank": 2, "max_iterations": 20},
        }.items()
    }
    return found | {
        "layer(x)": lambda: layer(x),
        "relative_error(result, layer)": lambda: relative_error(result, layer),
        "inner(layer, other)": lambda: inner(layer, other),
        "similarity(a, b)": lambda: similarity(a, b),
        'similarity(a, b, kind="symmetric")': lambda: similarity(a, b, kind=Symmetric()),
        "similarity(a, b, kind=Gaussian(...))": lambda: similarity(
            a, b, kind=Gaussian(Moments.standard(16, device=device))
        ),
        "spectra(layer, directions, 2)": lambda: spectra(layer, directions, 2, progress=False),
        "fidelity(result, layer, x)": lambda: fidelity(result, layer, x),
        "certificate(whole, 2, x)": lambda: certificate(whole, 2, x),
        "feature_interactions(...).top(10)": lambda: feature_interactions(
            layer, directions[0], decoder, basis="made"
        ).top(10),
    }


def count() -> dict[str, dict[str, int]]:
    """The waits of every call by kind, after one call that fills caches."""
    found = {}
    for name, call in calls().items():
        call()
        second_device.syncs.clear()
        call()
        found[name] = dict(second_device.syncs)
    return found


def main() -> int:
    """Print the table; return how many calls wait more often than before."""
    second_device.install()
    print(f"{'call':40} {'numbers':>8} {'sizes':>6} {'tensors':>8}")
    more = []
    for name, waits in count().items():
        print(f"{name:40} {waits.get('number', 0):8} {waits.get('size', 0):6} {waits.get('tensor', 0):8}")
        if waits.get("number", 0) > 1.1 * MOST[name]:  # the steps of a fit differ a little between machines
            more.append(name)
    return len(more)


if __name__ == "__main__":
    second_device.leave(main())
