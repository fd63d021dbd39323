"""Tables on disk."""

import csv

from models import write_table


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "table.csv"
    write_table(path, [{"name": "a, b", "value": 0.1}, {"name": "é"}])
    with path.open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [{"name": "a, b", "value": "0.1"}, {"name": "é", "value": ""}]


def test_no_rows_are_an_empty_table(tmp_path):
    write_table(tmp_path / "empty.csv", [])
    assert (tmp_path / "empty.csv").read_text().strip() == ""
