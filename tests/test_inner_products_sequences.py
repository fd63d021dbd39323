"""Inner products over positions: of attention layers against dense tensors and grids, of stacks against samples."""

import dataclasses
import itertools

import pytest
import torch
from helpers import assert_close, layer_of, normal
from test_attention_gaussian import grid, layer, moments_of
from torch.utils.flop_counter import FlopCounterMode

from tensornet_interp import Moments, inner, similarity
from tensornet_interp.attention import (
    AttentionLayer,
    LinearMap,
    Norm,
    Part,
    SequenceNetwork,
    position_inner,
    stream_moments,
    update_share,
)
from tensornet_interp.inner_products import Gaussian, Symmetric, Tree, inner_by_output, similarity_by_output

STANDARD = Moments.standard(4)


def symmetrized(tensor, axes):
    """The mean over all orders of these axes."""
    total, count = torch.zeros_like(tensor), 0
    for order in itertools.permutations(axes):
        places = list(range(tensor.ndim))
        for axis, place in zip(axes, order, strict=True):
            places[axis] = place
        total, count = total + tensor.permute(places), count + 1
    return total / count


def dense(attention, every_leg):
    """The tensor of a layer, symmetrized over legs that take the same vector, or over all inputs of all positions."""
    tensor = attention.to_tensor()  # (out, position, source, in1, ...)
    out, positions, _, *sizes = tensor.shape
    legs, size = len(sizes), sizes[0]
    sources = (legs + 1) // 2
    if not every_leg:
        result = symmetrized(symmetrized(tensor, range(3, 3 + sources)), range(3 + sources, 3 + legs))
        for s in range(positions):
            result[:, s, s] = symmetrized(tensor[:, s, s], range(1, 1 + legs))
        return result.flatten(1)
    total = torch.zeros(out, positions, *[positions * size] * legs, dtype=torch.float64)
    for s, t in itertools.product(range(positions), repeat=2):
        places = [slice(at * size, (at + 1) * size) for at in [t] * sources + [s] * (legs - sources)]
        total[:, s][:, *places] += tensor[:, s, t]
    return symmetrized(total, range(2, 2 + legs)).flatten(1)


@pytest.mark.parametrize("scores", [0, 1, 2])
@pytest.mark.parametrize("with_biases", [False, True])
@pytest.mark.parametrize("kind", [Tree(), Symmetric()])
def test_tensors_of_layers_are_the_dense_ones(scores, with_biases, kind):
    a, b = (layer(scores, seed, with_biases=with_biases, mask=normal(2, 2, 2, seed=seed)) for seed in (0, 200))
    first, second = (dense(part, kind == Symmetric()) for part in (a, b))
    products = (first * second).sum(1)[int(a.constant_out) :]
    assert_close(inner_by_output(a, b, kind=kind).to_tensor(), products, 1e-10)
    assert float(inner(a, b, kind=kind)) == pytest.approx(float(products.sum()), rel=1e-9)
    assert inner(a, b, kind=kind).method == "exact"


def test_without_rotation_all_offsets_are_one():
    a = dataclasses.replace(layer(2, 0, positions=3, mask=normal(2, 3, 3)), rotation=None)
    b = dataclasses.replace(layer(2, 200, positions=3, mask=normal(2, 3, 3, seed=1)), rotation=None)
    turned = torch.eye(2, dtype=torch.float64).expand(3, 1, 2, 2)
    same = dataclasses.replace(a, rotation=turned)
    assert float(inner(a, b)) == pytest.approx(float(inner(same, b)), rel=1e-10)
    assert float(inner(a, b)) == pytest.approx(float((dense(a, False) * dense(b, False)).sum()), rel=1e-10)


def test_gaussian_products_of_layers_are_sums_over_positions():
    moments = moments_of(4)
    layers = [layer(2, seed, with_biases=True) for seed in (0, 200, 400)]
    kind = Gaussian(moments)
    expected = torch.stack([torch.stack([position_inner(a, b, moments).sum() for b in layers]) for a in layers])
    sizes = expected.diagonal().sqrt()
    found = similarity(layers, kind=kind)
    assert_close(found.value, expected / sizes / sizes[:, None], 1e-10)
    assert (found.method, found.share, found.warnings) == ("exact", None, ())
    each = inner_by_output(*layers[:2], kind=kind)
    assert_close(each.value.sum(), expected[0, 1], 1e-10)
    assert similarity_by_output(layers, kind=kind).value.shape == (3, 3, 2)


def exact_stack(seed, norm=None):
    """Attention between linear maps: one part that is not linear."""
    embedding = LinearMap(weight=normal(2, 3, seed=seed), bias=normal(2, seed=seed + 1))
    head = LinearMap(weight=normal(4, 2, seed=seed + 2), bias=normal(4, seed=seed + 3))
    body = Part(layer(2, seed, with_biases=True), 0.7, norm, normal(2, seed=seed + 4))
    mixed = layer(2, seed + 30).given(normal(2, 2, 2, seed=seed))
    return SequenceNetwork([embedding, Part(mixed, 1.0), body, Part(head, 0.0)])


@pytest.mark.parametrize("norm", [None, Norm(scale=normal(2, seed=1), weight=normal(2, seed=2), centered=False)])
def test_one_part_between_linear_maps_is_exact(norm):
    moments = moments_of(6)
    a, b = exact_stack(0, norm), exact_stack(500, norm)
    points, shares = grid(moments, 6)
    x = points.unflatten(1, (2, 3))
    expected = torch.einsum("bso,bso,b->o", a(x), b(x), shares)
    found = inner_by_output(a, b, kind=Gaussian(moments))
    assert (found.method, found.share) == ("exact", None)
    assert_close(found.value, expected, 1e-10)
    flat = a(x).flatten(1)
    last = stream_moments(a, moments).streams[-1]
    mean = shares @ flat
    assert_close(last.mean, mean, 1e-10)
    assert_close(last.covariance, (flat - mean).T @ ((flat - mean) * shares[:, None]), 1e-10)


def of_share(map, share):
    """The map with a residual, scaled so that its update has this share."""
    factor = (share / update_share(map, STANDARD)) ** 0.5
    return Part(dataclasses.replace(map, down=map.down * factor), 1.0)


def two_parts(seed, share, second):
    above = layer(2, seed + 500) if second == "attention" else layer_of(2, 2, 3, seed + 500)
    return SequenceNetwork([of_share(layer(2, seed), share), of_share(above, share)])


def exact_cosine(a, b, nodes):
    points, shares = grid(STANDARD, nodes)
    outputs = [network(points.unflatten(1, (2, 2))) for network in (a, b)]
    products = {
        (i, j): torch.einsum("bso,bso,b->", outputs[i], outputs[j], shares) for i, j in ((0, 0), (0, 1), (1, 1))
    }
    return products[0, 1] / (products[0, 0] * products[1, 1]).sqrt()


@pytest.mark.parametrize(
    ("second", "nodes", "share", "largest"),
    [
        ("bilinear", 11, 0.002, 3e-4),
        ("bilinear", 11, 0.008, 5e-3),
        pytest.param("bilinear", 11, 0.07, 0.3, marks=pytest.mark.slow),
        pytest.param("attention", 26, 1e-4, 1e-4, marks=pytest.mark.slow),
    ],
)
def test_how_far_the_closure_holds(second, nodes, share, largest):
    """Two positions of two inputs are few, so tails are heavy; with more inputs, the closure is better."""
    errors = []
    for seed in range(0, 3000, 1000):
        a, b = two_parts(seed, share, second), two_parts(seed + 250, share, second)
        found = similarity(a, b, kind=Gaussian())
        assert (found.method, bool(found.warnings)) == ("closure", found.share > 0.02)
        assert found.share == pytest.approx(share, rel=1)
        errors.append(float((found.value - exact_cosine(a, b, nodes)).abs()))
    assert share / 1000 < max(errors) < largest


def test_a_large_share_is_a_warning():
    a, b = two_parts(0, 0.07, "bilinear"), two_parts(250, 0.07, "bilinear")
    (warning,) = similarity(a, b, kind=Gaussian()).warnings
    assert "of the size of its input, and the closure takes its outputs as Gaussian: above 0.02, cosines" in warning
    a, b = two_parts(0, 0.004, "attention"), two_parts(250, 0.004, "attention")
    assert "above 0.002, cosines" in inner(a, b, kind=Gaussian()).warnings[0]
    shares = stream_moments(a, STANDARD).shares
    assert shares[0] == pytest.approx(0.004, rel=1e-9)


def test_a_larger_stack_agrees_with_samples():
    width, positions = 6, 3

    def stack(seed):
        attention = layer(2, seed, n_in=width, n_out=width, size=4, positions=positions, mask="causal")
        mlp = layer_of(width, width, 8, seed + 100)
        head = LinearMap(weight=normal(4, width, seed=seed + 200), bias=normal(4, seed=seed + 201))
        parts = [Part(attention, 1.0), Part(mlp, 1.0, None, normal(width, seed=seed) / 10)]
        moments = Moments.standard(width * positions)
        scaled = [
            part._replace(
                map=dataclasses.replace(part.map, down=part.map.down * (0.003 / update_share(part.map, moments)) ** 0.5)
            )
            for part in parts
        ]
        return SequenceNetwork([*scaled, head])

    a, b = stack(0), stack(300)
    closed = similarity(a, b, kind=Gaussian())
    drawn = similarity(a, b, kind=Gaussian(method="sampled", samples=20_000), progress=False)
    assert (closed.method, drawn.method) == ("closure", "sampled")
    assert abs(float(closed) - float(drawn)) < 3 * float(drawn.standard_error)
    each = similarity_by_output(a, b, kind=Gaussian(method="sampled", samples=20_000), progress=False)
    exact = similarity_by_output(a, b, kind=Gaussian())
    assert bool(((each.value - exact.value).abs() < 4 * each.standard_error).all())


def test_samples_take_any_stack():
    soft = AttentionLayer.from_weights(
        queries=[normal(2, 2)],
        keys=[normal(2, 2, seed=1)],
        value=normal(2, 2, seed=2),
        out=normal(2, 2, seed=3),
        heads=1,
        positions=2,
        softmax=True,
    )
    stack = SequenceNetwork([Part(soft, 1.0, Norm()), Part(layer_of(3, 2, 4), 0.0, Norm())])
    kind = Gaussian(method="sampled", samples=500)
    assert float(similarity(stack, stack, kind=kind)) == pytest.approx(1)
    single = stack.to(dtype=torch.float32)
    assert float(similarity(stack, single, kind=kind)) == pytest.approx(1, abs=1e-5)
    longer = SequenceNetwork([*stack.parts, LinearMap(weight=normal(3, 3))])
    assert -1 <= float(similarity(stack, longer, kind=kind)) <= 1
    frozen = stack.given(normal(2, 2, seed=4))
    assert inner(frozen, frozen, kind="gaussian").method == "exact"


def test_a_list_shares_the_work():
    networks = [SequenceNetwork([Part(layer(1, seed), 1.0), layer_of(2, 2, 3, seed)]) for seed in (0, 200, 400, 600)]

    def flops(call):
        with FlopCounterMode(display=False) as counter:
            call()
        return counter.get_total_flops()

    kind = Gaussian()
    together = flops(lambda: similarity(networks, kind=kind))
    pairs = sum(flops(lambda a=a, b=b: similarity(a, b, kind=kind)) for a, b in itertools.combinations(networks, 2))
    assert together < 0.65 * pairs  # what belongs to one network is computed 4 and not 12 times
    found = similarity(networks, kind=kind).value
    assert_close(found[1, 3], similarity(networks[1], networks[3], kind=kind).value)
    assert_close(found, found.T)


def test_what_cannot_be_compared_is_refused():
    a, b = two_parts(0, 0.01, "bilinear"), two_parts(250, 0.01, "bilinear")
    for kind in ("tree", "symmetric"):
        with pytest.raises(ValueError, match=f"kind '{kind}' compares attention layers, .* network a is a stack over"):
            similarity(a, b, kind=kind)
    with pytest.raises(ValueError, match=r"beyond one part that is not linear, and network a has 2.*'closure' or 's"):
        inner(a, b, kind=Gaussian(method="exact"))
    with pytest.raises(ValueError, match="networks must have equally many parts, got 2 and 1"):
        inner(a, layer(2, 0), kind="gaussian")
    with pytest.raises(ValueError, match="network a has softmax, whose moments are no polynomials"):
        inner(*[dataclasses.replace(layer(1, 0), softmax=True)] * 2, kind="gaussian")
    with pytest.raises(ValueError, match="moments must be those of 1 to 2 positions of 2 inputs, flattened, got 6"):
        inner(a, b, kind=Gaussian(Moments.standard(6)))
    with pytest.raises(ValueError, match="moments must be those of positions of 2 inputs, got 5 inputs"):
        inner(a, b, kind=Gaussian(Moments.standard(5), method="sampled"))
    with pytest.raises(ValueError, match="mode 'out' has size 2 in a but 3 in b"):
        inner(layer(2, 0), layer(2, 0, n_out=3), kind=Gaussian(method="sampled"))
    turned = layer(2, 0, positions=4, mask="causal")
    stretched = turned.rotation * torch.arange(1, 5, dtype=torch.float64)[:, None, None, None]
    with pytest.raises(ValueError, match="the rotation of b must depend on offsets alone"):
        inner(turned, dataclasses.replace(turned, rotation=stretched))
    assert float(similarity(turned, dataclasses.replace(turned, rotation=2 * turned.rotation))) == pytest.approx(1)
    with pytest.raises(ValueError, match="a has one mask per sample; an inner product needs one mask for all"):
        inner(layer(2, 0).given(normal(3, 2, 2, 2)), layer(2, 0))
    with pytest.raises(ValueError, match="mode 'position' has size 2 in a but 3 in b"):
        inner(layer(2, 0), layer(2, 0, positions=3, mask="causal"))
