"""Vision fine-tuning: ids, masks and images that belong together, packed and padded rows that learn what they learn alone, and use."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="extra `train` is not installed")
pytest.importorskip("trl", reason="extra `train` is not installed")
pytest.importorskip("PIL", reason="extra `vision` is not installed")

import torch
from PIL import Image

import tutelage as tt
from toy_weights import make_toy
from tutelage import registry
from tutelage.adapter import stored_tensors
from tutelage.environments.shapes import QUESTIONS, as_data_url, shapes_tasks
from tutelage.errors import InputError
from tutelage.learners.vision import VisionSFT
from tutelage.records import ImagePart, Message, Sampling, Task, TextPart
from tutelage.study.config import load_study
from tutelage.training import supervised_run
from tutelage.training.base import find_base, load_causal_lm, reads_images
from tutelage.training.batches import IGNORED
from tutelage.training.chat_template import RowError
from tutelage.training.keeper import copy_of
from tutelage.training.rows import SFTRow
from tutelage.training.settings import Lora
from tutelage.training.supervised_job import Interrupted, Job
from tutelage.training.vision import load_eyes
from tutelage.training.vision_chat import render_vision_row, render_vision_turns, vision_prompt
from tutelage.training.vision_images import load_image
from tutelage.training.vision_model import TEMPLATE, VisionShape, make_vision_model
from tutelage.training.vision_settings import VisionSettings
from tutelage.training.vision_trainer import vision_trainer, why_not_packed
from tutelage.training.vision_training import cut, train_vision

pytestmark = pytest.mark.torch
TASKS = shapes_tasks(12, 0)
WORDS = [*QUESTIONS.values(), "red green blue yellow purple circle square triangle cross star one two three four system user assistant"] * 3
SMALL = VisionShape(patch_size=16, width=32, layers=2, heads=2, vision_width=32, vision_layers=1, vision_heads=2)
TOKENS = (SMALL.image_size // SMALL.patch_size) ** 2


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_vision_model(tmp_path_factory.mktemp("vision"), WORDS, SMALL)


@pytest.fixture(scope="module")
def base(folder):
    return find_base(str(folder))


@pytest.fixture(scope="module")
def eyes(base):
    return load_eyes(base)


@pytest.fixture(scope="module")
def model(base):
    return load_causal_lm(base, "float32")


def image(task: Task) -> ImagePart:
    return task.messages[0].content[0]


def user(*parts) -> Message:
    return Message(role="user", content=tuple(part if isinstance(part, ImagePart) else TextPart(text=part) for part in parts))


def assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


def row(task: Task) -> SFTRow:
    return SFTRow(prompt=task.messages, completion=(assistant(str(task.reference)),), source=task.source)


def rows() -> list[SFTRow]:
    """Of several lengths: one image, none, two, and a conversation with an image in its middle."""
    first, second, *_ = TASKS
    return [
        *map(row, TASKS[:3]),
        SFTRow(prompt=(user("How many are there?"),), completion=(assistant("four"),)),
        SFTRow(prompt=(user(image(first), "and", image(second), "Which colour is it?"),), completion=(assistant("red"),)),
        SFTRow(
            prompt=(Message(role="system", content="Look."), user(image(second), "Which shape is it?")),
            completion=(assistant("star"), user("And", image(first), "?"), assistant("a blue circle")),
        ),
    ]


# Ids, masks and images


def test_what_is_written_is_what_the_processor_writes(eyes):
    """The ids are those that transformers' own way gives, from the template to the processor."""
    for given in rows():
        made = render_vision_row(eyes, given)
        messages = [*given.prompt, *given.completion]
        images = [load_image(one.url).image for one in made.pictures]
        data = [
            {"role": message.role, "content": message.text}
            if isinstance(message.content, str)
            else {
                "role": message.role,
                "content": [
                    {"type": "image"} if isinstance(part, ImagePart) else {"type": "text", "text": part.text} for part in message.content
                ],
            }
            for message in messages
        ]
        text = eyes.processor.apply_chat_template(data, tokenize=False)
        theirs = eyes.processor(text=[text], images=[images] if images else None, add_special_tokens=False)
        assert list(made.ids) == theirs["input_ids"][0]
        assert sum(token in eyes.image_ids for token in made.ids) == TOKENS * len(images)


def test_loss_falls_on_answers_and_never_on_images(eyes):
    made = render_vision_row(eyes, rows()[-1])
    learned = eyes.tokenizer.decode([token for token, on in zip(made.ids, made.mask, strict=True) if on])
    assert learned == "star<|im_end|>a blue circle<|im_end|>"
    assert not any(on for token, on in zip(made.ids, made.mask, strict=True) if token in eyes.image_ids)
    assert [one.url for one in made.pictures] == [image(TASKS[1]).url, image(TASKS[0]).url]


def test_a_prompt_is_the_beginning_of_its_row(eyes):
    for given in rows()[:5]:
        prompt, whole = vision_prompt(eyes, given.prompt), render_vision_row(eyes, given)
        assert whole.ids[: len(prompt.ids)] == prompt.ids
        assert prompt.pictures == whole.pictures
        assert not any(whole.mask[: len(prompt.ids)])


def test_an_image_token_in_words_is_words_in_use_and_refused_in_rows(eyes):
    forged = user(image(TASKS[0]), "What is <image>?")
    prompt = vision_prompt(eyes, [forged])
    assert sum(token in eyes.image_ids for token in prompt.ids) == TOKENS
    assert "What is <image>?" in eyes.tokenizer.decode(list(prompt.ids))
    with pytest.raises(RowError, match="<image>"):
        render_vision_row(eyes, SFTRow(prompt=(forged,), completion=(assistant("x"),), source="rows.jsonl:3"))


@pytest.mark.parametrize(
    ("prompt", "completion", "reason"),
    [
        ((user(ImagePart(url="gone.png"), "?"),), (assistant("x"),), r"rows.jsonl:3: field `messages.0.image 1`: gone.png: .*No such file"),
        ((user(ImagePart(url="data:image/png;base64,aGk="), "?"),), (assistant("x"),), "no image that can be read"),
        ((user(ImagePart(url="https://a.b/c.png"), "?"),), (assistant("x"),), "not fetched from the web"),
        ((user("?"),), (Message(role="assistant", content=user(image(TASKS[0])).content),), "an image stands in what the assistant says"),
    ],
)
def test_rows_that_cannot_be_learned_from_are_named(eyes, prompt, completion, reason):
    with pytest.raises(RowError, match=reason):
        render_vision_row(eyes, SFTRow(prompt=prompt, completion=completion, source="rows.jsonl:3"))


def with_template(folder, where, template):
    shutil.copytree(folder, where)
    (where / "chat_template.jinja").write_text(template)
    return load_eyes(find_base(str(where)))


def test_a_template_that_drops_images_of_the_system_message_is_found_out(folder, tmp_path):
    deaf = TEMPLATE.replace("part['type'] == 'image' %}", "part['type'] == 'image' and message['role'] != 'system' %}")
    eyes = with_template(folder, tmp_path / "deaf", deaf)
    system = Message(role="system", content=user("Look at", image(TASKS[0])).content)
    with pytest.raises(RowError, match=r"drops the image in message 1 \(system\)"):
        vision_prompt(eyes, [system, user("?")])
    with pytest.raises(RowError, match=r"drops the image in message 1 \(system\)"):
        render_vision_row(eyes, SFTRow(prompt=(system, user("?")), completion=(assistant("x"),)))


def test_a_template_that_wants_parts_only_and_writes_images_first(folder, tmp_path):
    """As that of LLaVA 1.5: words given as a text would vanish, and images stand before the words."""
    parted = (
        "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
        "{% for part in m['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
        "{% for part in m['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
        "{{ '<|im_end|>' if m['role'] == 'assistant' else ' ' }}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
    )
    eyes = with_template(folder, tmp_path / "parted", parted)
    given = SFTRow(prompt=(user("Which shape", image(TASKS[0]), "is it?"),), completion=(assistant("star"),))
    made = render_vision_row(eyes, given)
    assert eyes.tokenizer.decode([token for token, on in zip(made.ids, made.mask, strict=True) if on]).strip() == "star<|im_end|>"
    assert made.ids[: len(vision_prompt(eyes, given.prompt).ids)] == vision_prompt(eyes, given.prompt).ids


def test_turns_become_rows_of_their_own_where_the_template_rewrites_earlier_ones(folder, tmp_path):
    mark = "{% if message['role'] == 'assistant' and not loop.last %}~{% endif %}"
    forgetful = TEMPLATE.replace("+ '\n' }}", "+ '\n' }}" + mark, 1)
    eyes = with_template(folder, tmp_path / "forgetful", forgetful)
    assert len(render_vision_turns(eyes, rows()[-1])) == 2


# Batches


def trainer_of(model, eyes, given, folder, *, packed):
    arguments = supervised_run.arguments(VisionSettings(lora=None, per_device_train_batch_size=8, learning_rate=1e-3), folder, 0)
    return vision_trainer(model, eyes, arguments, given, packed=packed)


def loss_of(trainer, places) -> torch.Tensor:
    batch = trainer.data_collator([trainer.train_dataset[place] for place in places])
    batch.pop("counts")
    return trainer.compute_loss(trainer.model, dict(batch))


@pytest.mark.parametrize("packed", [False, True])
def test_a_batch_gives_each_row_the_loss_that_it_has_alone(base, eyes, tmp_path, packed):
    model = load_causal_lm(base, "float32")
    given = [render_vision_row(eyes, one) for one in rows()]
    trainer = trainer_of(model, eyes, given, tmp_path, packed=packed)
    weights = [sum(one.mask) for one in given]
    alone, places = [loss_of(trainer, [place]) for place in range(len(given))], range(len(given))
    wanted = sum(loss * weight for loss, weight in zip(alone, weights, strict=True)) / sum(weights)
    batch = trainer.data_collator([trainer.train_dataset[place] for place in places])
    assert (len(batch["input_ids"]) < len(given)) is packed
    torch.testing.assert_close(loss_of(trainer, places), wanted, atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad(loss_of(trainer, places) - wanted, list(model.parameters()), allow_unused=True)
    assert max(float(one.abs().max()) for one in gradients if one is not None) < 1e-5


def test_images_count_and_each_belongs_to_its_row(base, eyes, tmp_path):
    """Another image changes the loss of its own row alone, wherever packing put it."""
    trainer = trainer_of(load_causal_lm(base, "float32"), eyes, [render_vision_row(eyes, one) for one in rows()], tmp_path, packed=True)
    items = [trainer.train_dataset[place] for place in range(6)]
    before = {place: loss_of(trainer, [place]).item() for place in (0, 4)}
    one = trainer.data_collator.rows
    trainer.data_collator.rows = [one[1], *one[1:]]  # the image of row 1 in the place of that of row 0
    assert loss_of(trainer, [0]).item() != pytest.approx(before[0], abs=1e-7)
    assert loss_of(trainer, [4]).item() == before[4]
    assert trainer.data_collator(items)["pixel_values"].shape[0] == 3 + 2 + 2


def test_labels_are_ignored_where_no_loss_falls(base, eyes, tmp_path):
    given = [render_vision_row(eyes, one) for one in rows()]
    trainer = trainer_of(load_causal_lm(base, "float32"), eyes, given, tmp_path, packed=True)
    batch = trainer.data_collator([trainer.train_dataset[place] for place in range(6)])
    learned = batch["labels"] != IGNORED
    assert int(learned.sum()) == sum(sum(one.mask) for one in given)
    assert not torch.isin(batch["input_ids"][learned], torch.tensor(sorted(eyes.image_ids))).any()


def test_other_families_are_padded_with_the_reason_said(model):
    assert why_not_packed(model) is None
    model.config.model_type, kept = "other_vl", model.config.model_type
    try:
        assert "they are padded" in why_not_packed(model)
    finally:
        model.config.model_type = kept


def test_an_image_that_changed_since_is_refused(base, eyes, tmp_path):
    path = tmp_path / "it.png"
    Image.new("RGB", (9, 9), "red").save(path)
    made = render_vision_row(eyes, SFTRow(prompt=(user(ImagePart(url=str(path)), "?"),), completion=(assistant("red"),)))
    trainer = trainer_of(load_causal_lm(base, "float32"), eyes, [made], tmp_path, packed=False)
    Image.new("RGB", (9, 9), "blue").save(path)
    with pytest.raises(InputError, match="has changed since"):
        loss_of(trainer, [0])


# In use


def agent(folder, **changes) -> tt.Agent:
    return tt.Agent(model=f"hf:{folder}?dtype=float32", **{"sampling": Sampling(max_tokens=6), **changes})


def said(episode: tt.Episode) -> tt.Completion:
    return next(iter(episode.steps)).completion


async def test_an_episode_has_the_tokens_that_training_would_see(folder, base, eyes, model):
    episode = await tt.run_episode(agent(folder), TASKS[0])
    trace = said(episode).tokens
    prompt = vision_prompt(eyes, TASKS[0].messages)
    assert trace.prompt_ids == prompt.ids
    ids = torch.tensor([[*prompt.ids, *trace.completion_ids]])
    with torch.no_grad():
        logits = model(input_ids=ids, **eyes.pixels([[load_image(one.url) for one in prompt.pictures]])).logits[0].log_softmax(-1)
    for number, (token, logprob) in enumerate(zip(trace.completion_ids, trace.logprobs, strict=True)):
        row = logits[len(prompt.ids) + number - 1]
        assert token == int(row.argmax())
        assert logprob == pytest.approx(float(row[token]), abs=1e-4)


async def test_a_reply_does_not_depend_on_the_calls_beside_it(folder):
    warm = agent(folder, sampling=Sampling(max_tokens=6, temperature=1.0, seed=3))
    conversations = [given.prompt for given in rows()[:5]]
    together = await asyncio.gather(*(warm.load().complete(list(one), sampling=warm.sampling) for one in conversations))
    for messages, made in zip(conversations, together, strict=True):
        alone = await warm.load().complete(list(messages), sampling=warm.sampling)
        assert alone.tokens.completion_ids == made.tokens.completion_ids
        assert alone.tokens.logprobs == pytest.approx(made.tokens.logprobs, abs=1e-4)


async def test_a_model_of_text_alone_refuses_images(tmp_path):
    text = agent(make_toy(tmp_path / "toy"))
    with pytest.raises(InputError, match="reads text only, and the task has an image"):
        await tt.run_episode(text, TASKS[0])
    assert not reads_images(find_base(str(tmp_path / "toy")))
    with pytest.raises(InputError, match="reads text only"):
        await VisionSFT().learn(text, practice(tmp_path))


async def test_too_many_images_do_not_fit(folder):
    crowd = Task(messages=(user(*[image(TASKS[0])] * 60, "?"),))
    episode = await tt.run_episode(agent(folder), crowd)
    assert "the context holds 512" in episode.error


async def test_a_reply_ends_at_its_limit(folder):
    episode = await tt.run_episode(agent(folder, sampling=Sampling(max_tokens=1)), TASKS[0])
    assert said(episode).usage.tokens_out == 1


# Learning


def practice(folder, tasks=TASKS[:6], **more) -> tt.Practice:
    return tt.Practice(tasks, tt.Collector(tt.Normalised()), folder=folder, **more)


QUICK = {"learning_rate": 3e-3, "per_device_train_batch_size": 4, "num_train_epochs": 2, "validation": 0.2}


async def test_lora_adapts_the_language_model_alone(folder, tmp_path):
    training = practice(tmp_path)
    learned = await VisionSFT(**QUICK, lora={"r": 4}).learn(agent(folder), training)
    names = _tensor_names(_path(learned))
    assert names
    assert all("language_model" in name for name in names)
    assert training.facts["packing_not_used"] is None
    assert training.facts["images"] == 5
    assert said(await tt.run_episode(learned, TASKS[0])).tokens.prompt_ids
    again = await VisionSFT(**QUICK, lora={"r": 4}).learn(agent(folder), practice(tmp_path / "again"))
    assert again.adapter.id == learned.adapter.id, "the same seed learns the same weights"


async def test_the_vision_tower_learns_where_it_is_to(folder, tmp_path):
    learned = await VisionSFT(**QUICK, lora={"r": 4}, vision_tower=True).learn(agent(folder), practice(tmp_path))
    names = _tensor_names(_path(learned))
    assert any("vision_tower" in name for name in names)
    assert any("multi_modal_projector" in name for name in names)
    assert any("language_model" in name for name in names)


async def test_all_weights_and_what_stays(folder, base, tmp_path):
    before = load_causal_lm(base, "float32").state_dict()
    for tower in (None, False):
        learned = await VisionSFT(**QUICK, lora=None, vision_tower=tower).learn(agent(folder), practice(tmp_path / str(tower)))
        after = load_causal_lm(find_base(str(_path(learned))), "float32").state_dict()
        moved = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
        assert ("vision_tower" in moved) is (tower is None)
        assert {"language_model", "multi_modal_projector"} <= moved
        assert said(await tt.run_episode(learned, TASKS[0])).tokens is not None


def _path(learned) -> Path:
    return Path(learned.adapter.folder)


def _tensor_names(folder) -> list[str]:
    return list(stored_tensors(folder))


def test_interrupted_it_goes_on_to_the_same_weights(base, eyes, tmp_path):
    given, stop, seen = [render_vision_row(eyes, one) for one in rows()], threading.Event(), []
    settings = VisionSettings(lora=Lora(r=2), per_device_train_batch_size=3, num_train_epochs=2)

    class Bar:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def advance(self, note=""):
            seen.append(note)
            if len(seen) == 2:
                stop.set()

    def train(name, held_out=given[:2], **more):
        return train_vision(Job(base, eyes.tokenizer, tmp_path / name, **more), eyes, given, settings, validation=held_out)

    with pytest.raises(Interrupted):
        train("a", stop=stop, stage=lambda total: Bar())
    resumed, whole = train("a"), train("b")
    assert resumed.facts["resumed_at_step"] == 2
    assert resumed.facts["validation_loss"] == whole.facts["validation_loss"]
    one, other = copy_of(resumed.model), copy_of(whole.model)
    assert all(torch.equal(one[name], other[name]) for name in one)


async def test_an_adapter_of_other_eyes_does_not_fit(folder, tmp_path):
    learned = await VisionSFT(**QUICK, lora=Lora(r=2).model_dump()).learn(agent(folder), practice(tmp_path))
    shutil.copytree(folder, tmp_path / "other")
    path = tmp_path / "other" / "processor_config.json"
    path.write_text(path.read_text().replace('"do_normalize": true', '"do_normalize": false'))
    with pytest.raises(InputError, match="another tokenizer"):
        agent(tmp_path / "other", adapter=learned.adapter).load()


async def test_a_file_of_images_and_labels(folder, tmp_path):
    for name in ("red", "blue"):
        Image.new("RGBA", (20, 10), name).save(tmp_path / f"{name}.png")
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"image": f"{name}.png", "label": name}) + "\n" for name in ("red", "blue")))
    options = {**QUICK, "validation": 0.0, "source": "file", "file": str(file), "question": "Which colour is it?", "max_steps": 2}
    training = practice(tmp_path)
    first = VisionSFT(**options)
    await first.learn(agent(folder), training)
    assert training.facts["rows"] == 2
    Image.new("RGB", (20, 10), "green").save(tmp_path / "red.png")
    assert VisionSFT(**options).described() != first.described(), "a file of rows is known by its images too"
    (tmp_path / "red.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"rows.jsonl:1"):
        await VisionSFT(**options).learn(agent(folder), training)


async def test_own_successes_are_learned_from(folder, tmp_path):
    def right(task, episode) -> float:
        return float(task.kind == "shape")

    training = tt.Practice(TASKS[:6], tt.Collector(tt.FunctionGrader(right)), folder=tmp_path)
    await VisionSFT("success", **{**QUICK, "validation": 0.0}, truncated_episodes=True, max_steps=2).learn(agent(folder), training)
    assert training.facts["successes"] == 2


@pytest.mark.parametrize("wrong", [{"source": "film"}, {"file": "x.jsonl"}, {"source": "file"}, {"vision": True}, {"vision_tower": "half"}])
def test_wrong_options_are_named(wrong):
    with pytest.raises(InputError):
        VisionSFT(**wrong)


def test_rows_are_not_cut_within_an_image(eyes):
    made = render_vision_row(eyes, rows()[0])
    with pytest.raises(InputError, match="within an image"):
        cut(eyes, made, VisionSettings(max_length=8, truncate=True))
    assert cut(eyes, made, VisionSettings(max_length=len(made.ids) - 2, truncate=True)).pictures == made.pictures


def test_sizes_that_do_not_go_together(tmp_path):
    with pytest.raises(InputError, match="do not fill"):
        make_vision_model(tmp_path, WORDS, VisionShape(image_size=50, patch_size=16))


def test_the_same_seed_makes_the_same_model(folder, tmp_path):
    again, other = (make_vision_model(tmp_path / str(seed), WORDS, SMALL, seed=seed) for seed in (0, 1))
    assert find_base(str(again)).base_id == find_base(str(folder)).base_id != find_base(str(other)).base_id


async def test_it_learns_colours_from_images(tmp_path):
    """A model that knew nothing names colours that it was taught, on images that it never saw."""
    shape = SMALL.model_copy(update={"width": 64, "vision_width": 48})
    folder = make_vision_model(tmp_path / "model", WORDS, shape)
    taught, asked = (shapes_tasks(count, seed, kinds=("colour",)) for count, seed in ((96, 1), (20, 2)))
    options = {"lora": None, "learning_rate": 2e-3, "per_device_train_batch_size": 16, "num_train_epochs": 10, "validation": 0.0}
    learned = await VisionSFT(**options).learn(agent(folder), practice(tmp_path, taught))
    grade = tt.Collector(tt.Normalised())
    right = [found.grade.score for found in await tt.Practice(asked, grade, folder=tmp_path).collect(learned)]
    assert sum(right) >= 17, right


def test_the_example_can_be_loaded(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(registry.LEARNERS, "vision_sft", "tutelage.learners.vision:VisionSFT")
    monkeypatch.setitem(registry.TASK_SOURCES, "shapes", "tutelage.environments.shapes:shapes_tasks")
    shutil.copytree(folder, tmp_path / "model")
    shutil.copy(Path(__file__).parent.parent / "examples" / "vision" / "study.yaml", tmp_path)
    study = load_study(tmp_path / "study.yaml", check_models=False)
    study.check()
    assert list(study.learners) == ["vision_sft"]
    assert len(study.test) == 150


def test_data_addresses_are_written(eyes):
    assert load_image(as_data_url(Image.new("RGB", (3, 3), "red"))).image.size == (3, 3)
