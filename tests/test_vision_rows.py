"""Files of images with labels or conversations, tasks of them, and what a judge is shown: no torch is needed."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("PIL", reason="extra `vision` is not installed")

from PIL import Image

import tutelage as tt
from tutelage.errors import InputError
from tutelage.graders.judge_case import NOT_SHOWN, case_of
from tutelage.records import Episode, ImagePart, Message, Segment, StopReason, Task, TextPart
from tutelage.task_formats import image_label
from tutelage.task_formats.lines import Where
from tutelage.training.vision_images import load_image, pictures_of
from tutelage.training.vision_rows import QUESTION, read_vision_rows


@pytest.fixture
def folder(tmp_path):
    for name, colour in (("red.png", "red"), ("blue.png", "blue")):
        Image.new("RGB", (4, 4), colour).save(tmp_path / name)
    return tmp_path


def written(folder, *rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def images(row) -> list[str]:
    return [url.rpartition("/")[2] for url in pictures_of([*row.prompt, *row.completion])]


def shape(message) -> list[str]:
    return ["image" if isinstance(part, ImagePart) else part.text for part in message.content]


def test_image_and_label(folder):
    first, second = read_vision_rows(
        written(folder, {"image": "red.png", "label": "red", "question": "Which colour?"}, {"image": "blue.png", "label": 3}), "How many?"
    )
    assert shape(first.prompt[0]) == ["image", "Which colour?"]
    assert images(first) == ["red.png"]
    assert first.completion[0].text == "red"
    assert (shape(second.prompt[0])[1], second.completion[0].text) == ("How many?", "3")
    assert second.source.endswith("rows.jsonl:2")


def test_a_table_and_two_images(folder):
    path = folder / "rows.csv"
    path.write_text('image,label\nred.png,red\nblue.png,"blue, deep"\n')
    assert [row.completion[0].text for row in read_vision_rows(path)] == ["red", "blue, deep"]
    (row,) = read_vision_rows(written(folder, {"images": ["red.png", "blue.png"], "label": "two"}))
    assert shape(row.prompt[0]) == ["image", "image", QUESTION]


def test_trls_conversations(folder):
    parts = [{"type": "text", "text": "First"}, {"type": "image"}, {"type": "text", "text": "then"}, {"type": "image"}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Both."}]}
    placed, unplaced, own, prompt = read_vision_rows(
        written(
            folder,
            {"images": ["red.png", "blue.png"], "messages": [{"role": "user", "content": parts}, answer]},
            {"images": ["red.png"], "messages": [{"role": "system", "content": "Look."}, {"role": "user", "content": "What?"}, answer]},
            {"messages": [{"role": "user", "content": [{"type": "image", "path": "blue.png"}]}, answer]},
            {"image": "red.png", "prompt": "What?", "completion": "Red."},
        )
    )
    assert shape(placed.prompt[0]) == ["First", "image", "then", "image"]
    assert images(placed) == ["red.png", "blue.png"]
    assert placed.completion[0].text == "Both."
    assert shape(unplaced.prompt[1]) == ["image", "What?"]
    assert images(own) == ["blue.png"]
    assert (shape(prompt.prompt[0]), prompt.completion[0].text) == (["image", "What?"], "Red.")


def test_images_as_datasets_give_them(folder):
    pq = pytest.importorskip("pyarrow.parquet", reason="extra `datasets` is not installed")
    import pyarrow

    raw = (folder / "red.png").read_bytes()
    pq.write_table(pyarrow.Table.from_pylist([{"image": {"bytes": raw, "path": None}, "label": "red"}]), folder / "rows.parquet")
    (row,) = read_vision_rows(folder / "rows.parquet")
    assert load_image(pictures_of(row.prompt)[0]).image.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({"image": "gone.png", "label": "x"}, "image.0", "does not exist"),
        ({"image": "https://a.b/c.png", "label": "x"}, "image", "curl"),
        ({"image": 7, "label": "x"}, "image", "must be a path"),
        ({"label": "x"}, "image", "no image"),
        ({"image": "red.png"}, None, "must hold"),
        ({"image": "red.png", "labl": "x"}, "labl", "label"),
        ({"image": "red.png", "label": ["x"]}, "label", "a text or a number"),
        ({"image": "red.png", "images": ["red.png"], "label": "x"}, "images", "not both"),
        ({"images": 5, "label": "x"}, "images", "list of images"),
        ({"image": "red.png", "label": "x", "question": 5}, "question", "must be a text"),
        (
            {"images": [], "messages": [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "x"}]},
            "images",
            "places for 1 images, and there are 0",
        ),
        (
            {
                "images": ["red.png"] * 2,
                "messages": [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "x"}],
            },
            "images",
            "places for 1 images, and there are 2",
        ),
        ({"images": ["red.png"], "messages": [{"role": "assistant", "content": "x"}]}, "messages", "no message of the user"),
    ],
)
def test_a_wrong_row_is_named_by_line_and_field(folder, row, field, reason):
    path = written(folder, {"image": "red.png", "label": "fine"}, row)
    with pytest.raises(InputError, match=reason) as refused:
        read_vision_rows(path)
    assert (refused.value.file, refused.value.line, refused.value.field) == (str(path), 2, field)


def test_no_rows_are_no_rows(folder):
    with pytest.raises(InputError, match="no rows"):
        read_vision_rows(written(folder))


def test_tasks_of_images_and_labels(folder):
    where = Where(str(folder / "tasks.jsonl"), 1)
    row = {"image": "red.png", "label": "red", "question": "Which colour?", "kind": "colour"}
    assert image_label.recognised(row)
    task = image_label.to_task(row, where)
    assert (task.reference, task.kind, shape(task.messages[0])) == ("red", "colour", ["image", "Which colour?"])
    assert image_label.to_task({"image": "red.png", "label": "red"}, where).text == image_label.QUESTION
    for wrong, field in (({"image": "gone.png", "label": "x"}, "image.0"), ({"image": "red.png", "label": ""}, "label")):
        with pytest.raises(InputError) as refused:
            image_label.to_task(wrong, where)
        assert refused.value.field == field
    with pytest.raises(InputError, match="size"):
        image_label.to_task({**row, "size": 3}, where)


# What a judge is shown

TASK = Task(messages=(Message(role="user", content=(ImagePart(url="data:,x"), TextPart(text="Which colour?"))),))
EPISODE = Episode(task_id=TASK.id, agent_version="v", segments=(Segment(context=()),), answer="red", stop=StopReason.ANSWERED)


def verdict(messages, tools, sampling) -> str:
    return '{"why": "It is.", "score": 4, "confidence": 90}'


async def test_a_judge_that_takes_images_is_shown_them():
    model = tt.Scripted(verdict)
    judge = tt.Judge(model, "It names the colour.", images=True)
    assert (await judge.grade(TASK, EPISODE)).score == 1
    image, text = model.requests[0].messages[1].content
    assert image == ImagePart(url="data:,x")
    assert "[image 1 above]" in text.text
    assert NOT_SHOWN not in text.text


async def test_another_is_told_that_they_are_not_shown():
    model = tt.Scripted(verdict)
    judge = tt.Judge(model, "It names the colour.")
    await judge.grade(TASK, EPISODE)
    assert NOT_SHOWN in model.requests[0].messages[1].text
    assert isinstance(model.requests[0].messages[1].content, str)
    assert judge.version != tt.Judge(model, "It names the colour.", images=True).version


def test_another_image_is_another_case():
    other = TASK.model_copy(
        update={"messages": (Message(role="user", content=(ImagePart(url="data:,y"), TextPart(text="Which colour?"))),)}
    )
    assert case_of(TASK, EPISODE, max_chars=400).content != case_of(other, EPISODE, max_chars=400).content
