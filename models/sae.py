"""Training of TopK autoencoders (Gao et al. 2024) on a model's vectors."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from models.transformer import Transformer
from models.vectors import VectorBuffer
from tensornet_interp.checks import check_int, check_number, check_tensor
from tensornet_interp.features import Dictionary

Record = dict[str, float | int]


@dataclass(frozen=True)
class SAEConfig:
    """An `SAEConfig` holds the options of `train_autoencoder`.

    There are `expansion` d features, `k` of them active, and training takes `steps` batches of `batch_size` vectors.
    The learning rate is constant, so a long run passes through the states of shorter ones. The callback gets the
    dictionary after each number of steps in `checkpoints`, and after the last step. A feature is dead if it did not
    fire on the last `dead_after` tokens. `buffer` is the number of vectors that are shuffled together.
    """

    expansion: int = 4
    k: int = 16
    lr: float = 1e-3
    batch_size: int = 1024
    steps: int = 1000
    checkpoints: tuple[int, ...] = ()
    dead_after: int = 50_000
    buffer: int = 2**15
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("expansion", "k", "batch_size", "steps", "dead_after"):
            check_int(name, getattr(self, name), 1)
        check_int("buffer", self.buffer, 2 * self.batch_size, why="two batches")
        check_int("seed", self.seed, 0)
        check_number("lr", self.lr, 0.0, low_open=True)
        if not isinstance(self.checkpoints, tuple):
            raise TypeError(f"checkpoints must be a tuple of steps, got {type(self.checkpoints).__name__}")
        for step in self.checkpoints:
            check_int("checkpoints", step, 1, self.steps, f"there are steps={self.steps}")


class TopKAutoencoder(nn.Module):
    """A `TopKAutoencoder` reconstructs vectors x from at most k active features f.

    x' = w_dec f + b_dec, with f = relu(top k of w_enc (x - b_dec))

    x and x' are (..., d), f is (..., feature). At the start, the columns of w_dec (d, feature) have length 1 and random
    directions, w_enc (feature, d) is the transpose of w_dec, and b_dec (d,) is `mean`. There is no encoder bias.
    """

    def __init__(self, d: int, config: SAEConfig, *, mean: Tensor) -> None:
        super().__init__()
        features = d * config.expansion
        self.k = check_int("k", config.k, 1, features, f"expansion {config.expansion} of d={d}")
        generator = torch.Generator().manual_seed(config.seed)
        drawn = torch.randn(features, d, generator=generator, dtype=torch.float32, device="cpu")
        columns = functional.normalize(drawn, dim=1).to(mean)  # (feature, d)
        self.w_dec = nn.Parameter(columns.T.contiguous())
        self.w_enc = nn.Parameter(columns.clone())
        self.b_dec = nn.Parameter(mean.detach().clone())

    def encode(self, x: Tensor) -> Tensor:
        """Return the features f: (..., d) -> (..., feature)."""
        top = ((x - self.b_dec) @ self.w_enc.T).topk(self.k, dim=-1)
        f = x.new_zeros(*x.shape[:-1], len(self.w_enc))
        return f.scatter(-1, top.indices, top.values.relu())

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction x': (..., d) -> (..., d)."""
        y: Tensor = self.encode(x) @ self.w_dec.T + self.b_dec
        return y

    @torch.no_grad()
    def remove_radial_gradient(self) -> None:
        """Remove from the gradient of each decoder column the part that would change its length.

        grad -> grad - (grad . column) column
        """
        if self.w_dec.grad is not None:
            self.w_dec.grad -= (self.w_dec.grad * self.w_dec).sum(0) * self.w_dec

    @torch.no_grad()
    def normalize(self) -> None:
        """Scale the decoder columns to length 1."""
        self.w_dec.div_(self.w_dec.norm(dim=0).clamp(min=torch.finfo(self.w_dec.dtype).tiny))

    def dictionary(self, *, name: str = "", point: str = "") -> Dictionary:
        """Return the present weights as a `Dictionary`, which holds copies."""
        w_enc, w_dec, b_dec = (part.detach().clone() for part in (self.w_enc, self.w_dec, self.b_dec))
        return Dictionary(w_enc, w_dec, decoder_bias=b_dec, k=self.k, name=name, point=point)


def train_autoencoder(
    batches: Iterable[Tensor],
    config: SAEConfig,
    *,
    callback: Callable[[int, TopKAutoencoder], None] | None = None,
    progress: bool = True,
) -> tuple[TopKAutoencoder, list[Record]]:
    """Train an autoencoder on batches (batch, d) with Adam, and return it with a record of the training.

    loss = sum |x - x'|^2 / sum |x - mean|^2, with the mean over the batch

    The decoder bias starts as the mean of the first batch. Before each step, the part of the gradient along the decoder
    columns is removed; after it, the columns are scaled to length 1. `callback(step, autoencoder)` is called at every
    checkpoint and after the last step. `batches` must last for config.steps. There are about 50 records: step, tokens,
    nmse (of the batch), active (features per token), dead (share of features that did not fire on the last `dead_after`
    tokens, or on all tokens so far if there are fewer).

    Raises ValueError if the batches end early; FloatingPointError, naming the step, if the loss is not finite. The last
    good state is then the one that `callback` got last.
    Cost: 12 d features flops per token, and a search for the k largest features.
    """
    stream, autoencoder, optimizer = iter(batches), None, None
    records: list[Record] = []
    every = max(1, config.steps // 50)
    since = torch.empty(0, device="cpu")
    bar = tqdm(range(1, config.steps + 1), desc="autoencoder", unit="step", disable=not progress)
    tokens = 0
    for step in bar:
        x = next(stream, None)
        if x is None:
            raise ValueError(f"batches ended after {step - 1} of steps={config.steps}; see VectorBuffer.endless")
        if autoencoder is None or optimizer is None:
            check_tensor("batches", x, ("batch", "d"))
            autoencoder = TopKAutoencoder(x.shape[1], config, mean=x.mean(0))
            optimizer = torch.optim.Adam(autoencoder.parameters(), lr=config.lr)
            since = torch.zeros(len(autoencoder.w_enc), dtype=torch.int64, device=x.device)
        with torch.enable_grad():
            f = autoencoder.encode(x)
            error = (f @ autoencoder.w_dec.T + autoencoder.b_dec - x).square().sum()
            loss = error / (x - x.mean(0)).square().sum()
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value} at step {step} of {config.steps}; lower lr={config.lr:g}")
        optimizer.zero_grad()
        loss.backward()
        autoencoder.remove_radial_gradient()
        with torch.device("cpu"):  # Adam counts its steps here
            optimizer.step()
        autoencoder.normalize()
        tokens += len(x)
        fired = (f > 0).any(0)
        since = torch.where(fired, 0, since + len(x))
        if step % every == 0 or step == config.steps:
            dead = float((since >= min(config.dead_after, tokens)).double().mean())
            active = float((f > 0).sum() / len(f))
            records.append({"step": step, "tokens": tokens, "nmse": value, "active": active, "dead": dead})
            bar.set_postfix(nmse=f"{value:.3f}", dead=f"{dead:.2f}")
        kept = step in config.checkpoints or step == config.steps
        if kept and not all(bool(torch.isfinite(part).all()) for part in autoencoder.parameters()):
            raise FloatingPointError(f"step {step} of {config.steps} gave weights that are not finite")
        if callback is not None and kept:
            callback(step, autoencoder)
    if autoencoder is None:
        raise ValueError("there were no batches")
    return autoencoder, records


def autoencoder_at(
    model: Transformer,
    windows: Tensor,
    layer: int,
    point: str,
    config: SAEConfig,
    *,
    callback: Callable[[int, Dictionary], None] | None = None,
    progress: bool = True,
) -> tuple[Dictionary, list[Record]]:
    """Train an autoencoder on the vectors at the hook point (layer, point), and return its dictionary and the records.

    `windows` is (window, position); the model reads the windows as often as needed. `callback(step, dictionary)` is
    called at the checkpoints. The dictionary has the name of its folder in the published layout. Raises ValueError for
    a point that does not exist, and lists the points that do. See `train_autoencoder` for the rest.
    """
    buffer = VectorBuffer(model, windows, layer, point, config.buffer, config.batch_size, config.seed)
    place = {"name": f"{layer}-{point}-x{config.expansion}-k{config.k}", "point": f"{layer}-{point}"}

    def handed(step: int, autoencoder: TopKAutoencoder) -> None:
        if callback is not None:
            callback(step, autoencoder.dictionary(**place))

    autoencoder, records = train_autoencoder(buffer.endless(), config, callback=handed, progress=progress)
    return autoencoder.dictionary(**place), records
