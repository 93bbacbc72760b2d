"""What a session is worth beyond its own reward: what it brings into memory helps the sessions after it. Nothing here needs torch.

Source: AGILE (Feng et al. 2024, arXiv:2405.14751), session-level optimisation. Session i of a stream starts from the memory S_i and earns
r_i; with V the worth of a memory for the sessions to come, it is learned from as an independent sample with the proxy reward

    r~_i = r_i + A_i,   A_i = V(S_{i+1}) - V(S_i)

    similarity    A_i = beta * 1[N > 0] / (M + 1) where session i sought advice, else 0
    value         V(S) fitted by ridge regression of what the sessions from S on earned, on features of S

N: questions similar to session i's that come later in the stream; M: similar ones that are in S_i already. Different from the source: a
question that comes again does not count as similar to itself, since memory never shows a question its own case; V is linear in features
that are 0 where no session is to come, so that the end of a stream is worth nothing; what a stream is worth is told by a V that was fitted
on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from tutelage.retrieval.index import Index
from tutelage.training.policy_gradient import Floats

FEATURES = ("left", "left_by_size", "kind_known", "similar_known")
"""What `state_features` gives, in its order."""


class Case(Protocol):
    """A question, of a session or of a memory's entry: tasks and exemplars are cases."""

    @property
    def text(self) -> str:
        """Its words."""
        ...

    @property
    def kind(self) -> str | None:
        """Its kind."""
        ...

    @property
    def input_id(self) -> str:
        """What tells questions apart."""
        ...


Similar = Callable[[Case, Case], bool]
"""Whether what is known of one question may help with another."""


class Alike:
    """Whether two questions are similar: their `kind` is the same, or their texts are alike by at least `threshold`.

    by: `text` compares words (Jaccard), `meaning` embeddings (cosine). Raises `InputError` for an unknown embedder and `MissingExtra` where
    its package is absent.
    """

    def __init__(self, by: Literal["kind", "text", "meaning"] = "text", threshold: float = 0.5, embedder: str = "wordllama") -> None:
        self.by, self.threshold = by, threshold
        self._index = Index(embedder)
        self._known: dict[tuple[str, str], bool] = {}

    def __call__(self, one: Case, other: Case) -> bool:
        """Symmetric. Cases without a kind are similar to none by `kind`."""
        if self.by == "kind":
            return one.kind is not None and one.kind == other.kind
        pair = (one.text, other.text) if one.text < other.text else (other.text, one.text)
        if pair not in self._known:
            self._known[pair] = self._similarity(*pair) >= self.threshold
        return self._known[pair]

    def _similarity(self, one: str, other: str) -> float:
        for text in (one, other):
            self._index.add(text, text)
        return self._index.similarity(one, other, "text" if self.by == "text" else "meaning")


@dataclass(frozen=True)
class SessionState:
    """One session of a stream: its question, what memory held before it (S_i), and whether it sought advice."""

    question: Case
    memory: Sequence[Case]
    asked: bool


def state_advantages(sessions: Sequence[SessionState], similar: Similar, beta: float = 0.1) -> list[float]:
    """The similarity advantage A_i of each session of a stream, in their order."""
    questions = [session.question for session in sessions]
    return [state_advantage(session, questions[place + 1 :], similar, beta) for place, session in enumerate(sessions)]


def state_advantage(session: SessionState, to_come: Sequence[Case], similar: Similar, beta: float = 0.1) -> float:
    """The similarity advantage of one session. to_come: the questions of the sessions after it."""
    question = session.question
    if not session.asked or not any(_helps(question, later, similar) for later in to_come):
        return 0.0
    return beta / (sum(_helps(entry, question, similar) for entry in session.memory) + 1)


def proxy_rewards(rewards: Sequence[float | None], values: Sequence[float]) -> list[float | None]:
    """r~_i = r_i + V(S_{i+1}) - V(S_i). rewards (n,), None where a session is not graded, as r~ is then; values (n + 1,): of S_0 .. S_n."""
    if len(values) != len(rewards) + 1:
        raise ValueError(f"{len(rewards)} sessions have {len(rewards) + 1} states of memory, and there are {len(values)} values")
    steps = zip(rewards, values, values[1:], strict=False)
    return [None if reward is None else reward + after - before for reward, before, after in steps]


def returns_to_go(rewards: Sequence[float | None]) -> list[float]:
    """What is earned from each session on (n + 1,), ungraded sessions left out; 0 at the end."""
    returns = [0.0]
    for reward in reversed(rewards):
        returns.append(returns[-1] + (reward or 0.0))
    return returns[::-1]


def state_features(memory: Sequence[Case], to_come: Sequence[Case], similar: Similar) -> Floats:
    """What a memory S and the questions to come say of what they will earn (F,): see `FEATURES`.

    The number of questions left; that times log(1 + size of S); of how many questions left S holds the kind; of how many it holds
    something similar. All are sums over the questions left.
    """
    kinds = {entry.kind for entry in memory if entry.kind is not None}
    left = float(len(to_come))
    known = sum(question.kind in kinds for question in to_come)
    helped = sum(any(_helps(entry, question, similar) for entry in memory) for question in to_come)
    return np.array([left, left * np.log1p(len(memory)), known, helped], dtype=np.float64)


@dataclass(frozen=True)
class Value:
    """V(S) = weights . features of S. weights (F,)."""

    weights: tuple[float, ...]

    def __call__(self, features: Floats) -> float:
        """The worth of the state of these features (F,), in units of reward."""
        return float(np.dot(features, self.weights))


def fit_value(features: Sequence[Floats], returns: Sequence[float], ridge: float = 1.0) -> Value:
    """The V that minimises the sum of (V(features_n) - returns_n)^2 + ridge * |weights|^2. features (N, F), returns (N,).

    Without an intercept: a state in which nothing is to come has features 0 and is worth 0. ridge > 0: there is always one solution.
    """
    if len(features) != len(returns) or not features:
        raise ValueError(f"as many states as returns, and one at least: {len(features)} and {len(returns)}")
    rows = np.stack(features)
    weights = np.linalg.solve(rows.T @ rows + ridge * np.eye(rows.shape[1]), rows.T @ np.asarray(returns, dtype=np.float64))
    return Value(tuple(weights.tolist()))


def _helps(entry: Case, question: Case, similar: Similar) -> bool:
    """Whether what was learned from one question may be shown with another and is about something similar."""
    return entry.input_id != question.input_id and similar(entry, question)
