"""Pools of worker processes that have started before the first clock does."""

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from tensornet_interp.executors import run_units


def started(workers: int) -> ProcessPoolExecutor:
    """Return a pool whose workers have run a unit."""
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers, which inherit it
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    list(run_units(_start, [(number,) for number in range(4 * workers)], {}, pool))
    return pool


def _start(objects: Any, number: int) -> int:
    """Use the parts of torch that a fit uses, for a moment, so that every worker has them."""
    torch.linalg.eigh(torch.eye(50, dtype=torch.float64, device="cpu"))
    time.sleep(0.5)
    return number
