"""The script that follows eigenvectors while modular addition is learned: its measures, and all at tiny size."""

import itertools

import pytest
import torch

from examples import modular_addition
from examples.parts.modular_addition_report import events
from models import ClassifierConfig, build_classifier
from models.tables import read_table

P = 7


@pytest.fixture(scope="module")
def data():
    return modular_addition.pairs(P, 0.4, seed=1)


def test_all_pairs_are_there_once_with_their_answers(data):
    x, y = torch.cat([data.train_x, data.test_x]), torch.cat([data.train_y, data.test_y])
    a, b = x[:, :P].argmax(1), x[:, P:].argmax(1)
    assert torch.equal(x.sum(1), torch.full((P * P,), 2.0))
    assert set(zip(a.tolist(), b.tolist(), strict=True)) == set(itertools.product(range(P), repeat=2))
    assert torch.equal(y, (a + b) % P)
    assert len(data.train_x) == round(0.4 * P * P)
    assert not torch.equal(data.train_x, modular_addition.pairs(P, 0.4, seed=2).train_x)


def test_a_pair_reaches_the_entries_of_its_two_inputs(data):
    x = torch.cat([data.train_x, data.test_x])
    assert torch.equal(modular_addition.reached(P), (x.T @ x) > 0)


def planted(amplitudes):
    """A model with logits[c] = sum of amplitude * cos(2 pi k (a + b - c) / P) over frequencies k, by hand."""
    left, right, head = [], [], []
    value = torch.arange(P, dtype=torch.float64)
    nothing = torch.zeros(P, dtype=torch.float64)
    for k, amplitude in amplitudes.items():
        cos, sin = (amplitude**0.5 * f(2 * torch.pi * k * value / P) for f in (torch.cos, torch.sin))
        answers = (cos, -cos, sin, sin)  # cos(a + b) cos c + sin(a + b) sin c
        for a, b, c in zip((cos, sin, sin, cos), (cos, sin, cos, sin), answers, strict=True):
            left.append(torch.cat([a, nothing]))
            right.append(torch.cat([nothing, b]))
            head.append(c / amplitude**0.5)
    model = build_classifier(ClassifierConfig(inputs=2 * P, width=None, hidden=len(left), classes=P), seed=0).double()
    weights = {"blocks.0.left.weight": torch.stack(left), "blocks.0.right.weight": torch.stack(right)}
    model.load_state_dict(weights | {"head.weight": torch.stack(head, 1)})
    return model


def test_waves_that_add_are_measured_as_such(data):
    model = planted({1: 1.0, 3: 0.5})
    wide = modular_addition.Dataset(
        data.name, data.train_x.double(), data.train_y, data.test_x.double(), data.test_y, data.shape, data.class_names
    )
    row = modular_addition.measure(5, model, wide)
    assert row["step"] == 5
    assert row["train_accuracy"] == row["test_accuracy"] == 1
    assert row["fourier_share"] == pytest.approx(1)
    assert row["random_share"] < 0.7
    assert row["same_frequency"] == pytest.approx(1)
    assert row["effective_rank"] == pytest.approx(4 * 1.5**2 / 1.25)  # four eigenvalues per frequency
    assert row["frequencies"] == pytest.approx(1.25**2 / (1 + 0.5**4))
    assert row["unreached"] == pytest.approx(0, abs=1e-12)


def test_energies_of_an_orthonormal_basis_add_up_to_one():
    basis = modular_addition.fourier(P)
    torch.testing.assert_close(basis.T @ basis, torch.eye(2 * P, dtype=torch.float64))
    random = modular_addition.random_basis(2 * P)
    torch.testing.assert_close(random.T @ random, torch.eye(2 * P, dtype=torch.float64))
    vectors = torch.linalg.qr(torch.randn(3, 2 * P, 5, generator=torch.Generator().manual_seed(0)).double()).Q
    for made in (basis, random):
        energy = modular_addition.by_frequency(vectors, made)
        assert energy.shape == (3, (P + 1) // 2, 5)
        torch.testing.assert_close(energy.sum(1), torch.ones(3, 5, dtype=torch.float64))
    wave = torch.cat([torch.cos(4 * torch.pi * torch.arange(P) / P), torch.zeros(P)]).double()
    (energy,) = modular_addition.by_frequency((wave / wave.norm())[None, :, None], basis)
    torch.testing.assert_close(energy[:, 0], torch.eye((P + 1) // 2, dtype=torch.float64)[2], atol=1e-6, rtol=0)


def test_events_of_a_curve():
    held_out = [0.1, 0.1, 0.4, 0.6, 0.95]
    share = [0.2, 0.2, 0.5, 0.8, 1.0]
    rows = [
        {"p": 5.0, "weight_decay": 1.0, "seed": 0.0, "step": float(step), "test_accuracy": accuracy}
        | {"train_accuracy": min(1.0, step / 2), "fourier_share": share[step], "random_share": 0.3}
        | {"effective_rank": 9.0 - step, "frequencies": 2.0, "same_frequency": 0.5, "unreached": 0.1}
        for step, accuracy in enumerate(held_out)
    ]
    (found,) = events(rows)
    assert (found["learned"], found["half"], found["generalised"]) == (2, 3, 4)
    assert found["share_before"] == 0.5
    assert found["rise_before"] == pytest.approx(0.3 / 0.8)
    (never,) = events(rows[:3])
    assert never["half"] is never["rise_before"] is None


def test_trainings_are_followed_kept_and_drawn_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(modular_addition, "POINTS", 4)
    options = ["--moduli", "5,7", "--steps", "30", "--width", "6", "--seeds", "1", "--out", str(tmp_path / "out")]
    options += ["--models", str(tmp_path / "models")]
    modular_addition.main(options)
    printed = capsys.readouterr().out
    rows = read_table(tmp_path / "out" / "curves.csv")
    runs = {(row["p"], row["weight_decay"], row["seed"]) for row in rows}
    assert runs == set(itertools.product((5, 7), (0, 3), (0,)))
    assert {row["step"] for row in rows} == {0, *modular_addition.measured_steps(30)}
    assert max(modular_addition.measured_steps(30)) == 30
    for name in ("train_loss", "squared_norm"):  # the training did something, and decay shrinks the weights
        ends = {row["weight_decay"]: row[name] for row in rows if row["step"] == 30 and row["p"] == 7}
        assert ends[0] != ends[3]
    figures = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.png")}
    assert set(figures) == {"curves.png", "spectra.png"}
    monkeypatch.setattr(modular_addition, "train", None)  # not again
    modular_addition.main(options)
    assert capsys.readouterr().out == printed
    monkeypatch.setattr(modular_addition, "compute", None)
    modular_addition.main([*options, "--replot"])
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--moduli", "23,30"], "--moduli must be odd numbers, .* got 30"),
        (["--moduli", "1"], "--moduli must be at least 3"),
        (["--moduli", "five"], "--moduli must be whole numbers"),
        (["--decays", "0,x"], "--decays must be numbers separated by commas"),
        (["--decays", "-1"], "--decays must be at least 0"),
        (["--share", "1"], "--share must be in"),
        (["--share", "0.0001"], "--share times p"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--lr", "nan"], "--lr must be finite"),
    ],
)
def test_bad_options_are_named_before_work(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        modular_addition.main([*options, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
