"""What the folders hold: one log of 12 users and 10 items, and how bytes are made of rows."""

import datetime
import io
import json

USERS, ITEMS, START = 12, 10, 1_700_000_000
PAIRS = [(u, (3 * u + 7 * n) % ITEMS) for u in range(USERS) for n in range(4 + u % 4)]
"""Who chose what, in order: 12 users, 10 items."""
TIMES = [START + 86_400 * place + 3_600 * user + 61 for place, (user, _) in enumerate(PAIRS)]
KINDS = ["Home > Kitchen > Pots", "Home > Kitchen", "Garden > Tools", "Garden > Chairs > Wood", "Office"]


def day(time, form="%Y-%m-%d"):
    return datetime.datetime.fromtimestamp(time, datetime.UTC).strftime(form)


def lines(rows, separator=",", encoding="utf-8", end="\n"):
    return "".join(separator.join(map(str, row)) + end for row in rows).encode(encoding)


def objects(rows, write=json.dumps):
    return "".join(write(row) + "\n" for row in rows).encode()


def parquet(frame):
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def log(*columns):
    """Rows of the log with more columns: each a function of place, user, item and time."""
    return [
        (u, i, *(column(place, u, i, TIMES[place]) for column in columns))
        for place, (u, i) in enumerate(PAIRS)
    ]


def stars(place, user, item, time):
    return (user + item) % 5 + 1


def when(place, user, item, time):
    return time
