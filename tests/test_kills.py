"""Kills, full disks and read-only folders, with counts; see `kills.py`. All but a few behind `pytest -m kills`."""

import random

import kills
import pytest


def bad(said):
    return {word: said[word] for word in kills.BAD if said[word]}


@pytest.mark.kills
@pytest.mark.parametrize("name", kills.tasks(40))
def test_nothing_is_lost_or_torn(name, tmp_path):
    said = kills.tasks(40)[name](tmp_path, random.Random(0))
    assert bad(said) == {}
    assert said["whole"] + said["refused"] + said["no mount namespace"] > 0


@pytest.mark.parametrize(
    "name", ["save_model, two writers", "sweep, two writers", "spectra, two writers", "changed options"]
)
def test_a_few_kills_in_every_run(name, tmp_path):
    said = kills.tasks(3)[name](tmp_path, random.Random(0))
    assert bad(said) == {}
    assert said["whole"] + said["refused"] > 0
