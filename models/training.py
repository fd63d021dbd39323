"""The training loop for classifiers: AdamW, a cosine schedule, input noise, an attack, and a record per epoch."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from models.attacks import PGD
from models.bilinear import BilinearClassifier
from models.data import Dataset
from models.tables import write_table
from tensornet_interp.checks import check_bool, check_int, check_kind, check_number
from tensornet_interp.names import Names

Record = dict[str, float | int]
# images (batch, h * w) and the random stream of the run -> randomly changed images
Transform = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class TrainingConfig:
    """A `TrainingConfig` holds the options of `train`; the defaults are those of a common exercise model for MNIST.

    A batch is never larger than the training set: a larger `batch_size` means all samples at once. `drop_last` leaves
    out the last, smaller batch of each epoch, which holds other samples every time. `noise` is the standard deviation
    of Gaussian noise on the pixels. Each sample gets noise with probability `noise_probability`, independently.
    """

    epochs: int = 20
    lr: float = 1e-3
    weight_decay: float = 0.5
    batch_size: int = 2048
    drop_last: bool = True
    noise: float = 0.4
    noise_probability: float = 0.5
    seed: int = 42

    def __post_init__(self) -> None:
        check_int("epochs", self.epochs, 1)
        check_number("lr", self.lr, 0.0)
        check_number("weight_decay", self.weight_decay, 0.0)
        check_int("batch_size", self.batch_size, 1)
        check_bool("drop_last", self.drop_last)
        check_number("noise", self.noise, 0.0)
        check_number("noise_probability", self.noise_probability, 0.0, 1.0)
        check_int("seed", self.seed, 0)


@dataclass(frozen=True)
class History:
    """A `History` holds one record per epoch of a training.

    A record has epoch (from 1), train_loss and train_accuracy (means over the batches as they were trained on, with
    noise and attack), test_accuracy, lr (of the last step), seconds (without the test), and data_seconds (the part of
    seconds that went into batches and noise).
    """

    records: list[Record] = field(default_factory=list)

    def to_csv(self, path: str | Path) -> None:
        """Write the records as a CSV file with one line per record."""
        write_table(path, self.records)


def train(
    model: nn.Module,
    dataset: Dataset,
    config: TrainingConfig,
    progress: bool = True,
    callback: Callable[[int, nn.Module], None] | None = None,
    transform: Transform | None = None,
    hidden: Transform | None = None,
    attack: PGD | None = None,
) -> History:
    """Train the model in place with AdamW, on the mean over samples of -log softmax(model(x))[y].

    The learning rate falls from `lr` to 0 as half a cosine over all steps. Model and data stay on their device. Order
    and noise come from a random stream of their own: the same seed gives the same run on the same device. The global
    random streams, the grad mode and the model's train mode are left as they were. `callback(epoch, model)` is called
    after every epoch, for example to save a checkpoint. `transform(images, generator)` changes every training batch
    before the noise is added (translation, blur, ...). `hidden(vectors, generator)` changes the outputs of the
    embedding and of every block of a `BilinearClassifier` in every training step (dropout, ...). `attack` moves
    every noisy batch to where the loss of the present model is higher, so that the model is trained on these images
    (adversarial training).

    Raises ValueError, before any work, if model and data differ in device, dtype or number of classes; TypeError if
    `hidden` is given for another model; FloatingPointError, naming the step, if the loss is not finite.
    Cost: three forward passes per step, and two more per step of an attack. Every step waits for its loss, so a NaN is
    found in the step that made it.
    """
    if attack is not None:
        check_kind("attack", attack, PGD)
    x, y = dataset.train_x, dataset.train_y
    _check_match(model, dataset)
    if isinstance(model, BilinearClassifier):
        model.names = Names(output_names=dataset.class_names, input_shape=dataset.shape)
    batch_size = min(config.batch_size, len(x))
    steps = len(x) // batch_size if config.drop_last else math.ceil(len(x) / batch_size)
    generator = torch.Generator(device=x.device).manual_seed(config.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=config.epochs * steps)
    history = History()
    bar = tqdm(range(1, config.epochs + 1), desc=f"train on {dataset.name}", unit="epoch", disable=not progress)
    for epoch in bar:
        start, data_seconds, lr = time.perf_counter(), 0.0, config.lr
        total, correct, seen = 0.0, 0, 0
        with train_mode(model, training=True), torch.enable_grad(), _changed_within(model, hidden, generator):
            order = torch.randperm(len(x), generator=generator, device=x.device)
            for step in range(steps):
                data_start = time.perf_counter()
                chosen = order[step * batch_size : (step + 1) * batch_size]
                images = x[chosen] if transform is None else transform(x[chosen], generator)
                batch = _add_noise(images, config, generator)
                labels = y[chosen]
                _wait(x.device)
                data_seconds += time.perf_counter() - data_start
                if attack is not None:
                    batch = attack(model, batch, labels)
                optimizer.zero_grad()
                logits = model(batch)  # (batch, classes)
                loss = functional.cross_entropy(logits, labels)
                value = loss.item()
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"the loss is {value} at step {step + 1} of {steps} in epoch {epoch}; lower lr={config.lr}"
                    )
                loss.backward()
                lr = optimizer.param_groups[0]["lr"]
                with torch.device("cpu"):  # AdamW counts its steps here
                    optimizer.step()
                schedule.step()
                total += value * len(labels)
                correct += int((logits.argmax(-1) == labels).sum())
                seen += len(labels)
            optimizer.zero_grad()
            _wait(x.device)
        seconds = time.perf_counter() - start
        record: Record = {
            "epoch": epoch,
            "train_loss": total / seen,
            "train_accuracy": correct / seen,
            "test_accuracy": accuracy(model, dataset.test_x, dataset.test_y),
            "lr": lr,
            "seconds": seconds,
            "data_seconds": data_seconds,
        }
        history.records.append(record)
        bar.set_postfix(loss=f"{record['train_loss']:.4f}", test=f"{record['test_accuracy']:.4f}")
        if callback is not None:
            callback(epoch, model)
    return history


def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 8192) -> float:
    """Return the share of samples with argmax model(x) == y.

    The model runs in eval mode without gradients, and its mode is restored.
    """
    check_int("batch_size", batch_size, 1)
    if len(x) == 0 or len(x) != len(y):
        raise ValueError(f"x and y need the same number of samples, at least 1, got {len(x)} and {len(y)}")
    with train_mode(model, training=False), torch.no_grad():
        right = [
            (model(inputs).argmax(-1) == labels).sum()
            for inputs, labels in zip(x.split(batch_size), y.split(batch_size), strict=True)
        ]
    return int(torch.stack(right).sum()) / len(x)


def _add_noise(batch: Tensor, config: TrainingConfig, generator: torch.Generator) -> Tensor:
    if config.noise == 0 or config.noise_probability == 0:
        return batch
    device, dtype = batch.device, batch.dtype
    chosen = torch.rand(len(batch), 1, generator=generator, device=device, dtype=dtype) < config.noise_probability
    noise = torch.randn(batch.shape, generator=generator, device=device, dtype=dtype)
    return batch + config.noise * chosen.to(dtype) * noise


@contextmanager
def _changed_within(model: nn.Module, hidden: Transform | None, generator: torch.Generator) -> Iterator[None]:
    if hidden is None:
        yield
        return
    if not isinstance(model, BilinearClassifier):
        raise TypeError(f"hidden changes vectors within a BilinearClassifier, got a {type(model).__name__}")
    parts = [part for part in (model.embedding, *model.blocks) if part is not None]
    handles = [part.register_forward_hook(lambda module, x, y: hidden(y, generator)) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_match(model: nn.Module, dataset: Dataset) -> None:
    x = dataset.train_x
    parameters = list(model.parameters())
    if not parameters:
        raise ValueError("model has no parameters to train")
    for name, parameter in model.named_parameters():
        if parameter.device != x.device or parameter.dtype != x.dtype:
            raise ValueError(
                f"model parameter {name!r} is {parameter.dtype} on {parameter.device} but the data set "
                f"{dataset.name!r} is {x.dtype} on {x.device}; load the data there or move the model"
            )
    with train_mode(model, training=False), torch.no_grad():
        shape = tuple(model(x[:1]).shape)
    if shape != (1, len(dataset.class_names)):
        raise ValueError(
            f"model gives {shape[-1] if shape else 0} outputs (shape {shape} for one sample) but the data set "
            f"{dataset.name!r} has {len(dataset.class_names)} classes"
        )


@contextmanager
def train_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put `model` in train mode or in eval mode inside a `with` block; afterwards every module has its old mode."""
    # Restored module by module, because a part may have been frozen in eval mode on purpose.
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


def _wait(device: torch.device) -> None:
    if device.type == "cuda":  # kernels run asynchronously: without this wait the times are wrong
        torch.cuda.synchronize(device)
