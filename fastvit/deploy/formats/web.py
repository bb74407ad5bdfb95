"""A web page around a network, which runs on the visitor's own device by ONNX Runtime Web."""

import json
import shutil
import subprocess
import tarfile
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha384
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastvit.data.reading import read_image
from fastvit.data.whole_image import WholeImage
from fastvit.deploy.comparison import compare_pixels
from fastvit.deploy.formats.image_input import OnnxImage
from fastvit.deploy.formats.onnx import Onnx, onnx_of
from fastvit.deploy.request import Request
from fastvit.deploy.runtimes.run import Run, Settings
from fastvit.errors import DataError, ExportError

RUNTIME = "onnxruntime-web@1.30.0"
CONTENT_NETWORK = f"https://cdn.jsdelivr.net/npm/{RUNTIME}/dist"
# The module and the program for each device that a network can run on, with the SHA-384 of their contents.
RUNTIME_FILES = {
    "wasm": {
        "ort.wasm.bundle.min.mjs": "PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
        "ort-wasm-simd-threaded.wasm": "vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
    },
    "webgpu": {
        "ort.webgpu.bundle.min.mjs": "1ntMeyj+z5diX6vBR5h+zlJBPc4iNvhCxE6nlammh8daBYcLBZkzrwDkuJjhwI+f",
        "ort-wasm-simd-threaded.asyncify.wasm": "EPVDLTxuO663dkZO/pcKJF6vOyyfq/5z9FY1oksN0UWFX2ABH4wDDZQHeNoUleWR",
    },
}
NETWORK, PREPROCESSING = "network.onnx", "preprocessing.onnx"
BROWSERS_READ = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")


@dataclass(frozen=True)
class Overlay:
    """What a page needs to paint the classes of pixels over a picture.

    Attributes:
        preprocessing: of the network, which gives logits (1, classes, height, width).
        colors: of each class, red, green and blue from 0 to 255.
    """

    preprocessing: WholeImage
    colors: tuple[tuple[int, int, int], ...]


class Web(Onnx):
    """A folder for any web server: a page, the network and its preprocessing as ONNX, and `page.json` about them.

    Args:
        offline: the runtime lies beside the page, 41 MB that npm fetches now, in place of a public content network.
        examples: pictures that a visitor can click on.
        overlay: for a network that segments; without one it is a classifier.
    """

    name = "web"
    suffix = ".web"
    axes = ()
    depthwise = False  # which was not measured in browsers
    inside = None

    def __init__(self, *, offline: bool = False, examples: Sequence[Path] = (), overlay: Overlay | None = None):
        self.offline, self.examples, self.overlay = offline, tuple(examples), overlay
        self.opened = ("size",) if overlay else ()  # whole images have sizes of their own

    def require(self) -> None:
        super().require()
        if self.offline and shutil.which("npm") is None:
            raise ExportError(
                f"--offline takes {RUNTIME} from npm, which is not installed: install Node.js, or leave out --offline "
                "to have visitors load the runtime from a public content network"
            )
        for path in self.examples:
            require_picture(path)

    def convert(self, request: Request, path: Path) -> None:
        from onnx import save

        from fastvit.deploy.preprocessing_graph import preprocessing_graph

        card = request.card
        shown = (self.overlay or card).preprocessing
        if card.labels is None or shown is None:
            raise ExportError(
                "a page is for classifiers and segmenters: this network has no labels or no preprocessing"
            )
        if not (card.classifies or self.overlay):
            raise ExportError("a page of a segmenter needs the colors of the classes: Web(overlay=...)")
        if len(request.example) != 1:
            raise ExportError("a page takes one picture at a time: export a batch of one")
        if card.several_labels:
            raise ExportError("a page shows one label of an image: for several export onnx --preprocessing inside")
        preprocessing = preprocessing_graph(shown)
        path.mkdir()
        for source in (resources.files("fastvit.deploy") / "web").iterdir():
            (path / source.name).write_bytes(source.read_bytes())
        (path / NETWORK).write_bytes(onnx_of(request))
        save(preprocessing, path / PREPROCESSING)
        page = self._describe(request, path.stem, self._write_examples(path))
        if self.offline:
            copy_runtime(path)
        (path / "page.json").write_text(json.dumps(page, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def _describe(self, request: Request, title: str, examples: Sequence[str]) -> dict[str, Any]:
        """What the page says and shows."""
        card = request.card
        parameters = sum(parameter.numel() for parameter in request.network.parameters())
        name = f"{card.architecture['name']}, " if card.architecture else ""
        return {
            "title": title,
            "about": f"{name}{len(card.labels)} classes, {parameters / 1e6:.1f} million parameters",
            "labels": list(card.labels),
            "colors": self.overlay and self.overlay.colors,
            "network": NETWORK,
            "preprocessing": PREPROCESSING,
            "examples": list(examples),
            "runtime": runtime_files("." if self.offline else CONTENT_NETWORK),
        }

    def _write_examples(self, path: Path) -> list[str]:
        """Upright and without metadata: a phone writes into a photograph where it was taken."""
        names = [f"example-{i + 1}{example.suffix.lower()}" for i, example in enumerate(self.examples)]
        for example, name in zip(self.examples, names, strict=True):
            picture = read_image(example)
            picture.info = {}  # of which some formats would write a part
            picture.save(path / name, quality=90)
        return names

    def fixed(self, path: Path) -> list[Path]:
        return [path / NETWORK, path / PREPROCESSING]

    def load(self, path: Path, settings: Settings) -> Run:
        return super().load(path / NETWORK, settings)

    def check(self, path: Path, request: Request) -> dict[str, Any]:
        prepare = OnnxImage().run_on_images(path / PREPROCESSING, Settings())
        pictures = compare_pixels(prepare, (self.overlay or request.card).preprocessing, request)
        return super().check(path, request) | {"pictures": pictures}


def runtime_files(folder: str) -> dict[str, Any]:
    """Where each device's runtime lies, for `page.json`."""
    return {
        device: {
            kind: {"url": f"{folder}/{name}", "integrity": f"sha384-{digest}"}
            for kind, (name, digest) in zip(("module", "binary"), files.items(), strict=True)
        }
        for device, files in RUNTIME_FILES.items()
    }


def copy_runtime(folder: Path) -> None:
    """Put the runtime's files beside the page, from its npm package.

    Raises:
        ExportError: npm cannot fetch it, or it is not what it was.
    """
    with TemporaryDirectory() as temporary:
        npm = shutil.which("npm") or "npm"  # with its suffix: Windows starts no npm.cmd by the bare name
        command = [npm, "pack", RUNTIME, "--pack-destination", temporary]
        fetched = subprocess.run(command, capture_output=True, text=True, cwd=temporary)
        archives = list(Path(temporary).glob("*.tgz"))
        if fetched.returncode or not archives:
            reason = next((line for line in fetched.stderr.splitlines() if "notice" not in line), "no reason given")
            raise ExportError(
                f"npm could not fetch {RUNTIME} ({reason}): export where there is a network, or without --offline"
            )
        with tarfile.open(archives[0]) as archive:
            for name, expected in (pair for files in RUNTIME_FILES.values() for pair in files.items()):
                content = archive.extractfile(f"package/dist/{name}").read()
                if b64encode(sha384(content).digest()).decode() != expected:
                    raise ExportError(f"{name} of {RUNTIME} is not the file that this page was tested with")
                (folder / name).write_bytes(content)


def require_picture(path: Path) -> None:
    """Raises DataError unless browsers and Pillow can read the file."""
    if path.suffix.lower() not in BROWSERS_READ:
        raise DataError(f"example {path} is none of {', '.join(BROWSERS_READ)}, which browsers can show")
    read_image(path, advice="choose another example")
