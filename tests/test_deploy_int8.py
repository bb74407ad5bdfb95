"""int8: what it measures, what it leaves in float, what it refuses."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset

from deployment import CARD, LABELS, need
from fastvit import FastViT, reparameterize_model
from fastvit.data.images import NO_LABEL
from fastvit.deploy import FORMATS, load
from fastvit.deploy.int8 import QUANTIZERS, Samples, quantize, split
from fastvit.deploy.int8.measure import Comparison, Measured
from fastvit.deploy.int8.quantize import FLOAT_LAYERS, _quantize_until_good, _require_good
from fastvit.deploy.int8.sensitivity import layer_errors, quantize_channels, quantize_tensor
from fastvit.errors import DataError, ExportError
from launch import ROOT, complaint, script

SLOW = pytest.mark.slow
LITERT = pytest.param("litert", marks=SLOW)
FORMS = ["onnx", pytest.param("openvino", marks=SLOW), pytest.param("executorch", marks=SLOW)]


def patterns(count, seed):
    """Images of seven smooth patterns in noise, and which they are."""
    patterns = torch.randn(len(LABELS), 3, 4, 4, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(LABELS), (count,), generator=generator)
    coarse = patterns[labels] + 0.7 * torch.randn(count, 3, 4, 4, generator=generator)
    images = nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic")
    return Samples(list(zip(images, labels.tolist(), strict=True)))


@pytest.fixture(scope="module")
def model():
    """Trained, for a few seconds: one with random weights gives all images the same class, whatever is done to it."""
    torch.manual_seed(0)
    model = FastViT((1, 1, 1), (32, 32, 64), 2, (False, False, True), 0.1, num_classes=len(LABELS))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(40):
        batch = patterns(32, seed=100 + step)
        labels = torch.tensor([label for _, label in batch])
        loss = nn.functional.cross_entropy(model(batch.images()), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


class Imperfect(list):
    """Samples whose first has no label, and whose second cannot be read."""

    def __getitem__(self, index):
        if index == 1:
            raise DataError("image b.png cannot be read")
        image, label = super().__getitem__(index)
        return image, label if index else NO_LABEL


@pytest.fixture(scope="module")
def samples():
    """To calibrate on and to validate on."""
    return patterns(32, seed=0), Samples(Imperfect(patterns(60, seed=1).source))


def quantized(model, samples, folder, name, **options):
    need(name)
    for module in QUANTIZERS[name].packages.values():
        pytest.importorskip(module)
    path = folder / f"int8{FORMATS[name].suffix}"
    common = {"format": name, "card": CARD, "min_agreement": 80.0}
    return path, quantize(model, path, *samples, **{**common, "max_top1_loss": 20.0, **options})


def test_quantized_tensors_are_those_of_torch():
    x = torch.randn(50) * 3 + 1
    scale = (x.max() - x.min()) / 255
    zero_point = int((-x.min() / scale).round())
    expected = torch.fake_quantize_per_tensor_affine(x, scale.item(), zero_point, 0, 255)
    torch.testing.assert_close(quantize_tensor(x), expected)
    assert quantize_tensor(x.abs() + 5).unique().numel() <= 256
    assert torch.equal(quantize_tensor(torch.zeros(3)), torch.zeros(3))
    weight = torch.randn(4, 3, 3, 3)
    scales = weight.flatten(1).abs().amax(1) / 127
    expected = torch.fake_quantize_per_channel_affine(weight, scales, torch.zeros(4, dtype=torch.int), 0, -127, 127)
    torch.testing.assert_close(quantize_channels(weight), expected)


def test_the_sensitive_layer_is_found():
    """One outlier among the inputs of the second layer leaves few levels for the others."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)).eval()
    with torch.no_grad():
        network[0].bias[0] = 1000
        network[1].weight[:, 0] = 0
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    errors = layer_errors(network, torch.randn(4, 3, 8, 8))
    assert next(iter(errors)) == "1"
    assert errors["1"] > 10 * max(errors["0"], errors["2"])
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in network)


class Folder:
    """Images of ten classes, one class after the other, as a folder has them; each holds its number."""

    def __init__(self, length):
        self.length, self.read = length, []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.read.append(index)
        return torch.full((3, 2, 2), float(index)), index * 10 // self.length


def numbers(samples):
    return [int(image[0, 0, 0, 0]) for image, _ in samples]


def test_calibration_and_validation_images_are_different_ones_of_all_classes():
    folder = Folder(120)
    calibration, validation = split(folder, 40)
    assert (len(calibration), len(validation)) == (40, 80)
    assert sorted(numbers(calibration) + numbers(validation)) == list(range(120))
    assert len(split(folder, 500)[0]) == 60
    for total, sizes in ((66, (16, 50)), (98, (48, 50)), (100, (50, 50))):  # the least, and half of them
        assert tuple(map(len, split(Folder(total), 128))) == sizes
    for few in (30, 65):
        with pytest.raises(DataError, match=f"{few} images are too few"):
            split(Folder(few), 40)
    with pytest.raises(DataError, match="8 images to calibrate on are too few"):
        split(Folder(500), 8)
    for samples in split(Folder(50_000), 100, 1000):
        classes = [label for _, label in samples]
        assert [classes.count(label) for label in range(10)] == pytest.approx([len(classes) / 10] * 10, rel=0.2)


def test_of_many_images_two_thousand_are_read_and_none_is_kept():
    folder = Folder(50_000)
    calibration, validation = split(folder, 128)
    assert (len(calibration), len(validation), folder.read) == (128, 2000, [])
    assert sum(1 for _ in validation) == 2000
    assert folder.read == sorted(set(folder.read))
    assert not set(folder.read) & set(numbers(calibration))


def test_samples_of_a_stream():
    class Stream(IterableDataset):
        def __len__(self):
            return 200

        def __iter__(self):
            return (Folder(200)[index] for index in range(200))

    of_stream, of_folder = split(Stream(), 40), split(Folder(200), 40)
    assert list(map(numbers, of_stream)) == list(map(numbers, of_folder))


@pytest.mark.parametrize("name", [*FORMS, LITERT])
def test_int8_is_small_close_to_float_and_says_how_close(model, samples, tmp_path, name):
    path, sidecar = quantized(model, samples, tmp_path, name)
    measured = sidecar["verification"]
    full, half, small = (measured[each] for each in ("float32", "bfloat16", "int8"))
    assert (measured["validation_images"], measured["labelled"], measured["unreadable"]) == (59, 58, 1)
    assert full["top1"] > 85
    assert (full["agreement"], full["relative_error"]) == (100, 0)
    assert 0 < half["relative_error"] < 0.05
    assert 1e-3 < small["relative_error"] < 0.1  # some error, or it was not quantised
    assert min(small["agreement"], half["agreement"]) >= 95
    # Half of this little network is not weights; of a real one, int8 is a third.
    assert small["bytes"] < (1.1 if name == "onnx" else 0.9) * full["bytes"]
    tries = sidecar["quantization"]["error_on_calibration_images_by_float_layers"]
    chosen = len(sidecar["quantization"]["float_layers"])
    assert tries[str(chosen)] == min(tries.values())
    network, images = load(path), torch.stack([image for image, _ in patterns(60, seed=1).source])
    read = torch.arange(60) != 1
    with torch.no_grad():
        expected = reparameterize_model(model)(images[read])
    actual = torch.cat([network(image) for image in images[read].split(1)])
    assert (actual - expected).norm() / expected.norm() == pytest.approx(small["relative_error"], rel=0.01)
    if name == "onnx":  # which is not much smaller here, so look at the weights themselves
        import onnx

        INT8, FLOAT = onnx.TensorProto.INT8, onnx.TensorProto.FLOAT
        kinds = {each.name: each.data_type for each in onnx.load(path).graph.initializer}
        in_float = {each for each, kind in kinds.items() if kind == FLOAT and each.endswith(".weight")}
        assert in_float <= {f"network.{layer}.weight" for layer in sidecar["quantization"]["float_layers"]}
        assert INT8 in kinds.values()


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)  # of LiteRT's error most is between the layers, where it computes in int8 too
def test_layers_left_in_float_reduce_the_error(model, samples, tmp_path, name, monkeypatch):
    module = sys.modules[quantize.__module__]
    monkeypatch.setattr(module, "FLOAT_LAYERS", (0, 100))
    monkeypatch.setattr(module, "GOOD_ENOUGH", 0.0)
    _, sidecar = quantized(model, samples, tmp_path, name)
    tries = sidecar["quantization"]["error_on_calibration_images_by_float_layers"]
    assert tries["0"] > 1e-3
    assert tries["100"] < 0.5 * tries["0"]  # additions and the like may still be quantised


def test_a_try_that_gives_no_number_is_not_the_best(monkeypatch):
    """Python takes NaN for smaller than what comes after it."""
    module, errors, counts = sys.modules[quantize.__module__], [float("nan"), 0.5, 0.4, 0.6, 0.7, 0.4], []
    monkeypatch.setattr(module, "layer_errors", lambda *_: {f"network.{layer}": 1.0 for layer in range(20)})
    monkeypatch.setattr(module, "_logits", lambda *_: None)
    monkeypatch.setattr(module, "relative_error", lambda *_: errors.pop(0))
    tool = SimpleNamespace(method="", quantize=lambda request, images, layers, path: counts.append(len(layers)))
    request = SimpleNamespace(network=nn.Identity())
    kind = SimpleNamespace(load=lambda *_: None)
    tried = _quantize_until_good(tool, kind, request, torch.zeros(1), SimpleNamespace(parent=None))
    assert counts == [*FLOAT_LAYERS, 4]
    assert len(tried["float_layers"]) == 4


def measured_as(top1: float | None, agreement: float) -> Measured:
    return Measured("any", "any", top1, agreement, 0.0, 1, None, None)


@pytest.mark.parametrize(
    ("top1", "agreement", "message"),
    [
        (90.0, 97.9, r"97\.9 % of the validation images, less than 98 %: not good, nothing was written"),
        (88.9, 98.0, r"loses 1\.1 points of top-1 \(90\.0 to 88\.9\) on 100 labelled images, more than 1: not good"),
    ],
)
def test_the_bounds(top1: float, agreement: float, message: str):
    full = measured_as(90.0, 100.0)
    _require_good(Comparison((full, full, measured_as(89.0, 98.0)), 100, 100, 0), 98.0, 1.0)
    with pytest.raises(ExportError, match=message):
        _require_good(Comparison((full, full, measured_as(top1, agreement)), 100, 100, 0), 98.0, 1.0)
    unlabelled = measured_as(None, 100.0)
    _require_good(Comparison((unlabelled, unlabelled, measured_as(None, 98.0)), 100, 0, 0), 98.0, 1.0)


@SLOW
@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"min_agreement": 100.1}, "less than 100.1 %: not good"),
        ({"max_top1_loss": -101.0, "min_agreement": 0.0}, "points of top-1"),
    ],
)
def test_what_falls_below_the_bounds_is_refused_and_leaves_nothing(model, samples, tmp_path, bounds, message):
    with pytest.raises(ExportError, match=message):
        quantized(model, samples, tmp_path, "onnx", **bounds)
    assert list(tmp_path.iterdir()) == []


def test_targets_are_looked_at_before_the_images(tmp_path):
    need("onnx")
    (tmp_path / "a.onnx").write_text("mine")
    with pytest.raises(ExportError, match="exists already"):
        quantize(None, tmp_path / "a.onnx", None, None, format="onnx", card=CARD)


def test_a_format_without_int8(model, samples, tmp_path):
    with pytest.raises(ExportError, match="int8 is for openvino, onnx, executorch"):
        quantize(model, tmp_path / "a.safetensors", *samples, format="safetensors", card=CARD)
    assert FLOAT_LAYERS[0] == 0


def test_a_network_of_the_hub_needs_images(tmp_path, capsys):
    need("onnx")
    from reference import randomize

    checkpoint = tmp_path / "t8.pt"
    import timm

    torch.save(randomize(timm.create_model("fastvit_t8", num_classes=3)).state_dict(), checkpoint)
    arguments = ["fastvit_t8", "--checkpoint", str(checkpoint), "--num-classes", "3", "--format", "onnx"]
    assert "--images FOLDER" in complaint(script("quantize"), arguments, capsys)
    (tmp_path / "images").mkdir()
    said = complaint(script("quantize"), [*arguments, "--images", str(tmp_path / "images")], capsys)
    assert "there are no images in" in said


def test_the_synsets_of_imagenet_are_names_of_its_classes(tmp_path, capsys):
    from PIL import Image

    from fastvit.cli.quantize import find_samples
    from fastvit.trained import Options, find_trained

    trained = find_trained("fastvit_t8", Options(random_weights=True, image_size=(32, 32)))
    for name in ("n01440764", "golden retriever", "n02099601", "crane (n03126707)", "n03126707", "mine"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "val" / name / "1.png")
    samples = find_samples(trained, tmp_path / "val")
    found = {path.parent.name: label for path, (_, label) in zip(samples.paths, samples, strict=True)}
    assert found == {
        "n01440764": 0,
        "golden retriever": 207,
        "n02099601": 207,
        "crane (n03126707)": 517,
        "n03126707": 517,
        "mine": NO_LABEL,
    }
    assert capsys.readouterr().err == ""
    samples = find_samples(trained, tmp_path / "val" / "mine")
    assert [label for _, label in samples] == [NO_LABEL]
    assert "lies in a folder with the name of a class, such as tench" in capsys.readouterr().err
    others = find_trained("fastvit_t8", Options(random_weights=True, num_classes=3))
    assert {label for _, label in find_samples(others, tmp_path / "val")} == {NO_LABEL}  # a synset is no class of these


@SLOW
@pytest.mark.parametrize("name", list(QUANTIZERS))
def test_at_most_one_point_is_lost_on_the_digits(tmp_path_factory, tmp_path, name, capsys):
    need(name)
    for module in QUANTIZERS[name].packages.values():
        pytest.importorskip(module)
    run = tmp_path_factory.getbasetemp() / "trained"
    if not run.exists():
        script("train")([str(ROOT / "configs" / "quickstart" / "digits.yaml"), f"output={run}", "schedule.epochs=6"])
    script("quantize")([str(run), "--format", name, "--output", str(tmp_path)])
    (path,) = tmp_path.glob("*.json")
    measured = json.loads(path.read_text())["verification"]
    assert measured["validation_images"] == 412
    assert measured["float32"]["top1"] > 95
    assert measured["float32"]["top1"] - measured["int8"]["top1"] <= 1
    assert measured["int8"]["bytes"] < 0.4 * measured["float32"]["bytes"]
    assert "agreement" in capsys.readouterr().out
