"""FreiHAND is read as it is laid out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fastvit.errors import DataError
from fastvit.models.skinning import ROOT, HandModel
from fastvit.tasks.hand_mesh.freihand import FreiHand
from fastvit.tasks.hand_mesh.sample import project
from fastvit.tasks.hand_mesh.synthetic import synthetic_hand
from hands import COLORS, write_freihand

HAND = synthetic_hand()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "FreiHAND"
    write_freihand(folder, HAND)
    return folder


def read(root: Path, *versions: str) -> FreiHand:
    return FreiHand(root, train=True, versions=versions, mean_pose=HAND.mean_pose)


def test_every_version_shows_the_same_hands_before_its_own_background(root: Path):
    data = read(root, *COLORS)
    assert len(data) == 12
    for index in range(12):
        version, hand = divmod(index, 3)
        sample = data[index]
        background = np.asarray(sample.image)[:20, :20].reshape(-1, 3).mean(0)
        np.testing.assert_allclose(background, np.array(list(COLORS.values())[version]) // 3, atol=4)
        np.testing.assert_array_equal(sample.joints, data[hand].joints)


def test_versions_can_be_chosen(root: Path):
    data = read(root, "sample", "gs")
    assert len(data) == 6
    blue, green = (np.asarray(data[index].image)[0, 0] for index in (2, 3))
    assert blue.argmax() == 2
    assert green.argmax() == 1


@pytest.mark.parametrize("train", [True, False])
def test_joints_are_where_the_image_has_them(root: Path, train: bool):
    data = read(root, "gs") if train else FreiHand(root, train=False)
    for index in range(len(data)):
        sample = data[index]
        pixels = project(sample.joints, sample.intrinsics).astype(int)
        assert (np.asarray(sample.image)[pixels[:, 1], pixels[:, 0]] > 180).all()  # the discs of the joints


def test_the_parameters_pose_vertices_and_joints(root: Path):
    """With the hand model they were made with: the mean pose is added, the rows are cut where they should be, and the
    joints are those that the toolbox regresses.
    """
    data = read(root, "gs")
    for index in range(3):
        sample = data[index]
        rotations, shape = (torch.tensor(each)[None] for each in (sample.rotations, sample.shape))
        vertices, joints = HandModel(HAND)(rotations, shape)
        place = torch.tensor(sample.joints[ROOT]) - joints[0, ROOT]
        np.testing.assert_allclose((vertices[0] + place).numpy(), sample.vertices, atol=1e-6)
        np.testing.assert_allclose((joints[0] + place).numpy(), sample.joints, atol=1e-6)


def test_the_evaluation_part_has_no_parameters(root: Path):
    sample = FreiHand(root, train=False)[1]
    assert sample.rotations is None
    assert sample.shape is None
    with pytest.raises(IndexError):
        FreiHand(root, train=False)[2]


def test_what_is_missing_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"data.root .*nowhere is not a folder; download FreiHAND_pub_v2.zip"):
        read(tmp_path / "nowhere", "gs")
    write_freihand(tmp_path, HAND)
    (tmp_path / "evaluation_verts.json").unlink()
    with pytest.raises(DataError, match=r"no file .*evaluation_verts.json \(public since 2022\)"):
        FreiHand(tmp_path, train=False)
    (tmp_path / "training" / "rgb" / "00000011.jpg").unlink()
    assert len(read(tmp_path, "gs", "hom", "sample")) == 9
    with pytest.raises(DataError, match=r"no image .*00000011.jpg"):
        read(tmp_path, "auto")
    (tmp_path / "training" / "rgb" / "00000001.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"image .*00000001.jpg cannot be read"):
        read(tmp_path, "gs")[1]
    (tmp_path / "training_xyz.json").write_text(json.dumps(np.zeros((4, 21, 3)).tolist()))
    with pytest.raises(DataError, match="different numbers of images"):
        read(tmp_path, "gs")
    (tmp_path / "training_xyz.json").write_text("[[[0, 1")
    with pytest.raises(DataError, match=r"training_xyz.json is damaged"):
        read(tmp_path, "gs")
