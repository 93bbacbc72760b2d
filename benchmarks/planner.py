"""The planner's forecast beside the peak that a training really has, over a grid of models, lengths, batches and levers.

    python benchmarks/planner.py [--quick] [--only sft-lora ...] [--models small wide ...] [--threads 1] [--json FILE]

Each case is a training by the product's own trainers (SFT, DPO, the policy gradient with GRPO's loss), of a few steps on rows of random
tokens, in a process of its own, so that the peak is its own: on a CPU the most memory that the process ever had (`ru_maxrss`), on a GPU
what torch had allocated at most (`torch.cuda.max_memory_allocated`; not measured here). The models are made up: Llamas and Qwens of several
widths, depths and vocabularies with random weights. `--models smollm2-135m` takes the real one.

Nothing is set for the C library's allocator: glibc's defaults are what users get, and what it loses is part of the forecast. Training runs
in a thread beside the event loop, as the learners run it. The levers of a case are settings that users have, `return_memory` among them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common import machine

WITHIN = 0.15
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"kind": "llama", "hidden_size": 128, "layers": 4, "intermediate": 512, "vocabulary": 512, "heads": 4, "kv_heads": 2},
    "small": {"kind": "llama", "hidden_size": 256, "layers": 16, "intermediate": 1024, "vocabulary": 16_000, "heads": 8, "kv_heads": 8},
    "wide": {"kind": "llama", "hidden_size": 512, "layers": 8, "intermediate": 1536, "vocabulary": 1000, "heads": 8, "kv_heads": 4},
    "words": {"kind": "qwen2", "hidden_size": 384, "layers": 6, "intermediate": 1024, "vocabulary": 49_152, "heads": 6, "kv_heads": 2},
    "many-words": {"kind": "qwen2", "hidden_size": 256, "layers": 4, "intermediate": 768, "vocabulary": 151_936, "heads": 4, "kv_heads": 2},
}
"""Made-up models by name; `smollm2-135m` is a real one."""


@dataclass(frozen=True)
class Case:
    """A training. way: sft, dpo or grpo. settings: of `TrainSettings` and its kin."""

    way: str
    model: str
    length: int
    batch: int
    settings: dict[str, Any] = field(default_factory=dict)
    steps: int = 4

    @property
    def name(self) -> str:
        """For people."""
        levers = " ".join(f"{key}={value}" for key, value in self.settings.items() if key not in ("lora", "dtype"))
        kind = "full" if self.settings.get("lora", 1) is None else "lora"
        return f"{self.way} {self.model} {self.length}x{self.batch} {kind} {self.settings.get('dtype', 'float32')} {levers}".strip()


def grid(models: list[str], *, quick: bool) -> Iterator[Case]:
    """The cases."""
    shapes = [(128, 2), (512, 2)] if quick else [(128, 2), (512, 2), (512, 8), (2048, 1)]
    for model in models:
        for length, batch in shapes:
            for lora in ({"r": 8, "lora_alpha": 16}, None):
                for dtype in ("float32",) if quick else ("float32", "bfloat16"):
                    base = {"lora": lora, "dtype": dtype}
                    yield Case("sft", model, length, batch, base)
                    yield Case("sft", model, length, batch, {**base, "gradient_checkpointing": True})
        yield Case("sft", model, 512, 2, {"lora": None, "dtype": "float32", "gradient_accumulation_steps": 2})
        yield Case("sft", model, 512, 2, {"lora": {"r": 8}, "dtype": "float32", "return_memory": True})
        yield Case("sft", model, 512, 4, {"lora": {"r": 8}, "dtype": "float32", "max_tokens_per_micro_batch": 512})
        yield Case("dpo", model, 256, 2, {"lora": {"r": 8}, "dtype": "float32"})
        yield Case("grpo", model, 256, 8, {"lora": {"r": 8}, "dtype": "float32"})


# -- one case, in a process of its own


def make_model(name: str, folder: Path) -> str:
    """A folder with random weights, made where it is missing; the name itself of a real model."""
    if name not in SIZES:
        return name
    place = folder / name
    if not (place / "config.json").is_file():
        subprocess.run([sys.executable, __file__, "--make", name, str(place)], check=True)
    return str(place)


def write_model(name: str, place: Path) -> None:
    """Write it (in a process of its own, whose memory is not measured)."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    from srl_pupil import pupil_tokenizer

    size = SIZES[name]
    tokenizer = pupil_tokenizer()
    config = {"llama": LlamaConfig, "qwen2": Qwen2Config}[size["kind"]](
        vocab_size=size["vocabulary"],
        hidden_size=size["hidden_size"],
        intermediate_size=size["intermediate"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["kv_heads"],
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(place)
    tokenizer.save_pretrained(place)


def work(case: Case, model: str) -> dict[str, Any]:
    """Train, and measure: bytes forecast and bytes measured, the parts of the forecast."""
    import torch

    from tutelage.training.base import find_base
    from tutelage.training.machine import this_machine
    from tutelage.training.model_facts import read_model_facts
    from tutelage.training.planner import make_plan

    base = find_base(model)
    vocabulary = read_model_facts(str(base.folder)).vocabulary
    train, planned = (_policy if case.way == "grpo" else _supervised)(case, base, vocabulary)
    plan = make_plan(read_model_facts(str(base.folder)), planned, this_machine())
    with ThreadPoolExecutor(1) as pool:
        pool.submit(train).result()
    on_gpu = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"forecast": plan.now.peak, "measured": peak, "parts": asdict(plan.now.parts)}


def _supervised(case: Case, base: Any, vocabulary: int) -> tuple[Any, Any]:
    from tutelage.training.base import load_tokenizer
    from tutelage.training.chat import TokenRow
    from tutelage.training.planned import rows_of
    from tutelage.training.planner import supervised_case
    from tutelage.training.supervised import train_dpo, train_sft
    from tutelage.training.supervised_job import DPOSettings, Job, SFTSettings, TokenPair

    rng, sides = random.Random(0), 2 if case.way == "dpo" else 1
    kind = DPOSettings if case.way == "dpo" else SFTSettings
    own = {**case.settings, "max_steps": case.steps, "per_device_train_batch_size": case.batch, "max_length": case.length}
    settings = kind(**own)
    count = case.steps * case.batch * settings.gradient_accumulation_steps * sides
    rows = [
        TokenRow(ids=tuple(rng.randrange(3, vocabulary) for _ in range(case.length)), mask=(False, *[True] * (case.length - 1)))
        for _ in range(count)
    ]
    planned = supervised_case(settings, rows_of(rows, settings, sides=sides))

    def train() -> None:
        with tempfile.TemporaryDirectory() as folder:
            job = Job(base, load_tokenizer(base), Path(folder))
            if case.way == "dpo":
                train_dpo(job, [TokenPair(*pair) for pair in zip(rows[::2], rows[1::2], strict=True)], settings)
            else:
                train_sft(job, rows, settings)

    return train, planned


def _policy(case: Case, base: Any, vocabulary: int) -> tuple[Any, Any]:
    from tutelage.training.memory import Rows
    from tutelage.training.planner import policy_case
    from tutelage.training.policy_gradient import PolicyGradient, Sample
    from tutelage.training.settings import TrainSettings

    rng, settings, policy = random.Random(0), TrainSettings(**case.settings), PolicyGradient()

    def sample(number: int) -> Sample:
        ids = tuple(rng.randrange(3, vocabulary) for _ in range(case.length))
        return Sample(ids, (False, *[True] * (case.length - 1)), "task", str(number), reward=float(number % 2))

    def train() -> None:
        from tutelage.training.trainer import PolicyTrainer

        with tempfile.TemporaryDirectory() as folder:
            trainer = PolicyTrainer(base, settings, policy, Path(folder))
            for _ in range(case.steps):
                trainer.update([sample(number) for number in range(case.batch)])

    return train, policy_case(settings, policy, Rows((case.length,) * case.batch, steps=case.steps))


# -- the grid


def run_apart(case: Case, model: str, threads: int) -> dict[str, Any] | str:
    """The case in a process of its own; words where it did not end well."""
    command = [sys.executable, __file__, "--worker", json.dumps(asdict(case)), model]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode == -9:
        return "killed: out of memory"
    found = [line for line in done.stdout.splitlines() if line.startswith("MEASURED ")]
    if not found:
        return f"failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
    measured: dict[str, Any] = json.loads(found[-1].removeprefix("MEASURED "))
    return measured


def ratio(found: dict[str, Any] | str) -> float | None:
    """Forecast over measured."""
    return None if isinstance(found, str) else found["forecast"] / found["measured"]


def show(results: dict[str, dict[str, Any] | str]) -> None:
    """The table and how many were within `WITHIN`."""
    table = Table("case", "forecast MiB", "measured MiB", "ratio")
    for name, found in results.items():
        if isinstance(found, str):
            table.add_row(name, found, "", "")
        else:
            table.add_row(name, *(f"{found[key] / 2**20:,.0f}" for key in ("forecast", "measured")), f"{ratio(found):.3f}")
    Console(width=140).print(table)
    ratios = [value for found in results.values() if (value := ratio(found)) is not None]
    close = sum(abs(value - 1) <= WITHIN for value in ratios)
    print(f"{close} of {len(ratios)} within {WITHIN:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tiny", "small", "wide", "words"], help=f"{', '.join(SIZES)}, smollm2-135m")
    parser.add_argument("--quick", action="store_true", help="fewer lengths, float32 alone")
    parser.add_argument("--only", nargs="+", default=[], help="words that a case's name has to have")
    parser.add_argument("--limit", type=int, help="so many cases at most")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, help="keep the made-up models here")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        print("MEASURED", json.dumps(work(Case(**json.loads(chosen.worker[0])), chosen.worker[1])))
        return
    if chosen.make:
        write_model(chosen.make[0], Path(chosen.make[1]))
        return
    with tempfile.TemporaryDirectory() as made:
        run_grid(chosen, chosen.folder or Path(made))


def run_grid(chosen: argparse.Namespace, folder: Path) -> None:
    """Run the chosen cases one after the other."""
    cases = [case for case in grid(chosen.models, quick=chosen.quick) if all(word in case.name for word in chosen.only)]
    results: dict[str, dict[str, Any] | str] = {}
    for case in cases[: chosen.limit]:
        found = results[case.name] = run_apart(case, make_model(case.model, folder), chosen.threads)
        print(case.name, found if isinstance(found, str) else f"{ratio(found):.3f}", file=sys.stderr, flush=True)
        if chosen.json:
            versions = {name: version(name) for name in ("torch", "transformers", "trl", "peft")}
            data = {"machine": machine(), "versions": versions, "results": results}
            chosen.json.write_text(json.dumps(data, indent=1) + "\n")
    show(results)


if __name__ == "__main__":
    main()
