"""Training beside TRL: the same base, rows, LoRA, learning rate and reward; seconds a step, tokens a second, peak memory, losses.

    python benchmarks/training.py [--only sft-long ...] [--model FILE.gguf] [--steps 4] [--threads 2] [--dtype bfloat16] [--json FILE]

Each side runs in a process of its own, one after the other, so that peak memory is its own. SFT: help-desk rows (about 690 tokens each, of
which all but some 60 are the same instructions and tools) in steps of 4 rows, and of 16 for tutelage alone where TRL would not fit.
GRPO: one prompt, 16 completions of up to 48 tokens, by the reward "share of even token ids"; short prompts are the question alone. For
tutelage a step is all that the learner does: sampling, storing, grading, updating, saving the adapter; with torch (`hf`) and with llama.cpp
(`gguf`) sampling. Where TRL trains on four completions at once, it still samples all together. --dtype: what both sides compute in
(weights stay in float32); bfloat16 pays only on processors that multiply it in hardware. The first step warms up and is left out of the
means. A run that is killed for memory is listed so.

sft-long-memory, sft-short-memory: the same rows with each side's ways to need less: checkpointing of activations, fewer rows (TRL) or
tokens (tutelage) at once with the gradients of a step added up, both, and Liger's kernels in TRL, which need a GPU and are listed with the
reason where there is none. TRL's loss cuts the logits by itself. `nothing shared` is tutelage without the gain from rows that begin alike.
--model: another base for all sides, such as a .gguf file.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common import machine
from training_job import Job, Measured

_LESS: dict[str, dict[str, Any]] = {
    "trl": {},
    "trl, checkpointing": {"checkpointing": True},
    "trl, 1 row at once": {"micro": 1},
    "trl, both": {"checkpointing": True, "micro": 1},
    "trl, liger": {"liger": True},
    "tutelage": {},
    "tutelage, nothing shared": {"share": False},
    "tutelage, checkpointing": {"checkpointing": True},
    "tutelage, 512 tokens at once": {"micro_tokens": 512},
    "tutelage, both": {"checkpointing": True, "micro_tokens": 512},
    "tutelage, both, nothing shared": {"checkpointing": True, "micro_tokens": 512, "share": False},
}
CASES: dict[str, dict[str, dict[str, Any]]] = {
    "sft-short": {"trl": {}, "tutelage": {}},
    "sft-long": {"trl": {}, "tutelage": {}, "tutelage, 16 rows": {"batch": 16}},
    "grpo-short": {"trl": {}, "tutelage hf": {"engine": "hf"}, "tutelage gguf": {"engine": "gguf"}},
    "grpo-long": {"trl": {}, "trl, 4 at once": {"micro": 4}, "tutelage hf": {"engine": "hf"}, "tutelage gguf": {"engine": "gguf"}},
    "sft-short-memory": _LESS,
    "sft-long-memory": _LESS,
}
"""Case -> side -> what differs from the job's defaults."""
USUAL = [case for case in CASES if not case.endswith("-memory")]
"""What is run where nothing else is asked for."""


def work(case: str, side: str, model: str, steps: int, dtype: str) -> Measured:
    """One side of one case, in this process."""
    from tutelage.training.base import find_base

    kind, prompts = case.removesuffix("-memory").split("-")
    with tempfile.TemporaryDirectory() as folder:
        base = str(find_base(model).folder)
        job = Job(base=base, folder=Path(folder), prompts=prompts, steps=steps, dtype=dtype, model=model)
        job = replace(job, **CASES[case][side])
        if side.startswith("trl"):
            import training_trl as module
        else:
            import training_ours as module  # type: ignore[no-redef]
        measured: Measured = getattr(module, kind)(job)
    return replace(measured, peak_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def run_apart(case: str, side: str, model: str, steps: int, threads: int, dtype: str) -> Measured | str:
    """The same in a process of its own; words where it did not end well."""
    command = [sys.executable, __file__, "--worker", case, side, "--model", model, "--steps", str(steps), "--dtype", dtype]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode == -9:
        return "killed: out of memory"
    found = [line for line in done.stdout.splitlines() if line.startswith("MEASURED ")]
    if not found:
        return f"failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
    return Measured(**json.loads(found[-1].removeprefix("MEASURED ")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=USUAL)
    parser.add_argument("--model", default="smollm2-135m", type=lambda text: str(Path(text).expanduser()))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        print("MEASURED", json.dumps(work(*chosen.worker, chosen.model, chosen.steps, chosen.dtype).data()))
        return
    results: dict[str, dict[str, Any]] = {}
    for case in chosen.only:
        sides = {side: run_apart(case, side, chosen.model, chosen.steps, chosen.threads, chosen.dtype) for side in CASES[case]}
        show(case, sides)
        results[case] = {side: found if isinstance(found, str) else found.data() for side, found in sides.items()}
        if chosen.json:
            versions = {name: version(name) for name in ("torch", "transformers", "trl", "peft")}
            chosen.json.write_text(
                json.dumps(
                    {"machine": machine(), "model": chosen.model, "dtype": chosen.dtype, "versions": versions, "results": results}, indent=1
                )
                + "\n"
            )


def show(case: str, sides: dict[str, Measured | str]) -> None:
    table = Table("side", "s a step", "of TRL's", "tokens/s", "peak GB", "of TRL's", "loss", title=case, title_justify="left")
    peer = sides.get("trl")
    for side, found in sides.items():
        if isinstance(found, str):
            table.add_row(side, found)
            continue
        step = sum(found.warm) / len(found.warm)
        ratios = ["", ""]
        if isinstance(peer, Measured):
            ratios = [f"{step / (sum(peer.warm) / len(peer.warm)):.2f}", f"{found.peak_gb / peer.peak_gb:.2f}"]
        losses = ", ".join(f"{loss:.3f}" for loss in found.losses)
        table.add_row(side, f"{step:.1f}", ratios[0], f"{found.tokens_a_second:.0f}", f"{found.peak_gb:.1f}", ratios[1], losses)
    Console().print(table)


if __name__ == "__main__":
    main()
