"""Memory and time of the loss and its gradient over large vocabularies: plain, compiled, TRL's, ours, Liger's, Apple's.

    python benchmarks/memory.py [--vocabulary 49152 128256 262144] [--tokens 2048 8192 32768] [--hidden 576] [--quick] [--json FILE]
        [--only SIDE ...] [--dtype bfloat16] [--device cuda] [--threads 2] [--memory GB]

Hidden states and output layer in, loss and gradients out; nothing of the model before them. `all` trains hidden states and output layer;
`hidden` has the layer frozen, as under LoRA. Each measurement runs in a process of its own, after a first pass over few tokens. Peak: the
most memory over what was there before (anonymous memory of the process; on CUDA torch's own count), the gradients themselves included,
whose size is the line `gradients`. Time: the least of the repeats, forwards and backwards. Numbers are random, which is the worst case for
a gradient filter; the filter of the package is at its default. What cannot run here is listed with its reason, and what does not fit into
memory (`--memory`: of the process, in GB; else nine tenths of what is free) as that. --quick: 49,152 by 2,048, width 64, in a minute.

Published (Wijmans et al. 2024; A100, Gemma 2 2B: 8,192 tokens, 256,000 entries, bfloat16, loss and all gradients): plain 28,000 MB and
208 ms, compiled 16,000 MB and 143 ms, Liger 1,474 MB and 304 ms, cut cross-entropy 1,164 MB and 145 ms.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common import machine

MIB = 1 << 20
NAMES = ("plain", "compiled", "TRL, chunked", "tutelage", "tutelage, nothing kept", "Liger", "cut-cross-entropy")
PACKAGES = ("torch", "trl", "cut-cross-entropy", "liger-kernel")


@dataclass(frozen=True)
class Case:
    """learns: `all`, or `hidden` alone."""

    vocabulary: int
    tokens: int
    hidden: int
    dtype: str
    device: str
    learns: str

    @property
    def gradients_mb(self) -> float:
        width = 2 if self.dtype in ("bfloat16", "float16") else 4
        return self.hidden * width * (self.tokens + self.vocabulary * (self.learns == "all")) / MIB


def work(side: str, case: Case, repeats: int, memory: float | None) -> dict[str, float]:
    """One measurement, in this process: {peak_mb, ms, loss}."""
    import torch

    from memory_losses import SIDES

    torch.manual_seed(0)
    dtype = getattr(torch, case.dtype)
    loss = SIDES[side]()
    hidden = torch.randn(case.tokens, case.hidden, device=case.device).to(dtype).requires_grad_()
    weight = (torch.randn(case.vocabulary, case.hidden, device=case.device) * case.hidden**-0.5).to(dtype)
    weight.requires_grad_(case.learns == "all")
    targets = torch.randint(case.vocabulary, (case.tokens,), device=case.device)

    def once(count: int) -> float:
        hidden.grad = weight.grad = None
        found = loss(hidden[:count], weight, targets[:count])
        found.backward()
        return float(found)

    once(64)
    hidden.grad = weight.grad = None
    limit(memory)
    before = start_of_peak(case.device)
    value = once(case.tokens)
    peak = peak_memory(case.device) - before
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        once(case.tokens)
        seconds.append(time.perf_counter() - begun)
    return {"peak_mb": peak / MIB, "ms": 1000 * min(seconds), "loss": value}


def limit(memory: float | None) -> None:
    """Let allocations fail in time, so that nothing else has to be ended for them."""
    free = next(int(line.split()[1]) * 1024 for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    most = free * 9 // 10 + status("VmData") if memory is None else int(memory * 1e9) + status("VmData") - status("VmRSS")
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))


def start_of_peak(device: str) -> int:
    """Begin to look for the most memory; how much it is now, in bytes. Linux with glibc where it is not CUDA's."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)  # what the first pass has left behind would be used again, unseen
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak_memory(device: str) -> int:
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    return status("VmHWM")


def run_apart(side: str, case: Case, chosen: argparse.Namespace) -> dict[str, float] | str:
    """The same in a process of its own; words where it did not end well."""
    command = [sys.executable, __file__, "--worker", side, json.dumps(asdict(case)), "--repeats", str(chosen.repeats)]
    command += [] if chosen.memory is None else ["--memory", str(chosen.memory)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(chosen.threads), "TRL_EXPERIMENTAL_SILENCE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith("MEASURED ")]
    if found:
        measured: dict[str, float] = json.loads(found[-1].removeprefix("MEASURED "))
        return measured
    said = done.stderr.strip().splitlines() or ["?"]
    full = any("allocate memory" in line or "out of memory" in line.lower() or "MemoryError" in line for line in said)
    return "out of memory" if done.returncode == -9 or full else f"not here: {said[-1][:110]}"


def show(case: Case, sides: dict[str, dict[str, float] | str]) -> None:
    title = f"{case.vocabulary:,} entries, {case.tokens:,} tokens, width {case.hidden}, {case.dtype}, gradients of: {case.learns}"
    table = Table("side", "peak MB", "of plain", "ms", "of plain", "loss", title=title, title_justify="left")
    table.add_row("gradients", f"{case.gradients_mb:,.0f}")
    base = sides.get("plain")
    for side, found in sides.items():
        if isinstance(found, str):
            table.add_row(side, found)
            continue
        shares = [f"{found[name] / base[name]:.3f}" if isinstance(base, dict) else "" for name in ("peak_mb", "ms")]
        table.add_row(side, f"{found['peak_mb']:,.0f}", shares[0], f"{found['ms']:,.0f}", shares[1], f"{found['loss']:.5f}")
    Console().print(table)


def versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[49_152, 128_256, 262_144])
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 8192, 32_768])
    parser.add_argument("--hidden", type=int, nargs="+", default=[576])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--learns", nargs="+", choices=("all", "hidden"), default=["all", "hidden"])
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=float)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.vocabulary, chosen.tokens, chosen.hidden, chosen.repeats = [49_152], [2048], [64], 1
    return chosen


def main() -> None:
    chosen = options()
    if chosen.worker:
        side, case = chosen.worker
        print("MEASURED", json.dumps(work(side, Case(**json.loads(case)), chosen.repeats, chosen.memory)))
        return
    results: list[dict[str, Any]] = []
    for hidden in chosen.hidden:
        for vocabulary in chosen.vocabulary:
            for tokens in chosen.tokens:
                for learns in chosen.learns:
                    case = Case(vocabulary, tokens, hidden, chosen.dtype, chosen.device, learns)
                    sides = {side: run_apart(side, case, chosen) for side in chosen.only}
                    show(case, sides)
                    results.append({**asdict(case), "gradients_mb": case.gradients_mb, "sides": sides})
                    if chosen.json:
                        data = {"machine": machine(), "versions": versions(), "threads": chosen.threads, "losses": results}
                        chosen.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
