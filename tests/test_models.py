"""Models hand over their tensors exactly, or refuse; gates are learned."""

import contextlib
import itertools

import pytest
import torch

from models.bilinear import Bilinear, ClassifierConfig, build_classifier
from models.logic_gates import OPERATIONS, LogicGate, LogicGateConfig, train_logic_gates, truth_table

INPUTS, WIDTH, CLASSES = 7, 5, 3


def config(width=WIDTH, layers=1, down=False, bias=False, residual=0.0, gate="none"):
    # without `down` a residual needs hidden equal to what enters; otherwise all sizes differ
    hidden = (WIDTH if width else INPUTS) if residual and not down else 6
    return ClassifierConfig(INPUTS, width, hidden, CLASSES, layers, down, bias, residual, gate)


def inputs(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, INPUTS, generator=torch.Generator().manual_seed(seed), dtype=dtype)


GRID = list(itertools.product([WIDTH, None], [1, 2, 3], [False, True], [False, True], [0.0, 0.7]))


@pytest.mark.parametrize(("width", "layers", "down", "bias", "residual"), GRID)
def test_network_is_the_classifier(width, layers, down, bias, residual):
    model = build_classifier(config(width, layers, down, bias, residual), seed=3, dtype=torch.float64)
    x = inputs(11)
    expected = model(x).detach()
    network = model.network("input")
    scale = expected.abs().max()
    assert torch.allclose(network(x), expected, atol=1e-12 * scale, rtol=0)
    assert len(network) == layers
    assert [layer.name for layer in network.layers] == [f"layer {index}" for index in range(layers)]
    assert network.layers[0].basis == "pixels"
    assert network.constant_in == bool(bias or residual)
    if width is not None:
        network = model.network("embedding")
        assert torch.allclose(network(model.embed(x).detach()), expected, atol=1e-12 * scale, rtol=0)
        assert network.layers[0].basis == "embedding"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("outputs", [None, 4])
@pytest.mark.parametrize("residual", [0.0, -1.3])
def test_layer_is_the_module(bias, outputs, residual):
    size = 6 if outputs is None else outputs
    torch_inputs = size if residual else 7
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Bilinear(torch_inputs, 6, outputs, bias=bias, residual=residual, dtype=torch.float64)
    x = torch.randn(9, torch_inputs, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    layer = module.layer("block")
    assert torch.allclose(layer(x), module(x), atol=1e-12)
    assert layer.constant_in == bool(bias or residual)
    assert not layer.down.requires_grad


def test_network_is_a_snapshot_in_the_models_dtype():
    model = build_classifier(config(), seed=0, dtype=torch.float32)
    x = inputs(4, dtype=torch.float32)
    network = model.network("embedding")
    before = network(model.embed(x).detach())
    h = model.embed(x).detach()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert torch.equal(network(h), before)
    assert all(layer.down.dtype == torch.float32 for layer in network.layers)


def test_same_seed_same_weights_and_global_state_untouched(global_state_kept):
    with global_state_kept():
        first = build_classifier(config(), seed=5)
        second = build_classifier(config(), seed=5)
        other = build_classifier(config(), seed=6)
        first.network("input")
        train_logic_gates(LogicGateConfig(2, (LogicGate("and", 0, 1),), hidden=2), steps=3)
    assert torch.equal(first.head.weight, second.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


@pytest.fixture
def global_state_kept():
    @contextlib.contextmanager
    def check():
        before = torch.get_rng_state(), torch.is_grad_enabled(), torch.get_default_dtype()
        yield
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (torch.is_grad_enabled(), torch.get_default_dtype()) == before[1:]

    return check


@pytest.mark.parametrize("gate", ["relu", "silu"])
def test_gated_models_run_but_refuse_to_be_tensors(gate):
    model = build_classifier(config(gate=gate), seed=0, dtype=torch.float64)
    x = inputs(4)
    h = model.embed(x)
    block = model.blocks[0]
    function = {"relu": torch.relu, "silu": torch.nn.functional.silu}[gate]
    assert torch.allclose(model(x), model.head(function(block.left(h)) * block.right(h)))
    with pytest.raises(ValueError, match=f"gate='{gate}' is not bilinear .* gate='none'"):
        model.network("embedding")


@pytest.mark.parametrize("gate", ["relu", "silu", "gelu"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_gated_module_is_a_gated_layer(gate, bias):
    block = Bilinear(5, 7, 3, bias=bias, gate=gate, dtype=torch.float64)
    x = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(block.gated_layer("a")(x), block(x), rtol=1e-14, atol=1e-14)
    for other in (Bilinear(5, 7, 3), Bilinear(5, 7, None, gate=gate), Bilinear(5, 7, 5, gate=gate, residual=1.0)):
        with pytest.raises(ValueError, match="a gated layer needs a gate, down, no residual"):
            other.gated_layer()


def model_of(**options):
    return build_classifier(config(**options), seed=0, dtype=torch.float64)


BAD = {
    "inputs 0": (lambda: ClassifierConfig(inputs=0), ValueError, "inputs must be at least 1, got 0"),
    "width bool": (lambda: ClassifierConfig(width=True), TypeError, "width must be a whole number, got True"),
    "hidden float": (lambda: ClassifierConfig(hidden=8.0), TypeError, "hidden must be a whole number, got 8.0"),
    "layers 0": (lambda: ClassifierConfig(n_layers=0), ValueError, "n_layers must be at least 1, got 0"),
    "classes -1": (lambda: ClassifierConfig(classes=-1), ValueError, "classes must be at least 1, got -1"),
    "bias 1": (lambda: ClassifierConfig(bias=1), TypeError, "bias must be True or False, got 1"),
    "down str": (lambda: ClassifierConfig(down="yes"), TypeError, "down must be True or False, got 'yes'"),
    "residual nan": (lambda: ClassifierConfig(residual=float("nan")), ValueError, "residual must be finite, got nan"),
    "residual bool": (lambda: ClassifierConfig(residual=True), TypeError, "residual must be a number, got True"),
    "residual sizes": (
        lambda: ClassifierConfig(width=5, hidden=6, residual=1.0),
        ValueError,
        "residual=1.0 with down=False needs hidden equal to .*, got hidden=6 and 5",
    ),
    "gate": (lambda: ClassifierConfig(gate="rleu"), ValueError, "gate must be one of gelu, none, relu, silu.*'rleu'"),
    "block residual": (
        lambda: Bilinear(4, 3, 2, residual=1.0),
        ValueError,
        "residual=1.0 needs as many outputs as inputs, got inputs=4 and outputs=2",
    ),
    "block outputs": (lambda: Bilinear(4, 3, 0), ValueError, "outputs must be at least 1, got 0"),
    "seed": (lambda: build_classifier(ClassifierConfig(), -1), ValueError, "seed must be at least 0, got -1"),
    "basis": (lambda: model_of().network("pixels"), ValueError, "basis must be one of embedding, input; got 'pixels'"),
    "no embedding": (
        lambda: model_of(width=None).network("embedding"),
        ValueError,
        "basis='embedding' needs an embedding but width=None; use basis='input'",
    ),
    "x size": (
        lambda: model_of()(torch.zeros(2, 9, dtype=torch.float64)),
        ValueError,
        r"x has shape \(2, 9\), but its last mode must have inputs=7",
    ),
    "no gates": (lambda: LogicGateConfig(3, ()), ValueError, "gates is empty"),
    "gate name": (
        lambda: LogicGateConfig(3, (("adn", 0, 1),)),
        ValueError,
        r"gates\[0\] operation must be one of and, nand.*'adn'",
    ),
    "gate form": (lambda: LogicGateConfig(3, ("and",)), ValueError, r"gates\[0\] must be \(operation, first, second\)"),
    "gate bit": (
        lambda: LogicGateConfig(3, (("and", 0, 3),)),
        ValueError,
        r"gates\[0\] bit must be less than n_bits=3, got 3",
    ),
    "same bit": (
        lambda: LogicGateConfig(3, (("or", 1, 1),)),
        ValueError,
        r"gates\[0\] needs two different bits, got 1 twice",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        call()


ALL_GATES = tuple(LogicGate(operation, first, first + 1) for first, operation in enumerate(OPERATIONS))


def test_truth_table_is_boolean_algebra():
    x, y = truth_table(LogicGateConfig(7, ALL_GATES))
    assert x.shape == (128, 7)
    assert len({tuple(row) for row in x.tolist()}) == 128
    polynomials = {
        "and": lambda a, b: a * b,
        "or": lambda a, b: a + b - a * b,
        "xor": lambda a, b: a + b - 2 * a * b,
        "nand": lambda a, b: 1 - a * b,
        "nor": lambda a, b: 1 - a - b + a * b,
        "xnor": lambda a, b: 1 - a - b + 2 * a * b,
    }
    for index, gate in enumerate(ALL_GATES):
        assert torch.equal(y[:, index], polynomials[gate.operation](x[:, gate.first], x[:, gate.second]))


def test_truth_table_is_sampled_when_it_is_large():
    large = LogicGateConfig(40, ALL_GATES)
    x, y = truth_table(large, max_rows=50, seed=4)
    assert (x.shape, y.shape) == ((50, 40), (50, 6))
    assert torch.equal(x, truth_table(large, max_rows=50, seed=4)[0])


def test_all_gates_are_learned_and_handed_over():
    model = train_logic_gates(LogicGateConfig(7, ALL_GATES, hidden=12), steps=800, seed=0)
    x, y = truth_table(model.config)
    predicted = model(x).detach()
    assert (predicted - y).abs().max() < 0.05
    layer = model.layer()
    assert layer.constant_in
    assert torch.allclose(layer(x), predicted, atol=1e-5)
