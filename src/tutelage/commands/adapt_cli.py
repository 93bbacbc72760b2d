"""`tutelage adapt`: its options. It imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class HowVocabulary(StrEnum):
    """What becomes of the old vocabulary."""

    EXTEND = "extend"
    REPLACE = "replace"


class HowProjected(StrEnum):
    """How the base's trained embeddings become the instruct model's."""

    CONVERSION = "conversion"
    OVERLAP = "overlap"
    SWAP = "swap"


BaseModel = Annotated[str, typer.Argument(metavar="BASE", help="The model before tuning: a folder of transformers, or a .gguf file.")]
TunedModel = Annotated[str, typer.Argument(metavar="INSTRUCT", help="The model that was tuned from it, with its chat template.")]
Text = Annotated[list[Path], typer.Option("--text", metavar="FILE", help="Plain text in the language, UTF-8; may be repeated.")]
Out = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where all goes; the result is FOLDER/model.")]
HeldOut = Annotated[
    list[Path] | None,
    typer.Option("--held-out", metavar="FILE", help="Text to measure on (default: a twentieth of the text, not learned from)."),
]
Size = Annotated[int | None, typer.Option("--vocabulary", min=1, help="Tokens in all (default: up to half more; replacing: as many).")]
HowMode = Annotated[HowVocabulary, typer.Option("--mode", help="extend: add tokens to the old ones. replace: learn all from the text.")]
HowMap = Annotated[
    HowProjected, typer.Option("--projection", help="By all tokens (conversion), by those in both vocabularies (overlap), or not (swap).")
]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Training steps (default: one pass over the text).")]
Rate = Annotated[float, typer.Option("--learning-rate", help="It matters: try 2e-5 to 2e-4 on a part of the text.")]
BatchSize = Annotated[int, typer.Option("--batch", min=1, help="Blocks that are computed at once.")]
Accumulate = Annotated[int, typer.Option("--accumulate", min=1, help="So many batches make a step.")]
BlockSize = Annotated[int, typer.Option("--block", min=2, help="Tokens of a block of text.")]
Layers = Annotated[int, typer.Option("--train-layers", min=0, help="So many of the last layers learn too.")]
Checkpointing = Annotated[bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.")]
Rows = Annotated[Path | None, typer.Option("--calibrate", metavar="ROWS", help="Rows of demonstrations for a short LoRA afterwards.")]
Epochs = Annotated[float, typer.Option("--calibrate-epochs", help="Passes over them.")]
CalibrationRate = Annotated[float, typer.Option("--calibrate-learning-rate", help="Of the LoRA.")]
KeepAdapter = Annotated[bool, typer.Option("--keep-adapter", help="Leave the LoRA an adapter; do not merge it in.")]
Seed = Annotated[int, typer.Option("--seed", help="Of all that is random.")]


def adapt(  # noqa: PLR0913, PLR0917 -- the options of a command are its arguments
    base: BaseModel,
    instruct: TunedModel,
    text: Text,
    out: Out,
    held_out: HeldOut = None,
    vocabulary: Size = None,
    mode: HowMode = HowVocabulary.EXTEND,
    projection: HowMap = HowProjected.CONVERSION,
    steps: Steps = None,
    learning_rate: Rate = 2e-4,
    batch: BatchSize = 8,
    accumulate: Accumulate = 1,
    block: BlockSize = 1024,
    train_layers: Layers = 0,
    checkpointing: Checkpointing = False,
    calibrate: Rows = None,
    calibrate_epochs: Epochs = 1.0,
    calibrate_rate: CalibrationRate = 2e-4,
    keep_adapter: KeepAdapter = False,
    seed: Seed = 0,
) -> None:
    """Adapt an instruct model to a language: give it a tokenizer for it, without the data that it was tuned on.

    A tokenizer made for other languages cuts yours into many small tokens: texts cost more, and less fits into the context. So a vocabulary
    is learned from your text; the BASE model's embeddings (nothing else) are trained on the text with it; and they are carried over to the
    INSTRUCT model by a linear map, found from how the two models' old embeddings differ (learned embedding propagation, arXiv:2412.21140).

    Give as much text as you have: the authors used tens of gigabytes for models of 7 billion parameters, which need a GPU. --calibrate with
    a few thousand good answers in your language mends what the map has missed. FOLDER/report.md says what it came to: characters per token,
    and how well either model predicts held-out text, per character.

    Interrupted? Run the same command again: it goes on. Exit codes: 0 done, 2 wrong input, 130 interrupted.

    Example: tutelage adapt models/base models/instruct --text wiki.txt --text news.txt --out runs/mine --steps 2000
    """
    from tutelage.commands.adapt import adapt_files

    training = {"steps": steps, "learning_rate": learning_rate, "max_length": block, "train_layers": train_layers}
    training |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulate, "gradient_checkpointing": checkpointing}
    plan = {
        "vocabulary": vocabulary,
        "mode": mode.value,
        "projection": projection.value,
        "keep_adapter": keep_adapter,
        "seed": seed,
        "training": training,
        "calibration": {"num_train_epochs": calibrate_epochs, "learning_rate": calibrate_rate},
    }
    adapt_files(base, instruct, text, out, held_out=held_out or [], rows=calibrate, plan=plan)
