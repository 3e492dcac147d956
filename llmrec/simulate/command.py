"""`llmrec simulate RUN`: a language model plays users. Nothing heavy is imported before the command runs."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llmrec import artifacts, layout
from llmrec.errors import UserError

if TYPE_CHECKING:
    from llmrec.simulate.endpoint import Endpoint
    from llmrec.simulate.simulation import Settings

KEY = "LLMREC_API_KEY"
"""Variable with the key of the endpoint."""


def simulate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's name, or its folder.")],
    endpoint: Annotated[
        str, typer.Option(metavar="URL", help=f"An OpenAI-compatible server. Its key, if any, is in {KEY}.")
    ],
    model: Annotated[str, typer.Option(metavar="NAME", help="The server's name of the model.")],
    systems: Annotated[
        str | None, typer.Option(metavar="SYSTEM,SYSTEM", help="Then offer the lists of these systems.")
    ] = None,
    users: Annotated[int, typer.Option(min=1, help="Number of users, drawn at random.")] = 200,
    slate: Annotated[int, typer.Option(min=2, max=19, help="Number of items that are offered at once.")] = 10,
    history: Annotated[int, typer.Option(min=1, help="Number of titles of the user's history.")] = 20,
    split: Annotated[Literal["valid", "test"], typer.Option(help="Whose held-out items.")] = "test",
    api: Annotated[
        Literal["chat", "completions"], typer.Option(help="`completions`: for a model without a chat format.")
    ] = "chat",
    clients: Annotated[int, typer.Option(min=1, max=256, help="Number of questions at a time.")] = 4,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds until an answer must be there.")] = 60.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of users and slates.")] = 0,
) -> None:
    """Let a language model play users, and check it against them. Nothing is trained."""
    from llmrec.simulate.endpoint import Endpoint, checked_url, is_open
    from llmrec.simulate.simulation import Settings

    url, key = checked_url(endpoint), os.environ.get(KEY) or None
    names = list(dict.fromkeys(name.strip() for name in (systems or "").split(",") if name.strip()))
    if systems is not None and not names:
        raise UserError("--systems: no system is named")
    if key and is_open(url):
        print(f"llmrec: {url} is not https, so the key of {KEY} can be read on the way", file=sys.stderr)
    folder = artifacts.find_run(run)
    options = {"--endpoint": url, "--model": model, "--systems": ",".join(names), "--users": users}
    options |= {"--slate": slate, "--history": history, "--split": split, "--api": api, "--seed": seed}
    words = [str(word) for option, value in options.items() if value != "" for word in (option, value)]
    with artifacts.lock(folder):
        _simulate(
            folder,
            Endpoint(url, model, api, timeout, key),
            Settings(users, slate, history, split, clients, seed),
            names,
            shlex.join(["llmrec", "simulate", run, *words]),
        )


def _simulate(folder: Path, endpoint: Endpoint, settings: Settings, systems: list[str], command: str) -> None:
    """Measure the agreement and then the use, print both, and write them into the run."""
    from llmrec.estimate.machine import write_figures
    from llmrec.report.screen import show
    from llmrec.simulate import tables
    from llmrec.simulate.simulation import Simulation

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
