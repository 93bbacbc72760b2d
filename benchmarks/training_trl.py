"""TRL's side of `training.py`: one SFT run and one GRPO run, as a careful user of TRL would write them."""

from __future__ import annotations

import time
from typing import Any

from training_job import LEARNING_RATE, Job, Measured, reward
from training_rows import chat_rows


def lora(job: Job) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=job.r, lora_alpha=2 * job.r, target_modules="all-linear", task_type="CAUSAL_LM")


class Watch:
    """When each step ended, and what its loss was."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.losses: list[float] = []

    def callback(self) -> Any:
        from transformers import TrainerCallback

        watch = self

        class Timed(TrainerCallback):
            def on_train_begin(self, *_: Any, **__: Any) -> None:
                watch.times.append(time.perf_counter())

            def on_step_end(self, *_: Any, **__: Any) -> None:
                watch.times.append(time.perf_counter())

            def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **__: Any) -> None:
                if "loss" in logs:
                    watch.losses.append(float(logs["loss"]))

        return Timed()

    def measured(self, tokens: list[int]) -> Measured:
        seconds = [after - before for before, after in zip(self.times, self.times[1:], strict=False)]
        return Measured(seconds, self.losses, tokens)


def shared(job: Job) -> dict[str, Any]:
    """What both trainers are told: nothing saved, nothing reported, every step logged."""
    return {
        "output_dir": str(job.folder / "trl"),
        "max_steps": job.steps,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
        "bf16": job.dtype == "bfloat16",
        "use_cpu": True,
        "gradient_checkpointing": job.checkpointing,
    }


def load(job: Job) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_pretrained(job.base, dtype=torch.float32), AutoTokenizer.from_pretrained(job.base)


def sft(job: Job) -> Measured:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = load(job)
    args = SFTConfig(
        **shared(job),
        per_device_train_batch_size=job.micro or job.batch,
        gradient_accumulation_steps=job.batch // (job.micro or job.batch),
        max_length=1024,
        packing=False,
        shuffle_dataset=False,
        use_liger_kernel=job.liger,
    )
    watch = Watch()
    trainer = SFTTrainer(
        model,
        args=args,
        train_dataset=Dataset.from_list(chat_rows(job)),
        processing_class=tokenizer,
        peft_config=lora(job),
        callbacks=[watch.callback()],
    )
    order = list(trainer._get_train_sampler())
    lengths = [len(trainer.train_dataset[place]["input_ids"]) for place in order[: job.batch * job.steps]]
    trainer.train()
    return watch.measured([sum(lengths[start : start + job.batch]) for start in range(0, len(lengths), job.batch)])


def grpo(job: Job) -> Measured:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = load(job)
    args = GRPOConfig(
        **shared(job),
        per_device_train_batch_size=job.micro or job.generations,
        gradient_accumulation_steps=job.generations // (job.micro or job.generations),
        num_generations=job.generations,
        max_completion_length=job.completion,
        temperature=1.0,
        beta=0.0,
        loss_type="dapo",
    )
    watch, sizes = Watch(), []

    def rewards(completion_ids: list[list[int]], **_: Any) -> list[float]:
        sizes.append(sum(map(len, completion_ids)))
        return [reward(ids) for ids in completion_ids]

    trainer = GRPOTrainer(
        model,
        reward_funcs=rewards,
        args=args,
        train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in chat_rows(job)]),
        processing_class=tokenizer,
        peft_config=lora(job),
        callbacks=[watch.callback()],
    )
    trainer.train()
    return watch.measured(sizes)
