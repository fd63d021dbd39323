"""What belongs to the user, and which parts of it a call changes."""

import random
from contextlib import contextmanager

import numpy as np
import tensorly
import torch


@contextmanager
def users_choice():
    """Another TensorLy backend, default dtype and number of threads than those at import; restored afterwards."""
    backend, dtype, threads = tensorly.get_backend(), torch.get_default_dtype(), torch.get_num_threads()
    tensorly.set_backend("numpy")
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        yield
    finally:
        tensorly.set_backend(backend)
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)


def state():
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - the global stream is what must not move
    return {
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "anomaly mode": torch.is_anomaly_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "torch stream": torch.get_rng_state().tolist(),
        "numpy stream": (name, keys.tolist(), *rest),
        "python stream": random.getstate(),
        "tensorly backend": tensorly.get_backend(),
    }


def changes(call, *, grad):
    """The parts of the global state that a call leaves different, at other choices than those at import."""
    with users_choice(), torch.set_grad_enabled(grad):
        before = state()
        call()
        after = state()
    return [key for key in before if before[key] != after[key]]
