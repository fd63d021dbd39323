"""Verdicts on edges, and the rule that decides them."""

import math
from dataclasses import dataclass

from tensornet_interp.store import register_type
from tensornet_interp.tables import Record


@dataclass(frozen=True)
class EdgeRule:
    """An edge rule states when `edge_tests` confirms an edge; `str` returns the rule as one sentence."""

    min_share: float = 0.02  # the least effect, as a share of the target's mean |activation|
    min_windows: int = 10  # if all ends are active in fewer windows of text, nothing is decided
    confidence: float = 0.95  # confidence of the interval of the difference from the control

    def __str__(self) -> str:
        return (
            "confirmed: the mean effect of the removal on the target has the sign of the edge, is at least"
            f" {self.min_share:.0%} of the target's mean magnitude, and is larger than the magnitude of the control's"
            f" effect (the {self.confidence:.0%} interval of the difference over windows is above 0); refuted: it is"
            f" not; untested: the ends are active in fewer than {self.min_windows} windows"
        )


EDGE_RULE = EdgeRule()


@register_type("EdgeVerdict")
@dataclass(frozen=True)
class EdgeVerdict:
    """An edge verdict is the result of one test; effects are means over windows, in units of the target."""

    target: str
    sources: str
    pair: bool
    value: float  # of the edge, over all its paths; 0 if no sign is predicted
    windows: int
    activation: float = math.nan  # of the target, before any removal
    effect: float = math.nan
    control: float = math.nan  # mean |effect| of the control
    low: float = math.nan  # ends of the interval of the difference
    high: float = math.nan
    verdict: str = "untested"  # or "confirmed" or "refuted", by EDGE_RULE

    def records(self) -> list[Record]:
        """Return the verdict as one record."""
        return [dict(vars(self))]
