"""The table of error codes, each with its advice and its runbook."""

import re
from pathlib import Path

from contracts.codes import ADVICE
from deploy.documentation.markdown import code, escape, table

ROOT = Path(__file__).resolve().parents[2]
ENTRY = re.compile(r"^- `([a-z_]+)`:", re.MULTILINE)


def render() -> str:
    """Return one row for each code."""
    pages = sorted((ROOT / "docs/runbooks").glob("*.md"))
    runbooks = {name: page.stem for page in pages for name in ENTRY.findall(page.read_text())}
    rows = [
        (code(name), escape(advice), f"[{runbooks[name]}](../runbooks/{runbooks[name]}.md)" if name in runbooks else "")
        for name, advice in ADVICE.items()
    ]
    return table(("code", "what to do", "runbook"), rows)
