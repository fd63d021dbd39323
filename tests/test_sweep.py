"""Sweeps: what a record says, that a sweep goes on where it stopped, and that a file is never lost."""

import json
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tensornet_interp import BilinearLayer, decompose, relative_error, similarity
from tensornet_interp.decompositions import Eigen
from tensornet_interp.keys import describe, fingerprint
from tensornet_interp.registry import Registry
from tensornet_interp.sweep import load_records, parameters, sweep, to_frame
from tensornet_interp.testing import random_layer

LAYER = random_layer(3, 7, 5, seed=0)
RANKS = {"rank": [1, 2, 7]}


def run(layer=LAYER, grid=RANKS, method="eigen", **options):
    return sweep(layer, method, grid, progress=False, **options)


@pytest.fixture
def counted(monkeypatch):
    """A registered method that counts its runs and can be told to fail; with a seed."""
    calls = []

    @dataclass(frozen=True)
    class Counted:
        rank: int = 1
        prior: object = None
        seed: int = 0

        def __call__(self, layer):
            calls.append((self.rank, self.seed))
            if self.rank == 13:
                raise RuntimeError("did not converge")
            return Eigen(rank=self.rank)(layer)

    registry = Registry("decomposition", "none")
    registry.register("counted")(Counted)
    for place in ("decompositions.strategies", "sweep.fits"):
        monkeypatch.setattr(f"tensornet_interp.{place}.get_decomposition", registry.get)
    return calls


def test_a_record_says_what_was_run_and_what_came_out():
    first, *_, last = run(measure=lambda result: {"largest": float(result.eigenvalues.abs().max())})
    result = decompose(LAYER, "eigen", rank=1)
    assert {
        key: first[key] for key in ("method", "options", "seed", "layer", "error", "iterations", "stop_reason")
    } == {
        "method": "eigen",
        "options": {"rank": 1},
        "seed": None,
        "layer": "random 0",
        "error": None,
        "iterations": 0,
        "stop_reason": "direct",
    }
    assert first["relative_error"] == pytest.approx(relative_error(result, LAYER), abs=1e-12)
    assert first["cosine"] == pytest.approx(float(similarity(result, LAYER)), abs=1e-12)
    assert first["parameters"] == 3 * 3 + 3 * 1 + 3 * 7
    assert first["largest"] == pytest.approx(float(result.eigenvalues.abs().max()))
    assert first["seconds"] > 0
    assert last["relative_error"] < 1e-12


def test_a_grid_is_all_combinations_or_a_list(counted):
    records = run(grid={"rank": [1, 2], "prior": ["a", "b"]}, method="counted", seeds=[0, 3])
    assert [(r["options"]["rank"], r["options"]["prior"], r["seed"]) for r in records] == [
        (rank, prior, seed) for rank in (1, 2) for prior in "ab" for seed in (0, 3)
    ]
    assert counted == [(r["options"]["rank"], r["seed"]) for r in records]
    listed = run(grid=[{"rank": 1}, {"rank": 2, "prior": "b"}, {"rank": 1}], method="counted")
    assert [r["options"] for r in listed] == [{"rank": 1}, {"rank": 2, "prior": "b"}]  # no point runs twice


def test_several_layers_and_methods_in_one_call(tmp_path):
    path, other = tmp_path / "runs.jsonl", random_layer(3, 7, 4, seed=1)
    grid = {"rank": [1, 2]}
    alone = run(method="cp", grid=grid, seeds=[3], path=path)
    records = run([LAYER, other], grid, ["eigen", "cp"], seeds=[3], path=path)
    assert [(r["layer"], r["method"], r["seed"], r["options"]["rank"]) for r in records] == [
        (name, method, seed, rank)
        for name in ("random 0", "random 1")
        for method, seed in (("eigen", None), ("cp", 3))
        for rank in (1, 2)
    ]
    assert records[2:4] == alone  # a file of an earlier call is continued
    named = sweep(
        {"first": LAYER, "again": LAYER},
        {"eigen": {"rank": [1]}, "hosvd": [{"ranks": (2, 3)}]},
        path=path,
        progress=False,
    )
    assert [(r["layer"], r["method"]) for r in named] == [
        (name, method) for name in ("first", "again") for method in ("eigen", "hosvd")
    ]
    assert len(load_records(path)) == 8 + 1  # layers of the same weights are fitted once


def test_a_file_of_an_earlier_version_is_read_and_continued(counted, tmp_path):
    """There, a failed fit lacked the numbers."""
    path = tmp_path / "runs.jsonl"
    failed = {"method": "counted", "options": {"rank": 13}, "seed": 0, "fingerprint": fingerprint(LAYER)}
    failed |= {"layer": "random 0", "seconds": 0.5, "error": "RuntimeError: did not converge"}
    path.write_text(json.dumps(failed) + "\n")
    with pytest.warns(UserWarning, match="1 of 2 fits failed"):
        records = run(grid={"rank": [13, 1]}, method="counted", path=path)
    assert counted == [(1, 0)]
    assert records[0] == dict.fromkeys(records[1]) | failed
    assert load_records(path) == records


def test_a_method_without_seed_runs_once():
    assert [r["seed"] for r in run(grid={"rank": [1]}, seeds=[0, 1, 2])] == [None]


def test_what_is_on_disk_is_read_and_not_run_again(counted, tmp_path):
    path = tmp_path / "runs.jsonl"
    first = run(method="counted", path=path)
    assert first == load_records(path)
    before = path.read_bytes()
    assert run(method="counted", path=path) == first
    assert len(counted) == 3
    assert path.read_bytes() == before
    more = run(grid={"rank": [2, 3]}, method="counted", path=path, seeds=[0, 1])
    assert counted[3:] == [(2, 1), (3, 0), (3, 1)]
    assert more[0] == first[1]
    assert path.read_bytes().startswith(before)
    assert len(load_records(path)) == 6


def test_records_of_another_layer_stay_and_do_not_count(counted, tmp_path):
    path = tmp_path / "runs.jsonl"
    run(grid={"rank": [1]}, method="counted", path=path)
    changed = replace(LAYER, down=LAYER.down * 2)
    (record,) = run(changed, {"rank": [1]}, "counted", path=path)
    assert len(counted) == 2
    assert len(load_records(path)) == 2
    assert record["fingerprint"] == fingerprint(changed)
    run(replace(LAYER, name="renamed"), {"rank": [1]}, "counted", path=path)
    assert len(counted) == 2  # the same weights under another name


@pytest.mark.parametrize("kept", [1, 11, 60, -2, -1])
def test_a_line_cut_off_by_a_kill_is_run_again(counted, tmp_path, kept):
    path = tmp_path / "runs.jsonl"
    whole = run(method="counted", path=path)
    *lines, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + last[:kept])
    assert load_records(path) == whole[:2]
    with pytest.warns(UserWarning, match=r"runs.jsonl was removed; its fit is run again"):
        again = run(method="counted", path=path)
    assert counted[3:] == [(7, 0)]
    assert again[:2] == whole[:2]
    assert [record["options"] for record in load_records(path)] == [{"rank": 1}, {"rank": 2}, {"rank": 7}]


@pytest.mark.parametrize("content", [b"name,accuracy\n", b"name", b'{"method": "eigen"}\n', b"[1]\n", b"\x00\xff\n"])
def test_another_kind_of_file_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a record of a sweep"):
        run(path=path)
    assert path.read_bytes() == content


def test_a_broken_line_is_named_by_its_number(tmp_path):
    path = tmp_path / "runs.jsonl"
    run(path=path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"[1]\n" + b"".join(lines[1:]))
    with pytest.raises(ValueError, match=r"^line 2 of .* is not a record of a sweep"):
        load_records(path)


def test_a_stop_keeps_what_was_done(counted, tmp_path):
    path = tmp_path / "runs.jsonl"

    def measure(result):
        if result.rank == 7:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        run(method="counted", path=path, measure=measure)
    assert len(load_records(path)) == 2
    assert len(run(method="counted", path=path)) == 3
    assert counted[3:] == [(7, 0)]


def test_one_fit_that_fails_is_a_record(counted, tmp_path):
    path = tmp_path / "runs.jsonl"
    with pytest.warns(UserWarning, match=r"1 of 3 fits failed.*counted \{'rank': 13\}: RuntimeError: did not converge"):
        records = run(grid={"rank": [1, 13, 2]}, method="counted", path=path, measure=lambda result: {"size": 1.0})
    assert [r["error"] for r in records] == [None, "RuntimeError: did not converge", None]
    assert len({tuple(r) for r in records}) == 1  # all have the same keys
    assert (records[1]["relative_error"], records[1]["size"], records[0]["size"]) == (None, None, 1.0)
    assert load_records(path) == records
    with pytest.warns(UserWarning, match="1 of 1 fits failed"):
        run(grid={"rank": [13]}, method="counted", path=path)
    assert len(counted) == 3
    with pytest.raises(RuntimeError, match="did not converge"):
        run(grid={"rank": [13]}, method="counted", errors="raise")


@dataclass(frozen=True)
class Prior:
    mode: str
    target: torch.Tensor


class Silent:
    """Says nothing of its state, and knows more than its fields."""

    def __init__(self, state):
        self.state = state

    def __repr__(self):
        return "Silent()"


def lambda_of(state):
    return lambda: state


def local(state):
    class Local:
        value = state

    return Local()


def test_options_that_json_has_no_word_for(counted, tmp_path):
    path = tmp_path / "runs.jsonl"
    targets = [torch.zeros(3), torch.tensor([0, 0, 1e-9])]  # one and the same when printed to four digits
    priors = [[Prior("outputs", target)] for target in targets]
    records = run(grid={"prior": priors, "rank": [1]}, method="counted", path=path)
    described = [record["options"]["prior"][0] for record in records]
    assert described[0] != described[1]
    assert described[0]["class"].endswith(".Prior")
    assert run(grid={"prior": priors, "rank": [1]}, method="counted", path=path) == records
    assert len(counted) == 2


@pytest.mark.parametrize("make", [lambda_of, local, lambda state: iter([state]), lambda state: (x for x in [state])])
def test_options_that_cannot_be_told_apart_are_refused_before_the_first_fit(counted, make):
    with pytest.raises(TypeError, match=r"cannot be told from|has no state that tells it"):
        run(grid={"prior": [1, make(1), make(2)]}, method="counted")
    assert counted == []


def linear(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Linear(2, 2)


@pytest.mark.parametrize("make", [linear, Silent, lambda state: {state: 1}, lambda state: {"a": Silent([state])}])
def test_options_of_one_repr_are_two_points(counted, tmp_path, make):
    path = tmp_path / "runs.jsonl"
    options = [make(1), make(2)]
    assert len(run(grid={"prior": options}, method="counted", path=path)) == 2
    (record,) = run(grid={"prior": [make(2)]}, method="counted", path=path)  # resumed: its own record, not the other's
    assert record == load_records(path)[1]
    assert len(counted) == 2
    run(grid={"prior": [make(3)]}, method="counted", path=path)
    assert len(counted) == 3


def test_description_of_values():
    assert describe((1, [True, None], range(2))) == [1, [True, None], [0, 1]]
    assert describe(torch.float32) == "torch.float32"
    assert describe({"a": np.float32(0.5), "2": torch.tensor(3)}) == {"a": 0.5, "2": 3}
    assert describe({2: 1, "b": 1}) == describe({"b": 1, 2: 1}) != describe({"2": 1, "b": 1})
    assert describe(np.array(["a", "b"])) == ["a", "b"]
    assert describe({"c", "a", "b"}) == ["a", "b", "c"]
    long = np.zeros(5000)
    assert describe(long) != describe(long + (np.arange(5000) == 2000))  # printed, both end in the same dots
    same = torch.arange(6.0).reshape(2, 3)
    assert describe(same) == describe(same.T.contiguous().T)
    assert len({describe(t) for t in (same, same.T, same.double(), same.reshape(-1), same + 1)}) == 5


def test_a_line_that_cannot_be_written_is_taken_back(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError("no space left")

    path = tmp_path / "runs.jsonl"
    run(grid={"rank": [1]}, path=path)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        run(grid={"rank": [1, 2]}, path=path)
    assert path.read_bytes() == before


class Singleton:
    def __reduce__(self):
        return "ONLY"


class Closed:
    def __reduce_ex__(self, protocol):
        raise RuntimeError("it is closed")


def test_objects_without_a_state_of_their_own():
    assert describe(Singleton()) == {"class": f"{__name__}.Singleton", "name": "ONLY"}
    with pytest.raises(TypeError, match=r"Closed.* has no state that can be described: it is closed"):
        describe(Closed())
    itself = []
    itself.append(itself)
    with pytest.raises(TypeError, match="a list contains itself, so it cannot be described"):
        describe(itself)


def test_fingerprint_follows_the_weights(device):
    layer = random_layer(3, 7, 5, seed=0, device=device)
    assert fingerprint(layer) == fingerprint(LAYER) == fingerprint(replace(layer, name="other"))
    others = [
        replace(layer, left=layer.right, right=layer.left),
        layer.to(dtype=torch.float32),
        replace(layer, constant_in=True),
    ]
    assert len({fingerprint(part) for part in (layer, *others)}) == 4


def test_parameters_count_every_array_once():
    assert parameters(LAYER) == 5 * (3 + 7 + 7)
    assert parameters(decompose(LAYER, "eigen", rank=2)) == 3 * 3 + 3 * 2 + 3 * 7 * 2  # eigenvectors stand there twice
    assert parameters(decompose(LAYER, "tensorly_parafac", rank=4)) == 4 * (1 + 3 + 7 + 7)
    tied = decompose(LAYER, "random_components", rank=4, source="eigen")
    assert parameters(tied) == 4 * (1 + 3 + 7)
    hosvd = decompose(LAYER, "tensorly_tucker", rank=(2, 3, 3), n_iter_max=0)
    assert parameters(hosvd) == 3 * 2 + 7 * 3 + 2 * 6  # core: two symmetric 3 x 3 matrices
    thin = replace(
        hosvd,
        core=BilinearLayer(down=torch.ones(2, 1), left=torch.ones(3, 1), right=2 * torch.ones(3, 1)).to(
            dtype=hosvd.outputs.dtype
        ),
    )
    assert parameters(thin) == 3 * 2 + 7 * 3 + 8  # fewer in the factors of the core than in its dense tensor


def test_a_table_has_a_column_an_option(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda rows: rows))
    rows = to_frame([{"method": "eigen", "options": {"rank": 2, "method": "x"}, "seed": None}])
    assert rows == [{"method": "eigen", "seed": None, "rank": 2, "option_method": "x"}]


def test_a_real_table():
    pandas = pytest.importorskip("pandas")
    frame = to_frame(run())
    assert isinstance(frame, pandas.DataFrame)
    assert frame["rank"].tolist() == [1, 2, 7]


def test_without_pandas_there_is_a_hint(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'tensornet_interp\[pandas\]'"):
        to_frame([])


WRONG = {
    "unknown method": (lambda: run(method="eigens"), ValueError, "did you mean 'eigen'"),
    "a method object": (lambda: run(method=Eigen()), TypeError, "must be a registered name"),
    "no layers": (lambda: run(layer=[]), ValueError, "layer is empty"),
    "a layer that is none": (lambda: run(layer=[LAYER, 3]), TypeError, r"layer\[1\]"),
    "no methods": (lambda: run(method=[]), ValueError, "method is empty"),
    "two grids": (lambda: run(method={"eigen": RANKS}), ValueError, "leave grid out"),
    "no grid": (lambda: run(grid=None), TypeError, "grid must be a mapping of lists"),
    "unknown option": (lambda: run(grid={"ranks": [1]}), TypeError, "no option 'ranks'"),
    "bad value, after good ones": (lambda: run(grid={"rank": [1, 0]}), ValueError, "rank must be at least 1"),
    "a lone value": (lambda: run(grid={"rank": 3}), TypeError, r"grid\['rank'\] must be a list"),
    "a string of values": (lambda: run(grid={"rank": "12"}), TypeError, r"grid\['rank'\] must be a list"),
    "a tensor of values": (lambda: run(grid={"rank": torch.arange(3)}), TypeError, "must be a list"),
    "no values": (lambda: run(grid={"rank": []}), TypeError, "at least one value"),
    "an empty list": (lambda: run(grid=[]), ValueError, "the grid has 0 points"),
    "no seeds": (lambda: run(seeds=[]), ValueError, "0 seeds"),
    "seed in the grid": (lambda: run(grid={"seed": [1]}), ValueError, r"use seeds=... instead"),
    "a grid of another kind": (lambda: run(grid=3), TypeError, "grid must be a mapping of lists"),
    "seed a float": (lambda: run(seeds=[0.5]), TypeError, "seeds must be a whole number"),
    "errors": (lambda: run(errors="ignore"), ValueError, "errors must be one of raise, record"),
    "measure takes a name": (
        lambda: run(measure=lambda result: {"cosine": 1}),
        ValueError,
        r"\['cosine'\], but every",
    ),
    "a layer of another kind": (lambda: run(LAYER.down), TypeError, "got Tensor"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_work_is_refused_before_the_first_fit(case, tmp_path):
    call, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        call()


def test_a_file_that_cannot_be_written_is_an_error_before_the_first_fit(counted, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        run(method="counted", path=tmp_path / "file" / "runs.jsonl")
    assert counted == []
    assert len(run(method="counted", path=tmp_path / "new" / "folder" / "runs.jsonl")) == 3


def test_every_line_is_json(tmp_path):
    path = tmp_path / "runs.jsonl"
    run(path=path, measure=lambda result: {"vector": result.eigenvalues[0], "count": [1, 2]})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0]["count"] == [1, 2]
    assert lines[0]["vector"].startswith("tensor((1,), torch.float64")
