"""Does a model learn to see? One of LLaVA's architecture, made from nothing, learns to name shapes, colours and counts.

It is trained by VisionSFT on generated images with three questions each, and asked one question of images that it never saw: some of pairs
of shape and colour that it was shown in other images, some of pairs that were never shown. Beside it stand the most frequent answer, the
answer of the training image that is nearest in pixels, and the same model before training. Intervals are Wilson's, at 95%.

    python benchmarks/vision.py --json vision.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from time import perf_counter, process_time

import numpy as np
from rich.console import Console
from rich.table import Table

import tutelage as tt
from common import machine
from tutelage.environments.shapes import COLOURS, NUMBERS, QUESTIONS, SHAPES, as_data_url, draw, random_scene, shapes_tasks
from tutelage.learners.vision import VisionSFT
from tutelage.records import Sampling, Task
from tutelage.study.statistics import wilson
from tutelage.training.vision_images import load_image, pictures_of
from tutelage.training.vision_model import VisionShape, make_vision_model

SHAPE = VisionShape(patch_size=12, width=128, layers=3, heads=4, vision_width=160, vision_layers=4, vision_heads=5)
WORDS = [*QUESTIONS.values(), " ".join([*SHAPES, *COLOURS, *NUMBERS, "system user assistant"])] * 3
SIZE = SHAPE.image_size
Answer = Callable[[Task], str]


@dataclass(frozen=True)
class Shown:
    """A training image as numbers (SIZE, SIZE, 3), with the answer to each kind of question."""

    pixels: np.ndarray
    answers: dict[str, str]


def training_images(count: int, seed: int, file: Path) -> list[Shown]:
    """Images with three questions each, in any order, as conversations in a file of rows; without the pairs that are kept apart."""
    random, shown, lines = Random(f"vision/{seed}"), [], []
    for _ in range(count):
        scene = random_scene(random, "without")
        image = draw(scene, SIZE)
        shown.append(Shown(np.asarray(image, dtype=np.float32), scene.answers))
        messages = []
        for kind in random.sample(list(QUESTIONS), len(QUESTIONS)):
            messages += [{"role": "user", "content": QUESTIONS[kind]}, {"role": "assistant", "content": scene.answers[kind]}]
        lines.append(json.dumps({"images": [as_data_url(image)], "messages": messages}) + "\n")
    file.write_text("".join(lines))
    return shown


def most_frequent(shown: Sequence[Shown]) -> Answer:
    common = {kind: Counter(one.answers[kind] for one in shown).most_common(1)[0][0] for kind in QUESTIONS}
    return lambda task: common[str(task.kind)]


def nearest(shown: Sequence[Shown]) -> Answer:
    """By squared differences of pixels."""
    known = np.stack([one.pixels.ravel() for one in shown])
    squares = (known**2).sum(1)

    def answer(task: Task) -> str:
        own = np.asarray(load_image(pictures_of(task.messages)[0]).image, dtype=np.float32).ravel()
        return shown[int((squares - 2 * known @ own).argmin())].answers[str(task.kind)]

    return answer


async def scores(agent: tt.Agent, tasks: Sequence[Task], folder: Path) -> list[float]:
    found = await tt.Practice(tasks, tt.Collector(tt.Normalised()), folder=folder).collect(agent)
    return [float(experience.grade.score or 0) for experience in found]


def by_kind(tasks: Sequence[Task], right: Sequence[float]) -> dict[str, dict[str, object]]:
    rows: dict[str, dict[str, object]] = {}
    for kind in [*QUESTIONS, "all"]:
        own = [score for task, score in zip(tasks, right, strict=True) if kind in (task.kind, "all")]
        low, high = wilson(sum(own), len(own))
        rows[kind] = {"right": sum(own), "of": len(own), "share": sum(own) / len(own), "low": low, "high": high}
    return rows


async def measure(chosen: argparse.Namespace) -> dict[str, object]:
    folder = Path(mkdtemp(prefix="vision-"))
    shown = training_images(chosen.images, chosen.seed, folder / "rows.jsonl")
    splits = {"unseen pairs": "only", "seen pairs, new images": "without"}
    tests = {name: shapes_tasks(chosen.test, 1000 + chosen.seed, size=SIZE, unseen=which) for name, which in splits.items()}
    base = make_vision_model(folder / "model", WORDS, SHAPE, seed=chosen.seed)
    agent = tt.Agent(model=f"hf:{base}", sampling=Sampling(max_tokens=6), limits=tt.Limits(steps=1))
    practice = tt.Practice((), tt.Collector(tt.Normalised()), seed=chosen.seed, folder=folder)
    how = {"learning_rate": 1e-3, "lr_scheduler_type": "cosine", "warmup_ratio": 0.08, "per_device_train_batch_size": 32}
    learner = VisionSFT(
        "file", file=str(folder / "rows.jsonl"), lora=None, max_steps=chosen.steps, num_train_epochs=1000, validation=0, **how
    )
    begun, worked = perf_counter(), process_time()
    learned = await learner.learn(agent, practice)
    facts = {"seconds": round(perf_counter() - begun), "processor_seconds": round(process_time() - worked), "training": practice.facts}
    table: dict[str, dict[str, dict[str, dict[str, object]]]] = {}
    for name, tasks in tests.items():
        plain = {"most frequent answer": most_frequent(shown), "nearest image's answer": nearest(shown)}
        arms = {arm: [float(answer(task) == task.reference) for task in tasks] for arm, answer in plain.items()}
        arms["before training"] = await scores(agent, tasks, folder)
        arms["VisionSFT"] = await scores(learned, tasks, folder)
        table[name] = {arm: by_kind(tasks, right) for arm, right in arms.items()}
    return {"machine": machine(), "images": chosen.images, "steps": chosen.steps, "seed": chosen.seed, **facts, "table": table}


def print_table(found: dict[str, dict[str, dict[str, dict[str, float]]]]) -> None:
    for name, arms in found.items():
        table = Table("arm", *QUESTIONS, "all", title=name)
        for arm, kinds in arms.items():
            cells = [f"{one['share']:.0%} ({one['low']:.0%} to {one['high']:.0%})" for one in kinds.values()]
            table.add_row(arm, *cells)
        Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"images": 4000, "steps": 400, "test": 150, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the table as data")
    chosen = parser.parse_args()
    found = asyncio.run(measure(chosen))
    print_table(found["table"])  # type: ignore[arg-type]
    print(f"{found['seconds']} s, of which {found['processor_seconds']} s of the processor")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
