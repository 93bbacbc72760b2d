"""Reinforcement learning in words: notes beside the bar, facts for the report, and why there is nothing to learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import cast

from pydantic import JsonValue

from tutelage.errors import GraderError
from tutelage.learners.policy_state import Row, State
from tutelage.learners.rollouts import LeftOut, Rollouts

_WHY = {
    LeftOut.UNGRADED: "they have no grade",
    LeftOut.NO_TOKENS: "the model did not say which tokens it sampled (agents on hf:... and gguf:... do)",
    LeftOut.TOO_LONG: "they have more tokens than `max_length` (raise it, shorten the prompt, or set `truncate`)",
    LeftOut.ABSTAINED: "the grader abstained",
    LeftOut.UNSURE: "the grader is less sure than `min_confidence`",
    LeftOut.MODEL_ERROR: "the model failed",
}


def note_of(row: Row) -> str:
    """What stands beside the bar: `reward 0.42, 25% dropped, kl 0.010, entropy 1.32, 12 s`; of streams the score and advice too."""
    groups, dropped = _number(row, "groups") or 0, _number(row, "dropped") or 0
    parts = [f"reward {_number(row, 'reward') or 0:.2f}", f"{dropped / groups:.0%} dropped" if groups else ""]
    if (score := _number(row, "total_score")) is not None:
        parts = [f"score {score:.2f}", f"advice {_number(row, 'advice_rate') or 0:.0%}", parts[1]]
    parts += [f"{name} {value:.3f}" for name in ("kl", "entropy") if (value := _number(row, name)) is not None]
    seconds = (_number(row, "seconds_rollout") or 0) + (_number(row, "seconds_update") or 0)
    return ", ".join(part for part in [*parts, f"{seconds:.0f} s"] if part)


def facts_of(state: State, n_train: int, n_held_out: int, earned: str = "reward") -> dict[str, JsonValue]:
    """What the report states of a run. earned: the number of a row that says what its episodes earned."""
    rewards = [value for row in state.history if (value := _number(row, earned)) is not None]
    tokens = [value for row in state.history if (value := _number(row, "tokens_per_answer")) is not None]
    groups, dropped = _total(state, "groups"), _total(state, "dropped")
    facts: dict[str, JsonValue] = {
        "steps": state.step,
        "updates": state.updates,
        "train_tasks": n_train,
        "validation_tasks": n_held_out,
        "reward_first": rewards[0] if rewards else None,
        "reward_last": rewards[-1] if rewards else None,
        "reward_best": max(rewards) if rewards else None,
        "tokens_per_answer": [tokens[0], tokens[-1]] if tokens else None,
        "episodes": int(_total(state, "episodes")),
        "dropped_groups": round(dropped / groups, 3) if groups else None,
        "seconds_rollout": round(_total(state, "seconds_rollout"), 1),
        "seconds_update": round(_total(state, "seconds_update"), 1),
        "adapter": state.best.adapter if state.best else state.adapter,
    }
    if left_out := _left_out(state.history):
        facts["left_out"] = dict(left_out)
    if state.best is not None:
        facts |= {
            "best_step": state.best.step,
            "validation_scores": [[evaluation.step, round(evaluation.score, 4)] for evaluation in state.evaluations],
            "validation_tokens_per_answer": [state.evaluations[0].tokens, state.best.tokens],
        }
    elif _fell(rewards):
        facts["warning"] = "the reward fell and no tasks were held out to choose a better step: set `validation`, or lower `learning_rate`"
    if state.stopped:
        facts["stopped" if state.updates else "nothing_learned"] = state.stopped
    return facts


def _fell(rewards: Sequence[float]) -> bool:
    """Whether the last third of the steps earned less than the first."""
    third = len(rewards) // 3
    return third > 0 and sum(rewards[-third:]) < sum(rewards[:third])


def any_usable(rows: Sequence[Row]) -> bool:
    """Whether any episode of these steps could be learned from, had its reward differed from others."""
    return any(_number(row, "reward_min") is not None for row in rows)


def why_fruitless(rows: Sequence[Row]) -> str:
    """Why these steps taught nothing, and what to do."""
    lows, highs = ([value for row in rows if (value := _number(row, name)) is not None] for name in ("reward_min", "reward_max"))
    count = sum(int(_number(row, "episodes") or 0) for row in rows)
    if not lows:
        return _why_left_out(_left_out(rows))
    low, high = min(lows), max(highs)
    if low == high:
        found = f"the grader gives {low:.2f} to all {count} episodes of the last {len(rows)} steps"
    else:
        found = f"in each task all attempts got one and the same grade ({low:.2f} to {high:.2f}; {count} episodes in {len(rows)} steps)"
    return (
        f"no group differs: {found}; there is nothing to learn from. Unless all is solved already: easier tasks, a reward with degrees "
        "between wrong and right, more `num_generations`, a higher `temperature`, or demonstrations first (SFT or SRL)"
    )


def refuse_ungraded(rollouts: Rollouts) -> None:
    """Raise `GraderError` where no episode is usable because there are no grades: the grader may be down, and works when one runs again."""
    total, ungraded = sum(rollouts.left_out.values()), rollouts.left_out[LeftOut.UNGRADED]
    if not rollouts.groups and 2 * ungraded > total:
        raise GraderError(
            f"{ungraded} of {total} episodes of a step are not graded, and none is left to learn from. The first says: {rollouts.words}"
        )


def _why_left_out(left_out: Counter[str]) -> str:
    reasons = "; ".join(f"{count} because {_WHY[LeftOut(reason)]}" for reason, count in left_out.most_common())
    return f"none of the last {left_out.total()} episodes can be learned from: {reasons}"


def _left_out(rows: Sequence[Row]) -> Counter[str]:
    counts = Counter[str]()
    for row in rows:
        counts.update(cast(dict[str, int], row.get("left_out") or {}))
    return counts


def _number(row: Row, name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else None


def _total(state: State, name: str) -> float:
    return sum(_number(row, name) or 0.0 for row in state.history)
