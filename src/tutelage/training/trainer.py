"""Updating a model's weights by the policy gradient, one batch of graded samples at a time.

What `TrainSettings` says of batches (`per_device_train_batch_size`, `gradient_accumulation_steps`, `max_length`) has no part in it: a
batch is what `update` is given, and goes through the model in micro-batches counted in tokens, whose number changes no result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from pydantic import JsonValue

from tutelage.adapter import Adapter
from tutelage.errors import InputError
from tutelage.records import content_id
from tutelage.training.adapters import save_adapter
from tutelage.training.allocator import return_memory
from tutelage.training.base import Base, load_tokenizer
from tutelage.training.checkpoint import read_checkpoint, write_checkpoint
from tutelage.training.divergence import REMEMBERED, Diverged, leapt
from tutelage.training.levers import check_levers
from tutelage.training.logprobs import TokenScores
from tutelage.training.machine import this_machine
from tutelage.training.optimizers import new_optimizer
from tutelage.training.packing import MicroBatch, as_micro_batch, empty_micro_batch, gather_rows, pack_rows
from tutelage.training.policy_batch import Batch
from tutelage.training.policy_gradient import Floats, PolicyGradient, Sample, described
from tutelage.training.policy_loss import Targets, policy_losses
from tutelage.training.policy_network import PolicyNetwork, build_model, formats_of
from tutelage.training.ranks import Ranks, whole
from tutelage.training.settings import SPEED_ONLY, TrainSettings
from tutelage.training.steps import Tally, is_out_of_memory, peak_memory, schedule, seeded

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

Result = TypeVar("Result")

SMALLEST = 16
"""Micro-batches are not made smaller than so many tokens: by then each holds one sample."""


class PolicyTrainer:
    """A policy that learns from samples. Everything that decides the result enters it here; equal samples then give equal weights.

    base: what to train, or a loaded model (changed in place; its adapter cannot be saved, for want of a `Base`). folder: for checkpoints,
    of this trainer alone. adapter: learned weights to go on from. total_updates: how many calls of `update` are planned, for the
    learning rate's schedule (None: it stays constant). accelerator: where several processes train together; each calls every method
    alike, and the samples of the first count.

    Raises `InputError` where adapter, settings and base do not fit each other.
    """

    def __init__(
        self,
        base: Base | PreTrainedModel,
        settings: TrainSettings,
        policy: PolicyGradient,
        folder: Path,
        *,
        adapter: Adapter | None = None,
        seed: int = 0,
        total_updates: int | None = None,
        accelerator: Accelerator | Ranks | None = None,
    ) -> None:
        self.base, self.settings, self.policy, self.folder = base, settings, policy, folder
        self.seed, self.total_updates, self.ranks = seed, total_updates, Ranks.of(accelerator)
        shares = policy.share_prefixes and "share_prefixes" in policy.model_fields_set
        check_levers(settings, this_machine(), shares=shares, sharded=self.ranks.sharded)
        return_memory(settings.return_memory)
        self.fingerprint = self._fingerprint(adapter)
        self.formats = formats_of(base, settings, self.ranks.device)
        self.updates, self.steps = 0, 0
        self._losses: list[float] = []
        self._reference = self._frozen_base()
        with self._random("start"):
            self.network = self._build(adapter)
        self.network.check_head()
        self.shares_prefixes = policy.share_prefixes and self.network.shares_soundly()
        self._max_tokens = policy.max_tokens_per_micro_batch or (16_384 if self.network.device.type == "cuda" else 1024)
        self._work = self.network.work()
        self.ranks.shard(self.network)
        self._optimizer = self._new_optimizer()

    def _fingerprint(self, adapter: Adapter | None) -> dict[str, JsonValue]:
        """All that decides what is learned, for checkpoints."""
        base = self.base.base_id if isinstance(self.base, Base) else content_id(self.base.config.to_dict() | {"transformers_version": None})
        own: dict[str, JsonValue] = {
            "base": base,
            "adapter": None if adapter is None else adapter.id,
            "seed": self.seed,
            "total_updates": self.total_updates,
        }
        return {**own, "settings": self.settings.model_dump(mode="json", exclude=set(SPEED_ONLY)), "policy": described(self.policy)}

    def _frozen_base(self) -> PolicyNetwork | None:
        """The base beside the policy, where the divergence from it is wanted and all weights are trained."""
        if self.settings.lora is not None or not self.policy.beta:
            return None
        if self.ranks.sharded:
            raise InputError("beta > 0 keeps a second model, which is not sharded; train with LoRA, or set beta: 0", field="beta")
        model = build_model(self.base if isinstance(self.base, Base) else deepcopy(self.base), self.settings, None, self.ranks.device)
        return self._wrap(model.requires_grad_(False).eval())

    def _build(self, adapter: Adapter | None) -> PolicyNetwork:
        model = build_model(self.base, self.settings, adapter, self.ranks.device)
        if self.settings.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return self._wrap(model, value_head=self.policy.algorithm == "ppo").eval()

    def _wrap(self, model: Any, value_head: bool = False) -> PolicyNetwork:
        return PolicyNetwork(
            model,
            temperature=self.policy.temperature,
            value_head=value_head,
            detach_value=self.policy.detach_value,
            autocast=self.formats.autocast,
        )

    def _new_optimizer(self) -> torch.optim.Optimizer:
        """AdamW, as the settings want it; weight decay on matrices only; the value head in a group of its own."""
        head = [] if self.network.value_head is None else [*self.network.value_head.parameters()]
        own = {id(weight) for weight in head}
        learned = [weight for weight in self.network.parameters() if weight.requires_grad and id(weight) not in own]
        rate, decay = self.settings.learning_rate, self.settings.weight_decay
        groups = [
            {"params": [weight for weight in learned if weight.ndim > 1], "rate": rate, "weight_decay": decay},
            {"params": [weight for weight in learned if weight.ndim <= 1], "rate": rate, "weight_decay": 0.0},
            {"params": head, "rate": self.policy.value_learning_rate or rate, "weight_decay": 0.0},
        ]
        return new_optimizer([group for group in groups if group["params"]], self.settings, self.network)

    def update(self, samples: Sequence[Sample], *, foreign: bool = False) -> dict[str, float]:
        """One update of the weights (`num_iterations` optimiser steps) and what there is to report of it.

        foreign: another engine than these weights in torch drew the samples (gguf, a server), or these in another number format; with
        `auto` the importance correction is then on. Where no sample has anything to teach (GRPO: all groups of one reward) the weights stay
        as they are and `steps` is 0.

        Reported: loss, reward, reward_std, advantage_mean and _std, ratio, ratio_max, clip_fraction, entropy, grad_norm, learning_rate;
        kl with beta; importance with a correction; value_loss and explained_variance with PPO; episodes, tokens (action tokens),
        tokens_computed (what went through the model, padding included), micro_batches, seconds, peak_memory_bytes (of the process, or
        of the GPU). Means are over the action tokens of samples with an advantage; of several steps, the last one's.

        Raises `InputError` for samples that cannot be learned from or do not fit into memory, `Diverged`.
        """
        begun = perf_counter()
        batch = Batch.of(self.ranks.share(tuple(samples)), self.network.max_length)
        facts = {"tokens": float(batch.n_tokens), "steps": 0.0}
        measured = self._measure(batch)
        targets, aims = batch.targets(self.policy, measured, foreign=foreign)
        active = self._active(batch, targets)
        if active:
            targets = targets.to(self.network.device)
            for _ in range(self.policy.num_iterations):
                facts |= self._step(batch, targets, active)
            facts["steps"] = float(self.policy.num_iterations)
        self.updates += 1
        return {**aims, **facts, "seconds": perf_counter() - begun, "peak_memory_bytes": float(peak_memory(self.network.device))}

    def _measure(self, batch: Batch) -> dict[str, Floats]:
        """What has to be known of every action token (T,) before the update: by PPO its value and logprob, with beta the base's logprob."""
        wanted = ["old", "values"] if self.policy.algorithm == "ppo" else []
        wanted += ["reference"] if self.policy.beta else []
        if not wanted:
            return {}
        found = {name: torch.zeros(batch.n_tokens, dtype=torch.float64, device=self.network.device) for name in wanted}

        def measure() -> None:
            self.network.eval()
            for micro in self._micro_batches(batch, range(len(batch.samples))):
                self._measure_one(micro, found)

        with torch.no_grad():
            self._within_memory(measure)
        return {name: self.ranks.sum(values).cpu().numpy() for name, values in found.items()}

    def _measure_one(self, micro: MicroBatch, found: dict[str, torch.Tensor]) -> None:
        if "values" in found:
            scores = self.network(micro)
            found["old"][micro.token] = scores.logprobs.double()
            found["values"][micro.token] = scores.values.double()
        if "reference" in found:
            found["reference"][micro.token] = self._reference_scores(micro).logprobs.double()

    def _reference_scores(self, micro: MicroBatch) -> TokenScores:
        if self._reference is not None:
            return self._reference(micro)  # type: ignore[no-any-return]
        with self.network.without_adapter():
            return self.network(micro)  # type: ignore[no-any-return]

    def _active(self, batch: Batch, targets: Targets) -> list[int]:
        """The samples that have anything to teach: those whose loss has a gradient."""
        if self.policy.algorithm == "ppo" or self.policy.kl_in_loss:
            return np.flatnonzero(batch.counts).tolist()
        return sorted(set(targets.sample[targets.advantages != 0].tolist()))

    def _micro_batches(self, batch: Batch, chosen: Sequence[int]) -> list[MicroBatch]:
        """This process's share of the samples; with sharded weights as many micro-batches as every other process has."""
        rows = pack_rows(
            batch.samples, self._share(batch, chosen), work=self._work, max_tokens=self._max_tokens, share=self.shares_prefixes
        )
        groups = gather_rows(rows, self._max_tokens)
        micros = [as_micro_batch(group, batch.samples, batch.first_token).to(self.network.device) for group in groups]
        if not self.ranks.sharded:
            return micros
        count = int(self.ranks.max(torch.tensor(len(micros), device=self.network.device)))
        return micros + [empty_micro_batch().to(self.network.device)] * (count - len(micros))

    def _share(self, batch: Batch, chosen: Sequence[int]) -> list[int]:
        """Neighbours by their tokens stay together, so that they can be packed; every process gets about as many tokens."""
        ordered = sorted((number for number in chosen if batch.counts[number]), key=lambda number: (batch.samples[number].ids, number))
        ends = np.cumsum([len(batch.samples[number].ids) for number in ordered], dtype=float)
        middles = ends - np.diff(ends, prepend=0.0) / 2
        parts = np.floor(middles / ends[-1] * self.ranks.world) if len(ends) else ends
        return [number for number, part in zip(ordered, parts, strict=True) if part == self.ranks.rank]

    def _step(self, batch: Batch, targets: Targets, active: Sequence[int]) -> dict[str, float]:
        """One optimiser step; `targets.old` and `targets.importance` are filled in by the first."""
        with self._random(self.steps):
            facts = self._within_memory(lambda: self._accumulate(batch, targets, active))
        weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        self.ranks.sum_gradients(weights)
        facts["grad_norm"] = float(whole(torch.nn.utils.clip_grad_norm_(weights, self.settings.max_grad_norm)))
        self._refuse_divergence(facts)
        scale = schedule(self.settings, self.steps, self.total_updates and self.total_updates * self.policy.num_iterations)
        for group in self._optimizer.param_groups:
            group["lr"] = group["rate"] * scale
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return {**facts, "learning_rate": self.settings.learning_rate * scale}

    def _accumulate(self, batch: Batch, targets: Targets, active: Sequence[int]) -> dict[str, float]:
        """Gradients of the whole batch, summed over micro-batches, and means over its tokens."""
        self._optimizer.zero_grad(set_to_none=True)
        self.network.train()
        tally = Tally(self.network.device)
        old, importance = torch.zeros_like(targets.advantages), torch.ones_like(targets.advantages)
        for micro in self._micro_batches(batch, active):
            scores = self.network(micro)
            losses = policy_losses(scores, targets.at(micro.token), self.policy)
            (losses.loss * self.ranks.loss_scale).backward()  # type: ignore[no-untyped-call]
            tally.add(losses, micro)
            old[micro.token] = scores.logprobs.detach()
            if losses.importance is not None:
                importance[micro.token] = losses.importance
        self.network.eval()
        targets.old = old if targets.old is None else targets.old
        targets.importance = importance if targets.sampled is not None and targets.importance is None else targets.importance
        return tally.means(self.ranks)

    def _within_memory(self, run: Callable[[], Result]) -> Result:
        """Run; where memory does not suffice, halve the micro-batches and run again."""
        while True:
            try:
                return run()
            except (RuntimeError, MemoryError) as failed:
                if not is_out_of_memory(failed) or self.ranks.sharded:
                    raise
                if self._max_tokens <= SMALLEST:
                    raise InputError(
                        "there is not enough memory even for one sample at a time: set gradient_checkpointing: true, "
                        "shorten the episodes, or train a smaller model"
                    ) from None
            self._optimizer.zero_grad(set_to_none=True)
            self._max_tokens //= 2
            if self.network.device.type == "cuda":
                torch.cuda.empty_cache()

    def _refuse_divergence(self, facts: Mapping[str, float]) -> None:
        loss, norm = facts["loss"], facts["grad_norm"]
        if math.isfinite(norm) and not leapt(loss, self._losses):
            self._losses = [*self._losses, loss][-REMEMBERED:]
            return
        self._optimizer.zero_grad(set_to_none=True)
        raise Diverged(
            f"training diverged at step {self.steps + 1}: loss {loss:g}, gradient norm {norm:g}. The step was not applied; "
            "lower learning_rate, or look at the rewards"
        )

    def _random(self, *what: JsonValue) -> AbstractContextManager[None]:
        """Random numbers that depend on the seed and the place only, so that there is no state of theirs to be kept."""
        return seeded(int(content_id([self.seed, self.ranks.rank if what != ("start",) else 0, *what])[:8], 16))

    def save_adapter(self, out: Path, facts: Mapping[str, JsonValue]) -> Adapter:
        """What was learned so far, at OUT/ID (see `adapters.save_adapter`). All processes have to ask; the first one writes.

        PPO's value head is no part of it: it is kept in checkpoints only, and begins anew where another trainer goes on from the adapter.
        """
        base = self.base
        if not isinstance(base, Base):
            raise InputError("the trainer was given a loaded model instead of a Base, so an adapter would not know what it belongs to")
        model = self.network.model
        if self.ranks.sharded:
            learned, _ = self.ranks.states(self.network, self._optimizer)
            model = self._unsharded(learned) if self.ranks.main else None
        saved = None
        if self.ranks.main:
            tokenizer = load_tokenizer(base) if self.settings.lora is None else None
            saved = save_adapter(model, base, out, facts=facts, tokenizer=tokenizer)
        found = self.ranks.share(saved)
        assert found is not None  # noqa: S101 (the first process has it)
        return found

    def _unsharded(self, learned: Mapping[str, torch.Tensor]) -> Any:
        network = self._wrap(build_model(self.base, self.settings, None, "cpu"))
        network.load_state_dict(dict(learned), strict=False)
        return network.model

    def checkpoint(self, state: Mapping[str, JsonValue]) -> None:
        """Keep everything to go on from, and `state` for the caller; the one before is removed when this one is complete."""
        learned, optimizer = self.ranks.states(self.network, self._optimizer)
        if self.ranks.main:
            facts: dict[str, JsonValue] = {
                "fingerprint": self.fingerprint,
                "updates": self.updates,
                "steps": self.steps,
                "max_tokens": self._max_tokens,
                "losses": [*self._losses],
                "state": dict(state),
            }
            write_checkpoint(self.folder, self.updates, {"learned": learned, "optimizer": optimizer}, facts)
        self.ranks.wait()

    def restore(self) -> dict[str, JsonValue] | None:
        """Go on from the newest checkpoint: the caller's state, or None where there is none. Raises `InputError` for one of other settings.

        Checkpoints stand between updates: an update that was interrupted is begun anew.
        """
        found = read_checkpoint(self.folder)
        if found is None:
            return None
        tensors, facts = found
        self._refuse_other(facts["fingerprint"])
        self.ranks.load_states(self.network, self._optimizer, tensors["learned"], tensors["optimizer"])
        self.updates, self.steps, self._max_tokens = int(facts["updates"]), int(facts["steps"]), int(facts["max_tokens"])  # type: ignore[arg-type]
        self._losses = list(facts["losses"])  # type: ignore[arg-type]
        return facts["state"]  # type: ignore[return-value]

    def _refuse_other(self, theirs: Any) -> None:
        for name, own in self.fingerprint.items():
            if theirs.get(name) != own:
                raise InputError(
                    f"the checkpoint was made with {name} {theirs.get(name)!r}, and now it is {own!r}; "
                    "train with what it was made with, or remove this folder to start anew",
                    file=self.folder,
                    field=name,
                )
