"""Options, sizes and folders that the image experiments share."""

import argparse
from pathlib import Path

from models import ClassifierConfig, Dataset, TrainingConfig, load_dataset
from tensornet_interp.checks import check_int, check_number

# training and width by data set; there are as many hidden units as the width
PRESETS = {
    "digits": {"width": 64, "lr": 5e-3, "batch_size": 128, "epochs": 40},
    "mnist": {"width": 256, "lr": 1e-3, "batch_size": 2048, "epochs": 20},
    "fashion_mnist": {"width": 256, "lr": 1e-3, "batch_size": 2048, "epochs": 20},
}
# sizes (embedding and hidden width) of the regularised models, which the experiments share
SIZES = {"digits": (8, 16, 32, 64), "mnist": (30, 100), "fashion_mnist": (30, 100)}
FULL = {"digits": (8, 16, 32, 64, 128), "mnist": (30, 100, 300, 1000), "fashion_mnist": (30, 100, 300, 1000)}
NOISE, WEIGHT_DECAY = 0.5, 1.0


def parser(doc: str | None, name: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every image experiment; `name` is the name of the script and its folder."""
    made = argparse.ArgumentParser(
        prog=f"{name}.py", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--dataset", choices=sorted(PRESETS), default="digits")
    made.add_argument("--data-root", help="folder that holds MNIST/raw or FashionMNIST/raw")
    made.add_argument("--download", action="store_true", help="download the data set if it is missing")
    made.add_argument("--device", default="cpu")
    made.add_argument("--full", action="store_true", help="the paper's sizes and epochs; a stopped run continues")
    made.add_argument("--epochs", type=int, help="epochs of every training; default: by data set")
    made.add_argument("--seeds", type=int, help="number of seeds, from 0 on")
    made.add_argument("--replot", action="store_true", help="draw the figures again from the tables on disk")
    made.add_argument("--models", default="out/models", help="folder where trained models are saved and read")
    made.add_argument("--out", help=f"folder of tables and figures; default: out/{name}/DATASET")
    made.set_defaults(script=name)
    return made


def add_sizes(made: argparse.ArgumentParser) -> None:
    """Add the options of experiments on models of several sizes."""
    made.add_argument("--sizes", help="width and hidden size of the models, as 30,100; default: by data set, --full")
    made.add_argument("--train-only", action="store_true", help="train the missing models and stop")


def add_batch_size(made: argparse.ArgumentParser) -> None:
    """Add the option that `schedule` reads; results that are kept on disk must be kept by this size too."""
    made.add_argument("--batch-size", type=int, help="samples per step of every training; default: by data set")


def parse(made: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Return the parsed options: seeds are checked, and sizes of `add_sizes` become numbers."""
    options = made.parse_args(argv)
    if "sizes" in options:
        known = (FULL if options.full else SIZES)[options.dataset]
        options.sizes = known if options.sizes is None else sizes_of("--sizes", options.sizes)
    if options.seeds is not None:
        check_int("--seeds", options.seeds, 1)
    if "batch_size" in options and options.batch_size is not None:
        check_int("--batch-size", options.batch_size, 1)
    return options


def sizes_of(name: str, text: str) -> tuple[int, ...]:
    """Return the sizes of an option such as "30,100", each once."""
    try:
        found = [int(size) for size in text.split(",")]
    except ValueError:
        raise ValueError(f"{name} must be whole numbers separated by commas, as 30,100; got {text!r}") from None
    return tuple(dict.fromkeys(check_int(name, size, 1) for size in found))


def decays_of(text: str) -> tuple[float, ...]:
    """Return the weight decays of an option such as "0,1", each once."""
    try:
        found = [float(decay) for decay in text.split(",")]
    except ValueError:
        raise ValueError(f"--decays must be numbers separated by commas, as 0,1; got {text!r}") from None
    return tuple(dict.fromkeys(check_number("--decays", decay, 0.0) for decay in found))


def out_folder(options: argparse.Namespace) -> Path:
    """Return the folder of the results, and make it if it is missing."""
    out = Path(options.out or f"out/{options.script}/{options.dataset}")
    out.mkdir(parents=True, exist_ok=True)
    return out


def dataset_of(options: argparse.Namespace) -> Dataset:
    """Return the data set that the options name."""
    return load_dataset(options.dataset, options.data_root, device=options.device, download=options.download)


def classifier(data: Dataset, width: int | None = None, **changes: object) -> ClassifierConfig:
    """Return the config of a one-layer classifier of `data`, with `changes` of its fields.

    `width` is the embedding and hidden size; None means the preset's.
    """
    size = int(PRESETS[data.name]["width"]) if width is None else width
    fields: dict[str, object] = {"inputs": data.train_x.shape[1], "width": size, "hidden": size}
    return ClassifierConfig(**fields | {"classes": len(data.class_names)} | changes)  # type: ignore[arg-type]


def schedule(data: Dataset, options: argparse.Namespace, **changes: object) -> TrainingConfig:
    """Return the preset's training of `data`, with noise on every sample and with `changes` of its fields.

    `--epochs` and `--batch-size`, if given, override those of the preset.
    """
    preset = PRESETS[data.name]
    fields: dict[str, object] = {
        "epochs": int(preset["epochs"]),
        "lr": preset["lr"],
        "batch_size": int(preset["batch_size"]),
        "noise_probability": 1.0,
    }
    if options.epochs is not None:
        changes |= {"epochs": options.epochs}
    if "batch_size" in options and options.batch_size is not None:
        changes |= {"batch_size": options.batch_size}
    return TrainingConfig(**fields | changes)  # type: ignore[arg-type]
