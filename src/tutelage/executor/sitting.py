"""One session as it runs: the model's turns, the actions it takes, and the context they stand in."""

from __future__ import annotations

from time import perf_counter

from tutelage.agent import Agent, Scene
from tutelage.episode import Run, derive_seed, observe, stop_after_calls, stop_without_calls, tools_of, within_seconds
from tutelage.errors import InputError, ModelFailed
from tutelage.executor.ask_when import AskWhen, confidence
from tutelage.executor.outcome import argument_of
from tutelage.executor.parse import parse_action, resolve_name
from tutelage.executor.prompts import SEEK_ADVICE, advised, explain_tools, list_actions, said, unreadable
from tutelage.executor.session import Session
from tutelage.executor.settings import Settings, resolve_actions
from tutelage.knowledge import Entry
from tutelage.memory import Memory
from tutelage.prompt import build_messages
from tutelage.records import Completion, Episode, Observation, Step, StopReason, Task, ToolCall, ToolFailure
from tutelage.tool import call_tool

_Outcome = tuple[Observation | None, StopReason | None]


class Sitting:
    """One session. `run` holds the conversation, its cost and its limits; `session` what the actions work on."""

    def __init__(self, settings: Settings, agent: Agent, task: Task, scene: Scene) -> None:
        self.settings, self.scene = settings, scene
        self.memory: Memory = scene.memory if scene.memory is not None else agent.memory
        self.session = _session(settings, agent, task, scene)
        self.actions = {item.name: item.bound(self.session) for item in resolve_actions(settings.actions, "actions")}
        tools = tools_of(agent, task, scene.world, tuple(self.actions.values())) if settings.tools else dict(self.actions)
        self.run = Run(agent, task, scene.models(agent), tools, scene.seed, scene.attempt)
        if settings.ask_when is not None and settings.ask_when.signal == "probability":
            own = agent.sampling
            self.run.sampling = own.model_copy(update={"logprobs": True, "top_logprobs": max(1, own.top_logprobs)})
        self.native = self.run.model.native_tools
        self.told = (*settings.specs(), *(item.spec for name, item in tools.items() if name not in self.actions))
        self.run.specs = self.told if settings.form == "tools" and self.native else ()

    async def episode(self) -> Episode:
        """Run the session to its end."""
        stop = await within_seconds(self._work(), self.run.agent.limits.seconds)
        if not self.run.context:  # the time was up before the model's first turn
            self._begin([])
        self.run.answer = self.session.answer if self.session.done else self.session.draft
        own = {"advice": tuple(self.session.advice), "confidence": self.session.confidence}
        return self.run.episode(stop).model_copy(update=own)

    async def _work(self) -> StopReason:
        try:
            await self._open()
            while (reached := self.run.limit_reached()) is None:
                if (ended := await self._turn()) is not None:
                    return ended
        except ModelFailed as error:
            self.run.error = str(error)
            return StopReason.MODEL_ERROR
        return reached

    # -- contexts

    async def _open(self) -> None:
        """Run the opening actions and write the first messages."""
        lines: list[str] = []
        for item in resolve_actions(self.settings.opening, "opening"):
            observation = await call_tool(item.bound(self.session), ToolCall(id="opening", name=item.name))
            self._raise_trouble()
            lines.append(said(item.name, observation.text))
        self._begin(lines)

    def _begin(self, lines: list[str]) -> None:
        """Begin a context: the instructions, the question, and these lines."""
        agent, task, tools = self.run.agent, self.run.task, self.settings.form == "tools"
        how = explain_tools() if tools else list_actions(self.told)
        reflections = self.memory.recall(task)
        self.run.begin(
            build_messages(
                "\n\n".join(part for part in (agent.instructions.strip(), how) if part),
                task,
                self.told if tools else (),
                insights=self.memory.insights,
                reflections=reflections,
                native_tools=self.native,
                opening="\n\n".join(part for part in (self.session.opening, *lines) if part),
            )
        )
        entries: tuple[Entry, ...] = (*self.memory.insights, *reflections)
        self.run.shown = tuple(dict.fromkeys((*self.run.shown, *(entry.id for entry in entries), *self.session.shown)))

    def _noted(self) -> list[str]:
        """What stays when the context is cleared."""
        session = self.session
        notes = [(SEEK_ADVICE, session.advised), ("reflect", session.reflection), ("predict_answer", session.draft)]
        return [said(name, words) for name, words in notes if words]

    # -- turns

    async def _turn(self) -> StopReason | None:
        """One reply of the model and what follows from it."""
        begun = perf_counter()
        completion = await self.run.ask()
        call = self._understood(completion)
        calls = self.run.named_apart((call,), native=bool(completion.message.tool_calls)) if call else ()
        observation, stop = await self._follow(completion, calls[0] if calls else None)
        seen = (observation,) if observation else ()
        self.run.steps.append(Step(completion=completion, calls=calls, observations=seen, seconds=perf_counter() - begun))
        self.run.shown = tuple(dict.fromkeys((*self.run.shown, *self.session.shown)))
        if stop is not None:
            return stop
        if self.session.cleared:
            self.session.cleared = False
            self._begin(self._noted())
        else:
            self.run.extend(completion.message, calls, seen)
        return None

    def _understood(self, completion: Completion) -> ToolCall | None:
        """The first action of a reply: a call of the model's own, whatever it names, or one that its text names."""
        specs = [item.spec for item in self.run.tools.values()]
        if own := completion.message.tool_calls:
            spec = resolve_name(own[0].name, specs)
            return own[0] if spec is None else own[0].model_copy(update={"name": spec.name})
        text = completion.message.text
        if completion.finish == "length":  # a line that was cut off is no action: half of it would be taken for the whole
            text = text.rpartition("\n")[0]
        return parse_action(text, specs)

    async def _follow(self, completion: Completion, call: ToolCall | None) -> _Outcome:
        draft = self._answer_in(completion, call)
        if draft is not None and (words := await self._advice_for(draft, completion)) is not None:
            return Observation(text=words, call_id=self._id_for(completion, call)), None
        if call is None:
            return self._unparsed(completion, draft)
        observation = await observe(self.run, call)
        self._raise_trouble()
        shown = None if observation is None else self._as_shown(observation, completion, call)
        if self.session.done:
            return shown, StopReason.ANSWERED
        if call.name in self.actions:
            return shown, StopReason.ENVIRONMENT if getattr(self.scene.world, "done", False) else None
        return shown, stop_after_calls(self.run, self.scene.world, [observation])

    def _unparsed(self, completion: Completion, answer: str | None) -> _Outcome:
        """What follows from a reply without an action."""
        if answer is not None:
            self.session.finish(answer)
            return None, stop_without_calls(completion)
        if not completion.message.text.strip():
            return None, StopReason.EMPTY
        words = unreadable([spec.name for spec in self.told], cut=completion.finish == "length")
        return Observation(text=words, failure=ToolFailure.UNKNOWN_TOOL), None

    def _answer_in(self, completion: Completion, call: ToolCall | None) -> str | None:
        """The answer that a reply gives, as a draft or for good."""
        if call is None:
            return (completion.message.text.strip() or None) if self.settings.unparsed == "answer" else None
        if call.name == "predict_answer":
            return argument_of(call, "answer") or None
        return argument_of(call, "answer") or self.session.draft if call.name == "submit_answer" else None

    def _id_for(self, completion: Completion, call: ToolCall | None) -> str | None:
        """The id that an observation has: none where the model reads it as a line of text."""
        as_lines = self.settings.form == "text" and not completion.message.tool_calls
        return None if call is None or as_lines else call.id

    def _as_shown(self, observation: Observation, completion: Completion, call: ToolCall) -> Observation:
        if self._id_for(completion, call) is not None:
            return observation
        return observation.model_copy(update={"text": said(call.name, observation.text), "call_id": None})

    def _raise_trouble(self) -> None:
        if self.session.trouble is not None:
            raise self.session.trouble

    # -- asking without being told to

    async def _advice_for(self, draft: str, completion: Completion) -> str | None:
        """What is said in answer to a draft that the agent is unsure of: the expert's words. Looked at once a session."""
        ask_when, session = self.settings.ask_when, self.session
        if ask_when is None or session.asked or session.confidence is not None:
            return None
        session.confidence = await self._confidence(ask_when, draft, completion)
        if not ask_when.asks(session.confidence):
            return None
        if self.run.turns + 1 >= self.run.agent.limits.steps:  # no turn is left to make use of it
            return None
        session.draft = draft
        words = await session.ask()
        return None if words is None else advised(words)

    async def _confidence(self, ask_when: AskWhen, draft: str, completion: Completion) -> float:
        sure = await confidence(ask_when, self.run.task, draft=draft, completion=completion, memory=self.session.memory, again=self._again)
        if sure is None and ask_when.signal == "probability":
            raise InputError(
                f"the model {self.run.model.name} does not say how probable its tokens are; let the signal be `agreement` or `similarity`",
                field="executor.ask_when.signal",
            )
        return sure or 0.0

    async def _again(self, number: int) -> str | None:
        """The answer that another sample gives here."""
        ask_when, scene = self.settings.ask_when, self.scene
        seed = derive_seed(scene.seed, scene.attempt, f"{self.run.task.id}/again/{number}", self.run.turns)
        drawn = {"temperature": ask_when.temperature, "seed": seed} if ask_when else {}
        completion = await self.run.ask(self.run.next_sampling().model_copy(update=drawn))
        return self._answer_in(completion, self._understood(completion))


def _session(settings: Settings, agent: Agent, task: Task, scene: Scene) -> Session:
    return Session(
        task=task,
        agent=agent,
        known=agent.knowledge if scene.memory is None else scene.memory.snapshot(),
        retrieval=settings.retrieval,
        ref=f"{agent.version}/{task.id}/{scene.seed}/{scene.attempt}",
        advisor=scene.advisor,
        world=scene.world,
        opening=scene.opening,
        price=settings.price,
        may_ask=settings.may_ask,
        enabled=settings.enabled,
    )
