"""The script that compares two sets of digits, end to end at a tiny size, and how it makes them comparable."""

import pytest
import torch

from examples import transfer
from models.tables import read_table


def test_two_halves_of_one_set_agree_and_their_classes_differ(tmp_path, capsys):
    options = ["--seeds", "2", "--epochs", "8", "--out", str(tmp_path / "out")]
    transfer.main([*options, "--models", str(tmp_path / "models")])
    rows = read_table(tmp_path / "out" / "transfer.csv")
    assert [row["seed"] for row in rows] == [0, 1]
    for row in rows:
        assert row["first on first"] == row["first on second"]  # one test set
        for pair in ("sets", "seeds"):
            assert row[f"{pair}, pixels, same"] > 0.5 > 0.1 > row[f"{pair}, pixels, other"]
    mean = sum(row["sets, pixels, same"] for row in rows) / 2
    table = read_table(tmp_path / "out" / "classes.csv")
    assert sum(row[str(k)] for k, row in enumerate(table)) / 10 == pytest.approx(mean)
    printed = capsys.readouterr().out
    transfer.main(["--replot", "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out == printed


def test_an_enlarged_image_is_in_the_middle_and_keeps_its_mean():
    x = torch.rand(3, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = transfer.enlarge(torch.ones(1, 64), (8, 8), (28, 28)).reshape(28, 28)
    torch.testing.assert_close(made, torch.nn.functional.pad(torch.ones(20, 20), (4, 4, 4, 4)))
    turned = transfer.enlarge(x.unflatten(1, (8, 8)).mT.flatten(1), (8, 8), (28, 28))
    torch.testing.assert_close(turned.unflatten(1, (28, 28)).mT.flatten(1), transfer.enlarge(x, (8, 8), (28, 28)))


@pytest.mark.parametrize(
    ("options", "message"), [(["--seeds", "1"], "--seeds"), (["--dataset", "fashion_mnist"], "set of digits")]
)
def test_bad_options_are_named_before_work(options, message):
    with pytest.raises(ValueError, match=message):
        transfer.main(options)
