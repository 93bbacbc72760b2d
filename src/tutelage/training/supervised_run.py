"""One training on TRL, from the base to the learned weights: the model, the settings in TRL's names, what is done when it goes wrong."""

from __future__ import annotations

import gc
import random
import resource
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import datasets
import numpy as np
import peft
import torch
import transformers
from pydantic import JsonValue

from tutelage.adapter import Adapter
from tutelage.errors import InputError
from tutelage.records import content_id
from tutelage.training.adapters import check_fits, load_adapter
from tutelage.training.allocator import returning_memory
from tutelage.training.base import Formats, load_to_train, load_tokenizer, name_of, parameters_of, place_of, training_formats
from tutelage.training.batches import packs
from tutelage.training.divergence import Diverged
from tutelage.training.keeper import STATE, Keeper, history_rows, losses, newest_checkpoint, put_back, trainable
from tutelage.training.levers import check_levers
from tutelage.training.machine import this_machine
from tutelage.training.optimizers import OffloadedAdamW
from tutelage.training.output_layer import known_output
from tutelage.training.settings import Lora
from tutelage.training.sharing import Sharing
from tutelage.training.supervised_job import PLACE_ONLY, Interrupted, Job, SupervisedSettings, Trained
from tutelage.training.trees import language_model_of
from tutelage.training.vision_settings import vision_parts

MIB = 1 << 20
_AUTOCAST = {"bf16": "bfloat16", "fp16": "float16"}
"""What transformers' arguments call it -> what is computed in."""
Facts = Mapping[str, JsonValue]
MakeTrainer = Callable[[Any, dict[str, Any]], Any]
"""(model, arguments of the config) -> a TRL trainer with `Checkpoints` mixed in."""


def run(job: Job, settings: SupervisedSettings, make: MakeTrainer, data: Any, facts: Facts, *, longest: int, validates: bool) -> Trained:
    """Train; raises what `train_sft` says.

    data: all that is learned from, whose hash names the folder of checkpoints. longest: of the rows, in tokens.
    """
    begun = perf_counter()
    check_levers(settings, this_machine())
    place = job.folder / "checkpoints" / _fingerprint(job, settings, data)
    place.mkdir(parents=True, exist_ok=True)
    keeper = Keeper(job, settings, validates=validates)
    with _quiet(), _own_randomness(job.seed), _enough_memory(settings), returning_memory(settings.return_memory):
        formats = formats_of(job, settings)
        model = prepare_model(job, settings)
        _check_context(model, longest)
        trainer = make(model, arguments(settings, place, job.seed, formats.computed))
        trainer.place, trainer.keeper = place, keeper
        if settings.offload_optimizer:
            trainer.optimizer_cls_and_kwargs = OffloadedAdamW, {"lr": settings.learning_rate}
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.add_callback(keeper)
        try:
            stopped = _train(trainer, place, keeper)
        finally:
            keeper.close()
        step = _settle(trainer, keeper, stopped, validates=validates)
    if job.stop.is_set():
        raise Interrupted
    told = {
        **facts,
        **_told(trainer, step, stopped),
        "dtype": name_of(formats.computed),
        "seconds": round(perf_counter() - begun, 1),
        "peak_memory_mb": peak_memory_mb(),
    }
    if keeper.resumed_at:
        told["resumed_at_step"] = keeper.resumed_at
    trained = Trained(trainer.model.eval(), job.tokenizer, told, place)
    del trainer
    gc.collect()  # the optimiser's state is as large as the weights, and trainers hold themselves in circles
    return trained


def _train(trainer: Any, place: Path, keeper: Keeper) -> str | None:
    """Train, from the last checkpoint where there is one. Why it stopped early; None where it did not."""
    checkpoint = newest_checkpoint(place)
    if checkpoint is not None and _was_finished(trainer, keeper, checkpoint):
        return None
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except Diverged:
        return "diverged"
    return "no better by the validation rows" if trainer.state.global_step < trainer.state.max_steps else None


def _was_finished(trainer: Any, keeper: Keeper, checkpoint: Path) -> bool:
    """Take over a training that was interrupted after its last step: begun again from there, transformers would make one step more."""
    state = transformers.TrainerState.load_from_json(str(checkpoint / STATE))
    if state.global_step < state.max_steps:
        return False
    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state, keeper.resumed_at = state, state.global_step
    return True


def _settle(trainer: Any, keeper: Keeper, stopped: str | None, *, validates: bool) -> int:
    """Put the weights worth keeping on the model; after which step they were so. Raises `InputError` where nothing good is left."""
    last, kept = trainer.state.global_step, keeper.kept
    if stopped != "diverged" and not (validates and kept is not None):
        return int(last)
    if kept is None:
        raise InputError(
            f"training diverged at step {last + (not losses(trainer.state.log_history))} before anything was worth keeping "
            f"(loss {_rounded(losses(trainer.state.log_history))}); lower learning_rate, or raise warmup_ratio",
            field="learning_rate",
        )
    if kept.step != last or stopped == "diverged":
        put_back(trainer.model, kept.tensors)
    return kept.step


def _told(trainer: Any, step: int, stopped: str | None) -> dict[str, JsonValue]:
    history = trainer.state.log_history
    found, looked = losses(history), losses(history, "eval_loss")
    told: dict[str, JsonValue] = {
        "steps": int(trainer.state.global_step),
        "steps_planned": int(trainer.state.max_steps),
        "epochs": round(float(trainer.state.epoch or 0), 3),
        "kept_from_step": step,
        "loss_first": _number(found[0]) if found else None,
        "loss_last": _number(found[-1]) if found else None,
        "loss_best": min((_number(loss) or 0.0 for loss in found if _number(loss) is not None), default=None),
        "trainable_parameters": sum(parameter.numel() for parameter in trainable(trainer.model).values()),
        "stopped": stopped,
        **_speed(history_rows(history)),
    }
    right = [entry["rewards/accuracies"] for entry in history if "rewards/accuracies" in entry]
    if right:
        told["reward_accuracy_last"] = round(right[-1], 4)
    if looked:
        told |= {"validation_loss": [_number(loss) for loss in looked], "validation_loss_best": _number(min(looked))}
    return told


def _speed(rows: list[dict[str, JsonValue]]) -> dict[str, JsonValue]:
    """Over all steps; the tokens are those of the rows, of which a share was computed."""
    steps: list[dict[str, Any]] = [row for row in rows if "loss" in row]
    tokens, computed, seconds = (sum(row.get(name, 0) for row in steps) for name in ("tokens", "tokens_computed", "seconds"))
    if not tokens or not seconds:
        return {}
    return {"tokens_per_second": round(tokens / seconds, 1), "tokens_computed_share": round(computed / tokens, 4)}


def _number(value: float) -> float | None:
    """A finite number as the report takes it; JSON has no other."""
    return round(value, 6) if np.isfinite(value) else None


def _rounded(found: list[float]) -> str:
    return ", ".join(f"{loss:.3g}" for loss in found[-3:]) or "none"


def _check_context(model: Any, longest: int) -> None:
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if room is not None and longest > room:
        raise InputError(
            f"the longest row has {longest} tokens, and the model reads {room} at once; leave such rows out, or set max_length to {room} "
            "and truncate to true",
            field="max_length",
        )


def prepare_model(job: Job, settings: SupervisedSettings) -> Any:
    """The model to train: with new LoRA weights, with those learned earlier, or itself. Raises `InputError` where these do not go well."""
    formats = formats_of(job, settings)
    model: Any = load_to_train(job.base, settings, formats)
    if job.adapter is not None:
        model = _with_earlier(model, job, job.adapter, settings)
    if len(job.tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(job.tokenizer), mean_resizing=False)
    if settings.lora is None:
        return model.requires_grad_(True)
    learning = model if job.adapter is not None else _with_lora(model, settings.lora, _new_tokens(job), vision_parts(model, settings))
    formats.settle(learning)
    return learning


def _with_earlier(model: Any, job: Job, earlier: Adapter, settings: SupervisedSettings) -> Any:
    """The model with what was learned before; LoRA weights become part of it where all weights are trained from now on."""
    check_fits(earlier, job.base)
    if earlier.kind == "full" and settings.lora is not None:
        raise InputError("the agent's weights were trained as a whole; set lora to null to train them on", field="lora")
    model = load_adapter(model, earlier, trainable=settings.lora is not None)
    return model.merge_and_unload() if settings.lora is None and earlier.kind == "lora" else model


def _new_tokens(job: Job) -> list[int]:
    """Ids of the tokens that the base's own tokenizer does not know."""
    known = load_tokenizer(job.base).get_vocab()
    return sorted(number for token, number in job.tokenizer.get_vocab().items() if token not in known)


def _with_lora(model: Any, lora: Lora, new_tokens: list[int], left_out: str | None = None) -> Any:
    """left_out: a pattern of the names of modules that are not adapted."""
    modules = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    if "lm_head" in modules:
        raise InputError("the output layer cannot be adapted; leave lm_head out", field="lora.target_modules")
    config = peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,  # type: ignore[arg-type]  # any number does
        lora_dropout=lora.lora_dropout,
        target_modules=modules,
        exclude_modules=left_out,
        trainable_token_indices=dict.fromkeys(_vocabulary_layers(model), new_tokens) if new_tokens else None,
        task_type="CAUSAL_LM",
    )
    try:
        return peft.get_peft_model(model, config)
    except ValueError as wrong:
        names = sorted({name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)})
        raise InputError(f"{str(wrong).splitlines()[0]} Linear layers here: {', '.join(names)}", field="lora.target_modules") from None


def _vocabulary_layers(model: Any) -> list[str]:
    """The names of the layers that have a row for each token: the embeddings, and the output layer where it is not the same."""
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    layers = [model.get_input_embeddings(), *([] if tied else [model.get_output_embeddings()])]
    return [name.rpartition(".")[2] for name, part in model.named_modules() if any(part is layer for layer in layers)]


def formats_of(job: Job, settings: SupervisedSettings) -> Formats:
    """What to train in. Raises `InputError` for float16 on a CPU."""
    place = place_of()
    if settings.dtype == "float16" and place.type == "cpu":
        raise InputError("float16 cannot be trained on a CPU; use auto or float32", field="dtype")
    lora, parameters = settings.lora is not None, parameters_of(job.base)
    return training_formats(settings.dtype, place, parameters, lora=lora, four_bit=settings.load_in_4bit)


def arguments(settings: SupervisedSettings, place: Path, seed: int, computed: torch.dtype = torch.float32) -> dict[str, Any]:
    """The settings as TRL's configs take them. Saving and looking at validation rows is the `Keeper`'s. computed: what is computed in."""
    cuda = torch.cuda.is_available()
    same = (
        "learning_rate lr_scheduler_type weight_decay max_grad_norm per_device_train_batch_size gradient_accumulation_steps "
        "gradient_checkpointing num_train_epochs"
    )
    return {
        **{name: getattr(settings, name) for name in same.split()},
        **({} if settings.optim == "adamw_torch" else {"optim": settings.optim}),  # its own default is AdamW, fused where torch can
        "output_dir": str(place),
        "per_device_eval_batch_size": settings.per_device_train_batch_size,
        "warmup_steps": settings.warmup_ratio,  # below 1 it is a share of the steps
        "max_steps": settings.max_steps or -1,
        "max_length": None,
        "seed": seed,
        "data_seed": seed,
        "bf16": computed == torch.bfloat16,
        "fp16": computed == torch.float16,
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "remove_unused_columns": False,
        "prediction_loss_only": True,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would hide what the keeper looks for
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
    }


def pad_of(tokenizer: Any) -> int:
    """The id to pad with."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


@dataclass(frozen=True)
class Shapes:
    """How the rows of a batch go through a model.

    sharing: as trees; None: padded, or with packing in lines that they share. alone: the loss is worked out from the learned positions
    alone, and not by TRL.
    """

    packing: bool
    alone: bool
    sharing: Sharing | None = None


def shapes_of(model: Any, settings: SupervisedSettings, arguments: Mapping[str, Any]) -> Shapes:
    """How batches go through this model, trained with these arguments.

    In several processes, and on several GPUs, all is TRL's own: there gradients are joined where the model itself is called. So it is where
    a mixture of experts adds the loss of its router.
    """
    inner: Any = language_model_of(model)
    autocast = next((getattr(torch, name) for kind, name in _AUTOCAST.items() if arguments.get(kind)), None)
    several = torch.cuda.device_count() > 1 or (torch.distributed.is_available() and torch.distributed.is_initialized())
    routed = getattr(inner.config.get_text_config(), "output_router_logits", False)
    with nullcontext() if autocast is None else torch.autocast(inner.device.type, autocast):
        alone = not several and not routed and known_output(inner)
    sharing = Sharing.of(model, settings.max_tokens_per_micro_batch, autocast) if settings.share_prefixes and alone else None
    return Shapes(settings.packing and packs(inner.config), alone, sharing)


def peak_memory_mb() -> int:
    """The most memory that this process has had, on the GPU where there is one."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated() // MIB)
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // MIB)


def _fingerprint(job: Job, settings: SupervisedSettings, data: Any) -> str:
    base, adapter = job.base, job.adapter
    own = settings.model_dump(mode="json", exclude=set(PLACE_ONLY))
    names = [base.base_id, base.tokenizer_id, base.template_id, adapter and adapter.id, len(job.tokenizer)]
    return content_id([type(settings).__name__, own, data, names, job.seed])


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seed all generators, and leave them afterwards as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    transformers.set_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' notes and bars off the screen."""
    verbosity, bars = transformers.logging.get_verbosity(), datasets.is_progress_bar_enabled()
    loading = transformers.logging.is_progress_bar_enabled()
    log: Any = transformers.logging
    log.set_verbosity_error()
    log.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if loading:
            log.enable_progress_bar()
        if bars:
            datasets.enable_progress_bars()


@contextmanager
def _enough_memory(settings: SupervisedSettings) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as failed:
        said = str(failed).lower()
        if not isinstance(failed, torch.OutOfMemoryError | MemoryError) and "allocate memory" not in said and "out of memory" not in said:
            raise
        raise InputError(
            f"there is not enough memory to train so: lower max_tokens_per_micro_batch, and without share_prefixes "
            f"per_device_train_batch_size (now {settings.per_device_train_batch_size}; raise gradient_accumulation_steps by as much, and "
            f"the result stays the same), lower max_length (now {settings.max_length}), "
            "set gradient_checkpointing to true" + ("" if settings.lora else ", or train with lora"),
            field="per_device_train_batch_size",
        ) from None
