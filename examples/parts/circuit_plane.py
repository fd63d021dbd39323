"""Figure 8B: do words and input features agree in the plane of the two leading eigenvectors of an output feature?

Two vectors are projected on the plane. One is the difference of the unembeddings of two opposite words, the other the
input of the MLP behind a negation at the start of a text. Both are compared with the input features of the circuit, and
with vectors of their own kind: differences of random pairs of tokens, and inputs behind random tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

from examples.parts.circuit_job import POINTS, Job
from examples.parts.circuit_tables import Names, circuit_members, leading_plane, print_rows
from models.text import END
from models.vectors import vectors_at
from tensornet_interp import decompose
from tensornet_interp.features import projections, token_directions
from tensornet_interp.plots import eigenvector_plane, to_numpy

CONTROLS = 1000  # vectors of the same kind
FAR = 0.95  # a plane that holds more of a vector than of this share of its kind
OPPOSITES = (("bad", "good"), ("sad", "happy"), ("mean", "kind"), ("angry", "happy"), ("little", "big"))
NEGATIONS = ("not", "never", "no")
STARTS = ("[BOS]", "<s>", END)  # tokens with which a text begins
FORMS = ("Ġ{}", "▁{}", "{}")  # how tokenizers write a word behind a space, and a word alone
WORD_RULE = (
    f"words: the first of {', '.join(' - '.join(pair) for pair in OPPOSITES)} and of {', '.join(NEGATIONS)} that are "
    f"single tokens, with a space before them if there is such a token; a text starts with the first of "
    f"{', '.join(STARTS)} that is a token"
)
COLUMNS_RULE = (
    "captured: share of the squared length in the plane; along: mean |cosine| in the plane with the input features of "
    "the circuit; agree: share of these whose inner product with the vector has the same sign in the plane and in all; "
    "one_sided: activation over the sum of the magnitudes of its two parts, 0 if they cancel; _usual: mean over "
    f"{CONTROLS} vectors of the same kind; _place: share of them below"
)
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Probe:
    """A `Probe` is a vector that has a meaning, with its name and vectors of the same kind without that meaning."""

    name: str
    vector: Tensor  # (in,)
    usual: Tensor  # (control, in)


def token_of(job: Job, words: Sequence[str], forms: Sequence[str] = FORMS) -> tuple[str, int] | None:
    """Return the first of the words that is a token, with the token's number; None if none is."""
    for word in words:
        for form in forms:
            token = job.tokenizer.token_to_id(form.format(word))
            if token is not None:
                return word, int(token)
    return None


def probes(job: Job) -> list[Probe]:
    """Return the difference of two unembeddings and the input behind a negation, of words by `WORD_RULE`.

    A vector is left out if the vocabulary has no such words.
    """
    head = job.model.head.weight.detach()
    draw = torch.Generator().manual_seed(job.options.seed)
    count, found = len(head), []
    for words in OPPOSITES:
        first_word, second_word = (token_of(job, [word]) for word in words)
        if first_word and second_word:
            first = torch.randint(count, (CONTROLS,), generator=draw)
            second = (first + torch.randint(1, count, (CONTROLS,), generator=draw)) % count
            direction = token_directions(head, [first_word[1]], [second_word[1]])[0]
            usual = token_directions(head, first.tolist(), second.tolist())
            found.append(Probe(" - ".join(words), direction, usual))
            break
    start, negation = token_of(job, STARTS, ["{}"]), token_of(job, NEGATIONS)
    if start and negation:
        others = torch.randperm(count, generator=draw)
        tokens_behind = torch.cat([torch.tensor([negation[1]]), others[others != negation[1]][:CONTROLS]])
        rows = torch.stack([torch.full_like(tokens_behind, start[1]), tokens_behind], 1)  # (text, position)
        x = torch.cat([part[:, -1] for part in vectors_at(job.model, rows, job.index, "mlp-in")])
        found.append(Probe(f"{start[0]} {negation[0]}", x[0], x[1:]))
    return found


def members_of(job: Job, feature: int) -> list[int]:
    """Return the input features of the strongest interactions of an output feature."""
    inputs, outputs = (job.dictionary(job.config().steps, point) for point in POINTS)
    return circuit_members(job.layer, inputs, outputs, feature, sorted(Names.read(job.out, "mlp-in").tokens))


def compare(values: Tensor, vectors: Tensor, members: Tensor, probe: Probe) -> Row:
    """Compare a probe with input features `members` (in, member) in the plane of `vectors` (in, 2); see COLUMNS_RULE.

    values: (2,), the eigenvalues.
    """
    both = torch.cat([probe.vector[None], probe.usual]).double()  # the probe comes first
    basis, columns = vectors.double(), members.double()
    flat, own = both @ basis, columns.T @ basis  # coordinates in the plane
    parts = flat.square() * values.double()
    inside = normalize(flat, dim=1) @ normalize(own, dim=1).T  # (vector, member)
    numbers = {
        "captured": projections(both.T, basis).captured,
        "along": inside.abs().mean(1),
        "agree": (inside.sign() == (both @ columns).sign()).double().mean(1),
        "activation": parts.sum(1),
        "one_sided": parts.sum(1) / parts.abs().sum(1),
    }
    row: Row = {"vector": probe.name}
    for name, found in numbers.items():
        row |= {name: float(found[0]), f"{name}_usual": float(found[1:].mean())}
        row[f"{name}_place"] = float((found[1:] < found[0]).double().mean())
    return row


def plane_rows(job: Job, features: Sequence[int]) -> list[Row]:
    """Return one row per output feature and probe."""
    inputs, outputs = (job.dictionary(job.config().steps, point) for point in POINTS)
    names, rows = Names.read(job.out, "mlp-out"), list[Row]()
    known = probes(job)
    for feature in dict.fromkeys(features):
        values, vectors = leading_plane(job.layer, outputs.encoder[feature])
        members = inputs.decoder[:, members_of(job, feature)]
        about = {"feature": feature, "token": names[feature], "members": members.shape[1]}
        rows += [about | compare(values, vectors, members, probe) for probe in known]
    return rows


def planes_of_all(job: Job, negation: Sequence[int], others: Sequence[int]) -> list[Row]:
    """Return how much of each probe is in the planes of many output features, per group of features and probe.

    "place" is the mean share of vectors of the same kind of which less is in the plane: 0.5 if the plane has nothing to
    do with the words. "far" is the share of features whose place is above `FAR`.
    """
    outputs, rows = job.dictionary(job.config().steps, "mlp-out"), list[Row]()
    planes = decompose(job.layer, "eigen", directions=outputs.encoder, rank=2).eigenvectors.double()
    for probe in probes(job):
        both = normalize(torch.cat([probe.vector[None], probe.usual]).double(), dim=1)
        captured = torch.einsum("vi,fik->vfk", both, planes).square().sum(-1)  # (vector, feature)
        places = (captured[1:] < captured[0]).double().mean(0)
        for name, features in (("about negation", negation), ("others", others)):
            if features:
                mine = places[list(features)]
                row = {"vector": probe.name, "of": name, "features": len(mine), "place": float(mine.mean())}
                rows.append(row | {"far": float((mine > FAR).double().mean())})
    return rows


def print_plane(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows of `plane_rows` with their rules."""
    print(f"\n{WORD_RULE}\n{COLUMNS_RULE}", end="")
    hidden = ("members", "agree_place", "one_sided_place", "activation_usual")
    shown = [name for name in rows[0] if name not in hidden] if rows else None
    print_rows("vectors in the plane of the two leading eigenvectors of output features", rows, shown)


def _draw_words(job: Job, feature: int) -> Figure:
    """Draw the input features of the circuit and the probes, all of length 1, in the plane of two eigenvectors."""
    inputs, outputs = (job.dictionary(job.config().steps, point) for point in POINTS)
    names = {point: Names.read(job.out, point) for point in POINTS}
    values, vectors = leading_plane(job.layer, outputs.encoder[feature])
    members = members_of(job, feature)
    columns, labels = [inputs.decoder[:, members]], [names["mlp-in"].label(member) for member in members]
    for probe in probes(job):
        columns.append(probe.vector[:, None])
        labels.append(probe.name)
        if " - " in probe.name:  # a difference has two ends
            columns.append(-probe.vector[:, None])
            labels.append(" - ".join(reversed(probe.name.split(" - "))))
    points = projections(torch.cat(columns, 1), vectors).cosines
    title = f"output feature {names['mlp-out'].label(feature)}, vectors of length 1"
    figure = eigenvector_plane(points, values, labels, count=len(labels), basis=job.layer.basis, name=title)
    x, y = to_numpy(points[len(members) :, :2]).T
    figure.axes[0].plot(x, y, "D", color="tab:orange", markersize=6, zorder=4)
    return figure


def _draw_activation(job: Job, feature: int) -> Figure:
    """Draw the activation on held-out tokens against that from two eigenvectors, with correlations (figure 8C)."""
    outputs = job.dictionary(job.config().steps, "mlp-out")
    values, vectors = leading_plane(job.layer, outputs.encoder[feature])
    y = job.layer(job.held_x)
    truth = (y @ outputs.encoder[feature]).double()
    approximation = (job.held_x @ vectors).square().double() @ values.double()
    active = torch.cat([outputs.encode(part)[:, feature] > 0 for part in y.split(4096)])
    figure = Figure(figsize=(5.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, where, color in (("all", torch.ones_like(active), "0.7"), ("active", active, "tab:red")):
        label = f"{name}: {int(where.sum())} tokens"
        if int(where.sum()) > 1:
            both = torch.stack([approximation[where], truth[where]])
            label += f", correlation {float(torch.corrcoef(both)[0, 1]):.3f}"
        axes.plot(to_numpy(approximation[where]), to_numpy(truth[where]), ".", color=color, markersize=3, label=label)
    axes.set(xlabel="activation from two eigenvectors", ylabel="activation, before the rectifier")
    name = Names.read(job.out, "mlp-out").label(feature).replace("$", r"\$")
    axes.set_title(f"output feature {name}, {job.layer.name}, held-out text", fontsize=9)
    axes.legend(fontsize=8)
    return figure


def draw_plane(job: Job, feature: int) -> dict[str, Figure]:
    """Draw words in the plane of an output feature, and its activation from that plane against the true one."""
    return {f"words-{feature}": _draw_words(job, feature), f"activation-{feature}": _draw_activation(job, feature)}
