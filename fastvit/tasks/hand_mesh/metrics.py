"""How good predicted hands are, measured as the FreiHAND challenge does."""

import torch
from torch import Tensor

from fastvit.errors import MissingPackage
from fastvit.precision import exact_float32
from fastvit.training.task import Metrics

try:
    import roma
except ModuleNotFoundError as error:
    raise MissingPackage("the task hand_mesh", "roma", extra="hand") from error

F_THRESHOLDS = (0.005, 0.015)  # metres
PCK_THRESHOLDS = torch.linspace(0, 0.05, 100)  # metres


def align(points: Tensor, target: Tensor) -> Tensor:
    """The points moved, turned and scaled to lie as near to `target` as they can (Procrustes, least squares).

    A mirror image is not turned into the original: FreiHAND's own evaluation, which uses scipy's orthogonal Procrustes,
    would do that. Points that are all the same come to lie in the center.

    Args:
        points, target: (B, N, 3).
    """
    spread = (points - points.mean(1, keepdim=True)).square().sum((1, 2)) > 1e-12 * points.square().sum((1, 2))
    safe = torch.where(spread[:, None, None], points, target)
    rotation, shift, scale = roma.rigid_points_registration(safe, target, compute_scaling=True)
    aligned = scale[:, None, None] * (points @ rotation.mT) + shift[:, None]
    return torch.where(spread[:, None, None], aligned, target.mean(1, keepdim=True).expand_as(target))


def distances(points: Tensor, target: Tensor) -> Tensor:
    """(B, N): between corresponding points (B, N, 3)."""
    return (points - target).norm(dim=-1)


def f_score(points: Tensor, target: Tensor, threshold: float) -> Tensor:
    """(B,): harmonic mean of precision and recall of two point clouds (B, N, 3) and (B, M, 3).

    Precision is the share of points that have a target nearer than the threshold, recall the reverse (Knapitsch et al.,
    "Tanks and Temples", 2017).
    """
    # Exact distances: by way of products of matrices they would be off by a tenth of a millimetre.
    between = torch.cdist(points, target, compute_mode="donot_use_mm_for_euclid_dist")
    precision = (between.amin(2) < threshold).to(points.dtype).mean(1)
    recall = (between.amin(1) < threshold).to(points.dtype).mean(1)
    return 2 * precision * recall / (precision + recall).clamp(min=1e-12)


def area_under_pck(errors: Tensor) -> Tensor:
    """(B,): mean over thresholds from 0 to 50 mm of the share of errors (B, N), in metres, up to them."""
    thresholds = PCK_THRESHOLDS.to(errors)
    share = (errors[..., None] <= thresholds).to(errors.dtype).mean(1)  # (B, 100)
    return torch.trapezoid(share, thresholds) / (thresholds[-1] - thresholds[0])


def root_position(camera: Tensor, intrinsics: Tensor, image_size: int) -> Tensor:
    """(B, 3), in metres: where the root of a hand is, by a weak-perspective camera and the true one.

    The depth is the one at which the true camera has the other's scale; exact for a hand that is far away.

    Args:
        camera: (B, 3), scale and shift, as `HandMesh` gives them.
        intrinsics: (B, 3, 3), in pixels of the image that the network saw.
        image_size: pixels on a side of that image.
    """
    focal = intrinsics.diagonal(dim1=1, dim2=2)[:, :2]  # (B, 2)
    depth = focal.mean(1, keepdim=True) * 2 / (camera[:, :1] * image_size)
    pixels = (camera[:, 1:] + 1) * image_size / 2
    return torch.cat([(pixels - intrinsics[:, :2, 2]) * depth / focal, depth], 1)


class HandMeshMetrics(Metrics):
    """Means over the samples; `pa` is after Procrustes alignment, joints and vertices each by themselves.

    pa_mpjpe_mm, pa_mpvpe_mm: mean distance of the 21 joints, of the vertices. f5, f15: F-scores of the aligned
    vertices at 5 and 15 mm. auc_joints, auc_vertices: area under the curve of correct points up to 50 mm, aligned.
    mpjpe_mm: joints relative to the root, not aligned. baseline_mpjpe_mm, baseline_mpvpe_mm: pa_mpjpe_mm and
    pa_mpvpe_mm of one rigid hand, the same for all images.

    Args:
        joints, vertices: (21, 3) and (V, 3), that one hand.
    """

    def __init__(self, joints: Tensor, vertices: Tensor):
        self.joints, self.vertices = joints, vertices
        self.values: dict[str, list[Tensor]] = {}  # by name, (B,) of each batch
        self.predictions: list[tuple[Tensor, Tensor]] = []  # joints and vertices of each batch, in the camera's frame

    def update(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
        with exact_float32():  # TF32 would move the points by hundredths of a millimetre
            joints, vertices = outputs["joints"].float(), outputs["vertices"].float()
            root = root_position(outputs["camera"], batch["intrinsics"], batch["image"].shape[-1])[:, None]
            self.predictions.append((joints + root, vertices + root))
            self._measure(joints, vertices, batch["joints"], batch["vertices"])

    def _measure(self, joints: Tensor, vertices: Tensor, true_joints: Tensor, true_vertices: Tensor) -> None:
        joint_errors = distances(align(joints, true_joints), true_joints)
        aligned = align(vertices, true_vertices)
        vertex_errors = distances(aligned, true_vertices)
        f5, f15 = (f_score(aligned, true_vertices, threshold) for threshold in F_THRESHOLDS)
        measured = {
            "pa_mpjpe_mm": 1000 * joint_errors.mean(1),
            "pa_mpvpe_mm": 1000 * vertex_errors.mean(1),
            "f5": f5,
            "f15": f15,
            "auc_joints": area_under_pck(joint_errors),
            "auc_vertices": area_under_pck(vertex_errors),
            "mpjpe_mm": 1000 * distances(joints, true_joints).mean(1),
            "baseline_mpjpe_mm": self._baseline(self.joints, true_joints),
            "baseline_mpvpe_mm": self._baseline(self.vertices, true_vertices),
        }
        for name, value in measured.items():
            self.values.setdefault(name, []).append(value)

    def _baseline(self, points: Tensor, target: Tensor) -> Tensor:
        aligned = align(points.to(target).expand_as(target), target)
        return 1000 * distances(aligned, target).mean(1)

    def merge(self, other: "HandMeshMetrics") -> None:
        for name, values in other.values.items():
            self.values.setdefault(name, []).extend(values)
        self.predictions += other.predictions

    def report(self) -> dict[str, float]:
        values = {name: torch.cat(values).cpu().double() for name, values in self.values.items()}
        samples = len(values["pa_mpjpe_mm"])
        return {**{name: value.mean().item() for name, value in values.items()}, "samples": samples}
