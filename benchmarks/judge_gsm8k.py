"""Does the guarantee hold with real models as judges? A cascade, cheapest first, says whether solutions of arithmetic problems are right.

The items are solutions that four models wrote for grade-school problems, each known to be right or wrong (`gsm8k/model_solutions.jsonl`).
Every judge is asked once about every item, without the right answer, and its confidence is the probability of its verdict's token. Replies
are kept, so that an interrupted run goes on. One solution is taken of each question until all questions are used up, by a hash.

What follows is arithmetic: 1,000 random splits, half of the items for calibration, half for test. `kept` is the share of splits in which
at most alpha of what is decided in the whole pool is wrong (or nothing is decided); this is what is promised with 1 - delta, the pool
being what the calibration half is drawn from. `on the test half` is the same there, which scatters and is not promised. Coverage: the
share of test items that are decided. Cost: of an item, in seconds as measured or in US dollars, as a share of what the strongest judge
costs on all items. Beside the guarantee: the thresholds that people use without one.

    python benchmarks/judge_gsm8k.py --models gguf:smollm2-135m qwen2.5-coder-0.5b.gguf qwen2.5-coder-1.5b.gguf

A prompt has some 410 tokens, of which the first 85 are alike and read once. At 218, 129 and 60 tokens a second (135 million, .5 and 1.5
billion weights on two cores) an item takes 1.5, 2.5 and 5.5 seconds: 300 items by three judges take about 50 minutes. Two calls run at
once, so the seconds of a call, by which judges are compared, are about twice that. Ctrl-C at any time: what was asked is kept, and the
same command goes on; with other --alphas, --times, or fewer models nothing is asked again. Any model may judge:
`--models endpoint:small endpoint:big`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import tutelage as tt
from common import DATA, ROOT, bars, machine
from judge_guarantee import observed_only
from tutelage.graders.guarantee import accepts, calibrate, items_needed
from tutelage.graders.guarantee_cascade import calibrate_cascade
from tutelage.graders.judge import Judge
from tutelage.graders.judge_case import Case
from tutelage.graders.judge_opinions import opinions_of
from tutelage.model import Model
from tutelage.records import content_id

CRITERION = "The solution is right: every step follows, every calculation is correct, and its final number answers the question."
ALPHAS, DELTA = (0.1, 0.2, 0.3), 0.1
SOLVERS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
Floats = np.ndarray[Any, np.dtype[np.float64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Item:
    """A solution and whether it is right."""

    case: Case
    right: bool


def read_items(path: Path, wanted: int, *, reference: bool) -> list[Item]:
    """So many items in the order of a hash, one of each question before a second one of any."""
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    found: list[tuple[int, str, Item]] = []
    for row in rows:
        solvers = sorted((name for name in SOLVERS if name in row), key=lambda name: content_id([row["question"], name]))
        for turn, name in enumerate(solvers):
            case = Case(question=row["question"], answers=(row[name]["solution"],), reference=row["ground_truth"] if reference else "")
            found.append((turn, content_id([turn, row["question"]]), Item(case, bool(row[name]["is_correct"]))))
    return [item for _, _, item in sorted(found, key=lambda one: one[:2])[:wanted]]


class Timed:
    """A model that adds up how long its replies took when they were made."""

    def __init__(self, model: Model) -> None:
        self._model, self.seconds = model, 0.0
        self.name, self.native_tools, self.price = model.name, model.native_tools, model.price

    async def complete(self, messages: Any, **options: Any) -> tt.Completion:
        completion = await self._model.complete(messages, **options)
        self.seconds += completion.seconds
        return completion


@dataclass(frozen=True)
class Level:
    """One judge on all items. confidence: NaN where it failed. cost: of an item."""

    model: str
    confidence: Floats
    correct: Bools
    cost: float
    facts: dict[str, float]

    def evidence(self, at: Any) -> tuple[list[float | None], list[bool]]:
        """Of these items, as calibration reads it."""
        return [None if np.isnan(value) else float(value) for value in self.confidence[at]], self.correct[at].tolist()


async def gather(model: str, items: Sequence[Item], collector: tt.Collector, options: argparse.Namespace) -> Level:
    """Ask one judge about everything."""
    timed: list[Timed] = []

    def bound(which: Any) -> Timed:
        timed[:] = timed or [Timed(collector.model_for(which))]
        return timed[0]

    judge = Judge(
        model, CRITERION, scale=1, confidence=options.confidence, explain=options.explain, reference=options.reference, max_chars=4_000
    )
    opinions = await opinions_of(judge.bind(bound), [item.case for item in items], bars(), model)
    given = [(opinion.confidence, opinion.score) if opinion else (np.nan, None) for opinion in opinions]
    confidence = np.array([sure for sure, _ in given], dtype=float)
    correct = np.array([score is not None and (score >= 0.5) == item.right for (_, score), item in zip(given, items, strict=True)])
    usd = [opinion.cost_usd for opinion in opinions if opinion]
    seconds = timed[0].seconds / len(items)
    dollars = sum(one or 0.0 for one in usd) / len(items)
    known = ~np.isnan(confidence)
    facts = {
        "agreement": float(correct[known].mean()),
        "says right": float(np.mean([score >= 0.5 for _, score in given if score is not None])),
        "mean confidence": float(confidence[known].mean()),
        "calibration error": calibration_error(confidence[known], correct[known]),
        "failed": float((~known).sum()),
        "seconds": seconds,
        "US dollars": dollars,
    }
    return Level(model, confidence, correct, dollars or seconds, facts)


def calibration_error(confidence: Floats, correct: Bools, bins: int = 10) -> float:
    """The mean distance of confidence and agreement, over bins of equally many items."""
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, bins) if part.size]
    return float(sum(part.size * abs(confidence[part].mean() - correct[part].mean()) for part in parts) / len(order))


# thresholds: of each level, from the calibration items

Thresholds = list[float | None]
Method = Callable[[Sequence[Level], Any, float, float], Thresholds]


def guaranteed(levels: Sequence[Level], at: Any, alpha: float, delta: float) -> Thresholds:
    found = calibrate_cascade([level.evidence(at) for level in levels], alpha, delta)
    return [level.calibration.threshold for level in found.levels]


def strongest_guaranteed(levels: Sequence[Level], at: Any, alpha: float, delta: float) -> Thresholds:
    confidence, correct = levels[-1].evidence(at)
    enough = any(value is not None for value in confidence)
    return [*[None] * (len(levels) - 1), calibrate(confidence, correct, alpha, delta).threshold if enough else None]


def observed(levels: Sequence[Level], at: Any, alpha: float, delta: float) -> Thresholds:
    """Level by level, the lowest threshold with an observed rate of at most alpha."""
    found: Thresholds = []
    left = np.asarray(at)
    for level in levels:
        given = left[~np.isnan(level.confidence[left])]
        found.append(observed_only(level.confidence[given], level.correct[given], alpha))
        left = np.array([place for place in left if not accepts(level.confidence[place], found[-1])], dtype=int)
    return found


METHODS: dict[str, Method] = {
    "cascade, guarantee": guaranteed,
    "strongest, guarantee": strongest_guaranteed,
    "cascade, observed rate, no bound": observed,
    "cascade, confidence >= 1 - alpha": lambda levels, at, alpha, delta: [1 - alpha] * len(levels),
    "strongest, never abstains": lambda levels, at, alpha, delta: [None] * (len(levels) - 1) + [-np.inf],
}


def decided(levels: Sequence[Level], thresholds: Thresholds, at: Any) -> tuple[list[int], int, float]:
    """(how many each level decides, how many of all are wrong, cost) on these items. A level without a threshold is not asked."""
    left, wrong, cost, counts = np.asarray(at), 0, 0.0, []
    for level, threshold in zip(levels, thresholds, strict=True):
        if threshold is None:
            counts.append(0)
            continue
        cost += level.cost * len(left)
        yes = np.array([accepts(level.confidence[place], threshold) for place in left], dtype=bool)
        counts.append(int(yes.sum()))
        wrong += int((~level.correct[left[yes]]).sum())
        left = left[~yes]
    return counts, wrong, cost


def splits(levels: Sequence[Level], alpha: float, delta: float, times: int) -> dict[str, dict[str, float]]:
    """Method -> what was seen over all splits."""
    n = len(levels[0].confidence)
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in METHODS}
    drawn, full = np.random.default_rng(0), levels[-1].cost or 1.0
    for _ in range(times):
        order = drawn.permutation(n)
        half, test = order[: n // 2], order[n // 2 :]
        for name, method in METHODS.items():
            thresholds = method(levels, half, alpha, delta)
            counts, wrong, cost = decided(levels, thresholds, test)
            all_counts, all_wrong, _ = decided(levels, thresholds, order)
            total, everything = sum(counts), sum(all_counts)
            seen = (all_wrong <= alpha * everything, wrong <= alpha * total, total / len(test), cost / len(test) / full, not everything)
            rows[name].append((*seen, *(count / len(test) for count in counts)))
    names = ["kept", "on the test half", "coverage", "cost", "abstains always", *(f"level {k + 1}" for k in range(len(levels)))]
    return {name: dict(zip(names, np.mean(row, axis=0).tolist(), strict=True)) for name, row in rows.items()}


# output


def show(levels: Sequence[Level], found: dict[str, Any], n: int, times: int) -> None:
    console = Console(width=130)
    table = Table("judge", *levels[0].facts, title=f"judges on {n} items", title_justify="left")
    for level in levels:
        table.add_row(level.model, *[f"{value:.3g}" for value in level.facts.values()])
    console.print(table)
    for setting, methods in found.items():
        table = Table("thresholds", *next(iter(methods.values())), title=f"{setting}: {times} splits of {n} items", title_justify="left")
        for name, row in methods.items():
            table.add_row(name, *[f"{value:.3f}" for value in row.values()])
        console.print(table)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=["gguf:smollm2-135m"], help="cheapest first; names, or GGUF files (default: %(default)s)"
    )
    parser.add_argument("--items", type=int, default=300, help="at most 2,800 (default: %(default)s)")
    parser.add_argument("--alphas", type=float, nargs="+", default=ALPHAS, help="disagreement to allow (default: %(default)s)")
    parser.add_argument("--times", type=int, default=1000, help="splits (default: %(default)s)")
    parser.add_argument("--confidence", choices=["token", "stated"], default="token", help="default: %(default)s")
    parser.add_argument("--explain", action="store_true", help="ask for reasons before the verdict, which takes many times as long")
    parser.add_argument("--reference", action="store_true", help="show the judges the right answer")
    parser.add_argument("--data", type=Path, default=DATA / "gsm8k" / "model_solutions.jsonl", help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "judge-gsm8k", help="where replies are kept (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the numbers as data")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    models = [f"gguf:{Path(name).expanduser()}" if name.endswith(".gguf") and ":" not in name else name for name in chosen.models]
    items = read_items(chosen.data, chosen.items, reference=chosen.reference)
    least = items_needed(min(chosen.alphas), DELTA / len(models))
    if len(items) // 2 < max(30, least):
        raise SystemExit(f"{len(items)} items are too few: half of them must be {max(30, least)} at least")
    Console().print(f"{len(items)} solutions, of which {sum(item.right for item in items)} are right; replies are kept in {chosen.out}")
    try:
        levels = ask_all(models, items, chosen)
    except KeyboardInterrupt:
        raise SystemExit("interrupted; what was asked is kept, and the same command goes on") from None
    found = {f"alpha {alpha}, delta {DELTA}": splits(levels, alpha, DELTA, chosen.times) for alpha in chosen.alphas}
    show(levels, found, len(items), chosen.times)
    if chosen.json:
        chosen.json.write_text(json.dumps(written(levels, found, chosen), indent=1) + "\n")


def ask_all(models: Sequence[str], items: Sequence[Item], chosen: argparse.Namespace) -> list[Level]:
    """Every judge on everything, one judge after another."""
    with tt.Store(chosen.out / "experience.sqlite") as store:
        collector = tt.Collector(lambda task, episode: None, store=store, study="judge-gsm8k")
        return [asyncio.run(gather(model, items, collector, chosen)) for model in models]


def written(levels: Sequence[Level], found: dict[str, Any], chosen: argparse.Namespace) -> dict[str, Any]:
    """All numbers, with every judge's confidence and correctness, so that the arithmetic can be done again."""
    judges = [
        {
            "model": level.model,
            **level.facts,
            "confidence": [None if np.isnan(value) else round(float(value), 6) for value in level.confidence],
            "correct": level.correct.tolist(),
        }
        for level in levels
    ]
    asked = {name: getattr(chosen, name) for name in ("items", "times", "confidence", "explain", "reference")}
    return {"machine": machine(), **asked, "judges": judges, "settings": found}


if __name__ == "__main__":
    main()
