"""Networks of modules: the forward pass is read, not the names of parameters, so any style of code works."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, fx

from tensornet_interp.checks import DTYPE_NAMES, DTYPES, check_kind, check_number
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.network import BilinearNetwork
from tensornet_interp.numerics import without_autocast
from tensornet_interp.weights.polynomials.cuts import Stage, stages
from tensornet_interp.weights.polynomials.export import (
    ForwardPass,
    NotPolynomial,
    calls,
    forward_pass,
    line_of,
    quietly,
    sharing_copy,
)
from tensornet_interp.weights.polynomials.factors import read_weights
from tensornet_interp.weights.polynomials.trials import (
    check_against_graph,
    check_against_model,
    check_part,
    probes,
    watch,
)
from tensornet_interp.weights.polynomials.units import units_of
from tensornet_interp.weights.polynomials.values import Value, ancestors, degree

__all__ = ["from_module", "polynomial_parts"]

_MAX_ELEMENTS = 10**8  # 0.8 GB of float64 for the weights, and about three times as much while they are read


@needs_float64
@without_autocast
def from_module(model: torch.nn.Module, example: Tensor, *, max_elements: float = _MAX_ELEMENTS) -> BilinearNetwork:
    """Return the network of a module whose forward pass consists of affine operations and products, exactly.

    network(x.reshape(batch, -1)) = model(x).reshape(batch, -1)

    `torch.export` reads the forward pass on the first sample of the example, so the names of parameters and the order
    of the code do not matter. Each product of two values that depend on the input becomes hidden units. All affine
    operations between products (linear maps, convolutions, poolings, BatchNorm in evaluation mode, biases, residuals,
    permutations) go into the weights of these units. A layer passes on a value s_j that a later layer needs as the
    product s_j * 1, so most networks are lifted. The name of a layer lists the paths of the submodules whose products
    it computes.

    model: a module in evaluation mode with one input (batch, ...) and one output (batch, ...); the rows of a batch must
    not affect each other. example: an input, in the dtype of the model. max_elements: the largest number of weights
    that the network may have.
    Before the network is returned, it is compared with the model on the example (at most 32 samples) and on 32 random
    inputs, as a batch and one by one.
    Raises TypeError for a wrong type of argument, and ValueError for all other faults. If an operation is not
    polynomial (a ReLU, a norm, a softmax, a division by data), the error names the submodule, the operation and the
    line; `polynomial_parts` returns the parts between such operations. Cost: one export (0.1 to 1 s), and the weights
    of the network in float64.

    Example:
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 3)).eval()
    >>> from_module(model, torch.ones(1, 4)).sizes
    {'out': 3, 'in1': 5, 'in2': 5}
    """
    _check_arguments(model, example, max_elements)
    if not example.is_floating_point():
        raise TypeError(f"example must be {DTYPE_NAMES}, got {example.dtype}; tokens enter a network as vectors")
    forward = forward_pass(model, example)
    source = Value(example[:1].shape)
    try:
        output = forward.values(forward.steps, {forward.source: source})[forward.output]
    except NotPolynomial as refused:
        reason, step = refused.args
        raise ValueError(
            f"model is no polynomial of its input: {reason}{line_of(step, model, example)}. polynomial_parts(model,"
            " example) gives the stretches between such operations"
        ) from None
    name = type(model).__name__
    if not isinstance(output, Value):
        raise ValueError(f"the output of model does not depend on its input ({name})")
    if output.shape[:1] != (1,):
        raise ValueError(f"the output of model must be (batch, ...), got shape {tuple(output.shape)} for one input")
    network = _network(forward, source, output, name, max_elements)
    samples = probes(example)
    check_against_graph(network, source, output, samples.reshape(len(samples), -1).to(forward.device, torch.float64))
    check_against_model(network, sharing_copy(model), samples, degree(output))
    return network.to(example.device, example.dtype)


@needs_float64
@without_autocast
def polynomial_parts(
    model: torch.nn.Module, example: Tensor, *, max_elements: float = _MAX_ELEMENTS
) -> dict[str, BilinearNetwork]:
    """Return by path the networks of the largest submodules that consist of affine operations and products.

    A part has at least one product, one input and one output. Input and output are flattened, so the MLP of a
    transformer on 5 tokens of width 8 is a network with 40 inputs. The input of a part is the input of its submodule,
    for example the result of a norm. Paths are those of `torch.nn.Module.named_modules`; "@1" is added for the second
    call of a submodule, and "" is the whole model. example: as for `from_module`; it may also hold whole numbers
    (tokens). Each part is compared with the outputs of its submodule in the model. Raises the same errors as
    `from_module`, except the error for operations that are not polynomial.
    """
    _check_arguments(model, example, max_elements)
    forward = forward_pass(model, example)
    parameters = [example, *model.parameters(), torch.empty(0, dtype=torch.float64, device="cpu")]
    dtype = next(tensor.dtype for tensor in parameters if tensor.is_floating_point())
    found = {}
    for path, source, output in _parts(forward, "", 0, forward.steps):
        found[path] = _network(forward, source, output, type(model).__name__, max_elements)
        rows = probes(torch.ones(1, source.size, dtype=torch.float64, device=forward.device))
        check_against_graph(found[path], source, output, rows)
    for path, pairs in watch(sharing_copy(model), found, probes(example)).items():
        check_part(found[path], path, pairs)
    return {path: network.to(example.device, dtype) for path, network in found.items()}


def _check_arguments(model: torch.nn.Module, example: Tensor, max_elements: float) -> None:
    check_kind(
        "model", model, torch.nn.Module, "; of weights by hand make a layer: BilinearLayer.from_weights, and lift"
    )
    if isinstance(example, list | tuple | dict):
        raise TypeError(
            f"example must be one tensor (batch, ...), got a {type(example).__name__}: a network has one input; wrap"
            " the model in a module that takes one tensor and splits it"
        )
    check_kind("example", example, Tensor)
    check_number("max_elements", max_elements, 1)
    if example.ndim < 2 or example.numel() == 0:
        raise ValueError(f"example must be (batch, ...) with at least one sample, got shape {tuple(example.shape)}")
    if example.is_meta or any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError("example and model must have numbers, but some of their tensors are on the device meta")
    if example.layout != torch.strided or example.dtype not in (*DTYPES, torch.int64, torch.int32):
        raise TypeError(f"example must be dense and {DTYPE_NAMES}, got {example.dtype}, {example.layout}")
    if not bool(torch.isfinite(example).all()):
        raise ValueError("example has entries that are NaN or infinite")
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if example.is_floating_point() and dtypes and example.dtype not in dtypes:
        raise TypeError(f"example must have the dtype of model, {', '.join(map(str, dtypes))}, got {example.dtype}")
    training = next((path for path, module in model.named_modules() if module.training), None)
    if training is not None:
        where = f"its submodule {training} is" if training else "it is"
        raise ValueError(f"model must be in evaluation mode, but {where} in training mode: call model.eval()")


def _network(forward: ForwardPass, source: Value, output: Value, name: str, max_elements: float) -> BilinearNetwork:
    """Return the float64 network that computes the value `output` from the value `source`."""
    plan = stages(source, output)
    count = sum(stage.weights for stage in plan)
    if count > max_elements:
        raise ValueError(
            f"the network of model would have {count:.1e} weights, above max_elements={max_elements:.1e}; give a"
            " smaller example (fewer tokens, a smaller image), or take parts of the model"
        )
    try:
        with quietly():
            units, lifted = units_of(read_weights(plan, forward.device))
    except NotImplementedError as error:
        raise ValueError(f"model has an operation without forward derivatives or batches in torch: {error}") from None
    layers = [
        BilinearLayer(
            down=part.down,
            left=part.left.T,
            right=part.right.T,
            name=path or name,
            history=(f"read from {', '.join(filter(None, (name, path)))}",),
            constant_in=lifted,
            constant_out=lifted and i < len(plan) - 1,
        )
        for i, (path, part) in enumerate(zip(map(_paths, plan), units, strict=True))
    ]
    return BilinearNetwork(layers)


def _paths(stage: Stage) -> str:
    """Return the paths of the module calls whose products a stage computes."""
    return ", ".join(dict.fromkeys(product.path for product in stage.products if product.path))


def _parts(forward: ForwardPass, path: str, depth: int, steps: Sequence[fx.Node]) -> Iterator[tuple[str, Value, Value]]:
    """Yield path, input and output of the largest module calls inside `path` without a refused operation."""
    inside = set(steps)
    entering = dict.fromkeys(
        node for step in steps for node in step.all_input_nodes if node not in inside and node not in forward.constants
    )
    leaving = [step for step in steps if any(user not in inside for user in step.users)]
    if len(entering) == len(leaving) == 1:
        node = next(iter(entering))
        entry = node.meta["val"]
        if isinstance(entry, Tensor) and entry.is_floating_point():
            source = Value(entry.shape)
            try:
                output = forward.values(steps, {node: source})[leaving[0]]
            except NotPolynomial:
                output = None
            if isinstance(output, Value) and any(value.is_product for value in ancestors([output])):
                yield path, source, output
                return
    inner: dict[str, list[fx.Node]] = {}
    for step in steps:
        around = calls(step)[depth + 1 :]
        if around:
            inner.setdefault(around[0], []).append(step)
    for below, own in inner.items():
        yield from _parts(forward, below, depth + 1, own)
