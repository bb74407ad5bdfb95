"""Posed hands, a tiny FreiHAND in the exact layout of the real one, and arrays in the shape of MANO's."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from fastvit.models.rotations import rotation_matrix
from fastvit.models.skinning import PARENTS, ROOT, HandArrays, HandModel
from fastvit.tasks.hand_mesh.sample import project
from fastvit.tasks.hand_mesh.synthetic import synthetic_hand

# FreiHAND's toolbox (utils/mano_utils.py): the place of each regressed joint among the 21, and of each finger tip.
REGRESSED = {
    0: 0,
    1: 5,
    2: 6,
    3: 7,
    4: 9,
    5: 10,
    6: 11,
    7: 17,
    8: 18,
    9: 19,
    10: 13,
    11: 14,
    12: 15,
    13: 1,
    14: 2,
    15: 3,
}
TIP_PLACES = (4, 8, 12, 16, 20)
TIPS = (744, 320, 443, 555, 672)
COLORS = {"gs": (0, 255, 0), "hom": (255, 0, 0), "sample": (0, 0, 255), "auto": (255, 255, 0)}  # of each version
SIZE = 224


def toolbox_joints(vertices: np.ndarray, regressor: np.ndarray, tips: tuple[int, ...]) -> np.ndarray:
    """(21, 3), as FreiHAND's toolbox makes its `xyz` of posed vertices (V, 3)."""
    joints = np.empty((21, 3))
    for row, place in REGRESSED.items():
        joints[place] = sum(weight * vertex for weight, vertex in zip(regressor[row], vertices, strict=True))
    for place, tip in zip(TIP_PLACES, tips, strict=True):
        joints[place] = vertices[tip]
    return joints


def mano_like(seed: int = 0, vertices: int = 778) -> dict[str, np.ndarray]:
    """Random arrays under the names of MANO's file."""
    rng = np.random.default_rng(seed)
    regressor = rng.dirichlet(np.full(vertices, 0.1), 16) * (rng.random((16, vertices)) < 0.1)  # as sparse as MANO's
    return {
        "v_template": 0.1 * rng.standard_normal((vertices, 3)),
        "f": rng.integers(0, vertices, (1538, 3)),
        "weights": rng.dirichlet(np.full(16, 0.3), vertices),
        "shapedirs": 0.01 * rng.standard_normal((vertices, 3, 10)),
        "posedirs": 0.01 * rng.standard_normal((vertices, 3, 135)),
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "kintree_table": np.stack([np.array(PARENTS) % 2**32, np.arange(16)]),
        "hands_mean": 0.3 * rng.standard_normal(45),
        "hands_components": np.eye(45),
    }


def posed_hands(count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch of posed hands, without images."""
    generator = torch.Generator().manual_seed(seed)
    model = HandModel(synthetic_hand())
    rotations = rotation_matrix(0.4 * torch.randn(count, 16, 3, generator=generator))
    vertices, joints = model(rotations, torch.randn(count, 10, generator=generator))
    root = joints[:, ROOT, None]
    return {"joints": joints - root, "vertices": vertices - root}


def write_freihand(root: Path, hand: HandArrays, *, train: int = 3, evaluation: int = 2, seed: int = 0) -> None:
    """Images (a background of the version's color, a white disc at each joint) and annotations of posed hands."""
    rng = np.random.default_rng(seed)
    for part, count, versions in (("training", train, tuple(COLORS)), ("evaluation", evaluation, ("gs",))):
        (root / part / "rgb").mkdir(parents=True)
        rows = [_hand(hand, rng) for _ in range(count)]
        for version, name in enumerate(versions):
            for i, row in enumerate(rows):
                picture = _picture(np.array(row["xyz"]), np.array(row["K"]), COLORS[name])
                picture.save(root / part / "rgb" / f"{version * count + i:08d}.jpg", quality=95)
        for key in ("K", "xyz", "verts", *(("mano",) if part == "training" else ())):
            (root / f"{part}_{key}.json").write_text(json.dumps([row[key] for row in rows]))
        (root / f"{part}_scale.json").write_text(json.dumps([0.03] * count))


def _hand(hand: HandArrays, rng: np.random.Generator) -> dict[str, list]:
    pose, shape = 0.4 * rng.standard_normal(48), 0.5 * rng.standard_normal(10)
    vectors = torch.tensor(pose.reshape(16, 3)).float()
    vectors[1:] += torch.tensor(hand.mean_pose)
    posed, _ = HandModel(hand)(rotation_matrix(vectors)[None], torch.tensor(shape).float()[None])
    vertices = posed[0].double().numpy()
    joints = toolbox_joints(vertices, hand.joint_regressor, hand.tips)
    place = np.array([0.0, 0.0, 0.7]) - joints[9]
    intrinsics = [[480.0, 0, 112.5], [0, 478.0, 111.0], [0, 0, 1]]
    return {
        "K": intrinsics,
        "xyz": (joints + place).tolist(),
        "verts": (vertices + place).tolist(),
        "mano": [[*pose.tolist(), *shape.tolist(), 112.0, 112.0, 0.03]],  # one row, in a list of its own
    }


def _picture(joints: np.ndarray, intrinsics: np.ndarray, color: tuple[int, int, int]) -> Image.Image:
    picture = Image.new("RGB", (SIZE, SIZE), tuple(channel // 3 for channel in color))
    draw = ImageDraw.Draw(picture)
    for x, y in project(joints, intrinsics) - 0.5:  # Pillow counts from the centers of pixels
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=(255, 255, 255))
    return picture
