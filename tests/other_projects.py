"""Miniature files of other projects in the shape that they publish, warts included."""

import csv
import json
import random

import polars as pl

TITLES = [
    'Avery 1.5" Durable Binder, 3 Ring',
    "Elmer's Tac 'N Stik Reusable Adhesive",
    'Office Products" />',
    'T&Uuml;RLEN Dial Indicator 0-1" w/LUG [6-Pack]',
    "Pens, 12' Cord\\",
    "BIC Round Stic, Black",
]


def log(users=24, items=12, seed=0):
    """User → items in order and their times; repeats occur."""
    draw = random.Random(seed)
    return {
        user: sorted((draw.randrange(1000), draw.randrange(items)) for _ in range(draw.randint(5, 15)))
        for user in range(users)
    }


def write_json(path, content, indent=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=indent), "utf-8")


def sids(items=12, levels=3, shared=True):
    """Item → tokens; items 7 and 8 share theirs."""
    letters = "abcd"[:levels]
    codes = {i: [37 * (i % 4) + 1, 11 * (i // 4), i, 0][:levels] for i in range(items)}
    if shared:
        codes[8] = codes[7]
    return {str(i): [f"<{x}_{c}>" for x, c in zip(letters, code, strict=True)] for i, code in codes.items()}


def item_texts(items=12):
    return {
        str(i): {
            "title": TITLES[i % len(TITLES)],
            "description": f"['Sturdy, 1/2\" wide.', \"It's number {i}.\"]",
            "brand": "Acme" if i % 2 else "",
            "categories": "",
        }
        for i in range(items)
    }


def minionerec(folder, name="Office_Products", longest=10):
    """data/Amazon: a window for each target, the windows of all users split by time; returns user → (item, part)."""
    index = sids()
    texts = item_texts()
    write_json(folder / "index" / f"{name}.index.json", index)
    write_json(folder / "index" / f"{name}.item.json", texts, indent=2)
    sequences = log()
    rows = []
    for user, seen in sequences.items():
        for place in range(1, len(seen)):
            rows.append((seen[place][0], user, place))
    rows.sort(key=lambda row: row[0])
    cuts = [int(len(rows) * share) for share in (0.8, 0.9)]
    parts = {}
    for part, chosen in zip(
        ("train", "valid", "test"), (rows[: cuts[0]], rows[cuts[0] : cuts[1]], rows[cuts[1] :]), strict=True
    ):
        path = folder / part / f"{name}_5_2016-10-2018-11.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            columns = (
                "user_id history_item_title item_title history_item_id item_id history_item_sid item_sid"
            )
            writer.writerow(columns.split())
            for _, user, place in chosen:
                before = [item for _, item in sequences[user][max(0, place - longest) : place]]
                item = sequences[user][place][1]
                parts[user, place] = part
                writer.writerow(
                    [
                        f"A{user}",
                        [texts[str(i)]["title"] for i in before],
                        texts[str(item)]["title"],
                        before,
                        item,
                        ["".join(index[str(i)]) for i in before],
                        "".join(index[str(item)]),
                    ]
                )
    (folder / "info").mkdir(exist_ok=True)
    lines = [f"{''.join(sid)}\t{texts[item]['title']}\t{item}\n" for item, sid in index.items()]
    (folder / "info" / f"{name}_5_2016-10-2018-11.txt").write_text("".join(lines), "utf-8")
    return {
        f"A{user}": [(str(item), parts.get((user, place))) for place, (_, item) in enumerate(seen)]
        for user, seen in sequences.items()
    }


def lc_rec(folder, name="Games"):
    """A dataset's folder with all three files; four levels, no shared IDs."""
    write_json(folder / f"{name}.inter.json", {str(u): [i for _, i in seen] for u, seen in log().items()})
    write_json(folder / f"{name}.item.json", item_texts(), indent=4)
    write_json(folder / f"{name}.index.json", sids(levels=4, shared=False))


def letter(folder, name="Beauty"):
    """A dataset's folder without texts."""
    write_json(folder / f"{name}.inter.json", {str(u): [i for _, i in seen] for u, seen in log().items()})
    write_json(folder / f"{name}.index.json", sids(levels=4, shared=False))


def openonerec(folder):
    """Tables by `pid`: codes up to 8,191, a user with targets in a row, split 0 for training, items without a SID."""
    folder.mkdir(parents=True, exist_ok=True)
    pid = {i: 90_000_000_000 + 7 * i for i in range(12)}
    rows = [
        {
            "uid": user,
            "split": int(user >= 18),
            "hist_video_pid": [pid[i] for _, i in seen[:-2]] + [5],
            "target_video_pid": [pid[i] for _, i in seen[-2:]],
            "hist_ad_pid": None,
        }
        for user, seen in log().items()
    ]
    pl.DataFrame(rows).write_parquet(folder / "onerec_bench_release.parquet")
    codes = [[1661 + i % 3, 8191 - i, i] for i in range(12)]
    pl.DataFrame({"pid": list(pid.values()), "sid": codes}).write_parquet(folder / "video_ad_pid2sid.parquet")
    captions = [f"<b>视频</b> number {i}\nwith\tcats" if i else None for i in range(12)]
    frame = pl.DataFrame({"pid": list(pid.values()), "dense_caption": captions})
    frame.write_parquet(folder / "pid2caption.parquet")
