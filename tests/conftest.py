"""Fixtures that every test module shares, and the option `--second-device`."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest
import second_device
import torch

CUDA = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
)


# processes of one run share the cores
torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))


def pytest_addoption(parser):
    parser.addoption(
        "--second-device",
        choices=["float64", "float32"],
        help="run the tests of other devices on tests/second_device.py, with or without float64",
    )


def pytest_configure(config):
    if kind := config.getoption("--second-device"):
        second_device.install(float64=kind == "float64")


def pytest_generate_tests(metafunc):
    """Every device a test must pass on; the ones that this machine lacks are skipped."""
    if "device" in metafunc.fixturenames:
        made = metafunc.config.getoption("--second-device")
        metafunc.parametrize("device", [second_device.NAME] if made else ["cpu", CUDA], scope="session")


@pytest.fixture(scope="session")
def spawned():
    """Two worker processes that import everything anew, as on another machine; they start once per session."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture
def one_thread():
    """One thread of torch in this process, as in the workers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(config, items):
    """Of the other device, only its own tests run."""
    if config.getoption("--second-device"):
        kept = [item for item in items if "device" in item.fixturenames]
        config.hook.pytest_deselected(items=[item for item in items if "device" not in item.fixturenames])
        items[:] = kept
