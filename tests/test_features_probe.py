"""What features are worth: the formulas of the field, by numpy, scikit-learn and open_clip themselves."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

from fastvit.errors import DataError
from fastvit.features.files import Embeddings, write_embeddings
from fastvit.features.probe import Linear, Neighbours, probe
from launch import complaint, script

embed, run_probe, zeroshot, predict = map(script, ("embed", "probe", "zeroshot", "predict"))
MODEL = {"features": "outputs", "weights_sha256": "0" * 64, "height": 32}
CLASSES = ("cat", "dog", "hen")


def embeddings(count, *, seed, model=MODEL, noise=2.0):
    """Three classes that overlap, the last three times as frequent, of very different lengths."""
    rng = np.random.default_rng(seed)
    labels = np.minimum(np.arange(count) % 5, 2)
    centers = np.random.default_rng(9).normal(size=(3, 8))
    vectors = (centers[labels] + noise * rng.normal(size=(count, 8))) * 10 ** rng.uniform(-2, 2, (count, 1))
    names = np.array([f"{seed}/{i}" for i in range(count)])
    return Embeddings(
        names,
        np.array(CLASSES)[labels],
        vectors.astype(np.float32),
        {"model": model, "source": "x", "unreadable": []},
    )


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (5, 1.0)])
def test_neighbours_vote_by_the_formula(k, temperature):
    """The sum over the k nearest of exp(cosine / temperature), for each class."""
    train, val = embeddings(120, seed=0), embeddings(60, seed=1)
    unit = [each.vectors / np.linalg.norm(each.vectors, axis=1, keepdims=True) for each in (train, val)]
    cosines = unit[1].astype(float) @ unit[0].T.astype(float)
    expected = []
    for row in cosines:
        nearest = np.argsort(-row)[:k]
        votes = {name: np.exp(row[nearest] / temperature)[train.labels[nearest] == name].sum() for name in CLASSES}
        expected.append(max(votes, key=votes.get))
    assert Neighbours(k, temperature).predict(train, val).tolist() == expected
    assert 0.4 < np.mean(np.array(expected) == val.labels) < 1
    by_count = [max(CLASSES, key=train.labels[np.argsort(-row)[:k]].tolist().count) for row in cosines]
    assert expected != by_count  # weights decide some


def test_the_linear_probe_is_a_regression_with_the_c_that_does_best_on_its_part():
    train, val = embeddings(300, seed=0, noise=0.6), embeddings(90, seed=1, noise=0.6)
    predicted, sweep = Linear(strengths=(1e-6, 1.0, 1e6)).predict(train, val)
    best = max(sweep, key=sweep.get)
    assert best != 1e-6
    expected = LogisticRegression(C=best, max_iter=1000).fit(normalize(train.vectors), train.labels)
    assert (predicted == expected.predict(normalize(val.vectors))).all()
    shuffled = Embeddings(val.names, val.labels[::-1], val.vectors, val.about)
    assert Linear(strengths=(1e-6, 1.0, 1e6)).predict(train, shuffled)[1] == sweep  # C is chosen without them


def test_embeddings_that_cannot_be_probed_are_refused():
    train, val = embeddings(60, seed=0), embeddings(30, seed=1)
    other = embeddings(30, seed=1, model=MODEL | {"weights_sha256": "1" * 64})
    unknown = Embeddings(val.names, np.where(val.labels == "cat", "cow", val.labels), val.vectors, val.about)
    nameless = Embeddings(val.names, np.where(val.labels == "cat", "", val.labels), val.vectors, val.about)
    alone = Embeddings(train.names, np.where(np.arange(60) == 0, "cow", train.labels), train.vectors, train.about)
    few = embeddings(12, seed=0)
    for pair, sentence in (
        (
            (train, other),
            r"different models are not compared: .* differ in weights_sha256 \(111111111111, 000000000000\)",
        ),
        ((train, unknown), "classes of validation images that no training image has: cow"),
        ((train, nameless), "6 validation images have no class, such as 1/0"),
        ((alone, val), "classes with a single training image: cow"),
        ((few, val), "k is 20, but there are 12 training images: set --k to at most that"),
    ):
        with pytest.raises(DataError, match=sentence):
            probe(*pair, neighbours=Neighbours(), linear=Linear(strengths=(1.0,)))


def test_digits_from_features_of_a_random_network(tmp_path, capsys):
    """From images to figures by the commands, far above the one in ten of chance."""
    for split in ("train", "validation"):
        network = ["test_resnet", "--random-weights", "--image-size", "32", "--workers", "0", "--batch", "256"]
        embed([*network, "digits", "--split", split, "--output", str(tmp_path / split)])
    run_probe([*(str(tmp_path / split) for split in ("train", "validation")), "--output", str(tmp_path / "probe.json")])
    result = json.loads((tmp_path / "probe.json").read_text())
    assert (result["classes"], result["train_images"], result["val_images"]) == (10, 1257, 540)
    assert min(result["knn"]["top1"], result["linear"]["top1"]) > 60
    assert f"neighbours  {result['knn']['top1']:.2f} %" in capsys.readouterr().out


# ---- zero-shot -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip_name(tmp_path_factory):
    """A small network that open_clip knows, whose image tower is a FastViT."""
    path = tmp_path_factory.mktemp("configs") / "tiny-fastvit-clip.json"
    vision = {"timm_model_name": "fastvit_t8", "timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": None}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    path.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision | {"image_size": 64}, "text_cfg": text}))
    open_clip.add_model_config(path)
    return "open_clip:tiny-fastvit-clip"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for index, name in enumerate(CLASSES):
        (root / name).mkdir()
        pixels = np.random.default_rng(index).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name / "1.png")
    return root


@pytest.fixture(scope="module")
def checkpoint(clip_name, tmp_path_factory):
    """Weights of the whole, not those that fastvit makes at random."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "clip.pt"
    torch.save(open_clip.create_model(clip_name.partition(":")[2]).state_dict(), path)
    return path


def test_zero_shot_is_what_open_clip_says(clip_name, photos, checkpoint, tmp_path, capsys):
    """Its own transform, towers and formula, unfused; with one sentence and with two."""
    embed([clip_name, str(photos), "--checkpoint", str(checkpoint), "--output", str(tmp_path / "e"), "--workers", "0"])
    arguments = [clip_name, str(tmp_path / "e"), "--checkpoint", str(checkpoint), "--classes", *CLASSES]
    zeroshot([*arguments, "--output", str(tmp_path / "one.csv")])
    zeroshot([*arguments, "--output", str(tmp_path / "two.csv"), "--template", "a {}", "no {} here"])
    name = clip_name.partition(":")[2]
    clip, _, transform = open_clip.create_model_and_transforms(name, pretrained=str(checkpoint))
    tokenizer = open_clip.get_tokenizer(name)
    images = torch.stack([transform(Image.open(photos / each / "1.png")) for each in CLASSES])

    def texts(template):
        return clip.encode_text(tokenizer([template.format(each) for each in CLASSES]), normalize=True)

    with torch.no_grad():
        clip.eval()
        of_images = clip.encode_image(images, normalize=True)
        both = torch.nn.functional.normalize(texts("a {}") + texts("no {} here"), dim=1)
        for file, of_texts in (("one.csv", texts("a photo of a {}")), ("two.csv", both)):
            right = (clip.logit_scale.exp() * of_images @ of_texts.T).softmax(1)
            rows = [line.split(",") for line in (tmp_path / file).read_text().splitlines()[1:]]
            assert [row[1] for row in rows] == [CLASSES[i] for i in right.argmax(1)]
            torch.testing.assert_close(torch.tensor([float(row[2]) for row in rows]), right.amax(1), rtol=0, atol=2e-5)
            assert len({row[2] for row in rows}) == 3
    accuracy = 100 * sum(row[0].split("/")[-2] == row[1] for row in rows) / 3
    assert f"accuracy {accuracy:.2f} % of 3 images" in capsys.readouterr().out


def test_zero_shot_refuses_in_a_sentence(clip_name, photos, tmp_path, capsys, monkeypatch):
    write_embeddings(embeddings(3, seed=0), tmp_path / "e.npz")

    def said(source, *arguments, classes=("cat", "dog")):
        return complaint(zeroshot, [source, str(tmp_path / "e.npz"), *arguments, "--classes", *classes], capsys)

    random = "--random-weights"
    assert "fastvit_t8 has no text tower: name a network of open_clip's" in said("fastvit_t8", random)
    assert "open_clip has no network MobileCLIP2-S9; did you mean" in said("open_clip:MobileCLIP2-S9", random)
    assert "MobileCLIP2-S0 has no weights laion, but dfndr2b" in said("open_clip:MobileCLIP2-S0.laion")
    assert "give a tag (open_clip:MobileCLIP2-S0.dfndr2b)" in said("open_clip:MobileCLIP2-S0")
    assert "needs {} once" in said(clip_name, random, "--template", "a photo")
    assert "--classes needs two names at least" in said(clip_name, random, classes=("cat",))
    assert "these are embeddings of different models: the images' are of x, and the texts'" in said(clip_name, random)
    said_of_labels = complaint(predict, [str(photos), "--model", clip_name, random], capsys)
    assert said_of_labels.startswith(f"{clip_name} gives features, which say nothing about an image by themselves:")
    monkeypatch.setattr("fastvit.errors.find_spec", lambda name: None)
    assert said(clip_name, random).endswith('needs open_clip: pip install "fastvit[features]"')
