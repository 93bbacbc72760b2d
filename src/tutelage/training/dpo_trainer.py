"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290) with TRL's `DPOTrainer`, on pairs that are tokenised already.

    loss = -log sigmoid(beta * [(log pi_c - log ref_c) - (log pi_r - log ref_r)])

where pi is the model that learns, ref the one before training, c and r the chosen and the rejected answer. Label smoothing e (Mitchell
2023) takes a share e of the pairs to be the wrong way round: (1 - e) of this loss and e of the loss of the pair turned round.
Reference-free: both ref terms are 0. Prompts are computed once for both answers and for all pairs of a batch that begin alike
(`sharing.py`), by the model and by the reference. Different from TRL: the reference is asked once, before training, and not at every
step; label smoothing is as said (TRL 1.16 ignores it for the sigmoid loss); pairs have weights; several turns of one answer may bear loss,
and results between them none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from pydantic import JsonValue
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import logsigmoid
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from tutelage.training.batches import Batch, fused_logprobs, label_logprobs, labels_of, sum_by_owner
from tutelage.training.keeper import Checkpoints
from tutelage.training.sharing import InPasses, Pass, counts_of, pass_logprobs
from tutelage.training.supervised_job import DPOSettings, Job, TokenPair, Trained
from tutelage.training.supervised_run import Shapes, pad_of, run, shapes_of

REFERENCE = "reference.safetensors"
_SIDES = ("chosen", "rejected")
_MODEL_INPUTS: tuple[str, ...] = ("input_ids", "position_ids", "attention_mask")


def preference_loss(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float, label_smoothing: float = 0.0
) -> Tensor:
    """The loss of each pair, from the log-probabilities of whole answers; all of shape (pairs,)."""
    margin = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)


def run_dpo(job: Job, pairs: Sequence[TokenPair], settings: DPOSettings, validation: Sequence[TokenPair]) -> Trained:
    """Train; see `train_dpo`."""

    def make(model: Any, arguments: dict[str, Any]) -> PreferenceTrainer:
        return dpo_trainer(model, job.tokenizer, arguments, settings, pairs, validation)

    rows = [row for pair in pairs for row in (pair.chosen, pair.rejected)]
    facts: dict[str, JsonValue] = {
        "pairs": len(pairs),
        "pairs_validation": len(validation),
        "tokens": sum(len(row.ids) for row in rows),
        "tokens_learned": sum(sum(row.mask) for row in rows),
    }
    data = [[_plain(pair) for pair in group] for group in (pairs, validation)]
    longest = max(len(row.ids) for pair in [*pairs, *validation] for row in (pair.chosen, pair.rejected))
    return run(job, settings, make, data, facts, longest=longest, validates=bool(validation))


def dpo_trainer(
    model: Any,
    tokenizer: Any,
    arguments: dict[str, Any],
    settings: DPOSettings,
    pairs: Sequence[TokenPair],
    validation: Sequence[TokenPair] = (),
) -> PreferenceTrainer:
    """The trainer over these pairs; `arguments` are those of `DPOConfig`."""
    shapes = shapes_of(model, settings, arguments)
    trainer = PreferenceTrainer(
        model=model,
        args=DPOConfig(**arguments, beta=settings.beta, precompute_ref_log_probs=True),
        data_collator=_Collator(pad_of(tokenizer), shapes),
        train_dataset=_data(pairs),
        eval_dataset=_data(validation) if validation else None,
        processing_class=tokenizer,
    )
    trainer.alone, trainer.settings = shapes.alone, settings
    return trainer


class PreferenceTrainer(InPasses, Checkpoints, DPOTrainer):
    """TRL's trainer with our checkpoints and the loss above. alone: work it out from the learned positions only."""

    alone = False
    settings: DPOSettings
    model: Any
    train_dataset: Any
    eval_dataset: Any

    def train(self, *args: Any, **more: Any) -> Any:
        """As TRL's, after asking the reference: the model as it is before training."""
        if "ref" in getattr(self.model, "peft_config", {}):
            self.model.delete_adapter("ref")  # TRL's copy of the adapter, which is not needed
        self._ask_reference(self.place / REFERENCE)
        return super().train(*args, **more)

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """The mean loss of a pair in the batch, each counted by its weight; of some of its passes, what their pairs contribute to it."""
        found = self.answer_logprobs(model, inputs)
        here, weight = _pairs_of(inputs), inputs["weight"]
        chosen, rejected = (side[here] for side in found.chunk(2))
        ref_chosen, ref_rejected = (side[here] for side in inputs["reference"].chunk(2))
        smoothing = self.settings.label_smoothing
        loss = preference_loss(chosen, rejected, ref_chosen, ref_rejected, beta=self.settings.beta, label_smoothing=smoothing)
        right = ((chosen - ref_chosen) > (rejected - ref_rejected)).float()
        self._metrics["train" if self.model.training else "eval"]["rewards/accuracies"].extend(right.tolist())
        mean = (loss * weight[here]).sum() / len(weight)
        return (mean, found) if return_outputs else mean

    def answer_logprobs(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """The log-probability of each whole answer: (2 * pairs,), the chosen ones first; 0 for those of other passes."""
        with self.accelerator.autocast():
            if "passes" in inputs:
                return self._in_passes(model, inputs["passes"], inputs["reference"])
            own: dict[str, Tensor] = {name: inputs[name] for name in _MODEL_INPUTS if name in inputs}
            ask = label_logprobs if self.alone else fused_logprobs
            return sum_by_owner(ask(model, own, inputs["targets"]), inputs["owner"], len(inputs["reference"]))

    def _in_passes(self, model: Any, passes: Sequence[Pass], like: Tensor) -> Tensor:
        total = torch.zeros_like(like)
        for one in passes:
            logprobs, owner = pass_logprobs(model, one, like.device)
            total = total.index_add(0, owner, logprobs.to(total.dtype))
        return total

    def _ask_reference(self, kept: Path) -> None:
        """Give each pair the reference's log-probabilities, as an earlier beginning of this training left them where there was one."""
        groups = [group for group in (self.train_dataset, self.eval_dataset) if group is not None]
        if self.settings.reference_free:
            return
        if not kept.is_file():
            found = {str(number): self._reference_of(group) for number, group in enumerate(groups)}
            beside = kept.with_suffix(".part")
            save_file(found, beside)
            beside.replace(kept)
        found = load_file(kept)
        filled = [
            group.remove_columns("reference").add_column("reference", found[str(number)].tolist()) for number, group in enumerate(groups)
        ]
        self.train_dataset, self.eval_dataset = filled[0], filled[1] if len(filled) > 1 else None

    def _reference_of(self, group: Dataset) -> Tensor:
        """(pairs, 2): of the chosen and of the rejected answer."""
        size, model = self.args.per_device_eval_batch_size, self.model.to(self.args.device).eval()
        found: list[Tensor] = []
        with torch.no_grad(), self.compute_loss_context_manager():
            for start in range(0, len(group), size):
                rows = [group[place] for place in range(start, min(start + size, len(group)))]
                both = self.answer_logprobs(model, self._prepare_inputs(self.data_collator(rows)))
                found.append(torch.stack(both.chunk(2), dim=1).float().cpu())
        return torch.cat(found)

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        """The pairs are tokenised already."""
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *args: Any) -> Dataset:
        """The reference is asked when training begins."""
        return dataset


def _pairs_of(inputs: dict[str, Any]) -> list[int]:
    """The pairs of a batch's passes, which each pair is in as a whole; all of them without passes."""
    count = len(inputs["weight"])
    return sorted(number for one in inputs["passes"] for number in one.held if number < count) if "passes" in inputs else [*range(count)]


class _Collator:
    """A batch: weights and reference of its pairs, and passes, or what the model takes; beside these what `InPasses` counts."""

    def __init__(self, pad: int, shapes: Shapes) -> None:
        self.pad, self.shapes = pad, shapes

    def __call__(self, pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        rows = [(pair[f"{side}_ids"], pair[f"{side}_labels"]) for side in _SIDES for pair in pairs]
        reference = torch.tensor([pair["reference"] for pair in pairs], dtype=torch.float32)  # (pairs, 2)
        weight = torch.tensor([pair["weight"] for pair in pairs], dtype=torch.float32)
        common = {"weight": weight, "reference": reference.T.reshape(-1)}
        if self.shapes.sharing is not None:
            passes = self.shapes.sharing.passes(rows, [(number, len(pairs) + number) for number in range(len(pairs))])
            return {**common, "passes": passes, "counts": counts_of(rows, sum(one.tokens_computed for one in passes))}
        batch = Batch.of(rows, self.pad, packing=self.shapes.packing)
        own = {"input_ids": batch.input_ids, "targets": batch.labels, "owner": batch.owner, **batch.inputs}
        return {
            **common,
            **own,
            "counts": counts_of(rows, batch.input_ids.numel()),
        }  # no `labels`, by whose number the trainer would divide


def _data(pairs: Sequence[TokenPair]) -> Dataset:
    columns: dict[str, list[Any]] = {"weight": [pair.weight for pair in pairs], "reference": [[0.0, 0.0] for _ in pairs]}
    for side in _SIDES:
        rows = [getattr(pair, side) for pair in pairs]
        columns[f"{side}_ids"] = [list(row.ids) for row in rows]
        columns[f"{side}_labels"] = [labels_of(row.ids, row.mask) for row in rows]
    return Dataset.from_dict(columns)


def _plain(pair: TokenPair) -> list[Any]:
    return [pair.weight, *([*row.ids, -1, *map(int, row.mask)] for row in (pair.chosen, pair.rejected))]
