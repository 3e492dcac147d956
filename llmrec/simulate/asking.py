"""Asks many questions at a time, and keeps the answers until all are there, so that a stopped command goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from llmrec.errors import UserError
from llmrec.progress.bar import Progress
from llmrec.simulate.answers import Answer, read_answer
from llmrec.simulate.endpoint import Endpoint
from llmrec.simulate.question import SYSTEM


def ask_all(
    endpoint: Endpoint, questions: Sequence[str], items: int, kept: Path, clients: int, what: str
) -> list[Answer]:
    """Ask all questions that have no answer yet.

    Args:
        endpoint: the model.
        questions: one for each slate.
        items: number of items of a slate.
        kept: file of the answers so far, one line of JSON each; new ones are added.
        clients: number of questions that the server gets at a time.
        what: title of the progress bar.

    Returns:
        The answers in the order of the questions.

    Raises:
        UserError: the endpoint raises it; the answers before it are kept.
    """
    answers = _read_kept(kept, items)
    missing = list(dict.fromkeys(question for question in questions if _key(question) not in answers))
    kept.parent.mkdir(parents=True, exist_ok=True)
    _end_line(kept)
    progress = Progress(what, len(missing), "slate")
    with kept.open("a", encoding="utf-8") as file, progress, ThreadPoolExecutor(clients) as pool:

        def ask(question: str) -> Answer:
            return read_answer(*endpoint.complete(SYSTEM, question), items)

        futures = {pool.submit(ask, question): _key(question) for question in missing}
        try:
            for future in as_completed(futures):
                answer = answers[futures[future]] = future.result()
                line = {"question": futures[future], "shares": answer.shares, "mass": answer.mass}
                file.write(json.dumps(line) + "\n")
                file.flush()
                progress.update()
        except UserError as error:
            more = "; the same command goes on from here" if answers else ""
            raise UserError(f"{error}{more}") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return [answers[_key(question)] for question in questions]


def _key(question: str) -> str:
    return hashlib.sha256(question.encode()).hexdigest()


def _end_line(path: Path) -> None:
    """End the last line of a file if a killed command has not, so that the next answer is a line of its own."""
    content = path.read_bytes() if path.is_file() else b""
    if content and not content.endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")


def _read_kept(path: Path, items: int) -> dict[str, Answer]:
    """Read kept answers; a line that a killed command has not finished is left out."""
    answers = {}
    for line in path.read_text("utf-8", "replace").splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
            shares = entry["shares"] if entry["shares"] is None else tuple(map(float, entry["shares"]))
            mass = None if entry["mass"] is None else float(entry["mass"])
            if shares is None or len(shares) == items + 1:
                answers[str(entry["question"])] = Answer(shares, mass)
        except (LookupError, TypeError, ValueError, RecursionError):
            continue
    return answers
