"""The MANO hand, from the file that its authors give to those who register."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from fastvit.errors import DataError
from fastvit.models.skinning import PARENTS, HandArrays

REGISTER = "register at https://mano.is.tue.mpg.de, accept its licence, and download MANO_RIGHT.pkl"
# Vertices of the finger tips as FreiHAND has them; other tools choose others, one or two millimetres away.
TIPS = (744, 320, 443, 555, 672)


def read_mano(path: Path) -> HandArrays:
    """The arrays of a MANO file: MANO_RIGHT.pkl as it is downloaded, or the same arrays in an .npz.

    The file is read by body-models, which unpickles it: like any pickle it can run code, so take it from its authors.

    Raises:
        DataError: there is no such file, or it is not a MANO hand.
        ImportError: the extra `hand` is not installed.
    """
    if not path.is_file():
        raise DataError(f"there is no MANO file {path}; {REGISTER}, and give its path in model.mano")
    if find_spec("body_models") is None:
        raise ImportError('MANO needs body-models (Python 3.11 or newer): pip install "fastvit[hand]"')
    from body_models.mano.torch import MANO

    try:
        model = MANO(model_path=path)
    except Exception as error:  # whatever unpickling and reading a file of another kind may raise
        raise DataError(
            f"{path} cannot be read as a MANO hand ({type(error).__name__}: {error}); {REGISTER}"
        ) from error
    # The names are body-models' own business; the extra is pinned to versions that have them.
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    vertices = state["_assets.v_template"]
    if len(vertices) <= max(TIPS) or tuple(model.parents) != PARENTS:
        raise DataError(
            f"{path} has {len(vertices)} vertices and {len(model.parents)} joints, which is no MANO hand; {REGISTER}"
        )
    return HandArrays(
        vertices=vertices,
        faces=state["_assets.faces"],
        skin_weights=state["_assets.lbs_weights"],
        shape_directions=state["_assets.shapedirs"],
        pose_directions=np.ascontiguousarray(state["_assets.posedirs"].T).reshape(len(vertices), 3, -1),
        joints=state["_assets.j_template"],
        joint_directions=state["_assets.j_shapedirs"],
        mean_pose=state["_assets.hand_mean"].reshape(-1, 3),
        tips=TIPS,
    )
