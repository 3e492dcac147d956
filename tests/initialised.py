"""Runs `llmrec init` on a folder of files, and the data stage on the card that it writes."""

from llmrec import pipeline
from llmrec.cli import main
from llmrec.config import Recipe
from llmrec.files import read_json


def write(files, folder):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def init(tmp_path, files, *options):
    """Run `llmrec init` on a folder with files; return the exit code and the card's path."""
    folder = write(files, tmp_path / "export")
    return main(["init", str(folder), "--out", str(tmp_path / "card.yaml"), *options]), tmp_path / "card.yaml"


def build(card, run):
    pipeline.execute(Recipe.model_validate({"name": "t", "data": {"card": str(card)}}), run, until="data")
    return read_json(run / "data/report.json")


def includes(whole, part):
    """Assert that a nested mapping has all entries of another one; None: it has no such key."""
    for key, value in part.items():
        if isinstance(value, dict):
            includes(whole[key], value)
        elif value is None:
            assert key not in whole, (key, whole[key])
        else:
            assert whole.get(key) == value, (key, whole.get(key))
