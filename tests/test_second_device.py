"""Tests on a device that is not the CPU, made by `second_device.py`; all of them with `pytest -m slow`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import second_device
import torch

HERE = Path(__file__).parent
PINNED = pytest.mark.skipif(
    torch.__version__.split("+")[0] != second_device.TORCH,
    reason=f"the second device is made for torch {second_device.TORCH}",
)
SAMPLE = ["test_balance.py", "test_lifting.py", "test_network.py", "test_moments.py", "test_features_directions.py"]


def outcomes(files, kind="float64"):
    """The numbers of tests by outcome on the second device, and what pytest printed."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["--second-device", kind, *map(str, files)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=HERE.parent, env=env, capture_output=True, text=True, timeout=3000)
    last = re.findall(r"(\d+) (passed|failed|error|skipped)", done.stdout.splitlines()[-1] if done.stdout else "")
    return {what: int(count) for count, what in last}, done.stdout[-3000:] + done.stderr[-1000:]


@PINNED
@pytest.mark.parametrize(
    ("files", "least"), [(SAMPLE, 60), pytest.param(["."], 700, marks=pytest.mark.slow)], ids=["sample", "all"]
)
def test_what_holds_on_the_cpu_holds_on_another_device(files, least):
    found, printed = outcomes([HERE / file for file in files])
    assert set(found) <= {"passed", "skipped"}, printed
    assert found["passed"] >= least, printed


@PINNED
def test_a_device_without_float64_gets_what_the_cpu_computes():
    found, printed = outcomes([HERE / "float32_device.py"], "float32")
    assert set(found) == {"passed"}, printed


@PINNED
@pytest.mark.slow
def test_every_public_call_works_on_a_device_without_float64():
    command = [sys.executable, "tests/measure_float32.py"]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


PROBE = """
import torch
import second_device

second_device.install(float64={float64})
tensor = torch.ones(3, dtype=torch.float32).to("second")
def refused(call):
    try:
        call()
    except (RuntimeError, TypeError) as error:
        return type(error).__name__
    return "taken"
print(refused(lambda: tensor + torch.ones(3)))
print(refused(lambda: tensor + torch.tensor(1.0)))
print(refused(lambda: tensor[torch.tensor([0, 1])]))
print(refused(lambda: tensor.numpy()))
print(refused(lambda: torch.randn(3, generator=torch.Generator(), device="second")))
print(refused(lambda: tensor.double()))
assert not second_device.syncs
bool(tensor.any()), tensor.tolist(), tensor.cpu(), tensor[tensor > 0], float(tensor.sum())
print(dict(second_device.syncs))
squared = (tensor.requires_grad_() ** 2).sum()
squared.backward()
print(tensor.grad.device, tensor.grad.cpu().tolist())
z = torch.ones(3, 2, device="second").T.unsqueeze(0).squeeze_()
print(z.shape, torch.view_as_complex(torch.ones(3, 2).to("second")).conj().imag.tolist())
second_device.leave(0)
"""


@PINNED
@pytest.mark.parametrize("float64", [True, False])
def test_the_device_refuses_what_a_gpu_refuses_and_counts_how_often_the_host_waits(float64):
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(float64=float64)], cwd=HERE, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "RuntimeError",
        "taken",
        "taken",
        "TypeError",
        "RuntimeError",
        "taken" if float64 else "TypeError",
        "{'number': 2, 'tensor': 2, 'size': 1}",
        "second:0 [2.0, 2.0, 2.0]",
        "torch.Size([2, 3]) [-1.0, -1.0, -1.0]",
    ]


@PINNED
@pytest.mark.slow
def test_no_call_waits_for_the_device_more_often_than_it_did():
    command = [sys.executable, "tests/measure_syncs.py"]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
