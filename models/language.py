"""Training of language models that resumes bit by bit, held-out loss, and generation of text."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from models import processes
from models.training import History, train_mode
from models.training_state import TrainingState
from models.transformer import LanguageModel
from models.windows import Windows, check_tokens
from tensornet_interp.checks import check_choice, check_int, check_number
from tensornet_interp.keys import digest

SCHEDULES: dict[str, Callable[[float], float]] = {  # share of the steps after the warm-up -> factor of lr
    "constant": lambda share: 1.0,
    "linear": lambda share: 1.0 - share,
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
}
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class LanguageConfig:
    """A `LanguageConfig` says how `train_language` trains a model.

    A step uses `batch_size` sequences of `context` tokens, in `accumulation` parts. `steps=None` means `epochs` over
    the text. The learning rate rises over `warmup` steps, then follows `schedule`. Weight decay acts on all matrices
    but the embedding, where it would shrink the rows of rare tokens; it does not act on vectors. "bfloat16" is mixed
    precision, on CUDA only. `clip` bounds the norm of the gradient; 0 means no bound.
    """

    epochs: float = 4.0
    steps: int | None = None
    batch_size: int = 16
    accumulation: int = 1
    lr: float = 2e-3
    weight_decay: float = 0.1
    warmup: int = 50
    schedule: str = "linear"
    clip: float = 1.0
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("epochs", self.epochs, 0.0)
        if self.steps is not None:
            check_int("steps", self.steps, 1)
        for name in ("batch_size", "accumulation"):
            check_int(name, getattr(self, name), 1)
        for name in ("lr", "weight_decay", "clip"):
            check_number(name, getattr(self, name), 0.0)
        check_int("warmup", self.warmup, 0)
        check_int("seed", self.seed, 0)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("precision", self.precision, PRECISIONS)
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size must be a multiple of accumulation, got {self.batch_size} and {self.accumulation}"
            )

    def count_steps(self, windows: int) -> int:
        """Return the number of steps of the whole training on a text of this many windows."""
        return self.steps or max(1, round(self.epochs * windows / self.batch_size))

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate at `step` (counted from 0) of `steps`."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * SCHEDULES[self.schedule]((step - self.warmup) / max(1, steps - self.warmup))


def train_language(
    model: LanguageModel,
    tokens: Tensor,
    config: LanguageConfig,
    folder: str | Path | None = None,
    *,
    held_out: Tensor | None = None,
    callback: Callable[[int, LanguageModel], None] | None = None,
    extra: Mapping[str, Any] | None = None,
    every: int = 100,
    progress: bool = True,
) -> History:
    """Train the model in place with AdamW, on the mean over tokens of -log softmax(model(tokens before))[token].

    `tokens` is (count,), int64 or uint16 (`load_tokens`), on any device. The text is cut into windows of context + 1
    tokens; the last token of a window is the first of the next. Each epoch takes every window once, in an order set by
    seed and epoch. `callback(step, model)` is called before every step, from 0, also in a resumed run. Every `every`
    steps and at the end there is a record: step, epoch, loss (mean over the steps since the last record), lr, seconds
    (of training, summed over resumed parts), and held_out_loss if `held_out` tokens are given.

    With `folder`, one file there keeps the state (weights, moments, step, records) of every record. A state is kept
    only if its loss is finite. A run that was stopped continues from it with the same result, on the CPU bit by bit.
    A finished run is read back without a step and without a call of `callback`. `extra` holds JSON values that also
    decide the result, such as the options of the callback. Raises ValueError, showing both, if the state has other
    settings: config, model, text, initial weights or `extra`.

    If several processes call this with the same arguments (`models.processes`), each takes its share of every batch,
    which must divide evenly; the losses are those of one process up to rounding. Only the first one writes. A state is
    of as many processes as wrote it, and others refuse it.

    Raises ValueError for a text shorter than one window, for tokens that the model lacks, for mixed precision without
    CUDA, and for processes that differ; FloatingPointError, naming the step and the kept state, for a loss or gradient
    that is not finite. Cost: 6 flops per parameter and token. Disk: three times the model.
    """
    check_int("every", every, 1)
    device, text = next(model.parameters()).device, Windows(tokens, model.config.context, config.seed)
    check_tokens(tokens, model.config.vocabulary)
    if config.precision == "bfloat16" and device.type != "cuda":
        raise ValueError(f"precision='bfloat16' needs a model on a CUDA device, this one is on {device.type}")
    steps = config.count_steps(len(text))
    optimizer = _optimizer(model, config)
    settings: dict[str, Any] = {"config": asdict(config), "model": model.config.settings(), "extra": dict(extra or {})}
    settings |= {"every": every, "text": text.digest(), "initial weights": digest(*model.parameters())}
    network: nn.Module = model
    shares = config.accumulation * processes.count()  # of a batch; each process takes every count-th one
    each = config.batch_size // shares
    if processes.count() > 1:
        settings["processes"] = processes.count()
        _check_processes(config, settings)
        network = DistributedDataParallel(model)
    state = TrainingState(folder, json.loads(json.dumps(settings)))
    done, records, seconds = state.load(model, optimizer, steps)
    total = 0.0  # a state is kept where a record ends
    bar = tqdm(total=steps, initial=done, desc=f"train, gate {model.config.gate}", unit="step", disable=not progress)
    with bar, train_mode(model, training=True), torch.enable_grad():
        for step in range(done, steps):
            start = time.perf_counter()
            if callback is not None:
                callback(step, model)
            optimizer.zero_grad()
            loss = 0.0
            for share in range(processes.number(), shares, processes.count()):
                part = text.batch(step * config.batch_size + share * each, each).to(device)  # (sequence, context + 1)
                with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                    logits = network(part[:, :-1])  # (sequence, context, vocabulary)
                mean = functional.cross_entropy(_wide(logits).flatten(0, 1), part[:, 1:].flatten())
                (mean / config.accumulation).backward()
                loss += mean.item() / config.accumulation
            loss = processes.mean(loss, device)
            size = float(nn.utils.clip_grad_norm_(model.parameters(), config.clip or math.inf))
            if not math.isfinite(loss) or not math.isfinite(size):
                raise FloatingPointError(
                    f"the loss is {loss} and the norm of its gradient is {size} at step {step} of {steps}; lower "
                    f"lr={config.lr}; {state.kept()}"
                )
            if step == 0 or (step % every == 0 and step > done):  # only now its loss is known to be finite
                state.save(model, optimizer, step, records, seconds)
            lr = config.rate(step, steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            with torch.device("cpu"):  # AdamW counts its steps here
                optimizer.step()
            total += loss
            seconds += time.perf_counter() - start
            bar.update()
            if (step + 1) % every == 0 or step + 1 == steps:
                since = (step + 1) - (int(records[-1]["step"]) if records else 0)
                record: dict[str, Any] = {"step": step + 1, "epoch": (step + 1) * config.batch_size / len(text)}
                record |= {"loss": total / since, "lr": lr, "seconds": seconds}
                if held_out is not None:
                    record["held_out_loss"] = processes.of_first(lambda: held_out_loss(model, held_out))
                records.append(record)
                total = 0.0
                bar.set_postfix(loss=f"{record['loss']:.3f}")
    optimizer.zero_grad()
    if done < steps:
        if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
            raise FloatingPointError(f"the last step, {steps}, gave weights that are not finite; {state.kept()}")
        state.save(model, optimizer, steps, records, seconds)
        processes.wait()  # what the first one wrote is there for all
    return History(records)


def _wide(logits: Tensor) -> Tensor:
    """Return logits in float32, or in float64 if they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _check_processes(config: LanguageConfig, settings: dict[str, Any]) -> None:
    count, parts = processes.count(), config.batch_size // config.accumulation
    if parts % count:
        raise ValueError(
            f"batch_size / accumulation must be a multiple of the number of processes, got {parts} and {count}"
        )
    if len(set(processes.gathered(digest(settings)))) > 1:
        raise ValueError("the processes differ in model, text or config: each needs the same seeds and files")


def token_losses(model: LanguageModel, tokens: Tensor, batch_size: int = 32) -> Tensor:
    """Return the loss of every token but the first, in nats: (count - 1,), float32, or float64 as the model.

    loss[token] = -log softmax(model(tokens before))[token]

    The text is cut into windows of `context` tokens, so a token sees 1 to `context` tokens before it. The last window
    may be shorter. The model runs in eval mode without gradients, and its mode is restored.
    """
    check_int("batch_size", batch_size, 1)
    if tokens.ndim != 1 or len(tokens) < 2:
        raise ValueError(f"tokens must be one sequence of at least 2, got shape {tuple(tokens.shape)}")
    check_tokens(tokens, model.config.vocabulary)
    context, device = model.config.context, next(model.parameters()).device
    whole = (len(tokens) - 1) // context
    losses = []
    with train_mode(model, training=False), torch.no_grad():
        starts = [range(i, min(i + batch_size, whole)) for i in range(0, whole, batch_size)]
        batches = [[tokens[i * context : (i + 1) * context + 1] for i in chosen] for chosen in starts]
        rest = tokens[whole * context :]
        for batch in [*batches, *([[rest]] if len(rest) > 1 else [])]:
            windows = torch.stack([window.long() for window in batch]).to(device)
            logits = _wide(model(windows[:, :-1]))
            losses.append(functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction="none"))
    return torch.cat(losses)


def held_out_loss(model: LanguageModel, tokens: Tensor, batch_size: int = 32) -> float:
    """Return the mean of `token_losses`, in nats per token."""
    return float(token_losses(model, tokens, batch_size).double().mean())


def generate(
    model: LanguageModel,
    tokens: Tensor,
    n: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return `tokens` (..., position) with `n` more tokens, each drawn from softmax(logits / temperature).

    With `top_k`, only the `top_k` likeliest tokens are drawn. `temperature=0` takes the likeliest token. The model sees
    only the last `context` tokens. A draw needs a `generator` on the model's device.
    Cost: one forward pass per token; nothing is cached.
    """
    check_int("n", n, 0)
    check_number("temperature", temperature, 0.0)
    if top_k is not None:
        check_int("top_k", top_k, 1, model.config.vocabulary)
    if temperature and generator is None:
        raise ValueError("generator is missing: a draw needs one, temperature=0 does not")
    if tokens.ndim == 0 or tokens.shape[-1] == 0:
        raise ValueError(f"tokens must hold at least one token to continue from, got shape {tuple(tokens.shape)}")
    check_tokens(tokens, model.config.vocabulary)
    tokens, shape = tokens.long().reshape(-1, tokens.shape[-1]), tokens.shape[:-1]
    with train_mode(model, training=False), torch.no_grad():
        for _ in range(n):
            logits = model(tokens[:, -model.config.context :])[:, -1].float()  # (sequence, vocabulary)
            if not temperature:
                new = logits.argmax(-1, keepdim=True)
            else:
                if top_k is not None:
                    logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -math.inf)
                new = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
            tokens = torch.cat([tokens, new], -1)
    return tokens.reshape(*shape, -1)


def _optimizer(model: LanguageModel, config: LanguageConfig) -> torch.optim.AdamW:
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    free = [parameter for parameter in model.parameters() if parameter.ndim < 2 or id(parameter) in embeddings]
    left_alone = {id(parameter) for parameter in free}
    decayed = [parameter for parameter in model.parameters() if id(parameter) not in left_alone]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95), weight_decay=config.weight_decay)
