"""AdamW in the forms that save memory: with its state in 8 bits, or in main memory.

AdamW: Loshchilov and Hutter 2017, arXiv:1711.05101. State in 8 bits, block by block: Dettmers et al. 2021, arXiv:2110.02861, by the package
bitsandbytes. In main memory: as in ZeRO-Offload (Ren et al. 2021, arXiv:2101.06840), without its overlap of steps, so that what is learned
stays the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import AdamW, adamw

from tutelage.training.extra import needs_train
from tutelage.training.settings import TrainSettings


class OffloadedAdamW(AdamW):
    """AdamW whose state lies in main memory, where its steps are made, a tensor at a time: numbers as torch's fused AdamW on a CPU.

    Gradients cross to main memory and weights back; on the GPU a step needs nothing beside them.
    """

    def __init__(self, params: Any, lr: float = 1e-3, **options: Any) -> None:
        super().__init__(params, lr=lr, **{**options, "fused": None, "foreach": False})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step. closure: as torch's optimisers take it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step_one(weight, group)
        return loss

    def _step_one(self, weight: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(weight, dtype=torch.float32, device="cpu") for _ in range(2))
        here = weight.detach().to("cpu", torch.float32)
        beta1, beta2 = group["betas"]
        adamw(
            [here],
            [weight.grad.to("cpu", torch.float32)],  # type: ignore[union-attr]  # the caller looked
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=float(group["lr"]),
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        weight.copy_(here)

    def load_state_dict(self, state_dict: Any) -> None:
        """As torch's, which would put the state beside the weights."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for name, value in state.items():
                state[name] = value.to("cpu", torch.float32) if isinstance(value, Tensor) else value


def new_optimizer(groups: Iterable[dict[str, Any]], settings: TrainSettings, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW as the settings want it, over groups of weights of the model."""
    if settings.offload_optimizer:
        return OffloadedAdamW(groups, lr=settings.learning_rate)
    if settings.optim == "adamw_torch":
        return AdamW(groups, lr=settings.learning_rate)
    return _in_8_bits(groups, settings, model)


def _in_8_bits(groups: Iterable[dict[str, Any]], settings: TrainSettings, model: nn.Module) -> torch.optim.Optimizer:
    """By bitsandbytes, with the state of embeddings in 32 bits, as transformers' trainer has it."""
    with needs_train(f"`optim: {settings.optim}`"):
        import bitsandbytes  # type: ignore[import-not-found,unused-ignore]  # optional
    made = bitsandbytes.optim.AdamW(
        groups, lr=settings.learning_rate, optim_bits=8, is_paged=settings.optim.startswith("paged"), weight_decay=0.0
    )
    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})
    optimizer: torch.optim.Optimizer = made
    return optimizer
