"""SRL's claim, tried: can a small model learn from an expert's steps what it cannot find by itself, and is SRL before RLVR the best order?

    python benchmarks/srl.py [--quick] [--out FOLDER] [--json FILE] [--seeds 5] [--compute 2]

The task is `multi_step` in few signs: a number is changed in six steps, and only the last number is graded. The pupil is a Llama of a
million parameters, made here from nothing: it is shown short chains until it speaks both forms (a whole solution; a thought and then one
step) and does single steps right about as often as not, so that a chain of six is right almost never and RLVR starts near zero. Every
arm learns from the same training tasks, whose references are expert solutions, with all weights and the same compute:

    sft        the whole solutions, by heart
    rlvr       the answer alone, by GRPO
    srl        the steps, by GRPO on their likeness to the expert's
    srl+rlvr   half of the compute each

Compute is counted in tokens that pass through the model, forwards: one for each token read or written in rollouts and evaluations, three
for each token trained on (forwards and backwards). Steps are set so that each arm comes to the same (a short trial run measures what a step
costs), and what it came to is printed. `--compute` is in millions of tokens. The test tasks are of the side that no training task is of.

Intervals over tasks are those of the report; those over seeds say what another run would give. One pupil serves all seeds, so neither says
anything of other pupils. A run that is interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import tutelage as tt
from common import ROOT, bars, machine
from srl_pupil import CLAUSE, Plan, make_pupil, pupil_tokenizer, tasks_of, written
from tutelage.environments.multi_step import chance_level
from tutelage.errors import InputError
from tutelage.files import write_atomically
from tutelage.grader import as_grader
from tutelage.learner import Learner
from tutelage.learners.curriculum import Curriculum
from tutelage.learners.rlvr import RLVR
from tutelage.learners.sft import SFT
from tutelage.learners.srl import SRL, step_task, stepping
from tutelage.learners.srl_experts import reference_experts
from tutelage.learners.srl_format import StepGrader
from tutelage.records import content_id
from tutelage.study.learned import read_any_learned
from tutelage.study.render_terminal import print_report
from tutelage.study.statistics import alike_interval, bootstrap_interval

BASELINE = "baseline"
STEPS_OF = 40
"""Of so many test tasks the single steps are asked, too."""
TRIAL_STEPS = 3
TRIAL_SEED = 1_000


QUICK = Plan(chain=3, digits=2, train=16, test=20, width=32, layers=2, pretrain=150, rows=32, seeds=2, compute=0.05)

REINFORCED: dict[str, Any] = {
    "lora": None,
    "learning_rate": 3e-4,
    "tasks_per_step": 8,
    "num_generations": 8,
    "max_rounds": 2,
    "eval_steps": 10,
    "validation": 0.125,
}


# -- the arms


def pupil_agent(folder: Path, plan: Plan) -> tt.Agent:
    """The pupil, with room for a whole solution and some more."""
    room = plan.chain * (plan.digits + 6) + plan.digits + 16
    return tt.Agent(model=f"hf:{folder}?batch=64", sampling=tt.Sampling(max_tokens=room))


def rlvr(steps: int, **changes: Any) -> RLVR:
    """The answer alone."""
    return RLVR(steps=steps, **{**REINFORCED, **changes})


def srl(steps: int, **changes: Any) -> SRL:
    """The expert's steps."""
    return SRL(clause=CLAUSE, steps=steps, **{**REINFORCED, **changes})


def sft(epochs: float) -> SFT:
    """Whole solutions; the weights that do best on an eighth of them are kept."""
    looks = {"eval_steps": 20, "validation": 0.125}
    return SFT(
        num_train_epochs=epochs, lora=None, learning_rate=3e-4, lr_scheduler_type="constant", per_device_train_batch_size=16, **looks
    )


def arms(plan: Plan, prices: Mapping[str, float]) -> dict[str, Learner]:
    """All arms at equal compute. prices: tokens of compute for a step of `rlvr` and of `srl`, and for an epoch of `sft`."""
    budget = plan.compute * 1e6

    def steps(name: str, share: float = 1.0) -> int:
        return max(1, round(share * budget / prices[name]))

    return {
        "sft": sft(round(max(1.0, budget / prices["sft"]), 1)),
        "rlvr": rlvr(steps("rlvr")),
        "srl": srl(steps("srl")),
        "srl+rlvr": Curriculum(srl(steps("srl", 0.5)), rlvr(steps("rlvr", 0.5))),
    }


def measure_prices(plan: Plan, agent: tt.Agent, train: Sequence[tt.Task], asked: Mapping[str, float], out: Path) -> dict[str, float]:
    """What a step of each arm costs, from a short trial; kept in a file."""
    kept = out / "prices.json"
    key = content_id([asdict(plan), agent.version, REINFORCED])
    if kept.is_file() and (found := json.loads(kept.read_text())).pop("of") == key:
        return found  # type: ignore[no-any-return]
    prices = {"sft": 3.0 * 0.875 * len(train) * asked["sft"]}
    for name, learner in (("rlvr", rlvr(TRIAL_STEPS, validation=0)), ("srl", srl(TRIAL_STEPS, validation=0))):
        prices[name] = _trial(learner, agent, train, asked, out / "trial" / name) / TRIAL_STEPS
    shutil.rmtree(out / "trial")
    write_atomically(kept, json.dumps({"of": key, **prices}) + "\n")
    return prices


def lengths(train: Sequence[tt.Task]) -> dict[str, float]:
    """Mean tokens of what `rlvr` and `srl` ask, and of a whole row of `sft`."""
    tokenizer = pupil_tokenizer()
    whole = [written([("user", task.text)]) for task in train]
    rows = [row for expert in reference_experts(train, tt.Agent(model="none"), last=False).found for row in expert.rows]
    steps = [written([(message.role, message.text) for message in step_task(row, CLAUSE).messages]) for row in rows]
    solved = [f"{text}{task.reference}<|e|>" for text, task in zip(whole, train, strict=True)]
    texts = {"rlvr": whole, "srl": steps, "sft": solved}
    return {name: fmean(len(tokenizer.encode(text, add_special_tokens=False)) for text in some) for name, some in texts.items()}


def _trial(learner: Learner, agent: tt.Agent, train: Sequence[tt.Task], asked: Mapping[str, float], folder: Path) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    collector = tt.Collector(as_grader(tt.Numeric()), progress=bars())
    practice = tt.Practice(train, collector, seed=TRIAL_SEED, folder=folder, arm=f"trial {learner.name}")
    asyncio.run(learner.learn(agent, practice))
    return practice.cost.tokens_in + practice.cost.tokens_out + 3 * trained_tokens(folder, asked)


def trained_tokens(folder: Path, asked: Mapping[str, float]) -> float:
    """Tokens of the episodes that were learned from by reinforcement, prompts included, from the history of a run."""
    history = folder / "history.jsonl"
    rows = [json.loads(line) for line in history.read_text().splitlines()] if history.is_file() else []
    return sum(
        row["episodes"] * (1 - row["dropped"] / row["groups"]) * (asked[row["by"]] + row["tokens_per_answer"])
        for row in rows
        if "episodes" in row and row.get("loss") is not None  # other ways of learning write other rows
    )


# -- what came out


def steps_right(agent: tt.Agent, test: Sequence[tt.Task]) -> float:
    """The share of single steps that the agent gets right, given those before."""
    experts = reference_experts(test[:STEPS_OF], agent, last=False).found
    steps = [step_task(row, CLAUSE) for expert in experts for row in expert.rows]
    practice = tt.Practice(steps, tt.Collector(StepGrader(), progress=bars()), arm="step by step")
    graded = asyncio.run(practice.collect(stepping(agent)))
    return fmean(experience.grade.score == 1 for experience in graded)


def seed_scores(study: tt.Study, out: Path) -> dict[str, dict[int, float]]:
    """arm -> seed -> mean score on the test tasks."""
    tested = {task.id for task in study.test}
    found: dict[str, dict[int, float]] = {}
    with tt.Store(out / "experience.sqlite") as store:
        for arm in (BASELINE, *study.learners):
            scores: dict[int, list[float]] = {seed: [] for seed in study.seeds}
            for experience in store.experiences(study=study.name, arm=arm):
                if experience.episode.task_id in tested and experience.grade.score is not None:
                    scores[experience.episode.seed].append(experience.grade.score)
            plain = found.get(BASELINE, {})  # an arm that learned nothing has the plain agent, whose episodes are kept as the baseline's
            found[arm] = {seed: fmean(values) if values else plain[seed] for seed, values in scores.items() if values or seed in plain}
    return found


def over_seeds(values: Sequence[float], bounds: tuple[float, float]) -> tuple[float, float] | None:
    """An interval for the mean over seeds; None for a single seed."""
    if len(values) < 2:
        return None
    if max(values) == min(values):
        return alike_interval(values[0], len(values), bounds)
    return bootstrap_interval(np.asarray(values), seed=0)


def told_of(study: tt.Study, asked: Mapping[str, float], out: Path) -> dict[str, dict[str, float]]:
    """arm -> millions of tokens of compute, minutes of learning, and the share of single steps that are right; means over the seeds."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for path in sorted((out / "agents").glob("*.json")):
        learned = read_any_learned(path)
        if learned is None or learned.arm not in study.learners:
            continue
        facts = learned.facts
        sft_tokens = float(facts["tokens"]) * float(facts["epochs"]) if "epochs" in facts else 0.0  # type: ignore[arg-type]
        trained = trained_tokens(out / "training" / path.stem, asked) + sft_tokens
        compute = (learned.cost.tokens_in + learned.cost.tokens_out + 3 * trained) / 1e6
        agent = study.agent.but(adapter=learned.adapter and str(out / "adapters" / learned.adapter.id))
        found.setdefault(learned.arm, []).append((compute, learned.cost.seconds / 60, steps_right(agent, study.test)))
    names = ("compute", "minutes", "steps_right")
    return {arm: {name: fmean(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)} for arm, rows in found.items()}


def print_scores(scores: Mapping[str, Mapping[int, float]], spent: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Scores by arm with intervals over seeds, and the same less RLVR's; as data."""
    table = Table(
        "arm",
        "score",
        "over seeds",
        "by seed",
        "less rlvr",
        "over seeds",
        "steps right",
        "compute (M)",
        "minutes",
        title="Held-out tasks",
        title_justify="left",
    )
    rows = []
    for arm, by_seed in scores.items():
        values = list(by_seed.values())
        less = [by_seed[seed] - scores["rlvr"][seed] for seed in by_seed if seed in scores["rlvr"]]
        row = {
            "arm": arm,
            "score": fmean(values),
            "interval": over_seeds(values, (0.0, 1.0)),
            "by_seed": dict(by_seed),
            "less_rlvr": fmean(less),
            "less_rlvr_interval": over_seeds(less, (-1.0, 1.0)),
            **spent.get(arm, {}),
        }
        rows.append(row)
        table.add_row(
            arm,
            f"{row['score']:.3f}",
            _shown(row["interval"]),
            " ".join(f"{value:.2f}" for value in values),
            f"{row['less_rlvr']:+.3f}",
            _shown(row["less_rlvr_interval"]),
            f"{row['steps_right']:.2f}" if "steps_right" in row else "",
            f"{row['compute']:.2f}" if "compute" in row else "",
            f"{row['minutes']:.1f}" if "minutes" in row else "",
        )
    Console(width=140).print(table)
    return rows


def _shown(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:+.3f} to {interval[1]:+.3f}"


def run(plan: Plan, out: Path) -> dict[str, Any]:
    """Make the pupil, run the study or what is left of it, and say what came out."""
    folder = out / f"pupil-{plan.pupil_id}"
    pupil = make_pupil(plan, folder)
    train, test = tasks_of(plan, "train", plan.train), tasks_of(plan, "test", plan.test)
    agent = pupil_agent(folder, plan)
    asked = lengths(train)
    prices = measure_prices(plan, agent, train, asked, out)
    study = tt.Study(
        name="srl",
        agent=agent,
        train=train,
        test=test,
        grader=tt.Numeric(),
        learners=arms(plan, prices),
        seeds=tuple(range(plan.seeds)),
        out=out,
        progress=bars(),
    )
    report = study.run()
    print_report(report)
    told = {BASELINE: {"steps_right": steps_right(agent, test)}, **told_of(study, asked, out)}
    chance = chance_level(plan.chain, plan.digits)
    print(f"Guessing solves {chance:.1%} of the tasks. The pupil has {pupil['parameters']:,} parameters.")
    rows = print_scores(seed_scores(study, out), told)
    facts = {"plan": asdict(plan), "pupil": pupil, "prices": prices, "chance": chance}
    return {"machine": machine(), **facts, "rows": rows, "report": report.model_dump(mode="json")}


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny version that shows only that everything runs")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/srl or runs/srl-quick)")
    parser.add_argument("--json", type=Path, help="write the table as data (default: OUT/srl.json)")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--compute", type=float, help="millions of tokens an arm")
    chosen = parser.parse_args()
    given = {name: value for name in ("seeds", "compute") if (value := getattr(chosen, name)) is not None}
    plan = replace(QUICK if chosen.quick else Plan(), **given)
    if plan.seeds < 1 or plan.compute <= 0:
        raise InputError("seeds and compute must be above 0")
    out = chosen.out or ROOT / "runs" / ("srl-quick" if chosen.quick else "srl")
    out.mkdir(parents=True, exist_ok=True)
    data = run(plan, out)
    write_atomically(chosen.json or out / "srl.json", json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
