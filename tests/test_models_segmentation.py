"""The paper's segmenter: its cost, its head, fused and exported."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastvit import fusion_error, reparameterize_model
from fastvit.deploy import export, load
from fastvit.models import semantic_fpn
from reference import randomize, relative_error


@pytest.mark.parametrize(
    ("name", "gmacs", "parameters", "in_table_9"),
    [  # which has giga-MACs and million parameters
        ("fastvit_sa12", 29.3, 14.62e6, (29, 14.1)),
        ("fastvit_sa24", 36.7, 24.57e6, (37, 23.8)),
        ("fastvit_sa36", 44.1, 34.52e6, (44, 33.6)),
        ("fastvit_ma36", 53.1, 46.84e6, (53, 45.7)),
    ],
)
def test_the_cost_is_nearly_table_9_s(name: str, gmacs: float, parameters: float, in_table_9: tuple[float, float]):
    """It computes as much, and has up to 4 % more parameters."""
    with torch.device("meta"):
        fused = reparameterize_model(semantic_fpn(name, num_classes=150))
        image = torch.empty(1, 3, 512, 512)
    with FlopCounterMode(display=False) as counter:
        assert fused(image).shape == (1, 150, 512, 512)
    counted, held = counter.get_total_flops() / 2e9, sum(parameter.numel() for parameter in fused.parameters())
    assert (counted, held) == (pytest.approx(gmacs, abs=0.05), pytest.approx(parameters, rel=1e-3))
    assert (round(counted), held / 1e6) == (in_table_9[0], pytest.approx(in_table_9[1], rel=0.04))


def test_the_head_is_the_sum_of_upsampled_levels():
    """Each step written out for one level at a time, on sizes where nothing has to be resized."""
    model = randomize(semantic_fpn("fastvit_t8", num_classes=5)).eval()
    image = torch.randn(1, 3, 64, 96)
    levels = model.backbone(image)
    total = 0
    for i, name in enumerate("0123"):
        x = levels[name]
        convs = [module for module in model.scale_heads[i] if not isinstance(module, nn.ReLU | nn.Upsample)]
        assert len(convs) == max(1, i)
        for conv in convs:
            x = conv(x).relu()
            if i:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        total = total + x
    expected = F.interpolate(model.classifier(total), (64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(image), expected)


@pytest.mark.parametrize("size", [(64, 64), (97, 70)])
def test_fusing_leaves_no_batch_norm_and_the_same_output(size: tuple[int, int]):
    model = randomize(semantic_fpn("fastvit_sa12", num_classes=5))
    fused = reparameterize_model(model)
    assert fusion_error(model, fused, (3, *size)) < 1e-5
    assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]
    assert fused(torch.randn(1, 3, *size)).shape == (1, 5, *size)


@pytest.mark.slow
def test_the_network_exports_with_any_height_and_width(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    model = randomize(semantic_fpn("fastvit_sa12", num_classes=7)).eval()
    path = tmp_path / "segmenter.onnx"
    export(model, path, torch.randn(2, 3, 96, 64), dynamic=("batch", "size"))
    segmenter = load(path)
    for shape in ((1, 3, 64, 128), (3, 3, 160, 96)):
        images = torch.randn(shape)
        assert relative_error(segmenter(images), model(images)) < 1e-5
