"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import models
import tensornet_interp

MODULES = sorted(
    info.name
    for package in (tensornet_interp, models)
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
)
WITH_EXAMPLES = [name for name in MODULES if ">>>" in (importlib.util.find_spec(name).loader.get_source(name) or "")]


def test_examples_are_found():
    assert {"tensornet_interp.layer", "tensornet_interp.decompositions.eigen", "models.bilinear"} <= set(WITH_EXAMPLES)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_docstring_examples(name):
    names = {"torch": torch} | {key: getattr(tensornet_interp, key) for key in tensornet_interp.__all__}
    result = doctest.testmod(importlib.import_module(name), extraglobs=names, raise_on_error=False)
    assert result.attempted > 0
    assert result.failed == 0
