"""Ways of learning without weights, ours beside DSPy's, on one model, one split and one metric: test score against model calls.

    pip install -r benchmarks/peers.txt        (in an environment of its own; needs dspy and gepa)
    python benchmarks/optimisers.py --model gguf:qwen2.5-coder-0.5b.gguf [--train 48] [--test 60] [--seeds 2] [--calls 250]
        [--only NAME,NAME] [--json FILE]

The task: which of 12 intents has a bank customer's message (banking77, CC-BY-4.0; the 12 intents are those about cards, chosen because
they are easily mistaken for each other). Everybody gets the same instructions, the same training and test messages, the same model in
this process, and the same metric (the intent's name, in any case and punctuation). DSPy optimises a `Predict` program through its chat
adapter; replies that its adapter cannot read count as wrong, as they would for a user. `learn calls` are all model calls made before the
test, by whatever part of the optimiser; every arm then makes one pass over the test messages (DSPy's adapter may ask again after a reply
that it cannot read: `test calls`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import threading
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

from rich.console import Console
from rich.table import Table

import tutelage as tt
from common import DATA, machine
from tutelage.collector import Job
from tutelage.graders.text import normalise
from tutelage.model import load_model
from tutelage.retrieval.embedders import load_embedder
from tutelage.study.statistics import score_interval

GREEDY = tt.Sampling()
INTENTS = (
    "activate_my_card",
    "card_about_to_expire",
    "card_acceptance",
    "card_arrival",
    "card_delivery_estimate",
    "card_linking",
    "card_not_working",
    "card_swallowed",
    "compromised_card",
    "declined_card_payment",
    "lost_or_stolen_card",
    "order_physical_card",
)
INSTRUCTIONS = f"Sort the customer's message. Answer with the name of one intent and nothing else.\nIntents: {', '.join(INTENTS)}"


class Counted:
    """A model that counts its calls, usable from asyncio code and, through `ask`, from threads."""

    def __init__(self, name: str) -> None:
        self.model = load_model(name)
        self.name, self.native_tools, self.price = self.model.name, self.model.native_tools, self.model.price
        self.concurrency = getattr(self.model, "concurrency", 1)
        self.calls = 0
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    async def complete(self, messages, *, tools=(), sampling=GREEDY):
        self.calls += 1
        return await self.model.complete(messages, tools=tools, sampling=sampling)

    def ask(self, messages: Iterable[dict[str, Any]], temperature: float, max_tokens: int, seed: int) -> str:
        said = tuple(tt.Message(role=message["role"], content=_text(message["content"])) for message in messages)
        sampling = tt.Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed if temperature else None)
        completion = asyncio.run_coroutine_threadsafe(self.complete(said, sampling=sampling), self.loop).result()
        return completion.message.text


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)


def splits(train: int, test: int, seed: int) -> tuple[list[tt.Task], list[tt.Task]]:
    """The same messages for everybody; another seed draws other training messages, the test stays."""
    columns = {"input": "text", "reference": "category"}
    folder = DATA / "banking77"
    tested = [task for task in tt.read_tasks(folder / "test.csv", columns=columns) if task.reference in INTENTS]
    known = {task.input_id for task in tested}
    pool = [
        task for task in tt.read_tasks(folder / "train.csv", columns=columns) if task.reference in INTENTS and task.input_id not in known
    ]
    return random.Random(seed).sample(pool, train), random.Random(0).sample(tested, test)


# Ours


def ours(model: Counted, train: list[tt.Task], test: list[tt.Task], seed: int) -> dict[str, Callable[[], dict[str, Any]]]:
    learners = {
        "tutelage baseline": None,
        "tutelage exemplars, fixed": tt.Exemplars("fixed", 8),
        "tutelage exemplars, meaning": tt.Exemplars("meaning", 8),
        "tutelage own successes, meaning": tt.Exemplars("meaning", 8, source="success"),
        "tutelage reflexion": tt.Reflexion(trials=3, carry=2),
        "tutelage expel": tt.ExpeL(retries=2, k=4),
    }
    agent = tt.Agent(model=model, instructions=INSTRUCTIONS, sampling=tt.Sampling(max_tokens=24))

    def run(learner: Any) -> dict[str, Any]:
        store = tt.Store(":memory:")
        collector = tt.Collector(tt.Normalised(), store=store)
        practice = tt.Practice(train, collector, seed=seed)

        async def measure() -> dict[str, Any]:
            model.calls, began = 0, monotonic()
            learned = agent if learner is None else await learner.learn(agent, practice)
            learn_calls, learn_seconds = model.calls, monotonic() - began
            model.calls = 0
            graded = await collector.run(learned, [Job(task, seed) for task in test])
            scores = [experience.grade.score or 0.0 for experience in graded]
            return {"scores": scores, "learn_calls": learn_calls, "learn_seconds": learn_seconds, "test_calls": model.calls}

        return asyncio.run(measure())

    return {name: lambda learner=learner: run(learner) for name, learner in learners.items()}


# DSPy's


def dspys(model: Counted, train: list[tt.Task], test: list[tt.Task], seed: int, calls: int) -> dict[str, Callable[[], dict[str, Any]]]:
    warnings.filterwarnings("ignore")
    import dspy

    class InProcess(dspy.BaseLM):
        """DSPy's door to the very same model."""

        def forward(self, prompt=None, messages=None, **settings):
            merged = {**self.kwargs, **settings}
            asked = messages or [{"role": "user", "content": prompt}]
            self.asked += 1
            text = model.ask(asked, merged.get("temperature") or 0.0, merged.get("max_tokens") or 256, seed * 100_003 + self.asked)
            choice = SimpleNamespace(message=SimpleNamespace(content=text, tool_calls=None), finish_reason="stop", index=0)
            return SimpleNamespace(choices=[choice], usage={"prompt_tokens": 0, "completion_tokens": 0}, model=self.model)

        asked = 0

    lm = InProcess(model="in-process", temperature=0.0, max_tokens=256, cache=False)
    dspy.configure(lm=lm)
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)

    class Sort(dspy.Signature):
        message: str = dspy.InputField()
        intent: str = dspy.OutputField()

    Sort.__doc__ = INSTRUCTIONS
    rows = [dspy.Example(message=task.text, intent=task.reference).with_inputs("message") for task in train]

    def metric(example, prediction, trace=None, *_, **__):
        return _same(example.intent, getattr(prediction, "intent", None))

    def with_feedback(example, prediction, trace=None, pred_name=None, pred_trace=None):
        right = _same(example.intent, getattr(prediction, "intent", None))
        words = "Right." if right else f"Wrong: the intent is {example.intent}."
        return dspy.Prediction(score=float(right), feedback=words)

    program = dspy.Predict(Sort)
    half = len(rows) // 2

    def embed(texts):
        return load_embedder("wordllama").embed(list(texts))

    optimisers = {
        "dspy Predict": lambda: program,
        "dspy LabeledFewShot": lambda: dspy.LabeledFewShot(k=8).compile(program, trainset=rows),
        "dspy BootstrapFewShot": lambda: dspy.BootstrapFewShot(metric=metric, max_bootstrapped_demos=4, max_labeled_demos=8).compile(
            program, trainset=rows
        ),
        "dspy KNNFewShot": lambda: dspy.KNNFewShot(
            k=8, trainset=rows, vectorizer=dspy.Embedder(embed), max_bootstrapped_demos=0, max_labeled_demos=8
        ).compile(program),
        "dspy MIPROv2": lambda: dspy.MIPROv2(metric=metric, auto=None, num_candidates=4, num_threads=1, seed=seed, verbose=False).compile(
            program,
            trainset=rows[:half],
            valset=rows[half:],
            num_trials=max(2, calls // max(1, len(rows) - half) - 4),
            minibatch=False,
            max_bootstrapped_demos=4,
            max_labeled_demos=8,
        ),
        "dspy GEPA": lambda: dspy.GEPA(
            metric=with_feedback,
            max_metric_calls=calls,
            reflection_lm=InProcess(model="in-process", temperature=1.0, max_tokens=512, cache=False),
            num_threads=1,
            seed=seed,
        ).compile(program, trainset=rows[:half], valset=rows[half:]),
    }

    def run(compile_: Callable[[], Any]) -> dict[str, Any]:
        random.seed(seed)
        model.calls, began = 0, monotonic()
        compiled = compile_()
        learn_calls, learn_seconds = model.calls, monotonic() - began
        model.calls = 0
        scores = [_graded(compiled, task) for task in test]
        return {"scores": scores, "learn_calls": learn_calls, "learn_seconds": learn_seconds, "test_calls": model.calls}

    return {name: lambda compile_=compile_: run(compile_) for name, compile_ in optimisers.items()}


def _graded(program: Any, task: tt.Task) -> float:
    try:
        return float(_same(str(task.reference), program(message=task.text).intent))
    except Exception:
        return 0.0


def _same(expected: str, given: Any) -> bool:
    """As the grader `normalised` sees it."""
    return isinstance(given, str) and normalise(given) == normalise(expected)


# The table


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("arm", "seed", "score", "95% interval", "learn calls", "learn s", "test calls")
    for row in rows:
        low, high = score_interval(row["scores"]) or (0, 0)
        score = sum(row["scores"]) / len(row["scores"])
        cells = [str(row["seed"]), f"{score:.3f}", f"{low:.3f} to {high:.3f}", str(row["learn_calls"]), f"{row['learn_seconds']:.0f}"]
        table.add_row(row["arm"], *cells, str(row["test_calls"]))
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gguf:smollm2-135m")
    parser.add_argument("--train", type=int, default=48)
    parser.add_argument("--test", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--calls", type=int, default=250, help="metric calls that MIPROv2 and GEPA may make (default: %(default)s)")
    parser.add_argument("--only", help="names of arms, by commas")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    model, rows = Counted(chosen.model), []
    for seed in range(chosen.seeds):
        train, test = splits(chosen.train, chosen.test, seed)
        arms = {**ours(model, train, test, seed), **dspys(model, train, test, seed, chosen.calls)}
        for name, run in arms.items():
            if chosen.only and name not in chosen.only.split(","):
                continue
            try:
                rows.append({"arm": name, "seed": seed, **run()})
            except Exception as failed:  # an optimiser that gives up is a result, too
                print(f"{name} failed: {type(failed).__name__}: {failed}")
                continue
            show(rows[-1:])
            if chosen.json:
                chosen.json.write_text(json.dumps({"machine": machine(), "model": chosen.model, "rows": rows}, indent=1) + "\n")
    show(rows)


if __name__ == "__main__":
    main()
