"""A base model in memory, wearing one adapter at a time, that samples replies for whoever asks.

LoRA weights are put beside the base's own and switched; a whole model, or an adapter that brings tokens of its own, is loaded as a second
model. The adapters used last stay loaded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tutelage.adapter import Adapter
from tutelage.errors import InputError, ModelFailed
from tutelage.records import Message, Sampling, ToolSpec
from tutelage.training.adapters import load_adapter, tokenizer_folder
from tutelage.training.base import Base, DType, load_causal_lm, load_tokenizer, reads_images
from tutelage.training.chat import prompt_ids
from tutelage.training.generation import Done, Generated, Generator, Ids, Request
from tutelage.training.objectives import reading_order
from tutelage.training.vision import Eyes, load_eyes
from tutelage.training.vision_chat import vision_prompt
from tutelage.training.vision_generation import VisionGenerator

LORA_KEPT, MODELS_KEPT = 4, 1
"""So many LoRA adapters, and so many adapters with a model of their own, stay loaded beside the base."""
_NO_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")


@dataclass(frozen=True)
class _Voice:
    """What speaks: the base, or the base with an adapter. lora: the adapter's name within peft; None where no LoRA is to be on.

    eyes: the processor of a model that reads images.
    """

    generator: Generator
    tokenizer: PreTrainedTokenizerBase
    eyes: Eyes | None = None
    lora: str | None = None
    own_model: bool = False


class Engine:
    """Not for several threads at once. context: the most tokens of prompt and reply; None: what the base was trained with.

    Raises `InputError` for a base that cannot be loaded, also later, for an adapter's.
    """

    def __init__(
        self, base: Base, *, dtype: DType = "auto", device: str | None = None, threads: int | None = None, context: int | None = None
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._base, self._dtype, self._device, self._context = base, dtype, device, context
        self._model = load_causal_lm(base, dtype, device)
        self._peft: Any = None
        self._own = self._voice(self._model, load_tokenizer(base))
        self._worn: OrderedDict[str, _Voice] = OrderedDict()

    def request(self, messages: Sequence[Message], tools: Sequence[ToolSpec], sampling: Sampling, adapter: Adapter | None) -> Request:
        """A conversation up to where the assistant speaks. Raises `InputError` where the template drops something, or for an image."""
        voice = self._wear(adapter)
        if voice.eyes is None:
            return Request(prompt_ids(voice.tokenizer, messages, tools), sampling)
        prompt = vision_prompt(voice.eyes, messages, tools)
        return Request(prompt.ids, sampling, prompt.pictures)

    def check(self, prompt: Ids, adapter: Adapter | None) -> None:
        """Raises `ModelFailed` where the prompt does not fit."""
        self._wear(adapter).generator.check(prompt)

    def text(self, ids: Sequence[int], adapter: Adapter | None) -> str:
        """The text of a reply, without end tokens and other special ones; of one said in reverse, in the order of reading."""
        tokenizer = self._wear(adapter).tokenizer
        return _decoder(tokenizer)(reading_order(ids, tokenizer))

    def count(self, text: str) -> int:
        """How many tokens a text has."""
        return len(self._own.tokenizer.encode(text, add_special_tokens=False))

    def generate(self, requests: Sequence[Request], adapter: Adapter | None, done: Done, abandoned: Callable[[int], bool]) -> None:
        """As `Generator.generate`, with the adapter on. Where memory runs out, what is left of the batch is done in halves.

        Raises `ModelFailed` where the memory does not suffice for one request.
        """
        voice = self._wear(adapter)
        self._switch(voice)
        left = OrderedDict(enumerate(requests))

        def finish(number: int, made: Generated) -> None:
            del left[number]
            done(number, made)

        size = len(requests)
        while left := OrderedDict((number, request) for number, request in left.items() if not abandoned(number)):
            numbers = list(left)[:size]
            try:
                voice.generator.generate(
                    [left[number] for number in numbers],
                    lambda place, made, numbers=numbers: finish(numbers[place], made),  # type: ignore[misc]
                    lambda place, numbers=numbers: abandoned(numbers[place]),  # type: ignore[misc]
                )
            except (RuntimeError, MemoryError) as error:
                size = self._smaller(size, voice, error)

    def _smaller(self, size: int, voice: _Voice, error: Exception) -> int:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(words in str(error) for words in _NO_MEMORY):
            raise error
        voice.generator.forget()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if size <= 1:
            raise ModelFailed(
                f"the memory does not suffice for one reply of {self._base.name}: use a smaller model, shorter prompts or fewer "
                "`max_tokens`, a smaller context (?context=N), or close other programs"
            ) from None
        return size // 2

    def _wear(self, adapter: Adapter | None) -> _Voice:
        if adapter is None:
            return self._own
        if adapter.id not in self._worn:
            voice = self._with_own_model(adapter) if adapter.kind == "full" or tokenizer_folder(adapter) else self._with_lora(adapter)
            for other in (self._own, *self._worn.values()):
                other.generator.forget()  # the memory is for the prompts of the adapters in use
            self._worn[adapter.id] = voice
            self._drop_oldest(voice.own_model)
        self._worn.move_to_end(adapter.id)
        return self._worn[adapter.id]

    def _with_lora(self, adapter: Adapter) -> _Voice:
        self._peft = load_adapter(self._peft or self._model, adapter, adapter.id)
        return self._voice(self._model, self._own.tokenizer, lora=adapter.id)

    def _with_own_model(self, adapter: Adapter) -> _Voice:
        if adapter.kind == "full":
            model: Any = load_adapter(self._model, adapter)
        else:
            model = load_adapter(load_causal_lm(self._base, self._dtype, self._device), adapter).merge_and_unload()
        folder = tokenizer_folder(adapter)
        tokenizer = load_tokenizer(replace(self._base, folder=Path(folder))) if folder else self._own.tokenizer
        return self._voice(model, tokenizer, own_model=True)

    def _drop_oldest(self, own_model: bool) -> None:
        names = [name for name, voice in self._worn.items() if voice.own_model is own_model]
        for name in names[: -(MODELS_KEPT if own_model else LORA_KEPT)]:
            voice = self._worn.pop(name)
            if voice.lora is not None:
                self._peft.delete_adapter(voice.lora)

    def _switch(self, voice: _Voice) -> None:
        if voice.own_model or self._peft is None:
            return
        if voice.lora is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(voice.lora, inference_mode=True)

    def _voice(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **kind: Any) -> _Voice:
        trained_with = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        known = [length for length in (self._context, trained_with) if length is not None]
        if not known:
            raise InputError("how long a context the model can read is not known; say it (?context=N)", field="model")
        how: dict[str, Any] = {"ends": _ends(model, tokenizer), "decode": _decoder(tokenizer), "context": min(known)}
        if not reads_images(self._base):
            return _Voice(Generator(model, **how), tokenizer, **kind)
        eyes = load_eyes(self._base, tokenizer)
        return _Voice(VisionGenerator(model, eyes, **how), tokenizer, eyes, **kind)


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end a reply, by whoever names them."""
    named = [getattr(place, "eos_token_id", None) for place in (model.generation_config, model.config, tokenizer)]
    return frozenset(int(one) for value in named for one in (value if isinstance(value, list | tuple) else [value]) if one is not None)


def _decoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[int]], str]:
    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    return decode
