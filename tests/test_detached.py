"""Layers own their weights: a training step changes no layer and no result, and results can be copied."""

import copy
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from helpers import layer_of, normal
from round_trip import same

from models import ClassifierConfig, LogicGate, LogicGateConfig, build_classifier
from models.logic_gates import LogicGateModel
from models.sae import SAEConfig, TopKAutoencoder
from tensornet_interp import BilinearLayer, BilinearNetwork, Eigen, decompose, lift, similarity
from tensornet_interp.circuits import circuit
from tensornet_interp.decompositions import BUILT_IN
from tensornet_interp.features import Dictionary, feature_interactions
from tensornet_interp.spectra import spectra

OUT, IN, RANK = 3, 4, 5


def modules(dtype=torch.float64):
    """Trainable left, right (rank, in) and down (out, rank)."""
    torch.manual_seed(0)
    sizes = {"left": (IN, RANK), "right": (IN, RANK), "down": (RANK, OUT)}
    return torch.nn.ModuleDict({name: torch.nn.Linear(*size, bias=False, dtype=dtype) for name, size in sizes.items()})


def weights(model):
    return {name: module.weight for name, module in model.items()}


def of_parameters(share):
    model = modules()
    return model, BilinearLayer.from_weights(**weights(model), share=share)


def bilinear(*sizes):
    torch.manual_seed(0)
    return torch.nn.Bilinear(*sizes, bias=False, dtype=torch.float64)


def classifier(**options):
    return build_classifier(ClassifierConfig(inputs=6, width=5, hidden=4, classes=3, **options), seed=0)


def cp_of(model):
    down, left, right = model["down"].weight, model["left"].weight.T, model["right"].weight.T
    return (None, [down, left, right])


BORDERS = {
    "from_weights": (modules, lambda m: BilinearLayer.from_weights(**weights(m))),
    "from_cp": (modules, lambda m: BilinearLayer.from_cp(cp_of(m))),
    "from_cp, weights": (modules, lambda m: BilinearLayer.from_cp((m["left"].weight[:, 0], cp_of(m)[1]))),
    "from_tensor": (lambda: bilinear(4, 4, 3), lambda m: BilinearLayer.from_tensor(m.weight)),
    "from_torch_bilinear": (lambda: bilinear(4, 4, 3), BilinearLayer.from_torch_bilinear),
    "from_torch_bilinear, two": (
        lambda: bilinear(4, 2, 9), lambda m: BilinearLayer.from_torch_bilinear(m, inputs="two")
    ),
    "a classifier": (classifier, lambda m: m.network("input")),
    "a classifier without down, in the embedding": (
        lambda: classifier(n_layers=2, down=True, bias=True, residual=0.5), lambda m: m.network("embedding")
    ),
    "logic gates": (
        lambda: LogicGateModel(LogicGateConfig(3, (LogicGate("and", 0, 1),))), lambda m: m.layer()
    ),
}  # fmt: skip


def arrays(value):
    """The tensors of a layer, a network or a result."""
    if isinstance(value, BilinearNetwork):
        return [tensor for part in value for tensor in arrays(part)]
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, tuple):
        return [tensor for item in value for tensor in arrays(item)]
    if hasattr(value, "__dataclass_fields__"):
        return [tensor for field in fields(value) for tensor in arrays(getattr(value, field.name))]
    return []


def places(tensors):
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def step(model):
    """One step of training, in place, as optimizers do it."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)


@pytest.mark.parametrize("name", BORDERS)
def test_a_layer_made_of_parameters_is_a_copy_without_gradients(name):
    make, cross = BORDERS[name]
    model = make()
    layer = cross(model)
    assert not any(tensor.requires_grad for tensor in arrays(layer))
    assert places(arrays(layer)) & places(model.parameters()) == set()
    assert "gradients" not in repr(layer)
    result, before = decompose(layer, "output_svd"), copy.deepcopy(layer)
    kept = copy.deepcopy(result)
    step(model)
    assert same(layer, before)
    assert same(result, kept)
    assert all(isinstance(tensor.float().numpy(), np.ndarray) for tensor in arrays(result))


def test_a_cp_tensor_of_one_input_factor_keeps_it_one():
    down, factor = normal(OUT, RANK), normal(IN, RANK)
    layer = BilinearLayer.from_cp((None, [down, factor, factor]))
    assert layer.left is layer.right
    assert layer.left is not factor


def test_the_constructor_and_replace_share():
    tensors = {"down": normal(OUT, RANK), "left": normal(IN, RANK), "right": normal(IN, RANK)}
    layer = BilinearLayer(**tensors)
    again = replace(layer, name="again")
    assert all(getattr(layer, name) is tensor is getattr(again, name) for name, tensor in tensors.items())


def test_share_keeps_views_and_gradients():
    model, layer = of_parameters(share=True)
    x = normal(6, IN, seed=1)
    assert places(arrays(layer)) == places(model.parameters())
    assert "with gradients" in repr(layer)
    assert "with gradients" in repr(lift(layer))  # whatever is computed of it
    layer(x).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    before = layer(x).detach()
    step(model)
    assert not torch.equal(layer(x), before)
    plain = BilinearLayer.from_weights(**{name: w.detach() for name, w in weights(model).items()}, share=True)
    assert places(arrays(plain)) == places(model.parameters())


@pytest.mark.parametrize("share", [False, True])
def test_biases_have_gradients_if_the_weights_have(share):
    _, layer = of_parameters(share)
    biases = {"left_bias": RANK, "right_bias": RANK, "bias": OUT}
    given = {name: torch.nn.Parameter(normal(size)) for name, size in biases.items()}
    lifted = lift(layer, **given)
    assert lifted(normal(6, IN)).requires_grad == share
    before = copy.deepcopy([tensor.detach() for tensor in arrays(lifted)])
    with torch.no_grad():
        for parameter in given.values():
            parameter.add_(1.0)
    assert same([tensor.detach() for tensor in arrays(lifted)], before)  # joined to the weights, which copies both


def test_what_compares_layers_is_differentiable_in_shared_weights():
    target = layer_of(OUT, IN, 2, seed=7)

    def closeness(left, right, down):
        layer = BilinearLayer.from_weights(left=left, right=right, down=down, share=True)
        return similarity(layer, target).value

    given = [normal(*size, seed=i).requires_grad_() for i, size in enumerate([(RANK, IN), (RANK, IN), (OUT, RANK)])]
    assert torch.autograd.gradcheck(closeness, given)


OPTIONS = {name: {"rank": 2} for name in BUILT_IN} | {"hosvd": {}, "tucker": {"ranks": (2, 2)}}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_strategy_is_differentiable_or_detaches_and_its_result_is_its_own(name, dtype):
    model = modules(dtype)
    layer = BilinearLayer.from_weights(**weights(model), share=True)
    result = decompose(layer, name, **OPTIONS[name])
    differentiable = getattr(BUILT_IN[name], "differentiable", False)
    assert any(tensor.requires_grad for tensor in arrays(result)) == differentiable
    text = " ".join(BUILT_IN[name].__doc__.lower().split())
    assert ("not differentiable" in text) != differentiable
    with torch.no_grad():
        detached = decompose(layer, name, **OPTIONS[name])
    assert places(arrays(result) + arrays(detached)) & places(model.parameters()) == set()
    kept, given = copy.deepcopy(detached), repr(result)
    assert same(kept, detached)
    step(model)
    assert same(kept, detached)
    assert repr(result) == given


def test_directions_and_matrices_of_a_model_are_copied():
    head = torch.nn.Linear(OUT, 6, bias=False, dtype=torch.float64)  # (6, out)
    layer, network = layer_of(OUT, IN, RANK), BilinearNetwork([layer_of(OUT, IN, RANK)])
    made = [
        Eigen(directions=head.weight)(layer),
        spectra(layer, head.weight, progress=False),
        spectra(layer, head.weight, progress=False).to_result(),
        circuit(network, head.weight[0], widths=2, progress=False),
        feature_interactions(layer, head.weight[0], normal(IN, 7, seed=1), basis="made"),
        Dictionary.from_matrix(head.weight),
    ]
    assert not any(tensor.requires_grad for one in made for tensor in arrays(one))
    assert places(tensor for one in made for tensor in arrays(one)) & places(head.parameters()) == set()
    assert all(same(copy.deepcopy(one), one) for one in made)


def test_a_trained_autoencoder_is_copied():
    autoencoder = TopKAutoencoder(4, SAEConfig(expansion=2, k=2), mean=torch.zeros(4))
    dictionary = autoencoder.dictionary()
    assert not any(tensor.requires_grad for tensor in arrays(dictionary))
    assert places(arrays(dictionary)) & places(autoencoder.parameters()) == set()
