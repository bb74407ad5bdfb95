"""Predict the hands of a run's validation data and write the file that the FreiHAND challenge takes.

python scripts/predict_hands.py runs/hand_mesh_freihand
python scripts/predict_hands.py runs/hand_mesh_freihand/last.pt data.root=/data/FreiHAND model.mano=MANO_RIGHT.pkl
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fastvit import reparameterize_model
from fastvit.errors import RunError, exit_on_user_error
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.hand_mesh import HandMeshRecovery
from fastvit.tasks.hand_mesh.prediction import predict, write_predictions
from fastvit.training.checkpoint import read_checkpoint
from fastvit.training.device import best_device
from fastvit.training.loaders import eval_loader
from fastvit.training.run_folder import RunFolder


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    with exit_on_user_error():
        path = RunFolder(arguments.source).best if arguments.source.is_dir() else arguments.source
        checkpoint = read_checkpoint(path)
        task = make_task(load_recipe(checkpoint["recipe"], arguments.overrides))
        if not isinstance(task, HandMeshRecovery):
            raise RunError(f"{path} is of a {task.recipe.task} run, and this script is about hand_mesh")
        model = task.build_model(initial_weights=False)
        try:
            model.load_state_dict(checkpoint.get("state_dict_ema", checkpoint["state_dict"]))
        except RuntimeError as error:
            raise RunError(f"the weights in {path} do not fit the model that the overrides describe") from error
        loop, data = task.recipe.loop, task.recipe.data
        val = eval_loader(task.build_datasets().val, task.collate, batch_size=loop.batch_size, workers=data.workers)
        device = best_device()
        joints, vertices = predict(reparameterize_model(model).to(device), val, device)
    output = arguments.output or path.with_name("pred.json")
    write_predictions(output, joints, vertices)
    print(f"{len(joints)} hands written: {output}")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of a run, or a checkpoint of a run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of what the recipe says")
    parser.add_argument("--output", type=Path, help="file to write; pred.json beside the checkpoint by default")
    return parser.parse_intermixed_args(argv)


if __name__ == "__main__":
    main()
