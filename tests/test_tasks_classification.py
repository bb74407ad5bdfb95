"""The classification task says what timm would, and counts as it should."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from timm.data import auto_augment
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from fastvit.data.images import NO_LABEL
from fastvit.errors import DataError, RecipeError
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.classification import Classification
from fastvit.tasks.classification.metrics import ClassificationMetrics
from fastvit.training.randomness import Purpose, seed_everything

QUICKSTART = Path(__file__).parent.parent / "configs" / "quickstart" / "digits.yaml"


def task(*overrides: str) -> Classification:
    return make_task(load_recipe(QUICKSTART, overrides))


class Given(nn.Module):
    """A "network" whose input is its output."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_metrics_over_uneven_batches_count_every_labelled_image_once():
    logits, labels = torch.randn(53, 10), torch.randint(10, (53,))
    labels[[3, 50]] = NO_LABEL
    metrics = ClassificationMetrics()
    for part in range(0, 53, 8):
        metrics.update(Given(), (logits[part : part + 8], labels[part : part + 8]))
    report = metrics.report()

    logits, labels = logits[labels != NO_LABEL], labels[labels != NO_LABEL]
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert report["samples"] == 51
    assert report["top1"] == pytest.approx(100 * (ranks < 1).sum().item() / 51)
    assert report["top5"] == pytest.approx(100 * (ranks < 5).sum().item() / 51)
    assert report["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-6)


def test_top5_is_left_out_where_it_says_nothing():
    metrics = ClassificationMetrics()
    metrics.update(Given(), (torch.randn(4, 5), torch.zeros(4, dtype=torch.long)))
    assert "top5" not in metrics.report()


def test_same_predictions_counts_images():
    logits, labels = torch.eye(4), torch.zeros(4, dtype=torch.long)
    first, second = ClassificationMetrics(), ClassificationMetrics()
    first.update(Given(), (logits, labels))
    second.update(Given(), (logits[[0, 1, 3, 2]], labels))
    assert first.same_predictions(second) == 2


def test_label_smoothing_is_timm_s():
    logits, labels = torch.randn(6, 10), torch.randint(10, (6,))
    (loss,) = task("augmentation.smoothing=0.1").losses(Given(), (logits, labels)).values()
    torch.testing.assert_close(loss, LabelSmoothingCrossEntropy(0.1)(logits, labels))


def test_mixing_is_timm_s():
    mixing = task("augmentation.mixup=0.8", "augmentation.cutmix=1.0", "augmentation.smoothing=0.1")
    images, labels = torch.rand(6, 3, 32, 32), torch.randint(10, (6,))
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    seed_everything(0, Purpose.STEP, 0)
    (loss,) = mixing.losses(model, (images.clone(), labels)).values()
    seed_everything(0, Purpose.STEP, 0)
    mixed, soft = mixing.mix(images.clone(), labels)
    assert not torch.equal(mixed, images)
    torch.testing.assert_close(loss, SoftTargetCrossEntropy()(model(mixed), soft))


def test_digits_are_not_mirrored_and_fill_the_image():
    train, val = task("augmentation.scale=[1.0, 1.0]", "augmentation.ratio=[1.0, 1.0]").build_datasets()
    assert torch.equal(train[0][0], train[0][0])  # no crop, no flip: nothing is left to chance
    image, label = val[0]
    assert image.shape == (3, 32, 32)
    assert (image[0, 0, 0], label) == (val[0][0][0, 0, 0], val[0][1])


def test_pixels_are_normalised_as_the_model_was_pretrained():
    configured = task()
    assert configured.input["mean"] == (0.485, 0.456, 0.406)
    assert configured.input["crop_pct"] == 1.0  # the recipe's, not the model's 0.9


def test_a_model_starts_from_a_checkpoint_and_keeps_or_resets_its_head(tmp_path: Path):
    source = task().build_model()
    torch.save(source.state_dict(), tmp_path / "model.pt")
    start = f"model.checkpoint={tmp_path / 'model.pt'}"
    loaded = task(start).build_model()
    torch.testing.assert_close(loaded.state_dict(), source.state_dict(), rtol=0, atol=0)
    with pytest.raises(RecipeError, match=r"model\.checkpoint: .*model.pt"):
        task(start, "data.num_classes=4").build_model()
    smaller = task(start, "data.num_classes=4", "model.reset_head=true").build_model()
    assert torch.equal(smaller.stem[0].conv.conv.weight, source.stem[0].conv.conv.weight)
    assert task(start).build_model(initial_weights=False).num_classes == 10


def test_a_missing_checkpoint_is_the_recipe_s_fault():
    with pytest.raises(RecipeError, match=r"model\.checkpoint: there is no checkpoint file nowhere.pt"):
        task("model.checkpoint=nowhere.pt").build_model()


def test_the_picture_marks_wrong_predictions():
    configured = task()
    val = configured.build_datasets().val
    samples = [val[i] for i in range(12)]
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = torch.eye(10)[7]  # everything is a seven
    figure = configured.draw(model, samples)
    titles = [(axes.get_title(), axes.title.get_color()) for axes in figure.axes[:12]]
    assert titles == [("7", "black") if label == 7 else (f"7, is {label}", "red") for _, label in samples]


def test_skipped_images_are_counted_and_named(tmp_path: Path):
    for split in ("train", "val"):
        for label in ("ant", "bee"):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            Image.new("RGB", (40, 40)).save(folder / "0.png")
            Image.new("RGB", (40, 40)).save(folder / "1.png")
    (tmp_path / "train" / "ant" / "1.png").write_bytes(b"not an image")
    (tmp_path / "val" / "bee" / "0.png").write_bytes(b"not an image")
    data = f"dataset: folder, root: {tmp_path}, num_classes: 2, image_size: 32, on_bad_image: skip"
    configured = task(f"data={{{data}}}")
    train, val = configured.build_datasets()
    assert configured.notices() == []
    assert [train[i][1] for i in range(4)] == [0, 1, 1, 1]
    assert [val[i][1] for i in range(4)] == [0, 0, NO_LABEL, 1]
    (notice,) = configured.notices()
    assert "left out: 2, such as" in notice
    assert str(tmp_path / "train" / "ant" / "1.png") in notice
    assert configured.class_names == ["ant", "bee"]


def test_random_augment_reaches_its_limits():
    """timm posterizes to 0 bits at the highest level, which Pillow 13 refuses (hence the bound in pyproject.toml)."""
    image = Image.new("RGB", (32, 32), "red")
    for name in auto_augment._RAND_INCREASING_TRANSFORMS:
        for magnitude in (0, 10):
            assert auto_augment.AugmentOp(name, prob=1.0, magnitude=magnitude)(image).size == (32, 32)


def test_no_readable_validation_image_is_an_error():
    metrics = ClassificationMetrics()
    metrics.update(lambda images: torch.zeros(len(images), 3), (torch.zeros(2, 3, 8, 8), torch.full((2,), NO_LABEL)))
    with pytest.raises(DataError, match="none of the validation images can be read"):
        metrics.report()
