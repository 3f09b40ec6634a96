"""Small faults, as somebody might make them in a line: where in a file they could be, and the file with one of them."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.BitXor: ast.BitOr,
}
CALLS = {"any": "all", "all": "any", "min": "max", "max": "min"}


@dataclass(frozen=True)
class Mutant:
    """One fault."""

    file: str
    """Relative to the mutated folder."""
    function: str
    """Qualified name of the outermost function or method; empty for a file's own statements."""
    line: int
    what: str
    """The text before and after, on one line; of equal ones in a function, the second and later have a number."""
    make: Callable[[], ast.Module]
    """The whole file with the fault."""

    @property
    def name(self) -> str:
        """Stays the same while the code around it changes."""
        return f"{self.file} {self.function or '-'}: {self.what}"


def mutants(file: str, source: str) -> Iterator[Mutant]:
    """All mutants of a file, in the order of its text."""
    tree = ast.parse(source)
    seen: dict[str, int] = {}
    for path, function, line in _places(tree, (), ""):
        for before, after, change in _changes(_at(tree, path), path):
            text = f"{_short(before)} -> {_short(after)}"
            count = seen[f"{function}{text}"] = seen.get(f"{function}{text}", 0) + 1
            yield Mutant(file, function, line, text + (f" #{count}" if count > 1 else ""), partial(_made, source, change))


def _made(source: str, change: Change) -> ast.Module:
    tree = ast.parse(source)
    change(tree)
    return ast.fix_missing_locations(tree)


Change = Callable[[ast.Module], None]
Path = tuple[tuple[str, int | None], ...]
"""(field, index) from the root on."""


def _at(tree: ast.AST, path: Path) -> ast.AST:
    for field, index in path:
        child = getattr(tree, field)
        tree = child if index is None else child[index]
    return tree


def _put(tree: ast.AST, path: Path, value: ast.AST | None) -> None:
    """In place of the node there; None: it is taken out of its list."""
    *above, (field, index) = path
    parent = _at(tree, tuple(above))
    if index is None:
        setattr(parent, field, value)
    elif value is None:
        del getattr(parent, field)[index]
    else:
        getattr(parent, field)[index] = value


def _places(node: ast.AST, path: Path, function: str, scope: str = "") -> Iterator[tuple[Path, str, int]]:
    """Every expression and statement that runs, but for annotations, docstrings and sentences."""
    for field, child in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        if isinstance(node, ast.keyword) and node.arg == "strict":  # zip's: an assertion
            continue
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "TypeVar":
            continue
        if function and isinstance(node, ast.arguments):  # default values are no part of a function's code
            continue
        for index, each in enumerate(child) if isinstance(child, list) else ((None, child),):
            if not isinstance(each, ast.AST) or isinstance(
                each, ast.expr_context | ast.JoinedStr | ast.Import | ast.ImportFrom
            ):
                continue
            if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant):
                continue
            if isinstance(each, ast.Raise | ast.Assert):
                continue
            inner, name = scope, function
            if isinstance(each, ast.ClassDef | ast.FunctionDef):
                inner = f"{scope}.{each.name}".lstrip(".")
            if isinstance(each, ast.FunctionDef) and not function:
                name = inner
            here = (*path, (field, index))
            if hasattr(each, "lineno"):
                yield here, name, each.lineno
            yield from _places(each, here, name, inner)


def _changes(node: ast.AST, path: Path) -> Iterator[tuple[str, str, Change]]:
    """(before, after, a function that makes the change in a copy of the tree)."""

    def replaced(by: ast.AST) -> tuple[str, str, Change]:
        return ast.unparse(node), ast.unparse(by), lambda tree: _put(tree, path, by)

    match node:
        case ast.Compare(ops=[only]) if type(only) in COMPARE:
            yield replaced(ast.Compare(node.left, [COMPARE[type(only)]()], node.comparators))
        case ast.Compare(ops=[first, second]):
            for index, op in enumerate((first, second)):
                if type(op) in COMPARE:
                    ops = [first, second]
                    ops[index] = COMPARE[type(op)]()
                    yield replaced(ast.Compare(node.left, ops, node.comparators))
        case ast.BoolOp(values=values):
            other = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
            yield replaced(ast.BoolOp(other, values))
            for index in range(len(values)):
                left = [*values[:index], *values[index + 1 :]]
                yield replaced(left[0] if len(left) == 1 else ast.BoolOp(node.op, left))
        case ast.UnaryOp(op=ast.Not()):
            yield replaced(node.operand)
        case ast.UnaryOp(op=ast.USub()):
            yield replaced(node.operand)
        case ast.BinOp() if type(node.op) in ARITHMETIC and not _is_text(node):
            yield replaced(ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right))
        case ast.IfExp():
            yield replaced(node.body)
            yield replaced(node.orelse)
        case ast.If():
            for value in (True, False):
                if not isinstance(node.test, ast.BoolOp):  # whose parts are taken out one by one
                    text = f"if {ast.unparse(node.test)}"
                    yield (
                        text,
                        f"if {value}",
                        lambda tree, value=value: setattr(_at(tree, path), "test", ast.Constant(value)),
                    )
        case ast.comprehension(ifs=[_, *_]):
            pass  # it has no line: see its owner
        case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
            for number, each in enumerate(node.generators):
                for index, test in enumerate(each.ifs):
                    text = f"for {ast.unparse(each.target)} ... if {ast.unparse(test)}"

                    def drop(tree: ast.AST, number: int = number, index: int = index) -> None:
                        del _at(tree, path).generators[number].ifs[index]  # type: ignore[attr-defined]

                    yield text, f"for {ast.unparse(each.target)} ...", drop
        case ast.Constant(value=bool()):
            yield replaced(ast.Constant(not node.value))
        case ast.Constant(value=int() | float()):
            yield replaced(ast.Constant(node.value + 1))
        case ast.Constant(value=str() as text) if " " not in text.strip() and path[-1][0] != "values":
            yield replaced(ast.Constant(text + "~" if text else "~"))
        case ast.Call(func=ast.Name(id=name)) if name in CALLS:
            yield replaced(ast.Call(ast.Name(CALLS[name], ast.Load()), node.args, node.keywords))
        case ast.Call(func=ast.Name(id="sorted" | "reversed" as name)):
            if name == "reversed" or not any(each.arg == "reverse" for each in node.keywords):
                yield replaced(ast.Call(ast.Name("list", ast.Load()), node.args, []))
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and not value.value):
            yield (
                f"return {ast.unparse(value)}",
                "return None",
                lambda tree: setattr(_at(tree, path), "value", ast.Constant(None)),
            )
        case ast.Continue():
            yield replaced(ast.Break())
        case ast.Break():
            yield replaced(ast.Continue())
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Name(id="super"))))):
            return  # without it the function has no `__class__` any more, and cannot be put in the place of the old one
        case ast.Expr(value=ast.Call()) | ast.AugAssign():
            yield replaced(ast.Pass())


def _is_text(node: ast.BinOp) -> bool:
    return any(isinstance(each, ast.JoinedStr) for each in ast.walk(node))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 90 else f"{text[:60]}...{text[-27:]}"
