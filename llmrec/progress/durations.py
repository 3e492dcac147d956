"""How a duration is written for the reader: on the terminal, in estimates and on pages."""

from __future__ import annotations


def format_duration(seconds: float | None, is_estimate: bool = False) -> str:
    """Format seconds: `0.4 s`, `8 s`, `3 min 20 s`, `2 h 5 min`; None is `unknown`.

    An estimate is rounded as people say it: `8 s`, `about 12 min`, `about 3.5 h`.
    """
    if seconds is None:
        return "unknown"
    if is_estimate:
        return _rounded(seconds)
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _rounded(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"about {round(minutes) if minutes < 20 else 5 * round(minutes / 5)} min"
    return f"about {minutes / 60:.1f} h" if minutes < 600 else f"about {minutes / 60:.0f} h"
