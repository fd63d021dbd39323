"""Does the leading eigenvector of a classifier show the one image that its labels were made from?

The task of Casper (2023): an image is "close" if it is close, in cosine, to one target image of a 1 or to its
complement (1 - target). That is, if max(cos(x, t), cos(x, 1 - t)) is above its median over the training images. --rule
offers other readings of the task. A classifier with biases learns it. The script splits the classifier's function into
an interaction (quadratic), a linear and a constant part. It compares the target with the most positive eigenvector of
the interaction matrix of "close" minus "far": with and without weight decay and input noise, over seeds. It also says
whether the biases, which make the linear part and the constant, add or subtract.

Expected times: digits 1 minute; MNIST or Fashion-MNIST about 6 minutes per seed on one free core (5 models of 20
epochs); --full has 5 seeds. Every model is trained once and kept, so a run can be stopped at any time.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.functional import cosine_similarity
from tqdm import tqdm

from examples.parts.ground_truth_figures import cosines, parts, spectra
from examples.parts.image_job import classifier, dataset_of, out_folder, parse, parser, schedule
from models import Dataset, TrainingConfig, accuracy
from models.casper import RULES, SimilarityTask, similarity_task
from models.runs import trained
from models.tables import plus_minus, read_table, summarise, write_table
from tensornet_interp import BilinearLayer, decompose
from tensornet_interp.checks import check_choice
from tensornet_interp.disk import replace_files
from tensornet_interp.lifting import split

Row = dict[str, object]
TARGETS = {"mnist": 6}  # for other data sets: the first training image of class 1
ACTIVE = 0.01  # least share of the training images in which an active pixel is not 0
SEEDS = {"digits": 3, "mnist": 1, "fashion_mnist": 1}
# At 20 epochs of 29 steps the rate of the presets, 1e-3, is too low for decay to act: weights shrink by
# exp(-decay * sum of rates), which is 0.75 for a decay of 1 and 0.31 at four times the rate.
RATES = {"mnist": 4e-3, "fashion_mnist": 4e-3}
SETTINGS: dict[str, dict[str, float]] = {
    "neither": {"weight_decay": 0.0, "noise": 0.0},
    "decay": {"weight_decay": 1.0, "noise": 0.0},
    "noise": {"weight_decay": 0.0, "noise": 0.3},
    "both": {"weight_decay": 1.0, "noise": 0.3},
    "less noise": {"weight_decay": 1.0, "noise": 0.1},
}
MEASURES = (
    *("test_accuracy", "share_abs", "share_squares", "place", "cosine_raw", "cosine_centred", "cosine_active"),
    "missed_inactive",
    *("covariance_interaction", "covariance_linear", "accuracy_interaction", "accuracy_linear", "accuracy_eigenvector"),
)
BIASES = ("bias_constant", "bias_linear", "bias_mean", "bias_negative", "bias_eigenvalue", "bias_top")


def main(argv: list[str] | None = None) -> None:
    """Train the models or read them, measure them, print tables and draw figures."""
    options = _options(argv)
    out = out_folder(options)
    if not options.replot:
        compute(options, out)
    rows, kept = read_table(out / "table.csv"), load_file(out / "vectors.safetensors")
    print_table(rows)
    shape = (int(rows[0]["height"]), int(rows[0]["width_pixels"]))
    title = f"{rows[0]['dataset']}, target: training image {rows[0]['target']:.0f}, rule {rows[0]['rule']!r}"
    spectra(rows, kept, shape, title).savefig(out / "spectra.png", dpi=120)
    cosines(rows, title).savefig(out / "cosines.png", dpi=120)
    parts(rows, title).savefig(out / "parts.png", dpi=120)
    print(f"\ntable and figures: {out}")


def compute(options: argparse.Namespace, out: Path) -> None:
    """Measure all models; write one row per setting and seed, and the leading eigenvectors of the first seed."""
    data = dataset_of(options)
    index = options.target
    if index is None:
        index = TARGETS.get(data.name, int((data.train_y == 1).nonzero()[0]))
    task = similarity_task(data, index, options.rule)
    share = float(task.data.test_y.double().mean())
    print(f"target: training image {index}, {data.class_names[int(data.train_y[index])]}; rule {task.rule!r}")
    print(f"threshold (median over training images) {task.threshold:.4f}; share of close test images: {share:.3f}")
    rows: list[Row] = []
    kept = {"target": task.target.contiguous()}
    seeds = range(options.seeds or (5 if options.full else SEEDS[data.name]))
    chosen = [(name, SETTINGS[name]) for name in options.settings]
    for seed, (name, setting) in tqdm([(seed, item) for seed in seeds for item in chosen], unit="model"):
        training = training_of(data, options, setting, seed)
        config = classifier(data, options.width, classes=2, bias=True)
        model = trained(options.models, task.data, config, training, progress=False)
        layer = model.network("input")[0]
        if not isinstance(layer, BilinearLayer):
            raise TypeError(f"the network of a classifier must hold a BilinearLayer, got {type(layer).__name__}")
        measured, vectors = measure(layer, task)
        rows.append(
            {"dataset": data.name, "target": index, "rule": task.rule, "threshold": task.threshold, "setting": name}
            | {"height": data.shape[0], "width_pixels": data.shape[1]}
            | {"width": config.width, "epochs": training.epochs, "lr": training.lr, **setting, "seed": seed}
            | {"test_accuracy": accuracy(model, task.data.test_x, task.data.test_y)}
            | measured
        )
        if seed == 0:
            kept |= {f"{name}.{key}": value.contiguous() for key, value in vectors.items()}
        write_table(out / "table.csv", rows)
        replace_files([(out / "vectors.safetensors", save(kept))])


def training_of(data: Dataset, options: argparse.Namespace, setting: Mapping[str, float], seed: int) -> TrainingConfig:
    """Return the preset's training with this setting and the learning rate of this task."""
    rate = {"lr": RATES[data.name]} if data.name in RATES else {}
    return schedule(data, options, **rate, **setting, seed=seed)


def measure(layer: BilinearLayer, task: SimilarityTask) -> tuple[Row, dict[str, Tensor]]:
    """Split the logit difference "close" minus "far" into parts, and compare its top eigenvector with the target."""
    layer = layer.to(dtype=torch.float64)
    difference = torch.tensor([[-1.0, 1.0]], dtype=torch.float64, device=layer.down.device)
    lifted = layer.change_basis(outputs=difference, note="close minus far")
    form = split(lifted)
    result = decompose(form.interaction, "eigen")
    values, vectors = result.eigenvalues[0], result.eigenvectors[0]
    best = int(values.argmax())
    top, vector = float(values[best]), vectors[:, best]
    target = task.target.to(torch.float64)
    if float(vector @ target) < 0:
        vector = -vector  # the sign is free
    train_x, test_x = task.data.train_x.to(torch.float64), task.data.test_x.to(torch.float64)
    share = (train_x > 0).double().mean(0)
    active = share >= ACTIVE

    def everything(x: Tensor) -> dict[str, Tensor]:
        linear, interaction = x @ form.linear[0], form.interaction(x)[:, 0]
        return {
            "interaction": interaction,
            "linear": linear,
            "eigenvector": top * (x @ vector).square(),
            "all": interaction + linear + form.constant[0],
        }

    train, test = everything(train_x), everything(test_x)
    near = task.data.train_y == 1
    means = train_x[near].mean(0) - train_x[~near].mean(0)
    unit, aim = (_centred(v) / _centred(v).norm() for v in (vector, target))
    missed = (aim - (aim @ unit) * unit).square()  # over pixels; sums to 1 - cosine_centred^2
    row: Row = {
        "eigenvalue": top,
        "next_eigenvalue": float(values[torch.arange(len(values)) != best].abs().max()),
        "place": 1 + int((values.abs() > abs(top)).sum()),  # by magnitude
        "share_abs": abs(top) / float(values.abs().sum()),
        "share_squares": top**2 / float(values.square().sum()),
        "cosine_raw": _cosine(vector, target),
        "cosine_complement": _cosine(vector, 1 - target),
        "cosine_centred": _cosine(_centred(vector), _centred(target)),
        "cosine_active": _cosine(_centred(vector[active]), _centred(target[active])),
        "missed_inactive": float(missed[~active].sum() / missed.sum()),
        "cosine_class_means": _cosine(_centred(means), _centred(target)),
        "cosine_linear": _cosine(_centred(form.linear[0]), _centred(target)),
        "active_pixels": int(active.sum()),
        "norm_inactive": float(vector[~active].square().sum()),
        "norm_never": float(vector[share == 0].square().sum()),
        "constant": float(form.constant[0]),
    }
    variance = float(test["all"].var())
    for name in ("interaction", "linear", "eigenvector"):
        # the shares of interaction and linear part add up to 1; each includes their covariance
        row[f"covariance_{name}"] = float(torch.cov(torch.stack([test[name], test["all"]]))[0, 1]) / variance
        row[f"deviation_{name}"] = float(test[name].std())
        # each part alone, with its own median over the training images as threshold, like the labels
        right = (test[name] > train[name].median()) == (task.data.test_y == 1)
        row[f"accuracy_{name}"] = float(right.double().mean())
    return row | _biases(lifted, test, target), {"eigenvalues": values, "vector": vector, "linear": form.linear[0]}


def _biases(lifted: BilinearLayer, test: Mapping[str, Tensor], target: Tensor) -> Row:
    """Measure what the biases add, linear part + constant, in standard deviations of close minus far on test images.

    bias_negative is the share of test images on which it is negative. Over [1, pixels], bias_eigenvalue is the
    eigenvalue of the eigenvector with the largest constant coordinate, divided by the most positive eigenvalue, and
    bias_top is the constant coordinate of the most positive eigenvector, whose sign makes v . target positive.
    """
    result = decompose(lifted, "eigen")
    values, vectors = result.eigenvalues[0], result.eigenvectors[0]
    constant, best = int(vectors[0].abs().argmax()), int(values.argmax())
    top = vectors[:, best] if float(vectors[1:, best] @ target) > 0 else -vectors[:, best]
    spread = float(test["all"].std())
    added = test["all"] - test["interaction"]
    return {
        "bias_constant": float((added - test["linear"]).mean()) / spread,
        "bias_linear": float(test["linear"].mean()) / spread,
        "bias_mean": float(added.mean()) / spread,
        "bias_negative": float((added < 0).double().mean()),
        "bias_eigenvalue": float(values[constant] / values[best]),
        "bias_top": float(top[0]),
    }


def print_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Print means over seeds with 95 % intervals, and the smallest cosine of any seed."""
    heads = (
        "accuracy",
        "share |l|",
        "share l^2",
        "next / top",
        "cos raw",
        "cos centred",
        "... active",
        "lowest",
        "missed inactive",
        "linear part",
    )
    print(f"\n{'setting':<14}{'seeds':>6}" + "".join(f"{head:>16}" for head in heads))
    rows = [{**row, "next": float(str(row["next_eigenvalue"])) / float(str(row["eigenvalue"]))} for row in rows]
    for line in summarise(rows, ["setting"], (*MEASURES, "next")):
        lowest = min(float(str(row["cosine_centred"])) for row in rows if row["setting"] == line["setting"])
        names = ("test_accuracy", "share_abs", "share_squares", "next", "cosine_raw", "cosine_centred", "cosine_active")
        cells = [plus_minus(line, name) for name in names] + [f"{lowest:.3f}"]
        cells += [plus_minus(line, name) for name in ("missed_inactive", "covariance_linear")]
        print(f"{line['setting']:<14}{line['n']:>6}" + "".join(f"{cell:>16}" for cell in cells))
    print(
        "next / top: largest other magnitude over the most positive eigenvalue; cos centred: eigenvector and target,\n"
        f"each minus its mean over pixels; active: only over pixels that are not 0 in at least {ACTIVE:.0%} of the\n"
        "training images; lowest: cos centred of the worst seed; missed inactive: share of 1 - cos^2 on the other\n"
        "pixels; linear part: its share of the variance of close minus far over test images; the rest is the\n"
        "interaction part"
    )
    titles = ("constant", "linear, mean", "bias, mean", "bias negative", "its eigenvalue", "top coordinate")
    print(f"\n{'setting':<14}{'seeds':>6}" + "".join(f"{title:>16}" for title in titles))
    for line in summarise(rows, ["setting"], BIASES):
        print(f"{line['setting']:<14}{line['n']:>6}" + "".join(f"{plus_minus(line, name):>16}" for name in BIASES))
    print(
        "bias: linear part + constant, in standard deviations of close minus far over test images; bias negative:\n"
        "share of the test images; its eigenvalue: over [1, pixels], of the eigenvector with the largest constant\n"
        "coordinate, over the most positive eigenvalue; top coordinate: the constant one of the most positive one"
    )


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(cosine_similarity(a, b, dim=0))


def _centred(a: Tensor) -> Tensor:
    return a - a.mean()


def _options(argv: list[str] | None) -> argparse.Namespace:
    made = parser(__doc__, "ground_truth")
    made.add_argument("--rule", choices=sorted(RULES), default="either", help="how the labels are made")
    made.add_argument("--target", type=int, help="training image, from 0; default: 6 for MNIST, else the first 1")
    made.add_argument("--width", type=int, help="embedding and hidden size; default: by data set")
    made.add_argument("--settings", default=",".join(SETTINGS), help="which settings, separated by commas")
    options = parse(made, argv)
    options.settings = list(dict.fromkeys(options.settings.split(",")))
    for name in options.settings:
        check_choice("--settings", name, SETTINGS)
    return options


if __name__ == "__main__":
    main()
