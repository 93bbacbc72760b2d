"""Learned embedding propagation, shown: what a new tokenizer, and embeddings trained on the base, do for an instruct model.

    python benchmarks/embeddings.py [--quick] [--seeds 3] [--out FOLDER] [--json FILE]

Two languages are made up, with the same sentences word for word (`embeddings_languages.py`). A tokenizer of the first one writes the second
in bytes. A base of some 180 thousand parameters reads both, little of the second; an instruct model is tuned from it on questions in
both. Then the vocabulary is extended by the second language, and:

    before                  the instruct model with the old tokenizer
    mean                    the new vocabulary, embeddings as means of their sub-tokens', nothing trained
    direct                  from there, the instruct model's own embeddings trained on the text
    swap, overlap, conversion   the base's embeddings trained on the text, and carried over in three ways
    ... + calibration       a short LoRA on the questions of the tuning in the second language, merged in

All trainings on the text are of the same steps over the same blocks. Measured: the share of right answers (greedy, to the letter) in the
second language about names that tuning never asked about in it, and in the first language about all names; and bits per character on
sentences of the second language drawn apart from the text.
Intervals are Wilson's over the answers of all seeds together; the seeds (other worlds, words and weights) are listed beside them.
These are toys: that the stages work together, and what they do to a model that is known through and through, is what they show.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.table import Table as Printed

from common import ROOT, bars, machine
from embeddings_languages import QUICK, Plan, World, answers, make_tokenizer, new_model, train
from tutelage.files import write_atomically
from tutelage.study.statistics import wilson

CALIBRATED = ("mean", "direct", "conversion")
FIRST, SECOND = "latin", "greek"


# -- the models


def make_models(world: World, folder: Path) -> None:
    """Write base and instruct model, unless they are there."""
    plan = world.plan
    if (folder / "instruct" / "config.json").is_file():
        return
    chance = random.Random(f"reading {world.seed}")
    tokenizer = make_tokenizer(
        [*world.sentences(4000, FIRST, chance), *(text for row in world.rows(FIRST, world.names) for text in _texts(row))]
    )

    def reading() -> list[Any]:
        greek = round(plan.share * plan.lines)
        texts = [*world.sentences(plan.lines - greek, FIRST, chance), *world.sentences(greek, SECOND, chance)]
        return [_whole(tokenizer, text) for text in texts]

    def tuning() -> list[Any]:
        rows = chance.sample(rendered, min(len(rendered), plan.lines // 2))
        return [*((row.ids, row.mask) for row in rows), *reading()[:: max(1, plan.lines // 8)]]

    from tutelage.training.chat import render_row

    model = new_model(tokenizer, plan, world.seed)
    train(model, reading, plan.pretrain, 3e-3, bars().stage("base", plan.pretrain))
    _write(model, tokenizer, folder / "base")
    rendered = [render_row(tokenizer, row) for row in (*world.rows(FIRST, world.names), *world.rows(SECOND, world.tuned))]
    train(model, tuning, plan.tune, 1e-3, bars().stage("instruct", plan.tune))
    _write(model, tokenizer, folder / "instruct")


def _texts(row: Any) -> list[str]:
    return [message.text for message in (*row.prompt, *row.completion)]


def _whole(tokenizer: Any, text: str) -> tuple[list[int], list[bool]]:
    ids = [tokenizer.eos_token_id, *tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    return ids, [True] * len(ids)


def _write(model: Any, tokenizer: Any, folder: Path) -> None:
    from tutelage.training.adaptation_models import write_model

    write_model(model, tokenizer, folder)


# -- the arms


class Setting:
    """One seed: its world, models, text and new tokenizer."""

    def __init__(self, plan: Plan, seed: int, folder: Path) -> None:
        from tutelage.training.adaptation import parts_of
        from tutelage.training.base import find_base, load_tokenizer
        from tutelage.training.corpus import Piece
        from tutelage.training.embedding_training import text_blocks
        from tutelage.training.tokenizer_training import PlainEncoder, Vocabulary, train_tokenizer

        self.plan, self.seed, self.folder, self.world = plan, seed, folder, World(plan, seed)
        make_models(self.world, folder)
        self.base, self.instruct = find_base(str(folder / "base")), find_base(str(folder / "instruct"))
        self.old = load_tokenizer(self.instruct)
        chance = random.Random(f"text {seed}")
        lines = self.world.sentences(plan.text, SECOND, chance)
        self.learned = [Piece(f"{text}\n", "text", number) for number, text in enumerate(lines, start=1)]
        self.held = [Piece(text, "held", 1) for text in self.world.sentences(200, SECOND, chance)]
        self.new = train_tokenizer(self.old, [piece.text for piece in self.learned], folder / "tokenizer")
        self.vocabulary = Vocabulary.of(self.new)
        self.parts = parts_of(self.old, self.vocabulary)
        self.blocks = text_blocks(PlainEncoder(self.new), self.learned, self.new.eos_token_id, 64)

    def load(self, which: str) -> Any:
        from tutelage.training.base import load_causal_lm

        return load_causal_lm(getattr(self, which), "float32", "cpu")

    def meant(self, which: str) -> Any:
        """A model in the new vocabulary, untrained."""
        from tutelage.training.adaptation import converted
        from tutelage.training.embedding_training import set_tables, tables_of

        model = self.load(which)
        set_tables(model, converted(tables_of(model), self.parts))
        return model

    def trained(self, which: str) -> Any:
        """That model after training of its embeddings."""
        from tutelage.training.embedding_training import EmbeddingSettings, Place, train_embeddings

        settings = EmbeddingSettings(steps=self.plan.adapt, learning_rate=self.plan.rate, per_device_train_batch_size=8, max_length=64)
        model, place = (
            self.meant(which),
            Place(self.folder / f"training-{which}", lambda total: bars().stage(f"embeddings, {which}", total)),
        )
        train_embeddings(model, self.blocks, settings, place, seed=self.seed)
        return model

    def arms(self) -> Iterator[tuple[str, Any, dict[str, Any]]]:
        """(name, model, what the projection said)."""
        from tutelage.training.adaptation import carried
        from tutelage.training.embedding_training import set_tables, tables_of
        from tutelage.training.embeddings import Shared
        from tutelage.training.tokenizer_training import Vocabulary

        yield "mean", self.meant("instruct"), {}
        yield "direct", self.trained("instruct"), {}
        trained = tables_of(self.trained("base"))
        ours, theirs = ((tables_of(self.load(which)), self.parts) for which in ("base", "instruct"))
        shared = Shared.of(self.vocabulary, Vocabulary.of(self.old))
        for projection in ("swap", "overlap", "conversion"):
            found, aligned = carried(trained, ours, theirs, shared, projection)
            model = self.load("instruct")
            set_tables(model, found)
            yield (
                projection,
                model,
                {name: {"residual": one.residual, "apart": one.apart, "rank": one.rank} for name, one in aligned.items()},
            )

    def calibrated(self, model: Any, name: str) -> Any:
        from tutelage.training.base import find_base
        from tutelage.training.chat import render_row
        from tutelage.training.settings import Lora
        from tutelage.training.supervised import train_sft
        from tutelage.training.supervised_job import Job, SFTSettings

        folder = self.folder / f"model-{name}"
        _write(model, self.new, folder)
        rows = [render_row(self.new, row) for row in self.world.rows(SECOND, self.world.tuned)]
        settings = SFTSettings(
            max_steps=self.plan.calibrate, per_device_train_batch_size=24, learning_rate=2e-3, lora=Lora(r=8, lora_alpha=16)
        )
        trained = train_sft(Job(find_base(str(folder)), self.new, self.folder / "calibration", seed=self.seed), rows, settings)
        return trained.model.merge_and_unload().eval()

    def measure(self, model: Any, tokenizer: Any) -> dict[str, Any]:
        from tutelage.training.embedding_training import nats_of
        from tutelage.training.tokenizer_training import PlainEncoder

        nats = nats_of(model, PlainEncoder(tokenizer), self.held, tokenizer.eos_token_id)
        characters = sum(len(piece.text) for piece in self.held)
        asked = {FIRST: self.world.rows(FIRST, self.world.names), SECOND: self.world.rows(SECOND, self.world.untuned)}
        right = {language: answers(model, tokenizer, rows) for language, rows in asked.items()}
        return {"bits_per_character": nats / characters / math.log(2), **right}

    def characters_per_token(self, tokenizer: Any) -> float:
        from tutelage.training.tokenizer_training import PlainEncoder

        texts = [piece.text for piece in self.held]
        return sum(map(len, texts)) / sum(map(len, PlainEncoder(tokenizer)(texts)))


def measure_seed(plan: Plan, seed: int, folder: Path) -> dict[str, Any]:
    """All arms of a seed, unless they were measured already."""
    note = folder / "measured.json"
    if note.is_file():
        return json.loads(note.read_text())  # type: ignore[no-any-return]
    begun = perf_counter()
    setting = Setting(plan, seed, folder)
    arms: dict[str, Any] = {"before": setting.measure(setting.load("instruct"), setting.old)}
    for name, model, said in setting.arms():
        arms[name] = {**setting.measure(model, setting.new), **said}
        if name in CALIBRATED:
            arms[f"{name} + calibration"] = setting.measure(setting.calibrated(model, name), setting.new)
    characters = {"before": setting.characters_per_token(setting.old), "after": setting.characters_per_token(setting.new)}
    found = {"arms": arms, "characters_per_token": characters, "seconds": round(perf_counter() - begun, 1)}
    write_atomically(note, json.dumps(found) + "\n")
    return found


# -- the table


def summary(measured: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row an arm: over all seeds the share of right answers with its interval, each seed's, and bits per character."""
    rows = []
    for arm in measured[0]["arms"]:
        row: dict[str, Any] = {"arm": arm}
        for language in (FIRST, SECOND):
            seeds = [one["arms"][arm][language] for one in measured]
            right, count = sum(map(sum, seeds)), sum(map(len, seeds))
            row[language] = {"score": right / count, "interval": wilson(right, count), "seeds": [sum(one) / len(one) for one in seeds]}
        row["bits_per_character"] = [one["arms"][arm]["bits_per_character"] for one in measured]
        rows.append(row)
    return rows


def show(rows: Sequence[dict[str, Any]], measured: Sequence[dict[str, Any]]) -> None:
    table = Printed("arm", "new language", "95% interval", "by seed", "first language", "bits per character, new language")
    for row in rows:
        second, first, bits = row[SECOND], row[FIRST], row["bits_per_character"]
        low, high = second["interval"]
        listed = " ".join(f"{score:.2f}" for score in second["seeds"])
        table.add_row(
            row["arm"],
            f"{second['score']:.3f}",
            f"{low:.3f} to {high:.3f}",
            listed,
            f"{first['score']:.3f}",
            f"{sum(bits) / len(bits):.3f}",
        )
    Console(width=130).print(table)
    means: defaultdict[str, float] = defaultdict(float)
    for one in measured:
        for name, value in one["characters_per_token"].items():
            means[name] += value / len(measured)
    print(f"characters per token in the new language: {means['before']:.2f} before, {means['after']:.2f} after")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="Only whether the script works: what it prints means nothing.")
    parser.add_argument("--seeds", type=int, help=f"default: {Plan.seeds}")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "embeddings", help="where models are kept (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the table as data")
    chosen = parser.parse_args()
    plan = QUICK if chosen.quick else Plan()
    plan = replace(plan, seeds=chosen.seeds or plan.seeds)
    measured = [measure_seed(plan, seed, chosen.out / str(seed)) for seed in range(plan.seeds)]
    rows = summary(measured)
    show(rows, measured)
    if chosen.json:
        data = {"machine": machine(), "plan": asdict(plan), "rows": rows, "measured": measured}
        chosen.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
