"""What a training on demonstrations or on preferences is given, and what comes of it. No torch is needed here."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, JsonValue, model_validator

from tutelage.adapter import Adapter
from tutelage.progress import Silent, Stage
from tutelage.training.settings import SPEED_ONLY, Lora, TrainSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tutelage.training.base import Base
    from tutelage.training.chat import TokenRow

PLACE_ONLY = frozenset({"save_steps", "save_minutes", "share_prefixes", "max_tokens_per_micro_batch", *SPEED_ONLY})
"""Settings that do not decide what is learned, but where and how quickly."""

SpecialToken = Literal["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<|reversed|>"]
REVERSED = "<|reversed|>"
"""What a reply begins with that is said from its end; see `objectives.py`."""


HistoryRow = Mapping[str, JsonValue]
"""What happened in one step: step, loss, learning_rate, grad_norm, tokens (of its rows), tokens_computed (what went through the model for
them, padding included), seconds, for DPO reward_accuracy; or in one look at the validation rows: step, validation_loss, seconds."""


class SupervisedSettings(TrainSettings):
    """What SFT and DPO have in common, beyond `TrainSettings`.

    max_steps: ends training before `num_train_epochs` do. packing: put several rows into one line of a batch, where they neither see each
    other nor count positions on from each other; what is learned stays the same, less is padded (models in `PACKS` only). share_prefixes:
    in place of that, compute once what rows of a batch begin with, as far as that is less work (in one process, where the model takes it).
    max_tokens_per_micro_batch: with share_prefixes so many tokens pass through the model at once, at most, except one row (or pair) that
    is longer, so that a larger batch needs no more memory (None: 2,048 on a CPU, 16,384 on a GPU). eval_steps: look at the validation rows
    every so many steps (None: after each epoch). early_stopping_patience: stop after so many looks without a better one (None: never).
    save_steps, save_minutes: how often a checkpoint is written, from which an interrupted training goes on.
    """

    num_train_epochs: float = Field(3.0, gt=0)
    max_steps: int | None = Field(None, gt=0)
    packing: bool = True
    share_prefixes: bool = True
    max_tokens_per_micro_batch: int | None = Field(None, gt=0)
    eval_steps: int | None = Field(None, gt=0)
    early_stopping_patience: int | None = Field(None, gt=0)
    save_steps: int | None = Field(None, gt=0)
    save_minutes: float = Field(5.0, ge=0)
    special_tokens: tuple[SpecialToken, ...] = ()


class SFTSettings(SupervisedSettings):
    """Settings of supervised fine-tuning.

    objective: what is predicted from what; see `objectives.py`. objective_share: of the rows that are learned `teacherless` or `masked` at
    a time; the others are learned the standard way. mask_rate: the share of an answer's tokens that `masked` hides. mask_token: what
    stands in their place (None: `objectives.spare_token`).
    """

    SAID_WHERE_SET = SupervisedSettings.SAID_WHERE_SET | {"objective", "objective_share", "mask_rate", "mask_token"}

    objective: Literal["standard", "reversed", "teacherless", "masked"] = "standard"
    objective_share: float = Field(0.5, gt=0, le=1)
    mask_rate: float = Field(0.5, gt=0, le=1)
    mask_token: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_marker(cls, given: Any) -> Any:
        """Replies in reverse begin with a token of their own."""
        if not isinstance(given, dict) or given.get("objective") != "reversed":
            return given
        tokens = given.get("special_tokens", ())
        known = not isinstance(tokens, list | tuple) or REVERSED in tokens
        return given if known else {**given, "special_tokens": (*tokens, REVERSED)}


class DPOSettings(SupervisedSettings):
    """Settings of direct preference optimisation (Rafailov et al. 2023).

    beta: how dear it is to leave the reference. label_smoothing: the share of pairs taken to be the wrong way round. reference_free:
    compare with nothing instead of with the model before training.
    """

    learning_rate: float = Field(5e-6, gt=0)
    lora: Lora | None = Lora(r=8, lora_alpha=16)
    beta: float = Field(0.1, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    reference_free: bool = False


@dataclass(frozen=True)
class TokenPair:
    """A better and a worse continuation of one prompt. weight: how sure the preference is; its loss counts so much."""

    chosen: TokenRow
    rejected: TokenRow
    weight: float = 1.0


@dataclass(frozen=True)
class Trained:
    """What came of training. model: a `PeftModel`, or the whole model where `lora` is None; in eval mode. facts: for the report.

    tokenizer: the one that was trained with. workplace: the folder of checkpoints; `clear()` removes it once the weights are kept
    elsewhere.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    facts: dict[str, JsonValue]
    workplace: Path

    def clear(self) -> None:
        """Remove the checkpoints."""
        shutil.rmtree(self.workplace, ignore_errors=True)


@dataclass(frozen=True)
class Job:
    """Where and how a training runs.

    base: the weights it begins with; adapter: learned earlier on top of them, learned on from. tokenizer: that of the rows, from
    `tokenizer_for`. folder: where checkpoints go, below a folder named by the hash of everything that decides the result. stage: makes the
    progress bar, given the number of steps. history: told of all steps and looks at the validation rows so far, again and again. stop: set
    by another thread to end training after the current step, with a checkpoint.
    """

    base: Base
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    adapter: Adapter | None = None
    seed: int = 0
    stage: Callable[[int], Stage] = lambda total: Silent()
    history: Callable[[Sequence[HistoryRow]], None] = lambda rows: None
    stop: threading.Event = field(default_factory=threading.Event)


class Interrupted(Exception):
    """Training ended early because `Job.stop` was set; a checkpoint lies in the folder. Never shown to a person."""
