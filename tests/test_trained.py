"""One way to name a network: every name of the same network gives the same answer, and means the same everywhere."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import nn

import fastvit
from fastvit.data.digits import Digits
from fastvit.data.preprocessing import Preprocessing
from fastvit.data.reading import read_image
from fastvit.deploy import ENGINES, Card, export
from fastvit.deploy.sidecar import read_sidecar, sha256, write_sidecar
from fastvit.errors import UserError
from fastvit.prediction import predict_files
from fastvit.recipes import load_recipe, make_task
from fastvit.trained import Kind, Options, find_trained, kind_of, load_trained
from fastvit.trained.of_file import AnyBatch
from launch import QUICKSTART
from photographs import photographs

DIGITS = tuple("0123456789")


@pytest.fixture(scope="module")
def right(random_run):
    return load_trained(random_run)


@pytest.fixture(scope="module")
def names(right, random_run, tmp_path_factory):
    """The same network under many names, with what has to be said beside each."""
    folder = tmp_path_factory.mktemp("names")
    checkpoint = torch.load(random_run / "best.pt")
    for suffix in (".safetensors", ".exported.pt2"):
        export(
            right.module,
            folder / f"digits{suffix}",
            torch.zeros(1, 3, 32, 32),
            card=Card(right.preprocessing, right.labels, architecture=right.architecture),
        )
    bare = folder / "weights.pt"
    torch.save(checkpoint["state_dict"], bare)
    repository = folder / "repository"
    repository.mkdir()
    stated = {key: right.preprocessing.to_dict()[key] for key in ("crop_pct", "interpolation", "mean", "std")}
    stated |= {"num_classes": 10, "input_size": [3, 32, 32]}
    config = {"architecture": "fastvit_t8", "num_classes": 10, "label_names": DIGITS, "pretrained_cfg": stated}
    (repository / "config.json").write_text(json.dumps(config))
    weights = {key: tensor.contiguous() for key, tensor in checkpoint["state_dict"].items()}
    save_file(weights, repository / "model.safetensors")
    best = str(random_run / "best.pt")
    return {
        "checkpoint": (best, {}),
        "recipe and checkpoint of a run": (QUICKSTART, {"checkpoint": best}),
        "shipped recipe and file": ("quickstart/digits", {"checkpoint": bare}),
        "name and checkpoint of a run": ("fastvit_t8", {"checkpoint": best}),
        "name and file": ("fastvit_t8", {"checkpoint": bare, "num_classes": 10, "image_size": (32, 32)}),
        "timm's folder": (f"local-dir:{repository}", {}),
        "weights": (str(folder / "digits.safetensors"), {}),
        "program": (str(folder / "digits.exported.pt2"), {}),
    }


@pytest.mark.parametrize(
    "name",
    [
        "checkpoint",
        "recipe and checkpoint of a run",
        "shipped recipe and file",
        "name and checkpoint of a run",
        "name and file",
        "timm's folder",
        "weights",
        "program",
    ],
)
def test_every_name_of_a_network_gives_the_same_answers(names, name, right):
    image = Digits(train=False, image_size=32)[3][0]
    source, options = names[name]
    trained = load_trained(source, **options)
    assert trained.labels == DIGITS
    assert trained.does == "classification"
    if name != "name and file":  # which says nothing of the crop
        assert trained.preprocessing == right.preprocessing
    trained = replace(trained, preprocessing=right.preprocessing)
    torch.testing.assert_close(trained(image).probabilities, right(image).probabilities, rtol=1e-4, atol=1e-6)


def test_a_run_is_called_with_an_image_from_python(random_run, right):
    """As the recipe's own evaluation sees it."""
    task = make_task(load_recipe(QUICKSTART))
    model = task.build_model(initial_weights=False).eval()
    model.load_state_dict(torch.load(random_run / "best.pt")["state_dict"])
    assert fastvit.load_trained is load_trained
    for index in range(6):
        sample, _ = task.open_data("val").samples[index]
        prediction = right(Digits(train=False, image_size=32)[index][0])
        with torch.no_grad():
            expected = model(sample[None]).softmax(1)[0]
        torch.testing.assert_close(prediction.probabilities, expected, rtol=1e-4, atol=1e-6)
        assert prediction.label == prediction.best()[0][0] == str(int(expected.argmax()))
        assert len(prediction.best()) == 5


def test_a_photograph_from_python_is_what_predict_reads(random_run, right, tmp_path):
    """Also as phones store it: on its side, with a note which side is up."""
    path, sideways = tmp_path / "photo.jpg", Image.Exif()
    sideways[0x0112] = 6
    stored = Image.fromarray(load_sample_image("china.jpg"))
    stored.save(path, exif=sideways)
    (by_predict,) = predict_files(right.predictor, [path])
    from_python = right(Image.open(path)).probabilities
    assert torch.equal(from_python, by_predict.prediction.probabilities)
    assert not torch.allclose(from_python, right(stored).probabilities, rtol=1e-3)
    wide = load_trained(random_run, image_size=(64, 64))
    assert wide.explain(Image.open(path)) == wide.predictor.explain(read_image(path))


def test_an_engine_computes_where_it_can_and_the_network_stays_where_it_is(right, monkeypatch):
    """On a pretended GPU, for which openvino and onnxruntime have nothing."""
    made = []

    def compile_for_inference(network, example, dtype, engine):
        made.append((engine, next(network.parameters()).device.type))
        return network

    monkeypatch.setattr("fastvit.deploy.compile.compile_for_inference", compile_for_inference)
    monkeypatch.setattr(ENGINES["torch"], "devices", ("cpu", "meta"))
    expected = [("onnxruntime", "cpu"), ("openvino", "cpu"), ("torch", "meta"), ("auto", "meta")]
    for engine, device in expected:
        assert right.predictor_on(torch.device("meta"), engine).device.type == device
    assert made == expected
    assert next(right.network.parameters()).device.type == "cpu"


def test_all_that_is_known_of_a_network_travels_through_json(right):
    card = replace(right.card, task="multi_label", licence="mit", settings={"a": [1]}, recipe={"b": {"c": 2}})
    assert all(card.to_dict().values())
    assert Card.from_dict(json.loads(json.dumps(card.to_dict())) | {"another": 1}) == card


def test_any_network_of_timm_s(tmp_path):
    torch.manual_seed(1)
    model = timm.create_model("test_resnet", num_classes=7)
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": model.state_dict()}, path)
    trained = load_trained("test_resnet", checkpoint=path, num_classes=7, image_size=(96, 96))
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(trained.module(images), model.eval()(images))
    assert trained.labels == tuple("0123456")
    with pytest.raises(UserError, match=r"does not fit the model: it has fc.weight of shape \(7, "):
        load_trained("test_resnet", checkpoint=path)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("runs/mine", Kind.RUN),
        ("mine.pt", Kind.RUN),
        ("mine.pth.tar", Kind.RUN),
        ("quickstart/digits", Kind.RECIPE),
        ("mine.yaml", Kind.RECIPE),
        ("fastvit_t8", Kind.TIMM),
        ("fastvit_t8.apple_in1k", Kind.TIMM),
        ("resnet18", Kind.TIMM),
        ("hf-hub:timm/fastvit_t8.apple_in1k", Kind.HUB),
        ("local-dir:folder", Kind.HUB),
        ("exports/mine.onnx", Kind.FILE),
        ("mine.exported.pt2", Kind.FILE),
        ("mine.mlpackage", Kind.FILE),
    ],
)
def test_what_a_name_stands_for(source, kind):
    assert kind_of(source) is kind


def test_what_exists_comes_before_what_is_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fastvit_t8").mkdir()
    assert kind_of("fastvit_t8") is Kind.RUN


def test_classes_of_imagenet_have_names_of_their_own():
    """Two of them are called crane: a bird and a machine."""
    labels = find_trained("fastvit_t8", Options(random_weights=True)).labels
    assert len(labels) == len(set(labels)) == 1000
    assert labels[207] == "golden retriever"
    assert (labels[134], labels[517]) == ("crane (n02012849)", "crane (n03126707)")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (
            "fastvit_t8",
            {},
            r"a tag \(fastvit_t8.apple_dist_in1k, fastvit_t8.apple_in1k\), --checkpoint FILE, --pretrained",
        ),
        ("fastvit_t8.aple_in1k", {}, "has no weights aple_in1k, but .*; did you mean apple_in1k"),
        ("fastvit_t8.apple_in1k", {"num_classes": 7}, "has 1000 classes: --num-classes is for --checkpoint and"),
        ("fastvit_t8", {"random_weights": True, "num_classes": 0}, "--num-classes is 0; it must be at least 1"),
        (
            "fastvit_t8",
            {"random_weights": True, "image_size": 16},
            "the size of images is one side .* at least 32 pixels",
        ),
        ("fastvit_t8", {"random_weights": True, "image_size": (3, 64, 64)}, "the size of images is one side or"),
        ("resnet50t", {"pretrained": True}, "there are no published weights of resnet50t: give --checkpoint FILE"),
        ("resnet50t.in1k", {}, "resnet50t has no weights in1k, nor any other published ones"),
        ("fastvit_t8", {"checkpoint": "nowhere.pt"}, "there is no checkpoint file nowhere.pt"),
        ("fastvit_t8", {"pretrained": True, "random_weights": True}, "exclude each other: give one of them"),
        ("fastvit_t8", {"random_weights": True, "overrides": ("a=b",)}, "which has no recipe: leave out key=value"),
        ("fastvit_t9", {}, "did you mean fastvit_t8"),
        ("quickstart/digit", {}, "there is no recipe quickstart/digit; did you mean quickstart/digits"),
        ("quickstart/digits", {}, "has no weights of its own: give --checkpoint FILE, --pretrained"),
        ("quickstart/digits", {"pretrained": True}, "fastvit_t8 has 1000 classes, and data.num_classes is 10"),
        (
            "quickstart/digits",
            {"random_weights": True, "num_classes": 3},
            "what its network is: leave out --num-classes",
        ),
        ("segmentation/fastvit_t8_ade20k", {"pretrained": True}, "the hub has no weights for segmentation"),
        ("run", {"pretrained": True}, "which has weights and classes of its own: leave out --pretrained"),
        ("local-dir:nowhere", {}, "is no network that timm can read"),
        ("weights.safetensors", {}, "holds weights alone: name their network, and give the file with --checkpoint"),
        ("foreign.pt", {}, "carries no recipe"),
        ("fastvit_s12", {"checkpoint": "run/best.pt"}, "is of a run of fastvit_t8, not of fastvit_s12"),
        ("fastvit_t8", {"checkpoint": "run/best.pt", "num_classes": 9}, "has 10 classes: leave out --num-classes"),
    ],
)
def test_mistakes_are_one_sentence(source, options, message, random_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run").symlink_to(random_run)
    Path("weights.safetensors").write_bytes(b"")
    torch.save({"state_dict": {}}, "foreign.pt")
    with pytest.raises(UserError, match=message) as caught:
        load_trained(source, **options)
    assert "\n" not in str(caught.value)


class Fixed(nn.Module):
    """Twice its input, of three images at a time."""

    def forward(self, images):
        assert len(images) == 3
        return 2 * images, images.sum((1, 2, 3))


@pytest.mark.parametrize("count", [1, 3, 7])
def test_a_file_of_a_fixed_batch_takes_any(count):
    images = torch.randn(count, 3, 4, 4)
    doubled, sums = AnyBatch(Fixed(), 3, 3)(images)
    torch.testing.assert_close(doubled, 2 * images)
    torch.testing.assert_close(sums, images.sum((1, 2, 3)))


# ---- preprocessing, which travels with a network ---------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("size", [(640, 426), (97, 1003), (20, 31), (256, 256)])
def test_the_quick_crop_is_timm_s_to_two_levels(interpolation, size):
    image = Image.fromarray(load_sample_image("china.jpg")).resize(size)
    std = (0.229, 0.224, 0.225)
    for height, width, crop_pct in ((256, 256, 0.9), (64, 64, 1.0), (96, 160, 0.875)):
        preprocessing = Preprocessing(height, width, crop_pct, interpolation, (0.485, 0.456, 0.406), std)
        quick = preprocessing.normalize(preprocessing.crop(image)[None])[0]
        levels = (quick - preprocessing.transform()(image)).abs() * torch.tensor(std).view(3, 1, 1) * 255
        assert levels.max() < 2.01
        assert levels.mean() < 0.02


@pytest.mark.parametrize("crop_mode", ["border", "squash"])
@pytest.mark.parametrize("shape", [(96, 96), (64, 112)])
def test_other_crops_than_of_the_center_are_timm_s(crop_mode, shape):
    stated = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "interpolation": "bicubic", "crop_pct": 0.9}
    config = stated | {"crop_mode": crop_mode, "input_size": (3, *shape)}
    preprocessing = Preprocessing.of_timm(config)
    timms = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config))
    for name, image in photographs().items():
        expected = timms(image)
        assert torch.equal(preprocessing.transform()(image), expected), name
        cropped = preprocessing.normalize(preprocessing.crop(image)[None])[0]
        torch.testing.assert_close(cropped, expected, rtol=0, atol=1e-5, msg=name)
    centered = replace(preprocessing, crop_mode="center").transform()(image)
    assert not torch.allclose(centered, expected, atol=0.1)


def test_a_file_states_how_images_are_cropped(tmp_path):
    """FastVLM's encoder: padded to a square. What was exported before this was stated crops the center."""
    encoder = find_trained("fastvithd", Options(random_weights=True))
    path = tmp_path / "encoder.onnx"
    path.write_bytes(b"")
    sidecar = {"format": "onnx", "files": {path.name: sha256(path)}, "input": {"layout": "NCHW", "batch": [1, 1]}}
    write_sidecar(sidecar | encoder.card.to_dict(), path)
    assert read_sidecar(path)["preprocessing"]["crop_mode"] == "border"
    assert find_trained(str(path)).preprocessing == encoder.preprocessing
    older = encoder.card.to_dict()
    del older["preprocessing"]["crop_mode"], older["licence"]
    write_sidecar(sidecar | older, path)
    assert find_trained(str(path)).preprocessing.crop_mode == "center"
    with pytest.raises(ValueError, match="crop_mode must be one of center, border, squash, not middle"):
        replace(encoder.preprocessing, crop_mode="middle")


# ---- licences --------------------------------------------------------------------------------------------------------


def test_the_licence_of_published_weights_is_known(random_run, tmp_path):
    """Of the tag; of a file of an encoder, Apple's; of a run, that of the weights that it began from."""
    weights = tmp_path / "weights.pt"
    torch.save({}, weights)
    random, file = Options(random_weights=True), Options(checkpoint=weights)

    def licence(source, options=Options()):  # noqa: B008 - frozen
        return find_trained(source, options).licence

    assert licence("fastvit_mci0.apple_mclip") == "apple-amlr"
    assert licence("fastvit_t8.apple_in1k") == "fastvit-license"
    assert licence("fastvithd", file) == licence("open_clip:MobileCLIP2-S0", file) == "apple-amlr"
    assert licence("open_clip:MobileCLIP2-S0.dfndr2b") == "apple-amlr"
    assert licence("fastvit_t8", file) == licence("open_clip:ViT-B-32", file) == ""
    assert licence("fastvithd", random) == licence("open_clip:MobileCLIP2-S0", random) == ""
    encoder = "model.name=fastvit_mci0.apple_mclip"
    assert licence(str(random_run), Options(overrides=(encoder,))) == ""
    assert licence(str(random_run), Options(overrides=(encoder, "model.pretrained=true"))) == "apple-amlr"


def test_an_encoder_has_no_classes():
    """Of MobileCLIP's and FastVLM's; one that was fine-tuned to a classifier has."""
    for name in ("fastvit_mci0", "fastvithd"):
        encoder = find_trained(name, Options(random_weights=True))
        assert (encoder.does, encoder.labels) == (None, None)
        with pytest.raises(UserError, match=f"^{name} gives features, which .*: fastvit embed writes them$"):
            _ = encoder.predictor
        assert find_trained(name, Options(random_weights=True, num_classes=3)).labels == ("0", "1", "2")
    assert find_trained("fastvit_t8", Options(random_weights=True)).does == "classification"
