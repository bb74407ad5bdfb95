"""MANO's file is read, in the forms that it may have, and runs nothing."""

import pickle
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.sparse import csc_matrix

from fastvit.errors import DataError
from fastvit.models.rotations import rotation_matrix
from fastvit.models.skinning import HandModel
from fastvit.tasks.hand_mesh.mano import read_mano
from hands import TIPS, mano_like, toolbox_joints


class FakeChumpy(ModuleType):
    """The classes of chumpy, which no longer runs, as they are pickled: with what they keep in `__dict__`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        super().__init__("chumpy")
        for module, name in (("chumpy.ch", "Ch"), ("chumpy.reordering", "Select")):
            monkeypatch.setitem(sys.modules, module, ModuleType(module))
            setattr(sys.modules[module], name, type(name, (), {"__module__": module, "_dirty_vars": set()}))
        monkeypatch.setitem(sys.modules, "chumpy", self)

    def make(self, module: str, name: str, **state: object) -> object:
        made = getattr(sys.modules[module], name)()
        made.__dict__.update(state, _dirty_vars=set(), _itr=None, _depends_on_deps={})
        return made


def write(path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """A file like MANO's, and its arrays."""
    data = mano_like()
    if form == "npz":
        np.savez(path, **data)
        return data
    protocol, chumpy = int(form), FakeChumpy(monkeypatch)
    wider = np.concatenate([data["shapedirs"], np.ones((778, 3, 5))], 2)
    places = np.arange(wider.size).reshape(wider.shape)[:, :, :10]
    stored = data | {
        "J_regressor": csc_matrix(data["J_regressor"]),
        "posedirs": chumpy.make("chumpy.ch", "Ch", x=data["posedirs"]),
        "shapedirs": chumpy.make(
            "chumpy.reordering",
            "Select",
            a=chumpy.make("chumpy.ch", "Ch", x=wider),
            idxs=places.ravel(),
            preferred_shape=places.shape,
        ),
        "bs_style": "lbs",
    }
    path.write_bytes(pickle.dumps(stored, protocol=protocol))
    monkeypatch.undo()
    return data


@pytest.mark.parametrize("form", ["npz", "0", "2", "4"])
def test_every_form_of_the_file_gives_its_arrays(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / ("MANO_RIGHT.npz" if form == "npz" else "MANO_RIGHT.pkl")
    data, arrays = write(path, form, monkeypatch), read_mano(path)
    expected = {
        "vertices": data["v_template"],
        "faces": data["f"],
        "skin_weights": data["weights"],
        "shape_directions": data["shapedirs"],
        "pose_directions": data["posedirs"],
        "mean_pose": data["hands_mean"].reshape(15, 3),
        "joint_regressor": data["J_regressor"],
    }
    for name, value in expected.items():
        np.testing.assert_array_equal(getattr(arrays, name), value.astype(np.float32), err_msg=name)
    assert arrays.tips == TIPS


def test_a_mano_file_poses_as_body_models_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mano = pytest.importorskip("body_models.mano.torch")
    path = tmp_path / "MANO_RIGHT.pkl"
    data = write(path, "2", monkeypatch)
    arrays = read_mano(path)
    vectors, shape = 0.7 * torch.randn(2, 16, 3), torch.randn(2, 10)
    pose = torch.cat([vectors[:, :1], vectors[:, 1:] + torch.tensor(arrays.mean_pose)], 1)
    vertices, joints = HandModel(arrays)(rotation_matrix(pose), shape)
    np.savez(tmp_path / "MANO_RIGHT.npz", **data)
    library = mano.MANO(model_path=tmp_path / "MANO_RIGHT.npz")
    expected = library.forward_vertices(vectors[:, 1:], wrist_rotation=vectors[:, 0], shape=shape)
    torch.testing.assert_close(vertices, expected, atol=2e-6, rtol=0)
    for mesh, points in zip(expected.numpy(), joints.numpy(), strict=True):
        np.testing.assert_allclose(points, toolbox_joints(mesh, data["J_regressor"], TIPS), atol=2e-6)


class Harmful:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_cannot_run_code(tmp_path: Path):
    path, trace = tmp_path / "MANO_RIGHT.pkl", tmp_path / "ran"
    path.write_bytes(pickle.dumps(mano_like() | {"harmful": Harmful(trace)}))
    assert len(read_mano(path).vertices) == 778  # what is not needed does not disturb
    path.write_bytes(pickle.dumps(mano_like() | {"f": Harmful(trace)}))
    with pytest.raises(DataError, match="cannot be read as a MANO hand"):
        read_mano(path)
    assert not trace.exists()


def test_a_missing_mano_file_says_where_to_register(tmp_path: Path):
    with pytest.raises(DataError, match=r"no MANO file .*MANO_RIGHT.pkl; register at https://mano.is.tue.mpg.de"):
        read_mano(tmp_path / "MANO_RIGHT.pkl")


def test_a_file_that_is_no_mano_hand_is_named(tmp_path: Path):
    path = tmp_path / "MANO_RIGHT.pkl"
    for content in (b"<html>please log in</html>", b"", pickle.dumps([1, 2])):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"MANO_RIGHT.pkl cannot be read as a MANO hand .*register at"):
            read_mano(path)
    for change, message in (
        ({"hands_mean": None}, "it has no 'hands_mean'"),
        (mano_like(vertices=100), r"v_template is \(100, 3\), not \(778, 3\)"),
        ({"kintree_table": np.zeros((2, 16), int)}, "its joints hang on"),
    ):
        data = {name: value for name, value in (mano_like() | change).items() if value is not None}
        np.savez(tmp_path / "other.npz", **data)
        with pytest.raises(DataError, match=message):
            read_mano(tmp_path / "other.npz")
