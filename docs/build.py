"""Build the API reference from the docstrings: `python docs/build.py` writes `docs/site/index.html`.

Only contents pages are shown: the modules that have an `__all__`, and the names in it. The build fails on a warning of
pdoc, a name in backticks that leads nowhere, a private name that is shown, and a link without a target.
"""

import argparse
import ast
import builtins
import html
import importlib
import importlib.metadata
import inspect
import keyword
import pkgutil
import re
import sys
import typing
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pdoc
import pdoc.render
import pygments
from jinja2 import pass_context
from jinja2.runtime import Context
from markupsafe import Markup
from pdoc.doc import Class, Doc, Function, Module, Variable
from pdoc.render_helpers import relative_link
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonConsoleLexer

PACKAGE = "tensornet_interp"
DOCS = Path(__file__).parent
WIDTH = 120  # of a line of the source
CODE = HtmlFormatter(cssclass="pdoc-code")
# What a sentence calls an object that is none of the parameters, and the classes that it may have.
AT_HAND = {
    "layer": "BilinearLayer",
    "network": "BilinearNetwork",
    "result": "SpectralResult CPResult TuckerResult",
    "report": "Report",
    "figure": "",
}
# Public methods that only the package calls: they are not shown.
INTERNAL = {
    *("Tree.compute", "Symmetric.compute", "Gaussian.compute"),
    *(f"FitOptions.{name}" for name in ("check_layer", "compress", "finish", "given_start", "run")),
}
# The libraries that docstrings name things of, and the modules whose classes they name without a module.
OTHERS = ("torch", "tensorly", "matplotlib")
FORMATS = ("tensorly.cp_tensor", "tensorly.tt_tensor", "tensorly.tucker_tensor")


def contents_pages() -> dict[str, Module]:
    """The modules with an `__all__`: the package, its rooms and its ground modules."""
    package = importlib.import_module(PACKAGE)
    names = [PACKAGE, *sorted(f"{PACKAGE}.{info.name}" for info in pkgutil.iter_modules(package.__path__))]
    modules = {name: importlib.import_module(name) for name in names}
    pages = {name: module for name, module in modules.items() if hasattr(module, "__all__")}
    for module in pages.values():
        for name in module.__all__:
            getattr(module, name)  # pdoc does not see what a page imports at the first use
    return {name: Module(module) for name, module in pages.items()}


class Reference:
    """Docstrings and signatures as HTML, every name of the package a link to the contents page that shows it.

    `problems` collects the names that lead nowhere, and the private names that are shown.
    """

    def __init__(self, pages: Mapping[str, Module]) -> None:
        self.pages = pages
        self.problems: dict[str, None] = {}  # in order, and once each
        self.homes: dict[int, list[Doc[Any]]] = {}
        for page in pages.values():
            for doc in page.members.values():
                if not isinstance(doc, Variable):
                    self.homes.setdefault(id(doc.obj), []).append(doc)
        self.homes |= {id(page.obj): [page] for page in pages.values()}
        self.short = {name.removeprefix(f"{PACKAGE}."): page for name, page in pages.items()}
        built_in = importlib.import_module(f"{PACKAGE}.decompositions").BUILT_IN
        self.strategies = {name: self.homes[id(strategy)][0] for name, strategy in built_in.items()}

    def home(self, obj: object, page: Module) -> Doc[Any] | None:
        """The place where a class or a function is documented: on this page, if it is there."""
        places = self.homes.get(id(obj), [])
        return next((doc for doc in places if doc.modulename == page.modulename), places[0] if places else None)

    def members(self, annotation: object, page: Module) -> Mapping[str, Doc[Any]]:
        """The members of a class, or of every class in an annotation such as `A | B`; none for what has no home."""
        home = self.home(annotation, page)
        if isinstance(home, Class):
            return home.members
        inner = [self.members(part, page) for part in typing.get_args(annotation)]
        return {name: doc for members in reversed(inner) for name, doc in members.items()}

    def at_hand(self, word: str, doc: Doc[Any], page: Module) -> Mapping[str, Doc[Any]]:
        """The members of what a sentence may mean by `layer`, `result` and the like."""
        classes = [self.pages[PACKAGE].get(cls) for cls in AT_HAND[word].split()]
        found = {name: member for cls in classes if isinstance(cls, Class) for name, member in cls.members.items()}
        returned = doc.signature.return_annotation if word == "result" and isinstance(doc, Function) else None
        return {**found, **self.members(returned, page)}

    def owner(self, doc: Doc[Any], page: Module) -> object:
        """The class that a docstring speaks of: the documented one, or the one of the documented method."""
        parent = doc if isinstance(doc, Class) else page.get(doc.qualname.rpartition(".")[0])
        return parent.obj if isinstance(parent, Class) else None

    def find(self, path: str, doc: Doc[Any], page: Module) -> Doc[Any] | None:
        """What a dotted name in a docstring means: a member of its class, of what it gives or takes, of a page."""
        sides = doc.signature if isinstance(doc, Function) else inspect.Signature()
        annotations = [sides.return_annotation, *(parameter.annotation for parameter in sides.parameters.values())]
        scopes = [self.members(part, page) for part in (self.owner(doc, page), *annotations)]
        scopes += [page.members, *(other.members for other in self.pages.values())]
        head, *rest = path.removeprefix(f"{PACKAGE}.").split(".")
        for scope in [*scopes, self.short, self.strategies]:
            found = scope.get(head)
            for name in rest:
                found = found.members.get(name) if isinstance(found, Module | Class) else None
            if found is not None:
                return found
        return None

    def link(self, target: Doc[Any], text: str, page: Module) -> Markup:
        """A link from a page to a place."""
        fragment = f"#{target.qualname}" if target.qualname else ""
        return Markup('<a href="{}{}">{}</a>').format(relative_link(page.modulename, target.modulename), fragment, text)

    def code(self, span: str, doc: Doc[Any], page: Module) -> str:
        """What stands in backticks, its names as links; a problem if a name is neither a link nor known otherwise."""
        takes = inspect.signature(doc.obj).parameters if isinstance(doc, Function) else {}
        owner = self.owner(doc, page)
        fields = inspect.signature(owner).parameters if callable(owner) else {}
        written, end = "", 0
        for start, path in _names(span):
            head, *rest = path.split(".")
            if head in takes or head in AT_HAND:
                taken = takes.get(head)
                of_class = self.members(taken.annotation, page) if taken else self.at_hand(head, doc, page)
                target = of_class.get(rest[0]) if rest else None
                known = not rest or not of_class or target is not None
                path = f"{head}.{rest[0]}" if rest else head
            else:
                target = self.find(path, doc, page)
                known = head in {*keyword.kwlist, *dir(builtins), "__getattr__", *fields} or _is_of_others(path)
            if target is not None and not target.name.startswith("_"):
                written += html.escape(span[end:start]) + self.link(target, path, page)
                end = start + len(path)
            elif not known or "._" in path:
                self.problems[f"{'.'.join(doc.taken_from).rstrip('.')}: {path} in `{span}` is no link"] = None
        return f"<code>{written}{html.escape(span[end:])}</code>"

    def prose(self, doc: Doc[Any], page: Module) -> Markup:
        """A docstring as plain text: paragraphs, equations on lines of their own, names in backticks, examples."""
        blocks = []
        width = WIDTH - 4 * (len(doc.qualname.split(".")) if doc.qualname else 0)
        for paragraph in re.split(r"\n\s*\n", doc.docstring):
            text, prompt, example = paragraph.partition(">>>")
            for number, line in enumerate(_lines(text, width)):
                kind = "equation" if _is_equation(line) else "more" if number else "first"
                spans = enumerate(re.split(r"`([^`]+)`", line))
                body = (self.code(part, doc, page) if odd % 2 else html.escape(part) for odd, part in spans)
                blocks.append(f'<p class="{kind}">{"".join(body)}</p>')
            if prompt:
                blocks.append(pygments.highlight(prompt + example, PythonConsoleLexer(), CODE))
        return Markup("\n".join(blocks))

    def signature(self, code: str, page: Module, namespace: str) -> Markup:
        """A signature or an annotation with short names, as links, in the place of this package's full ones."""
        dot = r'(?:\.|</span><span class="o">\.</span><span class="n">)'

        def short(match: re.Match[str]) -> str:
            path = re.sub("<[^>]*>", "", match[0])
            target = self.home(pkgutil.resolve_name(path), page)
            if target is None:
                self.problems[f"{page.modulename}: the private {path} is shown in a signature"] = None
            return path if target is None else self.link(target, target.qualname or path, page)

        return Markup(re.sub(rf"\b{PACKAGE}(?:{dot}\w+)+", short, code))

    def bases(self, cls: Class, page: Module) -> list[Markup]:
        """The bases of a class that are documented."""
        homes = [self.home(base, page) for base in cls.obj.__bases__]
        return [self.link(base, base.qualname, page) for base in homes if base is not None]

    def inherited(self, cls: Class, page: Module) -> Iterator[tuple[str, Markup]]:
        """What a class has from others of this package: links, or names alone if it is from a private one."""
        own = {doc.name for doc in cls.own_members}
        for name, doc in cls.members.items():
            module, path = doc.taken_from
            if name not in own and path not in INTERNAL and module.startswith(PACKAGE) and not name.startswith("_"):
                base = self.home(pkgutil.resolve_name(f"{module}:{path.rpartition('.')[0]}"), page)
                target = base.members.get(name) if isinstance(base, Class) else None
                yield doc.qualname, Markup(name) if target is None else self.link(target, name, page)


def _names(span: str) -> Iterator[tuple[int, str]]:
    """Where the names start that a piece of code refers to: the code itself, if it is a name, and what it calls."""
    try:
        tree = ast.parse(span, mode="eval").body
    except SyntaxError:  # a formula, or an option such as `rank=8`
        option = re.match(r"(\w+)=(?!=)", span)
        yield from [(0, option[1])] if option else []
        return
    nodes = [tree, *(node.func for node in ast.walk(tree) if isinstance(node, ast.Call))]
    for node in sorted(nodes, key=lambda node: node.col_offset):
        path = ast.unparse(node)
        if re.fullmatch(r"[A-Za-z_][\w.]*", path) and span[node.col_offset :].startswith(path):
            yield node.col_offset, path


def _is_of_others(path: str) -> bool:
    """Whether a name is of another library: `CPTensor`, `torch.nn.Bilinear`, `nn.Linear`, `nn.Linear.weight`."""
    if "." not in path:
        return any(hasattr(importlib.import_module(module), path) for module in FORMATS)
    names = [path, f"torch.{path}"] + [f"torch.{path.rpartition('.')[0]}"] * (path.count(".") > 1)
    for name in names:
        try:
            if name.split(".")[0] in OTHERS:
                return bool(pkgutil.resolve_name(name))
        except (ImportError, AttributeError):
            continue
    return False


def _lines(text: str, width: int) -> list[str]:
    """The lines that a text means: a break stays if the next word would have fitted with 4 columns to spare."""
    lines: list[str] = []
    last = ""
    for line in text.splitlines():
        item = bool(lines) and lines[-1].startswith("- ") and line.startswith("  ")
        wrapped = len(last) + 1 + len(line.split(" ")[0]) > width - 4 and not line.startswith(("- ", " "))
        if lines and (item or wrapped):
            lines[-1] += " " + line.strip()
        elif line.strip():
            lines.append(line)
        last = line
    return lines


def _is_equation(line: str) -> bool:
    """Whether a line is indented, or starts with a formula: no two words stand side by side before its first sign."""
    left, sign, _ = re.sub(r"`[^`]*`", "", line).replace(" ~ ", " = ").replace(" <- ", " = ").partition(" = ")
    words = re.search(r"[A-Za-z]{2,}[,:]? [A-Za-z]{2,}\b(?![(\[.])", left)
    return line.startswith("  ") or (bool(sign) and words is None)


def broken_links(folder: Path) -> list[str]:
    """The links of the site that lead to no place in it."""
    texts = {path.resolve(): path.read_text(encoding="utf-8") for path in folder.rglob("*.html")}
    places = {path: set(re.findall(r'\bid="([^"]*)"', text)) for path, text in texts.items()}
    broken = []
    for path, text in texts.items():
        for file, fragment in re.findall(r'<a [^>]*href="([^"#:]*)(?:#([^"]*))?"', text):
            target = (path.parent / file).resolve() if file else path
            if target not in places or (fragment and fragment not in places[target]):
                broken.append(f"{path.relative_to(folder.resolve())}: no place {file}#{fragment}")
    return broken


def build(folder: Path) -> list[str]:
    """Write the site into a folder; return what is wrong with it."""
    reference = Reference(contents_pages())

    @pass_context
    def signature(context: Context, code: str, namespace: str = "", shorten: bool = True) -> Markup:
        return reference.signature(code, context["module"], namespace)

    def all_names(pages: Mapping[str, Module]) -> list[Doc[Any]]:
        return sorted(
            (doc for page in pages.values() for doc in page.members.values()), key=lambda doc: doc.name.lower()
        )

    filters = pdoc.render.env.filters
    filters |= {"prose": reference.prose, "public_bases": reference.bases, "inherited": reference.inherited}
    filters |= {"linkify": signature, "all_names": all_names}
    pdoc.render.env.globals["internal"] = INTERNAL
    pdoc.render.env.globals["version"] = importlib.metadata.version(PACKAGE)
    pdoc.render.configure(template_directory=DOCS / "templates", show_source=False, search=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pdoc.pdoc(*reference.pages, output_directory=folder)
    return [f"pdoc: {warning.message}" for warning in caught] + list(reference.problems) + broken_links(folder)


def main(argv: list[str] | None = None) -> int:
    """Build, print what is wrong, and fail if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=DOCS / "site", help="where to write: %(default)s")
    folder = parser.parse_args(argv).folder
    problems = build(folder)
    print(*problems, sep="\n")
    print(f"{folder}: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
