"""Adapting an instruct model to a language: tokenizer, embeddings, propagation, calibration, measures; each a stage that is done once.

The folder of a run holds what every stage made, so that an interrupted run, begun again, goes on. What the stages do is in
`tokenizer_training.py`, `embedding_training.py` and `embeddings.py`, which can be used without this.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field, JsonValue
from safetensors.numpy import load_file, save_file

from tutelage.errors import InputError
from tutelage.files import write_atomically
from tutelage.progress import Progress, Silent
from tutelage.records import Record
from tutelage.training.adaptation_models import (
    check_tuned_from,
    find_pretrained,
    moved_ids,
    separator_of,
    stored_dtype,
    whole_folder,
    write_model,
)
from tutelage.training.adaptation_report import AdaptReport, Aligned, Quality, TokenizerMeasure
from tutelage.training.adapters import load_adapter, save_adapter
from tutelage.training.base import Base, find_base, load_causal_lm, load_tokenizer, place_of
from tutelage.training.chat import TokenRow, render_turns
from tutelage.training.corpus import Piece, hold_out, read_corpus
from tutelage.training.embedding_training import (
    EmbeddingSettings,
    Place,
    Tables,
    clear,
    layer_changes,
    load_to_train,
    nats_of,
    set_tables,
    tables_of,
    text_blocks,
    train_embeddings,
)
from tutelage.training.embeddings import Alignment, Projection, Shared, Table, propagate
from tutelage.training.row_files import read_sft_rows
from tutelage.training.rows import SFTRow
from tutelage.training.supervised import check_rows, tokenizer_for, train_sft
from tutelage.training.supervised_job import Job, SFTSettings
from tutelage.training.tokenizer_training import Mode, PlainEncoder, Vocabulary, check_lossless, check_same, parts_of, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Facts = dict[str, JsonValue]
PLAN, STAGES = "adapt.json", "stages.json"


class AdaptSettings(Record):
    """What is done. vocabulary: see `train_tokenizer`. held_out: the share of the text that is measured and not learned from.

    calibration: of the LoRA that is trained on rows, where there are any; keep_adapter: leave it an adapter in place of merging it in.
    """

    vocabulary: int | None = Field(None, gt=0)
    mode: Mode = "extend"
    projection: Projection = "conversion"
    training: EmbeddingSettings = EmbeddingSettings()
    held_out: float = Field(0.05, gt=0, lt=1)
    calibration: SFTSettings = SFTSettings(num_train_epochs=1)
    keep_adapter: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Sources:
    """What an adaptation is made of: models as `find_base` takes them, files of text in the language, files to measure on, rows.

    Without held_out a share of the texts is held out.
    """

    base: str
    instruct: str
    texts: tuple[Path, ...]
    held_out: tuple[Path, ...] = ()
    rows: Path | None = None


def adapt(
    sources: Sources, out: Path, settings: AdaptSettings, *, progress: Progress | None = None, stop: threading.Event | None = None
) -> AdaptReport:
    """Adapt a model and report; the result is a transformers folder, OUT/model (calibrated: OUT/calibrated, or OUT/adapters/ID).

    Raises `InputError` for whatever does not go together, for a folder that holds another run, and what the stages raise; `Interrupted`
    where `stop` was set: begun again with the same arguments, it goes on.
    """
    run = Adaptation.begin(sources, out, settings, progress or Silent(), stop or threading.Event())
    report = run.run()
    report.write(out)
    return report


@dataclass(frozen=True)
class Adaptation:
    """One run. learned, held: pieces of text."""

    sources: Sources
    out: Path
    settings: AdaptSettings
    base: Base
    instruct: Base
    learned: Sequence[Piece]
    held: Sequence[Piece]
    rows: Sequence[SFTRow]
    progress: Progress = field(default_factory=Silent)
    stop: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def begin(cls, sources: Sources, out: Path, settings: AdaptSettings, progress: Progress, stop: threading.Event) -> Adaptation:
        """Check all that can be checked before anything is computed."""
        base, instruct = find_pretrained(sources.base), find_base(sources.instruct)
        check_tuned_from(base, instruct)
        check_same(load_tokenizer(base), load_tokenizer(instruct))
        learned, held = cls._texts(sources, settings)
        rows = () if sources.rows is None else read_sft_rows(sources.rows)
        if rows:  # what is wrong with them is said now, and not after hours
            check_rows(_rendered(load_tokenizer(instruct), rows), settings.calibration)
        _check_plan(out, _plan(sources, settings, base, instruct))
        return cls(sources, out, settings, base, instruct, learned, held, rows, progress, stop)

    @staticmethod
    def _texts(sources: Sources, settings: AdaptSettings) -> tuple[Sequence[Piece], Sequence[Piece]]:
        pieces = read_corpus(sources.texts)
        return (pieces, read_corpus(sources.held_out)) if sources.held_out else hold_out(pieces, settings.held_out, settings.seed)

    def run(self) -> AdaptReport:
        """All stages, of which those that are done are not done again."""
        tokenizer = self._stage("tokenizer", self._tokenizer, "tokenizer")
        before = self._stage("before", self._before)
        training = self._stage("training", self._train, "embeddings.safetensors")
        propagation = self._stage("propagation", self._propagate, "model")
        after = self._stage("after", lambda: {"nats": self._nats_after("model")})
        calibration = self._stage("calibration", self._calibrate) if self.rows else None
        nats: dict[str, Any] = {
            f"{self.base.name}, as it was": before["base"],
            f"{self.base.name}, new vocabulary, untrained": training["nats_before"],
            f"{self.base.name}, new vocabulary, trained": training["nats_after"],
            f"{self.instruct.name}, as it was": before["instruct"],
            f"{self.instruct.name}, new vocabulary, untrained": propagation["nats_untrained"],
            f"{self.instruct.name}, adapted": after["nats"],
        }
        if calibration:
            nats[f"{self.instruct.name}, adapted and calibrated"] = calibration["nats"]
        return AdaptReport(
            base=self.base.name,
            instruct=self.instruct.name,
            mode=self.settings.mode,
            projection=self.settings.projection,
            tokenizers=tuple(TokenizerMeasure.model_validate(one) for one in cast("list[Any]", tokenizer["measures"])),
            copied=cast(int, tokenizer["copied"]),
            averaged=cast(int, tokenizer["averaged"]),
            quality=tuple(Quality(name=name, nats=value, characters=self._characters) for name, value in nats.items()),
            training=cast("Facts", training["facts"]),
            aligned=tuple(Aligned.model_validate(one) for one in cast("list[Any]", propagation["aligned"])),
            calibration=None if calibration is None else cast("Facts", calibration["facts"]),
            model=str(self.out / "model"),
            calibrated=None if calibration is None else cast(str, calibration["place"]),
        )

    def _stage(self, name: str, work: Callable[[], Facts], made: str | None = None) -> Facts:
        """What a stage found, which is kept; it is done again where what it made is gone."""
        known: dict[str, Facts] = _read(self.out / STAGES) or {}
        if name in known and (made is None or (self.out / made).exists()):
            return known[name]
        found = work()
        write_atomically(self.out / STAGES, json.dumps({**known, name: found}, indent=1) + "\n")
        return found

    # -- the stages

    def _tokenizer(self) -> Facts:
        old = load_tokenizer(self.instruct)
        check_lossless(old, [*self.learned, *self.held])
        with whole_folder(self.out / "tokenizer") as folder:
            texts = (piece.text for piece in self.learned)
            new = train_tokenizer(old, texts, folder, size=self.settings.vocabulary, mode=self.settings.mode)
            check_lossless(new, [*self.learned, *self.held])
        known, ours = Vocabulary.of(old), Vocabulary.of(new)
        copied = sum(token in known.ids for token in ours.ids)
        measures: list[JsonValue] = [self._measure("before", old), self._measure("after", new)]
        return {"measures": measures, "copied": copied, "averaged": len(ours.ids) - copied}

    def _measure(self, name: str, tokenizer: PreTrainedTokenizerBase) -> Facts:
        tokens = sum(map(len, PlainEncoder(tokenizer)([piece.text for piece in self.held])))
        return {"name": name, "vocabulary": len(Vocabulary.of(tokenizer).ids), "tokens": tokens, "characters": self._characters}

    @property
    def _characters(self) -> int:
        return sum(len(piece.text) for piece in self.held)

    def _before(self) -> Facts:
        return {
            "base": self._nats(load_causal_lm(self.base), load_tokenizer(self.base)),
            "instruct": self._nats(load_causal_lm(self.instruct), load_tokenizer(self.instruct)),
        }

    def _nats(self, model: Any, tokenizer: PreTrainedTokenizerBase, autocast: Any = None) -> float:
        return nats_of(model, PlainEncoder(tokenizer), self.held, Vocabulary.of(tokenizer).ids[self._separator], autocast)

    def _nats_after(self, folder: str) -> float:
        base = find_base(str(self.out / folder))
        return self._nats(load_causal_lm(base), load_tokenizer(base))

    @cached_property
    def _separator(self) -> str:
        return separator_of(load_tokenizer(self.base), load_tokenizer(self.instruct))

    @cached_property
    def _new(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(Base("tokenizer", self.out / "tokenizer", "", "", ""))

    def _train(self) -> Facts:
        """Train the base's tables; what they and the last layers learned is written to embeddings.safetensors."""
        settings, new = self.settings.training, Vocabulary.of(self._new)
        model, autocast = load_to_train(self.base, settings)
        parts = parts_of(load_tokenizer(self.base), new)
        before = {name: value.detach().cpu().clone() for name, value in model.named_parameters()} if settings.train_layers else {}
        set_tables(model, converted(tables_of(model), parts))
        blocks = text_blocks(PlainEncoder(self._new), self.learned, new.ids[self._separator], settings.max_length)
        untrained = self._nats(model, self._new, autocast)
        place = Place(self.out / "training", lambda total: self.progress.stage("embeddings", total), self.stop)
        facts = train_embeddings(model, blocks, settings, place, seed=self.settings.seed, autocast=autocast)
        trained = tables_of(model)
        arrays = {f"layer.{name}": change.numpy() for name, change in layer_changes(before, model).items()}
        self._save({"input": trained.input, **({} if trained.output is None else {"output": trained.output}), **arrays})
        clear(place.folder)
        return {"facts": facts, "nats_before": untrained, "nats_after": self._nats(model, self._new, autocast)}

    def _save(self, arrays: Mapping[str, Any]) -> None:
        beside = self.out / ".embeddings.part"
        save_file(dict(arrays), beside)
        beside.replace(self.out / "embeddings.safetensors")

    def _propagate(self) -> Facts:
        """Write OUT/model."""
        arrays = load_file(self.out / "embeddings.safetensors")
        new, old = Vocabulary.of(self._new), load_tokenizer(self.instruct)
        trained = Tables(arrays["input"], arrays.get("output"))
        ours = tables_of(load_causal_lm(self.base, "float32", "cpu")), parts_of(load_tokenizer(self.base), new)
        model: Any = load_causal_lm(self.instruct, stored_dtype(self.instruct), "cpu")
        theirs = tables_of(model), parts_of(old, new)
        found, aligned = carried(trained, ours, theirs, Shared.of(new, Vocabulary.of(old)), self.settings.projection)
        set_tables(model, converted(*theirs))
        untrained = self._nats(model.float().to(place_of()), self._new)
        model.to(getattr(_torch(), stored_dtype(self.instruct)))
        set_tables(model, found)
        _add_changes(model, {name.removeprefix("layer."): rows for name, rows in arrays.items() if name.startswith("layer.")})
        moved_ids(model, Vocabulary.of(old).ids, new.ids)
        write_model(model, self._new, self.out / "model")
        return {"nats_untrained": untrained, "aligned": cast("list[JsonValue]", [_fact(name, one) for name, one in aligned.items()])}

    def _calibrate(self) -> Facts:
        """Train a LoRA on the rows, and merge it in unless it is to stay an adapter."""
        base = find_base(str(self.out / "model"))
        tokenizer = tokenizer_for(base)
        job = Job(base, tokenizer, self.out / "calibration", seed=self.settings.seed, stop=self.stop, stage=self._calibrating)
        trained = train_sft(job, _rendered(tokenizer, self.rows), self.settings.calibration)
        adapter = save_adapter(trained.model, base, self.out / "adapters", facts={"learner": "calibration", **trained.facts})
        merged: Any = load_adapter(load_causal_lm(base, "float32"), adapter).merge_and_unload()
        nats = self._nats(merged, self._new)
        place = Path(adapter.folder)
        if not self.settings.keep_adapter:
            place = self.out / "calibrated"
            write_model(merged.to(getattr(_torch(), stored_dtype(base))), self._new, place)
        trained.clear()
        return {"facts": trained.facts, "nats": nats, "place": str(place)}

    def _calibrating(self, total: int) -> Any:
        return self.progress.stage("calibration", total)


def _rendered(tokenizer: PreTrainedTokenizerBase, rows: Sequence[SFTRow]) -> list[TokenRow]:
    return [part for row in rows for part in render_turns(tokenizer, row)]


def carried(
    trained: Tables, base: tuple[Tables, Any], instruct: tuple[Tables, Any], shared: Shared, projection: Projection
) -> tuple[Tables, dict[str, Alignment]]:
    """The instruct model's tables after propagation, and each one's alignment by its name.

    base, instruct: (old tables, parts of the new tokens). Where the base has one table and the instruct model two, what the one learned
    goes to both, each by its own projection. Raises `InputError` where the instruct model has one and the base two.
    """
    (ours, own), (theirs, their) = base, instruct
    if ours.output is not None and theirs.output is None:
        raise InputError("the base has an output table of its own, and the instruct model has none: it cannot hold both", field="INSTRUCT")
    one_table = theirs.output is None
    inside, first = propagate(trained.input, Table(ours.input, own), Table(theirs.input, their), shared, projection)
    if one_table or theirs.output is None:
        return Tables(inside), {"input and output": first}
    outputs = trained.input if trained.output is None else trained.output, ours.input if ours.output is None else ours.output
    outside, second = propagate(outputs[0], Table(outputs[1], own), Table(theirs.output, their), shared, projection)
    return Tables(inside, outside), {"input": first, "output": second}


def converted(tables: Tables, parts: Any) -> Tables:
    """Tables in a new vocabulary: sub-token means, unchanged tokens copied."""
    return Tables(Table(tables.input, parts).converted(), None if tables.output is None else Table(tables.output, parts).converted())


def _add_changes(model: Any, changes: Mapping[str, Any]) -> None:
    own = dict(model.named_parameters())
    for name, change in changes.items():
        own[name].data += _torch().from_numpy(change).to(own[name])


def _fact(table: str, found: Alignment) -> Facts:
    return {
        "table": table,
        "rows": found.rows,
        "rank": found.rank,
        "residual": round(found.residual, 9),
        "apart": round(found.apart, 9),
        "note": found.note,
    }


def _torch() -> Any:
    import torch

    return torch


# -- the plan of a folder


def _plan(sources: Sources, settings: AdaptSettings, base: Base, instruct: Base) -> Facts:
    def hashed(paths: Sequence[Path]) -> list[JsonValue]:
        return [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in paths]

    own = settings.model_dump(mode="json", exclude={"training": {"save_minutes"}})
    return {
        "base": [base.base_id, base.tokenizer_id],
        "instruct": [instruct.base_id, instruct.tokenizer_id, instruct.template_id],
        "text": hashed(sources.texts),
        "held-out text": hashed(sources.held_out),
        "calibration rows": hashed([sources.rows] if sources.rows else []),
        **{name.replace("_", " "): value for name, value in own.items()},
    }


def _check_plan(out: Path, plan: Facts) -> None:
    """Begin the folder, or go on in it. Raises `InputError` where something else is in it."""
    known = _read(out / PLAN)
    if known is None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError("there is something else here already; name a folder that is new or empty", file=out, field="--out")
        write_atomically(out / PLAN, json.dumps(plan, indent=1) + "\n")
        return
    different = [name for name in plan if known.get(name) != plan[name]]
    if different:
        raise InputError(
            f"this folder holds another run: it differs in {', '.join(different)}. Name another folder, or use the same arguments",
            file=out,
            field="--out",
        )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise InputError("this file is damaged; remove it and run again", file=path) from None
