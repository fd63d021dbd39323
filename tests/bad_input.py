"""Layers that tables of bad input are about, and the check of a row: name, call, kind of error, what it must say."""

import re

import pytest
import torch
from helpers import layer_of, normal

from tensornet_interp import BilinearLayer, BilinearNetwork, lift
from tensornet_interp.decompositions import Eigen


def spoiled(value):
    bad = normal(5, 4)
    bad[1, 2] = value
    return bad


def covariance(**entries):
    matrix = torch.eye(5, dtype=torch.float64)
    for place, value in entries.items():
        matrix[int(place[1]), int(place[2])] = value
    return matrix


def cases(table):
    names = [row[0] for row in table]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"every row of a table has its own name; twice: {twice}")
    return [pytest.param(*row, id=name) for name, *row in table]


def check(call, kind, message):
    with pytest.raises(kind) as caught:
        call()
    assert re.search(message, str(caught.value)), str(caught.value)


DOWN, LEFT, RIGHT = normal(3, 4), normal(5, 4, seed=1), normal(5, 4, seed=2)
LAYER = BilinearLayer(down=DOWN, left=LEFT, right=RIGHT, name="layer 0")
LIFTED = lift(LAYER)
SQUARE = layer_of(5, 5, 4)
ZERO = BilinearLayer(down=0 * DOWN, left=LEFT, right=RIGHT)
STACK = BilinearNetwork([SQUARE, LAYER])
RESULT = Eigen()(LAYER)
X = normal(2, 5)
U = normal(3)
NAN, INF = float("nan"), float("inf")
