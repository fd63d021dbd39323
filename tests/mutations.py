"""Small wrong changes of a Python source: what `mutants.py` draws from.

A mutation replaces one expression or one statement by text, so that everything else, comments too, stays as it is.
Left alone: annotations, docstrings, strings, messages (f-strings and what is inside `raise`), and `zip(strict=True)`,
which states what the code around it has made sure of.
"""

import ast
import copy
import difflib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

OPERATORS = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.MatMult: (ast.Mult,),
    ast.FloorDiv: (ast.Div,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
}
COMPARISONS = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
DROPPED_ATTRIBUTES = {"T", "mT", "mH"}
DROPPED_METHODS = {"abs", "sqrt", "square", "flip", "clamp", "clamp_min", "transpose", "permute", "clone", "conj"}
DROPPED_FUNCTIONS = {"abs", "sorted"}
NEVER_SWAPPED = {"isinstance", "issubclass", "getattr", "hasattr", "setattr", "cast", "min", "max"}


class Mutation(NamedTuple):
    """One change of one source file; `key` names it even when lines above it move."""

    path: str
    scope: str  # qualified name of the function or class around it
    kind: str
    before: str
    after: str
    number: int  # among equal changes in the scope
    start: int  # in bytes, as `ast` counts
    end: int
    lines: tuple[int, int]  # of the statement, first and last, without the body of a compound one
    scope_lines: tuple[int, int]

    @property
    def key(self) -> str:
        text = f"{self.path}::{self.scope} [{self.kind}] {self.before} => {self.after}"
        return " ".join(text.split()) + (f" ({self.number})" if self.number else "")

    def apply(self, source: str) -> str:
        raw = source.encode()
        return (raw[: self.start] + self.after.encode() + raw[self.end :]).decode()

    def diff(self, source: str) -> str:
        lines = difflib.unified_diff(
            source.splitlines(), self.apply(source).splitlines(), self.path, self.path, lineterm="", n=2
        )
        return "\n".join(lines)

    def is_valid(self, source: str) -> bool:
        """Whether it makes a program that compiles and reads differently."""
        try:
            tree = ast.parse(self.apply(source))
            compile(tree, self.path, "exec")
        except SyntaxError:  # parentheses around what takes none, say
            return False
        return ast.dump(tree) != ast.dump(ast.parse(source))


def mutations(path: str, source: str) -> list[Mutation]:
    """Every mutation of a source, from the outside of each statement to its inside; some may not be valid."""
    offsets = [0]
    for line in source.encode().splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    found, seen = [], Counter()
    for place in _places(ast.parse(source), "", (1, len(offsets) - 1), (1, 1)):
        node = place.node
        start = offsets[node.lineno - 1] + node.col_offset
        end = offsets[node.end_lineno - 1] + node.end_col_offset
        before = source.encode()[start:end].decode()
        for kind, after in _changes(node, place.parent):
            identity = place.scope, kind, before, after
            found.append(
                Mutation(
                    path, place.scope, kind, before, after, seen[identity], start, end, place.lines, place.scope_lines
                )
            )
            seen[identity] += 1
    return found


class _Place(NamedTuple):
    node: ast.expr | ast.stmt
    parent: ast.AST
    scope: str
    scope_lines: tuple[int, int]
    lines: tuple[int, int]


def _places(node: ast.AST, scope: str, scope_lines: tuple[int, int], lines: tuple[int, int]) -> Iterator[_Place]:
    """The expressions and statements below a node that may be changed."""
    for name, child in _children(node):
        here, here_lines, at = scope, scope_lines, lines
        if isinstance(child, ast.stmt):
            body = getattr(child, "body", None)
            at = child.lineno, max(body[0].lineno - 1, child.lineno) if body else child.end_lineno
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            here = f"{scope}.{child.name}".lstrip(".")
            here_lines = child.lineno, child.end_lineno
        if isinstance(child, ast.expr | ast.stmt) and name != "docstring":
            yield _Place(child, node, here, here_lines, at)
        yield from _places(child, here, here_lines, at)


def _children(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.JoinedStr | ast.Raise | ast.Import | ast.ImportFrom):
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.Call) and isinstance(child, ast.keyword) and child.arg == "strict":
                continue
            if isinstance(child, ast.AST):
                yield name, child


def _changes(node: ast.expr | ast.stmt, parent: ast.AST) -> Iterator[tuple[str, str]]:
    """(kind, new text) of every change of one node."""
    if isinstance(node, ast.stmt):
        yield from _statement(node)
        return
    for kind, new in _expression(node, parent):
        yield kind, f"({ast.unparse(new)})"


def _statement(node: ast.stmt) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Raise | ast.Assert):
        yield "guard", "pass"
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _name(node.value).startswith("check"):
        yield "guard", "pass"
    if isinstance(node, ast.AugAssign):
        for other in OPERATORS.get(type(node.op), ()):
            yield "operator", ast.unparse(_with(node, op=other()))


def _expression(node: ast.expr, parent: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    match node:
        case ast.BinOp():
            for other in OPERATORS.get(type(node.op), ()):
                yield "operator", _with(node, op=other())
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert(), operand=operand):
            yield "operator", operand
        case ast.Compare(ops=[first, *others]):
            for other in COMPARISONS[type(first)]:
                yield "comparison", _with(node, ops=[other(), *others])
        case ast.BoolOp(op=op, values=values):
            yield "condition", _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
            for i in range(len(values)):
                rest = values[:i] + values[i + 1 :]
                yield "condition", _with(node, values=rest) if len(rest) > 1 else rest[0]
        case ast.Constant(value=bool()):
            yield "constant", ast.Constant(not node.value)
        case ast.Constant(value=int()):
            yield "constant", ast.Constant(node.value + 1)
            if node.value:
                yield "constant", ast.Constant(node.value - 1)
        case ast.Constant(value=float()):
            yield "constant", ast.Constant(node.value * 10 if node.value else 1.0)
            if node.value:
                yield "constant", ast.Constant(0.0)
        case ast.Attribute(attr=name, value=value, ctx=ast.Load()) if name in DROPPED_ATTRIBUTES:
            yield "dropped", value
        case ast.Call():
            yield from _call(node)
    if isinstance(parent, ast.If | ast.While | ast.IfExp) and node is parent.test:
        yield "condition", ast.UnaryOp(ast.Not(), node)
    if isinstance(parent, ast.comprehension) and node in parent.ifs:
        yield "condition", ast.Constant(True)


def _call(node: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node.func, ast.Attribute) and node.func.attr in DROPPED_METHODS:
        yield "dropped", node.func.value
    if isinstance(node.func, ast.Name) and node.func.id in DROPPED_FUNCTIONS and len(node.args) == 1:
        yield "dropped", node.args[0]
    args = node.args
    first = 1 if args and isinstance(args[0], ast.Constant) and isinstance(args[0].value, str) else 0
    pair = args[first : first + 2]
    if len(pair) == 2 and not any(isinstance(a, ast.Starred) for a in pair) and _name(node) not in NEVER_SWAPPED:
        yield "swapped", _with(node, args=[*args[:first], *reversed(pair), *args[first + 2 :]])


def _name(call: ast.Call) -> str:
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def _with(node: ast.AST, **fields: object) -> ast.AST:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new
