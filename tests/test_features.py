"""Embeddings: those of timm, from every form of a network; complete after a kill, and none twice."""

import io
import os
import shutil
import signal
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from fastvit.data.digits import Digits
from fastvit.data.preprocessing import Preprocessing
from fastvit.deploy import Card, export
from fastvit.deploy.sidecar import sha256, write_sidecar
from fastvit.errors import DataError
from fastvit.features import writing
from fastvit.features.embedder import Embedder
from fastvit.features.files import read_embeddings
from fastvit.trained import Options, find_trained, load_trained
from launch import complaint, finish, script, start_script, two_ranks, wait_for
from photographs import of_no_text

SLOW = pytest.mark.slow
embed = script("embed")
TINY = "test_resnet"  # of timm's
WEIGHTS = ("--random-weights", "--image-size", "32", "--workers", "0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty digits in a folder for each class, one on top, a file that is no image, and one that says it is."""
    root = tmp_path_factory.mktemp("data") / "digits"
    digits = Digits(train=False, image_size=32)
    for index in range(20):
        image, label = digits[index]
        place = root / f"class{label}" / "more"
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{index:02d}.png")
    digits[20][0].save(root / "top.png")
    (root / "broken.jpg").write_text("no image")
    (root / "notes.txt").write_text("no image either")
    return root


@pytest.fixture(scope="module")
def shards(folder, tmp_path_factory):
    """The same digits in four shards of WebDataset's."""
    root = tmp_path_factory.mktemp("shards")
    files = sorted(folder.rglob("*.png"))
    for number in range(4):
        with tarfile.open(root / f"{number}.tar", "w") as archive:
            for path in files[number::4]:
                label = path.relative_to(folder).parts[0]
                add(archive, f"{path.stem}.png", path.read_bytes())
                add(archive, f"{path.stem}.cls", label.encode())
    return root


def add(archive, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def prepared(name):
    """What the network takes, by timm's own transform."""
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(TINY).to_dict())
    return timm.data.create_transform(**config | {"input_size": (3, 32, 32)})(Image.open(name).convert("RGB"))[None]


def test_one_row_for_an_image_with_its_name_and_class(folder, tmp_path, capsys):
    """In both formats; and the numbers are timm's own features, of the network without its classifier."""
    for form in ("npz", "parquet"):
        embed([TINY, str(folder), "--output", str(tmp_path / form), "--format", form, "--part", "8", *WEIGHTS])
    said = capsys.readouterr()
    assert "21 images in" in said.out
    assert "1 skipped, which cannot be read" in said.err
    found, same = (read_embeddings(tmp_path / form) for form in ("npz", "parquet"))
    for column in ("names", "labels", "vectors"):
        assert np.array_equal(getattr(found, column), getattr(same, column)), column
    images = sorted(folder.rglob("*.png"))
    assert found.names.tolist() == [str(path) for path in images]
    assert found.labels.tolist() == [path.parts[-3] if "class" in path.parts[-3] else "" for path in images]
    assert [name.partition(" (")[0] for name in found.about["unreadable"]] == [str(folder / "broken.jpg")]
    torch.manual_seed(0)
    network = timm.create_model(TINY, num_classes=1000).eval()
    network.reset_classifier(0)
    with torch.no_grad():
        expected = torch.cat([network(prepared(name)) for name in found.names])
    torch.testing.assert_close(torch.from_numpy(found.vectors), expected, rtol=0, atol=3e-4)
    assert expected.std(0).max() > 30 * 3e-4  # images differ by more than that


def test_neither_a_name_that_is_no_text_nor_an_odd_shape_stops_the_others(tmp_path, capsys):
    """Parquet has UTF-8 alone: there the name is escaped."""
    (tmp_path / "odd").mkdir()
    odd, thread = of_no_text(tmp_path / "odd"), tmp_path / "odd" / "thread.png"
    Image.new("RGB", (1, 100_000)).save(thread)
    for form, name in (("npz", str(odd)), ("parquet", str(odd).replace("\udce9", "\\udce9"))):
        embed([TINY, str(tmp_path / "odd"), "--output", str(tmp_path / form), "--format", form, *WEIGHTS])
        assert f"1 skipped, which cannot be read: {thread} (it is too far from square" in capsys.readouterr().err
        assert read_embeddings(tmp_path / form).names.tolist() == [name]


def test_shards_are_read_as_files_are(folder, shards, tmp_path):
    """A file for each shard; also where several processes read."""
    embed([TINY, str(folder), "--output", str(tmp_path / "files"), *WEIGHTS])
    embed([TINY, str(shards), "--output", str(tmp_path / "shards"), *WEIGHTS, "--workers", "2", "--batch", "4"])
    assert sorted(path.name for path in (tmp_path / "shards").glob("*.npz")) == [f"{i}.npz" for i in range(4)]
    files, found = (rows(tmp_path / name) for name in ("files", "shards"))
    assert len(found) == 21
    for name, (label, vector) in files.items():
        assert found[name][0] == (label or "top.png")  # which has no class among the files
        np.testing.assert_allclose(found[name][1], vector, rtol=1e-4, atol=1e-5)


def rows(folder):
    """File name -> class and embedding."""
    found = read_embeddings(folder)
    names = [name.rpartition("/")[2] for name in found.names.tolist()]
    assert len(set(names)) == len(names)
    return dict(zip(names, zip(found.labels.tolist(), found.vectors, strict=True), strict=True))


@pytest.mark.parametrize("moment", ["between two files", "within a file"])
def test_a_killed_job_goes_on_with_what_is_missing(moment, folder, tmp_path, monkeypatch, capsys):
    arguments = [TINY, str(folder), "--output", str(tmp_path / "broken"), "--part", "5", *WEIGHTS]
    written = []

    def write(embeddings, path):
        if len(written) == 2 and moment == "within a file":
            path.with_name(f".{path.name}.tmp").write_bytes(b"half")
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write_embeddings(embeddings, path)

    write_embeddings = writing.write_embeddings
    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_embeddings", write)
        with pytest.raises(SystemExit):
            embed(arguments)
    with pytest.raises(DataError, match=r"lacks 3 of 5 parts: run the same fastvit embed again"):
        read_embeddings(tmp_path / "broken")
    before = [path.stat().st_mtime_ns for path in written]
    embed(arguments)
    assert "written before: 2 of 5 files" in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in written] == before
    assert not list((tmp_path / "broken").glob(".*"))
    embed([TINY, str(folder), "--output", str(tmp_path / "whole"), *WEIGHTS])
    assert read_embeddings(tmp_path / "broken").names.tolist() == read_embeddings(tmp_path / "whole").names.tolist()


def test_a_damaged_shard_stops_the_job_until_it_is_repaired_or_left_out(shards, tmp_path, capsys):
    copies = shutil.copytree(shards, tmp_path / "copies")
    whole = (copies / "2.tar").read_bytes()
    (copies / "2.tar").write_bytes(whole[:-8000])
    arguments = [TINY, str(copies), "--output", str(tmp_path / "out"), *WEIGHTS]
    assert f"shard {copies / '2.tar'} cannot be read" in complaint(embed, arguments, capsys)
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in ("0.npz", "1.npz")}
    (copies / "2.tar").unlink()
    embed(arguments)
    assert len(read_embeddings(tmp_path / "out").names) == 16
    (copies / "2.tar").write_bytes(whole)
    embed(arguments)
    assert len(read_embeddings(tmp_path / "out").names) == 21
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in before} == before


@SLOW
def test_two_processes_are_killed_and_start_again(folder, shards, tmp_path):
    """As torchrun starts them; each image once in the end."""
    arguments = (TINY, str(folder), str(shards), "--output", str(tmp_path), "--part", "1", *WEIGHTS)
    processes = [start_script("embed", *arguments, variables=rank) for rank in two_ranks()]
    wait_for(tmp_path / "0.npz", processes[0])
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert 0 < len(list(tmp_path.glob("*.npz"))) < 26
    finish(*(start_script("embed", *arguments, variables=rank) for rank in two_ranks()))
    names = read_embeddings(tmp_path).names.tolist()
    assert len(names) == len(set(names)) == 2 * 21


# ---- any form of a network -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["classification", "multi_label"])
def test_features_of_a_classifier_are_those_before_its_last_layer(task, random_run, folder):
    is_run = task == "classification"
    trained = load_trained(random_run) if is_run else load_trained("quickstart/multi_label_digits", random_weights=True)
    assert trained.does == task
    embedder = Embedder(trained, torch.device("cpu"))
    crops = torch.stack([trained.preprocessing.crop(Image.open(path).convert("RGB")) for path in folder.rglob("*.png")])
    found = torch.from_numpy(embedder(crops))
    assert found.shape == (21, 768)
    logits = trained.network(trained.preprocessing.normalize(crops))
    torch.testing.assert_close(trained.network.head.fc(found), logits, rtol=1e-3, atol=1e-3)


def test_an_encoder_that_sees_whole_images_gets_them_in_a_square():
    """FastVLM's, by its configuration: black above and below, and the whole width; others a crop of the middle."""
    trained = replace(load_trained(TINY, random_weights=True, image_size=(64, 64)), does=None)
    trained = replace(trained, preprocessing=replace(trained.preprocessing, crop_pct=1.0))
    of_fastvlm = find_trained("fastvithd", Options(random_weights=True, image_size=(64, 64))).preprocessing
    image = Image.new("RGB", (128, 64), "white")
    image.paste("red", (0, 0, 16, 64))
    assert Embedder(trained, torch.device("cpu")).prepare(image).min() == 255  # red is cut off
    square = Embedder(replace(trained, preprocessing=of_fastvlm), torch.device("cpu")).prepare(image)
    assert not square[:, :15].any()
    assert not square[:, -15:].any()
    assert square[:, 20:44, 0].tolist() == [[255] * 24, [0] * 24, [0] * 24]
    assert square[:, 20:44, 20:].min() > 250


@SLOW
def test_an_exported_encoder_gives_its_features(tmp_path, folder):
    """And the maps of several stages are averaged over the last, which is what its pooling does."""
    config = timm.get_pretrained_cfg(TINY).to_dict()
    preprocessing = Preprocessing.of_timm(config | {"test_input_size": None, "input_size": (3, 64, 64)})
    encoder = timm.create_model(TINY, num_classes=0).eval()
    stages = timm.create_model(TINY, features_only=True).eval()
    stages.load_state_dict(encoder.state_dict(), strict=False)
    crops = torch.stack([preprocessing.crop(Image.open(path).convert("RGB")) for path in sorted(folder.rglob("*.png"))])
    with torch.no_grad():
        expected = encoder(preprocessing.normalize(crops))
    for name, network in (("encoder", encoder), ("stages", stages)):
        path = tmp_path / f"{name}.exported.pt2"
        export(network, path, torch.zeros(2, 3, 64, 64), format="torch_export", card=Card(preprocessing))
        found = Embedder(load_trained(path), torch.device("cpu"))(crops)
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-4)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{empty}"], "there are no images in"),
        (["{unreadable}"], "none of the images can be read: "),
        (["{shard}"], "cannot be read (unexpected end of data): it must be a whole tar file"),
        (["digits"], "a dataset is embedded alone, and one split at a time"),
        (["digits", "--split", "dev"], "the digits have no split dev, but train and validation"),
        (["{folder}", "--split", "train"], "--split and --root are for datasets"),
        (["{folder}", "--part", "0"], "--part is 0, and has to be at least 1"),
    ],
)
def test_images_that_are_none_are_refused_in_a_sentence(arguments, sentence, folder, shards, tmp_path, capsys):
    places = {name: tmp_path / name for name in ("empty", "unreadable")} | {"folder": folder}
    for name in ("empty", "unreadable"):
        places[name].mkdir()
    (places["unreadable"] / "1.jpg").write_text("no image")
    places["shard"] = tmp_path / "cut.tar"
    places["shard"].write_bytes((shards / "0.tar").read_bytes()[:2000])
    arguments = [argument.format(**places) for argument in arguments]
    said = complaint(embed, [TINY, *arguments, "--output", str(tmp_path / "out"), *WEIGHTS], capsys)
    assert sentence in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_files_of_others_are_never_mixed(folder, tmp_path, capsys):
    """Of another model, cut in another way, of images that have changed."""
    shutil.copytree(folder, tmp_path / "images")
    arguments = [TINY, str(tmp_path / "images"), "--output", str(tmp_path / "out"), "--part", "15", *WEIGHTS]
    embed(arguments)
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    said = complaint(embed, [*arguments, "--image-size", "64"], capsys)
    assert "embeddings of different models are not compared: what is to be written and " in said
    assert "differ in height (64, 32), width (64, 32): name another --output" in said
    assert "is a part of other images, or cut in another way" in complaint(embed, [*arguments, "--part", "9"], capsys)
    (tmp_path / "images" / "top.png").rename(tmp_path / "images" / "up.png")
    assert "is of images that have changed since" in complaint(embed, arguments, capsys)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_networks_without_features_are_refused(tmp_path, capsys):
    exported = tmp_path / "classifier.onnx"
    exported.write_bytes(b"")
    stated = {"format": "onnx", "files": {exported.name: sha256(exported)}, "labels": ["cat", "dog"]}
    stated |= {"architecture": None, "preprocessing": None, "input": {"layout": "NCHW", "batch": [1, 1]}}
    write_sidecar(stated, exported)
    sentences = {
        "quickstart/segmentation_digits": "is for segmentation: features are those of a classifier or an encoder",
        str(exported): "is an exported classifier, whose features are inside: name the run",
    }
    for source, sentence in sentences.items():
        weights = ["--random-weights"] if "quick" in source else []
        arguments = [source, "digits", "--split", "train", "--output", str(tmp_path / "out"), *weights]
        assert sentence in complaint(embed, arguments, capsys)


def test_a_file_that_is_none_of_embeddings(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, something=np.zeros(3))
    (tmp_path / "b.npz").write_bytes(path.read_bytes()[:50])
    (tmp_path / "c.parquet").write_text("x")
    for name in ("a.npz", "b.npz", "c.parquet"):
        with pytest.raises(DataError, match="is no file of embeddings that fastvit embed wrote, or it is damaged"):
            read_embeddings(tmp_path / name)
    with pytest.raises(DataError, match="there are no embeddings"):
        read_embeddings(tmp_path / "missing")
