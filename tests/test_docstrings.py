"""Every example in a docstring runs and prints what it says."""

import dataclasses
import doctest
import importlib
import inspect
import pkgutil

import pytest
import torch

import models
import tensornet_interp
from tensornet_interp.decompositions import BUILT_IN, FitOptions

MODULES = sorted(
    info.name
    for package in (tensornet_interp, models)
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
)
WITH_EXAMPLES = [name for name in MODULES if ">>>" in (importlib.util.find_spec(name).loader.get_source(name) or "")]
SHARED = {field.name for field in dataclasses.fields(FitOptions)}


def test_examples_are_found():
    assert {"tensornet_interp.layer", "tensornet_interp.decompositions.eigen", "models.bilinear"} <= set(WITH_EXAMPLES)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_docstring_examples(name):
    names = {"torch": torch} | {key: getattr(tensornet_interp, key) for key in tensornet_interp.__all__}
    result = doctest.testmod(importlib.import_module(name), extraglobs=names, raise_on_error=False)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_decomposition_says_what_it_takes_returns_costs_and_refuses_and_where_it_is_from(name):
    text = inspect.getdoc(BUILT_IN[name])
    assert text.splitlines()[0].endswith(".")
    assert "B[out, " in text  # the equation
    assert [part for part in ("Result: ", "Cost", "Raises", "Source: ") if part not in text] == []
    options = [field.name for field in dataclasses.fields(BUILT_IN[name]) if field.name not in SHARED]
    if "tensorly" not in name:  # their options are those of a function of TensorLy
        assert [option for option in options if f"{option}: " not in text and f"{option}, " not in text] == []


def test_the_options_that_fits_share_are_explained_once():
    text = inspect.getdoc(FitOptions)
    assert [option for option in SHARED if f"{option}: " not in text] == []
