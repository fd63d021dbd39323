"""TopK autoencoders (Gao et al. 2024) of a model's vectors: training, and folders in the published layout."""

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
    """Options of `train_autoencoder`: `expansion` d features, `k` of them active, `steps` batches of `batch_size`.

    The learning rate is constant, so that a run of more steps passes through the shorter ones: `checkpoints` are the
    numbers of steps after which the dictionary is handed out, the last step always being one. A feature is dead that
    did not fire on the last `dead_after` tokens. `buffer`: vectors that are shuffled together.
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
    """x' = w_dec f + b_dec, f = relu(top k of w_enc (x - b_dec)): (..., d) -> (..., d)

    w_enc (feature, d) starts as the transpose of w_dec (d, feature), whose columns have length 1 and random directions;
    b_dec (d,) starts as `mean`. There is no encoder bias.
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
        """f of the class's equation, (..., feature)."""
        top = ((x - self.b_dec) @ self.w_enc.T).topk(self.k, dim=-1)
        f = x.new_zeros(*x.shape[:-1], len(self.w_enc))
        return f.scatter(-1, top.indices, top.values.relu())

    def forward(self, x: Tensor) -> Tensor:
        """The class's equation."""
        y: Tensor = self.encode(x) @ self.w_dec.T + self.b_dec
        return y

    @torch.no_grad()
    def remove_radial_gradient(self) -> None:
        """Drop what would change the length of a decoder column from its gradient: grad - (grad . column) column."""
        if self.w_dec.grad is not None:
            self.w_dec.grad -= (self.w_dec.grad * self.w_dec).sum(0) * self.w_dec

    @torch.no_grad()
    def normalize(self) -> None:
        """Decoder columns back to length 1."""
        self.w_dec.div_(self.w_dec.norm(dim=0).clamp(min=torch.finfo(self.w_dec.dtype).tiny))

    def dictionary(self, *, name: str = "", point: str = "") -> Dictionary:
        """The `Dictionary` of the present weights, which are copied."""
        w_enc, w_dec, b_dec = (part.detach().clone() for part in (self.w_enc, self.w_dec, self.b_dec))
        return Dictionary(w_enc, w_dec, decoder_bias=b_dec, k=self.k, name=name, point=point)


def train_autoencoder(
    batches: Iterable[Tensor],
    config: SAEConfig,
    *,
    callback: Callable[[int, TopKAutoencoder], None] | None = None,
    progress: bool = True,
) -> tuple[TopKAutoencoder, list[Record]]:
    """Minimise sum |x - x'|^2 / sum |x - mean|^2 over every batch (batch, d), with Adam at a constant learning rate

    mean: over the batch in the loss; over the first batch where the bias starts. After every step the decoder's columns
    are brought back to length 1; the part of the gradient along them is dropped before. `callback(step, autoencoder)`
    is called at every checkpoint and after the last step. `batches` must last for config.steps.
    Returns the autoencoder and about 50 records: step, tokens, nmse (of the batch), active (features a token), dead
    (share of features that did not fire on the last `dead_after` tokens, or on all so far while there are fewer).

    Raises ValueError where the batches end early, FloatingPointError, naming the step, where the loss is not finite:
    what was handed to `callback` until then is the last good state.
    Cost a token: 12 d features flops and the k largest of the features.
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
        with torch.device("cpu"):  # where Adam counts its steps
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
    """`train_autoencoder` on what passes at (layer, point) while the model reads the windows, as often as is needed

    windows: (window, position). callback(step, dictionary) at the checkpoints. The dictionary is named as its folder in
    the published layout. Raises ValueError for a point that does not exist; it lists those that do.
    """
    buffer = VectorBuffer(model, windows, layer, point, config.buffer, config.batch_size, config.seed)
    place = {"name": f"{layer}-{point}-x{config.expansion}-k{config.k}", "point": f"{layer}-{point}"}

    def handed(step: int, autoencoder: TopKAutoencoder) -> None:
        if callback is not None:
            callback(step, autoencoder.dictionary(**place))

    autoencoder, records = train_autoencoder(buffer.endless(), config, callback=handed, progress=progress)
    return autoencoder.dictionary(**place), records
