"""AGILE's claim, tried: does an agent learn by reinforcement when advice is worth its price, beyond what imitation taught it?

    python benchmarks/agile.py [--quick] [--out FOLDER] [--json FILE] [--only ARM ...] [--rules contrary]
    python benchmarks/agile.py --data productqa [--model hf:FOLDER]        see agile_productqa.py

Each shop of `shop` has hidden rules of its own. A stream is 60 questions to one shop: half are facts that its table answers, half need a
rule as well, which an expert tells at a price. What was kept of it is found again with later questions about the same rule, if they are
worded alike. Of sensible rules only the exact threshold is hidden, and a good guess is mostly right; whether a contrary rule goes one way
or the other is a coin's toss in each shop, so that a guess is worth nothing (in that world all products are lamps, whose rules come back
more often). The pupil is a small Llama, made here from nothing in other shops (`agile_pupil.py`): it can look up, apply a rule, keep
what it is told and guess, and asks at random. All arms learn in the same shops and are tested in shops that no arm has seen:

    untrained        the pupil
    imitation        sessions of a teacher, who asks where memory shows no rule that is needed, and only there
    rl               then reinforcement: GRPO on score less price, with the credit for what comes into memory
    rl c=.1 to .5    the same at other prices of advice
    weak, weak rl    imitation of a teacher who asks in a quarter of the sessions, at random; then reinforcement
    no ...           imitation and reinforcement without reflection, memory, advice or tools
    early advice     `rl`, which can get advice in the first sessions of a stream only

Beside them stand the best constant answer, that of the most similar question in another shop, and always asking. A total score is the mean
of score less price. Intervals resample shops, since sessions of one stream depend on each other: they say what other shops would give, and
nothing of other runs of training, of which there is one an arm. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import agile_productqa
import tutelage as tt
from agile_pupil import agent_of, make_pupil
from agile_shops import Plan, ShopAgile, ShopImitation, by_shop, practice_of, shops
from common import ROOT, bars, machine
from tutelage.environments.shop import ShopGrader
from tutelage.errors import InputError
from tutelage.files import write_atomically
from tutelage.grader import as_grader
from tutelage.learner import Learner
from tutelage.learners.agile_streams import side_by_side
from tutelage.records import content_id
from tutelage.streams import StreamRun, blocks, run_stream
from tutelage.study.cheap import advisor_answers, cheap_answers
from tutelage.study.statistics import bootstrap_interval

PRICE = 0.3
BLOCKS = 4
EARLY = 10
"""So many first sessions of a stream have advice in the arm `early advice`."""

SIMILAR = 0.4
"""Questions that share so many of their words are worded alike, and memory finds one by the other."""

QUICK = Plan(
    sessions=16, practice=24, train=3, held=1, test=3, width=64, layers=3, pretrain=250, rows=32, steps=2, streams=2, length=8, tries=2
)


WORLDS: dict[str, dict[str, Any]] = {"sensible": {}, "contrary": {"contrary": 0.5, "groups": ("lamps",)}}


@dataclass(frozen=True)
class Arm:
    """One way to get to an agent.

    start: the arm that it learns on from (None: the pupil). learns: by `imitation`, `rl`, or not at all. price: of advice. without: what
    the agent has to do without. random: share of the teacher's sessions that ask at random. early: advice in so many first sessions only.
    """

    name: str
    start: str | None = None
    learns: str = ""
    price: float = PRICE
    without: tuple[str, ...] = ()
    random: float = 0.0
    early: int | None = None


def all_arms() -> dict[str, Arm]:
    """By name, each after the one that it starts from."""
    found = [
        Arm("untrained"),
        Arm("imitation", None, "imitation"),
        Arm("rl", "imitation", "rl"),
        *(Arm(f"rl c={price:g}", "imitation", "rl", price) for price in (0.1, 0.2, 0.4, 0.5)),
        Arm("weak", None, "imitation", random=0.25),
        Arm("weak rl", "weak", "rl"),
    ]
    for what in ("reflection", "memory", "advice", "tools"):
        found.append(Arm(f"imitation, no {what}", None, "imitation", without=(what,)))
        found.append(Arm(f"no {what}", f"imitation, no {what}", "rl", without=(what,)))
    found.append(Arm("early advice", "rl", early=EARLY))
    return {arm.name: arm for arm in found}


class Work:
    """The arms of a plan: what they learned and how they did, kept in a folder."""

    def __init__(self, plan: Plan, out: Path) -> None:
        self.plan, self.out, self.arms = plan, out, all_arms()
        self.folder = out / f"pupil-{plan.pupil_id}"
        self.pupil = make_pupil(plan, self.folder)
        self.train, self.held, self.test = (shops(plan, side) for side in ("train", "held", "test"))
        self.store = tt.Store(out / "test.sqlite")

    def begin(self, arm: Arm) -> tt.Agent:
        """The arm's agent with the pupil's own weights."""
        batch = max(self.plan.streams * self.plan.tries, self.plan.test)
        return agent_of(f"hf:{self.folder}?batch={batch}", arm.price, arm.without, advice_first=arm.early)

    def learner(self, arm: Arm) -> Learner:
        """How the arm learns."""
        plan = self.plan
        if arm.learns == "imitation":
            taught = {"num_train_epochs": plan.epochs, "lora": None, "learning_rate": 2 * plan.rate, "per_device_train_batch_size": 16}
            return ShopImitation("shop", random_advice=arm.random, known=0.5, memory_size=(0, 8), validation=0, **taught)
        streams = {"streams": plan.streams, "sessions": plan.length, "num_generations": plan.tries, "similar_from": SIMILAR}
        update = {"lora": None, "learning_rate": plan.rate, "steps": plan.steps, "eval_steps": max(1, plan.steps // 4)}
        return ShopAgile("grpo", held=self.held, max_tokens_per_micro_batch=4096, **streams, **update)

    def learned(self, arm: Arm) -> tuple[tt.Agent, dict[str, Any]]:
        """The arm's agent with what it learned, and what is known of that: from an earlier run, or now."""
        agent = self.begin(arm)
        if arm.start is not None:
            agent = agent.but(adapter=self.learned(self.arms[arm.start])[0].adapter)
        if not arm.learns:
            return agent, {}
        learner = self.learner(arm)
        key = content_id([agent.version, learner.described(), [task.id for task in self.train], arm.name])
        note = self.out / "arms" / f"{arm.name.replace(' ', '_').replace(',', '')}.json"
        if note.is_file() and (facts := json.loads(note.read_text()))["of"] == key:
            return agent.but(adapter=facts["adapter"]), facts
        practice = practice_of(
            self.train,
            others=self.held,
            price=arm.price,
            without=arm.without,
            seed=self.plan.seed,
            arm=arm.name,
            folder=self.out / "training" / key,
            progress=bars(),
        )
        begun = perf_counter()
        agent = asyncio.run(learner.learn(agent, practice))
        assert agent.adapter is not None
        facts = {"of": key, "adapter": str(agent.adapter.folder), "seconds": perf_counter() - begun, "facts": dict(practice.facts)}
        note.parent.mkdir(exist_ok=True)
        write_atomically(note, json.dumps(facts, indent=1) + "\n")
        return agent, facts

    def tested(self, arm: Arm, agent: tt.Agent) -> list[StreamRun]:
        """A stream in each test shop, greedily; what was run before is taken from the store."""
        practice = practice_of(self.test, price=arm.price, without=arm.without, arm=arm.name, store=self.store, progress=bars())

        async def run() -> list[StreamRun]:
            return await side_by_side([run_stream(practice, agent, tasks) for tasks in by_shop(self.test).values()])

        return asyncio.run(run())


# -- what came out


def summed(arm: Arm, runs: Sequence[StreamRun], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Means over all sessions, and by shop the share of right answers and of sessions that got advice."""
    sessions = sorted((session for run in runs for session in run.sessions), key=lambda session: session.place)
    (whole,) = blocks(sessions, 1)
    reasoning = [session for session in sessions if session.task.kind == "reasoning"]
    return {
        "arm": arm.name,
        "price": arm.price,
        "advice_rate": whole.rate,
        "accuracy": whole.score,
        "total": whole.total,
        "accuracy_reasoning": fmean(session.score or 0.0 for session in reasoning),
        "advice_rate_reasoning": fmean(session.asked for session in reasoning),
        "blocks": [block.model_dump(mode="json") for block in blocks(sessions, BLOCKS)],
        "right_by_shop": [fmean(session.score or 0.0 for session in run.sessions) for run in runs],
        "asked_by_shop": [fmean(session.asked for session in run.sessions) for run in runs],
        "seconds_learning": facts.get("seconds"),
    }


def interval_of(values: Sequence[float]) -> tuple[float, float] | None:
    """For the mean over shops; None where it cannot be bounded."""
    if len(values) < 2 or max(values) == min(values):
        return None
    return bootstrap_interval(np.asarray(values), seed=0)


def totals(row: Mapping[str, Any], price: float) -> list[float]:
    """The total score in each shop, at a price."""
    return [right - price * asked for right, asked in zip(row["right_by_shop"], row["asked_by_shop"], strict=True)]


def compared(rows: Sequence[dict[str, Any]], arms: Mapping[str, Arm]) -> None:
    """Add intervals, and how much more every arm gets than the one that it started from, shop by shop, at its own price."""
    by_name = {row["arm"]: row for row in rows}
    for row in rows:
        own, start = totals(row, row["price"]), arms[row["arm"]].start
        row["interval"] = interval_of(own)
        if start in by_name:
            more = [one - other for one, other in zip(own, totals(by_name[start], row["price"]), strict=True)]
            row |= {"than": start, "more": fmean(more), "more_interval": interval_of(more)}


async def baselines(work: Work) -> list[dict[str, Any]]:
    """The cheap answers."""
    grader = as_grader(ShopGrader())
    expert = practice_of(work.test).advisor
    found = [*await cheap_answers(work.train, work.test, grader), *await advisor_answers(expert, [PRICE], work.test, grader)]
    return [{"arm": one.name, "note": one.note, "total": fmean(score or 0.0 for score in one.scores)} for one in found]


def print_rows(rows: Sequence[Mapping[str, Any]], cheap: Sequence[Mapping[str, Any]]) -> None:
    """What every arm came to."""
    columns = ("arm", "price", "advice", "accuracy", "total score", "over shops", "more than its start", "over shops", "minutes")
    table = Table(*columns, title="Test shops", title_justify="left")
    for row in rows:
        more = f"{row['more']:+.3f} ({row['than']})" if "more" in row else ""
        minutes = f"{row['seconds_learning'] / 60:.1f}" if row["seconds_learning"] else ""
        numbers = (f"{row['price']:g}", f"{row['advice_rate']:.3f}", f"{row['accuracy']:.3f}", f"{row['total']:.3f}")
        table.add_row(row["arm"], *numbers, _shown(row["interval"]), more, _shown(row.get("more_interval"), "+"), minutes)
    for row in cheap:
        table.add_row(f"({row['arm']})", "", "", "", f"{row['total']:.3f}", "", "", "", "")
    Console(width=150).print(table)


def print_blocks(rows: Sequence[Mapping[str, Any]]) -> None:
    """How the streams went on."""
    longest = max((row["blocks"] for row in rows), key=len)
    places = [f"{block['first'] + 1}-{block['first'] + block['sessions'] // max(1, len(rows[0]['right_by_shop']))}" for block in longest]
    table = Table("arm", "mean", *places, title="Over the stream", title_justify="left")
    for row in rows:
        for name, field in (("advice", "rate"), ("total", "total")):
            table.add_row(row["arm"] if field == "rate" else "", name, *(f"{block[field]:.3f}" for block in row["blocks"]))
    Console(width=150).print(table)


def print_sweep(rows: Sequence[Mapping[str, Any]]) -> None:
    """What the price of advice does."""
    swept = sorted((row for row in rows if row["arm"].split(" ")[0] == "rl"), key=lambda row: row["price"])
    table = Table("price", "advice", "of reasoning", "accuracy", "total score", title="The price of advice", title_justify="left")
    for row in swept:
        numbers = (row["advice_rate"], row["advice_rate_reasoning"], row["accuracy"], row["total"])
        table.add_row(f"{row['price']:g}", *(f"{number:.3f}" for number in numbers))
    Console(width=150).print(table)


def _shown(interval: tuple[float, float] | None, sign: str = "") -> str:
    return "" if interval is None else f"{interval[0]:{sign}.3f} to {interval[1]:{sign}.3f}"


def run(plan: Plan, out: Path, only: Sequence[str]) -> dict[str, Any]:
    """Make the pupil, let all arms learn or what is left of that, test them, and say what came out."""
    work = Work(plan, out)
    chosen = [work.arms[name] for name in only] or list(work.arms.values())
    rows = []
    for arm in chosen:
        agent, facts = work.learned(arm)
        rows.append(summed(arm, work.tested(arm, agent), facts))
        print(f"{arm.name}: advice {rows[-1]['advice_rate']:.3f}, accuracy {rows[-1]['accuracy']:.3f}, total {rows[-1]['total']:.3f}")
    compared(rows, work.arms)
    cheap = asyncio.run(baselines(work))
    print_rows(rows, cheap)
    print_blocks(rows)
    print_sweep(rows)
    facts = work.pupil
    print(f"The pupil has {facts['parameters']:,} parameters; a session of its practice {facts['tokens_a_session']} tokens.")
    return {"machine": machine(), "plan": asdict(plan), "pupil": facts, "rows": rows, "baselines": cheap}


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny version that shows only that everything runs")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/agile, with -productqa and -quick behind it)")
    parser.add_argument("--json", type=Path, help="write the tables as data (default: OUT/agile.json)")
    parser.add_argument("--data", choices=("shop", "productqa"), default="shop")
    parser.add_argument("--steps", type=int, help="steps of reinforcement")
    shop = parser.add_argument_group("shop")
    shop.add_argument("--rules", choices=WORLDS, default="sensible", help="of the shops (default: %(default)s)")
    shop.add_argument("--only", nargs="+", default=(), metavar="ARM", help="only these arms, and what they start from")
    productqa = parser.add_argument_group("productqa")
    productqa.add_argument("--model", help="the agent's model (default: gguf:smollm2-135m)")
    productqa.add_argument("--train", type=int, help="training questions")
    productqa.add_argument("--test", type=int, help="test questions")
    productqa.add_argument("--rows", type=int, help="sessions at once in imitation, a divisor of 16")
    return parser.parse_args()


def given(chosen: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name in names if (value := getattr(chosen, name)) is not None}


def main() -> None:
    """Read the options and run."""
    chosen = options()
    known = all_arms()
    for name in chosen.only:
        if name not in known:
            raise InputError(f"there is no arm `{name}`. Known: {', '.join(known)}", field="only")
    world = chosen.data if chosen.data == "productqa" else chosen.rules
    parts = ("agile", *((world,) if world != "sensible" else ()), *(("quick",) if chosen.quick else ()))
    out = chosen.out or ROOT / "runs" / "-".join(parts)
    out.mkdir(parents=True, exist_ok=True)
    if chosen.data == "productqa":
        size = replace(
            agile_productqa.QUICK if chosen.quick else agile_productqa.Size(), **given(chosen, "model", "train", "test", "rows", "steps")
        )
        data = agile_productqa.run(size, out)
    else:
        data = run(replace(QUICK if chosen.quick else Plan(), **WORLDS[chosen.rules], **given(chosen, "steps")), out, chosen.only)
    write_atomically(chosen.json or out / "agile.json", json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
