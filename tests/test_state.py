"""No public call of the package changes what belongs to the user: one test over every call."""

import pytest
import torch
from global_state import changes
from helpers import normal

from models import ClassifierConfig, build_classifier, save_model
from tensornet_interp import (
    BilinearLayer,
    BilinearNetwork,
    Moments,
    contract,
    decompose,
    difference,
    inner,
    lift,
    list_decompositions,
    load,
    norm,
    odt,
    plan,
    relative_error,
    rename,
    save,
    similarity,
)
from tensornet_interp.adversarial import adversarial_masks, baseline_masks, mask_effect, orient, top_positive
from tensornet_interp.attention import (
    AttentionLayer,
    LinearMap,
    Norm,
    Part,
    SequenceNetwork,
    composition,
    head_similarity,
    mean_ablated,
    path_contributions,
    query_form,
    read_back,
    write_contributions,
)
from tensornet_interp.circuits import circuit, degree_weights, evaluation, expansion, interaction_tensor, project
from tensornet_interp.compare import (
    EIGENVALUE_RANKINGS,
    jackknife,
    match,
    matched_similarity,
    ordered_similarity,
    stability,
)
from tensornet_interp.concentration import energy_share, participation, rare_inputs
from tensornet_interp.decompositions import Sparse
from tensornet_interp.features import (
    Dictionary,
    between,
    feature_interactions,
    label_directions,
    low_rank_correlation,
    overlap,
    projections,
    rank_by_structure,
)
from tensornet_interp.fidelity import (
    certificate,
    component_ranking,
    components_needed,
    difference_certificate,
    fidelity,
    keep_first,
    network_fidelity,
    refit,
    truncation_curve,
)
from tensornet_interp.inner_products import Gaussian, Symmetric, inner_by_output, output_similarity
from tensornet_interp.lifting import split
from tensornet_interp.plots import (
    bond_curves,
    bond_spectra,
    compared_vectors,
    components,
    correlation_by_rank,
    curves,
    dots,
    draw_circuit,
    draw_network,
    eigenvector_plane,
    explanation,
    interaction_submatrix,
    output_directions,
    outputs_map,
    pareto,
    similarity_matrix,
    spectrum,
)
from tensornet_interp.registry import decomposition_problems
from tensornet_interp.spectra import spectra
from tensornet_interp.sweep import sweep
from tensornet_interp.testing import check_decomposition
from tensornet_interp.weights import from_module, load_config, load_layer, load_tensor, polynomial_parts, verify

BOND_RECORD = ("metric", "removed", "accuracy", "cross_entropy", "measured", "bound")

CONFIG = ClassifierConfig(inputs=64, width=6, hidden=5, classes=10)


class Given:
    """What the calls work on, made once and before the state is looked at."""

    def __init__(self, folder):
        self.down, self.left, self.right = normal(5, 4, seed=0), normal(5, 4, seed=1), normal(5, 4, seed=2)
        self.layer = BilinearLayer(down=self.down, left=self.left, right=self.right, name="layer 0")
        self.other = BilinearLayer(
            down=self.down + 0.1 * normal(5, 4, seed=3), left=self.left, right=self.right, name="layer 1"
        )
        self.network = BilinearNetwork([self.layer, self.other])
        self.lifted = lift(self.layer, bias=normal(5, seed=4), residual=0.5)
        self.result = decompose(self.layer, "eigen", rank=2)
        self.cp = decompose(self.layer, "cp", rank=2, max_iterations=2)
        self.x = normal(7, 5, seed=5)
        self.circuit = circuit(self.network, self.x[0], widths=2)
        self.features = feature_interactions(self.layer, self.x[0], self.x.T, basis="x")
        self.labels = torch.arange(7) % 5
        self.torch_bilinear = torch.nn.Bilinear(5, 5, 3, bias=False, dtype=torch.float64)
        self.module = torch.nn.Sequential(torch.nn.Linear(5, 3, dtype=torch.float64)).eval()
        weights = [normal(4, 5, seed=i) for i in range(20, 26)]
        self.heads, self.softmax = (
            AttentionLayer.from_weights(
                queries=weights[:scores],
                keys=weights[2 : 2 + scores],
                value=weights[4],
                out=weights[5].T,
                heads=2,
                positions=7,
                rotary=100.0,
                softmax=scores == 1,
            )
            for scores in (2, 1)
        )
        parts = [Part(layer, 1.0, Norm()) for layer in (self.heads, self.softmax)]
        self.stack = SequenceNetwork([*parts, LinearMap(weight=self.down.T)])
        self.block = SequenceNetwork([parts[1], Part(self.lifted, 0.5, Norm())])
        self.folder = folder
        save_model(build_classifier(CONFIG, seed=0), folder / "given")
        save(self.lifted, folder / "layer.safetensors")
        self.dictionary = Dictionary(normal(7, 5, seed=10), normal(5, 7, seed=11), decoder_bias=normal(5, seed=12), k=2)


CALLS = {
    "layer": lambda g: BilinearLayer(down=g.down, left=g.left, right=g.right),
    "layer from weights": lambda g: BilinearLayer.from_weights(left=g.left.T, right=g.right.T, down=g.down),
    "layer from tensor": lambda g: BilinearLayer.from_tensor(g.layer.to_tensor()),
    "layer from nn.Bilinear": lambda g: BilinearLayer.from_torch_bilinear(g.torch_bilinear),
    "layer from cp": lambda g: BilinearLayer.from_cp((None, [g.down, g.left, g.right])),
    "cp": lambda g: g.layer.cp,
    "call a layer": lambda g: (g.layer(g.x), g.layer(g.x, g.x)),
    "call a lifted layer": lambda g: g.lifted(g.x),
    "interaction matrix": lambda g: g.layer.interaction_matrix(g.x),
    "symmetrize": lambda g: g.layer.symmetrize(),
    "change basis": lambda g: g.lifted.change_basis(normal(5, 3, seed=6), input_bias=normal(5, seed=7)),
    "to": lambda g: g.layer.to(dtype=torch.float32),
    "lift": lambda g: lift(g.layer, left_bias=normal(4, seed=8), residual=1.0),
    "split": lambda g: split(g.lifted),
    "network": lambda g: BilinearNetwork([g.layer, g.other]),
    "call a network": lambda g: g.network(g.x),
    "replace": lambda g: g.network.replace(0, g.result),
    "decompose eigen": lambda g: decompose(g.layer, "eigen"),
    "decompose eigen, directions": lambda g: decompose(g.layer, "eigen", directions=normal(7, 5, seed=9), rank=3),
    "spectra": lambda g: [
        spectra(g.layer, normal(7, 5, seed=9), method=method, progress=False).to_result()
        for method in ("krylov", "dense")
    ],
    "decompose network": lambda g: decompose(g.network, "eigen", rank=2),
    "decompose by spectra": lambda g: [decompose(g.layer, name) for name in ("output_svd", "hosvd", "tucker")],
    "decompose by fits": lambda g: [
        decompose(g.lifted, name, rank=2, starts=2, max_iterations=2, priors=priors)
        for name in ("cp", "symmetric_cp", "block_term")
        for priors in ((), [Sparse("outputs")])
    ],
    "decompose by TensorLy": lambda g: [
        decompose(g.layer, f"tensorly_{name}", rank=2) for name in ("parafac", "tucker", "non_negative_parafac")
    ],
    "decompose by TensorLy, random start": lambda g: decompose(g.layer, "tensorly_parafac", rank=7, init="random"),
    "decompose random components": lambda g: decompose(g.layer, "random_components", rank=2, source="eigen"),
    "match": lambda g: (match(g.layer, g.other), match(g.result, g.result, blocks=True)),
    "stability": lambda g: stability([g.layer, g.other]),
    "sweep": lambda g: sweep(
        g.layer, "tensorly_parafac", {"rank": [1]}, path=g.folder / "sweep.jsonl", measure=lambda r: {}, progress=False
    ),
    "plot a Pareto front": lambda g: pareto(sweep(g.layer, "eigen", {"rank": [1, 2]}, progress=False)),
    "inner tree": lambda g: inner(g.network, g.network),
    "inner gaussian": lambda g: inner(g.lifted, g.lifted, kind=Gaussian(Moments.of(g.x))),
    "inner gaussian, network": lambda g: inner_by_output(g.network, g.network, kind="gaussian"),
    "inner symmetric": lambda g: inner(g.network, g.network, kind="symmetric"),
    "inner sampled": lambda g: inner(g.network, g.network, kind=Symmetric("sampled", samples=10)),
    "inner gaussian, sampled": lambda g: inner(g.lifted, g.lifted, kind=Gaussian(method="sampled", samples=10)),
    "similarity": lambda g: float(similarity(g.layer, g.other)),
    "similarity of a list": lambda g: similarity([g.layer, g.other, g.result], kind="gaussian"),
    "relative error": lambda g: relative_error(g.result, g.layer),
    "norm": lambda g: norm(g.layer),
    "difference": lambda g: difference(g.layer, g.other),
    "odt": lambda g: (odt(g.network), odt(g.lifted, Moments(g.x[0], torch.eye(5, dtype=g.x.dtype)))),
    "plot similarities": lambda g: similarity_matrix(similarity([g.layer, g.other]).to_tensor(), "ab"),
    "plot bonds": lambda g: (
        bond_spectra({"isotropic": odt(g.network)}),
        bond_curves([dict.fromkeys(BOND_RECORD, 0.5)], accuracy=0.5, loss=0.5),
    ),
    "odt, truncate": lambda g: (repr(odt(g.network).truncate(2)), odt(g.network).truncate(error=0.1)),
    "contract": lambda g: contract(g.network),
    "contract in chunks": lambda g: contract(evaluation(g.network, g.x), chunk="batch", max_elements=50),
    "plan": lambda g: str(plan(g.network)),
    "project": lambda g: project(g.network, {"in1": 0, "in2": g.x[0], "in3": g.x.T}).to_tensor(),
    "interaction tensor": lambda g: interaction_tensor(g.network, g.x[0], g.x[:2].T),
    "expansion": lambda g: (expansion(g.network, g.x), expansion(g.lifted, g.x)),
    "degree weights": lambda g: [degree_weights(g.lifted, degree) for degree in range(3)],
    "rename": lambda g: rename(g.layer.terms(), {"out": "class"}),
    "to_tensor": lambda g: g.result.to_tensor(),
    "to_tensorly": lambda g: g.result.to_tensorly(),
    "contributions": lambda g: (g.layer.contributions(g.x), g.result.contributions(g.x)),
    "activations": lambda g: g.result.activations(g.x),
    "groups and ranks": lambda g: (g.result.groups(0), g.result.effective_rank(), g.result.truncate(1)),
    "sparsity": lambda g: (
        g.result.activation_participation(g.x),
        participation(g.x),
        energy_share(g.x, rare_inputs(g.x, 0.5)),
    ),
    "fidelity": lambda g: fidelity(g.result, g.layer, g.x, g.labels),
    "network fidelity": lambda g: network_fidelity(decompose(g.network, "eigen", rank=2), g.network, g.x, g.labels),
    "truncation curve": lambda g: truncation_curve(
        g.result, g.layer, g.x, g.labels, [1, 2], by="ablation", rank_on=(g.x, g.labels)
    ),
    "components needed": lambda g: components_needed(truncation_curve(g.result, g.layer, g.x, g.labels, [1]), 0.9, 0.1),
    "refit": lambda g: [
        refit(g.result, keep_first(component_ranking(g.result, "magnitude"), 1), g.x, targets, max_iterations=2)
        for targets in (g.layer(g.x).detach(), g.labels)
    ],
    "certificate": lambda g: certificate(decompose(g.layer, "eigen"), 2, g.x),
    "certificate of differences": lambda g: difference_certificate(g.lifted, [1, 2], g.x),
    "masks": lambda g: adversarial_masks(orient(top_positive(decompose(g.layer, "eigen"), 1)[:2], g.x)),
    "masks of random entries": lambda g: [baseline_masks(g.x[0], kind, 2, seed=0) for kind in ("gaussian", "permuted")],
    "effect of a mask": lambda g: mask_effect(g.layer, g.x[0], g.x, g.labels, 1, [0.5], clip=(0.0, 1.0)),
    "circuit": lambda g: str(circuit(g.network, g.x[0], widths=2, x=g.x)),
    "circuit, by weights": lambda g: circuit(BilinearNetwork([g.lifted, g.lifted]), g.x[0], widths=None, beam=9),
    "a circuit on inputs": lambda g: (g.circuit(g.x), g.circuit.ablations(g.x), g.circuit.relative_error(g.x)),
    "draw a network": lambda g: draw_network(g.network),
    "draw a circuit": lambda g: draw_circuit(g.circuit, (1, 5)),
    "plot components": lambda g: (components(g.cp, (1, 5), "abcde", count=1), outputs_map(g.cp, "abcde")),
    "plot curves": lambda g: curves(sweep(g.layer, "eigen", {"rank": [1, 2]}, progress=False), "rank", ["cosine"]),
    "plot dots": lambda g: dots(sweep(g.layer, "eigen", {"rank": [1, 2]}, progress=False), ["cosine"], "rank"),
    "plot vectors side by side": lambda g: compared_vectors({"a": g.x}, {"a": g.x[:, 0]}, (1, 5)),
    "plot a spectrum": lambda g: spectrum(g.result, 0, (1, 5), count=1),
    "plot output directions": lambda g: output_directions(decompose(g.layer, "output_svd"), (1, 5), "abcde", count=1),
    "plot an explanation": lambda g: explanation(g.result, g.x[0], (1, 5), "abcde", label=0, count=2),
    "check a decomposition": lambda g: check_decomposition("eigen"),
    "names of decompositions": lambda g: (list_decompositions(), decomposition_problems()),
    "print": lambda g: (repr(g.layer), repr(g.network), repr(g.result)),
    "feature interactions": lambda g: feature_interactions(
        g.lifted, normal(6, seed=10), g.x.T, basis="x", bias=g.x[0]
    ).top(3),
    "interactions": lambda g: (
        g.features.table(5, pairs="cross", by="negative"),
        g.features.smallest_submatrix(2),
        g.features(normal(7, seed=11)),
        g.features.block([0, 1], torch.tensor([2])),
    ),
    "statistics of interactions": lambda g: str(g.features.statistics()),
    "projections": lambda g: projections(g.x.T, g.result.eigenvectors[0]),
    "low-rank correlation": lambda g: low_rank_correlation(g.layer, g.x, g.x, (1, 2), basis="x"),
    "rank by structure": lambda g: rank_by_structure(g.layer, g.x),
    "labels and overlap": lambda g: (label_directions(g.x, g.x, "abcdefg", 2), overlap(g.x[:2], g.x[2:4])),
    "plot interactions": lambda g: interaction_submatrix(g.features, 4),
    "plot a plane of eigenvectors": lambda g: eigenvector_plane(
        g.x @ g.result.eigenvectors[0], g.result.eigenvalues[0]
    ),
    "plot correlations": lambda g: correlation_by_rank(low_rank_correlation(g.layer, g.x, g.x, (1, 2), basis="x")),
    "network of a module": lambda g: verify(from_module(g.module, g.x), g.module, g.x),
    "parts of a module": lambda g: polynomial_parts(g.module, g.x),
    "module of a network": lambda g: (g.network.to_module(), g.lifted.to_module(), g.result.to_module()),
    "save": lambda g: save({"lifted": g.lifted, "results": [g.result, g.cp, g.circuit]}, g.folder / "saved"),
    "load": lambda g: load(g.folder / "layer.safetensors"),
    "load layer": lambda g: load_layer(g.folder / "given", 0, layout="tensornet_interp"),
    "load tensor": lambda g: (load_tensor(g.folder / "given", "head.weight"), load_config(g.folder / "given")),
    "ordered similarity": lambda g: [ordered_similarity([g.result, g.result], by) for by in EIGENVALUE_RANKINGS],
    "matched similarity": lambda g: matched_similarity([g.result, g.result], 2),
    "jackknife": lambda g: jackknife(g.x[:3], [(0, 1), (0, 2), (1, 2)]),
    "pull back": lambda g: g.result.change_basis(normal(5, 3, seed=6)),
    "output similarity": lambda g: [
        output_similarity(g.layer, g.other, kind=k) for k in ("tree", "symmetric", "gaussian")
    ],
    "attention": lambda g: [
        (layer(g.x), layer.scores(g.x), layer.given(layer.pattern(g.x)), layer.lift(bias=g.x[0], residual=1.0)(g.x))
        for layer in (g.heads, g.softmax)
    ],
    "heads": lambda g: (
        g.heads.qk(0, -1).svd(),
        g.heads.ov(1).top(2),
        decompose(g.heads, "ov_svd", rank=1),
        head_similarity(g.heads, g.heads, -1),
        query_form(g.heads, 0, g.x[0]),
        composition(g.heads, g.heads, "key", [-1]),
    ),
    "a network over positions": lambda g: (
        g.stack(g.x, chunk="position", max_elements=500),
        g.stack.given(g.x),
        g.stack.plan(2, 7),
        write_contributions(g.stack, g.x, g.x[0, :4]),
        path_contributions(g.stack, g.x, g.x[0, :4]),
        mean_ablated(g.stack, 1, 0, g.x[None]),
        read_back(g.block, 1, g.x[0]).contributions(g.x),
    ),
    "save and load attention": lambda g: (
        save([g.heads, g.softmax, g.stack], g.folder / "heads"),
        load(g.folder / "heads"),
    ),
    "dictionary": lambda g: (g.dictionary.decode(g.dictionary.encode(g.x)), Dictionary.from_matrix(g.down)),
    "between dictionaries": lambda g: between(g.layer, g.dictionary, g.dictionary),
}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return Given(tmp_path_factory.mktemp("state"))


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_global_state_as_it_was(name, grad, given):
    assert changes(lambda: CALLS[name](given), grad=grad) == []
