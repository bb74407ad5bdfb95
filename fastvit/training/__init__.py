"""Training: strict recipes, one loop for all tasks, schedules, checkpoints, logs.

Needs the extra `train`. Tasks are known here only through their interface, `fastvit.tasks.task`.
"""

from importlib.util import find_spec

_missing = [
    name for name in ("matplotlib", "pydantic", "roma", "sklearn", "tensorboard", "tqdm") if find_spec(name) is None
]
if _missing:
    raise ImportError(f'training needs {", ".join(_missing)}: pip install "fastvit[train]"')
