"""The source of this project as tests of its rules read it: files, imports, contents pages."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE, OTHERS = "tensornet_interp", ("models", "examples")
FILES = sorted(path for room in (PACKAGE, *OTHERS) for path in (ROOT / room).rglob("*.py"))


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def imports(path):
    """Full names of the modules a file imports; `from a import b` is a.b where that is a module of ours, else a."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).with_suffix("").parts[: -node.level] if node.level else ()
            base = ".".join([*package, *filter(None, [node.module])])
            for alias in node.names:
                inside = ROOT.joinpath(*base.split("."), alias.name)
                is_module = inside.is_dir() or inside.with_suffix(".py").is_file()
                yield f"{base}.{alias.name}" if is_module else base


def room(module):
    return module.split(".")[0]


def contents(module):
    """`__all__` of a contents page, read from its source."""
    base = ROOT.joinpath(*module.split("."))
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    for node in tree(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return None


PAGES = {PACKAGE: contents(PACKAGE)} | {
    f"{PACKAGE}.{path.stem}": contents(f"{PACKAGE}.{path.stem}")
    for path in sorted((ROOT / PACKAGE).iterdir())
    if path.stem[0] != "_" and (path.suffix == ".py" or (path / "__init__.py").is_file())
}


def from_imports(source):
    """(module, name) of every `from tensornet_interp... import ...`, and (module, None) of every plain import."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if room(alias.name) == PACKAGE)


def inside_imports(source):
    """Modules of the package that are no contents pages, and names that are not on the page they are taken from."""
    for module, name in from_imports(source):
        if module not in PAGES:
            yield module
        elif name is not None and name not in PAGES[module] and f"{module}.{name}" not in PAGES:
            yield f"{module}.{name}"
