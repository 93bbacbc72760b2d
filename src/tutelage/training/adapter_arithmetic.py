"""Several LoRA adapters of one base combined into one, by peft's `add_weighted_adapter`.

Of the changes D_i = scale_i * B_i A_i and the weights w_i it makes, by method:

 - `cat`: the sum of w_i D_i, exactly; the ranks add up.
 - `svd`: the nearest change of a given rank to that sum.
 - `linear`: A = sum of sqrt(w_i scale_i) A_i and B likewise (of a negative weight A has the sign). Cheap, and not the sum of the changes,
   for every B meets every A. The ranks must be equal.
 - `ties`: of each A and B only the share `density` of the largest entries is kept, each place takes the sign that outweighs the other
   over all adapters, and then the weighted mean of what has that sign.
 - `dare_linear`, `dare_ties`: as `linear` and `ties`, but the entries to be kept are drawn at random and divided by `density`.
 - `magnitude_prune`: as `linear`, of the largest entries.
 - `ties_svd` and so on: the same done to the changes D_i in place of their factors, then the nearest change of a given rank.

Sources: TIES, Yadav et al. 2023 (arXiv:2306.01708); DARE, Yu et al. 2023 (arXiv:2311.03099). Different from TIES: peft elects signs before
the weights are multiplied in, and divides the weighted sum by the number of adapters with the elected sign.

peft works on a model. It is given a skeleton of the layers that the adapters change, with weights that are one zero each, expanded,
so neither the base nor its memory is needed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from tutelage.adapter import Adapter, verify
from tutelage.errors import InputError
from tutelage.records import Record
from tutelage.suggest import unknown
from tutelage.training.adapters import save_lora
from tutelage.training.extra import needs_train
from tutelage.training.lora_pairs import LoraWeights, read_pairs

if TYPE_CHECKING:
    import torch

_PRUNING = ("ties", "dare_linear", "dare_ties", "magnitude_prune")
METHODS = ("cat", "svd", "linear", *_PRUNING, *(f"{name}_svd" for name in _PRUNING))
"""peft's names."""
_SAME_RANK = ("linear", *_PRUNING)
_FIRST_TO_PLACE = ("layers_to_transform", "layers_pattern", "exclude_modules")
"""Settings that choose layers in other ways than by their names."""
_NEW = "combined"


class Combination(Record):
    """How adapters are combined. weights: one for each, of any sign (None: the same for all, one together).

    density: the share of the entries that is kept, for methods that prune. rank: of the outcome of methods that end with `svd` (None: the
    largest of the adapters'). seed: of DARE's draws.
    """

    method: str = "cat"
    weights: tuple[float, ...] | None = None
    density: float | None = None
    rank: int | None = None
    seed: int = 0

    @property
    def prunes(self) -> bool:
        """Whether it needs a density."""
        return self.method.removesuffix("_svd") in _PRUNING

    def weights_for(self, count: int) -> tuple[float, ...]:
        """One weight for each of so many adapters. Raises `InputError` where there are others, or useless ones."""
        weights = self.weights if self.weights is not None else (1 / count,) * count
        if len(weights) != count:
            raise InputError(f"there are {count} adapters and {len(weights)} weights; give one for each", field="weights")
        for weight in weights:
            if not math.isfinite(weight) or weight == 0:
                raise InputError(f"a weight is {weight:g}; write a number, or leave that adapter out", field="weights")
        if "ties" in self.method and min(weights) < 0:
            raise InputError(
                f"`{self.method}` elects signs before it weighs, so what is to be taken away would count as agreement; "
                "take away with cat, svd or linear",
                field="weights",
            )
        return weights

    def check(self) -> None:
        """Raises `InputError` where a setting is unknown, missing, or there for nothing."""
        if self.method not in METHODS:
            raise InputError(unknown("a way of combining adapters", self.method, METHODS), field="method")
        if self.prunes and (self.density is None or not 0 < self.density <= 1):
            raise InputError(f"`{self.method}` keeps a share of the entries; say which, above 0 and up to 1, such as 0.5", field="density")
        if not self.prunes and self.density is not None:
            raise InputError(f"`{self.method}` keeps all entries; leave density out, or choose {', '.join(_PRUNING)}", field="density")
        if self.rank is not None and not self.method.endswith("svd"):
            raise InputError(f"the rank of `{self.method}` follows from the adapters'; leave it out, or choose svd", field="rank")
        if self.rank is not None and self.rank < 1:
            raise InputError("the rank must be 1 or more", field="rank")


def combine_adapters(adapters: Sequence[Adapter], out: Path, how: Combination | None = None) -> Adapter:
    """Combine LoRA adapters of the same base into one and save it at OUT/ID, an ordinary adapter whose facts say what it was made of.

    The same adapters, in the same order, by the same method, give the same id. how: by default the mean, exactly (`cat`). Raises
    `InputError` for adapters that are damaged or cannot be combined, and for settings that do not fit; `MissingExtra` without peft;
    `StoreError` where it cannot be written.
    """
    how = how or Combination()
    how.check()
    weights = how.weights_for(len(adapters))
    _check_belong(adapters)
    read = [read_pairs(adapter) for adapter in adapters]
    _check_combinable(adapters, read, how)
    tensors, rank = _combined(read, weights, how)
    if not any(tensor.any() for tensor in tensors.values()):
        raise InputError("nothing is left of the adapters; raise density", field="density")
    config = _config(read, rank)
    return save_lora(tensors, config, adapters[0], out, facts=_facts(adapters, weights, how, rank))


def _check_belong(adapters: Sequence[Adapter]) -> None:
    if len(adapters) < 2:
        raise InputError("there is one adapter; name two or more", field="adapters")
    first = adapters[0]
    for adapter in adapters:
        verify(adapter)
        if adapter.kind != "lora":
            raise InputError("all weights were trained here, and LoRA adapters are combined", file=adapter.folder)
        for what in ("base", "tokenizer", "template"):
            if getattr(adapter, what) != getattr(first, what):
                raise InputError(
                    f"it belongs to another {what} ({adapter.base_name}, {getattr(adapter, what)}) than {first.folder} does "
                    f"({first.base_name}, {getattr(first, what)}); only adapters of one model are combined",
                    file=adapter.folder,
                )
    for one, other in combinations(adapters, 2):
        if one.id == other.id:
            raise InputError(f"this is the same adapter as {one.folder} ({one.id}); name it once, with a larger weight", file=other.folder)


def _check_combinable(adapters: Sequence[Adapter], read: Sequence[LoraWeights], how: Combination) -> None:
    for adapter, lora in zip(adapters, read, strict=True):
        if lora.others:
            more = f" and {len(lora.others) - 1} more" if len(lora.others) > 1 else ""
            raise InputError(f"it holds more than low-rank sums ({lora.others[0]}{more}), which cannot be added up", file=adapter.folder)
        if lora.config.get("rank_pattern"):
            raise InputError("its layers have different ranks (rank_pattern), which cannot be combined", file=adapter.folder)
    ranks = [_rank(lora) for lora in read]
    if how.method in _SAME_RANK and len(set(ranks)) > 1:
        said = ", ".join(map(str, ranks))
        raise InputError(
            f"`{how.method}` needs adapters of one rank, and these have {said}; choose cat or a method with svd", field="method"
        )
    _check_shapes(adapters, read)
    smallest = min(min(pair.shape) for lora in read for pair in lora.pairs.values())
    if how.method.endswith("svd") and (how.rank or max(ranks)) > smallest:
        raise InputError(f"a layer here has no more than {smallest} rows or columns; give a rank up to that", field="rank")


def _check_shapes(adapters: Sequence[Adapter], read: Sequence[LoraWeights]) -> None:
    known: dict[str, tuple[int, int]] = {}
    for adapter, lora in zip(adapters, read, strict=True):
        if not lora.pairs:
            raise InputError("it changes no layer", file=adapter.folder)
        for name, pair in lora.pairs.items():
            if known.setdefault(name, pair.shape) != pair.shape:
                raise InputError(f"`{name}` is {pair.shape} here and {known[name]} in another", file=adapter.folder)


def _rank(lora: LoraWeights) -> int:
    return int(lora.config.get("r") or next(iter(lora.pairs.values())).rank)


def _combined(read: Sequence[LoraWeights], weights: Sequence[float], how: Combination) -> tuple[dict[str, torch.Tensor], int]:
    """(the tensors of the combined adapter, whose scale is 1, by peft's names; its rank)."""
    with needs_train("combining adapters"):
        import peft
        import torch
        from peft.utils import get_peft_model_state_dict

    names = [f"adapter{number}" for number in range(len(read))]
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
        warnings.simplefilter("ignore")  # of a density of 1, which prunes nothing, and a base that is no model of transformers
        model = peft.get_peft_model(_skeleton(read), _lora_config(read[0]), adapter_name=names[0])
        for name, lora in zip(names[1:], read[1:], strict=True):
            model.add_adapter(name, _lora_config(lora))
        for name, lora in zip(names, read, strict=True):
            _put_in(model, name, lora)
        torch.manual_seed(how.seed)
        model.add_weighted_adapter(
            names,
            list(weights),
            _NEW,
            combination_type=how.method,
            density=how.density,
            svd_rank=how.rank,
            svd_full_matrices=False,
        )
    return get_peft_model_state_dict(model, adapter_name=_NEW, save_embedding_layers=False), int(model.peft_config[_NEW].r)


def _skeleton(read: Sequence[LoraWeights]) -> Any:
    """The layers that the adapters change, in their places. Their weights are one zero each, expanded, so they take no memory."""
    import torch

    shapes = {name: pair.shape for lora in read for name, pair in lora.pairs.items()}
    root = torch.nn.Module()
    for name, (rows, columns) in sorted(shapes.items()):
        *outer, last = name.split(".")
        parent = root
        for part in outer:
            if not hasattr(parent, part):
                parent.add_module(part, torch.nn.Module())
            parent = getattr(parent, part)
        layer = torch.nn.Linear(columns, rows, bias=False, device="meta")
        layer.weight = torch.nn.Parameter(torch.zeros(()).expand(rows, columns), requires_grad=False)
        parent.add_module(last, layer)
    return root


def _lora_config(lora: LoraWeights) -> Any:
    import peft

    kept = {name: lora.config[name] for name in ("lora_alpha", "use_rslora", "alpha_pattern") if lora.config.get(name)}
    return peft.LoraConfig(r=_rank(lora), target_modules=sorted(lora.pairs), **kept)


def _put_in(model: Any, name: str, lora: LoraWeights) -> None:
    import torch

    for path, pair in lora.pairs.items():
        layer = model.base_model.model.get_submodule(path)
        if not math.isclose(layer.scaling[name], pair.scale):
            raise RuntimeError(f"peft's scale of {path} is {layer.scaling[name]}, and ours {pair.scale}")
        for place, values in zip((layer.lora_A, layer.lora_B), pair.read(), strict=True):
            place[name].weight.copy_(torch.from_numpy(values))


def _config(read: Sequence[LoraWeights], rank: int) -> dict[str, Any]:
    """That of the first adapter, with all their layers; the scale is 1, since peft has multiplied the adapters' own in."""
    return {
        **read[0].config,
        "r": rank,
        "lora_alpha": rank,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "lora_dropout": 0.0,
        "init_lora_weights": True,
        **_targets(read),
    }


def _targets(read: Sequence[LoraWeights]) -> dict[str, Any]:
    """Names of layers as the adapters have them, or, where they chose layers in other ways, the full name of each."""
    said = [lora.config.get("target_modules") for lora in read]
    if all(isinstance(names, list) for names in said) and not any(
        lora.config.get(name) is not None for lora in read for name in _FIRST_TO_PLACE
    ):
        return {"target_modules": sorted({name for names in said for name in names or ()})}
    return {"target_modules": sorted({name for lora in read for name in lora.pairs}), **dict.fromkeys(_FIRST_TO_PLACE)}


def _facts(adapters: Sequence[Adapter], weights: Sequence[float], how: Combination, rank: int) -> Mapping[str, JsonValue]:
    parents: list[JsonValue] = [{"id": adapter.id, "weight": weight} for adapter, weight in zip(adapters, weights, strict=True)]
    facts: dict[str, JsonValue] = {"made_by": "combine", "method": how.method, "parents": parents, "rank": rank}
    if how.prunes:
        facts["density"] = how.density
    if "dare" in how.method:
        facts["seed"] = how.seed
    return {**facts, "peft": version("peft")}
