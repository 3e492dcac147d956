"""`llmrec simulate RUN`: a language model plays users."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

from llmrec import artifacts, layout
from llmrec.commands.arguments import ENDPOINT_KEY, comma_separated
from llmrec.errors import UserError
from llmrec.progress.run_lock import lock
from llmrec.report.figures import write_figures
from llmrec.report.screen import show
from llmrec.simulate import tables
from llmrec.simulate.endpoint import Api, Endpoint, checked_url, is_open
from llmrec.simulate.simulation import Settings, Simulation


def run(
    name: str, address: str, model: str, systems: str | None, settings: Settings, api: Api, timeout: float
) -> None:
    """Measure how well a model plays a run's users and, if systems are named, what it takes of their lists.

    Args:
        name: a run's name, or its folder.
        address: address of an OpenAI-compatible server.
        model: the server's name of the model.
        systems: keys of the systems whose lists are offered, with commas between them; None offers none.
        settings: users, slates and seed.
        api: which of the server's two kinds of completion is asked for.
        timeout: seconds until an answer must be there.

    Raises:
        UserError: no such run or system, or the server cannot be reached.
    """
    url, key = checked_url(address), os.environ.get(ENDPOINT_KEY) or None
    names = list(dict.fromkeys(comma_separated(systems)))
    if systems is not None and not names:
        raise UserError("--systems: no system is named")
    if key and is_open(url):
        print(
            f"llmrec: {url} is not https, so the key of {ENDPOINT_KEY} can be read on the way",
            file=sys.stderr,
        )
    folder = artifacts.find_run(name)
    options = {"--endpoint": url, "--model": model, "--systems": ",".join(names), "--users": settings.users}
    options |= {"--slate": settings.slate, "--history": settings.history, "--split": settings.split}
    options |= {"--api": api, "--seed": settings.seed}
    words = [str(word) for option, value in options.items() if value != "" for word in (option, value)]
    command = shlex.join(["llmrec", "simulate", name, *words])
    with lock(folder):
        _simulate(folder, Endpoint(url, model, api, timeout, key), settings, names, command)


def _simulate(folder: Path, endpoint: Endpoint, settings: Settings, systems: list[str], command: str) -> None:
    """Measure the agreement and then the use, print both, and write them into the run."""
    simulation = Simulation.prepare(folder, settings, systems)
    agreed = simulation.measure_agreement(endpoint)
    show(tables.agreement_table(agreed, endpoint.model, len(simulation.pairs), settings.slate))
    print(tables.takes_line(agreed), agreed["verdict"], sep="\n")
    figures: dict[str, Any] = {"endpoint": endpoint.url, "model": endpoint.model, "api": endpoint.api}
    figures |= {"protocol": simulation.protocol(), "agreement": agreed}
    if systems:
        figures["use"] = simulation.measure_use(endpoint)
        show(tables.use_table(figures["use"], settings.slate))
        print(tables.finds_line(agreed), tables.takes_line(agreed), agreed["verdict"], sep="\n")
    figures["answers"] = simulation.read_quality()
    print(tables.read_line(figures["answers"]))
    simulation.write_answers(folder / layout.simulated(endpoint.model, ".parquet"))
    out = folder / layout.simulated(endpoint.model, ".json")
    write_figures(out, command, figures, "numpy", "polars", seed=settings.seed)
    simulation.kept(endpoint).unlink(missing_ok=True)
    print(f"written to {out}")
