"""Tables of text, for the terminal and for logs."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Sequence

from rich.console import Console
from rich.table import Table


def format_table(rows: Iterable[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """Rows of equal length as lines of aligned columns, the ``left`` ones left-aligned and the others right-aligned."""
    cells = [*rows]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    for column in range(len(cells[0])):
        table.add_column(justify="left" if column in left else "right", no_wrap=True)
    for row in cells:
        table.add_row(*row)
    text = io.StringIO()
    # Never cut to the width of a terminal, nor coloured: the caller decides where the text goes.
    Console(file=text, width=10_000, markup=False, emoji=False, highlight=False, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
