"""Fixtures that every test module shares."""

import pytest
import torch

CUDA = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
)


@pytest.fixture(params=["cpu", CUDA])
def device(request):
    """Every device a test must pass on; the ones that this machine lacks are skipped."""
    return request.param
