"""Renders measured results into README.md and pages of docs/, so that no number there is typed by hand.

    python benchmarks/tables.py            # every table of these pages, from benchmarks/results/*.json

A table stands between `<!-- table:NAME -->` and `<!-- /table -->`. A results file holds `tables`: for each NAME it adds
to, a list of rows, each an object from column to value. The rows of all files stand in one table, in the order of the
files' names; the first row names the columns.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
PAGES = (
    README,
    README.parent / "docs" / "checking.md",
    README.parent / "docs" / "own-reading.md",
    README.parent / "docs" / "vllm.md",
)
_TABLE = re.compile(r"(<!-- table:(?P<name>[\w.-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
_MARKER = re.compile(r"<!-- /?table\b.*?-->")


def render(text: str, results: Path = RESULTS) -> str:
    """`text` with every table between markers written anew.

    Raises ValueError on a marker without its counterpart and on a table to which no results file adds a row.
    """
    paired, found = 2 * len(_TABLE.findall(text)), _MARKER.findall(text)
    if len(found) != paired:
        raise ValueError(f"{len(found)} table markers, {paired} of them in pairs: every opening one needs its closing")
    return _TABLE.sub(lambda match: match[1] + markdown(_rows(match["name"], results)) + match[3], text)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of rows with the same columns; None is an empty cell, a pair is a range."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_cell(row[column]) for column in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rows(name: str, results: Path) -> list[Mapping[str, Any]]:
    files = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    rows = [row for file in files for row in file["tables"].get(name, [])]
    if not rows:
        raise ValueError(f"no file in {results.name} has rows for the table {name!r}: run its benchmark first")
    return rows


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return " to ".join(map(_cell, value))
    return f"{value:.3f}" if isinstance(value, float) else str(value).replace("|", "\\|")


def main() -> None:
    """Rewrite the pages in which a table is out of date."""
    for page in PAGES:
        if not page.exists():
            continue
        before = page.read_text(encoding="utf-8")
        after = render(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(f"{page.name} was updated")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"tables: {error}")
