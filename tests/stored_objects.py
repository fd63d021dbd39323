"""One small object of every type that `save` keeps, and the files of `stored/`: `python tests/stored_objects.py`.

The objects are written down and not computed, so that they are the same with every version of torch. A file in
`stored/` is never written again: it stands for the files of users of the version that wrote it, and must open for ever.
The command writes the files that are missing. Without new types it does nothing.
"""

from dataclasses import replace
from pathlib import Path

import torch

from tensornet_interp import (
    BilinearLayer,
    BilinearNetwork,
    CPResult,
    Estimate,
    Moments,
    Report,
    SpectralResult,
    Term,
    TuckerResult,
    save,
)
from tensornet_interp.attention import (
    SVD,
    AttentionLayer,
    Contributions,
    Entry,
    LinearMap,
    LowRank,
    Norm,
    Part,
    QueryForm,
    ReadBack,
    SequenceNetwork,
    StreamMoments,
)
from tensornet_interp.bonds import ODT, Bond, Truncation
from tensornet_interp.circuits import Circuit, Component, HeadCircuit, HeadLevel, Level
from tensornet_interp.compare import (
    ComponentTrust,
    Interval,
    Matching,
    Null,
    OrderedSimilarity,
    RankChoice,
    Stability,
)
from tensornet_interp.decompositions import AffineResult, TensorTrainResult
from tensornet_interp.features import (
    Dictionary,
    FeatureInteractions,
    Interaction,
    Label,
    Overlap,
    Projection,
    Statistics,
    Strongest,
    Submatrix,
    Verdict,
)
from tensornet_interp.fidelity import Fidelity, LayerFidelity, NetworkFidelity
from tensornet_interp.gated import GatedLayer, GateFit
from tensornet_interp.graphs import EdgeVerdict, FeatureGraph, GraphEdge, GraphNode, GraphTarget
from tensornet_interp.interchange import TermNetwork
from tensornet_interp.lifting import Split
from tensornet_interp.metric import Metric
from tensornet_interp.names import Names
from tensornet_interp.report import Start
from tensornet_interp.spectra import Invariants, Spectra
from tensornet_interp.spectral import EigenGroup
from tensornet_interp.weights import InspectedFile, Inspection, Verification

GRAPH_NODE = GraphNode("feature", 1, "out", 4, 2, 0.5, 0.25)
GRAPH_EDGE = GraphEdge(0, (0, 0), (((2, 1),), ()), (-3, 0), 0.5, 0.125)
GRAPH_TARGET = GraphTarget(0, 1.0, 0.75, 0.25, 0.5, 3, 0.125, 2.0, True, 0.5, 0.25, 0.125)
STORED = Path(__file__).with_name("stored")


def numbers(*shape, dtype=torch.float64, shift=0.0):
    """Return -1/2, -3/8, -1/4, ... and `shift`, which every dtype holds exactly."""
    count = torch.Size(shape).numel()
    return (torch.arange(count, dtype=torch.float64) / 8 - 0.5 + shift).reshape(shape).to(dtype)


def layer(out=2, size=3, rank=2, dtype=torch.float64, **about):
    return BilinearLayer(
        down=numbers(out, rank, dtype=dtype),
        left=numbers(size, rank, dtype=dtype),
        right=numbers(size, rank, dtype=dtype, shift=1),
        **about,
    )


REPORT = Report(
    method="CP(rank=2, priors=[Sparse('outputs')])",
    layer="small model layer 3",
    history=("lifted", "symmetrized"),
    basis="residual stream after the norm",
    relative_error=0.1,
    relative_error_bound=float("inf"),
    warnings=("the cut is within a cluster",),
    seed=3,
    convergence=(0.5, 0.25, 0.1),
    stop_reason="tolerance",
    floor=1e-15,
    starts=(Start(None, 0.1, 1.0, 2, "tolerance"), Start(4, 0.2, float("nan"), 9, "max_iterations")),
    versions={"tensornet_interp": "0.1.0", "torch": "2.0"},
)
LIFTED = {"report": REPORT, "constant_in": True, "constant_out": True}
LAYER = layer(
    dtype=torch.bfloat16,
    name="small model layer 3",
    history=("lifted",),
    basis="pixels",
    constant_in=True,
    constant_out=True,
)
CP = CPResult(**LIFTED, weights=numbers(2), outputs=numbers(2, 2), left=numbers(3, 2), right=numbers(3, 2, shift=1))
SPECTRAL = SpectralResult(
    **LIFTED,
    outputs=numbers(2, 2, dtype=torch.float32),
    eigenvalues=numbers(2, 2, dtype=torch.float32),
    eigenvectors=numbers(2, 3, 2, dtype=torch.float32),
    directions=numbers(2, 2, dtype=torch.float32),
    singular_values=numbers(2),
)
TUCKER = TuckerResult(
    report=REPORT,
    core=layer(1, 2, 2),
    outputs=numbers(2, 1),
    inputs=numbers(3, 2),
    singular_values=(numbers(1), numbers(2)),
)
TRAIN = TensorTrainResult(report=REPORT, outputs=numbers(2, 2), middle=numbers(2, 3, 2), inputs=numbers(3, 2))
SQUARE = layer(3, 3)
NETWORK = BilinearNetwork([SQUARE, SQUARE, layer(name="top")])
BOND = Bond(1, 3, 2, 0.25, numbers(3), numbers(2), numbers(2, 3), numbers(3, 2), numbers(3))
LEVELS = (
    Level(2, torch.tensor([0]), numbers(1), numbers(1, 3), numbers(1)),
    Level(1, torch.tensor([0, 0]), numbers(2), numbers(2, 3), numbers(2)),
)
TRUST = ComponentTrust(
    numbers(2, shift=1),
    numbers(2),
    start_agreement=torch.tensor([0.95, 0.5]),
    seed_agreement=None,
    near_best=1,
    flags=("the residual is not white",),
    layer="small model layer 3",
    method="CP(rank=2)",
)
INSPECTED = InspectedFile(
    "model.safetensors",
    "checkpoint",
    "published",
    ({"layer": 0, "in": 3, "gate": None},),
    (),
    "load_layer(path)",
    "a note",
)
FIDELITY = Fidelity(7, 0.5, 0.25, 1.5, None, accuracy=0.75)
METRIC = Metric(numbers(2, 2), numbers(2), 0.25, 9, "from data")

HEADS = HeadLevel(
    1,
    torch.tensor([0, 0]),
    torch.tensor([3, -1]),
    numbers(2),
    numbers(2, 3),
    numbers(2, shift=1),
    numbers(1),
    numbers(2),
)
LINEAR = LinearMap(weight=numbers(2, 3), bias=numbers(2), name="embedding")

OBJECTS = {
    type(value).__name__: value
    for value in (
        LAYER,
        NETWORK,
        CP,
        SPECTRAL,
        TUCKER,
        TRAIN,
        REPORT,
        Names(("a", " b", "c"), ("d", "é"), (1, 3)),
        REPORT.starts[1],
        EigenGroup((0, 2), 0.5, numbers(3, 3)),
        Term(numbers(2, 3), ("out", "rank")),
        TermNetwork([Term(numbers(2, 3), ("a", "b")), Term(numbers(2, 3), ("c", "b"))], ("b", "a")),
        Split(layer(), numbers(2, 3), numbers(2)),
        # of covariances that were checked up to the rounding of float32
        Moments(numbers(2), torch.tensor([[1.0, 1.0], [1.0, 1.0 - 2**-23]], dtype=torch.float32), 9, "from data"),
        METRIC,
        AffineResult(
            report=replace(REPORT, metric=METRIC, metric_error=0.25, metric_error_bound=0.5),
            interaction=layer(constant_in=True),
            affine=numbers(2, 3),
        ),
        Estimate(torch.tensor(0.5, dtype=torch.float64), "sampled", 800.0, torch.tensor(0.1), ("few samples",)),
        BOND,
        ODT(NETWORK, (BOND, BOND), numbers(3, 3)),
        Truncation(NETWORK, {1: 2, 2: 1}, 0.5, 0.25, {1: 4.0, 2: float("inf")}, (2,)),
        LEVELS[0],
        Component(1, 0, 0.5, 0.25, numbers(3), (Component(0, 1, 0.25, 0.5, numbers(3), ()),)),
        Circuit(NETWORK, numbers(2), LEVELS, "contribution", "class 3"),
        HEADS,
        HeadCircuit(SequenceNetwork([LINEAR]), numbers(2), numbers(4, 3), (HEADS,), "class 3"),
        Matching(((0, 1), (1, 0)), numbers(2), numbers(2, 2), CP),
        Stability(torch.tensor([[float("nan"), 0.5], [0.5, float("nan")]]), (numbers(2), numbers(3))),
        OrderedSimilarity(
            "positive", ((0, 1),), numbers(1, 2, 3), numbers(1, 2, 3), numbers(2, 2, 3), numbers(2, 2, 3) > 0
        ),
        TRUST,
        Null("turned", numbers(2), numbers(5, 2)),
        RankChoice(None, (2,), (CP,), (TRUST,), torch.tensor([float("nan")], dtype=torch.float64)),
        Interval(numbers(2), numbers(2), numbers(2), numbers(2), 5),
        Dictionary(
            numbers(4, 2), numbers(2, 4), numbers(4), numbers(2), numbers(4), 2, False, False, "mine", "3-mlp-in"
        ),
        FeatureInteractions(numbers(4, 2), numbers(2), numbers(4), 0.5, "pixels", "layer 3", 100),
        Interaction(1, 2, -0.5),
        Submatrix((1, 3), numbers(2, 2)),
        Statistics(9, 0.5, 1.0, 3.0, -1.0, 2.0, {0.01: -1.0, 0.5: 0.25}, 1, 5.0),
        Label("cat", 0.5),
        Overlap(numbers(2), 0.5, 0.25),
        Strongest(numbers(2, 3), torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64)),
        Projection(numbers(2, 3), numbers(2, 3), numbers(2)),
        Verdict(3, "the plane", 9, 4, 0.5, 0.1, 0.9, 0.2, 0.7, 0.6, 0.8, "confirmed"),
        GRAPH_NODE,
        GRAPH_EDGE,
        GRAPH_TARGET,
        FeatureGraph(
            "given", (GRAPH_NODE,), (GRAPH_EDGE,), (GRAPH_TARGET,), {"1 out": 0.5}, ("mind",), (numbers(2),), "mine"
        ),
        EdgeVerdict("3 out 7", "1 out 4 x 1 out 5", True, 0.5, 12, 1.0, 0.25, 0.125, 0.0625, 0.5, "confirmed"),
        Verification(0.5, 0.25, 3, 1, numbers(2), 7),
        FIDELITY,
        INSPECTED,
        Inspection((INSPECTED,)),
        LayerFidelity(1, 0.5, FIDELITY, None),
        NetworkFidelity(FIDELITY, (LayerFidelity(0, 0.25, FIDELITY, 0.125),)),
        AttentionLayer(
            down=numbers(2, 2, 1),
            value=numbers(1, 1, 3),
            mask=numbers(1, 2, 2, shift=1),
            queries=(numbers(2, 2, 3),),
            keys=(numbers(1, 2, 3, shift=1),),
            rotation=numbers(2, 1, 2, 2),
            softmax=True,
            name="block 1",
            history=("lifted",),
            basis="residual stream after the norm",
            constant_in=True,
            constant_out=True,
            names=Names(("a", "b"), ("c",)),
        ),
        GatedLayer(
            down=numbers(2, 2),
            left=numbers(3, 2),
            right=numbers(3, 2),
            gate="silu",
            left_bias=numbers(2),
            right_bias=numbers(2, shift=1),
            bias=numbers(2),
            name="mlp 1",
            history=("loaded",),
            basis="after the norm",
            names=Names(("a", "b", "c"), ("d", "e")),
        ),
        GateFit(numbers(3), numbers(3), numbers(3, shift=1), (1,), 9),
        LowRank(left=numbers(2, 1), right=numbers(3, 1), rows="position", columns="source", name="head 1"),
        SVD(numbers(2, 1), numbers(1, shift=1), numbers(3, 1)),
        Entry(1, 2, -0.5),
        QueryForm(numbers(2), numbers(3, 2)),
        Contributions(("part 1 head 0", "constant"), numbers(3, 2)),
        ReadBack(Part(LINEAR), Part(LINEAR), numbers(2, 2), (LowRank(left=numbers(2, 1), right=numbers(3, 1)),)),
        LINEAR,
        Norm(centered=True, eps=0.5, weight=numbers(2, shift=1), bias=numbers(2), scale=numbers(2, 3, shift=1)),
        Part(LINEAR, 0.0, Norm(eps=0.25), numbers(2)),
        SequenceNetwork([LINEAR, Part(layer(2, 2), 0.5)]),
        StreamMoments((Moments(numbers(2), torch.eye(2, dtype=torch.float64), None, "a closure"),), (0.25,)),
        Spectra(
            eigenvalues=numbers(2, 1, dtype=torch.float32),
            eigenvectors=numbers(2, 3, 1, dtype=torch.float32),
            bounds=numbers(2, 1),
            residuals=numbers(2, 1),
            proven=torch.tensor([True, False]),
            steps=torch.tensor([5, 0]),
            method="krylov",
            tolerance=1e-3,
            directions=numbers(2, 2),
            report=REPORT,
            constant_in=True,
        ),
        Invariants(trace=numbers(2), norm=numbers(2), rank_low=numbers(2), rank_high=numbers(2, shift=1)),
    )
}

if __name__ == "__main__":
    STORED.mkdir(exist_ok=True)
    for name, value in OBJECTS.items():
        if not (STORED / f"{name}.safetensors").exists():
            save(value, STORED / f"{name}.safetensors")
