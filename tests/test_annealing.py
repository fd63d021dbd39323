"""Gates that anneal away: the laws of the schedules, the limits of the gate, and the folding at the end."""

import copy
import itertools

import pytest
import torch
from helpers import normal
from torch import nn
from torch.nn import functional

from models.annealing import SCHEDULES, AnnealedGate, anneal, gate_sites, remove_gates, schedule
from models.bilinear import Bilinear, BilinearClassifier, ClassifierConfig, build_classifier
from models.language import LanguageConfig, train_language
from models.published import save_transformer
from models.transformer import TransformerConfig, build_transformer
from tensornet_interp import BilinearLayer
from tensornet_interp.weights import load_layer

CONFIG = TransformerConfig(vocabulary=11, d_model=8, d_hidden=6, n_layers=3, n_heads=2, context=7, gate="silu")
TOKENS = torch.tensor([[1, 5, 3, 10], [0, 2, 9, 4]])


def betas(model):
    return [site.gate.beta for site in gate_sites(model)]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("start", "end"), [(0, 1), (3, 10), (17, 1017)])
def test_beta_falls_from_one_to_zero_and_both_are_exact(name, start, end):
    beta = schedule(name, start, end)
    values = [beta(step) for step in range(start, end + 1)]
    assert values[0] == 1.0
    assert values[-1] == 0.0
    assert all(a > b for a, b in itertools.pairwise(values))
    assert beta(end + 1) == beta(10**9) == 0.0
    assert all(beta(step) == 1.0 for step in range(start))


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_ends_are_those_of_the_curve_itself(name):
    """No jump where the clamps take over."""
    assert SCHEDULES[name](0.0) == 1.0
    assert SCHEDULES[name](1.0) == 0.0


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_gate_goes_at_once_where_start_is_end(name):
    beta = schedule(name, 4, 4)
    assert [beta(step) for step in (3, 4, 5)] == [1.0, 0.0, 0.0]


def test_the_curves_are_the_named_ones():
    quarter = {name: schedule(name, 0, 100)(25) for name in SCHEDULES}
    low, high = 1 / (1 + torch.tensor(5.0).exp().item()), 1 / (1 + torch.tensor(-5.0).exp().item())
    assert quarter["linear"] == 0.75
    assert quarter["exponential"] == pytest.approx((0.01**0.25 - 0.01) / 0.99, rel=1e-12)
    assert quarter["logistic"] == pytest.approx((0.9241418199787566 - low) / (high - low), rel=1e-6)
    assert quarter["smootherstep"] == pytest.approx(0.896484375, rel=1e-12)  # 1 - (6/4^5 - 15/4^4 + 10/4^3)
    for name in ("linear", "logistic", "smootherstep"):  # point symmetry about the middle
        beta = schedule(name, 0, 100)
        assert beta(20) + beta(80) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_gate_is_silu_at_one_and_half_of_its_input_at_zero(dtype):
    z = 5 * normal(1000, dtype=dtype)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(AnnealedGate("silu")(z), functional.silu(z), rtol=4 * eps, atol=4 * eps)
    torch.testing.assert_close(AnnealedGate("gelu")(z), functional.gelu(z), rtol=4 * eps, atol=16 * eps)
    for kind in ("silu", "gelu"):
        assert torch.equal(AnnealedGate(kind, beta=0.0)(z), z / 2)


def test_a_gate_between_is_the_gate_of_a_scaled_input():
    z = normal(50)
    torch.testing.assert_close(AnnealedGate("silu", 0.3)(z), functional.silu(0.3 * z) / 0.3)
    torch.testing.assert_close(AnnealedGate("gelu", 0.3)(z), functional.gelu(0.3 * z) / 0.3)


@pytest.mark.parametrize("gate", ["silu", "gelu"])
def test_annealing_starts_from_the_same_model(gate):
    model = build_transformer(TransformerConfig(**{**vars(CONFIG), "gate": gate}), seed=0)
    before = model(TOKENS)
    anneal(model, "linear", 0, 10)
    torch.testing.assert_close(model(TOKENS), before, rtol=1e-5, atol=1e-5)


def test_the_callback_sets_every_layer_of_the_model_it_is_given():
    model = build_transformer(CONFIG, seed=0)
    callback = anneal(model, "linear", 2, 6)
    other = copy.deepcopy(model)
    callback(3, model)
    assert betas(model) == [0.75] * 3
    assert betas(other) == [1.0] * 3
    callback(6, other)
    assert betas(other) == [0.0] * 3


def test_a_resumed_run_has_the_beta_of_its_step():
    whole, resumed = build_transformer(CONFIG, seed=0), build_transformer(CONFIG, seed=0)
    callback = anneal(whole, "logistic", 1, 9)
    for step in range(6):
        callback(step, whole)
    anneal(resumed, "logistic", 1, 9)(5, resumed)
    assert betas(resumed) == betas(whole)
    anneal(resumed, "logistic", 1, 9)(5, resumed)  # gates that are annealed already stay
    assert betas(resumed) == betas(whole)
    assert whole.state_dict().keys() == build_transformer(CONFIG, seed=0).state_dict().keys()


def test_removing_the_gates_changes_no_output():
    model = build_transformer(CONFIG, seed=1)
    anneal(model, "linear", 0, 0)
    left = model.mlp(1).left.weight.detach().clone()
    before = model(TOKENS)
    remove_gates(model)
    assert torch.equal(model(TOKENS), before)
    assert torch.equal(model.mlp(1).left.weight, left / 2)
    assert model.config.gate == "none"
    x = normal(5, 8, seed=2, dtype=torch.float32)
    for index in range(3):
        torch.testing.assert_close(model.mlp(index).layer()(x), model.mlp(index)(x), rtol=1e-5, atol=1e-5)


def test_a_model_without_its_gates_is_the_one_that_was_built_without():
    model = build_transformer(CONFIG, seed=1)
    anneal(model, "linear", 0, 0)
    remove_gates(model)
    plain = build_transformer(model.config, seed=2)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain(TOKENS), model(TOKENS))


def test_a_classifier_with_biases_and_residual_folds_too():
    config = ClassifierConfig(
        inputs=5, width=4, hidden=6, classes=3, n_layers=2, down=True, bias=True, residual=1.0, gate="gelu"
    )
    model = build_classifier(config, seed=0, dtype=torch.float64)
    assert isinstance(model, BilinearClassifier)
    anneal(model, "smootherstep", 0, 0)
    x = normal(7, 5)
    before = model(x)
    remove_gates(model)
    assert torch.equal(model(x), before)
    torch.testing.assert_close(model.network("input")(x), before)


def test_a_weight_that_two_layers_share_is_halved_once():
    model = nn.Sequential(Bilinear(4, 3, 4, gate="silu"), Bilinear(4, 3, 4, gate="silu"))
    model[1].left.weight = model[0].left.weight
    anneal(model, "linear", 0, 0)
    x = normal(5, 4, dtype=torch.float32)
    before = model(x)
    remove_gates(model)
    assert torch.equal(model(x), before)


class Stop(Exception):
    """A run that is cut off."""


@pytest.mark.parametrize("stop", [3, 5])
def test_a_run_that_is_cut_off_while_the_gates_go_ends_as_it_would_have(tmp_path, stop):
    tokens = torch.randint(11, (100,), generator=torch.Generator().manual_seed(0))
    training = LanguageConfig(steps=8, batch_size=4, warmup=2, lr=1e-2)

    def run(folder, cut=None):
        model = build_transformer(CONFIG, seed=0)
        callback, seen = anneal(model, "smootherstep", 1, 6), {}

        def watched(step, model):
            if step == cut:
                raise Stop
            callback(step, model)
            seen[step] = betas(model)

        history = train_language(
            model, tokens, training, folder, held_out=tokens[:40], callback=watched, every=2, progress=False
        )
        return model, seen, [record["held_out_loss"] for record in history.records]

    whole, expected, losses = run(None)
    with pytest.raises(Stop):
        run(tmp_path, cut=stop)
    resumed, seen, again = run(tmp_path)
    assert 0 < min(seen) <= stop
    assert seen == {step: expected[step] for step in seen}
    assert again == losses
    for model in (whole, resumed):
        remove_gates(model)
    assert torch.equal(resumed(TOKENS), whole(TOKENS))


def test_a_model_without_its_gates_opens_as_bilinear_layers(tmp_path):
    model = build_transformer(CONFIG, seed=3)
    anneal(model, "linear", 0, 0)
    remove_gates(model)
    save_transformer(model, tmp_path)
    x = normal(20, 8, dtype=torch.float32)
    for index in range(3):
        y = model.mlp(index)(x).detach()
        layer = load_layer(tmp_path, index)
        assert isinstance(layer, BilinearLayer)
        assert float((layer(x) - y).abs().max() / y.abs().max()) < 1e-5
