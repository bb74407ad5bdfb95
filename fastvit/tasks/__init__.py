"""What can be trained: a room for each task, with all that is its own. `fastvit.recipes` finds them by their names."""

from fastvit.recipes import TASKS, build_recipe, load_recipe, make_task

__all__ = ["TASKS", "build_recipe", "load_recipe", "make_task"]
