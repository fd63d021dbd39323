"""Names of features, the rule of negation, tables and figures for `feature_circuits.py`."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from models.contexts import Piece, peak_tokens
from models.tables import read_table
from tensornet_interp import BilinearLayer, decompose
from tensornet_interp.features import Dictionary, Strongest, feature_interactions, projections
from tensornet_interp.plots import correlation_by_rank, curves, eigenvector_plane, interaction_submatrix

INTERACTIONS = 12  # number of strongest interactions whose input features are the circuit
ABOVE = 0.75  # a correlation above this counts as high
FEWEST = 10  # a feature with fewer active held-out tokens is left out of the correlations
WORDS = {"not", "no", "never", "nothing", "nobody", "none", "nowhere", "neither", "nor", "cannot", "without"}
ENDINGS = ("n't", "n’t")
BACK = 3  # tokens before a peak that are searched for a negation
NEGATION_RULE = (
    f"a negation feature: in at least half of its max-activating contexts a negation ({', '.join(sorted(WORDS))}, n't) "
    f"stands at the peak or among the {BACK} tokens before it"
)
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Names:
    """A `Names` names each feature that fires often enough by the token on which it peaks most often."""

    tokens: dict[int, str]

    @classmethod
    def of(cls, found: Strongest, rows: Tensor, piece: Piece) -> "Names":
        """Return the names of features from their strongest windows in `rows`."""
        most = {f: Counter(peak_tokens(found, rows, f)).most_common(1)[0][0] for f in found.alive().tolist()}
        return cls({feature: piece(token) for feature, token in most.items()})

    @classmethod
    def read(cls, out: Path, point: str) -> "Names":
        """Return the names of the features at a hook point from features.csv."""
        rows = [row for row in read_table(out / "features.csv") if row["point"] == point]
        # tokens stand in quotes there: a number stays text, and spaces stay
        return cls({int(row["feature"]): str(row["token"])[1:-1] for row in rows})

    def rows(self, point: str) -> list[dict[str, Any]]:
        """Return rows for features.csv."""
        return [{"point": point, "feature": f, "token": f"'{token}'"} for f, token in self.tokens.items()]

    def __getitem__(self, feature: int) -> str:
        return self.tokens.get(feature, "")

    def label(self, feature: int) -> str:
        """Return the number of a feature with its token."""
        return f"{feature} {self[feature].strip()}".strip()


def is_negation(found: Strongest, rows: Tensor, feature: int, piece: Piece) -> bool:
    """Return whether the feature is a negation feature by `NEGATION_RULE`."""
    hits, count = 0, 0
    for window, position in found.peaks(feature):
        text = "".join(piece(token) for token in rows[window, max(0, position - BACK) : position + 1].tolist())
        # words are runs of letters and apostrophes
        words = "".join(c if c.isalpha() or c in "'’" else " " for c in text.lower()).split()
        hits += any(word.strip("'’") in WORDS or word.endswith(ENDINGS) for word in words)
        count += 1
    return count > 0 and 2 * hits >= count


def about_negation(ranking: Sequence[Row]) -> list[int]:
    """Return the features of ranking.csv that are about negation, in the order of the ranking."""
    return [int(row["feature"]) for row in ranking if row["negation"] == "True"]


def correlation_summary(rows: Sequence[Row], fewest: int) -> list[dict[str, Any]]:
    """Average the correlations by training length and k, and add the share of features above 0.75.

    Features with fewer than `fewest` active tokens are left out.
    """
    groups: dict[tuple[int, int, int], list[float]] = {}
    for row in rows:
        value = float(row["active_correlation"])
        if row["active"] >= fewest and math.isfinite(value):
            groups.setdefault((int(row["steps"]), int(row["trained"]), int(row["k"])), []).append(value)
    return [
        {
            "steps": steps,
            "trained": trained,
            "k": k,
            "features": len(values),
            "mean_correlation": float(np.mean(values)),
            "middle_correlation": float(np.median(values)),
            "share_above": float(np.mean(np.array(values) > ABOVE)),
        }
        for (steps, trained, k), values in sorted(groups.items())
    ]


def print_rows(title: str, rows: Sequence[Row], columns: Sequence[str] | None = None) -> None:
    """Print rows as a table, with numbers to four digits."""
    print(f"\n{title}")
    if not rows:
        print("  nothing")
        return
    names = list(columns or rows[0])
    cells = [[_cell(row.get(name, "")) for name in names] for row in rows]
    widths = [max(len(name), *(len(row[at]) for row in cells)) for at, name in enumerate(names)]
    for line in (names, *cells):
        print("  " + "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if value.is_integer() else f"{value:.4g}"


def leading_plane(layer: BilinearLayer, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two leading eigenvalues (2,) of an output direction (out,), and their eigenvectors (in, 2)."""
    pair = decompose(layer, "eigen", directions=direction[None], rank=2)
    return pair.eigenvalues[0], pair.eigenvectors[0]


def circuit_members(
    layer: BilinearLayer, inputs: Dictionary, outputs: Dictionary, feature: int, alive: Sequence[int]
) -> list[int]:
    """Return the circuit of an output feature: those of the input features `alive` in its strongest interactions."""
    decoder = inputs.decoder[:, alive]
    found = feature_interactions(layer, outputs.encoder[feature], decoder, bias=inputs.decoder_bias)
    return [alive[at] for at in found.smallest_submatrix(_shown(alive)).features]


def _shown(alive: Sequence[int]) -> int:
    """Return the number of strongest interactions that make a circuit: INTERACTIONS, or all if there are fewer."""
    return min(INTERACTIONS, len(alive) * (len(alive) + 1) // 2)


def draw_circuit_of(
    layer: BilinearLayer, inputs: Dictionary, outputs: Dictionary, feature: int, names: Mapping[str, Names]
) -> dict[str, Figure]:
    """Draw the strongest interactions of a feature, and its input features in the plane of its two eigenvectors."""
    alive = sorted(names["mlp-in"].tokens)
    labels = [names["mlp-in"].label(f) for f in alive]
    title = f"output feature {names['mlp-out'].label(feature)}"
    decoder = inputs.decoder[:, alive]
    found = feature_interactions(layer, outputs.encoder[feature], decoder, bias=inputs.decoder_bias)
    matrix = interaction_submatrix(found, _shown(alive), labels)
    matrix.suptitle(title.replace("$", r"\$") + f"\n{matrix.get_suptitle()}")
    values, vectors = leading_plane(layer, outputs.encoder[feature])
    points = projections(decoder, vectors).coordinates
    plane = eigenvector_plane(points, values, labels, count=8, basis=layer.basis, name=title)
    return {f"interactions-{feature}": matrix, f"plane-{feature}": plane}


def draw_lengths(
    quality: Sequence[Row], summary: Sequence[Row], records: Sequence[Row], about: str, basis: str
) -> dict[str, Figure]:
    """Draw the correlation against the number of eigenpairs, and correlation and quality against training length."""
    last = max(int(row["steps"]) for row in summary)
    behind = {row["steps"]: row for row in quality if row["point"] == "mlp-out"}
    pairs = min(2, max(int(row["k"]) for row in summary))
    over = [
        {
            "tokens trained on": row["trained"],
            "mean correlation": row["mean_correlation"],
            f"share above {ABOVE}": row["share_above"],
            "normalised MSE": behind[row["steps"]]["nmse"],
            "loss recovered": behind[row["steps"]]["loss_recovered"],
        }
        for row in summary
        if row["k"] == pairs
    ]
    by_k = [
        {
            "tokens": int(row["trained"]),
            "eigenpairs k": row["k"],
            "mean correlation": row["mean_correlation"],
            f"share above {ABOVE}": row["share_above"],
        }
        for row in summary
    ]
    drawn = {
        "training_length": curves(over, "tokens trained on", [name for name in over[0] if name != "tokens trained on"]),
        "correlation_by_length": curves(by_k, "eigenpairs k", list(by_k[0])[2:], by="tokens"),
    }
    drawn["training_length"].suptitle(
        f"{about}; correlation on active held-out tokens, {pairs} eigenpairs", fontsize=10
    )
    drawn["correlation_by_length"].suptitle(f"{about}; active held-out tokens", fontsize=10)
    final = [
        {"basis": basis, "correlation": math.nan} | dict(row) | {"k": int(row["k"]), "feature": int(row["feature"])}
        for row in records
        if row["steps"] == last
    ]
    return drawn | {"correlation_by_rank": correlation_by_rank(final)}
