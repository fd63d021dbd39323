"""Put the best bilinear layers in the place of all gated MLPs of a model, without training."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from models.annealing import Site, gate_sites, name_no_gate
from models.bilinear import GATES, Bilinear
from models.training import train_mode
from models.transformer import LanguageModel
from models.vectors import windows
from tensornet_interp import BilinearLayer
from tensornet_interp.checks import check_choice, check_int
from tensornet_interp.gated import GatedLayer, linearize

BASIS = "residual stream after the norm"


def gated_mlps(model: nn.Module) -> dict[str, GatedLayer]:
    """Return every gated MLP of a model by its name, exactly: a `Bilinear` or an MLP of the Llama type.

    The gate is the function that the MLP applies now. Raises ValueError if the model has no gated MLP, for an MLP that
    is no `GatedLayer`, and for a gate that is not a function of one number.
    """
    return {site.name: _gated(site) for site in gate_sites(model)}


def mlp_inputs(model: LanguageModel, tokens: Tensor, *, batch_size: int = 32) -> dict[str, Tensor]:
    """Return the vectors that every gated MLP reads on a text, by the name of the MLP: (token, in).

    The text is cut into windows of `context` tokens, and the rest at the end is dropped. The model runs in eval mode.
    Raises ValueError for a text shorter than one window. Memory: tokens * in numbers per MLP.
    """
    check_int("batch_size", batch_size, 1)
    rows = windows(tokens.long(), model.config.context)
    seen: dict[str, list[Tensor]] = {site.name: [] for site in gate_sites(model)}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, given, kept=kept: kept.append(given[0]))
        for name, kept in seen.items()
    ]
    try:
        with train_mode(model, training=False), torch.no_grad():
            for part in rows.split(batch_size):
                model(part.to(next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat([x.flatten(0, -2) for x in kept]) for name, kept in seen.items()}


def linearized_mlps(
    model: LanguageModel,
    tokens: Tensor,
    *,
    held_out: Tensor | None = None,
    weighted: bool = True,
    refit: bool = True,
    linear: bool = True,
) -> dict[str, BilinearLayer]:
    """Return the best bilinear layer of every gated MLP by name, for the inputs that it has on a text.

    All inputs are those of the gated model. With `held_out` tokens, the history of each layer states the relative error
    on them. `weighted`, `refit` and `linear` are those of `linearize`, which also warns of units that never fire, and
    raises ValueError if the text has fewer tokens than a layer has coefficients.
    Cost: one pass of the model over each text, and the least squares of `linearize` per MLP.
    """
    layers = gated_mlps(model)
    inputs = mlp_inputs(model, tokens)
    others = dict[str, Tensor]() if held_out is None else mlp_inputs(model, held_out)
    options: dict[str, Any] = {"weighted": weighted, "refit": refit, "linear": linear}
    return {
        name: linearize(layer, inputs.pop(name), held_out=others.get(name), **options) for name, layer in layers.items()
    }


@contextmanager
def replaced(model: nn.Module, layers: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Inside a `with` block, let the MLPs of these names give what `layers` give for their inputs.

    Raises ValueError for a name that is no gated MLP. Cost: the MLPs run too.
    """
    owners = {site.name: site.owner for site in gate_sites(model)}
    handles = []
    try:
        for name, layer in layers.items():
            owner = owners[check_choice("layers", name, owners)]
            handles.append(owner.register_forward_hook(lambda _, given, __, layer=layer: layer(given[0])))
        yield
    finally:
        for handle in handles:
            handle.remove()


def put_layers(model: LanguageModel, layers: Mapping[str, BilinearLayer]) -> None:
    """Make every gated MLP of a model the bilinear layer that `linearized_mlps` returned for it, in place.

    Weights, biases and linear part become parameters, and the configs say so: the model can be trained, saved and
    opened as bilinear layers. A Llama has no linear part, so its MLPs get one hidden unit x_j * 1 per input instead.
    Raises ValueError, before anything is changed, unless there is one layer per gated MLP, all with a linear part or
    all without, with the hidden units of the MLP; and for a Hugging Face config that has no mlp_bias.
    """
    sites = gate_sites(model)
    if set(layers) != {site.name for site in sites}:
        raise ValueError(f"layers must be those of {[site.name for site in sites]}, got {list(layers)}")
    parts = [_parts(site, layers[site.name]) for site in sites]
    linear = {"linear" in part for part in parts}
    if len(linear) > 1:
        raise ValueError("either all layers or no layer must have a linear part")
    llama = [site.name for site in sites if not isinstance(site.owner, Bilinear)]
    configs: list[Any] = [module.config for module in model.modules() if hasattr(module, "config")]
    theirs = [config for config in configs if hasattr(config, "hidden_act")]
    for config in theirs:
        if not hasattr(config, "mlp_bias"):
            raise ValueError(f"{type(config).__name__} has no mlp_bias, so there is no place for biases in {llama[0]}")
    for site, part in zip(sites, parts, strict=True):
        if isinstance(site.owner, Bilinear):
            _put(site.owner, ("left", "right", "down"), part)
            site.owner.linear = _linear(part["linear"]) if "linear" in part else None
        else:
            _put(site.owner, ("gate_proj", "up_proj", "down_proj"), _with_units(part))
    name_no_gate(model, sites)
    hidden = parts[0]["left"].shape[0] + (parts[0]["left"].shape[1] if llama and True in linear else 0)
    for config in theirs:
        config.mlp_bias, config.intermediate_size = True, hidden
    model.config = replace(model.config, d_hidden=hidden, mlp_bias=True, mlp_linear=not llama and True in linear)


def _gated(site: Site) -> GatedLayer:
    if isinstance(site.owner, Bilinear):
        layer, now = site.owner.gated_layer(site.name, BASIS), site.gate
        return layer if now is None or now is GATES[site.owner.gate] else replace(layer, gate=now)  # else annealed
    named: dict[str, Any] = {}
    for role, module in zip(("left", "right", "down"), ("gate_proj", "up_proj", "down_proj"), strict=True):
        linear: Any = getattr(site.owner, module)
        named[role] = linear.weight
        if linear.bias is not None:
            named["bias" if role == "down" else f"{role}_bias"] = linear.bias
    gate: Any = site.gate  # no gate is refused by GatedLayer
    return GatedLayer.from_weights(**named, gate=gate, name=site.name, basis=BASIS)


def _parts(site: Site, layer: BilinearLayer) -> dict[str, Tensor]:
    """Return weights as `nn.Linear` has them, biases and linear part of a lifted layer: units, constant, inputs."""
    rank, inputs = site.linear.weight.shape
    layer = layer.drop_constant()
    if not layer.constant_in or len(layer.left) != 1 + inputs or layer.rank not in (rank + 1, rank + 1 + inputs):
        raise ValueError(
            f"the layer of {site.name} must be lifted, with {inputs} inputs and {rank} hidden units, got {layer!r}"
        )
    found = {"left": layer.left[1:, :rank].T, "right": layer.right[1:, :rank].T, "down": layer.down[:, :rank]}
    found |= {"left_bias": layer.left[0, :rank], "right_bias": layer.right[0, :rank], "bias": layer.down[:, rank]}
    if layer.rank > rank + 1:
        found["linear"] = layer.down[:, rank + 1 :]
    return found


def _with_units(part: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the parts with one hidden unit x_j * 1 per input in the place of the linear part."""
    if "linear" not in part:
        return part
    left, right, down = (part[name] for name in ("left", "right", "down"))
    eye = torch.eye(left.shape[1], dtype=left.dtype, device=left.device)
    zeros, ones = eye.new_zeros(len(eye)), eye.new_ones(len(eye))
    return {
        "left": torch.cat([left, eye]),
        "left_bias": torch.cat([part["left_bias"], zeros]),
        "right": torch.cat([right, torch.zeros_like(eye)]),
        "right_bias": torch.cat([part["right_bias"], ones]),
        "down": torch.cat([down, part["linear"]], 1),
        "bias": part["bias"],
    }


def _put(owner: nn.Module, names: tuple[str, str, str], part: dict[str, Tensor]) -> None:
    for name, role in zip(names, ("left", "right", "down"), strict=True):
        setattr(owner, name, _linear(part[role], part["bias" if role == "down" else f"{role}_bias"]))


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    module.weight = nn.Parameter(weight.detach().clone().contiguous())
    if bias is not None:
        module.bias = nn.Parameter(bias.detach().clone().contiguous())
    return module
