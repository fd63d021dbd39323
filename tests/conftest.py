"""Fixtures that every test module shares."""

import os

import pytest
import torch

CUDA = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
)


# processes of one run share the cores
torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))


@pytest.fixture(params=["cpu", CUDA])
def device(request):
    """Every device a test must pass on; the ones that this machine lacks are skipped."""
    return request.param
