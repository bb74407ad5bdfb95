"""The hand mesh measures are those of FreiHAND's evaluation."""

import numpy as np
import pytest
import roma
import torch
from scipy.linalg import orthogonal_procrustes
from torch import Tensor

from fastvit.runtime.device import cuda_kernels
from fastvit.tasks.hand_mesh.metrics import HandMeshMetrics, align, area_under_pck, f_score
from hands import posed_hands


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


def measure(predicted: dict[str, Tensor], true: dict[str, Tensor], parts: int = 1) -> HandMeshMetrics:
    mean = posed_hands(1, seed=5)
    metrics = HandMeshMetrics(mean["joints"][0], mean["vertices"][0])
    for part in np.array_split(np.arange(len(true["joints"])), parts):
        batch = {name: value[part] for name, value in true.items()}
        batch["intrinsics"] = torch.eye(3).expand(len(part), 3, 3)
        outputs = {name: value[part] for name, value in predicted.items()}
        batch["image"] = torch.empty(len(part), 3, 224, 224)
        metrics.update(outputs | {"camera": torch.ones(len(part), 3)}, batch)
    return metrics


def test_a_perfect_prediction_is_perfect_however_it_is_turned_and_scaled():
    true = posed_hands(4)
    turn = roma.random_rotmat(4)
    report = measure({name: 2 * value @ turn + 0.1 for name, value in true.items()}, true).report()
    assert report["pa_mpjpe_mm"] < 1e-3
    assert report["pa_mpvpe_mm"] < 1e-3
    assert (report["f5"], report["f15"], report["samples"]) == (1, 1, 4)
    assert min(report["auc_joints"], report["auc_vertices"]) > 0.99
    assert report["mpjpe_mm"] > 10  # this one is not aligned


def test_joint_and_vertex_errors_are_means_in_millimetres_of_each_set_aligned_by_itself():
    true = posed_hands(5)
    predicted = {name: value + 0.01 * torch.randn(value.shape) for name, value in true.items()}
    report = measure(predicted, true).report()
    for name, key in (("joints", "pa_mpjpe_mm"), ("vertices", "pa_mpvpe_mm")):
        errors = [
            1000 * np.linalg.norm(align_with_scipy(p, t) - t, axis=1).mean()
            for p, t in zip(predicted[name].numpy(), true[name].numpy(), strict=True)
        ]
        assert report[key] == pytest.approx(np.mean(errors), rel=1e-4)


def test_the_baseline_is_the_error_of_one_hand_for_all():
    true, mean = posed_hands(5), posed_hands(1, seed=5)
    repeated = {name: value.expand_as(true[name]) for name, value in mean.items()}
    report = measure(repeated, true).report()
    assert report["baseline_mpjpe_mm"] == pytest.approx(report["pa_mpjpe_mm"])
    assert report["baseline_mpvpe_mm"] == pytest.approx(report["pa_mpvpe_mm"])
    assert report["pa_mpjpe_mm"] > 10


def test_on_a_gpu_it_is_measured_in_exact_float32(monkeypatch):
    """In TF32, which recipes allow, the points would move by hundredths of a millimetre."""
    seen, true = [], posed_hands(1)
    matmul = torch.backends.cuda.matmul
    monkeypatch.setattr(
        HandMeshMetrics, "_measure", lambda *_: seen.append((matmul.allow_tf32, torch.is_autocast_enabled("cpu")))
    )
    with cuda_kernels(tf32=True, benchmark=False), torch.autocast("cpu", torch.bfloat16):
        measure(true, true)
        assert (matmul.allow_tf32, torch.is_autocast_enabled("cpu")) == (True, True)
    assert seen == [(False, False)]


def test_uneven_batches_and_several_processes_change_nothing():
    predicted, true = posed_hands(7, seed=1), posed_hands(7)
    whole = measure(predicted, true).report()
    first, second = (
        measure({n: v[part] for n, v in predicted.items()}, {n: v[part] for n, v in true.items()}, parts)
        for part, parts in ((slice(0, 5), 2), (slice(5, 7), 1))
    )
    first.merge(second)
    assert first.report() == pytest.approx(whole, rel=1e-6)
    assert first.report()["samples"] == 7
