"""Calls of the whole package on one small layer each, by name, and what they compute as a list of tensors.

For tests of what must not matter: threads, defaults, modes of torch. Every call draws by its own seed.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from functools import partial

import torch
from torch import Tensor

from tensornet_interp import BilinearNetwork, Moments, TensorNetwork, contract, decompose, lift, odt
from tensornet_interp.adversarial import BASELINES, adversarial_masks, baseline_masks, mask_effect, orient, top_positive
from tensornet_interp.attention import (
    AttentionLayer,
    LinearMap,
    Norm,
    Part,
    SequenceNetwork,
    composition,
    copying_score,
    head_inner,
    head_similarity,
    leg_contributions,
    mean_ablated,
    output_moments,
    path_contributions,
    path_patched,
    position_inner,
    prefix_matching_score,
    previous_token_score,
    pull_back,
    query_form,
    read_back,
    stream_moments,
    update_share,
    write_contributions,
)
from tensornet_interp.circuits import circuit, degree_weights, expansion, head_circuit, interaction_tensor, project
from tensornet_interp.compare import jackknife, match, matched_similarity, ordered_similarity, stability
from tensornet_interp.concentration import energy_share, participation, rare_inputs
from tensornet_interp.decompositions import BUILT_IN, Sparse
from tensornet_interp.features import (
    Dictionary,
    between,
    feature_interactions,
    label_directions,
    low_rank_correlation,
    overlap,
    plane_part,
    projections,
    rank_by_structure,
    removal_test,
)
from tensornet_interp.fidelity import (
    certificate,
    component_ranking,
    difference_certificate,
    fidelity,
    keep_first,
    network_fidelity,
    refit,
    truncation_curve,
)
from tensornet_interp.inner_products import (
    Gaussian,
    Symmetric,
    difference,
    inner,
    norm,
    output_similarity,
    relative_error,
    similarity,
    similarity_by_output,
)
from tensornet_interp.lifting import split
from tensornet_interp.spectra import spectra
from tensornet_interp.sweep import sweep
from tensornet_interp.testing import random_layer

OUT, IN = 5, 5  # equal, so that a stack of any depth fits
POSITIONS = 3
OPTIONS = {
    "block_term": {"blocks": 2, "rank": 2},
    "cp": {"rank": 2, "starts": 2, "max_iterations": 20},
    "eigen": {"rank": 2},
    "hosvd": {"ranks": (2, 3)},
    "output_svd": {"rank": 2},
    "random_components": {"rank": 2},
    "symmetric_cp": {"rank": 2},
    "tucker": {"ranks": (2, 3)},
}


class Inputs:
    """Layers and tensors that the calls are made on, of one dtype."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        layers = (random_layer(OUT, IN, rank, seed=rank, dtype=dtype) for rank in (6, 7, 4))
        self.layer, self.other, self.third = (replace(layer, basis="made up inputs") for layer in layers)
        self.network = BilinearNetwork([self.layer, self.other])
        generator = torch.Generator().manual_seed(0)

        def draw(*size: int) -> Tensor:
            return torch.randn(size, generator=generator, dtype=torch.float64, device="cpu").to(dtype)

        self.x, self.direction, self.decoder, self.bias = draw(12, IN), draw(OUT), draw(IN, 9), draw(6)
        self.labels = torch.arange(12, device="cpu") % OUT
        self.eye = torch.eye(OUT, dtype=dtype, device="cpu")
        moment = draw(IN, IN).double()
        self.moments = Moments(draw(IN), (moment @ moment.mT + IN * torch.eye(IN).double()).to(dtype))
        self.outputs = Dictionary(draw(9, OUT), draw(OUT, 9), name="out", point="here")
        self.spectrum = decompose(self.layer, "eigen")
        self.results = [decompose(part, "eigen", rank=2) for part in (self.layer, self.other, self.third)]
        self.rotated = self.layer.change_basis(inputs=self.eye)
        self.attention, self.softmax = (self.attention_of(draw, scores) for scores in (2, 1))
        self.streams = draw(2, POSITIONS, IN)  # samples of sequences
        self.paths = SequenceNetwork([Part(self.attention, 0.5), Part(self.softmax, 0.5)])
        head = Part(LinearMap(weight=draw(OUT, IN), bias=self.direction), norm=Norm(centered=True))
        self.stack = SequenceNetwork(
            [Part(self.softmax, 1.0, Norm()), Part(self.layer, 0.5, Norm()), Part(self.attention, 1.0), head]
        )
        self.polynomial = SequenceNetwork([Part(self.attention, 1.0), Part(self.layer, 0.5)])
        self.places = Moments.standard(POSITIONS * IN, device="cpu")

    @staticmethod
    def attention_of(draw: Callable[..., Tensor], scores: int) -> AttentionLayer:
        queries, keys = ([draw(4, IN) for _ in range(scores)] for _ in range(2))
        more = {"heads": 2, "positions": POSITIONS, "rotary": 10.0, "softmax": scores == 1}
        return AttentionLayer.from_weights(queries=queries, keys=keys, value=draw(6, IN), out=draw(OUT, 6), **more)


def fit_of(name: str, given: Inputs) -> object:
    return decompose(given.layer, name, **OPTIONS.get(name, {}))


Call = Callable[[Inputs], object]
CALLS: dict[str, Call] = {
    **{name: partial(fit_of, name) for name in BUILT_IN if not name.startswith("tensorly")},
    "a fit with a prior": lambda g: decompose(g.layer, "cp", rank=2, priors=[Sparse("inputs")], max_iterations=6),
    "decompose a network": lambda g: decompose(g.network, "eigen", rank=2),
    "call a layer": lambda g: g.layer(g.x),
    "call a lifted layer": lambda g: lift(g.layer, left_bias=g.bias, residual=0.5)(g.x),
    "call a result": lambda g: g.spectrum(g.x),
    "call a network": lambda g: g.network(g.x),
    "contributions": lambda g: g.layer.contributions(g.x),
    "interaction_matrix": lambda g: g.layer.interaction_matrix(g.direction),
    "symmetrize": lambda g: g.layer.symmetrize(),
    "change_basis": lambda g: g.layer.change_basis(inputs=g.decoder, outputs=g.eye),
    "to_tensor": lambda g: g.network.to_tensor(),
    "contract": lambda g: contract(g.layer, ("out",)),
    "split": lambda g: split(lift(g.layer, left_bias=g.bias)),
    "inner tree": lambda g: inner(g.network, g.network),
    "inner symmetric": lambda g: inner(g.network, g.network, kind="symmetric", progress=False),
    "inner sampled": lambda g: inner(g.network, g.network, kind=Symmetric("sampled", samples=50), progress=False),
    "inner gaussian": lambda g: inner(g.network, g.network, kind=Gaussian(moments=g.moments), progress=False),
    "inner gaussian sampled": lambda g: inner(
        g.network, g.network, kind=Gaussian(g.moments, "sampled", samples=50), progress=False
    ),
    "similarity": lambda g: similarity([g.layer, g.other, g.third]),
    "similarity_by_output": lambda g: similarity_by_output(g.layer, g.other),
    "output_similarity": lambda g: output_similarity(g.layer, g.other),
    "difference": lambda g: difference(g.layer, g.other),
    "norm": lambda g: norm(g.layer),
    "relative_error": lambda g: relative_error(g.other, g.layer),
    "odt": lambda g: odt(g.network).truncate(3),
    "odt with moments": lambda g: odt(g.network, g.moments),
    "spectra": lambda g: [spectra(g.layer, g.eye, method=how, progress=False) for how in ("dense", "krylov")],
    "fidelity": lambda g: fidelity(g.results[0], g.layer, g.x, g.labels),
    "network_fidelity": lambda g: network_fidelity(decompose(g.network, "eigen", rank=2), g.network, g.x, g.labels),
    "certificate": lambda g: certificate(g.spectrum, 3, g.x),
    "difference_certificate": lambda g: difference_certificate(g.layer, (1, 4), g.x),
    "component_ranking": lambda g: [component_ranking(g.spectrum, by, g.x) for by in ("magnitude", "activation")],
    "refit": lambda g: refit(g.spectrum, keep_first(component_ranking(g.spectrum, "magnitude"), 3), g.x, g.layer(g.x)),
    "truncation_curve": lambda g: truncation_curve(g.spectrum, g.layer, g.x, g.labels, (1, 3)),
    "match": lambda g: match(g.results[0], g.results[1], blocks=True),
    "stability": lambda g: stability(g.results, blocks=True),
    "matched_similarity": lambda g: matched_similarity(g.results),
    "ordered_similarity": lambda g: ordered_similarity(g.results),
    "jackknife": lambda g: jackknife(g.x[:3, 0], [(0, 1), (0, 2), (1, 2)]),
    "circuit": lambda g: circuit(g.network, g.direction, widths=2, x=g.x, progress=False),
    "degree_weights": lambda g: degree_weights(BilinearNetwork([lift(g.layer, residual=1.0), lift(g.other)]), 2),
    "expansion": lambda g: expansion(lift(g.layer, residual=1.0), g.x),
    "interaction_tensor": lambda g: interaction_tensor(g.network, g.direction, g.x[:3].mT),
    "project": lambda g: project(g.layer, {"out": g.direction}),
    "between": lambda g: between(g.layer, outputs=g.outputs),
    "dictionary": lambda g: g.outputs.decode(g.outputs.encode(g.x)),
    "feature_interactions": lambda g: feature_interactions(g.layer, g.direction, g.decoder).top(4),
    "label_directions": lambda g: label_directions(g.x[:2], g.decoder.mT),
    "overlap": lambda g: overlap(g.x[:2].mT, g.x[2:4].mT),
    "plane_part": lambda g: plane_part(g.x, g.x[:2].mT),
    "projections": lambda g: projections(g.x.mT, g.spectrum.eigenvectors[0]),
    "rank_by_structure": lambda g: rank_by_structure(g.layer, g.eye),
    "low_rank_correlation": lambda g: low_rank_correlation(g.layer, g.eye, g.x),
    "removal_test": lambda g: removal_test(g.layer, g.outputs, 1, g.x, 0 * g.x, 0.1 * g.x, g.labels),
    "statistics": lambda g: feature_interactions(g.layer, g.direction, g.decoder).statistics(),
    "adversarial_masks": lambda g: adversarial_masks(g.x[None, :2]),
    "baseline_masks": lambda g: [baseline_masks(g.x[0], kind, 2, seed=0) for kind in BASELINES],
    "mask_effect": lambda g: mask_effect(g.network, g.x[0], g.x, g.labels, 1, (0.0, 1.0)),
    "orient": lambda g: orient(g.x[None, :2], g.x),
    "top_positive": lambda g: top_positive(g.spectrum, 1),
    "participation": lambda g: participation(g.x),
    "rare_inputs": lambda g: rare_inputs(g.x, 0.5),
    "energy_share": lambda g: energy_share(g.x, g.x[0] > 0),
    "attention from weights": lambda g: g.attention_of(lambda *size: g.x.new_ones(size), 2),
    "call attention": lambda g: [layer(g.streams) for layer in (g.attention, g.softmax)],
    "attention of legs": lambda g: g.attention.multilinear(*[g.streams] * 5),
    "lift attention": lambda g: g.attention.lift(bias=g.direction, residual=0.5)(g.streams),
    "patterns": lambda g: [g.softmax.pattern(g.streams), g.softmax.scores(g.streams)],
    "scores of patterns": lambda g: [
        previous_token_score(g.softmax.pattern(g.streams)),
        prefix_matching_score(g.softmax.pattern(g.streams), g.labels[:6].reshape(2, 3) % 2),
    ],
    "qk and ov": lambda g: [g.attention.qk(0, -1).svd(), g.attention.ov(1).top(4), g.attention.ov(1).norm()],
    "matrices": lambda g: [
        g.attention.ov(0).change_basis(rows=g.eye).truncate(2),
        g.attention.ov(0).entries(g.eye),
        copying_score(g.attention.ov(0)),
    ],
    "ov_svd": lambda g: decompose(g.attention, "ov_svd", rank=1),
    "query_form": lambda g: query_form(g.attention, 0, g.x, -1),
    "heads alike": lambda g: [head_inner(g.attention, g.attention), head_similarity(g.attention, g.attention, -1)],
    "composition": lambda g: [composition(g.softmax, g.attention, kind, [0, -1]) for kind in ("query", "key", "value")],
    "pull_back": lambda g: pull_back(g.softmax, g.direction),
    "call a stack": lambda g: g.stack(g.streams, chunk="position", max_elements=400),
    "given": lambda g: g.stack.given(g.streams)(g.streams),
    "streams": lambda g: g.stack.streams(g.streams),
    "read_back": lambda g: [
        read_back(g.stack, 1, g.direction).norms(),
        read_back(g.stack, 1, g.direction).contributions(g.streams),
    ],
    "write_contributions": lambda g: write_contributions(g.stack, g.streams, g.direction).values,
    "path_contributions": lambda g: path_contributions(g.paths, g.streams, g.direction).values,
    "leg_contributions": lambda g: leg_contributions(g.paths, 1, g.streams, g.direction, [0]),
    "mean_ablated": lambda g: mean_ablated(g.stack, 0, 1, g.streams)(g.streams),
    "path_patched": lambda g: path_patched(g.stack, (0, 1), (2, 0), g.streams, legs=[0]),
    "head_circuit": lambda g: head_circuit(g.stack, g.streams, g.direction, width=2, progress=False).values(),
    "moments of attention": lambda g: [
        output_moments(g.attention, g.places),
        update_share(g.attention, g.places),
        position_inner(g.attention, g.attention, g.places),
    ],
    "stream_moments": lambda g: stream_moments(g.polynomial, g.places, progress=False),
    "inner of attention": lambda g: inner(g.attention, g.attention),
    "inner of stacks": lambda g: [
        inner(g.polynomial, g.polynomial, kind=Gaussian(g.places, "closure"), progress=False),
        inner(g.stack, g.paths, kind=Gaussian(g.places, "sampled", samples=50), progress=False),
    ],
    "sweep": lambda g: sweep(g.layer, "eigen", {"rank": (1, 2)}, progress=False),
}


def numbers(value: object) -> Iterator[Tensor]:
    """Every tensor and number in what a call returns; not how long it took, and not which versions made it."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, bool | int | float):
        yield torch.tensor(value, dtype=torch.float64, device="cpu")
    elif isinstance(value, dict):
        for key, part in value.items():
            if key not in ("seconds", "versions"):
                yield from numbers(part)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from numbers({field.name: getattr(value, field.name) for field in fields(value)})
    elif isinstance(value, TensorNetwork):
        yield from (term.data for term in value.terms())
    elif isinstance(value, tuple | list):
        for part in value:
            yield from numbers(part)
