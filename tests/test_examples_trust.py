"""The trust example, end to end on small settings."""

import pytest

from examples import trust
from models.tables import read_table


@pytest.mark.slow
def test_everything_is_measured_and_drawn(tmp_path, capsys):
    folders = ["--models", str(tmp_path / "models"), "--out", str(tmp_path / "out")]
    trust.main(["--seeds", "2", "--epochs", "5", "--ranks", "2", "3", "--starts", "3", "--planted", *folders])
    printed = capsys.readouterr().out
    assert "choose_rank: 3\n" in printed  # of the planted tensor
    names = {path.name for path in (tmp_path / "out").iterdir()}
    figures = {"agreement.png", "components.png", "outputs.png", "spectrum.png"}
    assert names == figures | {"components.csv", "eigenvectors.csv", "ranks.csv"}
    rows = read_table(tmp_path / "out" / "components.csv")
    assert [(row["rank"], row["component"]) for row in rows] == [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    assert all(row["seed_agreement"] is not None for row in rows)
    assert len(read_table(tmp_path / "out" / "eigenvectors.csv")) == 10 * trust.EIGENPAIRS


def test_ranks_must_increase():
    with pytest.raises(ValueError, match="--ranks must increase, got \\[3, 2\\]"):
        trust.main(["--ranks", "3", "2"])
