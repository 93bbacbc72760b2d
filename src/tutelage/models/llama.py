"""One llama.cpp server in this process, through `xllamacpp`: loading, tokens, generation that can be abandoned.

Requests go over its HTTP interface on loopback, which is closed to others by a random key: only there does llama.cpp say which tokens
it sampled, one by one.
"""

from __future__ import annotations

import ctypes
import http.client
import importlib.util
import json
import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tutelage.errors import InputError, MissingExtra, ModelFailed
from tutelage.records import Usage

_SAMPLERS = ["temperature", "top_p", "min_p"]  # in this order: the cuts see the distribution that temperature made
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}  # small models loop in free whitespace
_LOOKS = (256, 8192, 1 << 30)
"""How many of the likeliest tokens are asked for where one token's logprob is not reported, until it is among them."""


@dataclass(frozen=True)
class Generated:
    """What came out: `ids` and `logprobs` (natural logs, one per token) where they were asked for."""

    text: str
    finish: str
    usage: Usage
    ids: list[int] | None = None
    logprobs: list[float] | None = None


class Engine:
    """A loaded model. Every method may be called from several threads at once; at most `slots` generations run together.

    lora: a GGUF file of low-rank weights that are added to the model's.
    """

    def __init__(self, path: Path, *, slots: int, context: int, threads: int, poll: int, lora: Path | None = None) -> None:
        llama = _import_llama(poll)
        params = llama.CommonParams()
        params.model.path = str(path)
        if lora is not None:
            params.lora_adapters = [llama.CommonAdapterLoraInfo(str(lora), 1.0)]
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
            worn = f" with the adapter {lora}" if lora else ""
            reason = f"llama.cpp cannot load this model{worn}: the file is damaged, newer than xllamacpp, or too large for the memory"
            raise InputError(reason, file=path, field="model") from None
        self._address = self._server.listening_address.removeprefix("http://")
        self._post("/completion", {"prompt": [0], "n_predict": 0})  # it works; closed before its first request, llama.cpp may hang

    def prompt_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The tokens of a conversation in the model's own chat template, up to where the assistant speaks."""
        prompt = self._post("/apply-template", {"messages": list(messages)})["prompt"]
        return self.ids(prompt, whole_prompt=True)

    def ids(self, text: str, *, whole_prompt: bool = False) -> list[int]:
        """The tokens of a text; of a whole prompt with its special tokens."""
        request = {"content": text, "add_special": whole_prompt, "parse_special": whole_prompt}
        return list(self._post("/tokenize", request)["tokens"])

    def generate(self, prompt_ids: list[int], settings: dict[str, Any], abandoned: Callable[[], bool]) -> Generated:
        """Go on from the prompt. `abandoned` is asked while it runs; where it says True, the generation ends within about a second.

        Raises `ModelFailed` with llama.cpp's words, and with the sizes where the prompt does not fit the context.
        """
        request = {"prompt": prompt_ids, "cache_prompt": True, "samplers": _SAMPLERS, "top_k": 0, "return_tokens": True, **settings}
        answer = self._post("/completion", request, abandoned)
        ids = answer["tokens"]
        traced = "n_probs" in settings
        return Generated(
            text=answer["content"],
            finish="length" if answer["stop_type"] == "limit" else "stop",
            usage=Usage(
                calls=1,
                tokens_in=answer["tokens_evaluated"],
                tokens_out=answer["tokens_predicted"],
                tokens_reused=answer["timings"]["cache_n"],
            ),
            ids=ids if traced else None,
            logprobs=self._logprobs(prompt_ids, ids, answer.get("completion_probabilities", []), abandoned) if traced else None,
        )

    def _logprobs(self, prompt_ids: list[int], ids: list[int], said: list[dict[str, Any]], abandoned: Callable[[], bool]) -> list[float]:
        """The logprob of each sampled token. What llama.cpp leaves out (all but the last token of a character, stop words) is asked for."""
        known = place_logprobs(ids, [(entry["id"], entry["logprob"]) for entry in said])
        return [
            self._logprob(prompt_ids + ids[:place], ids[place], abandoned) if logprob is None else logprob
            for place, logprob in enumerate(known)
        ]

    def _logprob(self, context: list[int], token: int, abandoned: Callable[[], bool]) -> float:
        """The logprob of one token after a context, whose computed prefix is used again."""
        request: dict[str, Any] = {"prompt": context, "cache_prompt": True, "n_predict": 1, "samplers": ["temperature"], "temperature": 0.0}
        request["logit_bias"] = [[self._plain_token, 1000.0]]  # what is sampled must be a whole character, or nothing is reported
        for looked_at in _LOOKS:
            answer = self._post("/completion", {**request, "n_probs": looked_at}, abandoned)
            for entry in answer["completion_probabilities"][0]["top_logprobs"]:
                if entry["id"] == token:
                    return float(entry["logprob"])
        raise ModelFailed(f"llama.cpp gives no logprob for its own token {token}")

    @cached_property
    def _plain_token(self) -> int:
        return self.ids("a")[0]

    def close(self) -> None:
        """Let the model go; ends its threads and gives its memory back."""
        self._server = None
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # glibc keeps much of what a model freed: 35 MB more with each that is loaded after another
            trim(0)

    def _post(self, path: str, data: dict[str, Any], abandoned: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self._address)
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        try:
            connection.request("POST", path, json.dumps(data), headers)
            _wait(connection.sock, abandoned)
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()  # which also ends a generation that still runs
        _refuse_error(answer)
        return answer


def place_logprobs(ids: Sequence[int], said: Sequence[tuple[int, float]]) -> list[float | None]:
    """The logprobs that llama.cpp reported, each (id, logprob) in their order, put beside the tokens; None where it cannot be certain.

    A token has a logprob for certain where the earliest and the latest way of finding the reported ids among the tokens agree.
    """
    earliest = _matches(ids, said)
    latest = [len(ids) - 1 - place for place in reversed(_matches(ids[::-1], said[::-1]))]
    found: list[float | None] = [None] * len(ids)
    for first, last, (_, logprob) in zip(earliest, latest, said, strict=False):
        if first == last:
            found[first] = logprob
    return found


def _matches(ids: Sequence[int], said: Sequence[tuple[int, float]]) -> list[int]:
    """The first places at which the reported ids are found, in their order."""
    places = iter(range(len(ids)))
    return [next((place for place in places if ids[place] == wanted), -1) for wanted, _ in said]


def constraint(schema: dict[str, Any]) -> dict[str, Any]:
    """The settings that hold the output to a JSON Schema, written without free whitespace."""
    return {"json_schema": {**schema, "x-guidance": _COMPACT}}


def check_installed() -> None:
    """Raises `MissingExtra` where the library is absent."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise MissingExtra("xllamacpp", "pip install 'tutelage[local]'", why="a gguf model")


def _wait(answering: socket.socket, abandoned: Callable[[], bool]) -> None:
    """Until there is something to read. Raises `ModelFailed` where nobody waits for it any more."""
    answering.settimeout(0.05)
    while True:
        try:
            answering.recv(1, socket.MSG_PEEK)
            break
        except TimeoutError:
            if abandoned():
                raise ModelFailed("the generation was abandoned before its end") from None
    answering.settimeout(None)


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
