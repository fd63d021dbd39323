"""The forward pass of a module on one sample, as a graph of torch's core operations."""

import contextlib
import copy
import io
import logging
import operator
import re
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.export
from torch import Tensor, fx
from torch.export.graph_signature import InputKind, OutputKind

from tensornet_interp.weights.polynomials.calls import Call, Refusal, leaves, replace_leaves
from tensornet_interp.weights.polynomials.operations import value_of
from tensornet_interp.weights.polynomials.values import Value

_INSIDE = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]), "<")  # frames that are not the user's


class NotPolynomial(Exception):
    """An operation of a forward pass is neither affine nor a product; the arguments are the reason and the step."""


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """A forward pass is a graph with its operations in order; parameters and buffers are constants in float64."""

    steps: tuple[fx.Node, ...]
    constants: dict[fx.Node, Any]
    source: fx.Node
    output: fx.Node
    device: torch.device

    def values(self, steps: Sequence[fx.Node], given: dict[fx.Node, Value]) -> dict[fx.Node, Any]:
        """Return the values that these steps compute, and the values of the `given` nodes.

        Raises NotPolynomial for the first step that is neither affine nor a product.
        """
        env: dict[fx.Node, Any] = self.constants | given
        for step in steps:
            if step not in env:
                env[step] = _run(step, env, self.device)
        return env


def forward_pass(model: torch.nn.Module, example: Tensor) -> ForwardPass:
    """Return the forward pass of a module on the first sample; raise ValueError if it is not a fixed graph."""
    name = type(model).__name__
    try:
        exported = _export(model, example, strict=False)
    except Exception as error:  # the forward pass is the user's code, and the tracer's errors have no common class
        raise ValueError(_explanation(name, error)) from None
    signature = exported.graph_signature
    changed = [spec.target for spec in signature.output_specs if spec.kind is OutputKind.BUFFER_MUTATION]
    if changed:
        raise ValueError(
            f"the forward pass model(example) of {name} writes to its buffer {changed[0]!r}, so calls differ"
        )
    results = [spec.arg.name for spec in signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    if len(results) != 1 or not exported.call_spec.out_spec.is_leaf():
        raise ValueError(f"model must return one tensor, but {name} returns {len(results)} in a tuple, list or dict")
    device = example.device if example.device.type != "mps" else torch.device("cpu")  # an Apple GPU has no float64
    stored = exported.state_dict | exported.constants
    constants: dict[fx.Node, Any] = {}
    nodes = {node.name: node for node in exported.graph.nodes}
    source = None
    for spec in signature.input_specs:
        node = nodes[spec.arg.name]
        if spec.kind is InputKind.USER_INPUT:
            source = node
        else:
            constants[node] = _wide(stored[str(spec.target)], str(spec.target), device)
    if source is None or results[0] not in nodes:
        raise ValueError(f"the output of {name} does not depend on its input")
    steps = tuple(node for node in exported.graph.nodes if node.op not in ("placeholder", "output"))
    for step in steps:  # what depends on parameters alone is computed once
        if set(step.all_input_nodes) <= constants.keys() and not _is_random(step) and not _is_check(step):
            with contextlib.suppress(NotPolynomial):
                constants[step] = _run(step, constants, device)
    steps = tuple(step for step in steps if step not in constants and not _is_check(step))
    return ForwardPass(steps, constants, source, nodes[results[0]], device)


def line_of(step: fx.Node, model: torch.nn.Module, example: Tensor) -> str:
    """Return ", file:line: `code`" of a step, for the innermost line of the user's code; "" if it is not known.

    The graph knows the lines of `forward` methods only, so the function is traced once more in the slower way that
    knows every line. If that fails or finds other operations, the line in `forward` is returned.
    """
    found = _line(step)
    with contextlib.suppress(Exception):
        traced = _export(model, example, strict=True).graph.nodes
        alike, also = (
            [other for other in nodes if _name(other) == _name(step)] for nodes in (step.graph.nodes, traced)
        )
        if len(alike) == len(also):
            found = _line(also[alike.index(step)]) or found
    return found


def calls(step: fx.Node) -> list[str]:
    """Return the paths of all module calls around a step, the outermost first; "blocks.0@1" is the second call."""
    return [_path(key, entry) for key, entry in (step.meta.get("nn_module_stack") or {}).items()]


def _place(step: fx.Node) -> tuple[str, str]:
    """Return the path of the module call that a step belongs to, and the name of its class."""
    key, entry = list((step.meta.get("nn_module_stack") or {"": ("", "")}).items())[-1]
    return _path(key, entry), str(getattr(entry[1], "__name__", entry[1])).rpartition(".")[2]


def _path(key: str, entry: tuple[str, Any]) -> str:
    again = key.rpartition("@")[2]
    return f"{entry[0]}@{again}" if "@" in key and again.isdigit() else entry[0]


def _run(step: fx.Node, env: dict[fx.Node, Any], device: torch.device) -> Any:
    name, path, kind = _name(step), *_place(step)
    try:
        if not isinstance(step.target, torch._ops.OpOverload) and step.target is not operator.getitem:
            raise Refusal("is no operation on tensors")
        if _is_random(step):
            raise Refusal("is random, so two calls differ")
        given: Any = fx.node.map_arg((step.args, step.kwargs), env.__getitem__)
        if step.target is operator.getitem:
            return given[0][0][given[0][1]]
        wide = {torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64}

        def change(leaf: Any) -> Any:
            if isinstance(leaf, torch.device):
                return device
            return wide.get(leaf, leaf) if isinstance(leaf, torch.dtype) else leaf

        args, kwargs = replace_leaves(given, change)
        if not any(isinstance(leaf, Value) for leaf in leaves((args, kwargs))):
            return _wide(step.target(*args, **kwargs), name, device)
        result = step.meta["val"]
        several = isinstance(result, list | tuple)
        shapes = [part.shape for part in (result if several else [result])]
        return value_of(Call(name, step.target, args, kwargs, shapes, several, path, device))
    except Refusal as refusal:
        where = f"in {path or 'the model itself'} ({kind})"
        raise NotPolynomial(f"{name} {where} {refusal}", step) from None


def _name(step: fx.Node) -> str:
    name = getattr(step.target, "_schema", None)
    return name.name.removeprefix("aten::") if name is not None else getattr(step.target, "__name__", str(step.target))


def _line(step: fx.Node) -> str:
    """Return the line in the user's code: the last frame outside of torch and this package; "" if there is none."""
    frames = re.findall(r'File "(.*?)", line (\d+).*\n\s*(.*)', step.meta.get("stack_trace") or "")
    own = [frame for frame in frames if not frame[0].startswith(_INSIDE)]
    return ", {}:{}: `{}`".format(*own[-1]) if own else ""


def _is_random(step: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(step.target, "tags", ())


def _is_check(step: fx.Node) -> bool:
    return _name(step).startswith(("_assert", "sym_constrain"))


def _wide(item: Any, name: str, device: torch.device) -> Any:
    """Return constants on the device, with real numbers in float64."""

    def widen(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.is_complex():
            raise ValueError(f"weights must be real, but {name!r} is {leaf.dtype}")
        return leaf.detach().to(device, torch.float64 if leaf.is_floating_point() else leaf.dtype)

    return replace_leaves(item, widen)


def _export(model: torch.nn.Module, example: Tensor, *, strict: bool) -> torch.export.ExportedProgram:
    one = example[:1].detach().clone(memory_format=torch.contiguous_format)
    with quietly():
        return torch.export.export(sharing_copy(model), (one,), strict=strict).run_decompositions()


def sharing_copy(model: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of the module tree that shares all tensors, so attributes that a call stores do not matter."""
    parts = [leaf for module in model.modules() for leaf in leaves(dict(vars(module)))]
    return copy.deepcopy(model, {id(part): part for part in parts if isinstance(part, Tensor)})


def _explanation(name: str, error: Exception) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_INSIDE)]
    where = f", {frames[-1].filename}:{frames[-1].lineno}: `{frames[-1].line}`" if frames else ""
    text = str(error).strip()
    if "data-dependent" in text or "DataDependent" in type(error).__name__:
        return (
            f"the forward pass model(example) of {name} decides by the values of a tensor{where}: the branch must be"
            " the same for all inputs. If it depends on a parameter, make that a Python number"
        )
    short = f"{type(error).__name__}: {text.splitlines()[0][:300] if text else ''}"
    return f"the forward pass model(example) of {name} cannot be read by torch.export{where}: {short}"


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Run torch's tracers without their warnings and logs, and without inference mode and gradients."""
    before = logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        torch.inference_mode(False),
        torch.no_grad(),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)
