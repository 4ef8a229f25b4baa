"""The changes that make a mutant: one comparison, operator, constant, condition or returned value of a source file."""

import ast
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_SWAPPED = [
    (ast.Lt, "<", ast.LtE, "<="), (ast.Gt, ">", ast.GtE, ">="), (ast.Eq, "==", ast.NotEq, "!="),
    (ast.In, "in", ast.NotIn, "not in"), (ast.Is, "is", ast.IsNot, "is not"),
    (ast.And, "and", ast.Or, "or"), (ast.Add, "+", ast.Sub, "-"), (ast.Mult, "*", ast.Div, "/"),
]  # fmt: skip
OPERATORS: dict[type[ast.AST], tuple[str, str]] = {}
for one, text, other, changed in _SWAPPED:
    OPERATORS |= {one: (text, changed), other: (changed, text)}
CALLED = {"min": "max", "max": "min", "any": "all", "all": "any", "abs": ""}
LEFT_OUT = ("annotation", "returns", "decorator_list", "exc")
Change = tuple[int, int, str]
"""Where a change begins and ends in the source, and the new text."""


@dataclass(frozen=True)
class Mutant:
    """A source file with one change.

    Attributes:
        file: The file, relative to the repository.
        start: Where the change begins, in characters.
        old: The text that is replaced.
        new: What replaces it.
        source: The text of the whole file without the change.
    """

    file: str
    start: int
    old: str
    new: str
    source: str

    @property
    def mutated(self) -> str:
        """The text of the file with the change."""
        return self.source[: self.start] + self.new + self.source[self.start + len(self.old) :]

    @property
    def line(self) -> int:
        """The number of the line where it begins."""
        return self.source.count("\n", 0, self.start) + 1

    @property
    def lines(self) -> tuple[str, str]:
        """The changed lines before and after, with single blanks: they stay as they are where others are added."""
        first = self.source.rfind("\n", 0, self.start) + 1
        after = (self.source[self.start + len(self.old) :] + "\n").split("\n", 1)[0]
        begin = self.source[first : self.start]
        return " ".join((begin + self.old + after).split()), " ".join((begin + self.new + after).split())


def find_mutants(file: str, source: str) -> list[Mutant]:
    """Return all mutants of a file, in their order."""
    data, offsets = source.encode(), [0]
    for text in data.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(text))

    def place(node: Any) -> tuple[int, int]:
        ends = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
        begin, end = (len(data[: offsets[line - 1] + column].decode()) for line, column in ends)
        return begin, end

    changes = {change for node in _computed(ast.parse(source)) for change in _changes(node, source, place)}
    return [Mutant(file, start, source[start:end], new, source) for start, end, new in sorted(changes)]


def _computed(node: ast.AST) -> Iterator[ast.AST]:
    """Iterate over what a module computes: no annotation, decorator, raised error or text with values.

    What a module or class assigns is left out, too: such figures and tables are chosen, and no test should repeat them.
    """
    yield node
    declared = (ast.Assign, ast.AnnAssign) if isinstance(node, ast.Module | ast.ClassDef) else ()
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if (
                name not in LEFT_OUT
                and isinstance(child, ast.AST)
                and not isinstance(child, (ast.JoinedStr, *declared))
            ):
                yield from _computed(child)


def _changes(node: ast.AST, source: str, place: Callable[[ast.AST], tuple[int, int]]) -> Iterator[Change]:
    """Iterate over the changes of a node, without those of its children."""
    for left, operator, right in _operations(node):
        old, new = OPERATORS.get(type(operator), ("", ""))
        begin = source.find(old, place(left)[1], place(right)[0]) if old else -1
        if begin >= 0:
            yield begin, begin + len(old), new
    match node:
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            yield place(node)[0], place(inner)[0], ""
        case ast.Call(func=ast.Name(id=name) as called) if name in CALLED:
            yield *place(called), CALLED[name]
        case ast.Subscript(slice=ast.Constant(value=0) as index):
            yield *place(index), "-1"
        case ast.Subscript(slice=ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=1)) as index):
            yield *place(index), "0"
        case ast.Constant(value=bool() | int() | float() as value):
            other = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else 2 * value or 1.0
            yield *place(node), repr(other)
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield *place(value), "None"
        case ast.If(test=condition) | ast.IfExp(test=condition) | ast.comprehension(ifs=[condition]):
            yield *place(condition), "True"
            yield *place(condition), "False"


def _operations(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST, ast.AST]]:
    """Iterate over the operators of a node, each between its operands; texts are not added up."""
    match node:
        case ast.Compare(left=left, ops=operators, comparators=others):
            yield from zip([left, *others], operators, others, strict=False)
        case ast.BoolOp(op=operator, values=values):
            yield from ((left, operator, right) for left, right in itertools.pairwise(values))
        case ast.BinOp(left=left, op=operator, right=right):
            if not any(isinstance(getattr(side, "value", None), str | list) for side in (left, right)):
                yield left, operator, right
