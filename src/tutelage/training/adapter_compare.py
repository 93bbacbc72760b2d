"""How two adapters of one base differ, layer by layer, in the weights that they change. No torch is needed, nor memory for a whole model.

Compared are the changes of each layer's weight: scale * B A of a LoRA adapter, learned minus base of a whole model, which is read some rows
at a time. Of two LoRA changes everything follows from their thin singular value decompositions, so the changes themselves are never made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from tutelage.adapter import Adapter, StoredTensor, check_base, stored_tensors, verify
from tutelage.errors import InputError
from tutelage.records import Record
from tutelage.training.base import Base
from tutelage.training.gguf_adapter import values_of
from tutelage.training.lora_pairs import Pair, read_pairs

if TYPE_CHECKING:
    import numpy as np

_BLOCK = 1 << 20
"""Entries of a weight that are looked at together."""
_TINY = 1e-6
"""Singular values below this share of the largest are rounding."""


class LayerDifference(Record):
    """Two changes of one weight. shape: (out, in); of a vector (n, 1).

    norm_first, norm_second: Frobenius norms. cosine: of the changes as vectors (None: one of them is zero). difference: the norm of their
    difference, divided by the sum of their norms: 0 for equal ones, 0.71 for orthogonal ones of one length, 1 for opposite ones.
    overlap_in, overlap_out: the mean squared cosine of the principal angles between the spaces that they read from and write to; 0
    for orthogonal spaces, 1 where one lies in the other (None: one is zero, or no LoRA change).
    """

    name: str
    shape: tuple[int, int]
    norm_first: float
    norm_second: float
    cosine: float | None
    difference: float
    overlap_in: float | None = None
    overlap_out: float | None = None


class AdapterComparison(Record):
    """first, second: ids. same_base: whether they belong to the same weights; else there are no numbers.

    settings: what the configurations and manifests say, side by side, where one says something. overall: all layers as one vector (None:
    not compared). layers: those that differ most first. left_out: what is not compared, and why.
    """

    first: str
    second: str
    same_base: bool
    settings: dict[str, tuple[JsonValue, JsonValue]]
    overall: LayerDifference | None = None
    layers: tuple[LayerDifference, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def differing(self) -> dict[str, tuple[JsonValue, JsonValue]]:
        """The settings that are not the same."""
        return {name: pair for name, pair in self.settings.items() if pair[0] != pair[1]}


def compare_adapters(first: Adapter, second: Adapter, base: Base | None = None) -> AdapterComparison:
    """Compare what two adapters are and what they do to each weight. base: needed where one of them is a whole model, and else not read.

    Raises `InputError` for adapters that are damaged, a base that is another or not given, and LoRA that is more than low-rank sums.
    """
    for adapter in (first, second):
        verify(adapter)
    said = (settings_of(first), settings_of(second))
    settings = {name: (said[0].get(name), said[1].get(name)) for name in {**said[0], **said[1]}}
    if first.base != second.base:
        why = f"they belong to different weights ({first.base_name} and {second.base_name}), so their changes cannot be compared"
        return AdapterComparison(first=first.id, second=second.id, same_base=False, settings=settings, left_out=(why,))
    left_out: list[str] = []
    ours, theirs = (_changes(adapter, base, left_out) for adapter in (first, second))
    measured = [_compare(name, ours.get(name), theirs.get(name), left_out) for name in sorted({*ours, *theirs})]
    layers = [one for one in measured if one is not None]
    return AdapterComparison(
        first=first.id,
        second=second.id,
        same_base=True,
        settings=settings,
        overall=_overall(layers),
        layers=tuple(sorted((one.layer for one in layers), key=lambda layer: (-layer.difference, layer.name))),
        left_out=tuple(left_out),
    )


def settings_of(adapter: Adapter) -> dict[str, JsonValue]:
    """What there is to know of an adapter without reading its weights: what it belongs to, its shape, and how it was made."""
    said: dict[str, JsonValue] = {name: getattr(adapter, name) for name in ("kind", "base", "base_name", "tokenizer", "template")}
    if adapter.kind == "lora":
        config = read_pairs(adapter).config
        names = ("r", "lora_alpha", "target_modules", "use_rslora", "modules_to_save", "trainable_token_indices")
        said |= {name: config[name] for name in names if config.get(name)}
    return said | _flat(adapter.facts)


def _flat(facts: Mapping[str, JsonValue], before: str = "") -> dict[str, JsonValue]:
    """settings: {lora: {r: 8}} -> settings.lora.r: 8."""
    flat: dict[str, JsonValue] = {}
    for name, value in facts.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
    return flat


@dataclass(frozen=True)
class _LoraChange:
    pair: Pair

    @property
    def shape(self) -> tuple[int, int]:
        return self.pair.shape

    def rows(self, start: int, stop: int) -> np.ndarray:
        low, high = self._factors()
        rows: np.ndarray = high[start:stop] @ low
        return rows

    def thin(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(U (out, k), singular values (k,), V (in, k)) of the change, without those that are rounding."""
        import numpy as np

        low, high = self._factors()
        (into, out_core), (from_, in_core) = np.linalg.qr(high), np.linalg.qr(low.T)
        left, values, right = np.linalg.svd(out_core @ in_core.T)
        kept = values > _TINY * values[0]  # of a change that is zero none
        return into @ left[:, kept], values[kept], from_ @ right.T[:, kept]

    def _factors(self) -> tuple[np.ndarray, np.ndarray]:
        """(A, scale * B) in float64; read when needed and not kept."""
        low, high = self.pair.read()
        return low.astype("f8"), high.astype("f8") * self.pair.scale


@dataclass(frozen=True)
class _WholeChange:
    learned: StoredTensor
    base: StoredTensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.learned.shape[0], math.prod(self.learned.shape[1:])

    def rows(self, start: int, stop: int) -> np.ndarray:
        learned, base = (values_of(_rows(tensor, start, stop)) for tensor in (self.learned, self.base))
        rows: np.ndarray = learned.astype("f8") - base
        return rows.reshape(stop - start, -1)


_Change = _LoraChange | _WholeChange


@dataclass(frozen=True)
class _Measured:
    """product: the inner product of the changes."""

    layer: LayerDifference
    product: float


def _rows(tensor: StoredTensor, start: int, stop: int) -> StoredTensor:
    size = (tensor.end - tensor.start) // max(1, tensor.shape[0])
    shape = (stop - start, *tensor.shape[1:])
    return replace(tensor, shape=shape, start=tensor.start + start * size, end=tensor.start + stop * size)


def _changes(adapter: Adapter, base: Base | None, left_out: list[str]) -> Mapping[str, _Change]:
    """By the layer's name, as transformers has it without `.weight`."""
    if adapter.kind == "lora":
        lora = read_pairs(adapter)
        left_out += [f"{name}: {adapter.id} replaces it, or rows of it" for name in lora.others]
        return {name: _LoraChange(pair) for name, pair in lora.pairs.items()}
    if base is None:
        raise InputError(f"all weights of {adapter.base_name} were trained; to see what changed, name it as the base", file=adapter.folder)
    check_base(adapter, base.name, base.base_id)
    found: dict[str, _Change] = {}
    known = stored_tensors(base.folder)
    for name, tensor in stored_tensors(Path(adapter.folder)).items():
        if name not in known or known[name].shape != tensor.shape:
            left_out.append(f"{name}: the base has none of the shape {list(tensor.shape)}")
        else:
            found[name.removesuffix(".weight")] = _WholeChange(tensor, known[name])
    return found


def _compare(name: str, first: _Change | None, second: _Change | None, left_out: list[str]) -> _Measured | None:
    if first is not None and second is not None and first.shape != second.shape:
        left_out.append(f"{name}: it is {list(first.shape)} in one and {list(second.shape)} in the other")
        return None
    if isinstance(first, _LoraChange | None) and isinstance(second, _LoraChange | None):
        return _compare_lora(name, first, second)
    return _compare_dense(name, first, second)


def _compare_lora(name: str, first: _LoraChange | None, second: _LoraChange | None) -> _Measured:
    import numpy as np

    shape = _shape(first, second)
    known = [change.thin() for change in (first, second) if change is not None]
    lengths = iter([float(np.linalg.norm(sizes)) for _, sizes, _ in known])
    norms = [0.0 if change is None else next(lengths) for change in (first, second)]
    if not all(norms):
        return _measured(name, shape, norms, 0.0, None)
    (out_first, sizes_first, in_first), (out_second, sizes_second, in_second) = known
    out_angles, in_angles = out_first.T @ out_second, in_first.T @ in_second
    product = float(sizes_first @ (out_angles * in_angles) @ sizes_second)
    fewer = min(len(sizes_first), len(sizes_second))
    overlaps = [min(1.0, float((angles**2).sum()) / fewer) for angles in (in_angles, out_angles)]
    measured = _measured(name, shape, norms, product, None)
    return replace(measured, layer=measured.layer.model_copy(update={"overlap_in": overlaps[0], "overlap_out": overlaps[1]}))


def _compare_dense(name: str, first: _Change | None, second: _Change | None) -> _Measured:
    import numpy as np

    shape = _shape(first, second)
    sums = np.zeros(4)
    for start, stop in _blocks(shape):
        one, other = (0.0 if change is None else change.rows(start, stop) for change in (first, second))
        sums += [np.sum(one * one), np.sum(other * other), np.sum(one * other), np.sum((one - other) ** 2)]
    return _measured(name, shape, [math.sqrt(sums[0]), math.sqrt(sums[1])], float(sums[2]), math.sqrt(sums[3]))


def _blocks(shape: tuple[int, int]) -> Iterator[tuple[int, int]]:
    step = max(1, _BLOCK // max(1, shape[1]))
    return ((start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def _shape(*changes: _Change | None) -> tuple[int, int]:
    return next(change.shape for change in changes if change is not None)


def _measured(name: str, shape: tuple[int, int], norms: list[float], product: float, apart: float | None) -> _Measured:
    """apart: the norm of the difference (None: it follows from the others)."""
    if apart is None:
        apart = math.sqrt(max(0.0, norms[0] ** 2 + norms[1] ** 2 - 2 * product))
    layer = LayerDifference(
        name=name,
        shape=shape,
        norm_first=norms[0],
        norm_second=norms[1],
        cosine=max(-1.0, min(1.0, product / (norms[0] * norms[1]))) if all(norms) else None,
        difference=apart / sum(norms) if any(norms) else 0.0,
    )
    return _Measured(layer, product)


def _overall(layers: Iterable[_Measured]) -> LayerDifference | None:
    """All layers as one long vector."""
    known = list(layers)
    if not known:
        return None

    def length(of: Callable[[LayerDifference], float]) -> float:
        return math.sqrt(sum(of(one.layer) ** 2 for one in known))

    norms = [length(lambda layer: layer.norm_first), length(lambda layer: layer.norm_second)]
    apart = length(lambda layer: layer.difference * (layer.norm_first + layer.norm_second))
    entries = sum(math.prod(one.layer.shape) for one in known)
    return _measured("all layers", (entries, 1), norms, sum(one.product for one in known), apart).layer
