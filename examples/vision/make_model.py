"""Make the small vision-language model that `study.yaml` trains, from nothing, in the folder `model` beside this file."""

from pathlib import Path

from tutelage.environments.shapes import COLOURS, NUMBERS, QUESTIONS, SHAPES
from tutelage.training.vision_model import VisionShape, make_vision_model

WORDS = [*QUESTIONS.values(), " ".join([*SHAPES, *COLOURS, *NUMBERS, "system user assistant"])]
SHAPE = VisionShape(patch_size=12, width=128, layers=3, heads=4, vision_width=160, vision_layers=4, vision_heads=5)

if __name__ == "__main__":
    print(make_vision_model(Path(__file__).parent / "model", WORDS * 3, SHAPE))
