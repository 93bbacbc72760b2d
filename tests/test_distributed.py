"""Two processes learn what one learns: replicated under accelerate, and sharded (FSDP2), on CPUs over gloo."""

from __future__ import annotations

import json
import os
import random
import socket
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="extra `train` is not installed")
pytest.importorskip("accelerate", reason="extra `train` is not installed")
pytestmark = pytest.mark.torch

from safetensors.torch import load_file, save_file  # noqa: E402

from toy_weights import make_toy  # noqa: E402
from tutelage.training.base import find_base  # noqa: E402
from tutelage.training.policy_gradient import PolicyGradient, Sample  # noqa: E402
from tutelage.training.ranks import Ranks, whole  # noqa: E402
from tutelage.training.settings import Lora, TrainSettings  # noqa: E402
from tutelage.training.trainer import PolicyTrainer  # noqa: E402

CASES = {
    "grpo": ({"beta": 0.1, "num_iterations": 2}, Lora(r=4)),
    "grpo-full": ({"loss_type": "grpo"}, None),
    "ppo": ({"algorithm": "ppo", "num_iterations": 2, "value_learning_rate": 0.01}, Lora(r=4)),
    "foreign": ({"importance_sampling_correction": True, "importance_sampling_mode": "sequence_truncate"}, None),
}
REPORTED = ("loss", "grad_norm", "entropy", "ratio_max", "tokens", "reward")


def batches() -> list[list[Sample]]:
    """Three batches of ragged samples; in the last, one sample alone has anything to teach."""
    rng, made = random.Random(0), []
    for number in range(2):
        samples = []
        for place in range(7):
            prompt = [5 + place // 4] * (4 + place // 4)
            completion = [rng.randrange(3, 100) for _ in range(rng.randrange(1, 30))]
            action = (False,) * len(prompt) + (True,) * len(completion)
            known = tuple(-4.6 + rng.gauss(0, 0.1) for _ in action)
            samples.append(Sample((*prompt, *completion), action, str(place // 4), f"{number}/{place}", rng.random(), known))
        made.append(samples)
    told = Sample((9, 9, 9, 9), (False, False, True, True), "x", "one", 1.0, (-4.6,) * 4)
    untold = Sample((9, 9), (False, False), "x", "other", 0.0)
    return [*made, [told, untold]]


def train(case: str, base_folder: str, folder: Path, ranks: object) -> tuple[PolicyTrainer, list[dict[str, float]]]:
    options, lora = CASES[case]
    settings = TrainSettings(learning_rate=1e-3, lora=lora, warmup_ratio=0.0)
    policy = PolicyGradient(max_tokens_per_micro_batch=60, **options)
    trainer = PolicyTrainer(find_base(base_folder), settings, policy, folder, total_updates=3, accelerator=ranks)
    reports = []
    for number, samples in enumerate(batches()):
        reports.append(trainer.update(samples if trainer.ranks.main else []))
        if number == 1:  # go on from a checkpoint in a fresh trainer
            trainer.checkpoint({"number": number})
            trainer = PolicyTrainer(find_base(base_folder), settings, policy, folder, total_updates=3, accelerator=ranks)
            assert trainer.restore() == {"number": 1}
    return trainer, reports


def learned(trainer: PolicyTrainer) -> dict[str, torch.Tensor]:
    return {name: whole(weight.detach()).clone() for name, weight in trainer.network.named_parameters() if weight.requires_grad}


def work(rank: int, base_folder: str, folder: str, port: int) -> None:
    """What each of the two processes does."""
    from accelerate import Accelerator

    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    accelerator = Accelerator(cpu=True)
    assert (accelerator.num_processes, accelerator.process_index) == (2, rank)
    try:
        kinds = {"replicated": accelerator, "sharded": Ranks(2, rank, sharded=True, device="cpu")}
        for kind, ranks in kinds.items():
            for case in CASES:
                run_one(f"{kind}-{case}", case, base_folder, Path(folder), ranks)
    finally:
        torch.distributed.destroy_process_group()


def run_one(name: str, case: str, base_folder: str, folder: Path, ranks: object) -> None:
    trainer, reports = train(case, base_folder, folder / "run" / name, ranks)
    weights = learned(trainer)
    if trainer.ranks.sharded:
        assert any(hasattr(weight, "full_tensor") for weight in trainer.network.parameters()), "the weights are in parts"
    others = [torch.zeros_like(torch.cat([weight.flatten() for weight in weights.values()])) for _ in range(2)]
    torch.distributed.all_gather(others, torch.cat([weight.flatten() for weight in weights.values()]))
    assert torch.equal(*others), "both processes hold the same weights"
    adapter = trainer.save_adapter(folder / "adapters" / name, {})
    if trainer.ranks.main:
        save_file(weights, folder / f"{name}.safetensors")
        (folder / f"{name}.json").write_text(json.dumps({"reports": reports, "adapter": adapter.folder}))


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory) -> str:
    return str(make_toy(tmp_path_factory.mktemp("toy"), width=32))


@pytest.fixture(scope="module")
def together(base_folder, tmp_path_factory) -> Path:
    """Both processes have run; what they learned lies here."""
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, (base_folder, str(folder), port), nprocs=2)
    return folder


@pytest.mark.parametrize("kind", ["replicated", "sharded"])
@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_does(kind, case, together, base_folder, tmp_path):
    alone, reports = train(case, base_folder, tmp_path / "alone", None)
    theirs = load_file(together / f"{kind}-{case}.safetensors")
    own = learned(alone)
    assert own.keys() == theirs.keys()
    for name, weight in own.items():
        assert torch.allclose(weight, theirs[name], atol=1e-5), name
    said = json.loads((together / f"{kind}-{case}.json").read_text())
    for mine, other in zip(reports, said["reports"], strict=True):
        for name in REPORTED:
            assert mine[name] == pytest.approx(other[name], abs=1e-4), name
    saved = alone.save_adapter(tmp_path / "adapters", {})
    file = "adapter_model.safetensors" if saved.kind == "lora" else "model.safetensors"
    mine, other = load_file(Path(saved.folder) / file), load_file(Path(said["adapter"]) / file)
    assert mine.keys() == other.keys()
    assert all(torch.allclose(mine[name], other[name], atol=1e-5) for name in mine)
