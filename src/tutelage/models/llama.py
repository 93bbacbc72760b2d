"""One llama.cpp server in this process, through `xllamacpp`: loading, tokens, generation that can be abandoned.

Requests enter through the library itself; only the chat template and the tokenizer are reached over its HTTP interface on loopback,
which is closed to others by a random key.
"""

from __future__ import annotations

import ctypes
import http.client
import importlib.util
import json
import os
import secrets
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.errors import InputError, MissingExtra, ModelFailed
from tutelage.records import Usage

_SAMPLERS = ["temperature", "top_p", "min_p"]  # in this order: the cuts see the distribution that temperature made
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}  # small models loop in free whitespace


@dataclass(frozen=True)
class Generated:
    """What came out: `ids` and `logprobs` (natural logs, one per token) where they were asked for and are complete."""

    text: str
    finish: str
    usage: Usage
    ids: list[int] | None = None
    logprobs: list[float] | None = None


class Engine:
    """A loaded model. Every method may be called from several threads at once; at most `slots` generations run together."""

    def __init__(self, path: Path, *, slots: int, context: int, threads: int, poll: int) -> None:
        llama = _import_llama(poll)
        params = llama.CommonParams()
        params.model.path = str(path)
        params.n_parallel, params.n_ctx = slots, context * slots  # each slot has a context of its own
        params.ctx_shift, params.cache_ram_mib, params.warmup = False, 0, False
        params.verbosity, params.ui, params.endpoint_slots = 0, False, False
        self._key = secrets.token_hex(16)
        params.api_keys = [self._key]
        for cpu in (params.cpuparams, params.cpuparams_batch):
            cpu.n_threads, cpu.poll = threads, poll
        try:
            with _signals_kept():
                self._server = llama.Server(params)
        except RuntimeError:
            reason = "llama.cpp cannot load this model: the file is damaged, newer than xllamacpp, or too large for the memory"
            raise InputError(reason, file=path, field="model") from None
        self._address = self._server.listening_address.removeprefix("http://")

    def prompt_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The tokens of a conversation in the model's own chat template, up to where the assistant speaks."""
        prompt = self._post("/apply-template", {"messages": list(messages)})["prompt"]
        return self.ids(prompt, whole_prompt=True)

    def ids(self, text: str, *, whole_prompt: bool = False) -> list[int]:
        """The tokens of a text; of a whole prompt with its special tokens."""
        request = {"content": text, "add_special": whole_prompt, "parse_special": whole_prompt}
        return list(self._post("/tokenize", request)["tokens"])

    def generate(self, prompt_ids: list[int], settings: dict[str, Any], abandoned: Callable[[], bool]) -> Generated:
        """Go on from the prompt. `abandoned` is asked after every token; where it says True the generation ends early.

        Raises `ModelFailed` with llama.cpp's words, and with the sizes where the prompt does not fit the context.
        """
        stream = {"stream": True, "stream_options": {"include_usage": True}, "cache_prompt": True, "samplers": _SAMPLERS, "top_k": 0}
        chunks: list[dict[str, Any]] = []

        def receive(chunk: dict[str, Any]) -> bool:
            chunks.append(chunk)
            return abandoned()

        self._server.handle_completions({"prompt": prompt_ids, **stream, **settings}, receive)
        return _generated(chunks)

    def close(self) -> None:
        """Let the model go; ends its threads."""
        self._server = None

    def _post(self, path: str, data: dict[str, Any]) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self._address, timeout=60)
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        try:
            connection.request("POST", path, json.dumps(data), headers)
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        _refuse_error(answer)
        return answer


def constraint(schema: dict[str, Any]) -> dict[str, Any]:
    """The settings that hold the output to a JSON Schema, written without free whitespace."""
    return {"json_schema": {**schema, "x-guidance": _COMPACT}}


def check_installed() -> None:
    """Raises `MissingExtra` where the library is absent."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise MissingExtra("xllamacpp", "pip install 'tutelage[local]'", why="a gguf model")


def _generated(chunks: list[dict[str, Any]]) -> Generated:
    for chunk in chunks:
        _refuse_error(chunk)
    choices = [choice for chunk in chunks for choice in chunk.get("choices", [])]
    usage = next((chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage")), None)
    if usage is None:
        raise ModelFailed("the generation was abandoned before its end")
    tokens = [token for choice in choices for token in (choice.get("logprobs") or {}).get("content", [])]
    # Tokens inside a character of several tokens are not reported one by one: then there is no complete trace.
    complete = bool(tokens) and len(tokens) == usage["completion_tokens"]
    return Generated(
        text="".join(choice.get("text") or "" for choice in choices),
        finish=next((choice["finish_reason"] for choice in reversed(choices) if choice.get("finish_reason")), "stop"),
        usage=Usage(
            calls=1,
            tokens_in=usage["prompt_tokens"],
            tokens_out=usage["completion_tokens"],
            tokens_reused=usage.get("prompt_tokens_details", {}).get("cached_tokens", 0),
        ),
        ids=[token["id"] for token in tokens] if complete else None,
        logprobs=[token["logprob"] for token in tokens] if complete else None,
    )


def _refuse_error(answer: dict[str, Any]) -> None:
    error = answer.get("error")
    if not error:
        return
    if error.get("type") == "exceed_context_size_error":
        sizes = f"the prompt has {error['n_prompt_tokens']} tokens and the context holds {error['n_ctx']}"
        raise ModelFailed(f"{sizes}; shorten it, or give the model a larger context (?context=N, up to what it was trained with)")
    raise ModelFailed(f"llama.cpp: {error.get('message', error)}")


MAX_POLL = 100
_WAITING = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}


def _import_llama(poll: int) -> Any:
    """The library. OpenMP reads how its threads wait when it is loaded, so that is said just before.

    Threads that spin while they wait are faster on an idle machine and many times slower as soon as another process wants the cores. A
    short spin has most of both: with 135M parameters 138 tokens/s alone, against 114 without and 149 with OpenMP's long one.
    """
    waiting = {0: {"OMP_WAIT_POLICY": "passive"}, MAX_POLL: {}}.get(poll, {"GOMP_SPINCOUNT": str(1000 * poll)})
    added = {} if _WAITING & os.environ.keys() else waiting
    os.environ.update(added)
    try:
        import xllamacpp
    finally:
        for name in added:
            del os.environ[name]
    return xllamacpp


@contextmanager
def _signals_kept() -> Iterator[None]:
    """llama.cpp takes over SIGINT and SIGTERM when it starts; here they go back to Python, which works from any thread."""
    handlers = {number: _handler_of(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            _set_handler(number, handler)


def _handler_of(number: int) -> int | None:
    read = ctypes.pythonapi.PyOS_getsig
    read.restype, read.argtypes = ctypes.c_void_p, [ctypes.c_int]
    return read(number)  # type: ignore[no-any-return]


def _set_handler(number: int, handler: int | None) -> None:
    write = ctypes.pythonapi.PyOS_setsig
    write.restype, write.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    write(number, handler)
