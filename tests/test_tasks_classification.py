"""The classification task says what timm would, and counts as it should."""

import pickle
import re
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, Mixup, auto_augment
from timm.data.random_erasing import RandomErasing
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn
from torchvision.transforms import Normalize
from torchvision.transforms.functional import pil_to_tensor

from fastvit.data.images import NO_LABEL
from fastvit.data.normalization import Normalization
from fastvit.errors import DataError, RecipeError, RunError
from fastvit.runtime.randomness import Purpose, seed_everything
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.classification.distillation import Teacher, build_teacher, describe_teacher
from fastvit.tasks.classification.metrics import ClassificationMetrics
from fastvit.tasks.classification.task import Classification
from fastvit.tasks.network import NamedNetwork, in_words_of_recipes
from fastvit.trained.of_run import ADVICE
from fastvit.training.loaders import loader_of
from fastvit.training.task import open_train_and_val
from reference import randomize

QUICKSTART = Path(__file__).parent.parent / "configs" / "quickstart" / "digits.yaml"


def task(*overrides: str) -> Classification:
    return make_task(load_recipe(QUICKSTART, overrides))


def pixels(count: int) -> torch.Tensor:
    return torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))


def test_metrics_over_uneven_batches_count_every_labelled_image_once():
    logits, labels = torch.randn(53, 10), torch.randint(10, (53,))
    labels[[3, 50]] = NO_LABEL
    metrics = ClassificationMetrics()
    for part in range(0, 53, 8):
        metrics.update(logits[part : part + 8], (None, labels[part : part + 8]))
    report = metrics.report()

    logits, labels = logits[labels != NO_LABEL], labels[labels != NO_LABEL]
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert report["samples"] == 51
    assert report["top1"] == pytest.approx(100 * (ranks < 1).sum().item() / 51)
    assert report["top5"] == pytest.approx(100 * (ranks < 5).sum().item() / 51)
    assert report["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-6)


def test_top5_is_left_out_where_it_says_nothing():
    metrics = ClassificationMetrics()
    metrics.update(torch.randn(4, 5), (None, torch.zeros(4, dtype=torch.long)))
    assert "top5" not in metrics.report()


def test_same_predictions_counts_images():
    logits, labels = torch.eye(4), torch.zeros(4, dtype=torch.long)
    first, second = ClassificationMetrics(), ClassificationMetrics()
    first.update(logits, (None, labels))
    second.update(logits[[0, 1, 3, 2]], (None, labels))
    assert first.same_predictions(second) == 2
    for metrics in (first, second):  # of an image that cannot be read there is nothing to compare
        metrics.update(logits[:1], (None, torch.tensor([NO_LABEL])))
    assert first.same_predictions(second) == 2


def test_label_smoothing_is_timm_s():
    logits, labels = torch.randn(6, 10), torch.randint(10, (6,))
    (loss,) = task("augmentation.smoothing=0.1").losses(lambda images: logits, (pixels(6), labels)).values()
    torch.testing.assert_close(loss, LabelSmoothingCrossEntropy(0.1)(logits, labels))


def test_a_batch_is_normalized_mixed_and_then_erased_as_timm_does():
    names = ("mixup=0.8", "cutmix=1.0", "smoothing=0.1", "reprob=0.5", "recount=2")
    configured = task(*(f"augmentation.{name}" for name in names))
    images, labels = pixels(6), torch.randint(10, (6,))
    before = images.clone()
    seed_everything(0, Purpose.STEP, 0)
    seen, targets = configured.augment(images, labels)
    assert torch.equal(images, before)

    seed_everything(0, Purpose.STEP, 0)
    expected = Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)(images / 255)
    expected, expected_targets = Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=10)(expected, labels)
    mixed = expected.clone()
    expected = RandomErasing(0.5, mode="pixel", max_count=2, device="cpu")(expected)
    assert torch.equal(seen, expected)
    assert torch.equal(targets, expected_targets)
    assert 0 < (seen != mixed).float().mean() < 0.5


def test_the_loss_is_of_the_mixed_images_and_labels():
    configured = task("augmentation.mixup=0.8", "augmentation.cutmix=1.0", "augmentation.smoothing=0.1")
    model, batch = linear(), (pixels(6), torch.randint(10, (6,)))
    seed_everything(0, Purpose.STEP, 0)
    (loss,) = configured.losses(model, batch).values()
    seed_everything(0, Purpose.STEP, 0)
    mixed, targets = configured.augment(*batch)
    torch.testing.assert_close(loss, SoftTargetCrossEntropy()(model(mixed), targets))


def test_images_to_train_on_come_as_pixels_and_make_a_batch_in_their_own_layout():
    """What torchvision's transforms end with is normalized here on the device: to the same bits."""
    configured = task("augmentation.scale=[1.0, 1.0]", "augmentation.ratio=[1.0, 1.0]")
    train, val = (part.samples for part in open_train_and_val(configured))
    images, labels = configured.collate([train[index] for index in range(5)])
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.tolist() == [train.source[index][1] for index in range(5)]
    assert torch.equal(configured.augment(images, labels)[0][3], val.transform(train.source[3][0]))


def test_digits_are_not_mirrored_and_fill_the_image():
    configured = task("augmentation.scale=[1.0, 1.0]", "augmentation.ratio=[1.0, 1.0]")
    train, val = (part.samples for part in open_train_and_val(configured))
    assert torch.equal(train[0][0], pil_to_tensor(train.source[0][0]))  # no crop, no flip
    assert torch.equal(val[0][0], configured.normalization(pil_to_tensor(val.source[0][0])))


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
    assert torch.equal(smaller.stem[0].conv_kxk[0].conv.weight, source.stem[0].conv_kxk[0].conv.weight)
    assert task(start).build_model(initial_weights=False).num_classes == 10


def test_a_missing_checkpoint_is_the_recipe_s_fault():
    with pytest.raises(RecipeError, match=r"model\.checkpoint: there is no checkpoint file nowhere.pt"):
        task("model.checkpoint=nowhere.pt").build_model()


def test_a_network_without_stochastic_depth():
    """Its constructor takes no rate, not even 0."""
    name = "model.name=ghostnet_050"
    assert task(name).build_model().num_classes == 10
    with pytest.raises(RecipeError, match=r"model\.drop_path_rate: ghostnet_050 has no stochastic depth; set it to 0"):
        task(name, "model.drop_path_rate=0.1").build_model()


def test_the_picture_marks_wrong_predictions():
    configured = task()
    val = configured.open_data("val")
    samples = [val.samples[i] for i in range(12)]
    model = linear()
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = torch.eye(10)[7]  # everything is a seven
    figure = configured.draw(model, samples, val.class_names)
    titles = [(axes.get_title(), axes.title.get_color()) for axes in figure.axes[:12]]
    assert titles == [("7", "black") if label == 7 else (f"7\nis {label}", "red") for _, label in samples]


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
    train, val = open_train_and_val(configured)
    assert train.notices() == val.notices() == []
    assert [train.samples[i][1] for i in range(4)] == [0, 1, 1, 1]
    assert [val.samples[i][1] for i in range(4)] == [0, 0, NO_LABEL, 1]
    for part, name in ((train, "train/ant/1.png"), (val, "val/bee/0.png")):
        (notice,) = part.notices()
        assert notice == ("images that could not be read and are left out", str(tmp_path / name))
        assert part.class_names == ("ant", "bee")


def test_random_augment_reaches_its_limits():
    """timm posterizes to 0 bits at the highest level, which Pillow 13 refuses (hence the bound in pyproject.toml)."""
    image = Image.new("RGB", (32, 32), "red")
    for name in auto_augment._RAND_INCREASING_TRANSFORMS:
        for magnitude in (0, 10):
            assert auto_augment.AugmentOp(name, prob=1.0, magnitude=magnitude)(image).size == (32, 32)


def test_no_readable_validation_image_is_an_error():
    metrics = ClassificationMetrics()
    metrics.update(torch.zeros(2, 3), (None, torch.full((2,), NO_LABEL)))
    with pytest.raises(DataError, match="none of the validation images can be read"):
        metrics.report()


@pytest.fixture(scope="module")
def teacher_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = timm.create_model("fastvit_t8", num_classes=10)
    randomize(model)
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    torch.save(model.state_dict(), path)
    return path


def distilling(checkpoint: Path, *overrides: str) -> Classification:
    distillation = f"distillation={{teacher: {{name: fastvit_t8, checkpoint: {checkpoint}}}, alpha: 0.3}}"
    student = task(distillation, "augmentation.mixup=0.8", "augmentation.cutmix=1.0", *overrides)
    student.prepare_training(torch.device("cpu"), data=None, loader=None)
    return student


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_distillation_is_deit_s(kind: str, teacher_checkpoint: Path):
    """Against DeiT's formulas, on the same mixed images, with the student's own logits."""
    student = distilling(teacher_checkpoint, f"distillation.kind={kind}", "distillation.temperature=3.0")
    model, batch = linear(), (pixels(8), torch.randint(10, (8,)))
    seed_everything(0, Purpose.STEP)
    losses = student.losses(model, batch)
    seed_everything(0, Purpose.STEP)
    mixed, targets = student.augment(*batch)
    with torch.no_grad():
        hints = student.teacher.model(mixed)
    logits = model(mixed)
    if kind == "hard":
        expected = nn.functional.cross_entropy(logits, hints.argmax(1))
    else:
        logs = nn.functional.log_softmax(logits / 3, 1), nn.functional.log_softmax(hints / 3, 1)
        expected = (logs[1].exp() * (logs[1] - logs[0])).sum() * 9 / 8
    torch.testing.assert_close(losses["distillation"], 0.3 * expected)
    torch.testing.assert_close(losses["cross_entropy"], 0.7 * SoftTargetCrossEntropy()(logits, targets))


def test_the_teacher_sees_its_own_normalization(teacher_checkpoint: Path):
    student = distilling(teacher_checkpoint)
    student.teacher = Teacher(nn.Identity(), scale=torch.tensor([2.0, 1, 1]), shift=torch.tensor([0.0, 3, 0]))
    pixel = torch.tensor([1.0, 1, 1]).view(1, 3, 1, 1)
    assert student.teacher(pixel).flatten().tolist() == [2, 4, 1]
    config = student.recipe
    teacher = build_teacher(config, Normalization((0.5, 0.5, 0.5), (1.0, 1.0, 1.0)))  # the teacher's: ImageNet's
    color = torch.rand(3)
    seen = (color - 0.5) * teacher.scale.flatten() + teacher.shift.flatten()
    expected = (color - torch.tensor(IMAGENET_DEFAULT_MEAN)) / torch.tensor(IMAGENET_DEFAULT_STD)
    torch.testing.assert_close(seen, expected)


def test_the_teacher_stays_as_it_is(teacher_checkpoint: Path):
    student = distilling(teacher_checkpoint)
    before = {name: tensor.clone() for name, tensor in student.teacher.state_dict().items()}
    sum(student.losses(linear(), (pixels(4), torch.randint(10, (4,)))).values()).backward()
    assert all(parameter.grad is None for parameter in student.teacher.parameters())
    torch.testing.assert_close(dict(student.teacher.state_dict()), before, rtol=0, atol=0)


def test_workers_are_not_sent_the_teacher(teacher_checkpoint: Path):
    """Where they are not forked, all that a loader holds is pickled for each: tensors on an Apple GPU cannot be."""
    student = distilling(teacher_checkpoint)
    loader = loader_of(student, student.open_data("train")).loader
    assert len(pickle.dumps(student)) > 1_000_000
    assert len(pickle.dumps(loader.collate_fn)) < 1000


def test_without_distillation_no_teacher_is_loaded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fastvit.tasks.classification.task.build_teacher", None)
    plain = task()
    plain.prepare_training(torch.device("cpu"), data=None, loader=None)
    assert not hasattr(plain, "teacher")


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("{name: fastvit_t8}", "fastvit_t8 has no weights of its own: give a tag, pretrained: true, or a checkpoint"),
        ("{name: fastvit_t8, pretrained: true, checkpoint: a.pt}", "pretrained and checkpoint exclude each other"),
        ("{name: fastvit_t9, pretrained: true}", "did you mean fastvit_t8?"),
    ],
)
def test_a_teacher_that_cannot_be(teacher: str, message: str):
    with pytest.raises(RecipeError, match=re.escape(message)):
        task(f"distillation={{teacher: {teacher}}}")


def test_a_run_can_teach(random_run: Path):
    """By its folder alone: it knows its network, and what its images go through."""
    student = task(f"distillation={{teacher: {{name: {random_run}}}}}")
    student.prepare_training(torch.device("cpu"), data=None, loader=None)
    weights = torch.load(random_run / "best.pt")["state_dict"]
    torch.testing.assert_close(dict(student.teacher.model.state_dict()), weights)
    with pytest.raises(RecipeError, match="knows 10 classes, the data has 9: train a teacher on the data"):
        task(f"distillation={{teacher: {{name: {random_run}}}}}", "data.num_classes=9").build_teacher(None)


def test_a_recipe_with_a_file_of_weights_can_teach(random_run: Path):
    student = task(f"distillation={{teacher: {{name: quickstart/digits, checkpoint: {random_run / 'best.pt'}}}}}")
    student.prepare_training(torch.device("cpu"), data=None, loader=None)
    weights = torch.load(random_run / "best.pt")["state_dict"]
    torch.testing.assert_close(dict(student.teacher.model.state_dict()), weights)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (f"no weights; {ADVICE}", "no weights; give a file that you have: model.checkpoint=FILE"),
        ("no weights: give --checkpoint FILE", "no weights: set model.checkpoint=FILE"),
        ("give those of a run with --checkpoint", "give those of a run: model.checkpoint=FILE"),
    ],
)
def test_advice_about_a_network_in_a_recipe_is_for_a_recipe(said: str, meant: str):
    with pytest.raises(RecipeError) as caught, in_words_of_recipes("model"):
        raise RunError(said)
    assert str(caught.value) == f"model: {meant}"


def test_folders_with_other_weights_are_other_teachers(tmp_path: Path):
    """Answers of one are not taken for those of the other."""
    (tmp_path / "config.json").write_text('{"architecture": "test_byobnet", "num_classes": 10}')
    (tmp_path / "model.safetensors").write_bytes(b"one")
    teacher = NamedNetwork(name=f"local-dir:{tmp_path}")
    first = describe_teacher(teacher)
    (tmp_path / "README.md").write_text("another card")
    again = describe_teacher(teacher)
    (tmp_path / "model.safetensors").write_bytes(b"another")
    assert first == again != describe_teacher(teacher)


def test_a_teacher_of_other_classes(teacher_checkpoint: Path):
    with pytest.raises(RecipeError, match=r"distillation\.teacher: .*classifier of 10 classes, but the model one of 9"):
        distilling(teacher_checkpoint, "data.num_classes=9")


def test_an_odd_batch_cannot_be_mixed():
    with pytest.raises(RecipeError, match="need pairs, but each process has 3 images"):
        task("augmentation.mixup=0.2").losses(linear(), (pixels(3), torch.zeros(3, dtype=torch.long)))


def test_merged_metrics_are_those_of_all():
    logits, labels = torch.randn(20, 10), torch.randint(10, (20,))
    whole, first, second = (ClassificationMetrics() for _ in range(3))
    whole.update(logits, (None, labels))
    first.update(logits[:7], (None, labels[:7]))
    second.update(logits[7:], (None, labels[7:]))
    first.merge(second)
    assert first.report() == pytest.approx(whole.report())
    assert first.same_predictions(whole) == 20
