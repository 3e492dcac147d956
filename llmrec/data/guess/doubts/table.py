"""What a user should know of how a table's files are written: lines and columns of them that are not read."""

from __future__ import annotations

from llmrec.data.guess.files import FoundTable
from llmrec.data.tables.notes import listed


def unread(found: FoundTable) -> list[str]:
    """Return lines for the user about lines above the header, a header line of other length, and partial columns."""
    notes = []
    skip, header = found.written.get("skip", 0), found.written.get("header")
    if header is not None and skip:
        added = header[0] if header[0] == "row" else header[-1]
        notes.append(
            f"{found.path}: line {skip} has a name less than the lines below have values, so `header` in the card "
            f"names the columns; {added!r} is the one without a name"
        )
    above = skip - (header is not None)
    if above > 0:
        notes.append(
            f"{found.path}: {above} {'line' if above == 1 else 'lines'} above the header line are left out"
        )
    if found.written.get("rest"):
        notes.append(
            f"{found.path}: the last column takes the rest of each line, with separators and quotes "
            "(`rest` in the card)"
        )
    if found.partial:
        notes.append(f"{found.path}: some of its files lack {listed(found.partial)}, so that is not used")
    return notes
