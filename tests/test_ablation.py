"""The rows of the paper's ablations: what distinguishes them, that they fuse, that they train."""

from pathlib import Path

import pytest
import timm
import torch

import fastvit
from fastvit.benchmark.work import macs, parameters
from fastvit.tasks.network import register_models
from launch import script
from reference import randomize

ROOT = Path(__file__).parent.parent
register_models(ROOT / "configs" / "ablation" / "networks.py")
NAMES = sorted(timm.list_models("ablation_*"))
DIMS, DEPTHS = (64, 128, 256, 512), (2, 2, 6, 2)
train = script("train")


def fused(name: str) -> torch.nn.Module:
    return fastvit.reparameterize_model(timm.create_model(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_row_fuses_completely(name: str):
    torch.manual_seed(0)
    model = randomize(timm.create_model(name, num_classes=10))
    folded = fastvit.reparameterize_model(model)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert fastvit.fusion_error(model, folded, (3, 64, 64)) < 1e-5


@pytest.mark.parametrize(
    ("name", "paper_gmacs"),
    [
        ("poolformer_s12", 2.4),
        ("ablation_repmixer", 2.4),
        ("ablation_factorized", 1.7),
        ("ablation_overparameterized", 1.7),
        ("ablation_large_ffn", 1.8),
        ("fastvit_s12", 1.8),
    ],
)
def test_work_is_the_paper_s(name: str, paper_gmacs: float):
    assert round(macs(fused(name), (3, 256, 256)) / 1e9, 1) == paper_gmacs


@pytest.mark.slow
def test_steps_add_what_they_say():
    """Fused, the steps of table 1 differ in nothing but the kernels that grow."""
    count = {name: parameters(fused(name)) for name in (*NAMES, "fastvit_s12", "fastvit_sa12")}
    assert count["ablation_factorized"] == count["ablation_overparameterized"]
    seven_by_seven_and_bias = sum(depth * dim * 50 for depth, dim in zip(DEPTHS, DIMS, strict=True))
    assert count["ablation_large_ffn"] - count["ablation_overparameterized"] == seven_by_seven_and_bias
    assert count["fastvit_s12"] - count["ablation_large_ffn"] == sum(dim * (49 - 9) for dim in DIMS[1:])
    assert count["ablation_s12_plain"] == count["fastvit_s12"]
    assert count["fastvit_sa12"] - count["ablation_sa12_no_cpe"] == 512 * 50
    blocks = sum(depth * dim for depth, dim in zip(DEPTHS, DIMS, strict=True)) + sum(DIMS[1:])
    assert count["ablation_s12_kernel9"] - count["ablation_s12_kernel5"] == blocks * (81 - 25)
    # Table 4: V2 is 20 % larger than V4.
    assert count["ablation_v2"] / count["fastvit_s12"] == pytest.approx(1.20, abs=0.01)


def test_over_parameterization_is_about_training_only():
    plain, full = timm.create_model("ablation_s12_plain"), timm.create_model("fastvit_s12")
    assert parameters(plain) < parameters(full)
    scales = [module.conv_scale for module in plain.modules() if isinstance(module, fastvit.RepConv)]
    assert len(list(filter(None, scales))) == sum(DEPTHS)  # those of the token mixers


def test_there_are_no_weights_to_download():
    with pytest.raises(ValueError, match="there are no weights of ablation_v2"):
        timm.models.model_entrypoint("ablation_v2")(pretrained=True)


def _one_epoch(name: str, folder: Path) -> float:
    short = ["schedule.epochs=1", "schedule.warmup_epochs=0", "loop.batch_size=64"]
    train([str(ROOT / "configs" / "ablation" / "digits.yaml"), f"model.name={name}", f"output={folder}", *short])
    return torch.load(folder / "best.pt")["metrics"]["train_loss"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_row_trains(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert _one_epoch(name, tmp_path / "run") < 2.3  # log(10): knowing nothing
