"""The figures of `adversarial_masks.py`, drawn from its tables and masks on disk."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from tensornet_interp.plots import compared_vectors, curves, image_cell

Rows = Sequence[Mapping[str, object]]
Shape = tuple[int, int]
LABELS = {"accuracy": "accuracy", "misclassified": "misclassified as intended"}


def effects(summary: Rows, pixels: str, setting: str, name: str) -> Figure:
    """Draw accuracy and misclassification against strength for one setting, one line per kind of mask.

    The bands are 95 % intervals.
    """
    rows = [row for row in summary if (row["pixels"], row["setting"]) == (pixels, setting)]
    records = [{**{LABELS.get(key, key): value for key, value in row.items()}, "mask": row["kind"]} for row in rows]
    bands = {LABELS[field]: (f"{field}_low", f"{field}_high") for field in ("accuracy", "misclassified")}
    figure = curves(records, "strength", list(bands), "mask", bands=bands)
    title = f"{name}, masks on {pixels}, model: {setting}"
    figure.suptitle(f"{title}\nmean over intended classes and masks, bands: 95 % intervals", fontsize=9)
    return figure


def pictures(kept: Mapping[str, Tensor], settings: Sequence[str], pixels: str, shape: Shape, name: str) -> Figure:
    """Draw the mask of every class for seed 0, one row per setting and one column per class."""
    classes = len(kept[f"{settings[0]}|{pixels}"])
    figure = Figure(figsize=(1.15 * classes + 0.6, 1.3 * len(settings) + 0.7), layout="constrained")
    grid = figure.subplots(len(settings), classes, squeeze=False)
    for row, setting in enumerate(settings):
        for column, mask in enumerate(kept[f"{setting}|{pixels}"]):
            image_cell(grid[row, column], mask, shape, f"class {column}" if row == 0 else "")
        grid[row, 0].set_ylabel(setting, fontsize=8)
    figure.suptitle(f"{name}: masks on {pixels}, one eigenvector per class, seed 0", fontsize=10)
    return figure


def examples(
    kept: Mapping[str, Tensor], settings: Sequence[str], shape: Shape, name: str, strength: float = 0.5
) -> Figure:
    """Draw the first test image with the masks of the first classes at one strength, for seed 0."""
    image, tags = kept["image"], [key for setting in settings for key in kept if key.startswith(f"{setting}|")]
    count = min(5, len(kept[tags[0]]))
    figure = Figure(figsize=(1.3 * (count + 1), 1.4 * len(tags) + 0.7), layout="constrained")
    grid = figure.subplots(len(tags), count + 1, squeeze=False)
    for row, tag in enumerate(tags):
        image_cell(grid[row, 0], image, shape, "test image 0" if row == 0 else "", cmap="gray_r", symmetric=False)
        grid[row, 0].set_ylabel(tag.replace("|", "\n").replace(", ", "\n"), fontsize=7)
        for target in range(count):
            mask = kept[tag][target]
            masked = image + mask * (strength * kept["norm"] / mask.norm())
            image_cell(grid[row, target + 1], masked, shape, f"with mask {target}" if row == 0 else "")
    figure.suptitle(
        f"{name}: masks of one eigenvector per class at strength {strength:g}, not clipped, seed 0", fontsize=10
    )
    return figure


def eigenvectors(kept: Mapping[str, Tensor], settings: Sequence[str], shape: Shape, name: str) -> Figure:
    """Draw the first positive eigenvectors of one class for seed 0, one row per setting, with their eigenvalues."""
    vectors, values = ({one: kept[f"{part}|{one}"] for one in settings} for part in ("vectors", "values"))
    title = f"{name}: first positive eigenvectors of class {int(kept['class'])} in pixels, seed 0"
    return compared_vectors(vectors, values, shape, title=title)
