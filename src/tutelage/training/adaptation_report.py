"""What an adaptation to a language came to: measures, as data and as a page to read. No torch is needed here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue

from tutelage.files import write_atomically
from tutelage.records import Record


class TokenizerMeasure(Record):
    """How the held-out text is written. vocabulary: tokens known; tokens: written; characters: of the text."""

    name: str
    vocabulary: int
    tokens: int
    characters: int

    @property
    def characters_per_token(self) -> float:
        """The more, the fewer tokens a text costs."""
        return self.characters / self.tokens


class Quality(Record):
    """How well a model predicts the held-out text. nats: its surprise in all; per character, models of any tokenizer compare."""

    name: str
    nats: float
    characters: int

    @property
    def bits_per_character(self) -> float:
        """The less, the better."""
        return self.nats / self.characters / math.log(2)

    @property
    def perplexity_per_character(self) -> float:
        """exp of the surprise at a character."""
        return math.exp(self.nats / self.characters)


class Aligned(Record):
    """One table's projection. table: `input`, `output`, or `input and output` where they are one. See `embeddings.Alignment`."""

    table: str
    rows: int
    rank: int
    residual: float
    apart: float
    note: str = ""


class AdaptReport(Record):
    """All that was measured. model: the folder of the adapted model; calibrated: that of the calibrated one, or its adapter."""

    base: str
    instruct: str
    mode: str
    projection: str
    tokenizers: tuple[TokenizerMeasure, ...]
    copied: int
    averaged: int
    quality: tuple[Quality, ...]
    training: dict[str, JsonValue]
    aligned: tuple[Aligned, ...]
    calibration: dict[str, JsonValue] | None = None
    model: str
    calibrated: str | None = None

    def write(self, folder: Path) -> None:
        """Write report.json and report.md. Raises `StoreError`."""
        write_atomically(folder / "report.json", self.model_dump_json(indent=1) + "\n")
        write_atomically(folder / "report.md", self.text())

    def text(self) -> str:
        """As a page in Markdown."""
        blocks = [
            f"# {self.instruct}, adapted\n",
            f"Embeddings trained on {self.base}, carried over by `{self.projection}`; the vocabulary: `{self.mode}`. "
            f"{self.copied} tokens kept their embeddings at the start, {self.averaged} began as the mean of their sub-tokens'.\n",
            *self._tables(),
            f"Trained: {_listed(self.training)}.\n",
            *([f"Calibrated: {_listed(self.calibration)}.\n"] if self.calibration else []),
            f"Use it: {self._use()} in an agent file.\n",
        ]
        return "\n".join(blocks)

    def _use(self) -> str:
        kept = self.calibrated is not None and Path(self.calibrated).name != "calibrated"
        return f"`model: hf:{self.model}` and `adapter: {self.calibrated}`" if kept else f"`model: hf:{self.calibrated or self.model}`"

    def _tables(self) -> list[str]:
        tokenizers = [[one.name, f"{one.vocabulary:,}", f"{one.tokens:,}", f"{one.characters_per_token:.2f}"] for one in self.tokenizers]
        quality = [[one.name, f"{one.bits_per_character:.3f}", f"{one.perplexity_per_character:.3f}"] for one in self.quality]
        aligned = [
            [one.table, f"{one.rows:,}", f"{one.rank:,}", f"{one.residual:.4f}", f"{one.apart:.4f}", one.note] for one in self.aligned
        ]
        return [
            _table(["tokenizer", "vocabulary", "tokens in the held-out text", "characters per token"], tokenizers),
            _table(["model, on the held-out text", "bits per character", "perplexity per character"], quality),
            _table(["table", "rows", "rank", "left by the projection", "without one", "note"], aligned),
        ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _listed(facts: dict[str, JsonValue]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items() if isinstance(value, str | int | float))
