"""Training: recipes, one loop for all tasks, schedules, checkpoints, logs. Needs the extra `train`.

A task is known here only by the interface that the loop needs, `fastvit.training.task`.
"""
