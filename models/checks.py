"""Checks of options beside those of `tensornet_interp.checks`; each error names the argument and the value."""

import math


def check_number(name: str, value: object, minimum: float = -math.inf, maximum: float = math.inf) -> float:
    """`value` as a finite float between `minimum` and `maximum`, both allowed; True is not a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    if not minimum <= value <= maximum:
        if math.isinf(maximum):
            raise ValueError(f"{name} must be at least {minimum:g}, got {value}")
        raise ValueError(f"{name} must be between {minimum:g} and {maximum:g}, got {value}")
    return float(value)


def check_bool(name: str, value: object) -> bool:
    """`value` as a bool; 0 and 1 are not bools."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r} ({type(value).__name__})")
    return value
