"""A table as the bytes of an .xlsx workbook, which is all that MMBench's server takes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from datetime import datetime

# Characters that XML 1.0 cannot hold; a model may well produce them.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LONGEST_CELL = 32_767
_NO_TIME = datetime(1980, 1, 1)


def workbook(rows: Iterable[Sequence[str | int | float | None]]) -> bytes:
    """A workbook of one sheet, the same bytes for the same rows.

    Args:
        rows: The cells; None is an empty one. Characters that XML cannot hold are left out, and a text is cut at the
            32,767 characters that a cell can have. No text becomes a formula, a link or a number.
    """
    from xlsxwriter import Workbook

    stream = io.BytesIO()
    with Workbook(stream, {"constant_memory": True}) as book:  # row by row, texts inside their cells
        book.set_properties({"created": _NO_TIME})
        sheet = book.add_worksheet()
        for number, row in enumerate(rows):
            for column, value in enumerate(row):
                if isinstance(value, str):
                    sheet.write_string(number, column, _NOT_XML.sub("", value)[:_LONGEST_CELL])
                elif value is not None:
                    sheet.write_number(number, column, value)
    return stream.getvalue()
