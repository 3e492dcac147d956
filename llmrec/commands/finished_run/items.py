"""`llmrec items RUN`: list and find the items of a run."""

from __future__ import annotations

from llmrec.artifacts import find_run
from llmrec.errors import UserError, shortened

TITLE_WIDTH = 60


def run(name: str, words: str | None, count: int) -> None:
    """Print ids and titles of a run's items, the most chosen first; with `words`, only of those that match.

    Args:
        name: a run's name, or its folder; or an export or a merged checkpoint.
        words: words that an item's title or id must contain; None lists all.
        count: number of items to print.

    Raises:
        UserError: no such run, a run without a finished data stage, or no item matches.
    """
    folder = find_run(name)
    from llmrec.recommend.listed_items import list_items

    listed = list_items(folder, words)
    if not listed:
        raise UserError(f"--find: no item of {folder.name} has {words!r} in its title or id")
    shown = listed[:count]
    width = min(TITLE_WIDTH, max(len(item.title) for item in shown))
    wide = max(4, *(len(item.item_id) for item in shown))
    print(f"{'item':<{wide}}  {'title':<{width}}  chosen")
    for item in shown:
        title = shortened(item.title, width)
        chosen = "" if item.chosen is None else f"{item.chosen:,}"
        state = "" if item.state == "trained" else f"  {item.state}"
        print(f"{item.item_id:<{wide}}  {title:<{width}}  {chosen:>6}{state}")
    if len(listed) > count:
        print(f"{count:,} of {len(listed):,}: -k {len(listed)} shows all; --find WORDS searches by title")
