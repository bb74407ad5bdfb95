"""The page of all recipe keys, made from the recipes' own classes whenever the site is built."""

from collections.abc import Sequence

from fastvit.recipe_keys import Key, recipe_keys
from fastvit.recipes import TASKS

INTRODUCTION = """# Recipe keys

Every key that a recipe can have, read from the classes that check recipes. On the command line a key is written with
its sections: `fastvit train <recipe> optimizer.lr=1e-3`. `fastvit recipes keys classification` prints the same.
"""


def page() -> str:
    """In Markdown: the keys of all tasks first, then what each task has besides or means otherwise."""
    keys = {task: recipe_keys(task) for task in TASKS}
    shared = [key for key in keys["classification"] if all(key in of_task for of_task in keys.values())]
    own = {task: [key for key in of_task if key not in shared] for task, of_task in keys.items()}
    parts = [INTRODUCTION, "## All tasks", table(shared)]
    for task, rest in own.items():
        parts += [f"## {task.replace('_', ' ').capitalize()}", table(rest)]
    return "\n\n".join(parts) + "\n"


def table(keys: Sequence[Key]) -> str:
    """A row for each key."""
    rows = [("key", "values", "default", "meaning"), ("---",) * 4]
    for key in keys:
        default = "**required**" if key.default is None else f"`{key.default}`" if key.default else ""
        name = f"**`{key.path}`**" if not key.kind else f"`{key.path}`"
        rows.append((name, key.kind.replace("<", "&lt;"), default, key.meaning.replace("|", "\\|")))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
