"""`tutelage knowledge worth`: what each entry of a learned agent is worth, measured on the study's training tasks."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tutelage.budget import Cost
from tutelage.errors import InputError
from tutelage.experience.store import RunLock, Store
from tutelage.practice import Practice
from tutelage.study.config import load_study
from tutelage.study.learned import LearnedAgent, read_any_learned, wearing, write_learned
from tutelage.study.run import Study
from tutelage.worth import DRAWS, TOP, Worth, check_design, episodes_needed, measure_worth, with_worth

SHOWN = 80
"""Characters of an entry that the table shows."""


def print_worth(
    study: Study | Path,
    arm: str,
    *,
    draws: int = DRAWS,
    keep: float = 0.5,
    top: int | None = TOP,
    seed: int | None = None,
    apply: bool = False,
) -> tuple[Worth, ...]:
    """Measure and print the worth of what the arm learned in the study's run; `apply` writes it into the arm's file as evidence.

    seed: which of the study's seeds (default: the first). Training tasks only; what the run's folder has already is not run again. Raises
    `InputError` where the study has not been run or has no such arm, and for options that make no design.
    """
    check_design(draws, keep, top)
    loaded = load_study(study) if isinstance(study, Path) else study
    path, learned = find_learned(loaded, arm, loaded.seeds[0] if seed is None else seed)
    console = Console()
    needed = episodes_needed(learned.knowledge, len(loaded.train), draws)
    if not needed:
        console.print(f"`{escape(arm)}` knows nothing that could be left out, or there are no training tasks: nothing to measure")
        return ()
    console.print(
        f"{needed:,} episodes: {len(loaded.train)} training tasks x {draws} draws. Those that the run has already are not run again."
    )
    with RunLock(path.parent.parent), Store(path.parent.parent / "experience.sqlite") as store:
        worths, cost = asyncio.run(_measure(loaded, learned, store, draws, keep, top))
        if apply:
            write_learned(path, learned.model_copy(update={"knowledge": with_worth(learned.knowledge, worths)}))
    console.print(worth_table(worths))
    console.print(f"{cost.calls:,} model calls, {cost.tokens_in:,} tokens in, {cost.tokens_out:,} out{_money(cost)}")
    if apply:
        console.print(f"written to {escape(str(path))}")
    return worths


def find_learned(study: Study, arm: str, seed: int) -> tuple[Path, LearnedAgent]:
    """The file of a learned arm in the study's run, and what it holds. Raises `InputError` that names the arms there are."""
    folder = Path(str(study.out)) / "agents"
    files = sorted(folder.glob("*.json")) if study.out is not None and folder.is_dir() else []
    found = [(path, learned) for path in files if (learned := read_any_learned(path)) is not None]
    if not found:
        raise InputError("there is no learned agent in this folder; run the study first: `tutelage run STUDY.yaml`", file=folder)
    for path, learned in found:
        if (learned.arm, learned.seed) == (arm, seed):
            return path, learned
    known = ", ".join(dict.fromkeys(f"{learned.arm} (seed {learned.seed})" for _, learned in found))
    raise InputError(f"no learned arm is called `{arm}` with seed {seed}. There are: {known}", field="--arm")


async def _measure(
    study: Study, learned: LearnedAgent, store: Store, draws: int, keep: float, top: int | None
) -> tuple[tuple[Worth, ...], Cost]:
    practice = Practice(study.train, study.collector(store), seed=learned.seed, sealed=study.sealed, arm=f"{learned.arm}, worth")
    agent = wearing(study.agent, learned)
    worths = await measure_worth(agent, practice, draws=draws, keep=keep, top=top)
    return worths, practice.cost


def worth_table(worths: tuple[Worth, ...]) -> Table:
    """One row an entry, most worth first."""
    table = Table(title="Worth of each entry: change of the score when it is there", title_justify="left")
    for column in ("entry", "kind", "text"):
        table.add_column(column, overflow="fold")
    for column in ("worth", "95% interval", "p (Holm)", "episodes", "verdict"):
        table.add_column(column, justify="left" if column == "verdict" else "right", no_wrap=True)
    for worth in worths:
        interval = "" if worth.low is None or worth.high is None else f"{worth.low:+.3f} to {worth.high:+.3f}"
        table.add_row(
            worth.id,
            worth.kind,
            escape(_cut(worth.text)),
            "" if worth.effect is None else f"{worth.effect:+.3f}",
            interval,
            "" if worth.p is None else f"{worth.p:.3f}",
            str(worth.n),
            worth.verdict,
        )
    return table


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 3]}..."


def _money(cost: Cost) -> str:
    return "; the price is unknown" if cost.usd is None else f", {cost.usd:.4f} US dollars"
