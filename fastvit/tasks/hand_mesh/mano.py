"""The MANO hand, from the file that its authors give to those who register."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from fastvit.errors import DataError
from fastvit.models.skinning import PARENTS, HandArrays

REGISTER = "register at https://mano.is.tue.mpg.de, accept its licence, and download MANO_RIGHT.pkl"
VERTICES, JOINTS, SHAPES = 778, len(PARENTS), 10
SHAPE_OF = {
    "v_template": (VERTICES, 3),
    "f": (1538, 3),
    "weights": (VERTICES, JOINTS),
    "shapedirs": (VERTICES, 3, SHAPES),
    "posedirs": (VERTICES, 3, 9 * (JOINTS - 1)),
    "J_regressor": (JOINTS, VERTICES),
    "kintree_table": (2, JOINTS),
    "hands_mean": (3 * (JOINTS - 1),),
}
# Vertices of the finger tips as FreiHAND has them; other tools choose others, one or two millimetres away.
TIPS = (744, 320, 443, 555, 672)


def read_mano(path: Path) -> HandArrays:
    """The arrays of a MANO file: MANO_RIGHT.pkl as it is downloaded, or the same arrays in an .npz.

    Raises:
        DataError: there is no such file, or it is not a MANO hand.
    """
    arrays = _arrays(path)
    _require_mano(arrays, path)
    return HandArrays(
        vertices=arrays["v_template"].astype(np.float32),
        faces=arrays["f"].astype(np.int64),
        skin_weights=arrays["weights"].astype(np.float32),
        shape_directions=arrays["shapedirs"].astype(np.float32),
        pose_directions=arrays["posedirs"].astype(np.float32),
        mean_pose=arrays["hands_mean"].astype(np.float32).reshape(-1, 3),
        joint_regressor=arrays["J_regressor"].astype(np.float32),
        tips=TIPS,
    )


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(f"there is no MANO file {path}; {REGISTER}, and give its path in model.mano")
    try:
        data = dict(np.load(path)) if path.suffix == ".npz" else _unpickle(path)
        return {name: _dense(data[name]) for name in SHAPE_OF}
    except Exception as error:  # whatever reading a file of another kind may raise
        reason = f"it has no {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise DataError(f"{path} cannot be read as a MANO hand ({reason}); {REGISTER}") from error


def _require_mano(arrays: dict[str, np.ndarray], path: Path) -> None:
    shapes = {name: array.shape for name, array in arrays.items()}
    wrong = [f"{name} is {shapes[name]}, not {shape}" for name, shape in SHAPE_OF.items() if shapes[name] != shape]
    if not wrong and tuple(arrays["kintree_table"][0, 1:]) != PARENTS[1:]:  # the wrist has no parent
        wrong = [f"its joints hang on {arrays['kintree_table'][0].tolist()}, not on {list(PARENTS)}"]
    if wrong:
        raise DataError(f"{path} is no MANO hand ({wrong[0]}); {REGISTER}")


# What numpy's arrays are pickled with.
OF_ARRAYS = (
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
)


class _Unknown(dict):
    """An object of a class that is not needed here; only what it carries is kept."""

    state: Any = None

    def __init__(self, *_: Any):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _ArraysOnly(pickle.Unpickler):
    """Makes numpy's arrays. Whatever else a file asks for becomes a `_Unknown`, so that no file can run code.

    MANO's file was written with chumpy, a library that no longer runs, and with an old scipy.
    """

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")
        if (module, name) in OF_ARRAYS:
            return super().find_class(module, name)
        if name == "_reconstructor":  # how pickle's first protocol makes an object of a class
            return lambda kind, *_: kind()
        return type(name, (_Unknown,), {})


def _unpickle(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return _ArraysOnly(file, encoding="latin1").load()  # Python 2 has written it


def _dense(value: Any) -> np.ndarray:
    """An array of numbers from what the file has in place of one: scipy's csc_matrix, chumpy's Ch and Select."""
    if not isinstance(value, _Unknown):
        return np.asarray(value)
    state, kind = value.state, type(value).__name__
    if kind == "csc_matrix":
        matrix = np.zeros(state["_shape"])
        columns = np.repeat(np.arange(matrix.shape[1]), np.diff(state["indptr"]))
        np.add.at(matrix, (state["indices"], columns), state["data"])
        return matrix
    if kind == "Select":  # some entries of an array
        return _dense(state["a"]).ravel()[_dense(state["idxs"])].reshape(state["preferred_shape"])
    if kind == "Ch":
        return _dense(state["x"])
    raise ValueError(f"there is a {kind} in place of an array")
