"""Units of work on a cluster of Dask: two worker processes on this machine."""

import os
import signal
from pathlib import Path

import pytest
import torch
from test_executors import CALLS, fits

from tensornet_interp.executors import run_units
from tensornet_interp.keys import digest
from tensornet_interp.spectra import checkpoint_spectra
from tensornet_interp.sweep import load_records
from tensornet_interp.testing import random_layer

distributed = pytest.importorskip("distributed", reason="dask is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.parametrize("call", CALLS)
def test_the_same_bits_on_a_cluster(call, client, one_thread, tmp_path):
    assert digest(CALLS[call](executor=client.get_executor(), scratch=tmp_path)) == digest(CALLS[call]())
    assert list(tmp_path.iterdir()) == []


def content(store):
    return {path.name: path.read_bytes() for path in store.iterdir() if path.name != "log.jsonl"}


def spectra_in(store, **where):
    layers, generator = [random_layer(6, 20, 30, seed=seed) for seed in (0, 1)], torch.Generator().manual_seed(0)
    directions = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    return checkpoint_spectra(layers, directions, 2, 1e-3, store, shard=8, progress=False, **where)


def test_the_same_shards_on_a_cluster(client, one_thread, tmp_path):
    spectra_in(tmp_path / "alone")
    spectra_in(tmp_path / "cluster", executor=client.get_executor)  # a method that makes executors
    assert content(tmp_path / "cluster") == content(tmp_path / "alone")


def kill_once(objects, folder, number):
    """The fourth unit kills its process, once."""
    mark = Path(folder, "died")
    if number == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def test_a_worker_that_is_killed_in_the_middle_costs_nothing_but_time(client, tmp_path):
    units = [(str(tmp_path), number) for number in range(8)]
    assert dict(run_units(kill_once, units, {}, client.get_executor())) == {n: n * n for n in range(8)}
    assert (tmp_path / "died").exists()


def test_a_sweep_whose_worker_is_killed_has_every_record_once(client, tmp_path):
    records = fits(tmp_path, client.get_executor(), path=tmp_path / "runs.jsonl")
    assert [record["size"] for record in records] == [1, 2, 3, 4]
    assert len(load_records(tmp_path / "runs.jsonl")) == 4
    assert (tmp_path / "died0").exists()


def test_a_unit_that_kills_every_worker_is_an_error_that_counts(client, tmp_path):
    with pytest.raises(RuntimeError, match=r"with \d of 4 units finished.*KilledWorker.*their records are in"):
        fits(tmp_path, client.get_executor(), 99, path=tmp_path / "runs.jsonl")
    assert [record["size"] for record in fits(tmp_path, None, 0, path=tmp_path / "runs.jsonl")] == [1, 2, 3, 4]


def test_a_closed_cluster_is_an_error(tmp_path):
    with distributed.Client(processes=False, n_workers=1, dashboard_address=None) as client:
        executor = client.get_executor()
    with pytest.raises(RuntimeError, match=r"with 0 of 3 units finished"):
        CALLS["stability"](executor=executor)
