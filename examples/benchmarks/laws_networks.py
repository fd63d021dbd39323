"""How the cost of bonds, moments, circuits and attention grows."""

from examples.benchmarks.laws import EACH, LOWER, PAGES, SMALL, Call, Growth, Run, normal, stack
from tensornet_interp import (
    Moments,
    contract,
    decompose,
    layer_moments,
    odt,
)
from tensornet_interp.attention import AttentionLayer, head_inner
from tensornet_interp.circuits import circuit, evaluation, interaction_tensor
from tensornet_interp.fidelity import network_fidelity
from tensornet_interp.metric import Metric


def heads(size: int, positions: int, seed: int) -> AttentionLayer:
    """Return an attention layer of two heads, with two scores."""
    draws = [normal(2 * size, 2 * size, seed=7 * seed + number) for number in range(6)]
    return AttentionLayer.from_weights(
        queries=draws[:2], keys=draws[2:4], value=draws[4], out=draws[5], heads=2, positions=positions
    )


def bonds(*, depth: int, d: int, hidden: int) -> Run:
    """Return the singular values of all bonds of a stack."""
    network = stack(depth, d, hidden)
    return lambda: odt(network)


def cut(*, depth: int, d: int, hidden: int) -> Run:
    """Return the network with all inner bonds cut to half of their size."""
    found = odt(stack(depth, d, hidden))
    return lambda: found.truncate(ranks=max(1, d // 2))


def fidelities(*, parts: int, batch: int, d: int, hidden: int) -> Run:
    """Return the fidelity of a network and of each of its parts."""
    network, x = stack(parts, d, hidden), normal(batch, d)
    other = decompose(network, "random_components", rank=max(1, hidden // 2))
    return lambda: network_fidelity(other, network, x)


def closed_moments(*, depth: int, d: int, hidden: int) -> Run:
    """Return the moments of every layer by a Gaussian closure."""
    network, given = stack(depth, d, hidden), Moments.standard(d)
    return lambda: layer_moments(network, given)


def data_moments(*, count: int, d: int) -> Run:
    """Return the moments of inputs."""
    x = normal(count, d)
    return lambda: Moments.of(x)


def metrics(*, d: int) -> Run:
    """Return the metric of moments."""
    given = Moments.of(normal(2 * d, d))
    return lambda: Metric.of(given)


def searched(*, components: int, d: int, hidden: int) -> Run:
    """Return a circuit of two layers with this many components in the upper one."""
    network, direction = stack(2, d, hidden), normal(d)
    return lambda: circuit(network, direction, widths=[1, components], progress=False)


def evaluated(*, depth: int, batch: int, d: int, hidden: int) -> Run:
    """Return a stack as one contraction."""
    network, x = stack(depth, d, hidden), normal(batch, d)
    return lambda: contract(evaluation(network, x))


def together(*, k: int, d: int, hidden: int) -> Run:
    """Return the interaction tensor of k components through two layers."""
    network, direction, components = stack(2, d, hidden), normal(d), normal(d, k)
    return lambda: interaction_tensor(network, direction, components, max_elements=1e10)


def attended(*, positions: int, size: int) -> Run:
    """Return the call of an attention layer."""
    layer, x = heads(size, positions, 0), normal(positions, 2 * size)
    return lambda: layer(x)


def head_products(*, size: int) -> Run:
    """Return the inner products of the heads of two attention layers."""
    a, b = heads(size, 4, 0), heads(size, 4, 1)
    return lambda: head_inner(a, b, offset=-1)


NETWORKS = {
    "odt": Call(
        "odt(network)",
        "odt",
        bonds,
        {"rank^2 * in": "depth", "in^3": "depth"},
        [
            Growth("hidden", (450, 900, 1800), {"depth": 2, "d": 64}),
            Growth("d", (256, 512, 1024), {"depth": 2, "hidden": 32}, SMALL),
            Growth("depth", (2, 4, 8), {"d": 128, "hidden": 256}),
        ],
        names={"rank": "hidden"},
    ),
    "truncate": Call(
        "odt(network).truncate(ranks)",
        "bonds.ODT.truncate",
        cut,
        {"rank^2 * (152 * in + 38 * out) + 76 * rank * in^2": "depth"},
        [
            Growth("hidden", (75, 150, 300, 600), {"depth": 3, "d": 64}),
            Growth("d", (64, 128, 256, 512), {"depth": 3, "hidden": 128}),
        ],
        names={"rank": "hidden", "out": "d"},
    ),
    "network_fidelity": Call(
        "fidelity.network_fidelity(other, network, x)",
        "fidelity.network_fidelity",
        fidelities,
        {"(parts + 1)": "parts"},
        [Growth("parts", (2, 4, 8), {"batch": 1024, "d": 128, "hidden": 512}, LOWER)],
    ),
    "layer_moments": Call(
        "layer_moments(network, moments)",
        "layer_moments",
        closed_moments,
        {"rank^2 * (2 * in + out) * 4": "(depth - 1)"},
        [
            Growth("hidden", (450, 900, 1800), {"depth": 3, "d": 128}),
            Growth("depth", (2, 4, 8), {"d": 128, "hidden": 512}),
        ],
        names={"rank": "hidden", "out": "d"},
    ),
    "Moments.of": Call(
        "Moments.of(x)",
        "Moments.of",
        data_moments,
        {"2 * count * in^2": EACH},
        [
            Growth("count", (4096, 8192, 16384, 32768), {"d": 512}),
            Growth("d", (256, 512, 1024), {"count": 8192}),
        ],
    ),
    "Metric.of": Call(
        "Metric.of(moments)",
        "metric.Metric.of",
        metrics,
        {"9 * in^3": EACH},
        [Growth("d", (256, 512, 1024), {}, SMALL)],
    ),
    "circuit": Call(
        "circuits.circuit(network, direction)",
        "circuits.circuit",
        searched,
        {"2 * r^2 * hidden + 9 * r^3": "components"},
        [
            Growth("components", (32, 64, 128), {"d": 128, "hidden": 128}),
            Growth("d", (256, 512, 1024), {"components": 2, "hidden": 512}, SMALL),
        ],
    ),
    "evaluation": Call(
        "contract(circuits.evaluation(network, x))",
        "circuits.evaluation",
        evaluated,
        {"depth": EACH},
        [Growth("depth", (2, 4, 8), {"batch": 1024, "d": 256, "hidden": 512})],
    ),
    "interaction_tensor": Call(
        "circuits.interaction_tensor(network, direction, components), two layers",
        "circuits.interaction_tensor",
        together,
        {"2 * rank * k^(2^L)": EACH},
        [Growth("k", (21, 32, 48, 72), {"d": 64, "hidden": 64}, PAGES)],
        {"k^(2^L)": EACH},
        names={"rank": "hidden", "L": "2"},
    ),
    "attention": Call(
        "attention layer(x)",
        "attention.AttentionLayer.__call__",
        attended,
        {"2 * heads * n^2 * (size + channel)": EACH},
        [Growth("positions", (175, 350, 700, 1400), {"size": 128}, LOWER)],
        names={"heads": "2", "n": "positions", "channel": "size", "size": "2 * size"},
    ),
    "head_inner": Call(
        "attention.head_inner(a, b, offset=-1)",
        "attention.head_inner",
        head_products,
        {"heads^2 * size^2 * (50 * in + 2 * out + 56 * size)": EACH},
        [Growth("size", (128, 256, 512), {}, SMALL)],
        names={"heads": "2", "in": "2 * size", "out": "2 * size"},
    ),
}
