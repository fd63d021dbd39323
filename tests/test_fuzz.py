"""Broken files, a few hundred in every run and thousands with `pytest -m fuzz`; see `fuzz_files.py`."""

import importlib
import inspect

import fuzz_files
import pytest
from source import FILES, PAGES, ROOT


def names_of_loaders():
    """Everything public that reads: functions of contents pages, and of the modules of `models`."""
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if "models" in path.parts]
    for module in map(importlib.import_module, modules):
        functions = inspect.getmembers(module, inspect.isfunction)
        yield from (name for name, function in functions if function.__module__ == module.__name__)
    for names in PAGES.values():
        yield from names


def test_every_loader_is_in_the_table():
    loaders = {name for name in names_of_loaders() if name.startswith(("load_", "read_"))}
    assert {"load_layer", "read_idx", "load_records"} <= loaders
    in_memory = {"read_back"}  # of attention: it reads no file
    assert loaders - {name.split(" ")[0] for name in fuzz_files.LOADERS} == in_memory


@pytest.mark.parametrize(("seed", "count"), [(0, 300), pytest.param(1, 10_000, marks=pytest.mark.fuzz)])
def test_broken_files_are_read_right_or_refused_clearly(seed, count):
    found = fuzz_files.fuzz(seed, count, processes=2)
    assert len(found) == count
    assert [case for case in found if case.outcome.startswith("FAILURE")] == []
    assert {case.loader for case in found} == set(fuzz_files.LOADERS)


@pytest.mark.fuzz
def test_every_hostile_value_in_every_place_of_a_json_file():
    found = fuzz_files.fuzz(0, None, processes=2)
    assert len(found) > 10_000
    assert [case for case in found if case.outcome.startswith("FAILURE")] == []


def test_a_hostile_config_is_refused_in_every_place():
    found = fuzz_files.fuzz(0, None, only="load_attention (llama)")
    assert len(found) > 500
    assert [case for case in found if case.outcome.startswith("FAILURE")] == []
