"""Tables on disk."""

import csv

import pytest

from models import write_table
from models.tables import plus_minus, summarise


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "table.csv"
    write_table(path, [{"name": "a, b", "value": 0.1}, {"name": "é"}])
    with path.open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [{"name": "a, b", "value": "0.1"}, {"name": "é", "value": ""}]


def test_no_rows_are_an_empty_table(tmp_path):
    write_table(tmp_path / "empty.csv", [])
    assert (tmp_path / "empty.csv").read_text().strip() == ""


def test_a_summary_has_means_and_their_intervals():
    rows = [{"noise": noise, "seed": seed, "gap": gap} for seed, gap in enumerate((1.0, 2.0, 6.0)) for noise in (0, 1)]
    rows += [{"noise": 2, "seed": 0, "gap": 5.0, "rank": 4}, {"noise": 3, "seed": 0, "gap": ""}]
    first, second, alone, empty = summarise(rows, ["noise"], ["gap", "rank"])
    # t = 4.303 with two degrees of freedom, sample variance 7
    half = 4.302653 * (7 / 3) ** 0.5
    assert first == pytest.approx({"noise": 0, "n": 3, "gap": 3.0, "gap_low": 3 - half, "gap_high": 3 + half}, rel=1e-6)
    assert second == pytest.approx(first | {"noise": 1}, rel=1e-6)
    assert alone == {"noise": 2, "n": 1, "gap": 5.0, "rank": 4.0}
    assert empty == {"noise": 3, "n": 1}
    assert summarise([], ["noise"], ["gap"]) == []
    with pytest.raises(KeyError, match="decay"):
        summarise(rows, ["decay"], ["gap"])


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_table(tmp_path / "table.csv", [{"value": 1}])
    with pytest.raises(ValueError, match="fields not in fieldnames"):
        write_table(tmp_path / "table.csv", [{"value": 2}, {"other": 3}])
    assert (tmp_path / "table.csv").read_text().split() == ["value", "1"]
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_a_mean_stands_with_half_of_its_interval():
    found = {"a": 2.0, "a_low": 1.5, "a_high": 2.5, "b": 0.25}
    assert [plus_minus(found, "a"), plus_minus(found, "a", 0)] == ["2.000 ±0.500", "2 ±0"]
    assert [plus_minus(found, "b"), plus_minus(found, "c")] == ["0.250", "-"]
