"""What do the eigenvectors of a class show: local edges and parts of it? Do negative ones mark what would change it?

Regularised classifiers (noise 0.5, weight decay 1) are trained once per seed and kept. Their interaction matrices are
decomposed in pixels. Every class has five leading eigenvectors of each sign. There are five tables in the output
folder, each printed as means with 95 % intervals over seeds:

- vectors.csv. "Area" is the share of pixels that hold 90 % of an eigenvector's energy. An eigenvector is local if its
  area is below 95 % of those of 200 random vectors with its power spectrum (phases drawn at random), multiplied by the
  root mean square of all leading eigenvectors of the model at each pixel: data of any class are absent from the
  border, so everything is local in the centre. "Kept across" and "kept along" are shares of the mean activation
  (v . x)^2 that are left on the 100 test images with the largest one, if they move by some pixels along the mean
  gradient of v, or at a right angle to it. Both directions of a line count, and moved images are filled with zeros.
  The same shares of 20 of the random vectors, on their own 100 images, stand beside them.
- spectra.csv. The number of eigenvalues per class that hold half of sum |eigenvalue|, and the share of the ten largest.
- directions.csv. The three leading output directions that all classes share (`output_svd`), with their parts in each.
- overcomplete.csv. Twice as many directions as outputs, classes and differences of classes: the relative error of the
  tensor that is put together from them; the largest |cosine| of two leading eigenvectors of one direction; and the
  largest one of two directions, mean over their pairs.
- switches.csv. The most negative eigenvector of a class is added to test images of this class that are decided right,
  at a stated share of the mean norm of a training image. Training images choose its sign: the one that changes more
  decisions. Controls are treated alike: the most negative eigenvectors of the other classes, and nine random vectors
  each of two kinds, with the same power spectrum and Gaussian. Where do changed decisions go: how many to the most
  frequent class of the direction, how many to the class that had the second largest output before?

Expected times on one core: digits 20 seconds; MNIST or Fashion-MNIST 1.5 minutes per seed with training, three seeds.
"""

import argparse
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from examples.parts.eigenvectors_report import figures, print_tables
from examples.parts.image_job import NOISE, WEIGHT_DECAY, classifier, dataset_of, out_folder, parse, parser, schedule
from examples.parts.image_vectors import surrogates
from models import Dataset, accuracy
from models.runs import trained
from models.tables import read_table, write_table
from tensornet_interp import BilinearLayer, SpectralResult, decompose, relative_error
from tensornet_interp.disk import replace_files

Row = dict[str, object]
LEADING = 5  # eigenvectors of each sign and class
DIRECTIONS = 3  # shared output directions
SHARE = 0.9  # of the energy, in the area
AREA_DRAWS, MOVE_DRAWS, SWITCH_DRAWS = 200, 20, 9
STRONGEST = 100  # test images with the largest activation
MOVES = (1, 2, 3)  # pixels
STEPS = ((0, 1), (1, 1), (1, 0), (1, -1))  # (down, right) at angles of 0, 45, 90, 135 degrees
STRENGTHS = (0.25, 0.5, 1.0)
CHOSEN_AT = 0.5  # strength at which training images choose the sign
IMAGES = {"train": 100, "test": 300}  # per class in a switch
TABLES = ("vectors", "spectra", "switches", "directions", "overcomplete")


def main(argv: list[str] | None = None) -> None:
    """Train the models or read them, measure them, print tables and draw figures."""
    options = _options(argv)
    out = out_folder(options)
    if not options.replot:
        compute(options, out)
    tables = {name: read_table(out / f"{name}.csv") for name in TABLES}
    print_tables(tables)
    for name, figure in figures(tables, load_file(out / "seed_0.safetensors")).items():
        figure.savefig(out / f"{name}.png", dpi=120)
    print(f"\ntables and figures: {out}")


def compute(options: argparse.Namespace, out: Path) -> None:
    """Measure all models, write the tables, and for seed 0 eigenvectors and switched images."""
    data = dataset_of(options)
    tables: dict[str, list[Row]] = {name: [] for name in TABLES}
    for seed in tqdm(range(options.seeds), desc=data.name, unit="model"):
        training = schedule(data, options, noise=NOISE, weight_decay=WEIGHT_DECAY, seed=seed)
        model = trained(options.models, data, classifier(data), training, progress=False)
        layer = model.network("input")[0].to_layer()
        result: SpectralResult = decompose(layer, "eigen")
        head: Row = {"dataset": data.name, "seed": seed, "epochs": training.epochs, "height": data.shape[0]}
        head |= {"accuracy": accuracy(model, data.test_x, data.test_y)}
        draw = torch.Generator().manual_seed(seed)
        values, vectors = leading(result)
        tables["vectors"] += [head | row for row in vector_rows(values, vectors, data, draw)]
        tables["spectra"] += [head | row for row in spectrum_rows(result, data)]
        tables["directions"] += [head | row for row in direction_rows(layer, data)]
        tables["overcomplete"].append(head | overcomplete(layer))
        rows, images = switch_rows(layer, vectors[:, LEADING], data, draw)
        tables["switches"] += [head | row for row in rows]
        if seed == 0:
            kept = images | {"values": values, "vectors": vectors, "eigenvalues": result.eigenvalues}
            replace_files(
                [(out / "seed_0.safetensors", save({name: part.contiguous() for name, part in kept.items()}))]
            )
    for name, rows_of in tables.items():
        write_table(out / f"{name}.csv", rows_of)


def leading(result: SpectralResult) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (class, 2 n) and eigenvectors (class, 2 n, in): n most positive, then n most negative ones."""
    order = result.eigenvalues.argsort(dim=1, descending=True)
    picks = torch.cat([order[:, :LEADING], order[:, -LEADING:].flip(1)], 1)
    vectors = result.eigenvectors.mT.gather(1, picks[:, :, None].expand(-1, -1, result.eigenvectors.shape[1]))
    return result.eigenvalues.gather(1, picks).double(), vectors.double()


def area(vectors: Tensor) -> Tensor:
    """Return the smallest share of the entries of vectors (..., in) that hold 90 % of the squared norm."""
    squares = vectors.square().sort(dim=-1, descending=True).values
    below = squares.cumsum(-1) < SHARE * squares.sum(-1, keepdim=True)
    return (below.sum(-1) + 1.0) / vectors.shape[-1]


def moved(vectors: Tensor, shape: tuple[int, int], down: int, right: int) -> Tensor:
    """Return images (..., in) moved by whole pixels, with zeros where nothing moves in."""
    pad = max(abs(down), abs(right))
    images = torch.nn.functional.pad(vectors.unflatten(-1, shape), (pad, pad, pad, pad))
    return images[..., pad - down :, pad - right :][..., : shape[0], : shape[1]].flatten(-2)


def across(vector: Tensor, shape: tuple[int, int]) -> int:
    """Return the number of the step that is nearest to the mean gradient of an image (in,), sign left out."""
    y, x = torch.gradient(vector.reshape(shape))
    angle = 0.5 * torch.atan2(2 * (x * y).sum(), x.square().sum() - y.square().sum())
    return round(float(angle) / (torch.pi / 4)) % 4


def responses(vector: Tensor, x: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the shares of the activation that are kept, (across or along, move)."""
    products = x @ vector
    strongest = x[products.square().topk(min(STRONGEST, len(x))).indices]
    whole = (strongest @ vector).square().mean()
    number = across(vector, shape)
    kept = []
    for down, right in (STEPS[number], STEPS[(number + 2) % 4]):
        for move in MOVES:  # moving the vector one way is moving the image the other way
            both = torch.stack([moved(vector, shape, sign * move * down, sign * move * right) for sign in (1, -1)])
            kept.append((strongest @ both.T).square().mean() / whole)
    return torch.stack(kept).reshape(2, len(MOVES))


def vector_rows(values: Tensor, vectors: Tensor, data: Dataset, draw: torch.Generator) -> list[Row]:
    """Return one row per leading eigenvector: its place, its area, and what is left of its response to moved images."""
    envelope = vectors.square().mean((0, 1)).sqrt()
    x, means = data.test_x.double(), _class_means(data)
    rows: list[Row] = []
    for label, name in enumerate(data.class_names):
        centred = means[label] - means.mean(0)
        for at, vector in enumerate(vectors[label]):
            free = surrogates(vector, data.shape, AREA_DRAWS, draw)
            within = area(free * envelope)
            own = responses(vector, x, data.shape)
            null = torch.stack([responses(one, x, data.shape) for one in (free * envelope)[:MOVE_DRAWS]]).mean(0)
            top = vector.reshape(data.shape)[: data.shape[0] // 2].square() / vector.square().sum()
            row: Row = {"class": name, "sign": "positive" if at < LEADING else "negative", "number": at % LEADING + 1}
            row |= {"eigenvalue": float(values[label, at]), "area": float(area(vector))}
            row |= {"upper": float(top.sum()), "upper_right": float(top[:, data.shape[1] // 2 :].sum())}
            row |= {"area_spectrum": float(area(free).mean()), "area_within": float(within.mean())}
            row |= {"local": float(area(vector) < within.quantile(0.05))}
            row |= {"mean_image": abs(float(torch.cosine_similarity(vector, centred, dim=0)))}
            for part, kept in (("", own), ("null_", null)):
                for way, line in zip(("across", "along"), kept.tolist(), strict=True):
                    row |= {f"{part}{way}_{move}": share for move, share in zip(MOVES, line, strict=True)}
            rows.append(row)
    return rows


def spectrum_rows(result: SpectralResult, data: Dataset) -> list[Row]:
    """Return one row per class: how many eigenvalues hold half of the sum of magnitudes."""
    rows: list[Row] = []
    for name, values in zip(data.class_names, result.eigenvalues.double().abs(), strict=True):
        shares = values.sort(descending=True).values.cumsum(0) / values.sum()
        rows.append(
            {"class": name, "half": int((shares < 0.5).sum()) + 1, "ten": float(shares[min(10, len(shares)) - 1])}
        )
    return rows


def direction_rows(layer: BilinearLayer, data: Dataset) -> list[Row]:
    """Return one row per leading output direction: its singular value, and its part in every class."""
    result: SpectralResult = decompose(layer, "output_svd", blocks=DIRECTIONS)
    rows: list[Row] = []
    for number, parts in enumerate(result.outputs.T.tolist(), start=1):
        value = float(result.singular_values[number - 1]) if result.singular_values is not None else float("nan")
        sign = 1 if max(parts) >= -min(parts) else -1
        named = {f"class {name}": sign * part for name, part in zip(data.class_names, parts, strict=True)}
        rows.append({"direction": number, "singular_value": value} | named)
    return rows


def overcomplete(layer: BilinearLayer) -> Row:
    """Return how exactly twice as many directions as outputs give the tensor back, and how their eigenvectors lie.

    The directions are the classes, and the difference of each class and the next one.
    """
    classes = torch.eye(layer.down.shape[0], dtype=layer.down.dtype, device=layer.down.device)
    directions = torch.cat([classes, classes - classes.roll(1, 0)])
    result: SpectralResult = decompose(layer, "eigen", directions=directions)
    vectors = result.eigenvectors[:, :, :LEADING].double()
    products = torch.einsum("bik,cil->bckl", vectors, vectors).abs()
    same = torch.eye(len(directions), dtype=torch.bool, device=products.device)
    within = products[same] - torch.eye(LEADING, dtype=torch.float64, device=products.device)
    row: Row = {"directions": len(directions), "outputs": len(classes), "within": float(within.abs().max())}
    return row | {
        "relative_error": relative_error(result, layer),
        "between": float(products[~same].amax((1, 2)).mean()),
    }


def switch_rows(
    layer: BilinearLayer, negative: Tensor, data: Dataset, draw: torch.Generator
) -> tuple[list[Row], dict[str, Tensor]]:
    """Return one row per class, kind of direction and strength, and one image per class before and after the switch."""
    norm = float(data.train_x.norm(dim=1).mean())
    rows: list[Row] = []
    shown: dict[str, list[Tensor]] = {"before": [], "after": [], "decisions": []}
    for label, name in enumerate(data.class_names):
        train, test = (_decided(layer, data, part, label) for part in ("train", "test"))
        next_best = layer(test).index_fill(1, torch.tensor([label], device=test.device), -torch.inf).argmax(-1)
        own = negative[label]
        others = torch.cat([negative[:label], negative[label + 1 :]])
        smooth = surrogates(own, data.shape, SWITCH_DRAWS, draw)
        gaussian = torch.randn(SWITCH_DRAWS, len(own), generator=draw, dtype=torch.float64).to(own.device)
        kinds = {"own": own[None], "of other classes": others, "same spectrum": smooth, "Gaussian": gaussian}
        for kind, directions in kinds.items():
            units = (directions / directions.norm(dim=1, keepdim=True)).to(data.train_x)
            for strength in STRENGTHS:
                found: Counter[int] = Counter()
                most, second = 0, 0
                for unit in units:
                    step = unit * _sign(layer, train, unit, CHOSEN_AT * norm, label) * strength * norm
                    decisions = layer(test + step).argmax(-1)
                    ends = Counter(decisions[decisions != label].tolist())
                    found += ends
                    most += max(ends.values(), default=0)
                    second += int((decisions == next_best).sum())
                    if kind == "own" and strength == CHOSEN_AT:
                        shown["before"].append(test[0])
                        shown["after"].append(test[0] + step)
                        shown["decisions"].append(decisions[0])
                changed = found.total()
                row: Row = {"class": name, "kind": kind, "strength": strength, "images": len(test)}
                rows.append(row | {"changed": changed / (len(test) * len(units))})
                if changed:
                    to = data.class_names[found.most_common(1)[0][0]]
                    rows[-1] |= {"to": to, "to_one": most / changed, "to_second": second / changed}
    return rows, {name: torch.stack(parts) for name, parts in shown.items()}


def _decided(layer: BilinearLayer, data: Dataset, part: str, label: int) -> Tensor:
    """Return the first images of a class that are decided right; all of its first ones if none is."""
    x, y = (data.train_x, data.train_y) if part == "train" else (data.test_x, data.test_y)
    mine = x[y == label]
    right = mine[layer(mine).argmax(-1) == label]
    return (right if len(right) else mine)[: IMAGES[part]]


def _sign(layer: BilinearLayer, x: Tensor, unit: Tensor, norm: float, label: int) -> float:
    """Return the sign of a direction that changes more decisions."""
    plus, minus = (int((layer(x + sign * norm * unit).argmax(-1) != label).sum()) for sign in (1, -1))
    return 1.0 if plus >= minus else -1.0


def _class_means(data: Dataset) -> Tensor:
    return torch.stack([data.train_x[data.train_y == k].double().mean(0) for k in range(len(data.class_names))])


def _options(argv: list[str] | None) -> argparse.Namespace:
    options = parse(parser(__doc__, "eigenvectors"), argv)
    options.seeds = 3 if options.seeds is None else options.seeds
    return options


if __name__ == "__main__":
    main()
