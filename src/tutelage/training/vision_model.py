"""A small vision-language model made from nothing: LLaVA's architecture (Liu et al. 2023, arXiv:2304.08485) at a few million parameters.

An image becomes as many tokens as it has patches: a SigLIP encoder (Zhai et al. 2023, arXiv:2303.15343) reads the patches, two layers
project them to the width of a Llama, and there they stand in the places of `<image>`. Different from LLaVA: nothing is pretrained, and the
last layer of the encoder is projected, not the one before.

The folder is one that `hf:FOLDER`, `AutoModelForImageTextToText` and `AutoProcessor` load. Its tokenizer is a byte-level BPE of the given
texts, so any other text can be written too, only longer.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field

from tutelage.errors import InputError
from tutelage.records import Record
from tutelage.training.extra import needs_train

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML, with images where they stand."""
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")
_END, _IMAGE = SPECIALS[2:]
_MEAN, _SPREAD = [0.0] * 3, [0.5] * 3  # black is zero


class VisionShape(Record):
    """How large the model is. image_size and patch_size: in pixels a side; an image has (image_size / patch_size)^2 tokens.

    width, layers, heads: of the Llama; vision_width, vision_layers, vision_heads: of the encoder. context: the most tokens it reads.
    vocabulary: the most tokens of the tokenizer.
    """

    image_size: int = Field(48, gt=0)
    patch_size: int = Field(8, gt=0)
    width: int = Field(192, gt=0)
    layers: int = Field(4, gt=0)
    heads: int = Field(6, gt=0)
    vision_width: int = Field(128, gt=0)
    vision_layers: int = Field(3, gt=0)
    vision_heads: int = Field(4, gt=0)
    context: int = Field(512, gt=0)
    vocabulary: int = Field(512, ge=264)


def make_vision_model(folder: Path, texts: Iterable[str], shape: VisionShape = VisionShape(), *, seed: int = 0) -> Path:  # noqa: B008 -- frozen
    """Write a freshly initialised model with its processor to a folder; the same seed gives the same weights.

    texts: what the tokenizer is made of. Raises `InputError` for sizes that do not go together, `MissingExtra` without torch.
    """
    if shape.image_size % shape.patch_size:
        raise InputError(f"patches of {shape.patch_size} pixels do not fill {shape.image_size}; choose a divisor", field="patch_size")
    with needs_train("a model with weights"):
        import torch
        from transformers import LlavaForConditionalGeneration
    tokenizer = _tokenizer(texts, shape.vocabulary)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlavaForConditionalGeneration(_config(shape, tokenizer)).save_pretrained(folder)
    _processor(shape, tokenizer).save_pretrained(folder)
    return folder


def _tokenizer(texts: Iterable[str], size: int) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    specials = [AddedToken(token, special=True, normalized=False) for token in SPECIALS]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    kind: Any = PreTrainedTokenizerFast
    tokenizer = kind(
        tokenizer_object=inner,
        eos_token=_END,
        pad_token=SPECIALS[0],
        extra_special_tokens={"image_token": _IMAGE},
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _config(shape: VisionShape, tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlavaConfig, SiglipVisionConfig

    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=4 * shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = SiglipVisionConfig(
        hidden_size=shape.vision_width,
        intermediate_size=4 * shape.vision_width,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_heads,
        image_size=shape.image_size,
        patch_size=shape.patch_size,
        vision_use_head=False,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(_IMAGE),
        image_seq_length=(shape.image_size // shape.patch_size) ** 2,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )


def _processor(shape: VisionShape, tokenizer: Any) -> Any:
    """Images of any size are scaled to the model's own; Pillow does it, so that no torchvision is needed."""
    from transformers import LlavaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    side = {"height": shape.image_size, "width": shape.image_size}
    images = SiglipImageProcessorPil(size=side, image_mean=_MEAN, image_std=_SPREAD)
    kind: Any = LlavaProcessor
    return kind(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=shape.patch_size,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
        image_token=_IMAGE,
    )
