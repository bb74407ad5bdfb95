"""The page that `--format web` writes: its files, and what it says about input that it cannot use."""

import json
import shutil
import subprocess
from dataclasses import replace
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch import nn

from browser import served
from deployment import LABELS, PREPROCESSING, discerning_network, need
from fastvit.data.normalization import Normalization
from fastvit.data.whole_image import ResizeBox, WholeImage
from fastvit.deploy import Card, export, load
from fastvit.deploy.formats import web
from fastvit.deploy.formats.web import RUNTIME_FILES, Overlay, Web
from fastvit.deploy.sidecar import sidecar_path
from fastvit.deploy.web_server import make_server
from fastvit.errors import DataError, ExportError
from launch import complaint, script
from photographs import array, photographs

CARD = Card(PREPROCESSING, LABELS)
EXAMPLE = torch.zeros(1, 3, 64, 64)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    need("web")
    folder = tmp_path_factory.mktemp("web")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise, as phones write it
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    turned = photographs()["portrait"].transpose(Image.Transpose.ROTATE_90)
    turned.save(folder / "photo.JPG", exif=exif, quality=95)
    photographs()["portrait"].save(folder / "upright.jpeg", comment="at home", quality=95)
    path, examples = folder / "flowers & more.web", [folder / "photo.JPG", folder / "upright.jpeg"]
    export(discerning_network(), path, EXAMPLE, format=Web(examples=examples), card=CARD)
    return path


def test_the_folder_is_complete(page):
    says = json.loads((page / "page.json").read_text())
    assert says["title"] == "flowers & more"
    assert tuple(says["labels"]) == LABELS
    assert says["about"].startswith("7 classes, ")
    files = {
        *says["examples"],
        says["network"],
        says["preprocessing"],
        "page.json",
        "index.html",
        "page.js",
        "style.css",
    }
    assert {path.name for path in page.iterdir()} == files
    assert says["examples"] == ["example-1.jpg", "example-2.jpeg"]


def test_an_example_is_upright_and_does_not_tell_where_it_was_taken(page):
    with Image.open(page.parent / "photo.JPG") as source:
        assert source.getexif().get_ifd(ExifTags.IFD.GPSInfo)
    for name in ("example-1.jpg", "example-2.jpeg"):
        with Image.open(page / name) as picture:
            assert picture.format == "JPEG"
            assert not picture.getexif()
            assert not {"exif", "comment"} & set(picture.info)
            shown, right = array(picture), array(photographs()["portrait"])
        assert np.abs(shown.astype(float) - right).mean() < 6  # of 255: JPEG twice


def test_the_network_in_it_is_the_one_that_was_exported(page):
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(load(page)(images), discerning_network()(images), rtol=1e-3, atol=1e-3)
    verified = load(page).sidecar["verification"]
    assert max(each["pixels"] for each in verified["pictures"]) == 0
    assert max(each["relative_error"] for each in verified["outputs"]) < 1e-5


def test_the_page_may_be_edited_and_the_network_may_not(page, tmp_path):
    copy = tmp_path / page.name
    shutil.copytree(page, copy)
    shutil.copyfile(sidecar_path(page), sidecar_path(copy))
    (copy / "index.html").write_text("mine")
    (copy / "example-1.jpg").unlink()
    load(copy)
    (copy / "network.onnx").write_bytes(b"another")
    with pytest.raises(ExportError, match=r"network\.onnx is not the file that flowers & more\.web\.json is about"):
        load(copy)


def test_the_runtime_is_pinned_by_version_and_content(page):
    runtime = json.loads((page / "page.json").read_text())["runtime"]
    files = [file for device in ("wasm", "webgpu") for file in runtime[device].values()]
    assert len(files) == 4
    for file in files:
        assert file["url"].startswith("https://cdn.jsdelivr.net/npm/onnxruntime-web@1.30.0/dist/ort")
        assert file["integrity"].startswith("sha384-")


def test_the_server_sends_what_browsers_want_before_they_allow_threads(page):
    with served(page) as address, urlopen(f"{address}page.js") as answer:
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert answer.headers.get_content_type() == "text/javascript"


def test_the_server_shows_pages_only_and_names_a_port_that_is_taken(page, tmp_path, capsys):
    assert "there is no page in" in complaint(script("serve"), [str(tmp_path)], capsys)
    with make_server(page, 0) as server:
        said = complaint(script("serve"), [str(page), "--port", str(server.server_port)], capsys)
    assert said.startswith(f"port {server.server_port} cannot be used")
    assert said.endswith("choose another with --port")


class Pixels(nn.Module):
    """A segmenter of two classes, light and dark."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, stride=4, padding=1)

    def forward(self, x):
        return {"masks": self.conv(x)}


def test_a_page_that_paints_takes_wide_pictures(tmp_path):
    """Whole images have sizes of their own, which may be as far from square as in other files of any size."""
    need("web")
    preprocessing = WholeImage(ResizeBox(64, 4096, 32), Normalization(PREPROCESSING.mean, PREPROCESSING.std))
    kind = Web(overlay=Overlay(preprocessing, colors=((0, 0, 0), (255, 255, 255))))
    model, card = Pixels().eval(), Card(labels=("light", "dark"), task="segmentation")
    sidecar = export(model, tmp_path / "a.web", EXAMPLE, format=kind, card=card)
    assert sidecar["input"]["height"] == sidecar["input"]["width"] == (64, 4096)
    assert len(sidecar["verification"]["outputs"]) == 3
    images = torch.randn(1, 3, 64, 4096)
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "a.web")(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (Card(PREPROCESSING), "a page is for classifiers and segmenters"),
        (Card(PREPROCESSING, LABELS, task="segmentation"), "needs the colors of the classes"),
        (Card(labels=LABELS), "a page is for classifiers and segmenters"),
        (Card(replace(PREPROCESSING, interpolation="nearest"), LABELS), "bicubic or bilinear, not nearest"),
    ],
)
def test_what_is_no_classifier_gets_a_sentence(tmp_path, card, message):
    need("web")
    with pytest.raises(ExportError, match=message):
        export(discerning_network(), tmp_path / "a.web", EXAMPLE, card=card)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", b"", "is none of .jpg"),
        ("broken.png", b"no picture", "cannot be read"),
        ("missing.png", None, "cannot be read"),
    ],
)
def test_examples_that_are_no_pictures_get_a_sentence(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        Web(examples=[tmp_path / name]).require()


def test_without_npm_there_is_no_offline_page(monkeypatch):
    need("web")
    monkeypatch.setattr(web.shutil, "which", lambda program: None)
    with pytest.raises(ExportError, match="which is not installed"):
        Web(offline=True).require()


def npm(monkeypatch, *, status, written=b""):
    """A stand-in for npm, which writes an archive with these bytes as each file of the runtime. Its commands."""
    commands = []

    def run(command, cwd, **options):
        import io
        import tarfile

        commands.append(command)
        if not status:
            with tarfile.open(f"{cwd}/runtime.tgz", "w:gz") as archive:
                for name in (name for files in RUNTIME_FILES.values() for name in files):
                    member = tarfile.TarInfo(f"package/dist/{name}")
                    member.size = len(written)
                    archive.addfile(member, io.BytesIO(written))
        return subprocess.CompletedProcess(command, status, "", "npm notice\nnpm error code ENOTFOUND\n")

    monkeypatch.setattr(web.subprocess, "run", run)
    return commands


def test_without_a_network_the_reason_of_npm_is_told(monkeypatch, tmp_path):
    npm(monkeypatch, status=1)
    with pytest.raises(ExportError, match=r"npm could not fetch .* \(npm error code ENOTFOUND\): export where"):
        web.copy_runtime(tmp_path)


def test_npm_is_called_by_the_name_of_its_file(monkeypatch, tmp_path):
    """Windows starts npm.cmd by its whole name only."""
    commands = npm(monkeypatch, status=1)
    monkeypatch.setattr(web.shutil, "which", lambda program: f"C:/{program}.cmd")
    with pytest.raises(ExportError, match="npm could not fetch"):
        web.copy_runtime(tmp_path)
    assert [command[:2] for command in commands] == [["C:/npm.cmd", "pack"]]


def test_another_runtime_than_the_one_that_was_tested_is_refused(monkeypatch, tmp_path):
    npm(monkeypatch, status=0, written=b"something else")
    with pytest.raises(ExportError, match="is not the file that this page was tested with"):
        web.copy_runtime(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_examples_need_a_page_and_pictures(tmp_path, capsys):
    arguments = ["fastvit_t8", "--random-weights", "--image-size", "32", "--output", str(tmp_path)]
    said = complaint(script("export"), [*arguments, "--format", "onnx", "--offline"], capsys)
    assert said == "--offline and --examples are for a page: add --format web, or leave them out"
    said = complaint(script("export"), [*arguments, "--format", "web", "--examples", "3"], capsys)
    assert said == "fastvit_t8 comes without images: give pictures with --examples FILE ..."
