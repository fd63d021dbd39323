"""Why is this a 5, and that 2 a 7? The two decisions of the paper's appendix C, found again by a rule.

Without biases, the output of a class is the sum of its components: a positive part, of the eigenvectors with positive
eigenvalues, and suppression, of the others. Regularised classifiers (noise 0.5, weight decay 1) are trained once per
seed and kept; everything is in pixels and on test images. What decides between the winner and its rival (of a right
decision the class with the second largest output, of a wrong one the label)? There are three cases:

- "positive": the winner has the larger positive part, and is suppressed at least as much as the rival;
- "suppression": the rival has at least the positive part of the winner, and is suppressed more;
- "both": the winner has the larger positive part, and is suppressed less.

No decision depends on a quadratic form that is added to all classes alike, but these parts do. So the same is counted
again for outputs minus the mean of all classes.

The case of suppression is the image of class --suppressed that is decided right, with the smallest spread of the three
largest positive parts, relative to the largest; its class is one of the three, and not the first. The mistaken case is
the image of the first class of --mistaken that is decided as the second one, with its label second, and the largest
margin. Both are of the first seed that has one. They are told in words that are made from the numbers: the four
components with the largest parts in the margin, and the share of their product v . x that comes from the upper half of
the image.

Expected times on one core: digits 20 seconds; MNIST or Fashion-MNIST 1 minute per seed with training, three seeds.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from examples.parts.image_job import NOISE, WEIGHT_DECAY, classifier, dataset_of, out_folder, parse, parser, schedule
from models import Dataset, accuracy
from models.runs import trained
from models.tables import interval, read_table, write_table
from tensornet_interp import BilinearLayer, SpectralResult, decompose
from tensornet_interp.checks import check_int
from tensornet_interp.plots import explanation, to_numpy

Row = dict[str, object]
CASES = ("positive", "suppression", "both")
OUTPUTS = ("as trained", "minus their mean")
COUNT = 4  # components that are told
STRONGEST = 500  # images at most on which the strongest component is looked up
FIELDS = (*CASES, "weight of positive", "positive alone", "suppression alone", "strongest is of winner", "upper half")


def main(argv: list[str] | None = None) -> None:
    """Train the models or read them, count what decides, print tables and both cases, and draw them."""
    options = _options(argv)
    out = out_folder(options)
    if not options.replot:
        compute(options, out)
    print_table(read_table(out / "decisions.csv"))
    for path in sorted(out.glob("case_*.txt")):
        print("\n" + path.read_text(encoding="utf-8").rstrip())
    print(f"\ntables and figures: {out}")


def compute(options: argparse.Namespace, out: Path) -> None:
    """Measure all models, write the table, and tell and draw the two cases."""
    data = dataset_of(options)
    last = len(data.class_names) - 1
    for name, number in (("--suppressed", options.suppressed), *(("--mistaken", k) for k in options.mistaken)):
        check_int(name, number, 0, last)
    rows: list[Row] = []
    cases = {"suppression": "", "mistaken": ""}
    for old in out.glob("case_*"):
        old.unlink()
    for seed in tqdm(range(options.seeds), desc=data.name, unit="model"):
        training = schedule(data, options, noise=NOISE, weight_decay=WEIGHT_DECAY, seed=seed)
        model = trained(options.models, data, classifier(data), training, progress=False)
        layer = model.network("input")[0].to_layer()
        head: Row = {"dataset": data.name, "epochs": training.epochs, "seed": seed}
        head |= {"accuracy": accuracy(model, data.test_x, data.test_y)}
        for outputs in OUTPUTS:
            result: SpectralResult = decompose(layer if outputs == OUTPUTS[0] else centred(layer), "eigen")
            sides = positive_and_suppression(result, data.test_x)
            rows += [head | {"outputs": outputs} | row for row in decisions(result, *sides, data, options)]
            if outputs == OUTPUTS[0]:
                found = {
                    "suppression": find_suppressed(*sides, data.test_y, options.suppressed),
                    "mistaken": find_mistaken(*sides, data.test_y, *options.mistaken),
                }
                for name, index in found.items():
                    if index is not None and not cases[name]:
                        cases[name] = words(result, data, index, seed)
                        draw_parts(sides[0][index], sides[1][index], data, f"seed {seed}, test image {index}").savefig(
                            out / f"case_{name}.png", dpi=120
                        )
                        drawn = explanation(
                            result, data.test_x[index], data.shape, data.class_names, label=int(data.test_y[index])
                        )
                        drawn.savefig(out / f"case_{name}_components.png", dpi=120)
    write_table(out / "decisions.csv", rows)
    for name, text in cases.items():
        (out / f"case_{name}.txt").write_text(f"{name}: {text or 'no seed has such an image'}\n", encoding="utf-8")


def centred(layer: BilinearLayer) -> BilinearLayer:
    """Return the layer with the mean of its outputs subtracted from each; every decision stays the same."""
    size = layer.down.shape[0]
    outputs = torch.eye(size, dtype=layer.down.dtype, device=layer.down.device) - 1 / size
    return layer.change_basis(outputs=outputs, note="minus the mean of the outputs")


def positive_and_suppression(result: SpectralResult, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums of positive and of negative activations, each (image, class)."""
    parts = [result.activations(part).double() for part in x.split(512)]
    return torch.cat([p.clamp_min(0).sum(-1) for p in parts]), torch.cat([p.clamp_max(0).sum(-1) for p in parts])


def decisions(
    result: SpectralResult, positive: Tensor, negative: Tensor, data: Dataset, options: argparse.Namespace
) -> Iterator[Row]:
    """Yield one row per group of test images: the shares of what decides between the winner and its rival."""
    first, second = (positive + negative).topk(2).indices.T
    labels = data.test_y
    right = first == labels
    rival = torch.where(right, second, labels)

    def lead(side: Tensor) -> Tensor:
        return (side.gather(1, first[:, None]) - side.gather(1, rival[:, None]))[:, 0]

    more, less = lead(positive), lead(negative)
    kinds = {"positive": less <= 0, "suppression": more <= 0, "both": (more > 0) & (less > 0)}
    label, (true, taken) = options.suppressed, options.mistaken
    names = data.class_names
    groups = {
        "right": right,
        "wrong": ~right,
        f"right, {names[label]}": right & (labels == label),
        f"{names[true]} as {names[taken]}": (labels == true) & (first == taken),
    }
    for name, mask in groups.items():
        row: Row = {"group": name, "images": int(mask.sum())}
        if row["images"]:
            row |= {case: float(kinds[case][mask].double().mean()) for case in CASES}
            weight = more[mask].abs() / (more[mask].abs() + less[mask].abs())
            row |= {"weight of positive": float(weight.median())}
            row |= {"positive alone": float((positive.argmax(1) == first)[mask].double().mean())}
            row |= {"suppression alone": float((negative.argmax(1) == first)[mask].double().mean())}
            some = mask.nonzero()[:STRONGEST, 0]
            row |= strongest(result, data.test_x[some], first[some], rival[some])
        yield row


def strongest(result: SpectralResult, x: Tensor, winner: Tensor, rival: Tensor) -> Row:
    """Return how often the strongest component for the winner is one of its positive ones, and where it looks."""
    parts = result.activations(x)
    at = torch.arange(len(x), device=x.device)
    signed = torch.cat([parts[at, winner], -parts[at, rival]], 1)  # (image, 2 rank)
    number = signed.argmax(1)
    block = torch.where(number < parts.shape[2], winner, rival)
    products = result.eigenvectors[block, :, number % parts.shape[2]].double() * x.double()
    upper = products[:, : products.shape[1] // 2].sum(1) / products.sum(1)
    mine = (number < parts.shape[2]).double().mean()
    return {"strongest is of winner": float(mine), "upper half": float(upper.median())}


def find_suppressed(positive: Tensor, negative: Tensor, labels: Tensor, label: int) -> int | None:
    """Return the image of the class that is decided right though its positive part is no larger than two others."""
    values, classes = positive.topk(3)
    wins = (labels == label) & ((positive + negative).argmax(1) == label)
    spread = (values[:, 0] - values[:, 2]) / values[:, 0]
    spread[~(wins & (classes == label).any(1) & (classes[:, 0] != label))] = torch.inf
    best = int(spread.argmin())
    return best if bool(spread[best].isfinite()) else None


def find_mistaken(positive: Tensor, negative: Tensor, labels: Tensor, true: int, taken: int) -> int | None:
    """Return the image of class `true` that is decided as `taken` with the largest margin, its label second."""
    values, classes = (positive + negative).topk(2)
    margin = values[:, 0] - values[:, 1]
    margin[(labels != true) | (classes[:, 0] != taken) | (classes[:, 1] != true)] = -torch.inf
    best = int(margin.argmax())
    return best if bool(margin[best].isfinite()) else None


def words(result: SpectralResult, data: Dataset, index: int, seed: int) -> str:
    """Tell one decision: outputs, both parts of the leading classes, and the components that decide."""
    x, names = data.test_x[index], data.class_names
    parts = result.activations(x[None])[0].double()  # (class, rank)
    outputs = parts.sum(1)
    up, down = parts.clamp_min(0).sum(1), parts.clamp_max(0).sum(1)
    winner, rival = outputs.topk(2).indices.tolist()
    told = {winner, rival, *up.topk(3).indices.tolist()}
    lines = [f"seed {seed}, test image {index}, a {names[int(data.test_y[index])]}, is decided as {names[winner]}."]
    for k in sorted(told, key=lambda k: -float(up[k])):
        lines.append(f"  {names[k]}: positive part {up[k]:.2f}, suppression {down[k]:.2f}, output {outputs[k]:.2f}")
    margin = float(outputs[winner] - outputs[rival])
    signed = torch.stack([parts[winner], -parts[rival]])
    top = signed.flatten().abs().topk(COUNT).indices.tolist()
    lead = f"positive parts {up[winner] - up[rival]:+.2f}, suppression {down[winner] - down[rival]:+.2f}"
    lines.append(f"  Its margin over {names[rival]} is {margin:.2f}: {lead}. The strongest components in it:")
    for place in top:
        side, number = divmod(place, parts.shape[1])
        block = (winner, rival)[side]
        values = result.eigenvalues[block]
        value = float(values[number])
        same = int(((values.sign() == values[number].sign()) & (values.abs() > abs(value))).sum()) + 1
        products = result.eigenvectors[block, :, number].double() * x.double()
        upper = float(products[: len(products) // 2].sum() / products.sum())
        name = f"{'positive' if value > 0 else 'negative'} eigenvector {same} of {names[block]}"
        share = f"{upper:.0%} of its product with the image is from the upper half"
        lines.append(f"  {signed[side, number]:+.2f} from {name}; {share}")
    total = float(signed.flatten()[top].sum())
    lines.append(f"  together {total:+.2f}: {total / margin:.0%} of the margin")
    return "\n".join(lines)


def draw_parts(positive: Tensor, negative: Tensor, data: Dataset, title: str) -> Figure:
    """Draw the positive part and the suppression of every class, with the output as a dot."""
    figure = Figure(figsize=(6.5, 3.2), layout="constrained")
    axes = figure.subplots()
    places = range(len(data.class_names))
    axes.bar(places, to_numpy(positive), color="tab:red", alpha=0.7, label="positive part")
    axes.bar(places, to_numpy(negative), color="tab:blue", alpha=0.7, label="suppression")
    axes.plot(places, to_numpy(positive + negative), "o", color="black", label="output")
    axes.axhline(0, color="0.4", linewidth=0.8)
    axes.set_xticks(places, data.class_names, rotation=0 if len(data.class_names[0]) < 3 else 30)
    axes.set_ylabel("sum of components")
    axes.set_title(f"{data.name}, {title}", fontsize=10)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def print_table(rows: Sequence[dict[str, float | str]]) -> None:
    """Print the shares of every group, means over seeds with 95 % intervals."""
    accuracies = {row["seed"]: f"{row['accuracy']:.4f}" for row in rows}
    print(f"\n{rows[0]['dataset']}, {rows[0]['epochs']:g} epochs; test accuracy {', '.join(accuracies.values())}")
    print(
        "what decides between the winner and its rival: shares of images, mean over seeds ± 95 % interval; the median"
    )
    print("weight of the positive parts, |lead| / (|lead| + |lead in suppression|); on how many images the largest")
    print(
        "positive part alone, or the least suppression alone, names the winner; how often the strongest component for"
    )
    print("the winner is a positive one of its own; and the median share of this component's v . x from the upper half")
    for outputs, group in dict.fromkeys((row["outputs"], row["group"]) for row in rows):
        mine = [row for row in rows if (row["outputs"], row["group"]) == (outputs, group) and CASES[0] in row]
        images = sum(float(row["images"]) for row in mine) / max(len(mine), 1)
        print(f"\n{group}, outputs {outputs}: {images:.0f} images per seed that has any ({len(mine)} seeds)")
        for field in FIELDS if mine else ():
            mean, half = interval([float(row[field]) for row in mine])
            print(f"  {field:<24}{mean:.3f}" + ("" if math.isnan(half) else f" ± {half:.3f}"))


def _options(argv: list[str] | None) -> argparse.Namespace:
    made = parser(__doc__, "case_studies")
    made.add_argument("--suppressed", type=int, default=5, help="class of the case of suppression")
    made.add_argument("--mistaken", type=int, nargs=2, default=[2, 7], help="label and decision of the mistaken case")
    options = parse(made, argv)
    options.seeds = 3 if options.seeds is None else options.seeds
    return options


if __name__ == "__main__":
    main()
