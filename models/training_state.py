"""The state of a training on disk: one safetensors file, weights and moments as tensors, the rest as JSON in it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from tensornet_interp.disk import replace_files

FILE = "training.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


class TrainingState:
    """What `folder` keeps of a training with these settings (JSON values); without a folder nothing is kept."""

    def __init__(self, folder: str | Path | None, settings: dict[str, Any]) -> None:
        self.path = None if folder is None else Path(folder) / FILE
        self.settings = settings
        self.step: int | None = None  # of the state on disk

    def load(self, model: nn.Module, optimizer: torch.optim.AdamW) -> tuple[int, list[dict[str, Any]], float]:
        """Steps done, records, seconds; weights and moments set in place

        Raises ValueError where the file is broken or of other settings: both are shown.
        """
        if self.path is None or not self.path.is_file():
            return 0, [], 0.0
        try:
            with safe_open(self.path, "pt") as file:
                info = json.loads((file.metadata() or {})["training"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{self.path} is corrupt or no state of a training: {error}") from error
        found = info["settings"]
        if found != self.settings:
            raise ValueError(f"{self.path} is of other settings; {differences(found, self.settings)}")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
                if info["step"]:
                    optimizer.state[parameter] = {"step": torch.tensor(float(info["step"]))} | {
                        key: tensors[f"{key}.{name}"].to(parameter.device) for key in MOMENTS
                    }
        self.step = info["step"]
        return info["step"], info["records"], info["seconds"]

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.AdamW,
        step: int,
        records: list[dict[str, Any]],
        seconds: float,
    ) -> None:
        """Replace the state on disk, in one step."""
        if self.path is None:
            return
        tensors = {}
        for name, parameter in model.named_parameters():
            tensors[f"model.{name}"] = parameter.detach().cpu().contiguous()
            if step:
                tensors |= {f"{key}.{name}": optimizer.state[parameter][key].cpu().contiguous() for key in MOMENTS}
        info = {"settings": self.settings, "step": step, "records": records, "seconds": seconds}
        replace_files([(self.path, save(tensors, {"training": json.dumps(info)}))])
        self.step = step

    def kept(self) -> str:
        """Where the last good state is."""
        return (
            "no folder, no state kept" if self.path is None else f"the state after {self.step} steps is in {self.path}"
        )


def differences(found: dict[str, Any], asked: dict[str, Any]) -> str:
    """Every setting that differs, as it is there and as it was asked for."""
    parts = []
    for key in sorted({*found, *asked}):
        there, here = found.get(key), asked.get(key)
        if isinstance(there, dict) and isinstance(here, dict):
            parts += [
                f"{name} there {there.get(name)!r}, asked for {here.get(name)!r}"
                for name in sorted({*there, *here})
                if there.get(name) != here.get(name)
            ]
        elif there != here:
            parts.append(f"{key} there {there!r}, asked for {here!r}")
    return "; ".join(parts)


def digest(*tensors: Tensor) -> str:
    """A hash of the content, read piece by piece."""
    made = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        made.update(str(tuple(tensor.shape)).encode())
        for part in tensor.detach().reshape(-1).split(1 << 22):
            content = part if part.is_floating_point() else part.to(torch.int64)
            made.update(content.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return made.hexdigest()
