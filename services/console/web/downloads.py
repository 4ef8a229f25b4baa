"""Lists as files."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response


def csv_of(name: str, rows: Sequence[BaseModel]) -> Response:
    """Return rows as a CSV file; a cell that a spreadsheet would run as a formula begins with an apostrophe."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(type(rows[0]).model_fields), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _cell(value) for key, value in row.model_dump().items()})
    headers = {"content-disposition": f'attachment; filename="slipway-{name}.csv"'}
    return Response(text.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


def _cell(value: Any) -> Any:
    is_formula = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r")
    return f"'{value}" if is_formula else value
