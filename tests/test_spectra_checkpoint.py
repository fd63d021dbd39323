"""Spectra of a checkpoint: what the table says, that a store goes on where it stopped, and what is refused."""

import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from helpers import layer_of, normal
from safetensors.torch import load_file, save_file

from tensornet_interp import lift
from tensornet_interp.spectra import SpectraTable, checkpoint_spectra, invariants, open_spectra, spectra
from tensornet_interp.tables import to_frame, write_csv
from tensornet_interp.tensorfile import TensorFile
from tensornet_interp.weights import Layout, layer_indices, pack

K, D, HIDDEN, FEATURES = 2, 6, 5, 7
LAYERS = [layer_of(D, D, HIDDEN, seed=10 * i) for i in range(3)]
DIRECTIONS = {i: normal(FEATURES + i, D, seed=50 + i) for i in range(3)}


def run(store, source=LAYERS, directions=DIRECTIONS, k=K, tolerance=1e-6, **options):
    return checkpoint_spectra(source, directions, k, tolerance, store, **{"shard": 4, "progress": False} | options)


def content(store):
    """The bytes of every file but the log, which has the times."""
    return {path.name: path.read_bytes() for path in store.iterdir() if path.name != "log.jsonl"}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A complete store; tests that change it copy it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    store = tmp_path_factory.mktemp("spectra") / "store"
    run(store)
    torch.set_num_threads(before)
    return store


@pytest.fixture
def copied(stored, tmp_path):
    return shutil.copytree(stored, tmp_path / "copy")


@pytest.fixture
def checkpoint(tmp_path):
    tensors = {}
    for i, layer in enumerate(LAYERS):
        tensors[f"transformer.h.{i}.mlp.w.weight"] = torch.cat([layer.left.T, layer.right.T])
        tensors[f"transformer.h.{i}.mlp.p.weight"] = layer.down.contiguous()
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_the_table_has_the_spectra_of_every_feature(stored):
    table = open_spectra(stored)
    assert len(table) == table.total == 7 + 8 + 9
    rows = table.records()
    assert [(row["layer"], row["feature"]) for row in rows] == [
        (layer, feature) for layer in range(3) for feature in range(FEATURES + layer)
    ]
    for index, layer in enumerate(LAYERS):
        own = [row for row in rows if row["layer"] == index]
        dense = torch.linalg.eigvalsh(layer.interaction_matrix(DIRECTIONS[index]))
        known = invariants(layer, DIRECTIONS[index])
        for at, row in enumerate(own):
            largest = dense[at][dense[at].abs().argsort(descending=True)]
            assert [row["eigenvalue_0"], row["eigenvalue_1"]] == pytest.approx(largest[:2].tolist(), rel=1e-9)
            assert abs(row["eigenvalue_0"] - float(largest[0])) <= row["bound_0"] + 1e-12
            assert row["proven"] is True
            share = float(largest[:2].square().sum() / largest.square().sum())
            assert row["share"] == pytest.approx(share, rel=1e-9)
            assert row["trace"] == pytest.approx(float(known.trace[at]), rel=1e-9)
            rank = float(largest.abs().sum() ** 2 / largest.square().sum())
            assert row["rank_low"] - 1e-9 <= rank <= row["rank_high"] + 1e-9


def test_columns_are_read_alone_and_ranked(stored, tmp_path):
    table = open_spectra(stored)
    assert set(table.columns) == set(table.records()[0])
    share = table.column("share")
    assert share.tolist() == [row["share"] for row in table]
    best = table.top("share", 5)
    assert best == sorted(table, key=lambda row: -row["share"])[:5]
    assert table.top("eigenvalue_0", 3, largest=False) == sorted(table, key=lambda row: row["eigenvalue_0"])[:3]
    assert len(table.top("norm", 1000)) == 24
    write_csv(table, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines()[0].split(",") == list(table.columns)
    frame = to_frame(best)
    assert list(frame["layer"]) == [row["layer"] for row in best]
    assert repr(table).startswith("SpectraTable(24 of 24 features of 3 layers, k=2, ")


def test_a_checkpoint_on_disk_gives_what_its_layers_give(checkpoint, stored, tmp_path, one_thread):
    assert layer_indices(checkpoint) == [0, 1, 2]
    table = run(tmp_path / "a", checkpoint)
    for name in ("eigenvalue_0", "bound_1", "norm", "share"):
        assert torch.equal(table.column(name), open_spectra(stored).column(name))
    every = run(tmp_path / "b", checkpoint, lambda index: DIRECTIONS[index])
    assert content(tmp_path / "b") == content(tmp_path / "a")
    assert [layer["layer"] for layer in every.layers] == [0, 1, 2]
    run(tmp_path / "workers", checkpoint, executor=lambda: ThreadPoolExecutor(2))
    assert content(tmp_path / "workers") == content(tmp_path / "a")
    one = run(tmp_path / "c", checkpoint, {1: DIRECTIONS[1]})
    assert one.column("layer").unique().tolist() == [1]
    same = run(tmp_path / "d", checkpoint, DIRECTIONS[0])
    assert len(same) == 3 * FEATURES
    named = Layout(left="h.{i}.l", right="h.{i}.r", down="h.{i}.d")
    with pytest.raises(ValueError, match="layout fits no layer of"):
        run(tmp_path / "e", checkpoint, layout=named)


def test_lifted_layers_and_other_dtypes(tmp_path):
    lifted = lift(LAYERS[0], bias=normal(D), residual=1.0)
    table = run(tmp_path / "a", [lifted], normal(3, D + 1))
    assert table.column("eigenvalue_0").dtype == torch.float64
    narrow = [layer.to(dtype=torch.float32) for layer in LAYERS]
    single = {i: rows.float() for i, rows in DIRECTIONS.items()}
    assert run(tmp_path / "b", narrow, single).column("eigenvalue_0").dtype == torch.float32
    with pytest.raises(
        ValueError, match=r"layer 0: tolerance must be at least 1\.2e-07, the rounding of torch.float32"
    ):
        run(tmp_path / "c", narrow, single, tolerance=1e-9)


@pytest.mark.parametrize("kind", ["threads", "spawned"])
def test_the_same_bytes_on_any_executor(kind, stored, spawned, tmp_path, one_thread):
    executor = spawned if kind == "spawned" else lambda: ThreadPoolExecutor(2)
    run(tmp_path / "a", executor=executor)
    assert content(tmp_path / "a") == content(stored)


def test_an_interrupted_store_goes_on_with_the_same_bytes(stored, copied, one_thread):
    removed = sorted(copied.glob("layer-*"))[::2]
    times = {path: path.stat().st_mtime_ns for path in copied.glob("layer-*") if path not in removed}
    for path in removed:
        path.unlink()
    partial = open_spectra(copied)
    assert 0 < len(partial) < partial.total
    run(copied)
    assert content(copied) == content(stored)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    lines = (copied / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["shard"] for line in lines[-len(removed) :]] == [path.name for path in removed]


def test_a_directions_function_that_stops_leaves_what_was_finished(stored, tmp_path, one_thread):
    calls = []

    def directions(index):
        calls.append(index)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return DIRECTIONS[index]

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", directions=directions)
    assert sorted(open_spectra(tmp_path / "a").column("layer").unique().tolist()) == [0]
    run(tmp_path / "a")
    assert content(tmp_path / "a") == content(stored)


OTHER_SETTINGS = {
    "k": ({"k": 3}, "k is 2 there and 3 here"),
    "tolerance": ({"tolerance": 1e-3}, "tolerance is 1e-06 there and 0.001 here"),
    "shard": ({"shard": 5}, "shard is 4 there and 5 here"),
    "memory": ({"max_elements": 1000}, "max_elements is 33554432 there and 1000 here"),
    "seed": ({"seed": 1}, "seed is 0 there and 1 here"),
    "layers": ({"source": [*LAYERS[:2], LAYERS[0]]}, r"layers\.2\.fingerprint is \w+ there and \w+ here"),
    "directions": (
        {"directions": DIRECTIONS | {1: -DIRECTIONS[1]}},
        r"layers\.1\.directions is \w+ there and \w+ here",
    ),
    "fewer layers": ({"directions": {0: DIRECTIONS[0]}}, r"layers\.1\.\w+ is .* there and None here"),
}


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_other_settings_are_refused_and_both_shown(name, stored):
    options, said = OTHER_SETTINGS[name]
    before = content(stored)
    with pytest.raises(ValueError, match=f"store .* has other settings: .*{said}"):
        run(stored, **options)
    assert content(stored) == before


def changed_manifest(store, change):
    path = store / "manifest.json"
    words = json.loads(path.read_text())
    change(words)
    path.write_text(json.dumps(words))


def test_a_manifest_that_was_edited_or_is_of_another_version_is_refused(copied, monkeypatch):
    changed_manifest(copied, lambda words: words["settings"].update(k=1))
    for call in (open_spectra, run):
        with pytest.raises(ValueError, match=r"manifest\.json is not the manifest .*checksum"):
            call(copied)
    (copied / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match=r"manifest\.json is not the manifest"):
        open_spectra(copied)


def test_a_store_of_another_version_of_the_package_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("tensornet_interp.spectra.checkpoint.package_version", lambda: "0.0.1")
        run(tmp_path)
    with pytest.raises(ValueError, match=r"versions\.tensornet_interp is 0\.0\.1 there and \S+ here"):
        run(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("tensornet_interp.spectra.shards.FORMAT_VERSION", 2)
        with pytest.raises(ValueError, match="has format 1, but this version reads 2"):
            open_spectra(tmp_path)


def flip(path):
    found = bytearray(path.read_bytes())
    found[-3] ^= 1
    path.write_bytes(bytes(found))


def less(columns):
    return {name: column for name, column in columns.items() if name != "norm"}


DAMAGES = {
    "a bit": flip,
    "cut": lambda path: os.truncate(path, 100),
    "empty": lambda path: path.write_bytes(b""),
    "of another place": lambda path: shutil.copy(path.with_name("layer-00000-00000000.safetensors"), path),
    "a column less": lambda path: path.write_bytes(pack(less(load_file(path)), TensorFile(path).metadata)),
    "without checksums": lambda path: save_file(load_file(path), path),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_shard_is_named_and_computed_again_on_request(name, stored, copied, one_thread):
    path = copied / "layer-00001-00000004.safetensors"
    DAMAGES[name](path)
    with pytest.raises(ValueError, match=r"1 damaged shards: layer-00001-00000004\.safetensors; pass repair=True"):
        run(copied)
    with pytest.raises(ValueError, match=r"layer-00001-00000004\.safetensors"):
        open_spectra(copied).records()
    run(copied, repair=True)
    assert content(copied) == content(stored)


def test_a_full_disk_is_an_error_and_what_is_finished_stays(stored, tmp_path, monkeypatch, one_thread):
    real, calls = os.fsync, []

    def full(number):
        calls.append(number)
        if len(calls) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(number)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            run(tmp_path / "a")
    assert 0 < len(open_spectra(tmp_path / "a")) < 24
    run(tmp_path / "a")
    assert content(tmp_path / "a") == content(stored)


def test_weights_that_change_meanwhile_are_refused(checkpoint, tmp_path):
    def directions(index):
        if index == 2:
            tensors = load_file(checkpoint / "model.safetensors")
            save_file({name: 2 * value for name, value in tensors.items()}, checkpoint / "model.safetensors")
        return DIRECTIONS[index]

    with pytest.raises(ValueError, match=r"holds other weights of layer 0 on .* than where the call began"):
        run(tmp_path / "a", checkpoint, directions)


def test_progress_counts_features_and_is_silent_on_request(copied, tmp_path, capsys):
    (copied / "layer-00000-00000000.safetensors").unlink()
    run(copied, progress=True)
    shown = capsys.readouterr().err
    assert "spectra" in shown
    assert "24/24" in shown
    run(tmp_path / "a")
    assert capsys.readouterr() == ("", "")


def test_the_folder_of_objects_is_removed_if_the_log_cannot_be_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("tensornet_interp.spectra.checkpoint.Shards.log", full)
    with ThreadPoolExecutor(1) as pool, pytest.raises(OSError, match="No space left"):
        run(tmp_path, executor=pool)
    assert not list(tmp_path.glob("tensornet_interp-*"))


def test_memory_is_an_option_that_changes_no_result(tmp_path):
    layer, rows = layer_of(5, 40, 30), normal(20, 5)
    whole = spectra(layer, rows, 2, method="krylov", progress=False)
    small = spectra(layer, rows, 2, method="krylov", max_elements=1, progress=False)
    assert bool(((small.eigenvalues - whole.eigenvalues).abs() <= small.bounds + whole.bounds).all())
    assert bool(small.converged.all())


REFUSED = {
    "a direction of zeros": ({"directions": {0: torch.zeros(2, D).double()}}, "layer 0: directions must not be zero"),
    "k above the rank": ({"k": 7}, "layer 0: k must be from 1 to 6"),
    "a tolerance below rounding": ({"tolerance": 1e-20}, "layer 0: tolerance must be from"),
    "another size": ({"directions": normal(2, 3)}, "layer 0: mode 'out' has size 6 in layer but 3 in directions"),
    "a layer that is not there": ({"directions": {5: normal(2, D)}}, r"directions has layers \[5\]"),
    "no layers": ({"source": []}, "source is empty"),
    "no directions": ({"directions": {}}, "directions has layers none"),
    "no rows": ({"shard": 0}, "shard must be at least 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_computed_is_refused_before_a_store_is_made(name, tmp_path):
    options, said = REFUSED[name]
    with pytest.raises(ValueError, match=said):
        run(tmp_path / "a", **options)
    assert not (tmp_path / "a").exists()


def test_names_of_layers_do_not_matter_but_weights_do(stored):
    with pytest.raises(ValueError, match=r"layers\.0\.name is .* there and other here"):
        run(stored, [replace(LAYERS[0], name="other"), *LAYERS[1:]])


def test_a_table_of_nothing(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tensornet_interp.spectra.checkpoint.searched", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    table = open_spectra(tmp_path)
    assert isinstance(table, SpectraTable)
    assert (len(table), table.top(), table.records(), table.column("norm").tolist()) == (0, [], [], [])
    with pytest.raises(FileNotFoundError, match=r"manifest\.json is missing"):
        open_spectra(tmp_path / "nothing")
