"""The scripts, on hands: the demo, and FreiHAND with MANO in their own formats."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fastvit.tasks.hand_mesh.mano import read_mano
from hands import mano_like, write_freihand
from launch import script

ROOT = Path(__file__).parent.parent
DEMO = str(ROOT / "configs" / "quickstart" / "hand_mesh_synthetic.yaml")
FREIHAND = str(ROOT / "configs" / "hand_mesh" / "freihand_ma36.yaml")


train, evaluate = script("train"), script("evaluate")


@pytest.mark.slow
def test_freihand_and_mano_from_their_files_to_the_challenge_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    np.savez(tmp_path / "MANO_RIGHT.npz", **mano_like())
    write_freihand(tmp_path / "FreiHAND", read_mano(tmp_path / "MANO_RIGHT.npz"))
    paths = [f"data.root={tmp_path / 'FreiHAND'}", f"model.mano={tmp_path / 'MANO_RIGHT.npz'}"]
    small = ["model.name=fastvit_t8", "model.pretrained=false", "data.image_size=64", "data.workers=0"]
    short = ["schedule.epochs=1", "schedule.shape=cosine", "schedule.milestones=[]", "loop.batch_size=4"]
    run = tmp_path / "run"
    train([FREIHAND, f"output={run}", *paths, *small, *short])
    capsys.readouterr()
    evaluate([str(run)])
    printed = capsys.readouterr().out
    for row in ("pa mpjpe mm", "baseline mpjpe mm", "f15", "fusion error", "speed-up"):
        assert row in printed
    result = json.loads((run / "evaluation.json").read_text())
    assert result["fused"]["samples"] == 2
    assert result["fusion_error"] < 1e-5
    assert (run / "predictions.png").stat().st_size > 10_000
    joints, vertices = json.loads((run / "pred.json").read_text())
    assert (np.shape(joints), np.shape(vertices)) == ((2, 21, 3), (2, 778, 3))
    held = torch.load(run / "best.pt")["state_dict"]
    assert not [name for name, value in held.items() if 778 in value.shape]  # nothing of MANO in a checkpoint

    (tmp_path / "MANO_RIGHT.npz").unlink()
    with pytest.raises(SystemExit):
        evaluate([str(run)])
    assert "register at https://mano.is.tue.mpg.de" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)  # six minutes of a processor, and others may run beside it
def test_the_demo_learns_hands_that_it_has_not_seen(tmp_path: Path):
    run = tmp_path / "run"
    train([DEMO, f"output={run}"])
    evaluate([str(run)])
    fused = json.loads((run / "evaluation.json").read_text())["fused"]
    assert fused["pa_mpjpe_mm"] <= 0.7 * fused["baseline_mpjpe_mm"]
    assert fused["pa_mpvpe_mm"] <= 0.75 * fused["baseline_mpvpe_mm"]
