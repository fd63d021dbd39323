"""What a page says of one output feature: examples, interactions, eigenvectors, faithfulness, ablation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from tensornet_interp.decompositions.eigen import eigenpairs, fix_signs
from tensornet_interp.features import (
    REMOVAL_RULE,
    Dictionary,
    circuit_tests,
    feature_interactions,
    low_rank_correlation,
    projections,
    rank_by_structure,
)
from tensornet_interp.graphs import FeatureGraph
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.network import wide_layer
from tensornet_interp.pages.activity import EXAMPLES, Activity
from tensornet_interp.pages.feature_figures import matrix, plane
from tensornet_interp.pages.figures import curves, spectrum
from tensornet_interp.pages.graphs import graph_section
from tensornet_interp.pages.parts import Examples, Section, plain_value, table_of
from tensornet_interp.plots.inputs import largest
from tensornet_interp.tables import Record

_CIRCUIT = 12  # strongest interactions whose input features are the circuit
_PAIRS = 50  # interactions of the table
_LINEAR = 20  # linear terms of the table
_LABELLED = 8  # features that are named in the plane
_MEMBERS, _MEMBER_EXAMPLES = 8, 3  # input features of the circuit that are shown with examples
_CODES = 2**25  # codes of input features on active tokens that are held at once, in float64: 256 MiB
_SILENT = (
    "This feature is not active on any token of the text, so there are no examples, no correlation and no ablation. All"
    " that follows is from weights alone."
)


@dataclass(frozen=True, eq=False)
class Between:
    """A layer between two dictionaries, with the names of their features and, if there is a text, what they do on it.

    `kept` are the output features whose codes `after` holds. `x` is (token, in), and `window` names the window of each
    token.
    """

    layer: BilinearLayer
    inputs: Dictionary
    outputs: Dictionary
    names: Sequence[str]
    input_names: Sequence[str]
    kept: Sequence[int] = ()
    before: Activity | None = None
    after: Activity | None = None
    x: Tensor | None = None
    window: Tensor | None = None
    graphs: Mapping[int, FeatureGraph] = field(default_factory=dict)

    @cached_property
    def alive(self) -> Tensor:
        """Return the input features that fire on the text; without a text, all."""
        if self.before is None:
            return torch.arange(self.inputs.features, device=self.inputs.encoder.device)
        return self.before.counts.nonzero()[:, 0]

    @cached_property
    def alive_names(self) -> list[str]:
        """Return the names of the input features in `alive`."""
        return [self.input_names[at] for at in self.alive.tolist()]

    def active(self, feature: int) -> Tensor:
        """Return the tokens on which a kept output feature is active, (token,) of truth values."""
        if self.after is None:
            raise ValueError("without a text, no token is active")
        return self.after.codes[:, self.kept.index(feature)] > 0


def feature_sections(job: Between, feature: int) -> tuple[list[Section], Record]:
    """Return the sections of the page of an output feature, and its record in the index."""
    structure = rank_by_structure(job.layer, job.outputs.encoder[feature][None])[0]
    record: Record = {"feature": job.names[feature]}
    record |= {key: structure[key] for key in ("share", "opposite", "effective_rank")}
    about = Section(
        "Overview",
        facts=[
            ("output feature", job.names[feature]),
            ("layer", job.layer.name),
            ("before the layer", repr(job.inputs)),
            ("after the layer", repr(job.outputs)),
            ("basis of the inputs", job.layer.basis),
            *[(key.replace("_", " "), str(plain_value(structure[key]))) for key in ("norm", "effective_rank")],
            (
                "two leading eigenvalues",
                f"{structure['first']:+.4g}, {structure['second']:+.4g}: {structure['share']:.1%} of the squares",
            ),
        ],
    )
    found = [about]
    tokens = None
    if job.after is not None:
        tokens = _tokens(job, feature)
        count, total = len(tokens), len(job.after.codes)
        record |= {"active_tokens": count}
        about.facts = [*about.facts, ("active tokens", f"{count} of {total} ({count / total:.2%})")]
        if count:
            text = "Darker tokens have a larger activation, relative to the largest one; hovering shows it."
            shown = job.after.examples(feature, EXAMPLES)
            record["largest_activation"] = float(job.after.found.values[0, feature])
            found.append(Section("Where it is strongest", text, examples=[Examples("", shown)]))
        else:
            about.warnings = [_SILENT]
    members = None
    if len(job.alive):
        members, section = _interactions(job, feature, tokens)
        found += [section, _plane(job, feature)]
    else:
        about.warnings = [*about.warnings, "No feature of the dictionary before the layer is active on the text."]
    found += _circuit(job, feature)
    if members is not None and tokens is not None and len(tokens):
        more, values = _faithfulness(job, feature)
        tests, verdicts = _ablation(job, feature, members, tokens)
        record |= values | verdicts
        found += [more, tests, _members(job, members)]
    return found, record


def _tokens(job: Between, feature: int) -> Tensor:
    """Return the tokens on which an output feature is active."""
    return job.active(feature).nonzero()[:, 0]


def _thinned(job: Between, tokens: Tensor) -> Tensor:
    """Return every n-th of the tokens, so that the codes of all input features on them fit in memory."""
    most = max(1, _CODES // job.inputs.features)
    return tokens[:: -(-len(tokens) // most)]


def _interactions(job: Between, feature: int, tokens: Tensor | None) -> tuple[list[int], Section]:
    """Return the places in `alive` of the input features of the circuit, and the section of all interactions."""
    decoder = job.inputs.decoder[:, job.alive]
    q = feature_interactions(job.layer, job.outputs.encoder[feature], decoder, bias=job.inputs.decoder_bias)
    available = len(q) * (len(q) + 1) // 2
    top = q.top(min(_PAIRS, available))  # one search: the circuit is that of the first of these
    members = list(dict.fromkeys(at for entry in top[:_CIRCUIT] for at in (entry.first, entry.second)))
    names = job.alive_names
    text = (
        "The pre-activation of the feature is a sum over pairs of input features: Q[i, j] a_i a_j, twice for i and j"
        " that differ, where a are the activations."
    )
    if len(q) < job.inputs.features:
        text += f" Input features that never fire on the text are left out: {len(q)} of {job.inputs.features} are here."
    section = Section("Interactions", text)
    section.figures = [
        matrix(q.block(members, members), [names[at] for at in members], f"Q of the {_CIRCUIT} strongest interactions")
    ]
    adds: list[float | None] = [None] * len(top)
    if tokens is not None and len(tokens) and job.x is not None:
        codes = job.inputs.encode(job.x[_thinned(job, tokens)])[:, job.alive].to(torch.float64)
        pairs = torch.tensor([[entry.first, entry.second] for entry in top], device=codes.device)
        twice = torch.tensor([(1 if a == b else 2) * value for a, b, value in top], device=codes.device)
        adds = ((codes[:, pairs[:, 0]] * codes[:, pairs[:, 1]]).mean(0) * twice).tolist()
    total, so_far, records = q.squared_norm() or 1.0, 0.0, []
    for (first, second, value), mean in zip(top, adds, strict=True):
        so_far += (1 if first == second else 2) * value**2
        row = {"first": names[first], "second": names[second], "Q": value, "share_of_squares_so_far": so_far / total}
        records.append(row | {"adds_on_active_tokens": mean})
    note = "adds on active tokens: the mean of what the pair adds to the pre-activation."
    section.tables = [table_of("Strongest interactions", records, "" if adds[0] is None else note)]
    if bool(q.linear.any()):
        linear = [{"feature": names[at], "linear_term": float(q.linear[at])} for at in largest(q.linear, _LINEAR)]
        bias = job.outputs.reading_bias()
        constant = q.offset + (0.0 if bias is None else float(bias[feature]))
        note = f"Biases add these terms times a_i, and the constant {constant:.4g}."
        section.tables.append(table_of("Linear terms", linear, note))
    return members, section


def _plane(job: Between, feature: int) -> Section:
    """Return the spectrum of the feature, and its input features in the plane of the two leading eigenvectors."""
    layer = wide_layer("layer", job.layer)
    row = job.outputs.encoder[feature].to(torch.float64)[None]
    found, eigenvectors = eigenpairs(layer, row, min(layer.shape[1], 2 * layer.rank))
    values, columns = found[0], fix_signs(eigenvectors)[0]
    figures = [spectrum(values.tolist(), "eigenvalues of the interaction matrix", "eigenvalue")]
    text = "Points are the decoder columns of input features."
    if len(values) > 1:
        vectors = columns[int(layer.constant_in) :, :2]
        points = projections(job.inputs.decoder[:, job.alive].to(torch.float64), vectors).coordinates
        pair = values[:2].tolist()
        text += " Lines have equal activation, red for positive and blue for negative."
        title = "input features in the plane of the two leading eigenvectors"
        figures.insert(0, plane(points, pair, job.alive_names, title, labelled=_LABELLED))
    return Section("Eigenvectors", text, figures=figures)


def _circuit(job: Between, feature: int) -> list[Section]:
    """Return the section of the graph of the feature, if there is one."""
    graph = job.graphs.get(feature)
    if graph is None:
        return []
    part = graph.nodes[0].part
    return [graph_section(graph, {(part, "out"): job.names, (part, "in"): job.input_names})]


def _faithfulness(job: Between, feature: int) -> tuple[Section, Record]:
    """Return how well the first eigenpairs predict the feature on the text."""
    row = job.outputs.encoder[feature][None]
    found = low_rank_correlation(job.layer, row, job.x, active=job.active(feature)[:, None])  # type: ignore[arg-type]
    rows = [{key: record[key] for key in ("k", "correlation", "active_correlation")} for record in found]
    series = {}
    for name, key in (("all tokens", "correlation"), ("active tokens", "active_correlation")):
        known = [record for record in rows if record[key] == record[key]]  # not NaN
        if known:
            series[name] = [record["k"] for record in known], [record[key] for record in known]
    text = "The correlation of the first k eigenpairs with the pre-activation of the feature."
    section = Section("How many eigenvectors does it need?", text, tables=[table_of("", rows)])
    if series:
        section.figures = [curves(series, "correlation", "eigenpairs k", "correlation", log=True)]  # type: ignore[arg-type]
    two = next((record["active_correlation"] for record in rows if record["k"] == 2), None)
    return section, {"correlation_of_2_eigenpairs": two}


def _ablation(job: Between, feature: int, circuit: Sequence[int], tokens: Tensor) -> tuple[Section, Record]:
    """Return whether the feature loses its activation without its circuit, or without its leading plane."""
    tokens = _thinned(job, tokens)
    members = job.alive[list(circuit)]
    x, window = job.x[tokens], job.window[tokens]  # type: ignore[index]
    verdicts = circuit_tests(job.layer, job.inputs, job.outputs, feature, members, x, window)
    rows = [{key: value for key, value in verdict.record().items() if key != "feature"} for verdict in verdicts]
    text = (
        f"Removed from the inputs of the layer: what the {len(members)} input features of the {_CIRCUIT} strongest"
        " interactions write, and the part in the plane of the two leading eigenvectors. The control removes other"
        f" active features, scaled to the same length. Rule: {REMOVAL_RULE}."
    )
    section = Section("Ablation", text, tables=[table_of("", rows, "Drops are shares of the mean activation.")])
    record: Record = {}
    for name, verdict in zip(("features", "plane"), verdicts, strict=True):
        record |= {f"drop_without_{name}": verdict.drop, f"{name}": verdict.verdict}
    return section, record


def _members(job: Between, circuit: Sequence[int]) -> Section:
    """Return the input features of the circuit with the places where they are strongest."""
    numbered = job.alive[list(circuit)].tolist()
    section = Section("Input features of the circuit", "Where the input features of the circuit are strongest.")
    for member in numbered[:_MEMBERS]:
        shown = job.before.examples(member, _MEMBER_EXAMPLES)  # type: ignore[union-attr]
        section.examples.append(Examples(job.input_names[member], shown))
    if len(numbered) > _MEMBERS:
        section.text += f" {_MEMBERS} of {len(numbered)} are shown."
    return section
