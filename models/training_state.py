"""The state of a training on disk: one safetensors file with weights and moments, and the rest as JSON metadata."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import processes
from tensornet_interp.checks import check_int, check_number, check_tensor
from tensornet_interp.disk import parse_json, replace_files
from tensornet_interp.weights import WeightFiles, pack

FILE = "training.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


class TrainingState:
    """A `TrainingState` keeps the state of a training with these settings (JSON values) in `folder`.

    If `folder` is None, it keeps nothing.
    """

    def __init__(self, folder: str | Path | None, settings: dict[str, Any]) -> None:
        self.path = None if folder is None else Path(folder) / FILE
        self.settings = settings
        self.step: int | None = None  # of the state on disk

    def load(
        self, model: nn.Module, optimizer: torch.optim.AdamW, steps: int
    ) -> tuple[int, list[dict[str, Any]], float]:
        """Read the state into model and optimizer, and return the steps done, the records and the seconds.

        `steps` is the number of steps of the whole training. Raises ValueError, with the model unchanged, if the file
        is broken, if it has other settings (both are shown), or if its step, records, tensors, shapes, dtypes or values
        cannot come from this training.
        """
        if self.path is None or not os.path.lexists(self.path):
            return 0, [], 0.0
        file = WeightFiles(self.path)
        info = _info(file, self.path, steps)
        if info["settings"] != self.settings:
            raise ValueError(f"{self.path} is of other settings; {differences(info['settings'], self.settings)}")
        tensors = self._tensors(file, dict(model.named_parameters()), started=info["step"] > 0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
                if info["step"]:  # AdamW counts in float32, whatever the default dtype and device are
                    count = torch.tensor(float(info["step"]), dtype=torch.float32, device="cpu")
                    moments = {key: tensors[f"{key}.{name}"].to(parameter.device) for key in MOMENTS}
                    optimizer.state[parameter] = {"step": count} | moments
        self.step = info["step"]
        return info["step"], info["records"], info["seconds"]

    def _tensors(self, file: WeightFiles, parameters: dict[str, nn.Parameter], *, started: bool) -> dict[str, Tensor]:
        kinds = ("model", *MOMENTS) if started else ("model",)
        expected = {f"{kind}.{name}": parameter for kind in kinds for name, parameter in parameters.items()}
        if set(file.names) != set(expected):
            raise ValueError(
                f"{self.path} is no state of this model: missing tensors {sorted(set(expected) - set(file.names))}, "
                f"extra tensors {sorted(set(file.names) - set(expected))}"
            )
        for name, parameter in expected.items():  # before the first is read
            found, shape = file.shape(name), tuple(parameter.shape)
            if found != shape:
                raise ValueError(f"{self.path}: tensor {name!r} has shape {found}, the model's is {shape}")
        tensors = {name: file.read(name) for name in expected}
        for name, tensor in tensors.items():
            check_tensor(f"{name} in {self.path}", tensor, tuple(f"mode {i}" for i in range(tensor.ndim)))
            if tensor.dtype != expected[name].dtype:
                raise ValueError(f"{self.path}: {name!r} is {tensor.dtype}, the model's is {expected[name].dtype}")
            if name.startswith(f"{MOMENTS[1]}.") and bool((tensor < 0).any()):
                raise ValueError(f"{self.path}: {name!r} has negative entries, but it is a mean of squares")
        return tensors

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.AdamW,
        step: int,
        records: list[dict[str, Any]],
        seconds: float,
    ) -> None:
        """Replace the state on disk, in one step; of several processes, only the first one writes."""
        if self.path is None:
            return
        self.step = step
        if not processes.is_first():
            return
        tensors: dict[str, Tensor] = {}
        for name, parameter in model.named_parameters():
            tensors[f"model.{name}"] = parameter
            if step:
                tensors |= {f"{key}.{name}": optimizer.state[parameter][key] for key in MOMENTS}
        info = {"settings": self.settings, "step": step, "records": records, "seconds": seconds}
        replace_files([(self.path, pack(tensors, {"training": json.dumps(info)}))])

    def kept(self) -> str:
        """Say where the last good state is, for an error message."""
        return (
            "no folder, no state kept" if self.path is None else f"the state after {self.step} steps is in {self.path}"
        )


def differences(found: dict[str, Any], asked: dict[str, Any]) -> str:
    """List every setting that differs, with its value on disk ("there") and the value asked for."""
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


def _info(file: WeightFiles, path: Path, steps: int) -> dict[str, Any]:
    """Return the metadata, after checking their types and ranges."""
    info = parse_json(file.metadata.get("training", "null"), f"the metadata of {path}")
    if not isinstance(info, dict) or not isinstance(info.get("settings"), dict):
        raise ValueError(f"{path} is corrupt or no state of a training: there are no settings in its metadata")
    try:
        step = check_int("step", info.get("step"), 0, steps)
        check_number("seconds", info.get("seconds"), 0.0)
        records = info.get("records")
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise TypeError("records must be a list of records")
        at = [check_int("step of a record", record.get("step"), 1, steps) for record in records]
        if at != sorted(set(at)) or (at or [0])[-1] != step:
            raise ValueError(f"records of steps {at[-3:]} in a state after {step} steps")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is corrupt or no state of a training: {error}") from error
    return info
