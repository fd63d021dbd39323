"""The bounds of what a circuit leaves out: never below the change, attained where they can be, and reported."""

import pytest
import torch
from helpers import read_rows
from scipy.optimize import linprog
from test_examples_feature_circuits import random_model

from examples import circuit_bound
from examples.parts import circuit_bounds
from examples.parts.circuit_bounds import WAYS, Cut, decision_rows, direction_rows, filled
from tensornet_interp import decompose
from tensornet_interp.fidelity import difference_certificate
from tensornet_interp.testing import random_layer

SMALL = "--steps 16 --batch-size 32 --buffer 64 --k 3 --lr 0.01 --features 3 --circuits 2 --no-progress"


@pytest.fixture(autouse=True)
def every_count(monkeypatch):
    monkeypatch.setattr(circuit_bounds, "COUNTS", tuple(range(1, 20)))


def cut_of(layer, direction, x, seen):
    result = decompose(layer, "eigen", directions=direction[None])
    return Cut.of(result.eigenvalues[0], result.eigenvectors[0], x, seen)


def drawn(count, size, seed, heavy=False):
    x = torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x**3 if heavy else x


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sizes", [(3, 12, 20), (2, 16, 5)])  # more and fewer eigenvalues than inputs
def test_no_change_is_beyond_its_bound_and_later_ways_are_tighter(sizes, seed):
    layer = random_layer(*sizes, seed=seed)
    x, direction = drawn(300, sizes[1], seed, heavy=seed % 2 == 1), drawn(1, sizes[0], seed + 10)[0]
    cut = cut_of(layer, direction, x, x)
    outputs = layer(x) @ direction
    for k in cut.counts():
        change, before = outputs - cut.kept(k), None
        for way in WAYS:
            low, high = cut.intervals(k)[way]
            assert bool((low <= change).all())
            assert bool((change <= high).all())
            if before is not None:
                assert bool((low >= before[0]).all())
                assert bool((high <= before[1]).all())
            before = low, high
    rows = list(direction_rows(cut, outputs))
    assert len(rows) == len(cut.counts()) * len(WAYS) > 0
    assert all(row["violations"] == 0 and row["ratio"] >= 1 for row in rows)


def test_bounds_are_attained_by_eigenvectors_that_are_left_out():
    layer, direction = random_layer(3, 12, 20, seed=1), drawn(1, 3, 0)[0]
    result = decompose(layer, "eigen", directions=direction[None])
    values, vectors = result.eigenvalues[0], result.eigenvectors[0]
    cut = Cut.of(values, vectors, 2 * vectors.T, 2 * vectors.T)
    for k in cut.counts():
        for way in WAYS[1:]:
            low, high = cut.intervals(k)[way]
            for end, at in ((high, values[k:].argmax() + k), (low, values[k:].argmin() + k)):
                assert float(end[at]) == pytest.approx(4 * float(values[at]), rel=1e-9)  # |2 v|^2 = 4
        assert float(cut.intervals(k)["norm"][1][k]) == pytest.approx(4 * abs(float(values[k])), rel=1e-9)


def test_a_bound_that_is_too_small_would_be_counted():
    layer, x, direction = random_layer(3, 12, 20, seed=1), drawn(200, 12, 0), drawn(1, 3, 0)[0]
    cut = cut_of(layer, direction, x, x)
    wrong = cut._replace(values=cut.values / 2)
    rows = list(direction_rows(wrong, layer(x) @ direction))
    assert all(sum(row["violations"] for row in rows if row["way"] == way) > 0 for way in WAYS)


def test_inputs_outside_of_the_range_are_counted_and_bounded_without_it():
    layer, direction = random_layer(3, 12, 20, seed=1), drawn(1, 3, 0)[0]
    seen, x = drawn(200, 12, 0), drawn(100, 12, 1)
    cut = cut_of(layer, direction, x, seen)
    outside = (cut.squares[:, 2:] > cut.most[2:]).any(1)
    rows = {(row["k"], row["way"]): row for row in direction_rows(cut, layer(x) @ direction)}
    assert 0 < float(outside.double().mean()) < 1
    assert rows[2, WAYS[3]]["outside"] == pytest.approx(float(outside.double().mean()))
    assert all(row["violations"] == 0 for row in rows.values())
    rest, within = cut.intervals(2)[WAYS[2]], cut.intervals(2)[WAYS[3]]
    assert torch.equal(within[1][outside], rest[1][outside])
    assert not torch.equal(within[1][~outside], rest[1][~outside])
    change = (layer(x) @ direction - cut.kept(2))[~outside]
    low, high = (end[~outside] for end in within)
    expected = (high.max() - low.min()) / (change.max().clamp_min(0) - change.min().clamp_max(0))
    assert rows[2, WAYS[3]]["ratio"] == pytest.approx(float(expected))


@pytest.mark.parametrize("seed", range(5))
def test_filling_the_largest_first_solves_the_linear_program(seed):
    values, most = drawn(2, 6, seed).abs()
    rest = torch.tensor([0.0, 0.3, 1.0, 2.5, 100.0], dtype=torch.float64)
    for got, limit in zip(filled(values, most, rest).tolist(), rest.tolist(), strict=True):
        box = [(0, float(m)) for m in most]
        best = linprog(-values.numpy(), A_ub=[[1.0] * 6], b_ub=[limit], bounds=box)
        assert got == pytest.approx(-best.fun, abs=1e-9)


def test_a_basis_of_what_the_layer_sees_changes_no_bound():
    layer = random_layer(2, 6, 20, seed=1).change_basis(inputs=drawn(6, 15, 0))  # 15 inputs, of which it sees 6
    x, directions = drawn(50, 15, 1), drawn(2, 2, 2)
    for direction, cut in zip(directions, circuit_bound.cuts_of(layer, directions, x, x), strict=True):
        assert len(cut.values) == 6
        plain = cut_of(layer, direction, x, x)
        for k in cut.counts():
            for way in WAYS:
                for found, expected in zip(cut.intervals(k)[way], plain.intervals(k)[way], strict=True):
                    torch.testing.assert_close(found, expected)


def test_decisions_are_those_of_the_certificate_of_differences():
    layer, x = random_layer(4, 10, 20, seed=3), drawn(200, 10, 0)
    outputs, unit = layer(x), torch.eye(4, dtype=torch.float64)
    pairs = [(a, b) for a in range(4) for b in range(a + 1, 4)]
    cuts = [((a, b), cut_of(layer, unit[a] - unit[b], x, x)) for a, b in pairs]
    rows = {(row["k"], row["way"]): row["proven"] for row in decision_rows(cuts, outputs.argmax(1))}
    counts = cuts[0][1].counts()
    for k, winner in zip(counts, difference_certificate(layer, counts, x), strict=True):
        assert rows[k, "rest, by sign"] == pytest.approx(float((winner >= 0).double().mean()))
        shares = [rows[k, way] for way in WAYS]
        assert shares == sorted(shares)


def test_digits_and_a_language_model_are_measured_and_drawn_again(tmp_path, capsys):
    place = random_model(tmp_path, layers=2, count=40)
    options = ["--epochs", "3", "--seeds", "2", "--models", str(tmp_path / "models"), "--out", str(tmp_path / "out")]
    options += [*SMALL.split(), "--model", str(place / "none-0")]
    circuit_bound.main(options)
    printed = capsys.readouterr().out
    assert printed.count("; 0 changes beyond their bound") == 3
    out = tmp_path / "out"
    (folder,) = (path.parent for path in out.glob("*/features.csv"))
    rows = read_rows(out / "images.csv") + read_rows(folder / "features.csv") + read_rows(folder / "circuits.csv")
    assert {row["violations"] for row in rows} == {"0"}
    assert all(float(row["ratio"]) >= 1 for row in rows if row["ratio"])
    figures = [out / "bound.png", folder / "bound.png"]
    for figure in figures:
        figure.unlink()
    circuit_bound.main([*options, "--replot"])
    assert all(figure.is_file() for figure in figures)
    assert "; 0 changes beyond their bound" in capsys.readouterr().out


def test_the_toy_language_has_a_model_of_its_own_and_of_its_steps(tmp_path):
    options = [*SMALL.split(), "--parts", "language", "--held-out-tokens", "480", "--out", str(tmp_path), "--toy-steps"]
    circuit_bound.main([*options, "2"])
    assert (tmp_path / "toy" / "none-0" / "model.safetensors").is_file()
    assert len({row["feature"] for row in read_rows(tmp_path / "toy" / "features.csv")}) == 3
    with pytest.raises(ValueError, match=r"other settings.*'toy_steps': \(2, 3\)"):
        circuit_bound.main([*options, "3"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--features", "0"], "--features"),
        (["--circuits", "0"], "--circuits"),
        (["--toy-steps", "0"], "--toy-steps"),
        (["--held-out-tokens", "0"], "--held-out-tokens"),
        (["--text", "some.npy"], "--text and --held-out belong to a --model"),
        (["--seeds", "0"], "--seeds"),
        (["--model", "m", "--text", "stories.txt"], r"--text must be a file of tokens \(.npy\), got stories.txt"),
    ],
)
def test_bad_options_are_named_before_work(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        circuit_bound.main([*options, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
