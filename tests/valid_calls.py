"""Valid arguments of everything public, by name: `test_wrong_arguments` spoils one argument of one row at a time.

A new export needs a row here, or a reason in one of the lists below. Sizes are tiny, and all different.
"""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from bad_input import LAYER, RESULT, SQUARE, STACK
from helpers import layer_of, normal
from matplotlib.figure import Figure

from tensornet_interp import (
    CP,
    HOSVD,
    BilinearLayer,
    BilinearMap,
    BilinearNetwork,
    BlockTerm,
    CPResult,
    Eigen,
    Moments,
    OutputSVD,
    Report,
    SymmetricCP,
    Term,
    Tucker,
    Whitened,
    adversarial,
    attention,
    circuits,
    compare,
    concentration,
    contract,
    decompose,
    decompositions,
    difference,
    features,
    fidelity,
    gated,
    graphs,
    inner,
    inner_products,
    interchange,
    keys,
    layer_moments,
    lift,
    lifting,
    load,
    network,
    norm,
    odt,
    pages,
    plan,
    plots,
    registry,
    relative_error,
    rename,
    save,
    similarity,
    spectra,
    store,
    sweep,
    tables,
    testing,
    weights,
    write_report,
)
from tensornet_interp.contraction import mode_sizes
from tensornet_interp.metric import Metric

_FOLDER = tempfile.TemporaryDirectory()
HOME = Path(_FOLDER.name)  # every file that a row reads or writes

OTHER = layer_of(3, 5, 4, seed=9)
LIFTED = lift(LAYER)
SVD = OutputSVD()(LAYER)
FIT = CP()(LAYER)
CORE = HOSVD(ranks=(2, 3))(LAYER)
X, LABELS = normal(6, 5, seed=3), torch.tensor([0, 1, 2, 0, 1, 2])
OUT, IN, PIXELS = normal(3, seed=4), normal(5, seed=5), normal(6, seed=5)
MASK = torch.tensor([True, True, False, True, True])
IMAGES = layer_of(3, 6, 4, seed=2)  # six pixels: images of shape (2, 3)
IMAGE_RESULT, IMAGE_FIT, IMAGE_SVD = Eigen()(IMAGES), CP()(IMAGES), OutputSVD()(IMAGES)
FIT_TRUST, EIGEN_TRUST = (
    compare.ComponentTrust(normal(*shape).abs(), normal(*shape).abs()) for shape in ((4,), (3, 6))
)
SHAPE, NAMES = (2, 3), ["a", "b", "c"]
CODER = features.Dictionary(
    normal(7, 5, seed=6), normal(5, 7, seed=7), normal(7, seed=8), normal(5, seed=9), k=3, name="1-mlp-x7-k3"
)
READER = features.Dictionary(normal(4, 3, seed=6), normal(3, 4, seed=7), name="out")
SAVED = features.Dictionary(normal(10, 5, seed=6), normal(5, 10, seed=7), k=3, name="1-mlp-x2-k3")
SAE_LENS = Path(__file__).with_name("sae_lens")
CONFIG = {"architecture": "standard", "d_in": 5, "d_sae": 7}
TENSORS = {"W_enc": normal(5, 7), "W_dec": normal(7, 5), "b_enc": normal(7), "b_dec": normal(5)}
SAE = SimpleNamespace(cfg=SimpleNamespace(to_dict=lambda: CONFIG), state_dict=lambda: TENSORS)  # as SAELens's
WRITER = dict(encoder=normal(7, 5, seed=6), decoder=normal(3, 7, seed=7), decoder_bias=normal(3), point_out="b")
WRITER |= dict(skip=normal(3, 5, seed=8), centered=False)
WINDOW = torch.tensor([0, 0, 1, 1, 2, 2])
MOMENTS = Moments(torch.zeros(5, dtype=torch.float64), torch.eye(5, dtype=torch.float64))
METRIC, AFFINE = Metric.of(MOMENTS), Whitened("eigen", MOMENTS, linear="exact")(LIFTED)
TREE = circuits.circuit(STACK, OUT, widths=2, x=X, progress=False)
ODTS = odt(STACK)
INTERACTIONS = features.feature_interactions(LAYER, OUT, normal(5, 7, seed=7), basis="made")
TARGETS = LAYER(X)
CURVE = fidelity.truncation_curve(RESULT, LAYER, X, LABELS, [1, 2])
RANKING = fidelity.component_ranking(RESULT, "magnitude")
RUNS = [Eigen()(LAYER), Eigen()(OTHER), Eigen()(layer_of(3, 5, 4, seed=20))]
PAGED = layer_of(2, 2, 1)
RECORDS = [
    {"method": "cp", "parameters": count, "relative_error": 1 / count, "options": {"rank": count}} for count in (2, 3)
]
BOND_ROWS = [{"metric": "m", "removed": 0.5, "accuracy": 0.9, "cross_entropy": 1.0, "measured": 0.1, "bound": 0.2}]
PAGE_GRAPH = graphs.feature_graph(
    attention.SequenceNetwork([attention.Part(LAYER)]), {(0, "in"): CODER, (0, "out"): READER}, (0, "out", 1), X
)
TRACED = graphs.feature_graph(
    attention.SequenceNetwork([attention.Part(LAYER)]), {(0, "in"): CODER, (0, "out"): READER}, [OUT, (0, "out")], X
)
PEAKS = features.strongest_windows([normal(4, 2, 3)], n=2)
CORRELATIONS = features.low_rank_correlation(LAYER, normal(2, 3), X, [1, 2], basis="made")
KRYLOV = spectra.spectra(LAYER, normal(2, 3), 2, progress=False)
SPECTRAL = dict(
    report=RESULT.report, outputs=RESULT.outputs, eigenvalues=RESULT.eigenvalues, eigenvectors=RESULT.eigenvectors
)
TRAIN = decompositions.tensorly_adapter("tensor_train")
FIT_OPTIONS = dict(priors=[decompositions.Sparse("outputs")], start=FIT, starts=1, max_iterations=2)
FIT_OPTIONS |= dict(tolerance=1e-4, seed=0)
FITTED = dict(rank=2, priors=(), start=None, starts=2, max_iterations=2, tolerance=1e-4, seed=0)
TERMS = [Term(normal(2, 3), ("a", "b")), Term(normal(3, 4), ("b", "c")), Term(normal(3, 4), ("b", "c"))]
CONTRACTED = dict(network=TERMS, output=("a", "c"), chunk="a", optimize="auto", max_elements=100)

save(LAYER, HOME / "layer" / "layer.safetensors")
(HOME / "checkpoint").mkdir()
weights.save_dictionary(SAVED, HOME)
(HOME / "layer" / "config.json").write_text("{}", encoding="utf-8")
FACTORS = {"0.w": LAYER.left.T, "0.v": LAYER.right.T, "0.d": LAYER.down}
(HOME / "checkpoint" / "model.safetensors").write_bytes(weights.pack(FACTORS, {}))
(HOME / "checkpoint" / "config.json").write_text("{}", encoding="utf-8")
BLOCK_0 = {"attn.qkv": (12, 4), "attn.o": (4, 4), "mlp.w": (6, 4), "mlp.p": (4, 3)}
MODEL_0 = {f"transformer.h.0.{name}.weight": normal(*shape) for name, shape in BLOCK_0.items()}
MODEL_0 |= {"transformer.wte.weight": normal(7, 4), "lm_head.weight": normal(7, 4)}
(HOME / "model").mkdir()
(HOME / "model" / "model.safetensors").write_bytes(weights.pack(MODEL_0, {}))
(HOME / "model" / "config.json").write_text(
    '{"d_model": 4, "n_head": 2, "n_ctx": 5, "n_layer": 1, "normalization": "rms"}', encoding="utf-8"
)
(HOME / "normed").mkdir()
NORMED = {"model.layers.0.post_attention_layernorm.weight": IN}
(HOME / "normed" / "model.safetensors").write_bytes(weights.pack(NORMED, {}))
FILES = weights.WeightFiles(HOME / "layer" / "layer.safetensors")
GATED = gated.GatedLayer(down=normal(3, 4), left=normal(5, 4), right=normal(5, 4), gate="silu")
HEADS = attention.AttentionLayer.from_weights(
    queries=[normal(4, 5, seed=1), normal(4, 5, seed=2)],
    keys=[normal(4, 5, seed=3), normal(4, 5, seed=4)],
    value=normal(6, 5, seed=5),
    out=normal(3, 6, seed=6),
    heads=2,
    positions=7,
    rotary=10.0,
)
TRANSFORMER = attention.SequenceNetwork(
    [attention.Part(HEADS, 0.0, attention.Norm()), attention.LinearMap(weight=normal(5, 3))]
)
SQUARE_HEADS = attention.AttentionLayer(
    down=normal(5, 2, 3),
    value=HEADS.value,
    mask=HEADS.mask,
    queries=HEADS.queries,
    keys=HEADS.keys,
    rotation=HEADS.rotation,
)
BLOCKS = attention.SequenceNetwork([attention.Part(SQUARE_HEADS, 1.0), attention.Part(HEADS, 0.0, attention.Norm())])
BLOCK = attention.SequenceNetwork([attention.Part(SQUARE_HEADS, 1.0), LAYER])
GRAPH_PLACES = {(0, "stream"): CODER, (1, "out"): READER}
GRAPH_TEXT = dict(network=BLOCK, dictionaries=GRAPH_PLACES, x=normal(3, 6, 5, seed=2))
GRAPH = graphs.feature_graph(**GRAPH_TEXT, seed=(1, "out"), mode="averaged", held_out=normal(2, 6, 5))
HEAD_WEIGHTS = dict(queries=[normal(4, 5)], keys=[normal(2, 5)], value=normal(3, 5), out=normal(3, 6))
TALL = attention.LowRank(left=normal(4, 2), right=normal(4, 2, seed=1))
STORED = dict(source=HOME / "layer" / "layer.safetensors", device="cpu", dtype=torch.float32)
MODEL = torch.nn.Sequential(torch.nn.Linear(5, 4)).to(X).eval()
LAYOUT = weights.Layout(left="{i}.w", right="{i}.v", down="{i}.d")


def _axes():
    return Figure().subplots()


def _stored_spectra(**options):
    """Each call has a store of its own, because a store refuses other settings."""
    with tempfile.TemporaryDirectory() as folder:
        return spectra.checkpoint_spectra(store=folder, **options)


SPECTRA = spectra.checkpoint_spectra([LAYER], normal(2, 3), 2, 1e-3, HOME / "spectra", progress=False)


# name: (callable, valid arguments); those of `**options` stand under "options".
CALLS = {
    # layers and networks
    "BilinearLayer": (BilinearLayer, dict(down=LAYER.down, left=LAYER.left, right=LAYER.right, name="a", history=("b",), basis="c", constant_in=True, constant_out=True)),
    "BilinearLayer.from_weights": (BilinearLayer.from_weights, dict(left=LAYER.left.T, right=LAYER.right.T, down=LAYER.down, name="a", history=("b",), basis="c", share=True)),
    "BilinearLayer.from_cp": (BilinearLayer.from_cp, dict(cp_tensor=(None, [LAYER.down, LAYER.left, LAYER.right]), name="a", history=("b",), basis="c")),
    "BilinearLayer.from_tensor": (BilinearLayer.from_tensor, dict(tensor=normal(2, 3, 3), name="a", history=("b",), basis="c")),
    "BilinearLayer.from_torch_bilinear": (BilinearLayer.from_torch_bilinear, dict(module=torch.nn.Bilinear(3, 3, 2, bias=False), name="a", basis="c", inputs="one")),
    "BilinearLayer.multilinear": (LAYER.multilinear, dict(x1=X, x2=X)),
    "BilinearLayer.change_basis": (LIFTED.change_basis, dict(inputs=normal(5, 2), outputs=normal(2, 3), input_bias=IN, output_bias=normal(2), basis="a", note="b")),
    "BilinearLayer.to": (LAYER.to, dict(device="cpu", dtype=torch.float32)),
    "BilinearMap.__call__": (LAYER.__call__, dict(x1=X, x2=X)),
    "BilinearMap.to": (lambda **place: BilinearMap.to(FIT, **place), dict(device="cpu", dtype=torch.float32)),
    "BilinearMap.multilinear": (FIT.multilinear, dict(x1=X, x2=X)),
    "BilinearMap.contributions": (LAYER.contributions, dict(x1=X, x2=X)),
    "BilinearMap.interaction_matrix": (LAYER.interaction_matrix, dict(direction=OUT)),
    "TensorNetwork.to_tensor": (LAYER.to_tensor, dict(max_elements=1000)),
    "BilinearNetwork": (BilinearNetwork, dict(parts=[SQUARE, LAYER])),
    "BilinearNetwork.__call__": (STACK.__call__, dict(x=X)),
    "BilinearNetwork.__getitem__": (STACK.__getitem__, dict(i=0)),
    "BilinearNetwork.multilinear": (STACK.multilinear, dict(x=X)),
    "BilinearNetwork.plan": (STACK.plan, dict(batch=4)),
    "BilinearNetwork.replace": (STACK.replace, dict(i=0, part=SQUARE)),
    "BilinearNetwork.to": (STACK.to, dict(device="cpu", dtype=torch.float32)),
    "as_network": (network.as_network, dict(part=LAYER, name="a")),
    "check_network": (network.check_network, dict(name="network", value=LAYER)),
    "lift": (lift, dict(layer=SQUARE, left_bias=normal(4), right_bias=normal(4), bias=IN, residual=0.5, linear=normal(5, 5))),
    "split": (lifting.split, dict(layer=LIFTED)),
    "contract": (contract, CONTRACTED),
    "plan": (plan, CONTRACTED),
    "rename": (rename, dict(terms=TERMS, names={"a": "d"})),
    "mode_sizes": (mode_sizes, dict(terms=TERMS)),
    "fingerprint": (keys.fingerprint, dict(part=LAYER)),
    # results
    "Result.to": (FIT.to, dict(device="cpu", dtype=torch.float32)),
    "SpectralResult": (type(RESULT), SPECTRAL | dict(directions=normal(3, 3), singular_values=None, constant_in=True, constant_out=True)),
    "SpectralResult.interaction_matrix": (RESULT.interaction_matrix, dict(direction=OUT)),
    "SpectralResult.activations": (RESULT.activations, dict(x=X)),
    "SpectralResult.contributions": (RESULT.contributions, dict(x1=X, x2=X)),
    "SpectralResult.truncate": (RESULT.truncate, dict(rank=2)),
    "SpectralResult.keep": (RESULT.keep, dict(mask=torch.ones(3, 5, dtype=torch.bool))),
    "Result.change_basis": (RESULT.change_basis, dict(inputs=normal(5, 2), input_bias=None, basis="a")),
    "SpectralResult.activation_participation": (RESULT.activation_participation, dict(x=X)),
    "SpectralResult.groups": (RESULT.groups, dict(block=1, rtol=0.1)),
    "CPResult": (type(FIT), dict(report=FIT.report, weights=FIT.weights, outputs=FIT.outputs, left=FIT.left, right=FIT.right, constant_in=True, constant_out=True)),
    "TuckerResult": (type(CORE), dict(report=CORE.report, core=CORE.core, outputs=CORE.outputs, inputs=CORE.inputs, singular_values=None, constant_in=True, constant_out=True)),
    "Metric": (Metric, dict(root=normal(5, 3), center=IN, ridge=0.1, count=4, note="a")),
    "Metric.of": (Metric.of, dict(moments=MOMENTS, ridge=0.1, lifted=True)),
    "Metric.whiten": (METRIC.whiten, dict(part=LAYER)),
    "Metric.coordinates": (METRIC.coordinates, dict(x=X)),
    "Metric.to": (METRIC.to, dict(device="cpu")),
    "AffineResult": (decompositions.AffineResult, dict(report=AFFINE.report, interaction=AFFINE.interaction, affine=AFFINE.affine)),
    "AffineResult.change_basis": (AFFINE.change_basis, dict(inputs=normal(AFFINE.sizes["in1"] - 1, 2), input_bias=normal(AFFINE.sizes["in1"] - 1), basis="a")),
    "AffineResult.to": (AFFINE.to, dict(device="cpu", dtype=torch.float32)),
    # decompositions
    "Whitened": (lambda **options: Whitened(**options)(LIFTED), dict(strategy="eigen", moments=MOMENTS, ridge=0.1, linear="exact")),
    "Whitened.__call__": (Whitened("eigen", MOMENTS), dict(layer=LAYER)),
    "decompose": (decompose, dict(part=LAYER, method="cp", options=dict(rank=4))),
    "build": (decompositions.build, dict(method="cp", options={"rank": 2})),
    "tensorly_adapter": (decompositions.tensorly_adapter, dict(function="parafac")),
    "FitOptions": (decompositions.FitOptions, FIT_OPTIONS),
    "CP": (lambda **options: CP(**options)(LAYER), FITTED),
    "CP.__call__": (CP(2, max_iterations=1), dict(layer=LAYER)),
    "SymmetricCP": (lambda **options: SymmetricCP(**options)(LAYER), FITTED),
    "SymmetricCP.__call__": (SymmetricCP(2, max_iterations=1), dict(layer=LAYER)),
    "BlockTerm": (lambda **options: BlockTerm(**options)(LAYER), FITTED | dict(blocks=2, rank=2)),
    "BlockTerm.__call__": (BlockTerm(2, 2, max_iterations=1), dict(layer=LAYER)),
    "Eigen": (lambda **options: Eigen(**options)(LAYER), dict(directions=normal(2, 3), rank=2)),
    "Eigen.__call__": (Eigen(), dict(layer=LAYER)),
    "OutputSVD": (lambda **options: OutputSVD(**options)(LAYER), dict(blocks=2, rank=2)),
    "OutputSVD.__call__": (OutputSVD(), dict(layer=LAYER)),
    "HOSVD": (lambda **options: HOSVD(**options)(LAYER), dict(ranks=(2, 3), energy=None, error=None)),
    "HOSVD.__call__": (HOSVD(), dict(layer=LAYER)),
    "Tucker": (lambda **options: Tucker(**options)(LAYER), dict(ranks=(2, 3), energy=None, error=None, max_iterations=2, tolerance=1e-4)),
    "Tucker.__call__": (Tucker(max_iterations=1), dict(layer=LAYER)),
    "RandomComponents": (lambda **options: decompositions.RandomComponents(**options)(LAYER), dict(rank=2, source="hidden", refit="outputs", seed=0)),
    "RandomComponents.__call__": (decompositions.RandomComponents(2), dict(layer=LAYER)),
    "TensorlyDecomposition": (lambda **options: TRAIN(**options)(LAYER), dict(rank=2, seed=0, max_elements=1000)),
    "TensorlyDecomposition.__call__": (TRAIN(rank=2), dict(layer=LAYER)),
    "NonNegative": (decompositions.NonNegative, dict(mode="inputs")),
    "Smooth": (decompositions.Smooth, dict(shape=(2, 3), strength=0.1)),
    "Sparse": (decompositions.Sparse, dict(mode="inputs", strength=0.1)),
    # inner products
    "inner": (inner, dict(a=LAYER, b=OTHER, kind="tree", progress=False)),
    "inner_by_output": (inner_products.inner_by_output, dict(a=LAYER, b=OTHER, kind="tree", progress=False)),
    "similarity": (similarity, dict(a=LAYER, b=OTHER, kind="tree", progress=False, executor=None, scratch=HOME)),
    "similarity_by_output": (inner_products.similarity_by_output, dict(a=[LAYER, OTHER], b=None, kind="tree", progress=False, executor=None, scratch=HOME)),
    "output_similarity": (inner_products.output_similarity, dict(a=LAYER, b=OTHER, kind="tree")),
    "difference": (difference, dict(before=LAYER, after=OTHER)),
    "norm": (norm, dict(layer=LAYER)),
    "relative_error": (relative_error, dict(approximation=OTHER, reference=LAYER)),
    "Symmetric": (inner_products.Symmetric, dict(method="auto", samples=10, seed=0)),
    "Gaussian": (inner_products.Gaussian, dict(moments=MOMENTS, method="auto", samples=10, seed=0)),
    "Moments": (Moments, dict(mean=MOMENTS.mean, covariance=MOMENTS.covariance, count=4, note="a")),
    "Moments.of": (Moments.of, dict(x=X)),
    "layer_moments": (layer_moments, dict(network=STACK, inputs=X)),
    "Moments.standard": (Moments.standard, dict(size=3, device="cpu")),
    "Moments.to": (MOMENTS.to, dict(device="cpu")),
    "Moments.divided_by": (MOMENTS.divided_by, dict(scale=torch.tensor(2.0))),
    # bonds
    "odt": (odt, dict(network=STACK, moments=MOMENTS)),
    "ODT.truncate": (ODTS.truncate, dict(ranks={1: 2}, error=None)),
    "Bond.discarded": (ODTS.bonds[1].discarded, dict(rank=2)),
    "Bond.gap": (ODTS.bonds[1].gap, dict(rank=2)),
    "Bond.in_cluster": (ODTS.bonds[1].in_cluster, dict(rank=2)),
    "Bond.maps": (ODTS.bonds[1].maps, dict(rank=2)),
    # spectra
    "spectra": (spectra.spectra, dict(layer=LAYER, directions=normal(2, 3), k=2, tolerance=1e-3, max_steps=4, method="krylov", seed=0, max_elements=1000, progress=False)),
    "invariants": (spectra.invariants, dict(layer=LAYER, directions=normal(2, 3))),
    "checkpoint_spectra": (_stored_spectra, dict(source=HOME, directions={0: normal(2, 3)}, k=2, tolerance=1e-3, executor=None, scratch=HOME, layout=LAYOUT, subfolder="checkpoint", gate_removed=False, device="cpu", dtype=torch.float64, seed=0, shard=2, max_elements=1000, repair=False, progress=False)),
    "open_spectra": (spectra.open_spectra, dict(store=HOME / "spectra")),
    "SpectraTable.column": (SPECTRA.column, dict(name="share")),
    "SpectraTable.top": (SPECTRA.top, dict(by="share", n=2, largest=True)),
    "krylov_flops": (spectra.krylov_flops, dict(n_in=5, hidden=4, blocks=2, steps=3)),
    # fidelity
    "fidelity": (fidelity.fidelity, dict(approximation=OTHER, reference=LAYER, x=X, labels=LABELS, targets=TARGETS, seed=0)),
    "network_fidelity": (fidelity.network_fidelity, dict(approximation=OTHER, reference=LAYER, x=X, labels=LABELS, targets=TARGETS, seed=0)),
    "certificate": (fidelity.certificate, dict(result=RESULT, rank=2, x=X)),
    "difference_certificate": (fidelity.difference_certificate, dict(layer=LAYER, counts=[1, 2], x=X)),
    "component_ranking": (fidelity.component_ranking, dict(result=RESULT, by="ablation", x=X, labels=LABELS)),
    "components_needed": (fidelity.components_needed, dict(records=CURVE, accuracy=0.9, drop=0.1, field="r_squared")),
    "keep_first": (fidelity.keep_first, dict(ranking=RANKING, count=2)),
    "refit": (fidelity.refit, dict(result=RESULT, kept=fidelity.keep_first(RANKING, 2), x=X, targets=LABELS, max_iterations=2)),
    "truncation_curve": (fidelity.truncation_curve, dict(result=RESULT, reference=LAYER, x=X, labels=LABELS, counts=[1, 2], by="activation", rank_on=(X, LABELS))),
    # comparisons
    "match": (compare.match, dict(a=RESULT, b=RUNS[1], blocks=True)),
    "stability": (compare.stability, dict(results=RUNS, blocks=True, controls=1, seed=0, executor=None, scratch=HOME)),
    "matched_similarity": (compare.matched_similarity, dict(results=RUNS, count=2)),
    "ordered_similarity": (compare.ordered_similarity, dict(results=RUNS, by="magnitude", count=2, rtol=0.1)),
    "component_trust": (compare.component_trust, dict(result=FIT, layer=LAYER, runs=[FIT], noise=0.1, seed=0)),
    "choose_rank": (compare.choose_rank, dict(layer=LAYER, method="cp", ranks=[1, 2], starts=2, seed=0, options=dict(max_iterations=2))),
    "null": (compare.null, dict(layer=LAYER, strategy=Eigen(rank=2), statistic=lambda result: 1.0, kind="shuffled", n=2, seed=0)),
    "Null.band": (compare.Null("shuffled", normal(), normal(9)).band, dict(confidence=0.95)),
    "jackknife": (compare.jackknife, dict(values=normal(3, 2), pairs=[(0, 1), (0, 2), (1, 2)], confidence=0.9)),
    "energy_share": (concentration.energy_share, dict(vectors=X, mask=MASK)),
    "participation": (concentration.participation, dict(values=X, dim=0)),
    "rare_inputs": (concentration.rare_inputs, dict(x=X, share=0.1)),
    # circuits
    "circuit": (circuits.circuit, dict(network=STACK, direction=OUT, widths=[1, 2], beam=3, x=X, name="a", max_elements=1000, progress=False)),
    "degree_weights": (circuits.degree_weights, dict(network=LIFTED, degree=1, max_elements=1000)),
    "evaluation": (circuits.evaluation, dict(network=STACK, x=X)),
    "expansion": (circuits.expansion, dict(network=LIFTED, x=X)),
    "interaction_tensor": (circuits.interaction_tensor, dict(network=LAYER, direction=OUT, components=normal(5, 2), max_elements=1000)),
    "project": (circuits.project, dict(network=LAYER, values={"out": 1, "in1": IN})),
    "head_circuit": (circuits.head_circuit, dict(network=BLOCK, x=X, direction=OUT, width=2, beam=3, name="a", max_elements=1000, progress=False)),
    "Query": (circuits.Query, dict(terms=TERMS, modes=("a", "c"))),
    "Circuit.__call__": (TREE, dict(x=X)),
    "Circuit.coordinates": (TREE.coordinates, dict(x=X)),
    "Circuit.contributions": (TREE.contributions, dict(x=X)),
    "Circuit.ablations": (TREE.ablations, dict(x=X)),
    "Circuit.relative_error": (TREE.relative_error, dict(x=X)),
    # gated
    "GatedLayer": (gated.GatedLayer, dict(down=normal(3, 4), left=normal(5, 4), right=normal(5, 4), gate="silu", left_bias=normal(4), right_bias=normal(4), bias=normal(3), name="a", history=("b",), basis="c")),
    "GatedLayer.from_weights": (gated.GatedLayer.from_weights, dict(left=normal(4, 5), right=normal(4, 5), down=normal(3, 4), gate="silu", left_bias=normal(4), right_bias=normal(4), bias=normal(3), name="a", history=("b",), basis="c", share=True)),
    "GatedLayer.__call__": (GATED, dict(x=X)),
    "GatedLayer.halves": (GATED.halves, dict(x=X)),
    "GatedLayer.to": (GATED.to, dict(device="cpu", dtype=torch.float32)),
    "gate_fit": (gated.gate_fit, dict(gated=GATED, inputs=X, weighted=True)),
    "linearize": (gated.linearize, dict(gated=GATED, inputs=normal(30, 5), weighted=True, refit=True, linear=True, held_out=X)),
    "linearization_error": (gated.linearization_error, dict(gated=GATED, layer=LAYER, inputs=X)),
    # attention
    "AttentionLayer": (attention.AttentionLayer, {name: getattr(HEADS, name) for name in ("down", "value", "mask", "queries", "keys", "rotation")} | dict(softmax=False, name="a", history=("b",), basis="c", constant_in=True, constant_out=True)),
    "AttentionLayer.from_weights": (attention.AttentionLayer.from_weights, HEAD_WEIGHTS | dict(heads=2, kv_heads=1, positions=7, mask="causal", rotary=10.0, pairs="halves", scale=0.5, softmax=True, query_biases=[normal(4)], key_biases=[normal(2)], value_bias=normal(3), bias=normal(3), name="a", history=("b",), basis="c", share=True)),
    "AttentionLayer.__call__": (HEADS.__call__, dict(x=X, max_elements=1000)),
    "AttentionLayer.multilinear": (lambda x1, x2, x3, x4, x5: HEADS.multilinear(x1, x2, x3, x4, x5), dict(x1=X, x2=X, x3=X, x4=X, x5=X)),
    "AttentionLayer.scores": (HEADS.scores, dict(x=X, score=1)),
    "AttentionLayer.pattern": (HEADS.pattern, dict(x=X)),
    "AttentionLayer.given": (HEADS.given, dict(pattern=normal(2, 6, 6))),
    "AttentionLayer.lift": (HEADS.lift, dict(query_biases=[normal(2, 2), normal(2, 2)], key_biases=[normal(2, 2), normal(2, 2)], value_bias=normal(2, 3), bias=normal(3), residual=0.0)),
    "AttentionLayer.qk": (HEADS.qk, dict(head=1, offset=-2, score=1)),
    "AttentionLayer.ov": (HEADS.ov, dict(head=1)),
    "AttentionLayer.to": (HEADS.to, dict(device="cpu", dtype=torch.float32)),
    "LowRank.to": (TALL.to, dict(device="cpu", dtype=torch.float32)),
    "LowRank": (attention.LowRank, dict(left=normal(4, 2), right=normal(3, 2), rows="a", columns="b", name="c")),
    "LowRank.change_basis": (TALL.change_basis, dict(rows=normal(4, 3), columns=normal(4, 5))),
    "LowRank.entries": (TALL.entries, dict(rows=normal(4, 3), columns=normal(4, 5), max_elements=1000)),
    "LowRank.top": (TALL.top, dict(n=2, chunk=3)),
    "LowRank.truncate": (TALL.truncate, dict(rank=1)),
    "OVSVD": (lambda **options: attention.OVSVD(**options)(HEADS), dict(rank=2)),
    "OVSVD.__call__": (attention.OVSVD(), dict(layer=HEADS)),
    "causal_mask": (attention.causal_mask, dict(positions=4, window=2, power=0.5, dtype=torch.float32, device="cpu")),
    "copying_score": (attention.copying_score, dict(circuit=TALL)),
    "head_inner": (attention.head_inner, dict(a=HEADS, b=HEADS, offset=-1)),
    "head_similarity": (attention.head_similarity, dict(a=HEADS, b=HEADS, offset=-1)),
    "previous_token_score": (attention.previous_token_score, dict(pattern=normal(2, 4, 4), offset=-1)),
    "prefix_matching_score": (attention.prefix_matching_score, dict(pattern=normal(2, 4, 4), tokens=torch.tensor([1, 2, 1, 3]))),
    "query_form": (attention.query_form, dict(layer=HEADS, head=1, key=IN, offset=-1)),
    "output_moments": (attention.output_moments, dict(part=HEADS, moments=MOMENTS, max_elements=10**6)),
    "position_inner": (attention.position_inner, dict(a=HEADS, b=HEADS, moments=MOMENTS, max_elements=10**6)),
    "stream_moments": (attention.stream_moments, dict(network=BLOCK, moments=MOMENTS, max_elements=10**6, progress=False)),
    "update_share": (attention.update_share, dict(part=HEADS, moments=MOMENTS)),
    "Contributions": (attention.Contributions, dict(names=("a", "b"), values=normal(3, 2))),
    "composition": (attention.composition, dict(lower=SQUARE_HEADS, upper=HEADS, kind="key", offsets=[0, -1], score=1)),
    "pull_back": (attention.pull_back, dict(layer=HEADS, direction=OUT)),
    "read_back": (attention.read_back, dict(network=BLOCK, i=1, direction=OUT)),
    "ReadBack.pair": (attention.read_back(BLOCK, 1, OUT).pair, dict(first=0, second=1)),
    "ReadBack.contributions": (attention.read_back(BLOCK, 1, OUT).contributions, dict(x=X)),
    "write_contributions": (attention.write_contributions, dict(network=BLOCK, x=X, direction=OUT)),
    "path_contributions": (attention.path_contributions, dict(network=BLOCKS, x=X, direction=OUT, max_paths=20)),
    "leg_contributions": (attention.leg_contributions, dict(network=BLOCKS, i=1, x=normal(2, 6, 5), direction=OUT, legs=[0, 1], max_elements=10**6)),
    "mean_ablated": (attention.mean_ablated, dict(network=BLOCKS, i=0, head=1, x=X)),
    "path_patched": (attention.path_patched, dict(network=BLOCKS, writer=(0, 1), reader=(1, 0), x=X, other=normal(6, 5, seed=8), legs=[0, 1])),
    "LinearMap": (attention.LinearMap, dict(weight=normal(3, 5), bias=normal(3), name="a")),
    "LinearMap.__call__": (attention.LinearMap(weight=normal(3, 5)), dict(x=X)),
    "LinearMap.to": (attention.LinearMap(weight=normal(3, 5)).to, dict(device="cpu", dtype=torch.float32)),
    "Norm": (attention.Norm, dict(centered=True, eps=1e-5, weight=normal(5), bias=normal(5), scale=normal(6))),
    "Norm.scales": (attention.Norm(weight=IN).scales, dict(x=X)),
    "Norm.__call__": (attention.Norm(weight=IN, scale=normal(6)), dict(x=X)),
    "Norm.given": (attention.Norm(weight=IN).given, dict(x=X)),
    "Norm.to": (attention.Norm(weight=IN).to, dict(device="cpu", dtype=torch.float32)),
    "SequenceNetwork": (attention.SequenceNetwork, dict(parts=[HEADS, attention.LinearMap(weight=normal(2, 3))])),
    "SequenceNetwork.__getitem__": (TRANSFORMER.__getitem__, dict(i=0)),
    "SequenceNetwork.__call__": (TRANSFORMER, dict(x=X, chunk="position", max_elements=1000)),
    "SequenceNetwork.plan": (TRANSFORMER.plan, dict(batch=2, positions=3)),
    "SequenceNetwork.streams": (TRANSFORMER.streams, dict(x=X)),
    "SequenceNetwork.given": (TRANSFORMER.given, dict(x=X)),
    "SequenceNetwork.trace": (TRANSFORMER.trace, dict(x=X)),
    "SequenceNetwork.replace": (TRANSFORMER.replace, dict(i=1, map=attention.LinearMap(weight=normal(5, 3)))),
    "SequenceNetwork.to": (TRANSFORMER.to, dict(device="cpu", dtype=torch.float32)),
    "rotary_rotation": (attention.rotary_rotation, dict(angles=normal(2), positions=4)),
    # features
    "Dictionary": (features.Dictionary, WRITER | dict(encoder_bias=CODER.encoder_bias, threshold=normal(7), k=2, rectify=True, name="a", point="b")),
    "Dictionary.from_sae": (features.Dictionary.from_sae, dict(sae=SAE, name="a")),
    "Dictionary.reconstruct": (features.Dictionary(**WRITER).reconstruct, dict(x=X)),
    "Dictionary.from_matrix": (features.Dictionary.from_matrix, dict(decoder=CODER.decoder, encoder=CODER.encoder, name="a", point="b")),
    "Dictionary.pre_activations": (CODER.pre_activations, dict(x=X)),
    "Dictionary.encode": (CODER.encode, dict(x=X)),
    "Dictionary.decode": (CODER.decode, dict(f=normal(6, 7))),
    "Dictionary.to": (CODER.to, dict(device="cpu", dtype=torch.float32)),
    "between": (features.between, dict(layer=LAYER, inputs=CODER, outputs=READER, biases=True)),
    "circuit_tests": (features.circuit_tests, dict(layer=LAYER, inputs=CODER, outputs=READER, feature=1, members=torch.tensor([0, 2]), x=X, window=WINDOW, seed=0)),
    "removal_test": (features.removal_test, dict(layer=LAYER, outputs=READER, feature=1, x=X, removed=X / 2, control=X / 3, window=WINDOW, name="a")),
    "random_part": (features.random_part, dict(codes=CODER.encode(X), decoder=CODER.decoder, like=X, count=torch.ones(6, dtype=torch.int64), leave=torch.tensor([0]), seed=0)),
    "plane_part": (features.plane_part, dict(x=X, vectors=normal(5, 2))),
    "feature_interactions": (features.feature_interactions, dict(layer=LAYER, direction=OUT, decoder=CODER.decoder, basis="a", bias=IN, rank=2, max_elements=100)),
    "FeatureInteractions.__call__": (INTERACTIONS, dict(codes=normal(6, 7))),
    "FeatureInteractions.block": (INTERACTIONS.block, dict(rows=[0, 1], columns=torch.tensor([0, 2]))),
    "FeatureInteractions.top": (INTERACTIONS.top, dict(n=2, pairs="all", by="magnitude")),
    "FeatureInteractions.smallest_submatrix": (INTERACTIONS.smallest_submatrix, dict(n=2, pairs="all", by="magnitude")),
    "FeatureInteractions.statistics": (INTERACTIONS.statistics, dict(z=5.0, quantiles=[0.1, 0.5])),
    "FeatureInteractions.table": (INTERACTIONS.table, dict(n=2, names=list("abcdefg"), pairs="all", by="magnitude")),
    "label_directions": (features.label_directions, dict(directions=normal(2, 5), vectors=normal(3, 5), names=NAMES, n=2)),
    "low_rank_correlation": (features.low_rank_correlation, dict(layer=LAYER, directions=normal(2, 3), x=X, ks=[1, 2], basis="a", bias=normal(2), active=0.1)),
    "rank_by_structure": (features.rank_by_structure, dict(layer=LAYER, directions=normal(2, 3))),
    "overlap": (features.overlap, dict(a=normal(2, 5), b=normal(3, 5))),
    "strongest_windows": (features.strongest_windows, dict(codes=[normal(4, 2, 3)], n=2)),
    "Strongest.peaks": (PEAKS.peaks, dict(feature=1)),
    "token_directions": (features.token_directions, dict(unembedding=normal(4, 3), tokens=[0, 2], instead_of=[1, 3], norm_weight=normal(3, seed=1), centered=True)),
    "projections": (features.projections, dict(vectors=normal(5, 2), eigenvectors=normal(5, 3))),
    # graphs
    "feature_graph": (graphs.feature_graph, GRAPH_TEXT | dict(seed=[(1, "out"), (0, "stream", 1)], mode="averaged", held_out=normal(2, 6, 5), hops=1, offsets=2, features=3, nodes=2, candidates=9, max_elements=10**6)),
    "edge_tests": (graphs.edge_tests, GRAPH_TEXT | dict(graph=GRAPH, edges=GRAPH.top(1), windows=3, seed=0)),
    "random_edges": (graphs.random_edges, GRAPH_TEXT | dict(graph=GRAPH, like=GRAPH.top(1), seed=0)),
    "FeatureGraph.edges_of": (GRAPH.edges_of, dict(node=0)),
    "FeatureGraph.top": (GRAPH.top, dict(n=2)),
    "FeatureGraph.shares": (GRAPH.shares, dict(edges=GRAPH.top(2))),
    # adversarial masks
    "top_positive": (adversarial.top_positive, dict(result=RESULT, count=1)),
    "orient": (adversarial.orient, dict(vectors=normal(2, 3, 5), x=X)),
    "adversarial_masks": (adversarial.adversarial_masks, dict(vectors=normal(2, 1, 5), allowed=MASK, rtol=0.1)),
    "baseline_masks": (adversarial.baseline_masks, dict(mask=IN * MASK.to(IN.device), kind="gaussian", draws=2, seed=0, allowed=MASK)),
    "mask_effect": (adversarial.mask_effect, dict(network=LAYER, mask=IN, x=X, labels=LABELS, target=0, norms=[0.1, 1.0], clip=(0.0, 1.0))),
    # names
    "Named.with_names": (LAYER.with_names, dict(input_names=list("abcde"), output_names=list("fgh"), input_shape=(1, 5))),
    # plots
    "activations": (plots.activations, dict(eigenvalue=0.5, vector=PIXELS, inputs={"a": PIXELS}, shape=SHAPE, input_names=list("abcdef"))),
    "bond_curves": (plots.bond_curves, dict(records=BOND_ROWS, accuracy=0.9, loss=1.0)),
    "bond_spectra": (plots.bond_spectra, dict(odts={"a": ODTS})),
    "compared_vectors": (plots.compared_vectors, dict(vectors={"a": normal(2, 6)}, values={"a": normal(2)}, shape=SHAPE, input_names=list("abcdef"), title="a")),
    "components": (plots.components, dict(result=IMAGE_FIT, shape=SHAPE, names=NAMES, count=1, trust=FIT_TRUST)),
    "correlation_by_rank": (plots.correlation_by_rank, dict(records=CORRELATIONS)),
    "curves": (plots.curves, dict(records=RECORDS, x="parameters", y=["relative_error"], by="method", whole={"relative_error": 0.1}, bands={"relative_error": ("relative_error", "parameters")})),
    "dots": (plots.dots, dict(records=RECORDS, y=["relative_error"], by="method", title="a")),
    "draw_circuit": (plots.draw_circuit, dict(circuit=circuits.circuit(IMAGES, OUT, widths=2, progress=False), shape=SHAPE, names=list("abcdef"), count=1)),
    "draw_composition": (plots.draw_composition, dict(layers=[SQUARE_HEADS, HEADS], offset=-1, count=2, title="a")),
    "draw_feature_graph": (plots.draw_feature_graph, dict(graph=GRAPH, names={(0, "stream"): list("abcdefg")}, count=2, title="a")),
    "draw_network": (plots.draw_network, dict(network=LAYER, title="a")),
    "draw_sequence": (plots.draw_sequence, dict(network=BLOCKS, positions=2, title="a")),
    "eigenvector_plane": (plots.eigenvector_plane, dict(coordinates=normal(3, 2), eigenvalues=normal(2), names=NAMES, count=2, basis="a", name="b")),
    "eigenvectors": (plots.eigenvectors, dict(result=IMAGE_RESULT, shape=SHAPE, names=NAMES, count=1)),
    "explanation": (plots.explanation, dict(result=IMAGE_RESULT, x=PIXELS, shape=SHAPE, names=NAMES, label=1, count=1)),
    "head_entries": (plots.head_entries, dict(circuit=TALL, rows=list("abcd"), columns=list("efgh"), count=2, title="a")),
    "image_cell": (lambda **options: plots.image_cell(_axes(), **options), dict(values=PIXELS, shape=SHAPE, title="a", cmap="gray", symmetric=True)),
    "interaction_submatrix": (plots.interaction_submatrix, dict(interactions=INTERACTIONS, n=1, names=list("abcdefg"), pairs="all")),
    "output_directions": (plots.output_directions, dict(result=IMAGE_SVD, shape=SHAPE, names=NAMES, directions=1, count=1)),
    "outputs_map": (plots.outputs_map, dict(result=IMAGE_FIT, names=NAMES, trust=FIT_TRUST)),
    "pareto": (plots.pareto, dict(records=RECORDS, x="parameters", y="relative_error", by="method", maximize=True)),
    "pattern_by_offset": (plots.pattern_by_offset, dict(pattern=normal(2, 4, 4), names=["a", "b"], count=2, title="c")),
    "similarity_matrix": (plots.similarity_matrix, dict(matrix=normal(2, 3), labels=["a", "b"], title="c", columns=NAMES, high=1.0, measure="d")),
    "spectrum": (plots.spectrum, dict(result=IMAGE_RESULT, block=1, shape=SHAPE, name="a", count=1, trust=EIGEN_TRUST)),
    "to_numpy": (plots.to_numpy, dict(tensor=X)),
    "truncation_curves": (plots.truncation_curves, dict(records=CURVE, accuracy=0.9, loss=1.0)),
    # registry, sweeps, the plugin kit
    "register_decomposition": (registry.register_decomposition, dict(name="a")),
    "get_decomposition": (registry.get_decomposition, dict(name="cp")),
    "Registry.register": (registry.Registry("a", "b").register, dict(name="c")),
    "Registry.get": (registry.get_decomposition, dict(name="eigen")),
    "sweep": (sweep.sweep, dict(layer=LAYER, method="cp", grid={"rank": [1]}, seeds=[0], path=HOME / "records.jsonl", measure=lambda result: {}, errors="raise", progress=False, executor=None, scratch=HOME)),
    "load_records": (sweep.load_records, dict(path=HOME / "records.jsonl")),
    "parameters": (sweep.parameters, dict(result=RESULT)),
    "to_frame": (tables.to_frame, dict(records=RECORDS)),
    "write_csv": (tables.write_csv, dict(records=RECORDS, path=HOME / "records.csv")),
    "from_tensorly": (decompositions.from_tensorly, dict(tensor=LAYER.cp, kind=CPResult, layer=LAYER)),
    "TermNetwork": (interchange.TermNetwork, dict(terms=TERMS, modes=("a", "c"))),
    "measured": (decompositions.measured, dict(kind=CPResult, layer=LAYER, report=Report.of(LAYER, "made"), known=0.0, weights=FIT.weights, outputs=FIT.outputs, left=FIT.left, right=FIT.right)),
    "check_decomposition": (testing.check_decomposition, dict(name="eigen", device="cpu", exact_tolerance=1e-9)),
    "random_layer": (testing.random_layer, dict(n_out=2, n_in=3, rank=4, seed=0, dtype=torch.float64, device="cpu")),
    # modules and files of weights
    "from_module": (weights.from_module, dict(model=MODEL, example=X, max_elements=1000)),
    "polynomial_parts": (weights.polynomial_parts, dict(model=MODEL, example=X, max_elements=1000)),
    "verify": (weights.verify, dict(network=LAYER, model=LAYER, x=X)),
    "Layout": (weights.Layout, dict(left="a", right="b", down="c", left_bias="d", right_bias="e", bias="f", dense=None, first="left", transposed=False, hidden_bias="g", linear="l", prefix="k.", residual=0.0, gated=False, basis="g", ignore=("h",), embedding="i", unembedding="j", attention=("k",))),
    "Layout.at": (LAYOUT.at, dict(index=1)),
    "Layout.indices": (LAYOUT.indices, dict(names=["0.w"])),
    "Layout.in_file": (LAYOUT.in_file, dict(names=["0.w"], index=0)),
    "Layout.leftover": (LAYOUT.leftover, dict(names=["0.w"], index=0)),
    "WeightFiles": (weights.WeightFiles, dict(source=HOME, subfolder="layer")),
    "WeightFiles.shape": (FILES.shape, dict(name="left")),
    "WeightFiles.read": (FILES.read, dict(name="left", device="cpu", dtype=torch.float32)),
    "WeightFiles.missing": (FILES.missing, dict(name="wrong")),
    "load_config": (weights.load_config, dict(source=HOME, subfolder="layer")),
    "load_dictionary": (weights.load_dictionary, STORED | dict(source=HOME, subfolder=SAVED.name)),
    "load_cross_layer": (weights.load_cross_layer, STORED | dict(source=SAE_LENS, subfolder="cross-layer-relu", layer=1)),
    "layer_indices": (weights.layer_indices, dict(source=HOME, layout=LAYOUT, subfolder="checkpoint")),
    "load_layer": (weights.load_layer, STORED | dict(source=HOME, subfolder="checkpoint", index=0, layout=LAYOUT, gate_removed=False, gated=False, fold_norm=False)),
    "load_attention": (weights.load_attention, STORED | dict(source=HOME, subfolder="model", index=0, layout="published", positions=3, config={"n_ctx": 4}, fold_norm=False)),
    "load_norm": (weights.load_norm, STORED | dict(source=HOME, subfolder="normed", index=0, layout="llama", before="mlp", config={"rms_norm_eps": 1e-6})),
    "fold_norm": (weights.fold_norm, dict(layer=LAYER, norm=attention.Norm(weight=LAYER.left[:, 0]))),
    "load_network": (weights.load_network, STORED | dict(source=HOME, subfolder="model", layout="published", gate_removed=False, positions=3, config={"n_ctx": 4})),
    "load_tensor": (weights.load_tensor, STORED | dict(source=HOME, subfolder="layer", name="left")),
    "tensor_names": (weights.tensor_names, dict(source=HOME, subfolder="layer")),
    "pack": (weights.pack, dict(tensors={"a": X}, metadata={"b": "c"})),
    "save_dictionary": (weights.save_dictionary, dict(dictionary=SAVED, parent=HOME)),
    "inspect_files": (weights.inspect_files, dict(source=HOME)),
    "WeightFiles.dtype": (FILES.dtype, dict(name="left")),
    "write_report": (write_report, dict(obj=decompose(PAGED, "cp", rank=1), path=HOME / "page.html", reference=PAGED, inputs=normal(2, 2), labels=torch.tensor([0, 1]), targets=normal(2, 2), explain=[], title="a", overwrite=True)),
    "write_circuit_tracer": (graphs.write_circuit_tracer, dict(graph=TRACED, folder=HOME / "traced", tokens=list("abcdef"), slug="a", names={(0, "out"): list("abcd")}, directions=["a"], scan="a", pairs=2, overwrite=True)),
    "write_feature_pages": (pages.write_feature_pages, dict(folder=HOME / "features", layer=LAYER, inputs=CODER, outputs=READER, features=[1], x=normal(2, 3, 5), text=[["a", "b", "c"], ["d", "e", "f"]], names=list("abcd"), input_names=list("abcdefg"), basis="made", graphs={1: PAGE_GRAPH}, title="a", overwrite=True, progress=False)),
    "save": (save, dict(obj=LAYER, path=HOME / "saved.safetensors")),
    "load": (load, dict(path=STORED["source"], device="cpu")),
    "register_type": (store.register_type, dict(name="Peak", fields=("place",), make=None)),
}  # fmt: skip

# What has no row, and why.
TAKES_NOTHING = "it takes no argument"
MADE = "the package makes it; users read its fields"
DATA = "a type, a constant or a protocol: nothing to call"
EXTRA = "it needs an extra that may not be installed: tests/test_interchange.py calls it"
TOOL = "a tool between the package's own modules, which hand it what was checked where it came in"
STEP = "a step of a fit or of a product, called by the object itself with what it made"
CLASSED = "abstract, or another class says what its arguments are: the subclasses have rows"

NOT_CALLED = {
    CLASSED: ["BilinearMap", "Decomposition", "Decomposition.__call__", "HasRecords", "HasTerms", "Prior", "Result", "TensorNetwork", "FitOptions.check_layer", "TensorlyNonNegativeParafac", "TensorlyParafac", "TensorlyTucker", "HasFactors", "Named", "Shown"],
    MADE: ["Balanced", "Invariants", "SpectraTable", "Bond", "CheckReport", "Chunk", "SVD", "Entry", "Part", "QueryForm", "ReadBack", "Circuit", "Component", "HeadCircuit", "HeadLevel", "StreamMoments", "ComponentTrust", "EigenGroup", "Estimate", "FeatureInteractions", "Factors", "Fidelity", "GateFit", "HiddenMeans", "Interaction", "Interval", "Label", "LayerFactors", "LayerFidelity", "Listed", "Level", "Matching", "NetworkFidelity", "Null", "ODT", "OrderedSimilarity", "Overlap", "Plan", "Projection", "RankChoice", "Registry", "RemovalRule", "Report", "Report.of", "Spectra", "Split", "Stability", "Start", "Statistics", "Step", "Strongest", "StoredType", "Submatrix", "TensorTrainResult", "Term", "Truncation", "Verdict", "LayerModule", "LayerModule.forward", "InspectedFile", "Inspection", "Verification", "Card", "FeatureGraph", "GraphEdge", "GraphNode", "GraphTarget", "EdgeRule", "EdgeVerdict"],
    EXTRA: ["from_quimb", "to_quimb"],
    TAKES_NOTHING: ["Tree", "decomposition_problems", "list_decompositions", "list_types", "package_version", "scratch_registry", "versions"],
    TOOL: ["Executor*", "HeadLevel.take", "Level.to", "Planner*", "TensorFile", "TensorFile.read", "affine_matrix", "answer_check", "appending", "at_largest", "balance", "balance_rows", "card_of", "check_*", "check_pool", "cholesky_qr", "convert", "cp_factors", "cross_gram", "cross_moment", "dense_factors", "describe", "digest", "eigenvalue_noise", "entries", "explain", "explain_missing_names", "find_path", "flat_records", "get_type", "has_float64", "hidden_means", "hidden_slopes", "import_page", "indexed", "input_gram", "input_moments", "kept_place", "largest_entries", "layer_modules", "lift_vectors", "linear_factors", "make_plan", "map_card", "module_factors", "move", "needs_float64", "nonzero", "object_file", "open_file", "optional", "owned", "pages_of", "pair_tiles", "parse_json", "process_mark", "read_file", "read_json", "read_lines", "remove_leftovers", "replace_file", "replace_files", "rescale", "result_file", "row_noise", "run_units", "sliced", "stored_type", "suggestion", "t_interval", "t_quantile", "text_card", "thin_qr", "through", "times_power", "to_float64", "unit_columns", "unseen", "wide_layer", "without_autocast", "without_names", "work"],
    STEP: ["Metric.apply", "Report.pulled_back", "Report.unmeasured", "Result.check_arrays", "Result.made_layer", "*.ladder", "BilinearMap.lift_input", "FitOptions.*", "Gaussian.compute", "NonNegative.*", "Prior.*", "Smooth.*", "Sparse.*", "Symmetric.compute", "Tree.compute", "Names*", "*.lift_input"],
}  # fmt: skip
