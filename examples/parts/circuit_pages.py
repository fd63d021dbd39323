"""The text on which features are strongest: their names, and pages of features (tables 7 to 9, appendix O)."""

from collections.abc import Sequence

from examples.parts.circuit_job import POINTS, Job
from examples.parts.circuit_tables import Names
from models.tables import write_table
from tensornet_interp.features import Strongest, strongest_windows
from tensornet_interp.graphs import feature_graph
from tensornet_interp.pages import write_feature_pages


def named(job: Job) -> tuple[dict[str, Strongest], dict[str, Names]]:
    """Find where the features of both dictionaries are strongest, and name them; this writes features.csv."""
    found = {point: job.strongest(job.dictionary(job.config().steps, point), point) for point in POINTS}
    names = {point: Names.of(found[point], job.shown_rows, job.piece) for point in POINTS}
    write_table(job.out / "features.csv", [row for point in POINTS for row in names[point].rows(point)])
    return found, names


def pages(job: Job, features: Sequence[int], *, graphs: bool = True) -> None:
    """Write one HTML page per output feature, from held-out text, and their index.

    A page shows where the feature and the input features of its circuit are strongest. graphs: whether it also shows
    the graph of the feature at the token where it is strongest.
    """
    inputs, outputs = (job.dictionary(job.config().steps, point) for point in POINTS)
    best = list(dict.fromkeys(features))
    x = job.held_x.unflatten(0, job.held_rows.shape)
    drawn = {}
    if graphs:
        found = strongest_windows((outputs.encode(job.layer(part)) for part in x.split(16)), 1)
        part = 2 * job.index + 1  # in the network, every MLP comes after its attention
        network, dictionaries = job.model.network(), {(part, "in"): inputs, (part, "out"): outputs}
        for feature in best:
            for window, position in found.peaks(feature):
                prompt = job.model.embedding(job.held_rows[window].to(x.device))
                drawn[feature] = feature_graph(network, dictionaries, (part, "out", feature), prompt, position=position)
    write_feature_pages(
        job.out / "pages",
        job.layer,
        inputs,
        outputs,
        best,
        x=x,
        text=[[job.piece(token) for token in row] for row in job.held_rows.tolist()],
        graphs=drawn,
        overwrite=True,
    )
    print(f"pages of {len(best)} features: {job.out / 'pages' / 'index.html'}")
