"""The benchmark of workers runs at tiny sizes, and finds the same results with and without workers."""

import pytest

from examples.benchmark_workers import main
from models.tables import read_table


@pytest.mark.slow
def test_workers_find_what_one_process_finds(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # set back at the end
    main(["--smoke", "--repeats", "1", "--out", str(tmp_path / "workers.csv")])
    rows = read_table(tmp_path / "workers.csv")
    assert [row["work"] for row in rows] == ["sweep", "spectra"]
    assert [row["same"] for row in rows] == ["True", "True"]
    assert "the same results: True" in capsys.readouterr().out
