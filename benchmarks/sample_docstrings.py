"""Print docstrings of the product, drawn by a seed, for a reader who grades them without the code.

    python -m benchmarks.sample_docstrings [--seed 1] [--count 80]

A: concise, in standard terms; B: right, but wordy or in need of context; C: needs the code; D: misleading or empty.
Each folder has the share of its docstrings in the sample.
"""

import argparse
import ast
import random
from collections.abc import Iterator
from pathlib import Path

from testbed.lint.source import DELIVERED
from testbed.lint.tree import ROOT

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstrings(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of each docstring below a folder, in the order of the files' names."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
                line = 1 if isinstance(node, ast.Module) else node.lineno
                yield f"{path.relative_to(ROOT)}:{line} {getattr(node, 'name', '')}", text


def main() -> None:
    """Print the sample."""
    parser = argparse.ArgumentParser(description="Print docstrings of the product, drawn by a seed.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=80)
    options = parser.parse_args()
    found = [list(docstrings(ROOT / folder)) for folder in DELIVERED]
    total, drawn = sum(map(len, found)), random.Random(options.seed)
    for each in found:
        for place, text in sorted(drawn.sample(each, round(options.count * len(each) / total))):
            print(f"{place}\n    {text.replace(chr(10), chr(10) + '    ')}\n")


if __name__ == "__main__":
    main()
