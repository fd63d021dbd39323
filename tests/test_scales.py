"""Every number scales as it should, however large or small weights, directions and inputs are: squares never show."""

import math
from dataclasses import replace

import pytest
import torch

from tensornet_interp import BilinearLayer, BilinearNetwork, decompose, odt, relative_error
from tensornet_interp.adversarial import adversarial_masks, baseline_masks, mask_effect
from tensornet_interp.circuits import circuit
from tensornet_interp.compare import jackknife, match, matched_similarity, ordered_similarity
from tensornet_interp.concentration import energy_share, participation
from tensornet_interp.features import (
    feature_interactions,
    label_directions,
    low_rank_correlation,
    overlap,
    projections,
    random_part,
    rank_by_structure,
)
from tensornet_interp.fidelity import certificate, difference_certificate, fidelity, refit
from tensornet_interp.inner_products import output_similarity, similarity
from tensornet_interp.spectra import spectra
from tensornet_interp.testing import random_layer

POWERS = (-170, -150, -100, -80, 80, 100, 150, 170)
BASIS = "inputs as drawn"


def normal(*size, seed):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LAYER = random_layer(4, 7, 5, seed=0)
ABOVE = random_layer(3, 4, 6, seed=1)
DIRECTIONS = normal(3, 4, seed=2)
X = normal(40, 7, seed=3)


def wide(values):
    return torch.tensor(values, dtype=torch.float64)


def numbers(record, *names):
    return wide([[float(row[name]) for name in names] for row in record])


# name: function of (layer, directions, x); what it returns grows with the layer's scale to the given degree, with that
# of the directions to the second, with that of x to the third (None: it does not, or has no range to; not tried)
def eigen(layer, directions, x):
    result = decompose(layer, "eigen", rank=3)
    return {
        "eigenvalues": (result.eigenvalues, 1, 0, 0),
        "error": (result.relative_error, 0, 0, 0),
        "bound is an error": (float(result.report.relative_error_bound < 1), 0, 0, 0),
        "effective rank": (result.effective_rank(), 0, 0, 0),
        "activations": (result.activation_participation(x), 0, 0, 0),
        "groups": (wide([group.eigenvalue for group in result.groups(0)]), 1, 0, 0),
    }


def along_directions(layer, directions, x):
    result = decompose(layer, "eigen", directions=directions)
    return {"eigenvalues": (result.eigenvalues, 1, 1, 0), "error": (result.relative_error, 0, 0, 0)}


def random_components(layer, directions, x):
    found = {refit: decompose(layer, "random_components", rank=3, refit=refit) for refit in ("outputs", "scalar")}
    return {name: (result.relative_error, 0, 0, 0) for name, result in found.items()} | {
        "weights": (found["outputs"].weights, 1, 0, 0)
    }


def from_a_start(layer, directions, x):
    start = decompose(layer, "cp", rank=2, max_iterations=3)
    return {"cp": (decompose(layer, "cp", rank=3, start=start, max_iterations=5).relative_error, 0, 0, 0)}


def matching(layer, directions, x):
    found = match(LAYER, layer)
    blocks = match(decompose(LAYER, "eigen"), decompose(layer, "eigen"), blocks=True)
    return {
        "congruence": (found.congruence, 0, 0, 0),
        "weights": (found.aligned.weights, 1, 0, 0),
        "blocks": (blocks.congruence, 0, 0, 0),
    }


def runs(layer, directions, x):
    pair = [decompose(part, "eigen", rank=3) for part in (LAYER, layer)]
    return {
        "ordered": (ordered_similarity(pair, count=2).values, 0, 0, 0),
        "matched": (matched_similarity(pair, 2), 0, 0, 0),
    }


def cosines(layer, directions, x):
    return {
        "networks": (float(similarity(layer, random_layer(4, 7, 3, seed=9))), 0, 0, 0),
        "outputs": (output_similarity(layer, ABOVE.change_basis(inputs=normal(4, 7, seed=4))), 0, 0, 0),
    }


def structure(layer, directions, x):
    record = rank_by_structure(layer, directions)
    return {
        "shares": (numbers(record, "share", "effective_rank", "place", "feature", "opposite"), 0, 0, 0),
        "values": (numbers(record, "first", "second", "norm"), 1, 1, 0),
    }


def low_rank(layer, directions, x):
    record = low_rank_correlation(layer, directions, x, (1, 3), basis=BASIS)
    return {"correlations": (numbers(record, "correlation", "active_correlation", "active"), 0, 0, 0)}


def interactions(layer, directions, x):
    q = feature_interactions(layer, directions[0], normal(7, 9, seed=5), basis=BASIS)
    found = q.statistics()["cross"]
    rows = [float(line.split()[2]) for line in q.table(4).splitlines()[1:]]
    return {
        "entries": (q.block(range(9), range(9)), 1, 1, 0),
        "sizes": (wide([found.mean, found.std, found.minimum, *found.quantiles.values()]), 1, 1, 0),
        "kurtosis": (wide([found.kurtosis, found.outliers]), 0, 0, 0),
        "squared norm": (q.squared_norm(), 2, 2, 0),
        "shares": (wide(rows), 0, 0, 0),
    }


def circuits(layer, directions, x):
    network = BilinearNetwork([layer, ABOVE])
    found = {}
    for name, inputs in (("samples", x), ("tensor", None)):
        tree = circuit(network, normal(3, seed=6), widths=2, x=inputs)
        found[f"{name}: scores"] = (torch.cat([level.scores for level in tree.levels]), 0, 0, 0)
        found[f"{name}: top"] = (tree.levels[0].eigenvalues, 0, 0, 0)
        found[f"{name}: below"] = (tree.levels[1].eigenvalues, 1, 0, 0)
        found[f"{name}: error"] = (tree.relative_error(x), 0, 0, 0)
    return found


def bonds(layer, directions, x):
    found = odt(BilinearNetwork([layer, ABOVE]))
    cut = found.truncate(2)
    return {
        "singular values": (torch.cat([bond.singular_values for bond in found.bonds]), 0, 0, 0),
        "errors": (wide([cut.measured, cut.bound]), 0, 0, 0),
        "cut network": (cut.network[0].to_layer().to_tensor(), 1, 0, 0),
    }


def leading(layer, directions, x):
    found = {}
    for method in ("krylov", "dense"):
        part = spectra(layer, directions, k=2, method=method, progress=False)
        found[method] = (part.eigenvalues, 1, 1, 0)
        found[f"{method} bounds"] = (part.bounds < 1e-3 * part.eigenvalues.abs(), 0, 0, 0)
        found[f"{method} proven"] = (part.proven, 0, 0, 0)
        found[f"{method} result"] = (part.to_result().to_tensor(), 1, 0, 0)
    return found


def functions(layer, directions, x):
    found = fidelity(decompose(layer, "eigen", rank=3), layer, x)
    return {
        "errors": (wide([found.mse, found.mse_independent]), 2, 0, None),
        "agreement": (found.agreement, 0, 0, 0),
    }


def proofs(layer, directions, x):
    result = decompose(layer, "eigen")
    return {
        "truncated": (certificate(result, 5, x), 0, 0, 0),
        "differences": (difference_certificate(layer, (1, 3, 5), x), 0, 0, 0),
    }


def refitted(layer, directions, x):
    result = decompose(LAYER, "eigen", rank=3)
    targets = layer.to(dtype=torch.float64)(X)
    kept = torch.ones_like(result.eigenvalues, dtype=torch.bool)
    return {"coefficients": (refit(result, kept, x, targets).eigenvalues, 1, 0, -2)}


def vectors(layer, directions, x):
    found = projections(x.T, layer.left)
    labels = label_directions(x, normal(5, 7, seed=7), n=5)
    return {
        "projected": (found.captured, 0, 0, 0),
        "cosines": (found.cosines, 0, 0, 0),
        "labels": (wide([[label.cosine for label in row] for row in labels]), 0, 0, 0),
        "overlap": (overlap(x[:3], normal(2, 7, seed=8)).cosines, 0, 0, 0),
        "overlap of directions": (overlap(directions, normal(2, 4, seed=8)).cosines, 0, 0, 0),
        "energy": (energy_share(x, torch.arange(7) < 3), 0, 0, 0),
        "participation": (participation(x), 0, 0, 0),
        "jackknife": (jackknife(x[:6].reshape(6, 7), [(i, j) for j in range(4) for i in range(j)]).high, 0, 0, 1),
    }


def masks(layer, directions, x):
    made = adversarial_masks(x[:4].reshape(2, 2, 7))
    drawn = baseline_masks(x[0], "gaussian", 3, seed=0)
    effect = mask_effect(LAYER, x[0], X, torch.arange(40) % 4, 1, (0.5, 2.0))
    return {
        "masks": (made, 0, 0, -1),
        "drawn": (drawn, 0, 0, 1),
        "effect": (numbers(effect, "accuracy", "misclassified"), 0, 0, 0),
    }


def control(layer, directions, x):
    codes = normal(40, 9, seed=10).relu()
    part = random_part(codes, normal(7, 9, seed=11), x, torch.full((40,), 2), torch.tensor([0]), seed=0)
    return {"as long as": (part, 0, 0, 1)}


FUNCTIONS = [
    eigen, along_directions, random_components, from_a_start, matching, runs, cosines, structure, low_rank,
    interactions, circuits, bonds, leading, functions, proofs, refitted, vectors, masks, control,
]  # fmt: skip


def check(found, expected, power, which):
    assert found.keys() == expected.keys()
    for name, (value, *degrees) in found.items():
        degree = degrees[which]
        if degree is None or abs(degree * power) > 300:  # no float holds it
            continue
        value, truth = (torch.as_tensor(part, dtype=torch.float64) for part in (value, expected[name][0]))
        assert torch.equal(value.isnan(), truth.isnan()), name
        for _ in range(abs(degree)):  # not 10^300 at once
            value = value / 10.0 ** math.copysign(power, power * degree)
        size = float(truth.nan_to_num().abs().max())
        # tables print 4 digits; iterative methods end where their tolerance ends them
        # an eigenvector is known to its residual over the gap to the next eigenvalue, a tenth here
        close = {"shares": 2e-4, "cp": 1e-6, "krylov": 1e-3, "krylov result": 1e-2}.get(name, 1e-9)
        off = float((value - truth).nan_to_num().abs().max())
        assert off <= close * size, f"{name}: {value.flatten()[:4].tolist()}, not {truth.flatten()[:4].tolist()}"


@pytest.fixture(scope="module")
def plain():
    return {function.__name__: function(LAYER, DIRECTIONS, X) for function in FUNCTIONS}


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_numbers_of_a_layer_times_a_power_of_ten(function, power, plain):
    layer = replace(LAYER, down=LAYER.down * 10.0**power)
    check(function(layer, DIRECTIONS, X), plain[function.__name__], power, 0)


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize(
    "function", [eigen, along_directions, structure, low_rank, interactions, leading, vectors], ids=lambda f: f.__name__
)
def test_numbers_of_directions_times_a_power_of_ten(function, power, plain):
    check(function(LAYER, DIRECTIONS * 10.0**power, X), plain[function.__name__], power, 1)


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize(
    "function", [eigen, low_rank, circuits, proofs, refitted, vectors, masks, control], ids=lambda f: f.__name__
)
def test_numbers_of_inputs_times_a_power_of_ten(function, power, plain):
    if function is refitted and power < -150:
        pytest.skip("coefficients of 10^340")
    check(function(LAYER, DIRECTIONS, X * 10.0**power), plain[function.__name__], power, 2)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_numbers_of_a_layer_with_unbalanced_columns(function, plain):
    """One hidden unit with down 1e-170 and left 1e170, others the other way round or between."""
    powers = wide([170.0, -170.0, 100.0, 0.0, -100.0])
    layer = BilinearLayer(
        down=LAYER.down * 10.0**-powers,
        left=LAYER.left * 10.0 ** (powers / 2),
        right=LAYER.right * 10.0 ** (powers / 2),
    )
    check(function(layer, DIRECTIONS, X), plain[function.__name__], 0, 0)


def test_the_logarithm_of_a_network_s_norm_counts_every_copy():
    networks = [BilinearNetwork([replace(LAYER, down=LAYER.down * 10.0**power), ABOVE]) for power in (0, -100, 150)]
    plain, small, large = (odt(network).bonds[1].log_norm for network in networks)
    assert small - plain == pytest.approx(-200 * math.log(10), rel=1e-12)
    assert large - plain == pytest.approx(300 * math.log(10), rel=1e-12)


def test_one_column_that_is_much_larger_hides_no_other():
    """The error of a truncation that keeps a unit of norm 1e200 is that of the rest, as a share of all."""
    large = LAYER.down * wide([1e12, 1, 1, 1, 1])
    layer = BilinearLayer(down=large, left=LAYER.left, right=LAYER.right)
    kept = BilinearLayer(down=large[:, :1], left=LAYER.left[:, :1], right=LAYER.right[:, :1])
    rest = BilinearLayer(down=large[:, 1:], left=LAYER.left[:, 1:], right=LAYER.right[:, 1:])
    sizes = [float(part.symmetrize().to_tensor().norm()) for part in (rest, kept)]
    assert relative_error(kept, layer) == pytest.approx(sizes[0] / sizes[1], rel=1e-10)
