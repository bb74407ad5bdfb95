"""The hand mesh task: losses, predictions, recipe, picture, learning."""

import json
from pathlib import Path

import numpy as np
import pytest
import roma
import torch
from torch import Tensor

from fastvit.errors import DataError, RecipeError
from fastvit.models.hand_mesh import project as project_weakly
from fastvit.models.skinning import ROOT, HandModel
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.hand_mesh.metrics import HandMeshMetrics, root_position
from fastvit.tasks.hand_mesh.synthetic import synthetic_hand
from fastvit.tasks.hand_mesh.task import HandMeshRecovery
from fastvit.training.evaluation import evaluate
from fastvit.training.loaders import eval_loader
from hands import posed_hands

ROOT_FOLDER = Path(__file__).parent.parent
DEMO = ROOT_FOLDER / "configs" / "quickstart" / "hand_mesh_synthetic.yaml"
FREIHAND = ROOT_FOLDER / "configs" / "hand_mesh" / "freihand_ma36.yaml"


def task(*overrides: str) -> HandMeshRecovery:
    return make_task(load_recipe(DEMO, overrides))


def random_prediction(batch: int) -> dict[str, Tensor]:
    rotations, shape = roma.random_rotmat((batch, 16)), torch.randn(batch, 10)
    vertices, joints = HandModel(synthetic_hand())(rotations, shape)
    root, camera = joints[:, ROOT, None], torch.tensor([6.0, 0.1, -0.2]).expand(batch, 3)
    return {
        "vertices": vertices - root,
        "joints": joints - root,
        "camera": camera,
        "rotations": rotations,
        "shape": shape,
        "points": project_weakly(joints - root, camera),
    }


def test_every_loss_is_zero_for_the_truth_and_weighted_otherwise():
    true, predicted = random_prediction(3), random_prediction(3)
    predicted["camera"] = predicted["camera"] * 0.9
    batch = {"image": None, **true}
    weighted = task("losses={vertices: 2, joints: 3, points: 4, rotations: 5, shape: 6}")
    assert all(loss == 0 for loss in weighted.losses(lambda images: true, batch).values())
    losses = weighted.losses(lambda images: predicted, batch)
    points = predicted["camera"][:, None, :1] * predicted["joints"][..., :2] + predicted["camera"][:, None, 1:]
    expected = {
        "vertices": 2 * (predicted["vertices"] - true["vertices"]).abs().mean(),
        "joints": 3 * (predicted["joints"] - true["joints"]).abs().mean(),
        "points": 4 * (points - true["points"]).abs().mean(),
        "rotations": 5 * (predicted["rotations"] - true["rotations"]).square().mean(),
        "shape": 6 * (predicted["shape"] - true["shape"]).square().mean(),
    }
    torch.testing.assert_close(losses, expected)
    for name in ("rotations", "shape"):  # unknown, and not asked for
        del batch[name]
    some = task("losses.rotations=0", "losses.shape=0").losses(lambda images: predicted, batch)
    assert set(some) == {"vertices", "joints", "points"}


def test_the_root_is_found_from_the_camera():
    """Far away, where the weak perspective is exact."""
    intrinsics = torch.tensor([[[48000.0, 0, 120], [0, 48000.0, 100], [0, 0, 1]]]).expand(2, 3, 3)
    root = torch.tensor([[0.05, -0.02, 60.0], [-0.03, 0.06, 70.0]])
    joints = posed_hands(2)["joints"]
    homogeneous = (joints + root[:, None]) @ intrinsics.mT
    pixels = homogeneous[..., :2] / homogeneous[..., 2:]
    points = pixels * 2 / 224 - 1
    scale = 2 * 48000 / (224 * root[:, 2:])
    camera = torch.cat([scale, points[:, ROOT]], 1)
    torch.testing.assert_close(project_weakly(joints, camera), points, atol=5e-3, rtol=0)
    torch.testing.assert_close(root_position(camera, intrinsics, 224), root, atol=1e-4, rtol=1e-5)


def test_predictions_are_written_as_the_challenge_reads_them(tmp_path: Path):
    joints, vertices = torch.randn(5, 21, 3), torch.randn(5, 778, 3)
    metrics = HandMeshMetrics(joints[0], vertices[0])
    metrics.predictions = [(joints[:2], vertices[:2]), (joints[2:], vertices[2:])]
    configured = make_task(load_recipe(FREIHAND, [f"model.mano={tmp_path / 'MANO_RIGHT.pkl'}"]))
    assert configured.write_details(metrics, None, tmp_path) == [tmp_path / "pred.json"]
    read_joints, read_vertices = json.loads((tmp_path / "pred.json").read_text())
    assert np.shape(read_vertices) == (5, 778, 3)
    np.testing.assert_allclose(read_joints, joints, atol=1e-8)
    assert [path.name for path in tmp_path.iterdir()] == ["pred.json"]


def test_metrics_keep_the_predictions_in_the_camera_s_frame_and_in_order():
    demo = task("data.val_size=5", "data.train_size=20", "data.image_size=32")
    val, model = demo.open_data("val").samples, demo.build_model().eval()
    first, second = demo.new_metrics(), demo.new_metrics()
    with torch.no_grad():
        for metrics, part in ((first, (0, 1, 2)), (second, (3, 4))):
            batch = demo.collate([val[i] for i in part])
            metrics.update(demo.predict(model, batch), batch)
        expected = model(torch.stack([val[i]["image"] for i in range(5)]))
    first.merge(second)
    joints, vertices = (torch.cat(parts) for parts in zip(*first.predictions, strict=True))
    roots = joints[:, ROOT, None]
    torch.testing.assert_close(joints - roots, expected["joints"], atol=1e-6, rtol=0)
    torch.testing.assert_close(vertices - roots, expected["vertices"], atol=1e-6, rtol=0)
    intrinsics = torch.stack([val[i]["intrinsics"] for i in range(5)])
    torch.testing.assert_close(roots[:, 0], root_position(expected["camera"], intrinsics, 32), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        (DEMO, ["data.root=x"], "data.root is for FreiHAND, and data.dataset is synthetic"),
        (DEMO, ["data.dataset=freihand"], "data.root is missing: dataset freihand needs it"),
        (FREIHAND, ["model.mano=null"], "model.mano is missing"),
        (FREIHAND, ["data.versions=[gs, home]"], "data.versions.1: should be 'gs', 'hom', 'sample' or 'auto'"),
        (DEMO, ["losses.vertex=1"], "unknown key losses.vertex; did you mean vertices?"),
    ],
)
def test_mistakes_in_a_recipe(recipe: Path, overrides: list[str], message: str):
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, overrides)
    assert message in str(caught.value)


def test_the_recipe_for_freihand_says_where_mano_is_from(tmp_path: Path):
    configured = make_task(load_recipe(FREIHAND, [f"model.mano={tmp_path / 'MANO_RIGHT.pkl'}"]))
    with pytest.raises(DataError, match="register at"):
        configured.build_model()


def test_a_backbone_starts_from_a_classifier_s_checkpoint(tmp_path: Path):
    import timm

    classifier = timm.create_model("fastvit_t8", num_classes=7)
    torch.save(classifier.state_dict(), tmp_path / "classifier.pt")
    model = task(f"model.checkpoint={tmp_path / 'classifier.pt'}").build_model()
    assert torch.equal(model.backbone.stem[0].conv_kxk[0].conv.weight, classifier.stem[0].conv_kxk[0].conv.weight)


def test_the_picture_has_a_mesh_over_each_image():
    demo = task("data.val_size=6", "data.image_size=32")
    val = demo.open_data("val").samples
    figure = demo.draw(demo.build_model().eval(), [val[i] for i in range(6)], None)
    pictures = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(pictures) == 12
    for plain, with_mesh in zip(pictures[::2], pictures[1::2], strict=True):
        changed = (plain != with_mesh).any(-1)
        assert 0.05 < changed.mean() < 0.8


def test_the_baseline_needs_no_training_data(monkeypatch: pytest.MonkeyPatch):
    """It is the hand model's own hand, which a new network predicts but for what its random backbone adds."""
    demo = task("data.val_size=3", "data.image_size=32")
    loader = eval_loader(demo.open_data("val").samples, demo.collate, batch_size=2, workers=0)
    monkeypatch.setattr(HandMeshRecovery, "open_data", lambda *_: pytest.fail("data was opened"))
    [metrics] = evaluate(demo, [demo.build_model()], loader, device=torch.device("cpu"))
    report = metrics.report()
    assert report["samples"] == 3
    assert report["baseline_mpjpe_mm"] == pytest.approx(report["pa_mpjpe_mm"], rel=0.1)
    assert report["baseline_mpvpe_mm"] == pytest.approx(report["pa_mpvpe_mm"], rel=0.1)


def test_the_network_learns_a_few_hands_by_heart():
    demo = task("data.val_size=4", "data.image_size=32", "losses.shape=0")
    batch = demo.collate([demo.open_data("val").samples[i] for i in range(4)])
    model = demo.build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss = sum(demo.losses(model, batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.7 * losses[0]
