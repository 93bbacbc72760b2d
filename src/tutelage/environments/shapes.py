"""Questions on drawn images: which shape it is, which colour it has, how many there are. For learning to see, and for trying it out.

    tasks = shapes_tasks(300, seed=0, unseen="without")
    held_out = shapes_tasks(90, seed=1, unseen="only")

An image shows one to four shapes, all of one kind and one colour, in places of a grid, each a little displaced and of its own size. It lies
in the task as a `data:` address (a PNG of some hundred bytes), so there are no files to lose. `unseen` keeps some pairs of shape and colour
apart: who has learned shapes and colours, and not the pairs, names them as well in pairs that were never shown.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle
from math import cos, pi, sin
from random import Random
from typing import Any, Literal

from tutelage.errors import InputError, MissingExtra
from tutelage.records import ImagePart, Message, Task, TextPart

SHAPES = ("circle", "square", "triangle", "cross", "star")
COLOURS = {"red": (230, 50, 50), "green": (50, 200, 80), "blue": (70, 100, 240), "yellow": (240, 220, 50), "purple": (190, 80, 220)}
NUMBERS = ("one", "two", "three", "four")
QUESTIONS = {"shape": "Which shape is it?", "colour": "Which colour is it?", "count": "How many are there?"}
UNSEEN = frozenset(zip(SHAPES, COLOURS, strict=True))
"""The pairs of shape and colour that `unseen` keeps apart: each shape and each colour is in one."""
_BACKGROUND = (0, 0, 0)
_TRIES = 50  # for each task asked for, before the images are taken to be exhausted


@dataclass(frozen=True)
class Scene:
    """What an image shows. spots: of each shape its middle and its radius, as shares of the image's side."""

    shape: str
    colour: str
    spots: tuple[tuple[float, float, float], ...]

    @property
    def answers(self) -> dict[str, str]:
        """The answer to each kind of question."""
        return {"shape": self.shape, "colour": self.colour, "count": NUMBERS[len(self.spots) - 1]}


def shapes_tasks(
    n: int, seed: int, *, size: int = 48, kinds: Sequence[str] = tuple(QUESTIONS), unseen: Literal["with", "without", "only"] = "with"
) -> tuple[Task, ...]:
    """`n` different questions, each on an image of its own, the kinds in turn; the answers of a kind are drawn evenly.

    size: of the images, in pixels a side. kinds: of questions (`shape`, `colour`, `count`). unseen: with the pairs in `UNSEEN`, without
    them, or only them. Raises `InputError`, `MissingExtra` without Pillow.
    """
    _check(size, kinds, unseen)
    random, found = Random(f"shapes/{seed}/{size}/{unseen}"), dict[str, Task]()
    for number, kind in zip(range(_TRIES * n), cycle(kinds)):
        if len(found) >= n:
            break
        task = _task(random_scene(random, unseen), kind, size, f"shapes?seed={seed}:{number}")
        found.setdefault(task.input_id, task)
    return tuple(found.values())


def _check(size: int, kinds: Sequence[str], unseen: str) -> None:
    if size < 16:
        raise InputError(f"the images need 16 pixels a side at least, and this is {size}", field="size")
    unknown = [kind for kind in kinds if kind not in QUESTIONS]
    if unknown or not kinds:
        raise InputError(f"kinds of questions are {', '.join(QUESTIONS)}; not {', '.join(unknown) or 'none'}", field="kinds")
    if unseen not in ("with", "without", "only"):
        raise InputError(f"`{unseen}` is not known; write with, without or only", field="unseen")


def _task(scene: Scene, kind: str, size: int, source: str) -> Task:
    image = ImagePart(url=as_data_url(draw(scene, size)))
    content = (image, TextPart(text=QUESTIONS[kind]))
    return Task(messages=(Message(role="user", content=content),), reference=scene.answers[kind], kind=kind, source=source)


def random_scene(random: Random, unseen: str) -> Scene:
    """A scene of one kind and colour; unseen: as in `shapes_tasks`."""
    while True:
        shape, colour = random.choice(SHAPES), random.choice(tuple(COLOURS))
        if unseen == "with" or ((shape, colour) in UNSEEN) == (unseen == "only"):
            break
    cells = random.sample(range(4), random.randint(1, len(NUMBERS)))
    return Scene(shape, colour, tuple(_spot(cell, random) for cell in cells))


def _spot(cell: int, random: Random) -> tuple[float, float, float]:
    """Within a quarter of the image, so that no two shapes touch."""
    radius = random.uniform(0.15, 0.2)
    room = 0.24 - radius
    x, y = ((0.25 + 0.5 * place + random.uniform(-room, room)) for place in (cell % 2, cell // 2))
    return x, y, radius


def draw(scene: Scene, size: int) -> Any:
    """The image, in mode RGB. Drawn four times as large and made smaller, so that edges are smooth. Raises `MissingExtra`."""
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise MissingExtra("pillow", "pip install 'tutelage[vision]'", why="drawing images") from None
    large = Image.new("RGB", (4 * size, 4 * size), _BACKGROUND)
    pen = ImageDraw.Draw(large)
    for x, y, radius in scene.spots:
        _draw_shape(pen, scene.shape, COLOURS[scene.colour], x * 4 * size, y * 4 * size, radius * 4 * size)
    return large.resize((size, size), Image.Resampling.BOX)


def _draw_shape(pen: Any, shape: str, colour: tuple[int, int, int], x: float, y: float, radius: float) -> None:
    if shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    elif shape == "square":
        side = 0.85 * radius
        pen.rectangle((x - side, y - side, x + side, y + side), fill=colour)
    elif shape == "cross":
        arm = 0.32 * radius
        pen.rectangle((x - radius, y - arm, x + radius, y + arm), fill=colour)
        pen.rectangle((x - arm, y - radius, x + arm, y + radius), fill=colour)
    else:
        pen.polygon(_corners(shape, x, y, radius), fill=colour)


def _corners(shape: str, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """Of a triangle, or of a star with five points."""
    lengths = [1.0] * 3 if shape == "triangle" else [1.0, 0.4] * 5
    turns = [2 * pi * number / len(lengths) for number in range(len(lengths))]
    return [(x + radius * length * sin(turn), y - radius * length * cos(turn)) for length, turn in zip(lengths, turns, strict=True)]


def as_data_url(image: Any) -> str:
    """An image of Pillow as a PNG in a `data:` address."""
    raw = BytesIO()
    image.save(raw, format="PNG")
    return "data:image/png;base64," + base64.b64encode(raw.getvalue()).decode()
