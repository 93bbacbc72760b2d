"""A model behind any OpenAI-compatible server (OpenAI, vLLM, llama.cpp, Ollama, gateways), through the `openai` client.

The client's own retries are off; they happen here, where the reason of each failure can be told apart: what may pass is tried again,
what would fail for every call (`ModelUnavailable`) stops the run, and what is wrong with this one call (`ModelFailed`) stays with it.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from tutelage.errors import InputError, ModelError, ModelFailed, ModelUnavailable
from tutelage.models.options import Readers, boolean, read_options, seconds, whole
from tutelage.models.retry import FIRST_WAIT, LONGEST_WAIT, RETRIED, Transient, asked_seconds, wait_seconds
from tutelage.models.wire import (
    message_to_wire,
    read_choice,
    read_choices,
    read_finish,
    read_message,
    read_trace,
    read_usage,
    schema_to_wire,
    tool_to_wire,
)
from tutelage.prices import Price, find_price
from tutelage.records import Completion, Message, Sampling, ToolSpec, Usage

if TYPE_CHECKING:
    import openai

OPENAI_URL = "https://api.openai.com/v1"
_DEFAULT_SAMPLING = Sampling()
_UNREACHABLE = frozenset({"ConnectError", "ConnectTimeout"})  # refused, unknown host, bad certificate, no route
_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached"})  # said with status 429, but waiting does not help


class _Connection(NamedTuple):
    client: openai.AsyncOpenAI
    slots: asyncio.Semaphore


class Endpoint:
    """A model of an OpenAI-compatible server.

    model: its name there. base_url, api_key: OPENAI_BASE_URL and OPENAI_API_KEY by default (a server that is not OpenAI's may need no
    key). price: USD per million tokens; by default from the table of prices, None where it is unknown. timeout: seconds for one attempt.
    retries: attempts after the first, with exponential backoff that honours Retry-After. concurrency: requests in flight at once.
    native_tools False: tools are described in the prompt instead. extra: further fields of the request, merged last (None takes a field
    out), for what only some servers know.

    Images given as files are sent inside the request. Where a server returns token ids (vLLM with `return_token_ids`), sampling.logprobs
    gives a `TokenTrace`; elsewhere `tokens` is None. sampling.top_logprobs gives the likeliest tokens by their text (`choices`); where a
    server lists fewer than are asked for and refuses, say so: extra={"top_logprobs": 5}.
    """

    first_wait = FIRST_WAIT
    longest_wait = LONGEST_WAIT

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        price: Price | None = None,
        timeout: float = 60.0,
        retries: int = 5,
        concurrency: int = 8,
        native_tools: bool = True,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.base_url = _checked_url(base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL)
        self.price = price or find_price(model)
        self.timeout, self.retries, self.concurrency = timeout, retries, max(1, concurrency)
        self.native_tools, self.extra = native_tools, dict(extra or {})
        self.name = self._full_name()
        self._api_key = api_key
        self._reached = False
        self._connections: dict[asyncio.AbstractEventLoop, _Connection] = {}

    @classmethod
    def from_name(cls, which: str, options: Mapping[str, str]) -> Endpoint:
        """`endpoint:MODEL?option=value`. Options: base_url, price (`IN,OUT` in USD per million tokens), timeout, retries, concurrency,
        native_tools, extra (a JSON object). Raises `InputError`.
        """
        readers: Readers = {
            "base_url": str,
            "price": _price,
            "timeout": seconds,
            "retries": whole(0),
            "concurrency": whole(1),
            "native_tools": boolean,
            "extra": _json_object,
        }
        if not which:
            raise InputError("write endpoint:MODEL, with the model's name on the server", field="model")
        return cls(which, **read_options("endpoint", options, readers))

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = _DEFAULT_SAMPLING
    ) -> Completion:
        """Ask the server. Raises `ModelFailed`, `ModelUnavailable`, and `InputError` for an image that cannot be read."""
        request = self._request(messages, tools, sampling)
        connection = self._connection()
        async with connection.slots:
            body, taken = await self._persist(connection.client, request)
        choice = read_choice(body)
        message = read_message(choice)
        usage = read_usage(body)
        return Completion(
            message=message,
            finish=read_finish(choice, message),
            usage=usage or Usage(calls=1),
            tokens=read_trace(choice, body.get("prompt_token_ids"), choice.get("token_ids")) if sampling.logprobs else None,
            choices=read_choices(choice) if sampling.logprobs and sampling.top_logprobs else (),
            seconds=taken,
            cost_usd=None if usage is None or self.price is None else self.price.cost(usage),
        )

    def _request(self, messages: Sequence[Message], tools: Sequence[ToolSpec], sampling: Sampling) -> dict[str, Any]:
        """The body of the request; what the server need not know about is left out, because some refuse what they do not know."""
        own = self.base_url == OPENAI_URL
        fields: dict[str, Any] = {
            "temperature": sampling.temperature,
            "max_completion_tokens" if own else "max_tokens": sampling.max_tokens,
            "top_p": sampling.top_p if sampling.top_p != 1.0 else None,
            "min_p": sampling.min_p or None,
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
            "tools": [tool_to_wire(tool) for tool in tools] or None,
            "response_format": schema_to_wire(sampling.json_schema) if sampling.json_schema is not None else None,
            "logprobs": sampling.logprobs or None,
            "top_logprobs": (sampling.top_logprobs or None) if sampling.logprobs else None,
            "return_token_ids": True if sampling.logprobs and not own else None,
            **self.extra,
        }
        given = {key: value for key, value in fields.items() if value is not None}
        return {"model": self.model, "messages": [message_to_wire(message) for message in messages], "extra_body": given}

    async def _persist(self, client: openai.AsyncOpenAI, request: dict[str, Any]) -> tuple[Any, float]:
        """The reply and the seconds of the attempt that brought it, trying again while that may help."""
        attempt = 0
        while True:
            attempt += 1
            begun = perf_counter()
            try:
                body = await self._attempt(client, request)
            except Transient as failure:
                hopeless = failure.unreachable and not self._reached
                if hopeless or attempt > self.retries:
                    raise self._given_up(failure, attempt) from None
                await asyncio.sleep(wait_seconds(attempt, failure.asked, first=self.first_wait, longest=self.longest_wait))
            else:
                self._reached = True
                return body, perf_counter() - begun

    async def _attempt(self, client: openai.AsyncOpenAI, request: dict[str, Any]) -> Any:
        import openai

        try:
            async with asyncio.timeout(self.timeout):
                raw = await client.chat.completions.with_raw_response.create(**request)
        except openai.APIStatusError as error:
            raise self._refused(error) from None
        except (TimeoutError, openai.APIConnectionError) as error:
            raise self._not_connected(error) from None
        try:
            body = json.loads(raw.http_response.text)
            read_choice(body)
        except (json.JSONDecodeError, RecursionError):
            raise Transient(f"the reply is not JSON: {_short(raw.http_response.text)!r}") from None
        except ValueError as error:
            raise Transient(_short(str(error))) from None
        return body

    def _not_connected(self, error: Exception) -> Transient:
        cause = error.__cause__
        if type(cause).__name__ in _UNREACHABLE:
            return Transient(f"no connection: {_short(str(cause)) or 'timed out'}", unreachable=True)
        if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
            return Transient(f"no answer within {self.timeout:g} s")
        return Transient(f"the connection broke: {_short(str(cause or error)) or type(cause).__name__}")

    def _refused(self, error: openai.APIStatusError) -> Transient | ModelError:
        """What a status says: try again, give up on this call, or give up on the model."""
        status, words = error.status_code, _server_words(error)
        code = error.body.get("code") if isinstance(error.body, dict) else None
        if status in (401, 402, 403) or code in _QUOTA:
            return ModelUnavailable(self._told(f"status {status}: {words}", "check OPENAI_API_KEY and what it may use"))
        if status == 404:
            way_out = "check the model's name and the address (OPENAI_BASE_URL; most end in /v1)"
            return ModelUnavailable(self._told(f"status 404: {words}", way_out))
        if status in RETRIED or status >= 500:
            return Transient(f"status {status}: {words}", asked=asked_seconds(error.response.headers))
        return ModelFailed(self._told(f"status {status}: {words}"))

    def _given_up(self, failure: Transient, attempts: int) -> ModelError:
        reason = failure.reason if attempts == 1 else f"{failure.reason}, after {attempts} attempts"
        if failure.unreachable:
            return ModelUnavailable(self._told(reason, "is the server running there? Set OPENAI_BASE_URL to its address"))
        return ModelFailed(self._told(reason))

    def _told(self, reason: str, way_out: str = "") -> str:
        text = f"model `{self.model}` at {_shown(self.base_url)}: {reason}" + (f"; {way_out}" if way_out else "")
        key = self._key()
        return text.replace(key, "***") if key else text

    def _key(self) -> str:
        return (self._api_key or os.environ.get("OPENAI_API_KEY") or "").strip()

    def _connection(self) -> _Connection:
        """The client of the running event loop: a client's sockets belong to the loop that opened them."""
        loop = asyncio.get_running_loop()
        if loop not in self._connections:
            self._connections = {other: kept for other, kept in self._connections.items() if not other.is_closed()}
            self._connections[loop] = _Connection(self._client(), asyncio.Semaphore(self.concurrency))
        return self._connections[loop]

    def _client(self) -> openai.AsyncOpenAI:
        import openai

        key = self._key()
        if self.base_url == OPENAI_URL and not key:
            raise ModelUnavailable(self._told("no key", "set OPENAI_API_KEY, or OPENAI_BASE_URL for another server"))
        if not key.isascii():
            raise ModelUnavailable(self._told("the key holds characters that no key has", "check OPENAI_API_KEY"))
        limits = openai.Timeout(self.timeout, connect=min(10.0, self.timeout))
        http = openai.DefaultAsyncHttpxClient(timeout=limits)
        return openai.AsyncOpenAI(api_key=key or "none", base_url=self.base_url, max_retries=0, timeout=limits, http_client=http)

    def _full_name(self) -> str:
        """`endpoint:MODEL` with the options that change what it says, in the form that `load_model` reads."""
        options = {"base_url": _shown(self.base_url)} if self.base_url != OPENAI_URL else {}
        if not self.native_tools:
            options["native_tools"] = "false"
        if self.extra:
            options["extra"] = json.dumps(self.extra, sort_keys=True, separators=(",", ":"))
        return f"endpoint:{self.model}" + ("?" + urlencode(options, safe=":/") if options else "")


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"`{_shown(url)}` is no address of a server; write it like http://localhost:8000/v1", field="base_url")
    return url.rstrip("/")


def _shown(url: str) -> str:
    """The address without a user's name and password in it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _server_words(error: openai.APIStatusError) -> str:
    words = error.body.get("message") if isinstance(error.body, dict) else None
    return _short(str(words or error.response.text)) or error.response.reason_phrase


def _short(text: str, limit: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[:limit] + "..."


def _price(text: str) -> Price:
    try:
        paid, made = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError("expected two numbers, USD per million tokens in and out, like 0.15,0.60") from None
    return Price(input=paid, output=made)


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise ValueError('expected a JSON object, like {"reasoning_effort":"low"}')
    return value
