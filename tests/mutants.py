"""Mutation testing: do the tests notice when the package is changed for the worse?

    python tests/mutants.py --seed 0 --count 150 --out mutants.jsonl    # a run; the same command again resumes it
    python tests/mutants.py --survivors --out mutants.jsonl             # a diff of every mutant that no test noticed

Draws small wrong changes (see `mutations.py`) of every module by seed and runs, on a copy of the tree, the tests that
execute the changed lines; then the other tests of the same files, whose fixtures or caches may have executed them. The
first failure ends it, if the test fails again alone; one that passes then had too little of the machine. A test that
takes ten times as long as it should is stopped, and counts as one that fails. With `--most`, only the likeliest tests
run, and a mutant that the others might notice counts as one that no test noticed.
Which test executes what is measured once (`--work` keeps it) and again only for the test files that changed.

Survivors that compute the same by every public function stand in `mutants_equivalent.txt` with a reason.

Our own, since mutmut and cosmic-ray run all tests or a fixed command for each mutant: here the whole run takes minutes
and the covering tests of a line seconds. Needs `coverage`.
"""

import argparse
import bisect
import contextlib
import faulthandler
import hashlib
import itertools
import json
import math
import os
import queue
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from mutations import Mutation, mutations

ROOT = Path(__file__).parents[1]
EQUIVALENT = Path(__file__).with_name("mutants_equivalent.txt")
MEMORY = 12 * 2**30  # bytes of address space for the tests of one mutant
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "runs", "out", "build", "dist", "*.egg-info")


def file_of(test: str) -> str:
    return test.split("::")[0]


class Project(NamedTuple):
    """Where the package and its tests lie, and where copies of them and the map of what tests execute are kept."""

    root: Path
    package: str
    work: Path
    slack: float = 20  # seconds that every test may take beside ten times its own
    most: float = math.inf  # seconds of tests for one mutant, of the time that they take alone

    @property
    def modules(self) -> list[str]:
        return sorted(path.relative_to(self.root).as_posix() for path in (self.root / self.package).rglob("*.py"))

    @property
    def test_files(self) -> list[str]:
        return sorted(f"tests/{path.name}" for path in (self.root / "tests").glob("test_*.py"))

    def source(self, path: str) -> str:
        return (self.root / path).read_text(encoding="utf-8")

    def copy(self, number: int) -> Path:
        """A fresh copy of the tree for worker `number`."""
        target = self.work / f"copy{number}"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.root, target, ignore=NOT_COPIED)
        return target

    def run(self, copy: Path, task: dict, limit: float) -> tuple[int, dict]:
        """Run this file as a child on a task within a copy: (exit status, what it wrote); -1 where it ran too long."""
        order, result = copy.with_suffix(".order"), copy.with_suffix(".result")
        order.write_text(json.dumps({**task, "package": self.package}))
        result.unlink(missing_ok=True)
        env = os.environ | {"PYTHONPATH": str(copy), "COVERAGE_CORE": "ctrace"}
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling all tests anew takes longer than most of them
        data = self.root.parent / "shared" / "data"
        if data.is_dir():
            env.setdefault("TENSORNET_DATA", str(data))
        command = [sys.executable, __file__, "--child", str(order), str(result)]
        with open(copy.with_suffix(".log"), "wb") as log:
            child = subprocess.Popen(command, cwd=copy, env=env, stdout=log, stderr=log, start_new_session=True)
            try:
                status = child.wait(limit)
            except subprocess.TimeoutExpired:
                status = -1
            finally:  # the child's own children too
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        return status, json.loads(result.read_text()) if result.exists() else {}


# In the child: one run of pytest


class Recorder:
    """Notes for every test how long it takes and which lines of the package it executes."""

    def __init__(self, package: str):
        import coverage

        self.package, self.times, self.failed = package, {}, set()
        self.coverage = coverage.Coverage(data_file=None, source=[str(Path(package).absolute())], config_file=False)
        self.coverage.start()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        for module in [module for name, module in sys.modules.items() if name.split(".")[0] == self.package]:
            for value in list(vars(module).values()):  # what is cached is executed by its first test alone
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
        self.coverage.switch_context(item.nodeid)
        start = time.perf_counter()
        yield
        self.times[item.nodeid] = time.perf_counter() - start

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.add(report.nodeid)

    def result(self) -> dict:
        self.coverage.stop()
        data, lines = self.coverage.get_data(), {}
        for file in data.measured_files():
            path = Path(file).relative_to(Path.cwd()).as_posix()
            lines[path] = {line: sorted(filter(None, at)) for line, at in data.contexts_by_lineno(file).items()}
        return {"times": self.times, "failed": sorted(self.failed), "lines": lines}


class Chosen:
    """Runs the given tests in the given order, each within its limit of seconds."""

    def __init__(self, limits: dict[str, float]):
        self.limits, self.rank, self.killer = limits, {name: i for i, name in enumerate(limits)}, None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        items[:] = sorted((item for item in items if item.nodeid in self.rank), key=lambda i: self.rank[i.nodeid])

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        faulthandler.dump_traceback_later(self.limits[item.nodeid], exit=True)  # out of C code too
        yield
        faulthandler.cancel_dump_traceback_later()

    def pytest_runtest_logreport(self, report):
        if report.failed and self.killer is None:
            self.killer = report.nodeid

    def result(self) -> dict:
        return {"killer": self.killer}


def end_with_parent() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def child(order: Path, result: Path) -> int:
    threading.Thread(target=end_with_parent, daemon=True).start()
    task = json.loads(order.read_text())
    sys.path.insert(0, str(Path("tests").absolute()))
    if task["record"]:
        plugin, stop = Recorder(task["package"]), []
    else:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        plugin, stop = Chosen(task["limits"]), ["-x"]
    status = pytest.main(["-q", "-p", "no:cacheprovider", "--tb=line", *stop, *task["files"]], plugins=[plugin])
    result.write_text(json.dumps(plugin.result()))
    return status


# What the tests execute


class Coverage:
    """Which tests execute which lines, and how long they take."""

    def __init__(self, files: dict[str, dict]):
        self.times: dict[str, float] = {}
        self.lines: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for record in files.values():
            good = set(record["times"]) - set(record["failed"])
            self.times |= {test: record["times"][test] for test in good}
            for path, lines in record["lines"].items():
                for line, tests in lines.items():
                    self.lines[path][int(line)] |= good.intersection(tests)

    def covering(self, mutation: Mutation) -> set[str]:
        """Tests that execute the changed lines; of lines that run at import, those of the scope or the module."""
        at = self.lines[mutation.path]
        for first, last in (mutation.lines, mutation.scope_lines, (1, max(at, default=0))):
            chosen = [line for line in range(first, last + 1) if line in at]
            tests = set().union(*(at[line] for line in chosen))
            if tests or not chosen:  # a line that nothing executes, not even the import, is covered by no test
                return tests
        return set()

    def order(self, mutation: Mutation, killers: Counter) -> list[str]:
        """The covering tests, file by file, first those named after the module, then likely killers; then the rest."""
        covering = self.covering(mutation)
        files = {file_of(test) for test in covering}
        cost = Counter()
        for test in covering:
            cost[file_of(test)] += self.times[test]
        stem = Path(mutation.path).stem

        def key(test: str) -> tuple:
            file = file_of(test)
            return test not in covering, stem not in file, -killers[file] / (1 + cost[file]), cost[file], file

        return sorted((test for test in self.times if file_of(test) in files), key=lambda t: (*key(t), self.times[t]))


def digest(paths: Iterable[Path]) -> str:
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(paths))).hexdigest()


def coverage_map(project: Project, workers: int) -> Coverage:
    """Read what is known about the tests and measure the files for which it is missing or old."""
    kept = project.work / "coverage.json"
    own = {"mutants.py", "mutations.py"}
    helpers = [p for p in (project.root / "tests").glob("*.py") if not p.name.startswith("test_") and p.name not in own]
    base = digest([*(project.root / project.package).rglob("*.py"), *helpers])
    known = json.loads(kept.read_text()) if kept.exists() else {}
    marks = {file: base + digest([project.root / file]) for file in project.test_files}
    known = {file: record for file, record in known.items() if record["mark"] == marks.get(file)}
    missing = [file for file in marks if file not in known]
    shares = [missing[i::workers] for i in range(workers) if missing[i::workers]]
    if missing:
        print(f"measuring what {len(missing)} test files execute", flush=True)

    def measure(number: int) -> dict:
        task = {"record": True, "files": shares[number]}
        status, result = project.run(project.copy(number), task, limit=3600)
        if not result:
            raise RuntimeError(f"the tests do not run (status {status}): see {project.work}/copy{number}.log")
        return result

    with ThreadPoolExecutor(workers) as pool:
        for files, result in zip(shares, pool.map(measure, range(len(shares))), strict=True):
            for file in files:
                own = {test: time for test, time in result["times"].items() if file_of(test) == file}
                lines = {
                    path: {line: [test for test in tests if test in own] for line, tests in at.items()}
                    for path, at in result["lines"].items()
                }
                failed = [test for test in result["failed"] if test in own]
                known[file] = {"mark": marks[file], "times": own, "failed": failed, "lines": lines}
                if failed:
                    print(f"left out, failing without any mutant: {', '.join(failed)}")
    kept.write_text(json.dumps(known))
    return Coverage(known)


# The mutants


def draw(project: Project, seed: int, count: int, per_module: int, only: list[str]) -> list[Mutation]:
    """`per_module` of every module, then others up to `count`; the kind is drawn before the place."""
    random_ = random.Random(seed)
    left: dict[str, list[Mutation]] = {}
    for path in project.modules:
        if not only or any(part in path for part in only):
            left[path] = mutations(path, project.source(path))
    drawn: list[Mutation] = []

    def take(paths: list[str]) -> bool:
        candidates = [mutation for path in paths for mutation in left[path]]
        while candidates:
            kind = random_.choice(sorted({mutation.kind for mutation in candidates}))
            mutation = random_.choice([mutation for mutation in candidates if mutation.kind == kind])
            candidates.remove(mutation)
            left[mutation.path].remove(mutation)
            if mutation.is_valid(project.source(mutation.path)):
                drawn.append(mutation)
                return True
        return False

    for path in left:
        for _ in range(per_module):
            take([path])
    while len(drawn) < count and take(list(left)):
        pass
    random_.shuffle(drawn)
    return drawn


def likely(tests: list[str], files: int = 4) -> int:
    """How many tests the first files have: they run first, since reading all files takes longer than most kills."""
    names = list(dict.fromkeys(map(file_of, tests)))
    return next((i for i, test in enumerate(tests) if file_of(test) not in names[:files]), len(tests))


def affordable(tests: list[str], times: dict[str, float], seconds: float) -> list[str]:
    """The first tests that take at most so long together; the first one in any case."""
    spent = list(itertools.accumulate(times[test] for test in tests))
    return tests[: max(bisect.bisect_right(spent, seconds), 1)]


def write(path: Path, text: str) -> None:
    """Write a module; what was compiled of it before goes, since equal times and sizes would keep it in use."""
    path.write_text(text, encoding="utf-8")
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def judge(project: Project, coverage: Coverage, mutation: Mutation, copy: Path, killers: Counter) -> dict:
    """Run the tests of one mutant: its record."""
    start = time.perf_counter()
    # of the copy, since the checkout may be worked on meanwhile
    ordered, source = coverage.order(mutation, killers), (copy / mutation.path).read_text(encoding="utf-8")
    tests = affordable(ordered, coverage.times, project.most)
    left = len(ordered) - len(tests)
    record = {"key": mutation.key, "outcome": "no test", "killer": None, "tests": len(tests), "left": left}
    write(copy / mutation.path, mutation.apply(source))

    def run(some: list[str]) -> dict:
        limits = {test: project.slack + 10 * coverage.times[test] for test in some}
        task = {"record": False, "limits": limits, "files": list(dict.fromkeys(map(file_of, some)))}
        status, result = project.run(copy, task, limit=120 + 4 * sum(coverage.times[test] for test in some))
        outcome = "survived" if status in (0, 5) else "killed" if result else "timeout"
        return {"outcome": outcome, "killer": result.get("killer")}

    for some in (tests[: likely(tests)], tests[likely(tests) :]):
        while some and record["outcome"] in ("no test", "survived"):
            record |= run(some)
            killer = record["killer"]
            if killer is None or run([killer])["outcome"] != "survived":
                break
            # it passes when it runs again: what it has bounds for was hindered by the load; those before it passed
            record |= {"outcome": "survived", "killer": None}
            some = some[some.index(killer) + 1 :]
    write(copy / mutation.path, source)
    if record["killer"]:
        killers[file_of(record["killer"])] += 1
    return record | {"seconds": round(time.perf_counter() - start, 1), "diff": mutation.diff(source)}


def equivalent(path: Path = EQUIVALENT) -> dict[str, str]:
    """Reasons of the mutants that compute the same, by key."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    pairs = [line.rpartition("  # ") for line in lines if line.strip() and not line.startswith("#")]
    return {key.strip(): reason for key, _, reason in pairs}


def run(project: Project, drawn: list[Mutation], out: Path, workers: int) -> list[dict]:
    """Judge what `out` has no record of; the records of all that were drawn."""
    known = {record["key"]: record for record in read(out)}
    project.work.mkdir(parents=True, exist_ok=True)
    coverage = coverage_map(project, workers)
    copies: queue.Queue[Path] = queue.Queue()
    for number in range(workers):
        copies.put(project.copy(number))
    killers = Counter(file_of(record["killer"]) for record in known.values() if record["killer"])
    todo = [mutation for mutation in drawn if mutation.key not in known]

    def work(mutation: Mutation) -> dict:
        copy = copies.get()
        try:
            return judge(project, coverage, mutation, copy, killers)
        finally:
            copies.put(copy)

    with ThreadPoolExecutor(workers) as pool, open(out, "a", encoding="utf-8") as file:
        for number, record in enumerate(pool.map(work, todo), 1):
            known[record["key"]] = record
            file.write(json.dumps(record) + "\n")
            file.flush()
            print(f"{number}/{len(todo)} {record['outcome']:8} {record['seconds']:6} s  {record['key']}", flush=True)
    return [known[mutation.key] for mutation in drawn]


def read(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []


def summary(records: list[dict], reasons: dict[str, str]) -> str:
    counts = Counter(
        "equivalent" if record["key"] in reasons and record["outcome"] in ("survived", "no test") else record["outcome"]
        for record in records
    )
    different = len(records) - counts["equivalent"]
    noticed = counts["killed"] + counts["timeout"]
    listing = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    return f"{len(records)} mutants: {listing}; {noticed} of {different} that differ noticed"


def main(argv: list[str]) -> int:
    if argv[:1] == ["--child"]:
        return child(Path(argv[1]), Path(argv[2]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--per-module", type=int, default=3, help="at least so many of every module")
    parser.add_argument("--only", nargs="*", default=[], help="parts of paths: modules to draw from")
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--package", default="tensornet_interp")
    parser.add_argument("--work", type=Path, default=Path(".mutants"), help="for copies of the tree and the map")
    parser.add_argument("--slack", type=float, default=20, help="seconds for a test beside ten times its own")
    parser.add_argument("--most", type=float, default=math.inf, help="seconds of tests for one mutant")
    parser.add_argument("--survivors", action="store_true", help="print the mutants of --out that no test noticed")
    args = parser.parse_args(argv)
    reasons = equivalent(args.root / "tests" / EQUIVALENT.name)
    if args.survivors:
        for record in read(args.out):
            if record["outcome"] in ("survived", "no test") and record["key"] not in reasons:
                ran = f"{record['tests']} tests, {record.get('left', 0)} left"
                print(f"{record['key']}  ({record['outcome']}, {ran})\n{record['diff']}\n")
        return 0
    project = Project(args.root.resolve(), args.package, args.work.resolve(), args.slack, args.most)
    drawn = draw(project, args.seed, args.count, args.per_module, args.only)
    print(summary(run(project, drawn, args.out, args.workers), reasons))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
