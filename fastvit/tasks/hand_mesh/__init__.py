"""3D hand mesh from one image: the parameters of a hand model, MANO or the synthetic one, and of a camera."""

from fastvit.tasks.hand_mesh.recipe import HandMeshRecipe as RECIPE
from fastvit.tasks.hand_mesh.task import HandMeshRecovery as TASK

__all__ = ["RECIPE", "TASK"]
