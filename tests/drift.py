"""Do the tests pass with the oldest and with the newest versions of what the package depends on?

    python tests/drift.py lowest             # every dependency at the minimum that pyproject.toml declares
    python tests/drift.py newest             # every dependency at the newest version that pip finds
    python tests/drift.py lowest --pin torch==2.13.0 -- tests/test_cp.py    # a version of one's own, some of the tests

Makes a virtual environment in a temporary folder, installs a copy of the checkout with its test extra, prints the
versions and runs pytest there. torch may be a build of some GB: `--pin` takes another one. Run it before a minimum in
pyproject.toml changes: a declared minimum is one that was run.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_COPIED = shutil.ignore_patterns(".git", ".mutants", ".venv*", "__pycache__", "runs", "out", "build", "dist")
TOOLS = {"ruff", "mypy"}  # they run no code of ours


def minimums(pyproject: Path) -> dict[str, str]:
    """Declared minimum of every dependency, those of extras too; each must declare one."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    requirements = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    found: dict[str, str] = {}
    for requirement in requirements:
        if requirement.startswith(project["name"]):  # an extra made of other extras
            continue
        match = re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement)
        if not match:
            raise ValueError(f"{requirement!r} declares no minimum of the form name>=version")
        name, version = match.groups()
        if found.setdefault(name, version) != version:
            raise ValueError(f"{name} has two minimums: {found[name]} and {version}")
    return found


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", choices=["lowest", "newest"])
    parser.add_argument("--pin", nargs="*", default=[], metavar="NAME==VERSION", help="other versions of these")
    parser.add_argument("--keep", type=Path, help="make the environment in this folder and leave it there")
    split = argv.index("--") if "--" in argv else len(argv)
    args, of_pytest = parser.parse_args(argv[:split]), argv[split + 1 :]
    pins = {name: f"{name}=={version}" for name, version in minimums(ROOT / "pyproject.toml").items()}
    if args.versions == "newest":
        pins = {}
    pins = {name: pin for name, pin in pins.items() if name not in TOOLS}
    pins |= {pin.partition("==")[0]: pin for pin in args.pin}
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        copy, environment = folder / "checkout", folder / "environment"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
        if not environment.exists():
            venv.create(environment, with_pip=True)
        python = str(environment / "bin" / "python")
        constraints = folder / "constraints.txt"
        constraints.write_text("\n".join(pins.values()) + "\n")
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PIP_CONSTRAINT")}
        env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
        install = [python, "-m", "pip", "install", "-q", "--upgrade", "-c", str(constraints), f"{copy}[test]"]
        subprocess.run(install, check=True, env=env)
        subprocess.run([python, "-m", "pip", "freeze", "--exclude", "tensornet_interp"], check=True, env=env)
        # from the copy, so that models and examples are found; the package is the same there
        env["PYTHONPATH"] = str(copy)
        return subprocess.run([python, "-m", "pytest", *of_pytest], cwd=copy, env=env).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
