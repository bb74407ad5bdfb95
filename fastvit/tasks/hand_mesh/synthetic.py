"""A hand of our own, made of tubes, with MANO's skeleton: for demos and tests that need no licensed file."""

import numpy as np

from fastvit.models.skinning import FINGERS, PARENTS, HandArrays

# In metres; fingers point to -y, the thumb's side is +x, the palm faces -z: upright in an image, seen from the palm.
KNUCKLES = {
    "index": (0.030, -0.090, 0.0),
    "middle": (0.008, -0.094, 0.0),
    "ring": (-0.013, -0.088, 0.0),
    "pinky": (-0.032, -0.078, 0.0),
    "thumb": (0.022, -0.025, -0.006),
}
BONES = {
    "index": (0.042, 0.025, 0.022),
    "middle": (0.046, 0.029, 0.023),
    "ring": (0.042, 0.027, 0.023),
    "pinky": (0.033, 0.020, 0.020),
    "thumb": (0.044, 0.032, 0.027),
}
DIRECTIONS = {
    "index": (0.10, -1.0, 0.0),
    "middle": (0.02, -1.0, 0.0),
    "ring": (-0.06, -1.0, 0.0),
    "pinky": (-0.16, -1.0, 0.0),
    "thumb": (0.80, -0.75, -0.25),
}
RADII = {"index": 0.0090, "middle": 0.0092, "ring": 0.0088, "pinky": 0.0078, "thumb": 0.0108}
SIDES = 8  # vertices around a finger
PALM_SIDES = 16
PALM_RINGS, FINGER_RINGS = 7, 8
# The rings that joints are in the middle of, as `_palm` and `_stations` order them.
WRIST_RING, JOINT_RINGS = 2, (1, 3, 5)
# Radians of each joint of each finger, in the skeleton's order, in a relaxed hand.
MEAN_BEND = np.array([[0.65, 0.75, 0.45]] * 4 + [[0.39, 0.45, 0.27]])
# One shape coefficient each: the whole hand, length of all fingers, palm's width, thickness, and length of each finger.
SHAPE = ("size", "fingers", "palm", "thickness", "index", "middle", "ring", "pinky", "thumb", "wrist")
SHAPE_STEP = 0.06  # what a unit of a coefficient multiplies by, less 1
BULGE = 0.004  # how far flesh moves out at a bent joint, in metres


def synthetic_hand() -> HandArrays:
    """A right hand, always the same one. 444 vertices, 10 shape coefficients."""
    rng = np.random.default_rng(0)
    proportions = {name: 1 + 0.03 * rng.standard_normal() for name in SHAPE}
    vertices, joints = _grow(proportions)
    changes = []
    for name in SHAPE:
        changed, _ = _grow({**proportions, name: proportions[name] * (1 + SHAPE_STEP)})
        changes.append(changed - vertices)
    faces, skin_weights, tips = _topology(joints)
    return HandArrays(
        vertices=vertices.astype(np.float32),
        faces=faces,
        skin_weights=skin_weights.astype(np.float32),
        shape_directions=np.stack(changes, -1).astype(np.float32),
        pose_directions=_bulges(skin_weights).astype(np.float32),
        mean_pose=(MEAN_BEND.reshape(15, 1) * flexion_axes()).astype(np.float32),
        joint_regressor=_joint_regressor(len(vertices)).astype(np.float32),
        tips=tips,
    )


def flexion_axes() -> np.ndarray:
    """(15, 3): the axis around which each finger joint bends towards the palm, of length 1."""
    return np.array([_axis(finger) for finger in FINGERS for _ in range(3)], dtype=np.float32)


def _axis(finger: str) -> np.ndarray:
    along = np.array(DIRECTIONS[finger]) / np.linalg.norm(DIRECTIONS[finger])
    inwards = np.array([-0.7, 0.0, -0.7]) if finger == "thumb" else np.array([0.0, 0.0, -1.0])
    axis = np.cross(along, inwards)
    return axis / np.linalg.norm(axis)


def _grow(proportions: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) and the 16 joints (16, 3) at rest: the palm, then the fingers in the skeleton's order."""
    size, thickness, palm = (proportions[name] for name in ("size", "thickness", "palm"))
    parts, joints = [_palm(palm, thickness, proportions["wrist"])], [np.zeros((1, 3))]
    for finger in FINGERS:
        points = _finger_joints(finger, proportions)  # (4, 3): knuckle, two joints, tip
        parts.append(_finger(points, RADII[finger] * thickness))
        joints.append(points[:3])
    return size * np.concatenate(parts), size * np.concatenate(joints)


def _finger_joints(finger: str, proportions: dict[str, float]) -> np.ndarray:
    along = np.array(DIRECTIONS[finger]) / np.linalg.norm(DIRECTIONS[finger])
    ends = np.concatenate([[0.0], np.cumsum(BONES[finger])]) * proportions["fingers"] * proportions[finger]
    return np.array(KNUCKLES[finger]) * [proportions["palm"], 1.0, 1.0] + ends[:, None] * along


def _stations(points: np.ndarray) -> np.ndarray:
    """How far along a finger its rings of vertices are, from behind the knuckle to near the tip."""
    ends = np.linalg.norm(points - points[0], axis=1)
    middles = (ends[1:] + ends[:-1]) / 2
    return np.sort(np.concatenate([[-0.4 * ends[1]], ends[:3], middles, [0.93 * ends[3]]]))  # 8 rings


def _finger(points: np.ndarray, radius: float) -> np.ndarray:
    along = (points[3] - points[0]) / np.linalg.norm(points[3] - points[0])
    stations = _stations(points)
    reach = (stations / stations[-1]).clip(0, 1)
    radii = radius * (1.05 - 0.3 * reach)
    radii[-1] *= 0.75  # the finger tip is round
    side = np.cross(along, [0.0, 0.0, 1.0])
    side /= np.linalg.norm(side)
    rings = _rings(points[0] + stations[:, None] * along, side, np.cross(along, side), radii)
    return np.concatenate([rings, [points[0] + stations[0] * along], [points[3]]])


def _palm(width: float, thickness: float, wrist: float) -> np.ndarray:
    y = np.array([0.035, 0.02, 0.0, -0.025, -0.05, -0.075, -0.092])
    half_width = np.array([0.026, 0.026, 0.027, 0.034, 0.039, 0.040, 0.034])
    half_width = half_width * np.array([wrist] * 3 + [width] * 4)
    depth = np.array([0.018, 0.018, 0.017, 0.016, 0.014, 0.012, 0.008]) * thickness
    angles = np.arange(PALM_SIDES) * 2 * np.pi / PALM_SIDES
    ring = np.stack(
        [half_width[:, None] * np.cos(angles), np.repeat(y[:, None], PALM_SIDES, 1), depth[:, None] * np.sin(angles)],
        -1,
    )
    return np.concatenate([ring.reshape(-1, 3), [[0, y[0] + 0.004, 0]], [[0, y[-1] - 0.004, 0]]])


def _rings(centers: np.ndarray, side: np.ndarray, up: np.ndarray, radii: np.ndarray) -> np.ndarray:
    angles = np.arange(SIDES) * 2 * np.pi / SIDES
    around = np.cos(angles)[:, None] * side + np.sin(angles)[:, None] * up  # (SIDES, 3)
    return (centers[:, None] + radii[:, None, None] * around).reshape(-1, 3)


def _topology(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Faces (F, 3), skin weights (V, 16), and the vertices at the tips of thumb, index, middle, ring and pinky."""
    faces, first = [_tube_faces(PALM_RINGS, PALM_SIDES)], PALM_RINGS * PALM_SIDES + 2
    weights = [np.tile(np.eye(16)[0], (first, 1))]
    tips = {}
    for i, finger in enumerate(FINGERS):
        faces.append(_tube_faces(FINGER_RINGS, SIDES) + first)
        first += FINGER_RINGS * SIDES + 2
        tips[finger] = first - 1
        weights.append(_finger_weights(joints[1 + 3 * i : 4 + 3 * i], finger, 1 + 3 * i))
    order = ("thumb", "index", "middle", "ring", "pinky")
    return np.concatenate(faces), np.concatenate(weights), tuple(tips[finger] for finger in order)


def _joint_regressor(num_vertices: int) -> np.ndarray:
    """(16, V): each joint is the mean of the ring around it."""
    regressor = np.zeros((16, num_vertices))
    regressor[0, WRIST_RING * PALM_SIDES : (WRIST_RING + 1) * PALM_SIDES] = 1 / PALM_SIDES
    finger = PALM_RINGS * PALM_SIDES + 2  # the first vertex of the first finger
    for joint in range(1, 16):
        number, of_finger = divmod(joint - 1, 3)
        first = finger + number * (FINGER_RINGS * SIDES + 2) + JOINT_RINGS[of_finger] * SIDES
        regressor[joint, first : first + SIDES] = 1 / SIDES
    return regressor


def _finger_weights(joints: np.ndarray, finger: str, number: int) -> np.ndarray:
    """(vertices of the finger, 16): from each bone to the next over the radius of the finger to both sides."""
    lengths = np.linalg.norm(joints[1:] - joints[:-1], axis=1)
    tip = joints[2] + (joints[2] - joints[1]) * BONES[finger][2] / BONES[finger][1]
    stations = _stations(np.concatenate([joints, [tip]]))
    ends = np.array([0.0, lengths[0], lengths.sum()])
    past = ((stations[:, None] - ends) / (2 * RADII[finger]) + 0.5).clip(0, 1)  # how far past each joint
    past = past * past * (3 - 2 * past)
    share = np.concatenate([1 - past[:, :1], past[:, :2] - past[:, 1:], past[:, 2:]], 1)  # of palm and three bones
    weights = np.zeros((len(stations), 16))
    weights[:, [0, number, number + 1, number + 2]] = share
    return np.concatenate([np.repeat(weights, SIDES, 0), weights[:1], weights[-1:]])


def _tube_faces(rings: int, sides: int) -> np.ndarray:
    """Triangles of a closed tube, seen counter-clockwise from outside: rings one after the other, then both ends."""
    start, end = rings * sides, rings * sides + 1
    faces = []
    for ring in range(rings - 1):
        for k in range(sides):
            a, b = ring * sides + k, ring * sides + (k + 1) % sides
            faces += [(a, b, a + sides), (b, b + sides, a + sides)]
    for k in range(sides):
        faces += [(start, (k + 1) % sides, k), (end, start - sides + k, start - sides + (k + 1) % sides)]
    return np.array(faces, dtype=np.int64)


def _bulges(skin_weights: np.ndarray) -> np.ndarray:
    """(V, 3, 135): where two bones share the skin it moves towards the palm as the joint between them bends."""
    directions = np.zeros((len(skin_weights), 3, 15, 3, 3))
    for joint, parent in enumerate(PARENTS[1:], start=1):
        shared = 4 * skin_weights[:, joint] * skin_weights[:, parent]
        directions[:, 2, joint - 1, 2, 2] = BULGE * shared  # the entry falls from 0 as the joint bends
    return directions.reshape(len(skin_weights), 3, 135)
