"""Feature interactions against the dense matrix of all pairs, and what they never allocate."""

import itertools
import math
import subprocess
import sys

import pytest
import torch
from helpers import normal
from torch.utils._python_dispatch import TorchDispatchMode

from tensornet_interp import BilinearLayer, decompose, lift
from tensornet_interp.features import feature_interactions
from tensornet_interp.tables import flat_records
from tensornet_interp.testing import random_layer

OUT, IN, FEATURES = 3, 7, 19
EPS = torch.finfo(torch.float64).eps
BASIS = "stream after the norm"


def given(hidden=5, device="cpu", dtype=torch.float64, features=FEATURES):
    layer = random_layer(OUT, IN, hidden, seed=0, dtype=dtype, device=device)
    return (
        layer,
        normal(OUT, seed=1, device=device, dtype=dtype),
        normal(IN, features, seed=2, device=device, dtype=dtype),
    )


def matrix_of(layer, direction, decoder):
    """Q as the matrix it is, in float64."""
    matrix = layer.to(dtype=torch.float64).interaction_matrix(direction.double())
    return decoder.T.double() @ matrix @ decoder.double()


def tolerance(q):
    return 20 * IN * EPS * float(q.abs().max())  # an eigendecomposition and two products of size IN


class Watch(TorchDispatchMode):
    """Elements of the largest tensor made, and number of matrix products."""

    largest = 0
    products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.products += func is torch.ops.aten.mm.default
        for value in made if isinstance(made, tuple | list) else [made]:
            if isinstance(value, torch.Tensor):
                self.largest = max(self.largest, value.numel())
        return made


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("hidden", [2, 5])  # below and above in / 2: through a thin QR, and dense
def test_a_block_is_the_decoder_on_both_sides_of_the_interaction_matrix(hidden, dtype, device):
    layer, direction, decoder = given(hidden, device, dtype)
    found = feature_interactions(layer, direction, decoder, basis=BASIS)
    q = matrix_of(layer, direction, decoder)
    rows, columns = [4, 0, 18], torch.tensor([1, 4])
    torch.testing.assert_close(found.block(rows, columns), q[rows][:, columns], atol=tolerance(q), rtol=0)
    torch.testing.assert_close(found.diagonal(), q.diagonal(), atol=tolerance(q), rtol=0)
    assert found.squared_norm() == pytest.approx(float(q.square().sum()), rel=1e-12)
    assert (len(found), found.basis) == (FEATURES, BASIS)
    assert "features=19" in repr(found)
    assert BASIS in repr(found)


@pytest.mark.parametrize("lifted", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_values_are_those_of_the_layer_on_decoded_codes(lifted, biased, device):
    layer, direction, decoder = given(device=device)
    if lifted:
        parts = {f"{side}_bias": normal(5, seed=seed, device=device) for seed, side in ((3, "left"), (4, "right"))}
        layer = lift(layer, bias=normal(OUT, seed=5, device=device), **parts).drop_constant()
    bias = normal(IN, seed=6, device=device) if biased else None
    found = feature_interactions(layer, direction, decoder, basis=BASIS, bias=bias)
    codes = normal(11, FEATURES, seed=7, device=device)
    x = codes @ decoder.T + (0 if bias is None else bias)
    expected = layer(x) @ direction
    torch.testing.assert_close(found(codes), expected, rtol=1e-11, atol=1e-11 * float(expected.abs().max()))
    if not (lifted or biased):
        assert found.offset == 0
        assert not found.linear.any()


def brute(q, pairs, by):
    """All pairs once, best first."""
    score = {"magnitude": abs, "positive": lambda v: v, "negative": lambda v: -v}[by]
    index = itertools.combinations_with_replacement(range(len(q)), 2)
    kept = [(i, j) for i, j in index if pairs == "all" or (i == j) == (pairs == "self")]
    return sorted(((i, j, float(q[i, j])) for i, j in kept), key=lambda entry: -score(entry[2]))


@pytest.mark.parametrize("max_elements", [1, 20, 10**6])
@pytest.mark.parametrize("by", ["magnitude", "positive", "negative"])
@pytest.mark.parametrize("pairs", ["all", "cross", "self"])
def test_top_is_that_of_the_whole_matrix(pairs, by, max_elements):
    layer, direction, decoder = given()
    decoder = decoder * torch.logspace(0, -3, FEATURES, dtype=torch.float64)  # small norms: tiles to skip
    found = feature_interactions(layer, direction, decoder, basis=BASIS, max_elements=max_elements)
    expected = brute(matrix_of(layer, direction, decoder), pairs, by)
    for n in (1, 7, len(expected)):
        top = found.top(n, pairs=pairs, by=by)
        assert [value for *_, value in top] == pytest.approx([v for *_, v in expected[:n]], abs=1e-12)
        assert {entry[:2] for entry in top} == {entry[:2] for entry in expected[:n]}


def test_tiles_below_the_bound_are_skipped_and_nothing_is_lost(device):
    """The strongest pair is of small features; large ones, orthogonal in M, must not hide it behind the bound."""
    left, right = torch.eye(IN, device=device).double()[:, 0::2], torch.eye(IN, device=device).double()[:, 1::2]
    layer = BilinearLayer(down=normal(OUT, 3, seed=0, device=device), left=left[:, :3], right=right)
    decoder = 1e-4 * normal(IN, 60, seed=2, device=device)
    decoder[0, :6] = 100.0  # coordinate 0 acts with 1 only
    decoder[1:, :6] = 0
    decoder[:, 57] = torch.tensor([0, 0, 3.0, 0, 0, 0, 0])
    decoder[:, 58] = torch.tensor([0, 0, 0, 3.0, 0, 0, 0])
    found = feature_interactions(layer, normal(OUT, seed=1, device=device), decoder, basis=BASIS, max_elements=36)
    with Watch() as watch:
        top = found.top(1)
    assert top[0][:2] == (57, 58)
    tiles = 10 * 11 // 2
    assert 1 <= watch.products < tiles / 2
    with Watch() as watch:
        found.top(60 * 61 // 2)
    assert watch.products == tiles


def test_a_pair_that_meets_the_bound_is_not_skipped(device):
    """M = identity: parallel features of a later tile meet the bound, above the best of the first tile."""
    eye = torch.eye(IN, device=device).double()
    layer = BilinearLayer(down=torch.ones(1, IN, device=device).double(), left=eye, right=eye)
    decoder = torch.stack([eye[0], 0.99 * (0.8 * eye[0] + 0.6 * eye[1]), 0.98 * eye[2], 0.97 * eye[2]], 1)
    found = feature_interactions(layer, eye[0, :1], decoder, basis=BASIS, max_elements=1)
    assert found.top(1, pairs="cross") == [(2, 3, pytest.approx(0.98 * 0.97))]
    assert [entry[:2] for entry in found.top(3)] == [(0, 0), (1, 1), (2, 2)]


def test_equal_values_and_zero_directions():
    layer, direction, decoder = given()
    same = decoder[:, [0] * 9]
    q = float(matrix_of(layer, direction, same)[0, 0])
    found = feature_interactions(layer, direction, same, basis=BASIS, max_elements=4)
    assert [value for *_, value in found.top(45)] == pytest.approx([q] * 45)
    assert len({entry[:2] for entry in found.top(45)}) == 45
    nothing = feature_interactions(layer, 0 * direction, decoder, basis=BASIS)
    assert {value for *_, value in nothing.top(4)} == {0.0}
    assert math.isnan(nothing.statistics()["cross"].kurtosis)


@pytest.mark.parametrize("rank", [1, 3])
def test_a_rank_takes_the_leading_eigenpairs(rank):
    layer, direction, decoder = given()
    cut = decompose(layer, "eigen", directions=direction[None], rank=rank)
    matrix = (cut.eigenvectors[0] * cut.eigenvalues[0]) @ cut.eigenvectors[0].T
    found = feature_interactions(layer, direction, decoder, basis=BASIS, rank=rank)
    everything = range(FEATURES)
    torch.testing.assert_close(found.block(everything, everything), decoder.T @ matrix @ decoder)
    assert found.factors.shape == (FEATURES, rank)


@pytest.mark.parametrize("pairs", ["all", "cross"])
def test_the_smallest_submatrix_holds_the_top_and_no_feature_too_many(pairs):
    layer, direction, decoder = given()
    found = feature_interactions(layer, direction, decoder, basis=BASIS)
    q = matrix_of(layer, direction, decoder)
    for n in (1, 4, 12):
        features, matrix = found.smallest_submatrix(n, pairs=pairs)
        torch.testing.assert_close(matrix, q[list(features)][:, list(features)], atol=tolerance(q), rtol=0)
        held = {feature for i, j, _ in brute(q, pairs, "magnitude")[:n] for feature in (i, j)}
        assert set(features) == held
        assert len(features) == len(held)


@pytest.mark.parametrize("call", ["top", "smallest_submatrix", "statistics"])
def test_features_by_features_are_never_formed(call):
    """The factors are features * rank, a tile max_elements, the merge twice n; nothing else grows."""
    features, limit, n = 400, 900, 25
    layer, direction, decoder = given(features=features)
    found = feature_interactions(layer, direction, decoder, basis=BASIS, max_elements=limit)
    with Watch() as watch:
        found.statistics() if call == "statistics" else getattr(found, call)(n)
    bins = 2**16 if call == "statistics" else 0
    assert limit <= watch.largest <= max(features * IN, limit, bins)
    assert watch.largest < features**2 / 2


def test_making_them_takes_features_by_rank():
    layer, direction, decoder = given(features=400)
    with Watch() as watch:
        feature_interactions(layer, direction, decoder, basis=BASIS, bias=normal(IN, seed=3))
    assert watch.largest == 400 * IN


@pytest.mark.parametrize("max_elements", [1, 30])  # a tile of one entry has no pair
def test_statistics_are_those_of_the_diagonal_and_the_upper_triangle(max_elements):
    layer, direction, decoder = given()
    q = matrix_of(layer, direction, decoder)
    cross = q[torch.ones_like(q, dtype=torch.bool).triu(1)]
    found = feature_interactions(layer, direction, decoder, basis=BASIS, max_elements=max_elements)
    found = found.statistics(z=2.0)
    for values, part in ((q.diagonal(), found["self"]), (cross, found["cross"])):
        centred = values - values.mean()
        assert part.count == len(values)
        assert part.mean == pytest.approx(float(values.mean()), abs=tolerance(q))
        assert part.std == pytest.approx(float(values.std(correction=0)), rel=1e-12)
        assert part.kurtosis == pytest.approx(float((centred**4).mean() / (centred**2).mean() ** 2), rel=1e-11)
        assert (part.minimum, part.maximum) == pytest.approx((float(values.min()), float(values.max())), rel=1e-11)
        assert part.outliers == int((centred.abs() > 2 * values.std(correction=0)).sum())


def test_the_table_names_pairs_and_counts_the_share():
    layer, direction, decoder = given()
    q = matrix_of(layer, direction, decoder)
    names = [f"f{number}" for number in range(FEATURES)]
    text = feature_interactions(layer, direction, decoder, basis=BASIS).table(190, names).splitlines()
    i, j, value = brute(q, "all", "magnitude")[0]
    assert BASIS in text[0]
    assert text[1].endswith(f"  f{i}" if i == j else f"f{i} x f{j}")
    assert float(text[1].split()[1]) == pytest.approx(value, rel=1e-3)
    shares = [float(line.split()[2]) for line in text[1:]]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_the_basis_is_stated_by_the_layer_or_by_the_call():
    layer, direction, decoder = given()
    told = layer.change_basis(torch.eye(IN).double(), basis=BASIS)
    assert feature_interactions(told, direction, decoder).basis == BASIS
    assert feature_interactions(told, direction, decoder, basis=BASIS).basis == BASIS
    with pytest.raises(ValueError, match="does not state the basis of its inputs"):
        feature_interactions(layer, direction, decoder)
    with pytest.raises(
        ValueError, match=r"but the layer's basis is 'stream after the norm': .* must share their coordinates"
    ):
        feature_interactions(told, direction, decoder, basis="stream before the norm")


LARGE = """
import re, time
from pathlib import Path
import torch
from tensornet_interp.features import feature_interactions
from tensornet_interp.testing import random_layer

def peak():  # of this program alone; getrusage counts what its parent held when it was started, too
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**20  # GiB

layer = random_layer(3, 1024, 4096, seed=0, dtype=torch.float32)
direction = torch.randn(3, generator=torch.Generator().manual_seed(1))
decoder = torch.randn(1024, 8192, generator=torch.Generator().manual_seed(2))
before, start = peak(), time.perf_counter()
found = feature_interactions(layer, direction, decoder, basis="as drawn")
made = time.perf_counter()
top = found.top(50)
done, after = time.perf_counter(), peak()
rows = sorted({entry.first for entry in top[:25]} | set(range(0, 8192, 128)))
matrix = layer.to(dtype=torch.float64).interaction_matrix(direction.double())
part = decoder[:, rows].double().T @ matrix @ decoder.double()  # (row, feature)
least = abs(top[-1].value) * (1 - 1e-12)
brute = {tuple(sorted((rows[i], j))): float(part[i, j]) for i, j in (part.abs() >= least).nonzero().tolist()}
mine = {entry[:2]: entry.value for entry in top if set(entry[:2]) & set(rows)}
assert brute.keys() == mine.keys() and len(mine) >= 25
assert all(abs(mine[pair] - brute[pair]) <= 1e-11 * abs(top[0].value) for pair in mine)
print(f"{made - start:.1f} s to make, {done - made:.1f} s for the top 50; peak {after:.2f} GiB, before {before:.2f}")
print(after)
"""


@pytest.mark.slow
def test_8192_features_at_width_1024_stay_below_a_gibibyte():
    run = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    print(run.stdout)
    assert float(run.stdout.splitlines()[-1]) < 1


def test_records_have_one_row_per_feature_and_the_top_is_a_table():
    layer, direction, decoder = given()
    bias = normal(IN, seed=3)
    found = feature_interactions(layer, direction, decoder, basis=BASIS, bias=bias)
    q, matrix = matrix_of(layer, direction, decoder), layer.interaction_matrix(direction)
    rows = found.records()
    assert [row["feature"] for row in rows] == list(range(FEATURES))
    assert [row["self"] for row in rows] == pytest.approx(q.diagonal().tolist(), abs=tolerance(q))
    linear = 2 * decoder.T @ matrix @ bias
    assert [row["linear"] for row in rows] == pytest.approx(linear.tolist(), abs=tolerance(linear))
    norms = torch.tensor([row["norm"] for row in rows], dtype=q.dtype)
    assert bool((q.abs() <= norms[:, None] * norms + tolerance(q)).all())
    best = found.top(5)
    assert flat_records(best) == [{"first": i, "second": j, "value": value} for i, j, value in best]
