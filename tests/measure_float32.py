"""Which public calls work on a device without float64: `python tests/measure_float32.py`.

Every row of `valid_calls` is called twice, with float32 arrays on the CPU and on the second device, which here refuses
float64 like the GPUs of Apple. The properties and the methods without arguments of all objects in them are called too.
A call works if both results are equal, and on the device except for what is float64. It is refused if the error names
the device and float64. Calls that take a device are also made with float64. `--all` prints every call.
"""

import contextlib
import functools
import importlib
import inspect
import io
import sys
import traceback
import warnings
from collections import Counter

import helpers
import second_device
import torch
from test_wrong_arguments import call


def rows(device, dtype=torch.float32):
    """The rows of `valid_calls`, with all that they hold made on a device and in a dtype."""
    helpers.normal.__kwdefaults__.update(device=device, dtype=dtype)
    helpers.layer_of.__kwdefaults__.update(dtype=dtype)
    helpers.layer_of.__defaults__ = (0, device)
    torch.manual_seed(0)
    for name in ("bad_input", "valid_calls"):
        sys.modules.pop(name, None)
    calls = importlib.import_module("valid_calls").CALLS
    return {name: (function, placed(arguments, device, dtype)) for name, (function, arguments) in calls.items()}


def placed(value, device, dtype):
    """Arguments on the device: masks and class numbers, and those that say a dtype or a device."""
    if isinstance(value, torch.dtype):
        return dtype
    if isinstance(value, str) and value == "cpu":
        return device
    if isinstance(value, torch.Tensor) and value.dtype != torch.float64:
        return value.to(device)
    if type(value) in (list, tuple):
        return type(value)(placed(item, device, dtype) for item in value)
    return {name: placed(item, device, dtype) for name, item in value.items()} if type(value) is dict else value


def parts(value):
    """What a value holds, by name."""
    if isinstance(value, torch.nn.Module):
        return value.state_dict()
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if inspect.ismethod(value):
        return {"self": value.__self__}
    return dict(vars(value)) if ours(value) else {}


def ours(value):
    return type(value).__module__.startswith("tensornet_interp") and hasattr(value, "__dict__")


def walk(value, place="", inside=()):
    """Everything in a value, by its place."""
    yield place, value
    if id(value) not in inside and not isinstance(value, torch.Tensor):
        for name, part in parts(value).items():
            yield from walk(part, f"{place}.{name}", (*inside, id(value)))


def on_device(value):
    return any(isinstance(item, torch.Tensor) and item.device.type == second_device.NAME for _, item in walk(value))


def problems(found, wanted):
    """How a result on the device differs from that on the CPU."""
    found, wanted, said = dict(walk(found)), dict(walk(wanted)), []
    for place, other in wanted.items():
        item = found.get(place)
        if isinstance(other, torch.Tensor):
            if not isinstance(item, torch.Tensor) or item.dtype != other.dtype or item.shape != other.shape:
                said.append(f"{place} is another array")
                continue
            if (item.dtype in (torch.float64, torch.complex128)) == (item.device.type == second_device.NAME):
                said.append(f"{place} ({item.dtype}) is on {item.device}")
            if not torch.equal(item.cpu().nan_to_num(), other.cpu().nan_to_num()):
                said.append(f"{place} differs")
        elif isinstance(other, bool | int | float) and item != other == other and not place.endswith(".seconds"):
            said.append(f"{place} is {item}, not {other}")
    return said


def outcome(elsewhere, plain):
    """What came of a call on the device, what to say of it, and both results; None if it fails on the CPU as well."""
    try:
        wanted = plain()
    except Exception as error:
        return None, f"{error}", None, None
    try:
        found = elsewhere()
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "tensornet_interp" in frame.filename]
        at = [
            f"{frame.filename.split('tensornet_interp/')[1]}:{frame.lineno}" for frame in frames if frame.name != "run"
        ]
        said = str(error)
        clear = isinstance(error, ValueError | TypeError) and "float64" in said and "device second" in said
        return ("refused" if clear else "raw"), f"{said:.120} {' '.join(at[-3:])}", None, None
    said = problems(found, wanted)
    return ("differs" if said else "works"), ", ".join(said[:4]), found, wanted


def views(value):
    """The names of public properties and methods of an object that take nothing."""
    for name in dir(type(value)):
        item = inspect.getattr_static(type(value), name)
        if name.startswith("_") and name != "__str__":
            continue
        if isinstance(item, property | functools.cached_property):
            yield name
        elif inspect.isfunction(item) and name not in ("to_tensorly",):
            rest = list(inspect.signature(item).parameters.values())[1:]
            if all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in rest):
                yield name


def view(value, name):
    found = getattr(value, name)
    return found() if inspect.ismethod(found) else found


def measure():
    """The outcome of every call and of every view, by its name."""
    plain, elsewhere = rows("cpu"), rows(second_device.NAME)
    found = {}

    def look(other, same):
        """Call the views of all objects that are on the device."""
        items = dict(walk(other))
        for place, whole in walk(same):
            item = items.get(place)
            if not ours(whole) or type(item) is not type(whole) or not on_device(item):
                continue
            for name in views(whole):
                full = f"{type(whole).__name__}.{name}"
                if full not in found:
                    what, said, *_ = outcome(lambda: view(item, name), lambda: view(whole, name))  # noqa: B023
                    found[full] = (what, said)

    for name, (function, arguments) in elsewhere.items():
        other, given = plain[name]
        if not on_device((function, arguments)) and second_device.NAME not in map(str, arguments.values()):
            continue
        what, said, result, wanted = outcome(lambda: call(function, arguments), lambda: call(other, given))  # noqa: B023
        found[name] = (what, said)
        look((function, arguments, result), (other, given, wanted))
    return found


def asked():
    """The outcome of every call that takes a device, if it shall give float64 there."""
    found = {}
    for name, (function, arguments) in rows("cpu", torch.float64).items():
        given = {
            key: second_device.NAME if isinstance(value, str) and value == "cpu" else value
            for key, value in arguments.items()
        }
        if second_device.NAME in map(str, given.values()):
            what, said, *_ = outcome(lambda: call(function, given), lambda: None)  # noqa: B023
            found[f"{name} in float64"] = (what, said)
    return found


def main():
    second_device.install(float64=False)
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        found = measure() | asked()
    for name, (what, said) in found.items():
        if what != "works" or "--all" in sys.argv:
            print(f"{what!s:8} {name:40} {said}")
    counts = Counter(what for what, _ in found.values())
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    return counts["raw"] + counts["differs"]


if __name__ == "__main__":
    second_device.leave(main())
