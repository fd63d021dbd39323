"""The script about two decisions, end to end at a tiny size, and the rules by which it finds them."""

import pytest
import torch

from examples import case_studies
from models.tables import read_table
from tensornet_interp import decompose
from tensornet_interp.testing import random_layer

OPTIONS = ["--seeds", "2", "--epochs", "3", "--suppressed", "1", "--mistaken", "1", "8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("case_studies")
    case_studies.main([*OPTIONS, "--models", str(place / "models"), "--out", str(place / "out")])
    return place


def test_every_decision_has_one_of_three_reasons(folder):
    rows = read_table(folder / "out" / "decisions.csv")
    assert len(rows) == 2 * 2 * 4
    for row in rows:
        if row["images"]:
            assert sum(row[case] for case in case_studies.CASES) == pytest.approx(1)
            assert 0 <= row["weight of positive"] <= 1
    both = {(row["seed"], row["outputs"], row["group"]): row["images"] for row in rows}
    assert all(both[seed, "as trained", group] == images for (seed, _, group), images in both.items())
    assert all(both[seed, "as trained", "right"] + both[seed, "as trained", "wrong"] == 360 for seed in (0, 1))


def test_both_cases_are_told(folder, capsys):
    for name in ("suppression", "mistaken"):
        text = (folder / "out" / f"case_{name}.txt").read_text()
        drawn = (folder / "out" / f"case_{name}.png").exists() and (
            folder / "out" / f"case_{name}_components.png"
        ).exists()
        assert drawn == ("no seed has such an image" not in text)
    case_studies.main(["--replot", "--out", str(folder / "out")])
    printed = capsys.readouterr().out
    assert (folder / "out" / "case_mistaken.txt").read_text().rstrip() in printed


def test_subtracting_the_mean_output_changes_no_decision():
    layer = random_layer(4, 6, 9, seed=1)
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).to(layer.down)
    outputs = layer(x)
    torch.testing.assert_close(case_studies.centred(layer)(x), outputs - outputs.mean(1, keepdim=True))


def test_the_two_parts_add_up_to_the_outputs():
    layer = random_layer(4, 6, 9, seed=1)
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).to(layer.down)
    positive, negative = case_studies.positive_and_suppression(decompose(layer, "eigen"), x)
    assert float(positive.min()) >= 0 >= float(negative.max())
    torch.testing.assert_close(positive + negative, layer(x).double(), atol=1e-5, rtol=1e-5)


def test_a_case_of_suppression_is_the_closest_of_those_that_win_by_it():
    positive = torch.tensor([[5.0, 5.2, 5.1, 0.0], [5.0, 5.9, 5.1, 0.0], [9.0, 5.0, 5.0, 0.0], [5.0, 5.0, 5.1, 4.0]])
    negative = -torch.tensor([[1.0, 3.0, 3.0, 0.0], [1.0, 3.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0], [4.0, 0.0, 3.0, 0.0]])
    labels = torch.zeros(4, dtype=torch.long)
    assert case_studies.find_suppressed(positive, negative, labels, 0) == 0
    assert case_studies.find_suppressed(positive[2:], negative[2:], labels[2:], 0) is None  # first, and decided wrong
    assert case_studies.find_suppressed(positive, negative, labels + 1, 0) is None


def test_a_mistaken_case_has_its_label_second_and_the_largest_margin():
    outputs = torch.tensor([[1.0, 3.0, 0.0], [2.0, 3.5, 0.0], [0.0, 9.0, 1.0], [4.0, 1.0, 0.0]])
    labels = torch.zeros(4, dtype=torch.long)
    zero = torch.zeros_like(outputs)
    assert case_studies.find_mistaken(outputs, zero, labels, 0, 1) == 0
    assert case_studies.find_mistaken(outputs, zero, labels, 0, 2) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "0"], "--seeds"),
        (["--suppressed", "10"], "--suppressed"),
        (["--mistaken", "2", "-1"], "--mistaken"),
    ],
)
def test_bad_options_are_named_before_work(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        case_studies.main([*options, "--models", str(tmp_path), "--out", str(tmp_path)])
    assert not list(tmp_path.glob("digits-*"))
