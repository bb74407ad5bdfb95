"""3D hand mesh from one image: the parameters of a hand model, MANO or the synthetic one, and of a camera."""

from fastvit.tasks.hand_mesh.recipe import HandMeshRecipe
from fastvit.tasks.hand_mesh.task import HandMeshRecovery

__all__ = ["HandMeshRecipe", "HandMeshRecovery"]
