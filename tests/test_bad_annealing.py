"""Bad input of the gates that anneal away."""

import pytest
from torch import nn

from models.annealing import AnnealedGate, anneal, remove_gates, schedule
from models.bilinear import Bilinear
from models.transformer import TransformerConfig, build_transformer
from tests.bad_input import cases, check


def model(gate="silu"):
    return build_transformer(
        TransformerConfig(vocabulary=5, d_model=4, d_hidden=3, n_layers=2, n_heads=1, gate=gate), seed=0
    )


def mixed():
    return nn.Sequential(Bilinear(4, 3, 4, gate="silu"), Bilinear(4, 3, 4, gate="relu"))


def annealed_to(step):
    made = model()
    anneal(made, "linear", 0, 4)(step, made)
    return made


TABLE = [
    (
        "unknown schedule",
        lambda: schedule("cosine", 0, 5),
        ValueError,
        "schedule must be one of exponential, linear, logistic, smootherstep; got 'cosine'",
    ),
    ("start after end", lambda: schedule("linear", 6, 5), ValueError, "start=6 and end=5"),
    ("negative start", lambda: schedule("linear", -1, 5), ValueError, "start must be at least 0"),
    ("steps that are not whole", lambda: schedule("linear", 0, 2.5), TypeError, "end must be a whole number"),
    ("unknown gate", lambda: AnnealedGate("relu"), ValueError, "kind must be one of gelu, silu; got 'relu'"),
    ("negative beta", lambda: AnnealedGate("silu", -0.5), ValueError, "beta must be at least 0"),
    (
        "no gate",
        lambda: anneal(model("none"), "linear", 0, 5),
        ValueError,
        "gate of blocks.0.mlp is none; only these can be annealed: silu, gelu",
    ),
    (
        "relu gate",
        lambda: anneal(model("relu"), "linear", 0, 5),
        ValueError,
        "gate of blocks.0.mlp is relu; only these",
    ),
    ("no MLP", lambda: anneal(nn.Linear(2, 2), "linear", 0, 5), ValueError, "Linear has no gated MLP"),
    (
        "removed too early",
        lambda: remove_gates(annealed_to(3)),
        ValueError,
        "gate of blocks.0.mlp has beta=0.25, it must be 0",
    ),
    (
        "removed without annealing",
        lambda: remove_gates(model()),
        ValueError,
        "gate of blocks.0.mlp is silu, which was not annealed",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), cases(TABLE))
def test_bad_input(call, kind, message):
    check(call, kind, message)


def test_a_model_that_is_refused_is_as_it_was():
    refused = mixed()
    with pytest.raises(ValueError, match="gate of 1 is relu"):
        anneal(refused, "linear", 0, 5)
    assert not any(isinstance(module, AnnealedGate) for module in refused.modules())
    early = annealed_to(3)
    before = early.mlp(0).left.weight.clone()
    with pytest.raises(ValueError, match=r"beta=0\.25"):
        remove_gates(early)
    assert early.mlp(0).left.weight.equal(before)
