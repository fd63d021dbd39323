"""Classifiers that are trained once and kept on disk."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.attacks import PGD
from models.augment import Perturbation
from models.bilinear import BilinearClassifier, ClassifierConfig, build_classifier
from models.data import Dataset
from models.storage import WEIGHTS, load_info, load_model, save_model
from models.training import TrainingConfig, train
from tensornet_interp.keys import digest
from tensornet_interp.names import Names


def trained(
    folder: str | Path,
    data: Dataset,
    config: ClassifierConfig,
    training: TrainingConfig,
    *,
    perturbation: Perturbation | None = None,
    attack: PGD | None = None,
    progress: bool = True,
) -> BilinearClassifier:
    """Return the classifier of these settings: read from `folder` if it is there, otherwise trained and saved there.

    `training.seed` decides initial weights and training. The model's place is `folder/DATASET-DIGEST`. The digest is of
    everything that decides the result: config, training, name of the perturbation, options of the attack, and images,
    labels and dtype of the data set. The saved config holds these settings in full, and they are compared when the
    model is read. If a training is stopped, nothing of it is read later, and the next call trains again.

    Raises ValueError if a stored model has other settings, or if a perturbation that changes something has no name.
    """
    name, images, hidden = Perturbation() if perturbation is None else perturbation
    if (images is None and hidden is None) != (name == ""):
        raise ValueError(f"a perturbation and its name go together, got {perturbation}")
    settings: dict[str, Any] = {"dataset": data.name, "training": asdict(training), "transform": name}
    settings["data"] = digest(data.train_x, data.train_y, data.test_x, data.test_y, data.shape, data.class_names)
    if attack is not None:  # absent without one, so that models from before there were attacks keep their place
        settings["attack"] = asdict(attack)
    place = Path(folder) / f"{data.name}-{digest(settings, asdict(config))}"
    device = data.train_x.device
    if (place / WEIGHTS).exists():
        info = load_info(place)
        if info["extra"] != settings or info["config"] != asdict(config):
            raise ValueError(f"{place} holds a model of other settings: {info['extra']}, {info['config']}; remove it")
        model = load_model(place, device=device)
        if not isinstance(model, BilinearClassifier):
            raise ValueError(f"{place} holds a {type(model).__name__}, not a BilinearClassifier; remove it")
        model.names = Names(output_names=data.class_names, input_shape=data.shape)
        return model
    model = build_classifier(config, training.seed, device=device, dtype=data.train_x.dtype)
    history = train(model, data, training, progress, transform=images, hidden=hidden, attack=attack)
    history.to_csv(place / "history.csv")
    save_model(model, place, extra=settings)
    return model
