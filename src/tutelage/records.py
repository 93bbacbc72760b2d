"""The frozen data that everything else passes around.

Every record is immutable and compares by value. Ids are hashes of content, so equal content has an equal id on every machine; fields at
their default do not enter the hash, so a new optional field does not change old ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Role = Literal["system", "user", "assistant", "tool"]
Finish = Literal["stop", "length", "tool_calls", "content_filter"]


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content_id(value: Any) -> str:
    """16 hex digits of the SHA-256 of `value` as canonical JSON (sorted keys, no spaces)."""
    return hashlib.sha256(_CANONICAL.encode(value).encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Record(BaseModel):
    """Base of all data: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some fields changed (not validated). Ids already worked out are not carried over: the content may differ."""
        copy = super().model_copy(update=update, deep=deep)
        for name in copy.__dict__.keys() - type(self).model_fields.keys():
            del copy.__dict__[name]
        return copy

    def canonical(self) -> dict[str, Any]:
        """The JSON content that ids are made of: fields at their default left out."""
        return self.model_dump(mode="json", exclude_defaults=True)


class TextPart(Record):
    """A piece of text in a message of several parts."""

    type: Literal["text"] = "text"
    text: str


class ImagePart(Record):
    """An image in a message: a `data:` URL, a web address or a file path."""

    type: Literal["image"] = "image"
    url: str


class ToolCall(Record):
    """A tool call as the model wrote it. `arguments` is its raw JSON text, kept even where it is broken."""

    id: str
    name: str
    arguments: str = "{}"

    def parsed(self) -> JsonValue:
        """The arguments as data; raises ValueError when they are not JSON, or nested too deeply to read."""
        try:
            return json.loads(self.arguments or "{}")  # type: ignore[no-any-return]
        except RecursionError:
            raise ValueError("nested too deeply") from None


class Message(Record):
    """One message of a conversation, in the shape that chat models know."""

    role: Role
    content: str | tuple[TextPart | ImagePart, ...] = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The text of the message; images are left out."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))


class ToolSpec(Record):
    """What a model is told about a tool. `parameters` is a JSON Schema of type object."""

    name: str
    description: str = ""
    parameters: dict[str, JsonValue]


class Task(Record):
    """What the agent is asked.

    `reference` is the right answer in the shape that the task's grader reads (None: there is none). `kind` groups tasks (retrieval can
    filter by it). `tools` are tools that only this task brings, declared and not executable. `environment` holds parameters for
    `Environment.reset`. `source` says where it came from ("train.jsonl:12") and does not enter the id.
    """

    messages: tuple[Message, ...]
    reference: JsonValue = None
    kind: str | None = None
    tools: tuple[ToolSpec, ...] = ()
    environment: dict[str, JsonValue] = {}
    source: str | None = None

    @cached_property
    def id(self) -> str:
        """Hash of everything but `source`."""
        content = self.canonical()
        content.pop("source", None)
        return content_id(content)

    @cached_property
    def input_id(self) -> str:
        """Hash of what the agent sees (messages, tools, environment) without the reference: two tasks that share it are one question."""
        content = self.canonical()
        return content_id({key: content.get(key) for key in ("messages", "tools", "environment")})

    @property
    def text(self) -> str:
        """The last user message: what retrieval compares."""
        users = [message.text for message in self.messages if message.role == "user"]
        return users[-1] if users else ""


class Sampling(Record):
    """How tokens are drawn. Temperature is applied before `min_p` (keep tokens with p >= min_p * max p; Nguyen et al. 2024).

    `seed` None lets the caller derive one. `json_schema` constrains the output where the model can (else it is refused). `top_logprobs`: so
    many of the likeliest tokens are listed in each place, by their text, where a server does so (`Completion.choices`); with `logprobs`.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    min_p: float = 0.0
    max_tokens: int = 512
    seed: int | None = None
    stop: tuple[str, ...] = ()
    json_schema: dict[str, JsonValue] | None = None
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0)


class Usage(Record):
    """Tokens and calls. `tokens_in` counts the whole prompt; `tokens_reused` is the part of it served from a prefix cache."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_reused: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            calls=self.calls + other.calls,
            tokens_in=self.tokens_in + other.tokens_in,
            tokens_out=self.tokens_out + other.tokens_out,
            tokens_reused=self.tokens_reused + other.tokens_reused,
        )

    @property
    def tokens(self) -> int:
        """Prompt and generated tokens together."""
        return self.tokens_in + self.tokens_out


class TokenTrace(Record):
    """Tokens exactly as sampled, never re-tokenised: `prompt_ids` (P,), `completion_ids` (T,), `logprobs` (T,) natural logs."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


class TokenChoice(Record):
    """One token by its text, with natural logs: its own, and those of the likeliest tokens in its place, itself included."""

    text: str
    logprob: float
    likeliest: dict[str, float] = Field(default_factory=dict)


class Completion(Record):
    """One reply of a model. `seconds` is the time of the call that produced it (kept when it comes from the cache).

    choices: the tokens by their text, where `Sampling.top_logprobs` asked for them and the server gives them.
    """

    message: Message
    finish: Finish = "stop"
    usage: Usage = Usage()
    tokens: TokenTrace | None = None
    choices: tuple[TokenChoice, ...] = ()
    seconds: float = 0.0
    cost_usd: float | None = None


class ToolFailure(StrEnum):
    """Why a tool call gave an error instead of a result."""

    UNKNOWN_TOOL = "unknown_tool"
    """No tool of that name exists."""
    BAD_ARGUMENTS = "bad_arguments"
    """The arguments are not JSON or do not fit the schema; the tool did not run."""
    RAISED = "raised"
    """The tool ran and raised."""
    TIMEOUT = "timeout"
    """The tool did not end within its time limit."""


class Observation(Record):
    """What came back: a tool's result or error, or the environment's words (`call_id` None)."""

    text: str
    call_id: str | None = None
    failure: ToolFailure | None = None
    truncated: bool = False
    seconds: float = 0.0

    @property
    def message(self) -> Message:
        """The message that the model sees."""
        if self.call_id is None:
            return Message(role="user", content=self.text)
        return Message(role="tool", content=self.text, tool_call_id=self.call_id)


class Step(Record):
    """One turn of the model and what followed from it.

    `completion` is what the model gave, untouched; `calls` are the tool calls understood from it (its own, or parsed from its text).
    """

    completion: Completion
    calls: tuple[ToolCall, ...] = ()
    observations: tuple[Observation, ...] = ()
    seconds: float = 0.0


class Segment(Record):
    """A stretch between two clearings of the context: what the model saw first, and its steps.

    part: in a workflow, which of its agents this was ("evaluator"); "" otherwise.
    """

    context: tuple[Message, ...]
    steps: tuple[Step, ...] = ()
    part: str = ""


class Advice(Record):
    """An answer: who gave it and when, and what it costs whoever asked.

    price: in units of reward, taken off the episode's. price_usd: in US dollars (None: unknown). note: words beside the answer, such as
    the reason for a grade.
    """

    question_id: str
    answer: str
    by: str
    when: datetime
    note: str = ""
    price: float = 0.0
    price_usd: float | None = 0.0


class StopReason(StrEnum):
    """Why an episode ended. Cut off is not finished: see `finished`."""

    ANSWERED = "answered"
    """The model gave a text without a tool call."""
    TOOL_CALL = "tool_call"
    """The model made a call that the agent hands over as its answer (`stop_on_tool`, or a tool that is only declared)."""
    ENVIRONMENT = "environment"
    """The environment declared the task over."""
    EMPTY = "empty"
    """The model answered nothing at all."""
    TRUNCATED = "truncated"
    """The final answer was cut at `max_tokens`."""
    STEPS = "steps"
    """The limit on model turns was reached."""
    TOKENS = "tokens"
    """The limit on tokens was reached."""
    SECONDS = "seconds"
    """The limit on time was reached."""
    COST = "cost"
    """The limit on money was reached."""
    MODEL_ERROR = "model_error"
    """A model call failed after its retries; the episode is not graded and is tried again when the run is repeated."""

    @property
    def finished(self) -> bool:
        """True where the agent itself came to an end; False where it was cut off."""
        return self in (StopReason.ANSWERED, StopReason.TOOL_CALL, StopReason.ENVIRONMENT, StopReason.EMPTY)


class Episode(Record):
    """What happened when one agent worked on one task. A bad episode is data, not a crash.

    `answer` is the last text (None: there is none). `cost_usd` None: the price is unknown. `shown` are the ids of the
    exemplars, insights and reflections in the prompt. `environment_grade` is what the environment itself said, if it grades.
    `advice` is what was sought and answered, each at the price that the agent pays. `confidence` is how sure of its answer the agent was
    before any advice, from 0 to 1, where its executor measured it (None: not measured).
    """

    task_id: str
    agent_version: str
    segments: tuple[Segment, ...]
    answer: str | None
    stop: StopReason
    usage: Usage = Usage()
    cost_usd: float | None = None
    seconds: float = 0.0
    error: str | None = None
    seed: int = 0
    attempt: int = 0
    shown: tuple[str, ...] = ()
    environment_grade: Grade | None = None
    advice: tuple[Advice, ...] = ()
    confidence: float | None = None

    @property
    def ref(self) -> str:
        """What names it in a store, and in the history of knowledge: agent version, task, seed and attempt."""
        return f"{self.agent_version}/{self.task_id}/{self.seed}/{self.attempt}"

    @property
    def steps(self) -> Iterator[Step]:
        """All steps, over all segments."""
        return (step for segment in self.segments for step in segment.steps)

    @property
    def calls(self) -> list[tuple[ToolCall, Observation | None]]:
        """Every tool call with its observation (None: handed over, not executed). One without an id is of the only call there was."""
        pairs: list[tuple[ToolCall, Observation | None]] = []
        for step in self.steps:
            by_id = {observation.call_id: observation for observation in step.observations}
            only = by_id.get(None) if len(step.calls) == 1 else None
            pairs += [(call, by_id.get(call.id, only)) for call in step.calls]
        return pairs


class Grade(Record):
    """How good an episode is. `score` None means not graded, which is never 0. `parts` are named components of the score."""

    score: float | None
    words: str = ""
    confidence: float | None = None
    abstained: bool = False
    parts: dict[str, float | None] = {}


class Experience(Record):
    """An episode with its grade, stored for good."""

    episode: Episode
    grade: Grade
    when: datetime
    study: str = ""


Episode.model_rebuild()
