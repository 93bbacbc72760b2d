"""Several processes that train one policy: each its share of the samples, with gradients that add up to those of the whole batch.

The loss is a sum over tokens whose weights were worked out over the whole batch, so gradients are summed, never averaged, and it does
not matter how many samples or micro-batches a process has. Weights are replicated (what DDP does: whole weights everywhere, gradients
summed once for each optimiser step), or sharded (FSDP2, `fully_shard`: weights, gradients and the optimiser's state lie in parts).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn

Value = TypeVar("Value")
BUCKET = 16_000_000
"""Numbers of gradients that are summed over processes in one go."""


@dataclass(frozen=True)
class Ranks:
    """The processes: how many, which of them this is, and whether the weights are sharded over them. device: None lets the model decide."""

    world: int = 1
    rank: int = 0
    sharded: bool = False
    device: str | None = None

    @classmethod
    def of(cls, accelerator: Any) -> Ranks:
        """As accelerate was set up (`accelerate launch`, torchrun); None: this process alone. Ranks are returned as they are."""
        if accelerator is None or isinstance(accelerator, Ranks):
            return accelerator or cls()
        sharded = str(getattr(accelerator.distributed_type, "value", accelerator.distributed_type)) == "FSDP"
        return cls(accelerator.num_processes, accelerator.process_index, sharded, str(accelerator.device))

    @property
    def main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def share(self, value: Value) -> Value:
        """The first process's value, everywhere."""
        if self.world == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.world > 1:
            distributed.barrier()

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over processes, in place."""
        if self.world > 1:
            distributed.all_reduce(tensor)
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        """The maximum over processes, in place."""
        if self.world > 1:
            distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return tensor

    @property
    def loss_scale(self) -> float:
        """What a loss is multiplied with before its backward pass: sharded gradients are averaged on their way, and are to be summed."""
        return float(self.world) if self.sharded else 1.0

    def sum_gradients(self, weights: list[nn.Parameter]) -> None:
        """Add up the gradients of all processes where weights are replicated; a process that had nothing to do counts as zeros."""
        if self.world == 1 or self.sharded:
            return
        bucket: list[nn.Parameter] = []
        for number, weight in enumerate(weights):
            bucket.append(weight)
            if number + 1 == len(weights) or sum(own.numel() for own in bucket) >= BUCKET:
                _sum_bucket(bucket)
                bucket = []

    def shard(self, network: Any) -> None:
        """Shard a `PolicyNetwork` in place, layer by layer, where weights are to be sharded."""
        if not self.sharded:
            return
        from torch.distributed.fsdp import fully_shard

        for layer in network.language_model.base_model.layers:
            fully_shard(layer)
        fully_shard(network)

    def states(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(trainable weights by name, the optimiser's state), whole and on the CPU; all processes have to ask."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        learned = {name: whole(weight.detach()).cpu().clone() for name, weight in network.named_parameters() if weight.requires_grad}
        if not self.sharded:
            return learned, optimizer.state_dict()
        return learned, get_optimizer_state_dict(network, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))

    def load_states(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, learned: Mapping[str, Tensor], state: dict[str, Any]
    ) -> None:
        """Put both back."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

        with torch.no_grad():
            for name, weight in network.named_parameters():
                if weight.requires_grad:
                    weight.copy_(_like(learned[name], weight))
        if self.sharded:
            set_optimizer_state_dict(network, optimizer, state, options=StateDictOptions(full_state_dict=True))
        else:
            optimizer.load_state_dict(state)


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered; any other as it is."""
    return cast(Tensor, tensor.full_tensor()) if hasattr(tensor, "full_tensor") else tensor


def _like(value: Tensor, weight: Any) -> Tensor:
    if not hasattr(weight, "device_mesh"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return cast(Tensor, distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements))


def _sum_bucket(weights: list[nn.Parameter]) -> None:
    flat = torch.cat([torch.zeros_like(own).flatten() if own.grad is None else own.grad.flatten() for own in weights])
    distributed.all_reduce(flat)
    start = 0
    for own in weights:
        own.grad = flat[start : start + own.numel()].view_as(own).clone()
        start += own.numel()
