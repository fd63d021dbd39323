"""How long does `import tensornet_interp` take, compared with importing torch and tensorly?

Every import runs in its own process, in turn, and the minimum of each counts. Run nothing else meanwhile.
"""

import argparse
import subprocess
import sys

from examples.benchmarks.measure import machine
from tensornet_interp.checks import check_int

STATEMENTS = ("import torch, tensorly", "import tensornet_interp")
LIMIT = 1.25  # the ratio that the package keeps below


def main(argv: list[str] | None = None) -> None:
    """Print the seconds of both imports and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="timed imports of each, after one that does not count")
    repeats = check_int("--repeats", parser.parse_args(argv).repeats, 1)
    about = machine(1)
    print(f"{about['machine']}; load average {about['load_average']}; torch {about['torch']}; {repeats} repeats")
    rounds = [[seconds(statement) for statement in STATEMENTS] for _ in range(repeats + 1)]
    best = [min(times) for times in zip(*rounds[1:], strict=True)]
    for statement, time in zip(STATEMENTS, best, strict=True):
        print(f"{statement:<24} {time:.3f} s")
    print(f"ratio {best[1] / best[0]:.3f}, which must stay below {LIMIT}")


def seconds(statement: str) -> float:
    """Return the seconds that a statement takes in a new process, without the start of Python."""
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(run.stdout)


if __name__ == "__main__":
    main()
