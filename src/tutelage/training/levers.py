"""Levers that let a training fit into little memory: what each needs of the machine, which exclude each other, and why. No torch is needed.

They are fields of `TrainSettings`, under the field's names. What is not said here works everywhere: `lora`, `gradient_checkpointing`,
`gradient_accumulation_steps`, `packing`, `share_prefixes`, `max_tokens_per_micro_batch`.

| lever | takes from | needs | changes what is learned |
|---|---|---|---|
| optim: adamw_8bit | optimiser state | bitsandbytes | a little (state in 8 bits) |
| optim: paged_adamw_8bit | the same, and lends it main memory | bitsandbytes, a GPU | as adamw_8bit |
| load_in_4bit | weights | bitsandbytes, lora | yes (the base in 4 bits) |
| attn_implementation: flash_attention_2 | activations | flash-attn, a GPU of capability 8.0, half precision | no |
| offload_optimizer | optimiser state | a GPU | no |
| return_memory | what the allocator loses | a CPU, glibc | no |
"""

from __future__ import annotations

from collections.abc import Iterator

from tutelage.errors import InputError, MissingExtra
from tutelage.training.machine import Machine
from tutelage.training.settings import TrainSettings

INSTALL_CUDA = "pip install 'tutelage[cuda]'"
BITSANDBYTES, BITSANDBYTES_CPU = (0, 46, 1), (0, 50)
"""The oldest version that transformers takes, and the oldest that was seen to work on a CPU here."""
FLASH_CAPABILITY = (8, 0)


def check_levers(settings: TrainSettings, machine: Machine, *, shares: bool = False, sharded: bool = False) -> None:
    """Raise `InputError` for levers that exclude each other, and for one that cannot work here; `MissingExtra` where a package is absent.

    shares: settings beside these ask for rows that share beginnings. sharded: weights lie in parts on several GPUs.
    """
    found = problem_of(settings, machine, shares=shares, sharded=sharded)
    if found is not None:
        raise found


def problem_of(settings: TrainSettings, machine: Machine, *, shares: bool = False, sharded: bool = False) -> InputError | None:
    """What `check_levers` would raise."""
    return next(iter([*_exclusions(settings, shares, sharded), *_refusals(settings, machine)]), None)


def trains_together(settings: TrainSettings) -> bool:
    """Whether the attention in use takes a mask of its own, so that rows may share beginnings, or a line."""
    return settings.attn_implementation != "flash_attention_2"


def _exclusions(settings: TrainSettings, shares: bool, sharded: bool) -> Iterator[InputError]:
    if settings.load_in_4bit and settings.lora is None:
        yield _excluded("load_in_4bit", "lora: null", "weights of 4 bits cannot learn", "give `lora`, or set load_in_4bit to false")
    if settings.offload_optimizer and settings.optim != "adamw_torch":
        yield _excluded(
            "offload_optimizer",
            f"optim: {settings.optim}",
            "AdamW is stepped in main memory in float32, where a state of 8 bits saves nothing on the GPU",
            "set optim to adamw_torch, or offload_optimizer to false",
        )
    if settings.attn_implementation == "flash_attention_2":
        yield from _beside_flash_attention(settings, shares)
    if sharded:
        for lever in _not_sharded(settings):
            yield _excluded(lever, "sharded weights", "its tensors cannot be cut into parts", "set it back, or train on one GPU")


def _beside_flash_attention(settings: TrainSettings, shares: bool) -> Iterator[InputError]:
    flash = "attn_implementation: flash_attention_2"
    if settings.dtype == "float32":
        yield _excluded(
            flash, "dtype: float32", "flash attention computes in 16 bits", "set dtype to bfloat16, or attn_implementation to sdpa"
        )
    for lever in ("share_prefixes", "packing"):
        asked = lever in settings.model_fields_set and bool(getattr(settings, lever, False))
        if asked or (shares and lever == "share_prefixes"):
            yield _excluded(
                flash,
                f"{lever}: true",
                "rows that share beginnings or lines need a mask of their own, which flash attention does not take",
                f"set attn_implementation to sdpa, or {lever} to false (flash attention then computes each row by itself)",
            )


def _not_sharded(settings: TrainSettings) -> Iterator[str]:
    if settings.load_in_4bit:
        yield "load_in_4bit"
    if settings.optim != "adamw_torch":
        yield "optim"
    if settings.offload_optimizer:
        yield "offload_optimizer"


def _excluded(one: str, other: str, why: str, way_out: str) -> InputError:
    return InputError(f"`{one}` and `{other}` exclude each other: {why}; {way_out}", field=one.partition(":")[0])


def _refusals(settings: TrainSettings, machine: Machine) -> Iterator[InputError]:
    on_cpu = machine.kind == "cpu"
    if settings.optim != "adamw_torch":
        yield from _bitsandbytes(machine, "optim", f"`optim: {settings.optim}`")
    if settings.optim == "paged_adamw_8bit" and on_cpu:
        yield InputError("there is no GPU here, so the state lies in main memory already; use adamw_8bit", field="optim")
    if settings.load_in_4bit:
        yield from _bitsandbytes(machine, "load_in_4bit", "`load_in_4bit`")
    if settings.offload_optimizer and on_cpu:
        yield InputError(
            "there is no GPU here, so the optimiser's state lies in main memory already; leave offload_optimizer out, and to make the "
            "state smaller train with `lora`, or with `optim: adamw_8bit`",
            field="offload_optimizer",
        )
    if settings.attn_implementation == "flash_attention_2":
        yield from _flash_attention(machine)
    if settings.return_memory and not (on_cpu and machine.glibc):
        why = "the C library here is not GNU's, and cannot be told to" if on_cpu else "a GPU's memory is not given out by the C library"
        yield InputError(f"{why}; leave return_memory out", field="return_memory")


def _bitsandbytes(machine: Machine, field: str, what: str) -> Iterator[InputError]:
    found = machine.packages.get("bitsandbytes")
    needed = BITSANDBYTES_CPU if machine.kind == "cpu" else BITSANDBYTES
    if found is None:
        yield MissingExtra("bitsandbytes", INSTALL_CUDA, why=what)
    elif found < needed:
        yield InputError(
            f"{what} needs bitsandbytes {_dotted(needed)} on a {machine.kind.upper()}, and {_dotted(found)} is installed; "
            "pip install -U bitsandbytes",
            field=field,
        )


def _flash_attention(machine: Machine) -> Iterator[InputError]:
    field, otherwise = "attn_implementation", "use sdpa, which picks the fastest attention that is here"
    if machine.kind == "cpu":
        yield InputError(f"flash_attention_2 runs on a GPU, and there is none here; {otherwise}", field=field)
    elif machine.capability is None or machine.capability < FLASH_CAPABILITY:
        has = "unknown" if machine.capability is None else _dotted(machine.capability)
        yield InputError(
            f"flash_attention_2 needs a GPU of compute capability {_dotted(FLASH_CAPABILITY)} or more, and that of {machine.name} is "
            f"{has}; {otherwise}",
            field=field,
        )
    elif "flash-attn" not in machine.packages:
        yield MissingExtra("flash-attn", "pip install flash-attn --no-build-isolation", why="`attn_implementation: flash_attention_2`")


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
