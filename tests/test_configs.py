"""Every classification recipe trains: two steps of it, small."""

from pathlib import Path

import pytest
import timm
import torch

from fastvit.config import differences
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.classification.fingerprint import fingerprint
from fastvit.training.engine import Trainer
from fastvit.training.loaders import loader_of

CONFIGS = Path(__file__).parents[1] / "configs" / "classification"
VARIANTS = ("t8", "t12", "s12", "sa12", "sa24", "sa36", "ma36")
SMALL = (
    "data={dataset: digits, num_classes: 10, image_size: 32, workers: 0}",
    "model.pretrained=false",
    "loop.batch_size=4",
    "optimizer.lr_batch_size=4",
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    torch.save(timm.create_model("fastvit_t8", num_classes=10).state_dict(), path)
    return path


def test_every_variant_has_its_recipes():
    names = {path.stem for path in CONFIGS.glob("*.yaml")}
    expected = {f"fastvit_{variant}{kind}" for variant in VARIANTS for kind in ("", "_distill", "_taught")}
    assert names == expected | {"fastvit_sa36_384", "fastvit_ma36_384", "finetune"}


def some(path):
    """In every test run: one recipe of each kind, of the smallest network."""
    quick = path.stem in ("fastvit_t8", "fastvit_t8_distill", "finetune")
    return pytest.param(path, id=path.stem, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize("path", [some(path) for path in sorted(CONFIGS.glob("*.yaml"))])
def test_two_steps(path, teacher, tmp_path):
    overrides = [*SMALL, f"output={tmp_path}"]
    distilled = path.stem.endswith(("_distill", "_taught"))
    if distilled:
        overrides.append(f"distillation.teacher={{name: fastvit_t8, checkpoint: {teacher}}}")
        overrides.append("distillation.answers=null")
    recipe = load_recipe(path, overrides)
    trainer = Trainer(make_task(recipe), recipe, None)
    before = [parameter.clone() for parameter in trainer.learner.model.parameters()]
    trainer.learner.model.train()
    for step, batch in zip((1000, 1001), trainer.batches.batches(0), strict=False):  # within the warm-up
        losses = trainer.learner.step(step, [batch]).losses
        assert set(losses) == {"cross_entropy"} | ({"distillation"} if distilled else set())
        assert all(loss.isfinite() for loss in losses.values())
    for old, new in zip(before, trainer.learner.model.parameters(), strict=True):
        assert not torch.equal(old, new)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("fastvit_*.yaml")), ids=lambda path: path.stem)
def test_the_header_is_a_contract(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    text = " ".join(line.lstrip("# ") for line in header)
    assert f"fastvit train classification/{path.stem}" in text
    for promise in ("Paper row: ", "Hardware: ", "Not reproduced.", f"fastvit evaluate runs/{path.stem}/last.pt"):
        assert promise in text


@pytest.mark.parametrize(
    ("name", "batch_size", "lr"),
    [
        ("segmentation/fastvit_sa12_ade20k", 32, 2e-4),  # 40k iterations
        ("segmentation/fastvit_sa12_ade20k", 16, 1e-4),  # of PoolFormer's other run, of 80k
        ("detection/mask_rcnn_fastvit_sa12_coco", 8, 1e-4),
        ("detection/retinanet_fastvit_sa12_coco", 8, 5e-5),
    ],
)
def test_rates_of_dense_recipes_follow_the_batch(name, batch_size, lr):
    assert load_recipe(name, [f"loop.batch_size={batch_size}"]).peak_lr == lr


@pytest.mark.parametrize("variant", VARIANTS)
def test_distillation_changes_what_the_published_commands_change(variant):
    plain, distilled = (load_recipe(CONFIGS / f"fastvit_{variant}{kind}.yaml").to_dict() for kind in ("", "_distill"))
    assert distilled["distillation"]["kind"] == "hard"
    assert distilled["distillation"]["alpha"] == 0.5
    changed = {
        f"{section}.{key}"
        for section in ("model", "data", "augmentation", "optimizer", "schedule", "ema", "loop")
        for key in plain[section]
        if plain[section][key] != distilled[section][key]
    }
    assert changed <= {"model.drop_path_rate", "augmentation.mixup"}


def test_the_students_that_share_a_file_of_answers_see_the_same_images():
    seen = {}
    for name in sorted(CONFIGS.glob("*_taught.yaml")):
        task = make_task(load_recipe(name, SMALL))
        loader = loader_of(task, task.open_data("train"))
        seen.setdefault(task.recipe.distillation.answers.name, []).append(
            fingerprint(task, loader, torch.device("cpu"))
        )
    first, second = (seen[f"regnety_160_mixup_{mixup}.answers"] for mixup in (0.2, 0.8))
    assert (len(first), len(second)) == (3, 4)
    assert all(each == group[0] for group in (first, second) for each in group)
    assert {line.split(":")[0] for line in differences(first[0], second[0])} == {
        "augmentation.mixup",
        "mixing and erasing by the libraries and the device",
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_stored_answers_change_nothing_but_who_answers(variant):
    taught, live = (
        load_recipe(CONFIGS / f"fastvit_{variant}{kind}.yaml").to_dict() for kind in ("_taught", "_distill")
    )
    assert taught["distillation"].pop("answers") == f"runs/regnety_160_mixup_{live['augmentation']['mixup']}.answers"
    for recipe in (taught, live):
        for only in ("answers", "teacher"):
            recipe["distillation"].pop(only, None)
        recipe.pop("output")
    assert taught == live
