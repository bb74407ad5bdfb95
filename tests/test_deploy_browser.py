"""The page in a real browser, which has to say what Python says."""

from urllib.parse import urlsplit

import pytest
import torch
from PIL import Image
from torch import nn

from browser import chromium, need_npm, served
from deployment import LABELS, PREPROCESSING, discerning_network, need
from fastvit.data.digits import Digits
from fastvit.data.normalization import Normalization
from fastvit.data.whole_image import ResizeBox, WholeImage
from fastvit.deploy import Card, export
from fastvit.deploy.formats.web import CONTENT_NETWORK, RUNTIME_FILES, Overlay, Web
from fastvit.models import semantic_fpn
from photographs import photographs
from reference import randomize

pytestmark = pytest.mark.slow  # a browser, 14 MB of runtime, and npm
READY = "document.getElementById('status').textContent.startsWith('Choose')"
ANSWERED = "document.getElementById('status').textContent.startsWith('Prepared')"

SEEN = ("sky", "roof", "tree")
OVERLAY = Overlay(
    WholeImage(ResizeBox(96, 200, 32), Normalization(PREPROCESSING.mean, PREPROCESSING.std)),
    colors=((20, 20, 20), (250, 80, 0), (0, 200, 80)),
)
PAINTED = """() => {
    const canvas = document.getElementById("overlay"), colors = new Set();
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < data.length; i += 4) colors.add(data.slice(i, i + 3).join());
    return [...colors].map((color) => color.split(",").map(Number));
}"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """name -> file: photographs of odd sizes, one of them a JPEG, and held-out digits."""
    folder = tmp_path_factory.mktemp("pictures")
    images = {name: image for name, image in photographs().items() if name != "12 megapixels"}
    images |= {f"digit {i}": Digits(train=False, image_size=32)[i][0] for i in range(4)}
    files = {name: folder / f"{name}.png" for name in images} | {"portrait": folder / "portrait.jpg"}
    for name, image in images.items():
        image.save(files[name])
    return files


@pytest.fixture(scope="module")
def model():
    return discerning_network()


@pytest.fixture(scope="module")
def folder(model, pictures, tmp_path_factory):
    need("web")
    need_npm()
    path = tmp_path_factory.mktemp("web") / "network.web"
    kind = Web(offline=True, examples=[pictures["digit 0"], pictures["portrait"]])
    export(model, path, torch.zeros(1, 3, 64, 64), format=kind, card=Card(PREPROCESSING, LABELS))
    return path


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(folder):
    with served(folder) as address:
        yield address


@pytest.fixture
def page(browser, address):
    """The page when it is ready. Errors in its script fail the test; other hosts are refused, and kept in a list."""
    page = browser.new_page()
    errors, page.elsewhere = [], []
    page.on("pageerror", lambda error: errors.append(error))

    def only_local(route):
        if urlsplit(route.request.url).hostname == "localhost":
            return route.continue_()
        page.elsewhere.append(route.request.url)
        return route.abort()

    page.route("**/*", only_local)
    page.goto(address)
    page.wait_for_function(READY)
    yield page
    page.close()
    assert errors == []


def answer(page):
    """label -> probability, as the page shows it."""
    page.wait_for_function(ANSWERED)
    items = page.query_selector_all("#results li")
    return {item.query_selector("span").inner_text(): float(item.get_attribute("data-share")) for item in items}


def ask(page, file):
    page.evaluate("document.getElementById('status').textContent = ''")
    page.set_input_files("#file", file)
    return answer(page)


@torch.no_grad()
def expected(model, file):
    """The five most probable labels, and their probabilities."""
    image = Image.open(file).convert("RGB")
    best = model(PREPROCESSING.transform()(image)[None]).softmax(1)[0].topk(5)
    return {LABELS[index]: value for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)}


def same(found, right):
    assert list(found) == list(right)
    assert list(found.values()) == pytest.approx(list(right.values()), abs=1e-3)


def test_it_says_what_python_says_and_asks_nobody_else(page, model, pictures):
    answers = [expected(model, file) for file in pictures.values()]
    assert len({next(iter(each)) for each in answers}) > 2  # not the same answer to everything
    for file, right in zip(pictures.values(), answers, strict=True):
        same(ask(page, file), right)
    assert page.elsewhere == []


def test_a_file_that_is_no_picture_gets_a_sentence_and_the_page_goes_on(page, model, pictures, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    page.set_input_files("#file", tmp_path / "notes.txt")
    page.wait_for_function("document.getElementById('error').textContent")
    said = page.get_by_role("alert").inner_text()
    assert said == "notes.txt is no picture that this browser can read: choose a JPEG, PNG or WebP file."
    same(ask(page, pictures["portrait"]), expected(model, pictures["portrait"]))
    assert page.get_by_role("alert").inner_text() == ""


def test_once_loaded_it_works_without_a_network(page, model, pictures):
    page.context.set_offline(True)
    same(ask(page, pictures["digit 1"]), expected(model, pictures["digit 1"]))


def test_the_gpu_of_the_browser_says_the_same(page, model, pictures):
    """In software here. The preprocessing stays in WebAssembly, whose arithmetic is exact."""
    if page.get_by_text("Runs on").is_hidden():
        pytest.skip("this browser has no WebGPU")
    ask(page, pictures["portrait"])
    page.get_by_label("WebGPU").check()
    page.wait_for_function("document.getElementById('status').textContent.endsWith('WebGPU.')", timeout=120_000)
    same(answer(page), expected(model, pictures["portrait"]))


def test_examples_are_reached_by_keyboard(page, model, folder):
    page.get_by_role("button", name="Example 2").focus()
    page.evaluate("document.getElementById('status').textContent = ''")
    page.keyboard.press("Enter")
    same(answer(page), expected(model, folder / "example-2.jpg"))


@pytest.mark.parametrize(("event", "field"), [("drop", "dataTransfer"), ("paste", "clipboardData")])
def test_pictures_are_dropped_and_pasted(page, model, folder, event, field):
    page.evaluate(
        """async ([url, event, field]) => {
            const data = new DataTransfer(), picture = await (await fetch(url)).blob();
            data.items.add(new File([picture], "photo.jpg", {type: picture.type}));
            const Kind = event === "drop" ? DragEvent : ClipboardEvent;
            document.body.dispatchEvent(new Kind(event, {[field]: data, bubbles: true, cancelable: true}));
        }""",
        ["example-2.jpg", event, field],
    )
    same(answer(page), expected(model, folder / "example-2.jpg"))
    assert page.get_by_role("img", name="Your picture: photo.jpg").is_visible()


def test_the_camera_is_shown_and_let_go(page):
    page.get_by_role("button", name="Use the camera").click()
    dialog = page.get_by_role("dialog", name="Camera")
    dialog.get_by_role("button", name="Cancel").click()
    assert page.locator("#picture").is_hidden()
    page.get_by_role("button", name="Use the camera").click()
    dialog.get_by_role("button", name="Take the picture").click()
    assert len(answer(page)) == 5
    tracks = page.evaluate("document.querySelector('video').srcObject.getTracks().map((track) => track.readyState)")
    assert set(tracks) == {"ended"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1100])
def test_it_fits_the_screen_and_its_text_can_be_read(page, pictures, scheme, width):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    ask(page, pictures["panorama"])
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for place in ("#about", "#status", "#results .share", ".button", "#camera", "footer p", "legend"):
        assert contrast(page, place) >= 4.5, place


def contrast(page, selector):
    """Of the text of an element with what is behind it, as the accessibility guidelines (WCAG) define it."""
    text, back = page.evaluate(
        """(selector) => {
            const element = document.querySelector(selector), canvas = new OffscreenCanvas(1, 1).getContext("2d");
            let behind = element;
            while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
            return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map((color) => {
                canvas.fillStyle = color;
                canvas.fillRect(0, 0, 1, 1);
                return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
            });
        }""",
        selector,
    )
    lighter, darker = sorted((luminance(text), luminance(back)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(color):
    linear = [(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for c in (each / 255 for each in color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


class ContentNetwork:
    """A stand-in for the public content network, with the files that npm delivered."""

    def __init__(self, folder, change=b""):
        self.folder, self.change, self.served = folder, change, []

    def __call__(self, route):
        name = route.request.url.rpartition("/")[2]
        self.served.append(route.request.url)
        body = (self.folder / name).read_bytes() + self.change
        route.fulfill(body=body, headers={"Access-Control-Allow-Origin": "*"}, content_type="application/octet-stream")


@pytest.fixture
def online(folder, model, tmp_path):
    """The address of a page without a runtime of its own."""
    path = tmp_path / "online.web"
    export(model, path, torch.zeros(1, 3, 64, 64), format=Web(), card=Card(PREPROCESSING, LABELS))
    with served(path) as address:
        yield address


def test_without_its_own_runtime_it_takes_the_pinned_one(browser, folder, online, model, pictures):
    page, network = browser.new_page(), ContentNetwork(folder)
    page.route(f"{CONTENT_NETWORK}/*", network)
    page.goto(online)
    page.wait_for_function(READY)
    same(ask(page, pictures["digit 2"]), expected(model, pictures["digit 2"]))
    assert sorted(network.served) == sorted(f"{CONTENT_NETWORK}/{name}" for name in RUNTIME_FILES["wasm"])
    page.close()


def test_a_runtime_that_was_changed_is_not_run(browser, folder, online):
    page = browser.new_page()
    page.route(f"{CONTENT_NETWORK}/*", ContentNetwork(folder, change=b"\n"))
    page.goto(online)
    page.wait_for_function("document.getElementById('error').textContent")
    assert "cannot be loaded, or is not what it should be" in page.locator("#error").inner_text()
    page.close()


@pytest.fixture(scope="module")
def segmenter():
    """A small one, whose classes all occur."""
    network = randomize(semantic_fpn("fastvit_t8", num_classes=3)).eval()
    with torch.no_grad():
        logits = network(OVERLAY.preprocessing.transform()(photographs()["as it is"])[None])
        network.classifier.bias -= logits.mean((0, 2, 3))
    return network


class Named(nn.Module):
    """A network whose output has a name."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return {"masks": self.network(x)}


def test_a_segmenter_paints_the_classes_of_pixels(browser, folder, segmenter, pictures, tmp_path):
    path = tmp_path / "scenes.web"
    export(
        Named(segmenter),
        path,
        torch.zeros(1, 3, 64, 64),
        format=Web(overlay=OVERLAY),
        card=Card(labels=SEEN, task="segmentation"),
    )
    page = browser.new_page()
    page.route(f"{CONTENT_NETWORK}/*", ContentNetwork(folder))
    with served(path) as address:
        page.goto(address)
        page.wait_for_function(READY)
        for name in ("as it is", "panorama"):
            found = ask(page, pictures[name])
            with torch.no_grad():
                logits = segmenter(OVERLAY.preprocessing.transform()(photographs()[name])[None])[0]
            right = logits.argmax(0)
            shares = right.flatten().bincount(minlength=3) / right.numel()
            assert found == pytest.approx(dict(zip(SEEN, shares.tolist(), strict=True)), abs=1e-3)
            assert page.get_by_label("Colors").is_visible()
            assert {tuple(color) for color in page.evaluate(PAINTED)} == set(OVERLAY.colors)
    page.close()
