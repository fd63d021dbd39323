"""The arithmetic tasks: what is judged to be a constant and what squares, and the whole script at tiny size."""

import copy

import pytest
import torch

from examples import toy_arithmetic
from models.full_batch import fit
from models.tables import read_table


def test_together_is_as_alone():
    x = toy_arithmetic.table_of("signs")
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 0] + x[:, 1]])
    modules = [toy_arithmetic.build("all", 3, seed) for seed in (0, 1)]
    alone = copy.deepcopy(modules)
    toy_arithmetic.train_together(modules, x, y, steps=20, lr=0.02, weight_decay=0.1)
    for module, one, target in zip(modules, alone, y, strict=True):
        before = one(x)[:, 0].detach()
        fit(
            one.parameters(),
            lambda one=one, target=target: (one(x)[:, 0] - target).square().mean(),
            steps=20,
            lr=0.02,
            weight_decay=0.1,
        )
        assert (one(x)[:, 0] - before).abs().max() > 0.01
        torch.testing.assert_close(module(x), one(x), atol=1e-5, rtol=0)  # float32, values near 1


def planted(bias, left, left_bias=0.0, down=0.25):
    """down * sum of (left x + left_bias)^2 over the inputs."""
    module = toy_arithmetic.build(bias, toy_arithmetic.INPUTS, seed=0)
    with torch.no_grad():
        for side in (module.left, module.right):
            side.weight.copy_(left * torch.eye(toy_arithmetic.INPUTS))
            if side.bias is not None:
                side.bias.fill_(left_bias)
        module.down.weight.fill_(down)
    return module


def test_one_as_squares_and_one_as_a_constant():
    squares = toy_arithmetic.measure(planted("none", 1.0), "one", "signs")
    assert squares["verdict"] == "squares"
    assert squares["own"] == 0
    assert (squares["quadratic"], squares["linear"], squares["constant"]) == (1, 0, 0)
    assert squares["outside"] == pytest.approx((64 / 45 / 4 + 1 / 9) ** 0.5, rel=0.05)  # of the mean of four squares
    constant = toy_arithmetic.measure(planted("inner", 0.0, left_bias=1.0), "one", "signs")
    assert constant["verdict"] == "own"
    assert constant["own"] == pytest.approx(1)
    assert constant["constant"] == pytest.approx(1)
    assert constant["outside"] == pytest.approx(0, abs=1e-12)


def test_a_sum_of_bits_as_squares_is_seen():
    module = planted("none", 1.0)
    with torch.no_grad():
        module.down.weight.copy_(torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
    row = toy_arithmetic.measure(module, "a + b", "bits")
    assert (row["verdict"], row["own"]) == ("squares", 0)
    assert row["error"] < 1e-24  # float64
    assert row["outside"] > 0.5
    assert toy_arithmetic.measure(module, "a + b", "signs")["verdict"] == "not learned"


@pytest.mark.parametrize(
    ("task", "domain", "coefficients"),
    [
        ("max(a, b)", "signs", {"1": 0.5, "a": 0.5, "b": 0.5, "ab": -0.5}),
        ("max(a, b)", "bits", {"a": 1, "b": 1, "ab": -1}),
        ("|a - b|", "signs", {"1": 1, "ab": -1}),
        ("|a - b|", "bits", {"a": 1, "b": 1, "ab": -2}),
        ("1 + a + a b", "levels", {"1": 1, "a": 1, "ab": 1}),
    ],
)
def test_the_wanted_polynomial_has_no_squares(task, domain, coefficients):
    names = ["1", "a", "b", "c", "d", "ab"]
    wanted = toy_arithmetic.wanted_polynomial(task, domain)
    for name, value in zip(names, wanted, strict=False):
        assert value == pytest.approx(coefficients.get(name, 0), abs=1e-12)
    assert wanted[len(names) :].abs().max() < 1e-12
    assert len(wanted) == 11 + 4 * (domain == "levels")


@pytest.mark.parametrize(
    ("error", "own", "size", "verdict"),
    [
        (0.02, 1.0, 1.0, "not learned"),
        (0.0, 0.95, 1.0, "own"),
        (0.0, -0.05, 1.0, "squares"),
        (0.0, 0.5, 1.0, "mixed"),
        (0.0, 1.5, 1.0, "mixed"),
        (0.0, None, 0.05, "none"),
        (0.0, None, 0.5, "cancelling"),
    ],
)
def test_the_rule(error, own, size, verdict):
    assert toy_arithmetic.verdict(error, own, size) == verdict


def test_the_script_writes_its_table_and_draws_it_again(tmp_path, capsys, monkeypatch):
    options = ["--steps", "150", "--seeds", "2", "--decays", "0", "--out", str(tmp_path)]
    toy_arithmetic.main(options)
    printed = capsys.readouterr().out
    rows = read_table(tmp_path / "table.csv")
    assert len(rows) == len(toy_arithmetic.DOMAINS) * len(toy_arithmetic.BIASES) * len(toy_arithmetic.TASKS) * 2
    for row in rows:
        assert row["quadratic"] + row["linear"] + row["constant"] == pytest.approx(1, abs=1e-6)
        if row["bias"] == "none":
            assert row["linear"] == row["constant"] == 0
            assert row["verdict"] != "own"
    sums = [row for row in rows if (row["bias"], row["domain"], row["task"]) == ("none", "signs", "a + b")]
    assert {row["verdict"] for row in sums} == {"not learned"}  # an even function
    picture = (tmp_path / "own.png").read_bytes()
    monkeypatch.setattr(toy_arithmetic, "measured", None)
    toy_arithmetic.main([*options, "--replot"])
    assert capsys.readouterr().out.split("layers by verdict")[1] == printed.split("layers by verdict")[1]
    assert (tmp_path / "own.png").read_bytes() == picture


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--decays", "0;1"], "--decays must be numbers"),
        (["--hidden", "0"], "--hidden must be at least 1"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--steps", "-1"], "--steps must be at least 1"),
    ],
)
def test_bad_options_are_named_before_work(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        toy_arithmetic.main([*options, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
