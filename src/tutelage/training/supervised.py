"""Training on demonstrations (SFT) and on preferences (DPO).

The work is done with TRL and peft (`sft_trainer.py`, `dpo_trainer.py`); nothing here needs torch before training begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tutelage.adapter import Adapter
from tutelage.errors import InputError
from tutelage.training.adapters import tokenizer_folder
from tutelage.training.base import Base, load_tokenizer
from tutelage.training.extra import needs_train
from tutelage.training.planned import noted, plan_of, rows_of, warn
from tutelage.training.planner import Plan, supervised_case
from tutelage.training.settings import TrainSettings
from tutelage.training.supervised_job import DPOSettings, Job, SFTSettings, SupervisedSettings, TokenPair, Trained

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tutelage.training.chat import TokenRow


def train_sft(job: Job, rows: Sequence[TokenRow], settings: SFTSettings, *, validation: Sequence[TokenRow] = ()) -> Trained:
    """Train on token rows; loss falls where their masks say.

    validation: rows that are only looked at; of all looks the best weights are kept. Interrupted, and begun again with the same arguments,
    it goes on from its last checkpoint to the very same weights. Where the loss is no number any more, or far above where it began,
    training stops and the last good weights are kept (`facts["stopped"]`).

    Raises `InputError` where there are no rows, a row is too long or bears no loss, nothing good is left to keep, or memory does not
    suffice; `MissingExtra` without torch, peft or TRL; `Interrupted`.
    """
    check_rows(rows, settings)
    check_rows(validation, settings, needed=False)
    with needs_train("training"):
        from tutelage.training.sft_trainer import run_sft
    plan = _planned(job, settings, rows, validates=bool(validation))
    trained = run_sft(job, [cut(row, settings) for row in rows], settings, [cut(row, settings) for row in validation])
    return replace(trained, facts={**trained.facts, **noted(plan)})


def train_dpo(job: Job, pairs: Sequence[TokenPair], settings: DPOSettings, *, validation: Sequence[TokenPair] = ()) -> Trained:
    """Train on pairs: make the chosen more likely than the rejected, compared with the model before training.

    As `train_sft` otherwise.
    """
    for group, needed in ((pairs, True), (validation, False)):
        check_rows([row for pair in group for row in (pair.chosen, pair.rejected)], settings, needed=needed)
    with needs_train("training"):
        from tutelage.training.dpo_trainer import run_dpo
    plan = _planned(job, settings, [side for pair in pairs for side in (pair.chosen, pair.rejected)], validates=bool(validation))
    trained = run_dpo(job, [_cut_pair(pair, settings) for pair in pairs], settings, [_cut_pair(pair, settings) for pair in validation])
    return replace(trained, facts={**trained.facts, **noted(plan)})


def _planned(job: Job, settings: SupervisedSettings, rows: Sequence[TokenRow], *, validates: bool) -> Plan | None:
    """The plan, with a warning where the training would not fit."""
    sides = 2 if isinstance(settings, DPOSettings) else 1
    plan = plan_of(job.base, supervised_case(settings, rows_of(rows, settings, sides=sides), validates=validates))
    warn(plan)
    return plan


def tokenizer_for(base: Base, special_tokens: Sequence[str] = (), adapter: Adapter | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer to write rows with: the adapter's where it brings tokens of its own, else the base's; missing special tokens are added.

    Raises `InputError` where the weights learned earlier leave no room for new tokens, `MissingExtra` without transformers.
    """
    own = tokenizer_folder(adapter) if adapter is not None else None
    if own is None:
        tokenizer = load_tokenizer(base)
    else:
        with needs_train("a tokenizer"):
            from transformers import AutoTokenizer
        tokenizer = AutoTokenizer.from_pretrained(str(own), local_files_only=True)
    missing = [token for token in special_tokens if token not in tokenizer.get_vocab()]
    if missing and adapter is not None:
        lacking = ", ".join(missing)
        raise InputError(f"the agent's weights were learned without {lacking}; add tokens at the first training", field="special_tokens")
    tokenizer.add_tokens(missing)
    return tokenizer


def check_rows(rows: Sequence[TokenRow], settings: TrainSettings, *, needed: bool = True, names: Mapping[int, str] | None = None) -> None:
    """Raise `InputError` for rows that cannot be learned from, named by their place or by `names`."""
    if needed and not rows:
        raise InputError("there is no row to learn from", field="rows")

    def name(place: int) -> str:
        return (names or {}).get(place) or f"row {place + 1}"

    long = [place for place, row in enumerate(rows) if len(row.ids) > settings.max_length]
    if long and not settings.truncate:
        listed = ", ".join(f"{name(place)} ({len(rows[place].ids)})" for place in long[:5]) + (", ..." if len(long) > 5 else "")
        longest = max(len(rows[place].ids) for place in long)
        raise InputError(
            f"{len(long)} of {len(rows)} rows are longer than max_length = {settings.max_length} tokens: {listed}. "
            f"Set max_length to {longest}, or truncate to true to cut them at their end",
            field="max_length",
        )
    mute = next((place for place, row in enumerate(rows) if not any(row.mask[1 : settings.max_length])), None)
    if mute is not None:
        cut_off = any(rows[mute].mask[1:])
        why = "its answer lies beyond max_length" if cut_off else "no token of it bears loss"
        raise InputError(f"nothing can be learned from {name(mute)}: {why}", field="max_length" if cut_off else "rows")


def cut(row: TokenRow, settings: TrainSettings) -> TokenRow:
    """The row, or its first `max_length` tokens."""
    if len(row.ids) <= settings.max_length:
        return row
    return type(row)(ids=row.ids[: settings.max_length], mask=row.mask[: settings.max_length])


def _cut_pair(pair: TokenPair, settings: TrainSettings) -> TokenPair:
    return TokenPair(cut(pair.chosen, settings), cut(pair.rejected, settings), pair.weight)
