"""The measurement of large dictionaries runs at a small size and reports what was found."""

import pytest

from examples.large_dictionaries import main
from models.tables import read_table

SMALL = ["--features", "40", "--width", "12", "--hidden", "20", "--active", "3", "--nodes", "4", "--windows", "6"]


def test_both_costs_are_reported(tmp_path, capsys):
    main([*SMALL, "--pairs", "5", "--positions", "4", "--out", str(tmp_path / "costs.csv")])
    pairs, graph = read_table(tmp_path / "costs.csv")
    assert pairs["what"] == "5 strongest of 40^2 pairs of one target"
    assert "targets=" in graph["found"]
    assert float(graph["GiB"]) >= float(pairs["GiB"]) > 0
    assert "6.00e+03 weights in float32" in capsys.readouterr().out  # 12 * (9 * 20 + 8 * 40) = 6,000


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--active", "41"], "--active must be from 1 to 40"), (["--held-out", "1"], "--held-out must be at least 2")],
)
def test_options_are_checked_first(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        main([*SMALL, *options, "--out", str(tmp_path / "costs.csv")])
