"""Executors: the same results wherever units run, and what an executor that fails leaves behind."""

import os
import signal
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from attention_layers import layer_with
from helpers import layer_of, normal, stack, within

from tensornet_interp import Moments, decompose, similarity
from tensornet_interp.attention import SequenceNetwork
from tensornet_interp.compare import stability
from tensornet_interp.executors import run_units
from tensornet_interp.inner_products import Gaussian, Symmetric, similarity_by_output
from tensornet_interp.keys import digest
from tensornet_interp.sweep import load_records, sweep

LAYER, OTHER = layer_of(3, 7, 5), layer_of(3, 7, 4, seed=9)
RESULTS = [decompose(LAYER, "cp", rank=2, seed=seed, max_iterations=3) for seed in range(3)]
NETWORKS = [stack((5, 4, 3), ranks, seed=7 * i) for i, ranks in enumerate(((3, 2), (4, 2), (3, 5)))]
HEADS = [layer_with(1, seed=seed) for seed in range(3)]
STACKS = [SequenceNetwork([head]) for head in HEADS]
MOMENTS = Moments(normal(5), torch.eye(5, dtype=torch.float64))


def without_seconds(records):
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def largest(result):
    return {"largest": float(result.weights.abs().max()), "shape": list(result.outputs.shape)}


CALLS = {
    "sweep": lambda **where: without_seconds(
        sweep(
            [LAYER, OTHER],
            "cp",
            {"rank": [2, 3], "start": [None, RESULTS[0]], "max_iterations": [3]},
            seeds=[0, 1],
            measure=largest,
            progress=False,
            **where,
        )
    ),
    "stability": lambda **where: stability(RESULTS, controls=2, **where),
    "similarity": lambda **where: similarity(NETWORKS, kind=Symmetric(), progress=False, **where),
    "similarity, sampled": lambda **where: similarity(
        NETWORKS, kind=Gaussian(MOMENTS, method="sampled", samples=50), progress=False, **where
    ),
    "similarity of attention layers": lambda **where: similarity(HEADS, kind="tree", progress=False, **where),
    "similarity of stacks over positions": lambda **where: similarity(STACKS, kind="gaussian", progress=False, **where),
    "similarity of stacks, sampled": lambda **where: similarity(
        STACKS, kind=Gaussian(method="sampled", samples=40), progress=False, **where
    ),
    "similarity by output": lambda **where: similarity_by_output(NETWORKS, kind=Gaussian(), progress=False, **where),
}
MAKERS = {
    "threads": lambda: ThreadPoolExecutor(2),
    "more workers than units": lambda: ThreadPoolExecutor(99),
    "forked": lambda: ProcessPoolExecutor(2, mp_context=get_context("fork")),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", [*MAKERS, "spawned"])
def test_the_same_bits_wherever_units_run(call, kind, spawned, one_thread, tmp_path):
    executor = spawned if kind == "spawned" else MAKERS[kind]
    with within(100):
        assert digest(CALLS[call](executor=executor, scratch=tmp_path)) == digest(CALLS[call]())
    assert list(tmp_path.iterdir()) == []


def test_the_records_of_processes_are_in_the_file_once(spawned, tmp_path):
    path, grid = tmp_path / "runs.jsonl", {"rank": [1, 2, 3]}
    records = sweep(LAYER, "eigen", grid, path=path, progress=False, executor=spawned)
    assert [record["options"]["rank"] for record in records] == [1, 2, 3]
    assert sorted(map(str, load_records(path))) == sorted(map(str, records))
    closed = ThreadPoolExecutor(1)
    closed.shutdown()
    assert sweep(LAYER, "eigen", grid, path=path, progress=False, executor=closed) == records  # nothing is left to do


def threads(objects, size):
    """What a fit of some size does, and on how many threads."""
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (matrix @ matrix).sum().backward()
    torch.linalg.eigh(matrix.detach() @ matrix.detach().T)
    return torch.get_num_threads()


def test_a_fork_does_not_wait_for_the_threads_of_its_parent():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        threads({}, 300)  # now the parent has threads that a fork lacks
        with within(100), ProcessPoolExecutor(mp_context=get_context("fork")) as pool:
            assert dict(run_units(threads, [(300,), (310,)], {}, pool)) == {0: 1, 1: 1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def variable(objects, name):
    return {"threads": torch.get_num_threads(), "variable": os.environ.get(name)}


def test_a_worker_computes_on_the_threads_of_its_own_environment(spawned, monkeypatch):
    (found,) = dict(run_units(variable, [("OMP_NUM_THREADS",)], {}, spawned)).values()
    assert found["threads"] == int(found["variable"] or 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        assert dict(run_units(variable, [("OMP_NUM_THREADS",)], {}, pool))[0]["threads"] == 1
    with ThreadPoolExecutor(1) as pool:
        assert dict(run_units(variable, [("A",)], {}, pool))[0]["threads"] == torch.get_num_threads()


class Deadly:
    """A measure that kills its process at a rank, until a file says that it did."""

    def __init__(self, folder, rank, times=1):
        self.folder, self.rank, self.times = folder, rank, times

    def __call__(self, result):
        died = len(list(Path(self.folder).glob("died*")))
        if len(result.weights) == self.rank and died < self.times:
            Path(self.folder, f"died{died}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"size": len(result.weights)}


def fits(folder, executor, times=1, **where):
    measure = Deadly(str(folder), 3, times)
    grid = {"rank": [1, 2, 3, 4], "max_iterations": [2]}
    return sweep(LAYER, "cp", grid, measure=measure, progress=False, executor=executor, **where)


def forks():
    return ProcessPoolExecutor(1, mp_context=get_context("fork"))


def test_a_killed_worker_of_a_plain_pool_is_an_error_that_counts_and_the_same_call_goes_on(tmp_path):
    path = tmp_path / "runs.jsonl"
    with forks() as pool, pytest.raises(RuntimeError, match=r"with 2 of 4 units finished.*their records are in"):
        fits(tmp_path, pool, path=path)
    before = load_records(path)
    assert [record["size"] for record in before] == [1, 2]
    with forks() as pool:
        records = fits(tmp_path, pool, path=path)
    assert records[:2] == before
    assert [record["size"] for record in records] == [1, 2, 3, 4]


def test_without_a_file_of_records_scratch_keeps_what_is_finished(tmp_path):
    scratch, marks = tmp_path / "scratch", tmp_path / "marks"
    marks.mkdir()
    with forks() as pool, pytest.raises(RuntimeError, match=r"2 of 4 units finished.*not stored: give scratch="):
        fits(marks, pool)
    (marks / "died0").unlink()
    with forks() as pool, pytest.raises(RuntimeError, match=r"2 of 4 units finished.*results are kept in .*scratch"):
        fits(marks, pool, scratch=scratch)
    assert len(list(scratch.rglob("*.safetensors"))) == 2
    with forks() as pool:
        assert [record["size"] for record in fits(marks, pool, scratch=scratch)] == [1, 2, 3, 4]
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("deaths", [1, 3])
def test_a_function_that_makes_pools_is_asked_again(tmp_path, deaths):
    assert [record["size"] for record in fits(tmp_path, forks, deaths)] == [1, 2, 3, 4]
    assert len(list(tmp_path.glob("died*"))) == deaths


def test_it_is_asked_again_three_times_at_most(tmp_path):
    made = []

    def make():
        made.append(forks())
        return made[-1]

    with pytest.raises(RuntimeError, match="2 of 4 units finished"):
        fits(tmp_path, make, 9)
    assert len(made) == 4


class Answering:
    """An executor that runs nothing and answers what it is told, after a check that it answers well."""

    def __init__(self, answer):
        self.answer = answer

    def submit(self, function, *arguments):
        future = Future()
        if len(arguments) == 1:
            future.set_result(function(*arguments))
        else:
            self.answer(future)
        return future


BROKEN = {
    "lost": (lambda future: future.set_result(None), "returned None instead of the result of unit 0"),
    "of another unit": (lambda future: future.set_result((3, None)), "instead of the result of unit 0"),
    "cancelled": (lambda future: future.cancel(), "CancelledError"),
    "disconnected": (lambda future: future.set_exception(OSError("no route to host")), "no route to host"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_lost_results_are_an_error(name):
    answer, said = BROKEN[name]
    with pytest.raises(RuntimeError, match=f"with 0 of 3 units finished.*{said}"):
        stability(RESULTS, executor=Answering(answer))


def test_a_closed_executor_is_an_error():
    closed = ThreadPoolExecutor(1)
    closed.shutdown()
    with pytest.raises(RuntimeError, match=r"with 0 of 3 units finished.*after shutdown"):
        stability(RESULTS, executor=closed)


class Elsewhere(ThreadPoolExecutor):
    """Workers on a machine that has other folders."""

    def submit(self, function, folder, *arguments):
        return super().submit(function, f"/nowhere{folder}", *arguments)


class Local(Elsewhere):
    """Workers that have a folder of the same name, which is another one."""

    def submit(self, function, folder, *arguments):
        return ThreadPoolExecutor.submit(self, lambda folder: (-1, None), folder)


@pytest.mark.parametrize("executor", [Elsewhere, Local])
def test_a_folder_that_a_worker_does_not_see(executor):
    with executor(1) as pool, pytest.raises(FileNotFoundError, match=r"is not shared: .*does not see.*give scratch="):
        stability(RESULTS, executor=pool)


def fail(objects, kind):
    raise kind("of a unit")


class PrivateError(Exception):
    def __init__(self, a, b):
        super().__init__(a)


def fail_privately(objects):
    raise PrivateError("of a unit", 2)


def test_the_error_of_a_unit_is_raised_here(spawned):
    for pool in (spawned, lambda: ThreadPoolExecutor(1)):
        for kind in (ValueError, KeyError):
            with pytest.raises(kind, match="of a unit"):
                list(run_units(fail, [(kind,)] * 3, {}, pool))
        # its words, unless a library in this process has taught pickle every error, as that of Dask does
        with pytest.raises((RuntimeError, PrivateError), match="of a unit"):
            list(run_units(fail_privately, [()], {}, pool))
    assert without_seconds(CALLS["sweep"](executor=spawned))  # the pool is as good as before


def test_a_function_that_cannot_be_sent_is_named(spawned):
    with pytest.raises(TypeError, match="executor cannot send an argument to its workers"):
        sweep(LAYER, "eigen", {"rank": [1]}, measure=lambda result: {}, progress=False, executor=spawned)


def look(objects, name):
    return {"names": sorted(objects), "count": len(objects), "there": name in objects, "value": objects[name]}


def test_a_unit_sees_the_objects_of_the_call_and_no_others():
    with ThreadPoolExecutor(1) as pool:
        (found,) = dict(run_units(look, [("b",)], {"a": 1, "b": [2.0]}, pool)).values()
        assert found == {"names": ["a", "b"], "count": 2, "there": True, "value": [2.0]}
        with pytest.raises(FileNotFoundError, match=r"does not see object-c"):
            list(run_units(look, [("c",)], {"a": 1}, pool))


def test_a_pool_that_breaks_after_the_last_result_was_written_has_lost_nothing():
    class Late(ThreadPoolExecutor):
        def submit(self, function, *arguments):
            answer = super().submit(function, *arguments)
            answer.result()
            if len(arguments) == 1:
                return answer
            broken = Future()
            broken.set_exception(OSError("no route to host"))
            return broken

    with Late(1) as pool:
        assert digest(stability(RESULTS, executor=pool)) == digest(stability(RESULTS))


@pytest.mark.parametrize("executor", ["processes", 2, object()])
def test_what_is_no_executor(executor):
    with pytest.raises(TypeError, match="executor must be an executor"):
        stability(RESULTS, executor=executor)
    with pytest.raises(TypeError, match="executor must make executors"):
        stability(RESULTS, executor=lambda: executor)
