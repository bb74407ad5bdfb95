"""The hand mesh task: its measures are FreiHAND's, its augmentation is geometry, its network fuses and exports."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import roma
import torch
from PIL import Image
from scipy.linalg import orthogonal_procrustes
from torch import Tensor, nn

from fastvit import fusion_error, reparameterize_model
from fastvit.data.hands.sample import HandSample, project
from fastvit.data.hands.scenes import SyntheticHands
from fastvit.data.hands.skinning import ROOT, HandModel
from fastvit.data.hands.synthetic import synthetic_hand
from fastvit.errors import DataError, RecipeError
from fastvit.reparam import relative_error
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.hand_mesh import HandMeshRecovery
from fastvit.tasks.hand_mesh.losses import hand_losses
from fastvit.tasks.hand_mesh.metrics import HandMeshMetrics, align, area_under_pck, f_score, mean_mesh
from fastvit.tasks.hand_mesh.network import INITIAL_SCALE
from fastvit.tasks.hand_mesh.network import project as project_weakly
from fastvit.tasks.hand_mesh.prediction import root_position, write_predictions
from fastvit.tasks.hand_mesh.recipe import HandAugmentationConfig, HandLossConfig
from fastvit.tasks.hand_mesh.transform import HandImages, draw, moved
from reference import VARIANTS, randomize

ROOT_FOLDER = Path(__file__).parent.parent
DEMO = ROOT_FOLDER / "configs" / "quickstart" / "hand_mesh_synthetic.yaml"
FREIHAND = ROOT_FOLDER / "configs" / "hand_mesh" / "freihand_ma36.yaml"


def task(*overrides: str) -> HandMeshRecovery:
    return make_task(load_recipe(DEMO, overrides))


class Given(nn.Module):
    """A "network" whose input is its output."""

    def forward(self, images: dict[str, Tensor]) -> dict[str, Tensor]:
        return images


# ---- metrics ---------------------------------------------------------------------------------------------------------


def align_with_scipy(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """One point set, as FreiHAND's evaluation does it: center, scale to norm 1, turn, and go back by the target's."""
    centered, target_centered = points - points.mean(0), target - target.mean(0)
    size, target_size = np.linalg.norm(centered), np.linalg.norm(target_centered)
    rotation, scale = orthogonal_procrustes(target_centered / target_size, centered / size)
    return centered / size @ rotation.T * scale * target_size + target.mean(0)


def test_alignment_is_scipy_s():
    points = torch.randn(8, 21, 3)
    target = points @ roma.random_rotmat(8) + 0.3 * torch.randn(8, 21, 3)  # near enough that no mirror image is nearer
    aligned = align(points, target)
    for i in range(8):
        np.testing.assert_allclose(aligned[i], align_with_scipy(points[i].numpy(), target[i].numpy()), atol=1e-5)


def test_alignment_undoes_any_similarity_but_no_mirror():
    points = torch.randn(5, 40, 3)
    similar = 3.7 * points @ roma.random_rotmat(5) + torch.randn(5, 1, 3)
    torch.testing.assert_close(align(similar, points), points, atol=1e-5, rtol=0)
    mirrored = align(points * torch.tensor([-1.0, 1, 1]), points)
    assert (mirrored - points).norm(dim=-1).mean() > 0.3


def test_the_aligned_error_does_not_depend_on_the_prediction_s_pose_in_space():
    points, target = torch.randn(5, 21, 3), torch.randn(5, 21, 3)
    similar = 0.2 * points @ roma.random_rotmat(5) + torch.randn(5, 1, 3)
    torch.testing.assert_close(align(similar, target), align(points, target), atol=1e-5, rtol=0)


def test_a_prediction_that_is_one_point_comes_to_lie_in_the_center():
    target = torch.randn(3, 21, 3)
    for points in (torch.zeros(3, 21, 3), torch.full((3, 21, 3), 0.7)):
        torch.testing.assert_close(align(points, target), target.mean(1, keepdim=True).expand_as(target))


def test_f_scores_are_those_of_brute_force():
    points, target = 0.02 * torch.randn(4, 30, 3), 0.02 * torch.randn(4, 40, 3)
    for threshold in (0.005, 0.015):
        expected = []
        for p, t in zip(points.numpy(), target.numpy(), strict=True):
            precision = np.mean([min(np.linalg.norm(a - b) for b in t) < threshold for a in p])
            recall = np.mean([min(np.linalg.norm(a - b) for a in p) < threshold for b in t])
            expected.append(2 * precision * recall / (precision + recall) if precision + recall else 0)
        np.testing.assert_allclose(f_score(points, target, threshold), expected, atol=1e-6)


def test_f_scores_do_not_depend_on_where_the_hand_is():
    """Half a metre away, distances by way of matrix products would be off by what is measured."""
    points = 0.003 * torch.randn(4, 300, 3)
    away = torch.tensor([0.1, -0.2, 0.6])
    assert f_score(points + away, points + away, 1e-5).eq(1).all()
    assert f_score(points, points, 0.005).eq(1).all()
    assert f_score(points, points + 1, 0.005).eq(0).all()


def test_the_area_under_the_curve_is_numpy_s():
    errors = 0.04 * torch.rand(3, 21)
    thresholds = np.linspace(0, 0.05, 100)
    for row, area in zip(errors.numpy(), area_under_pck(errors), strict=True):
        curve = [(row <= threshold).mean() for threshold in thresholds]
        assert area.item() == pytest.approx(np.trapezoid(curve, thresholds) / 0.05, abs=1e-6)
    assert area_under_pck(torch.tensor([[0.0], [0.1]])).tolist() == pytest.approx([1, 0])


def hands(count: int, seed: int = 0) -> dict[str, Tensor]:
    """A batch of posed hands, without images."""
    generator = torch.Generator().manual_seed(seed)
    model = HandModel(synthetic_hand())
    rotations = roma.rotvec_to_rotmat(0.4 * torch.randn(count, 16, 3, generator=generator))
    vertices, joints = model(rotations, torch.randn(count, 10, generator=generator))
    root = joints[:, ROOT, None]
    return {"joints": joints - root, "vertices": vertices - root}


def measure(predicted: dict[str, Tensor], true: dict[str, Tensor], parts: int = 1) -> HandMeshMetrics:
    mean = hands(1, seed=5)
    metrics = HandMeshMetrics(mean["joints"][0], mean["vertices"][0])
    for part in np.array_split(np.arange(len(true["joints"])), parts):
        batch = {name: value[part] for name, value in true.items()}
        batch["intrinsics"] = torch.eye(3).expand(len(part), 3, 3)
        metrics.update(Given(), {"image": Images({name: value[part] for name, value in predicted.items()}), **batch})
    return metrics


class Images(dict):
    """Stands for a batch of images, and is the prediction."""

    device = torch.device("cpu")
    shape = (224, 224)

    def __init__(self, predicted: dict[str, Tensor]):
        super().__init__(predicted, camera=torch.ones(len(predicted["joints"]), 3))


def test_a_perfect_prediction_is_perfect_however_it_is_turned_and_scaled():
    true = hands(4)
    turn = roma.random_rotmat(4)
    report = measure({name: 2 * value @ turn + 0.1 for name, value in true.items()}, true).report()
    assert report["pa_mpjpe_mm"] < 1e-3
    assert report["pa_mpvpe_mm"] < 1e-3
    assert (report["f5"], report["f15"], report["samples"]) == (1, 1, 4)
    assert min(report["auc_joints"], report["auc_vertices"]) > 0.99
    assert report["mpjpe_mm"] > 10  # this one is not aligned


def test_joint_and_vertex_errors_are_means_in_millimetres_of_each_set_aligned_by_itself():
    true = hands(5)
    predicted = {name: value + 0.01 * torch.randn(value.shape) for name, value in true.items()}
    report = measure(predicted, true).report()
    for name, key in (("joints", "pa_mpjpe_mm"), ("vertices", "pa_mpvpe_mm")):
        errors = [
            1000 * np.linalg.norm(align_with_scipy(p, t) - t, axis=1).mean()
            for p, t in zip(predicted[name].numpy(), true[name].numpy(), strict=True)
        ]
        assert report[key] == pytest.approx(np.mean(errors), rel=1e-4)


def test_the_baseline_is_the_error_of_the_mean_hand():
    true, mean = hands(5), hands(1, seed=5)
    repeated = {name: value.expand_as(true[name]) for name, value in mean.items()}
    report = measure(repeated, true).report()
    assert report["baseline_mpjpe_mm"] == pytest.approx(report["pa_mpjpe_mm"])
    assert report["baseline_mpvpe_mm"] == pytest.approx(report["pa_mpvpe_mm"])
    assert report["pa_mpjpe_mm"] > 10


def test_uneven_batches_and_several_processes_change_nothing():
    predicted, true = hands(7, seed=1), hands(7)
    whole = measure(predicted, true).report()
    first, second = (
        measure({n: v[part] for n, v in predicted.items()}, {n: v[part] for n, v in true.items()}, parts)
        for part, parts in ((slice(0, 5), 2), (slice(5, 7), 1))
    )
    first.merge(second)
    assert first.report() == pytest.approx(whole, rel=1e-6)
    assert first.report()["samples"] == 7


def test_the_mean_hand_is_better_than_any_one_of_the_hands_it_is_made_of():
    joints = hands(20)["joints"]

    def error(hand: Tensor) -> float:
        return (align(hand.expand_as(joints), joints) - joints).norm(dim=-1).mean().item()

    assert error(mean_mesh(joints)) < min(error(joints[i]) for i in range(20))
    turned = joints @ roma.random_rotmat(20)
    assert error(mean_mesh(turned)) == pytest.approx(error(mean_mesh(joints)), rel=1e-3)


# ---- augmentation ----------------------------------------------------------------------------------------------------


def dotted(sample: HandSample) -> HandSample:
    """The sample with an image that is black, but for a white spot at each joint."""
    pixels = np.zeros((*reversed(sample.image.size), 3), dtype=np.uint8)
    columns, rows = np.floor(project(sample.joints, sample.intrinsics)).astype(int).T
    inside = (columns >= 1) & (rows >= 1) & (columns < pixels.shape[1] - 1) & (rows < pixels.shape[0] - 1)
    for column, row in zip(columns[inside], rows[inside], strict=True):
        pixels[row - 1 : row + 2, column - 1 : column + 2] = 255
    return sample._replace(image=Image.fromarray(pixels))


@pytest.fixture(scope="module")
def sample() -> HandSample:
    sample = SyntheticHands(train=False, size=9, image_size=112)[7]
    return sample._replace(intrinsics=np.array([[280.0, 0, 50], [0, 270.0, 61], [0, 0, 1]]))


@pytest.mark.parametrize(
    ("roll", "zoom", "size"), [(0, 1, 112), (0.5, 1, 112), (-2.5, 0.8, 96), (3.1, 1.2, 224), (0, 0.75, 64)]
)
def test_image_camera_and_hand_move_together(sample: HandSample, roll: float, zoom: float, size: int):
    after = moved(dotted(sample), roll=roll, zoom=zoom, size=size)
    assert after.image.size == (size, size)
    pixels = project(after.joints, after.intrinsics)
    columns, rows = np.floor(pixels).astype(int).T
    inside = ((pixels > 2) & (pixels < size - 2)).all(1)
    assert inside.sum() > 10
    assert (np.asarray(after.image)[rows[inside], columns[inside], 0] > 100).all()
    lit = np.argwhere(np.asarray(after.image)[..., 0] > 100)[:, ::-1] + 0.5
    nearest = np.linalg.norm(lit[:, None] - pixels[None], axis=2).min(1)
    assert nearest.max() < 3 * zoom * size / 112 + 1  # and nothing is lit elsewhere


def test_a_roll_keeps_the_hand_rigid_and_a_zoom_keeps_it_as_it_is(sample: HandSample):
    rolled = moved(sample, roll=0.7, zoom=1, size=112)
    np.testing.assert_allclose(rolled.joints[:, 2], sample.joints[:, 2])
    between = [np.linalg.norm(each.joints[:, None] - each.joints[None], axis=2) for each in (sample, rolled)]
    np.testing.assert_allclose(*between, atol=1e-12)
    np.testing.assert_allclose(rolled.intrinsics, sample.intrinsics)
    zoomed = moved(sample, roll=0, zoom=1.2, size=112)
    np.testing.assert_array_equal(zoomed.vertices, sample.vertices)
    assert zoomed.intrinsics[0, 0] == pytest.approx(1.2 * sample.intrinsics[0, 0])
    smaller = moved(sample, roll=0, zoom=1.2, size=56)
    point = np.array([0.02, 0.03, 0.5])
    before = project(point, sample.intrinsics) - 56  # from the middle of the image
    np.testing.assert_allclose(project(point, smaller.intrinsics) - 28, 1.2 / 2 * before)


def test_the_parameters_of_a_rolled_hand_pose_its_vertices(sample: HandSample):
    rolled = moved(sample, roll=-1.3, zoom=1.1, size=112)
    rotations, shape = torch.from_numpy(rolled.rotations)[None], torch.from_numpy(rolled.shape)[None]
    vertices, joints = HandModel(synthetic_hand())(rotations, shape)
    expected = rolled.vertices - rolled.joints[ROOT]
    np.testing.assert_allclose((vertices[0] - joints[0, ROOT]).numpy(), expected, atol=1e-6)


def test_without_augmentation_an_image_of_the_right_size_is_left_as_it_is():
    source = SyntheticHands(train=False, size=1, image_size=48)
    data = HandImages(source, image_size=48, mean=(0.5,) * 3, std=(0.25,) * 3, augmentation=None)
    expected = (np.asarray(source[0].image) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(data[0]["image"].permute(1, 2, 0), expected, atol=1e-5)


def test_labels_are_relative_to_the_root_and_points_are_from_minus_one_to_one():
    source = SyntheticHands(train=False, size=1, image_size=48)
    sample = HandImages(source, image_size=32, mean=(0,) * 3, std=(1,) * 3, augmentation=None)[0]
    assert not sample["joints"][ROOT].any()
    np.testing.assert_allclose(sample["joints"] + sample["root"], source[0].joints, atol=1e-6)
    np.testing.assert_allclose(sample["points"], project(source[0].joints, source[0].intrinsics) / 24 - 1, atol=1e-5)


def test_augmentation_draws_what_the_recipe_says():
    np.random.seed(0)
    drawn = [draw(HandAugmentationConfig(rotation=90, rotation_prob=0.4, scale=0.25, color=0.4)) for _ in range(4000)]
    rolls, zooms, colors = (np.array(each) for each in zip(*drawn, strict=True))
    assert (rolls != 0).mean() == pytest.approx(0.4, abs=0.03)
    assert np.abs(rolls).max() == pytest.approx(np.pi)  # twice the deviation is half a turn
    assert np.rad2deg(rolls[(rolls != 0)]).std() == pytest.approx(87, abs=5)
    assert (zooms.min(), zooms.max()) == pytest.approx((0.75, 1.25))
    assert (colors.min(), colors.max()) == pytest.approx((0.6, 1.4), abs=0.01)
    nothing = draw(HandAugmentationConfig(rotation=0, rotation_prob=0, scale=0, color=0))
    assert nothing[:2] == (0, 1)
    np.testing.assert_array_equal(nothing[2], 1)


# ---- network ---------------------------------------------------------------------------------------------------------


def test_a_new_network_predicts_a_relaxed_hand_in_the_middle():
    model = task().build_model().eval()
    with torch.no_grad():
        predicted = model(torch.randn(2, 3, 64, 64))
    relaxed = model.hand.mean_rotations().expand(2, 16, 3, 3)
    torch.testing.assert_close(predicted["rotations"], relaxed, atol=0.1, rtol=0)
    torch.testing.assert_close(predicted["camera"], torch.tensor([[INITIAL_SCALE, 0, 0]] * 2), atol=0.2, rtol=0)
    assert not predicted["joints"][:, ROOT].any()


def test_the_outputs_are_one_hand():
    model = randomize(task().build_model()).eval()
    with torch.no_grad():
        predicted = model(torch.randn(3, 3, 64, 64))
        vertices, joints = model.hand(predicted["rotations"], predicted["shape"])
    torch.testing.assert_close(predicted["vertices"], vertices - joints[:, ROOT, None])
    assert (predicted["camera"][:, 0] > 0).all()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_backbone(name: str):
    with torch.device("meta"):
        model = task(f"model.name={name}").build_model()
    assert model.regressor.layers[0].in_features == model.backbone.num_features


def test_fused_equals_unfused():
    model = randomize(task("model.name=fastvit_sa12").build_model())
    nn.init.normal_(model.regressor.layers[-1].weight, std=0.05)  # so that the mesh depends on the image
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        first, second = model.eval()(images)["joints"]
    assert (first - second).norm(dim=-1).mean() > 1e-3  # metres
    fused = reparameterize_model(model)
    assert fusion_error(model, fused, (3, 64, 64)) < 1e-5
    assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]


def test_half_precision_does_not_blur_the_mesh():
    model = task().build_model().eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        predicted = model(images)
    with torch.no_grad():
        vertices, joints = model.hand(predicted["rotations"], predicted["shape"])
    assert predicted["vertices"].dtype == torch.float32
    torch.testing.assert_close(predicted["vertices"], vertices - joints[:, ROOT, None], atol=1e-7, rtol=0)


@pytest.fixture(scope="module")
def fused() -> nn.Module:
    model = randomize(task().build_model())
    nn.init.normal_(model.regressor.layers[-1].weight, std=0.05)
    return reparameterize_model(model)


def test_the_whole_pipeline_exports_with_torch(fused: nn.Module):
    exported = torch.export.export(
        fused, (torch.randn(2, 3, 64, 64),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    ).module()
    images = torch.randn(5, 3, 64, 64)
    with torch.no_grad():
        assert relative_error(exported(images), fused(images)) < 1e-6


def test_the_whole_pipeline_exports_to_onnx(fused: nn.Module, tmp_path: Path):
    path, images = tmp_path / "hand.onnx", torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        expected = fused(images)
    torch.onnx.export(
        fused,
        (torch.randn(2, 3, 64, 64),),
        path,
        dynamo=True,
        external_data=False,
        dynamic_shapes=({0: "batch"},),
        output_names=list(expected),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path)
    outputs = session.run(list(expected), {session.get_inputs()[0].name: images.numpy()})
    for name, output in zip(expected, outputs, strict=True):
        np.testing.assert_allclose(output, expected[name], atol=2e-5, err_msg=name)


# ---- losses, predictions, recipe ------------------------------------------------------------------------------------


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
    weights = HandLossConfig(vertices=2, joints=3, points=4, rotations=5, shape=6)
    assert all(loss == 0 for loss in hand_losses(weights, true, true).values())
    losses = hand_losses(weights, predicted, true)
    points = predicted["camera"][:, None, :1] * predicted["joints"][..., :2] + predicted["camera"][:, None, 1:]
    expected = {
        "vertices": 2 * (predicted["vertices"] - true["vertices"]).abs().mean(),
        "joints": 3 * (predicted["joints"] - true["joints"]).abs().mean(),
        "points": 4 * (points - true["points"]).abs().mean(),
        "rotations": 5 * (predicted["rotations"] - true["rotations"]).square().mean(),
        "shape": 6 * (predicted["shape"] - true["shape"]).square().mean(),
    }
    torch.testing.assert_close(losses, expected)
    assert set(hand_losses(HandLossConfig(rotations=0, shape=0), predicted, true)) == {"vertices", "joints", "points"}


def test_the_root_is_found_from_the_camera():
    """Far away, where the weak perspective is exact."""
    intrinsics = torch.tensor([[[48000.0, 0, 120], [0, 48000.0, 100], [0, 0, 1]]]).expand(2, 3, 3)
    root = torch.tensor([[0.05, -0.02, 60.0], [-0.03, 0.06, 70.0]])
    joints = hands(2)["joints"]
    homogeneous = (joints + root[:, None]) @ intrinsics.mT
    pixels = homogeneous[..., :2] / homogeneous[..., 2:]
    points = pixels * 2 / 224 - 1
    scale = 2 * 48000 / (224 * root[:, 2:])
    camera = torch.cat([scale, points[:, ROOT]], 1)
    torch.testing.assert_close(project_weakly(joints, camera), points, atol=5e-3, rtol=0)
    torch.testing.assert_close(root_position(camera, intrinsics, 224), root, atol=1e-4, rtol=1e-5)


def test_predictions_are_written_as_the_challenge_reads_them(tmp_path: Path):
    joints, vertices = torch.randn(5, 21, 3), torch.randn(5, 778, 3)
    write_predictions(tmp_path / "pred.json", joints, vertices)
    read_joints, read_vertices = json.loads((tmp_path / "pred.json").read_text())
    assert np.shape(read_vertices) == (5, 778, 3)
    np.testing.assert_allclose(read_joints, joints, atol=1e-8)
    assert [path.name for path in tmp_path.iterdir()] == ["pred.json"]


def test_metrics_keep_the_predictions_in_the_camera_s_frame_and_in_order():
    demo = task("data.val_size=5", "data.image_size=32")
    val, model = demo.build_datasets().val, demo.build_model().eval()
    first, second = demo.new_metrics(), demo.new_metrics()
    with torch.no_grad():
        for metrics, part in ((first, (0, 1, 2)), (second, (3, 4))):
            metrics.update(model, demo.collate([val[i] for i in part]))
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
    assert torch.equal(model.backbone.stem[0].conv.conv.weight, classifier.stem[0].conv.conv.weight)


def test_the_picture_has_a_mesh_over_each_image():
    demo = task("data.val_size=6", "data.image_size=32")
    val = demo.build_datasets().val
    figure = demo.draw(demo.build_model().eval(), [val[i] for i in range(6)])
    with_mesh = [axes for axes in figure.axes if axes.collections]
    assert len(with_mesh) == 6
    assert len([axes for axes in figure.axes if axes.images]) == 12
    triangles = with_mesh[0].collections[0].get_paths()
    assert len(triangles) > 200


def test_the_network_learns_a_few_hands_by_heart():
    demo = task("data.val_size=4", "data.image_size=32", "losses.shape=0")
    batch = demo.collate([demo.build_datasets().val[i] for i in range(4)])
    model = demo.build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(30):
        loss = sum(demo.losses(model, batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < losses[0] / 2
