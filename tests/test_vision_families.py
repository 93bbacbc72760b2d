"""Another family of vision-language models: Idefics3's (SmolVLM's), which cuts images into tiles and writes rows of image tokens."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="extra `train` is not installed")
pytest.importorskip("trl", reason="extra `train` is not installed")
pytest.importorskip("PIL", reason="extra `vision` is not installed")

import torch

import tutelage as tt
from tutelage.environments.shapes import shapes_tasks
from tutelage.learners.vision import VisionSFT
from tutelage.records import Message, Sampling
from tutelage.training.base import find_base, load_causal_lm
from tutelage.training.rows import SFTRow
from tutelage.training.vision import load_eyes
from tutelage.training.vision_chat import render_vision_row, vision_prompt
from tutelage.training.vision_images import load_image
from tutelage.training.vision_model import _tokenizer

pytestmark = pytest.mark.torch
TASKS = shapes_tasks(6, 0)
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""In the shape of SmolVLM's: it reads parts only, and a text given as a text vanishes."""
TILES = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    where = tmp_path_factory.mktemp("idefics3")
    tokenizer = _tokenizer(["Which colour is it? red one"] * 5, 400)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end_of_utterance>", "<fake_token_around_image>", "<global-img>", *TILES]})
    tokenizer.chat_template, tokenizer.eos_token = TEMPLATE, "<end_of_utterance>"
    images = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    Idefics3Processor(image_processor=images, tokenizer=tokenizer, image_seq_len=4, chat_template=TEMPLATE).save_pretrained(where)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    text = {"model_type": "llama", "vocab_size": len(tokenizer), "num_hidden_layers": 2, "num_key_value_heads": 2, **small}
    text |= {"max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id}
    vision = {"model_type": "idefics3_vision", "num_hidden_layers": 1, "image_size": 32, "patch_size": 8, **small}
    image = tokenizer.convert_tokens_to_ids("<image>")
    torch.manual_seed(0)
    config = Idefics3Config(text_config=text, vision_config=vision, image_token_id=image, scale_factor=2, pad_token_id=0)
    Idefics3ForConditionalGeneration(config).save_pretrained(where)
    return where


def agent(folder) -> tt.Agent:
    return tt.Agent(model=f"hf:{folder}?dtype=float32", sampling=Sampling(max_tokens=4))


async def test_an_episode_has_the_tokens_that_training_would_see(folder):
    base = find_base(str(folder))
    eyes, model = load_eyes(base), load_causal_lm(base, "float32")
    episode = await tt.run_episode(agent(folder), TASKS[0])
    trace = next(iter(episode.steps)).completion.tokens
    prompt = vision_prompt(eyes, TASKS[0].messages)
    assert trace.prompt_ids == prompt.ids
    assert sum(token in eyes.image_ids for token in prompt.ids) == 5 * 4, "four tiles and the whole, of four tokens each"
    pixels = eyes.pixels([[load_image(one.url) for one in prompt.pictures]])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt.ids, *trace.completion_ids]]), **pixels).logits[0].log_softmax(-1)
    own = [float(logits[len(prompt.ids) + number - 1][token]) for number, token in enumerate(trace.completion_ids)]
    assert trace.logprobs == pytest.approx(own, abs=1e-4)
    row = render_vision_row(eyes, SFTRow(prompt=TASKS[0].messages, completion=(Message(role="assistant", content="red"),)))
    assert row.ids[: len(prompt.ids)] == prompt.ids
    assert eyes.tokenizer.decode([token for token, on in zip(row.ids, row.mask, strict=True) if on]) == " red<end_of_utterance>"


async def test_it_is_trained_padded_and_worn(folder, tmp_path):
    training = tt.Practice(TASKS, tt.Collector(tt.Normalised()), folder=tmp_path)
    options = {"max_steps": 2, "per_device_train_batch_size": 3, "validation": 0.2, "lora": {"r": 2}, "vision_tower": True}
    learned = await VisionSFT(**options).learn(agent(folder), training)
    assert "they are padded" in training.facts["packing_not_used"]
    assert next(iter((await tt.run_episode(learned, TASKS[0])).steps)).completion.tokens is not None
