"""Every command that reads Apple's weights for a user says their licence, in one line beside what it prints."""

import json

import open_clip
import pytest
import timm
import torch
from PIL import Image

import fastvit.evaluation
import fastvit.tasks.classification.teach
import fastvit.training.engine
from fastvit.cli.main import main
from fastvit.recipes import load_recipe, make_task
from launch import QUICKSTART

LINE = "licence of Apple's published weights: apple-amlr, for research only, and so is all that is made with them"
CLIP = "tiny-clip-of-mci0"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of weights in which nothing says whose they are; photographs, and a folder for what is written."""
    root = tmp_path_factory.mktemp("licence")
    (root / "photos" / "val" / "cat").mkdir(parents=True)
    Image.new("RGB", (70, 60), "gray").save(root / "photos" / "val" / "cat" / "1.png")
    torch.save(timm.create_model("fastvit_mci0", num_classes=3).state_dict(), root / "mci0.pt")
    vision = {"timm_model_name": "fastvit_mci0", "timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": None}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 16, "vision_cfg": vision | {"image_size": 64}, "text_cfg": text}
    (root / f"{CLIP}.json").write_text(json.dumps(config))
    open_clip.add_model_config(root / f"{CLIP}.json")
    torch.save(open_clip.create_model(CLIP).state_dict(), root / "clip.pt")
    return root


ENCODER = "fastvit_mci0 --checkpoint {root}/mci0.pt --num-classes 3"
TOWER = f"open_clip:{CLIP} --checkpoint {{root}}/clip.pt"
PREDICT = f"predict {{root}}/photos/val --model {ENCODER} --image-size 64"
COMMANDS = {
    "export, and predict by the file": (
        f"export {ENCODER} --image-size 64 --format safetensors --output {{root}}/exports",
        "predict {root}/photos/val --model {root}/exports/fastvit_mci0.safetensors",
    ),
    "predict": (PREDICT,),
    "evaluate": (f"evaluate {ENCODER} data.root={{root}}/photos",),
    "train": ("train quickstart/digits model.name=fastvit_mci0 model.checkpoint={root}/mci0.pt output={root}/run",),
    "teach": (
        "teach quickstart/digits distillation.teacher.name=fastvit_mci0 "
        "distillation.teacher.checkpoint={root}/mci0.pt --output {root}/answers",
    ),
    "embed and zeroshot": (
        f"embed {TOWER} {{root}}/photos/val --output {{root}}/embeddings --workers 0",
        f"zeroshot {TOWER} {{root}}/embeddings --classes cat dog",
    ),
}


@pytest.mark.parametrize("commands", COMMANDS)
def test_commands_say_the_licence(commands, files, capsys, monkeypatch):
    monkeypatch.setattr(fastvit.evaluation, "evaluate_forms", lambda *args, **kwargs: (None, [], []))
    monkeypatch.setattr(fastvit.training.engine, "train", lambda *args, **kwargs: None)
    monkeypatch.setattr(fastvit.tasks.classification.teach, "teach", lambda *args, **kwargs: None)
    for command in COMMANDS[commands]:
        main(command.format(root=files).split())
        assert capsys.readouterr().err.splitlines().count(LINE) == 1
    if commands.startswith("export"):
        assert json.loads((files / "exports" / "fastvit_mci0.safetensors.json").read_text())["licence"] == "apple-amlr"


@pytest.fixture(scope="module")
def run(files):
    """A run that began from Apple's weights."""
    recipe = load_recipe(QUICKSTART, ["model.name=fastvit_mci0", f"model.checkpoint={files / 'mci0.pt'}"])
    weights = make_task(recipe).build_model(initial_weights=False).state_dict()
    (files / "trained").mkdir()
    torch.save({"state_dict": weights, "recipe": recipe.to_dict()}, files / "trained" / "best.pt")
    return files / "trained"


@pytest.mark.parametrize(
    "command",
    [
        "quantize {run} --format onnx --output {root}/int8",
        f"quantize {ENCODER} --format onnx --output {{root}}/int8 --images {{root}}/photos",
        "push {run} jane/cats",
    ],
)
def test_those_that_write_for_others_say_it_too(command, files, run, capsys, monkeypatch):
    """Without the work itself."""
    work = {
        "fastvit.deploy.int8.split": ((), ()),
        "fastvit.deploy.int8.quantize": None,
        "fastvit.cli.quantize.table": "",
        "fastvit.deploy.export": None,
        "fastvit.deploy.hub.require_repository": None,
        "fastvit.deploy.hub.push": "",
        "fastvit.model_card.model_card": "",
    }
    for place, result in work.items():
        monkeypatch.setattr(place, lambda *_, result=result, **__: result)
    main(command.format(run=run, root=files).split())
    assert capsys.readouterr().err.splitlines().count(LINE) == 1


def test_they_are_silent_of_random_weights(files, capsys):
    random = PREDICT.replace("--checkpoint {root}/mci0.pt", "--random-weights")
    main(random.format(root=files).split())
    assert "licence" not in capsys.readouterr().err
