"""Spectra at scale, at sizes where they take a moment: what is printed, resumed, refused and compared."""

import math
import re

import pytest
import torch

from examples import spectra_at_scale
from examples.benchmarks.spectral import free_memory
from examples.parts.spectra_model import Sizes
from examples.weights_alone import plant
from models.tables import read_table
from tensornet_interp.spectra import open_spectra, spectra
from tensornet_interp.weights import load_dictionary, load_layer

TINY = ["--d-model", "24", "--hidden", "48", "--layers", "3", "--features", "40", "--some-features", "30"]
TINY += ["--sample", "10", "--batch", "4", "--shard", "16"]


def run(out, *options):
    spectra_at_scale.main([*TINY, "--out", str(out), *options])


def stored(out):
    return {path.name: path.read_bytes() for path in (out / "store").glob("layer-*")}


def test_a_part_is_computed_compared_and_projected(tmp_path, capsys):
    threads = torch.get_num_threads()
    run(tmp_path, "--no-progress", "--price", "2")
    printed = capsys.readouterr()
    assert printed.err == ""
    for words in (
        "60 features (50.0%) of 2 layers",
        "4 of 4 shards",
        "100.0% proven",
        "% of the time",
        "10 features in",
    ):
        assert words in printed.out
    error, bound = re.search(r"eigenvalues: (\S+), its bound (\S+);", printed.out).groups()
    assert 0 <= float(error) <= float(bound)
    assert len(open_spectra(tmp_path / "store")) == 60
    first, ten, hundred = read_table(tmp_path / "scale.csv")
    assert [row["weights"] for row in (first, ten, hundred)] == [1, 10, 100]
    assert first["features"] == 120
    for row in (first, ten, hundred):
        assert row["cost"] == pytest.approx(2 * row["hours"])
        assert row["dense cost"] == pytest.approx(2 * row["dense hours"])
        assert row["GiB on disk"] / row["features"] == pytest.approx(first["GiB on disk"] / 120)
    assert torch.get_num_threads() == threads


def test_a_stopped_run_goes_on_and_a_finished_one_has_nothing_to_do(tmp_path, capsys):
    run(tmp_path, "--sample", "0")
    whole = stored(tmp_path)
    assert "spectra: 100%" in capsys.readouterr().err  # the bar
    (tmp_path / "store" / sorted(whole)[1]).unlink()
    run(tmp_path, "--sample", "0", "--no-progress")
    printed = capsys.readouterr().out
    assert "1 of 4 shards in this run" in printed
    assert "largest difference" not in printed
    assert stored(tmp_path) == whole
    run(tmp_path, "--sample", "0", "--no-progress")
    assert "0 of 4 shards in this run" in capsys.readouterr().out
    with pytest.raises(ValueError, match="tolerance"):
        run(tmp_path, "--tolerance", "0.01")
    with pytest.raises(ValueError, match="other sizes"):
        run(tmp_path, "--d-model", "23")


def test_the_whole_of_a_real_checkpoint_with_its_dictionaries(tmp_path, capsys):
    for layer in range(2):
        plant(tmp_path / "model", seed=0, layer=layer)  # with a dictionary behind this layer
    options = ["--checkpoint", str(tmp_path / "model"), "--dictionaries", str(tmp_path / "model")]
    run(tmp_path / "out", *options, "--place", "{layer}-mlp-out-x4-k8", "--whole", "--no-progress")
    assert "computed here: 512 features (100.0%) of 2 layers" in capsys.readouterr().out
    table = open_spectra(tmp_path / "out" / "store")
    layer = load_layer(tmp_path / "model", 1)
    found = spectra(layer, load_dictionary(tmp_path / "model" / "1-mlp-out-x4-k8").encoder, progress=False)
    torch.testing.assert_close(table.column("eigenvalue_0")[table.column("layer") == 1], found.eigenvalues[:, 0])


def test_memory_is_checked_before_anything_is_written(tmp_path):
    with pytest.raises(MemoryError, match="are needed at once"):
        run(tmp_path / "out", "--memory", "0.001")
    assert not (tmp_path / "out").exists()


def test_free_memory_is_less_than_all():
    free = free_memory()
    assert free is None or 0 < free < 2**50


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shard", "0"], "--shard must be"),
        (["--sample", "-1"], "--sample must be"),
        (["--price", "-1"], "--price must be"),
        (["--tolerance", "nan"], "--tolerance must be"),
        (["--device", "gpu"], "device must be"),
        (["--checkpoint", "nowhere/at-all/here"], "nowhere"),
    ],
)
def test_wrong_options_are_refused_before_work(options, words, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        run(tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_dictionaries_need_a_checkpoint(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, "--dictionaries", "saes")
    assert "--dictionaries belong to a --checkpoint" in capsys.readouterr().err


def test_a_bound_that_does_not_hold_is_an_error(tmp_path, monkeypatch):
    dense = spectra_at_scale.dense
    monkeypatch.setattr(spectra_at_scale, "dense", lambda *arguments: 1.01 * dense(*arguments))
    with pytest.raises(RuntimeError, match="do not hold"):
        run(tmp_path)


def test_a_model_with_factor_times_the_weights():
    sizes = Sizes(1024, 1024, 4096, 16, 8192)
    for factor in (1, 10, 100):
        grown = sizes.grown(factor)
        weights = [one.layers * one.n_in * one.hidden for one in (grown, sizes)]
        assert math.isclose(weights[0] / weights[1], factor, rel_tol=0.02)  # sizes are whole numbers


@pytest.mark.slow
def test_workers_store_what_one_process_stores(tmp_path, capsys):
    for name, workers in (("one", "1"), ("two", "2")):
        run(tmp_path / name, "--workers", workers, "--threads", "1", "--no-progress")
    assert stored(tmp_path / "one") == stored(tmp_path / "two")
