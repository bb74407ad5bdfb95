"""Suite `predict`: images a second of `fastvit predict` over a folder of photographs, beside one image after the other.

Everything from the file to the answer is measured: read, decoded, resized, computed. One after the other is what a
script does that calls timm's transform and the network for each file, as trained and fused. The ways take turns, a
whole folder each. The time until the first image, which an engine takes to be made ready, is apart.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from PIL import Image
from pydantic import PositiveInt
from torch import Tensor, nn

from fastvit.benchmark.report import markdown
from fastvit.benchmark.special import cells
from fastvit.config import Section, UserPath
from fastvit.data.reading import read_image
from fastvit.deploy.runtimes.openvino import precisions
from fastvit.prediction import find_images, predict_files
from fastvit.reparam import reparameterize_model
from fastvit.runtime.allocator import keep_freed_memory
from fastvit.trained import Options, Trained, find_trained

SIZES = ((500, 375), (640, 427), (1024, 683), (1600, 1067))  # width and height of the photographs, in turn


class PredictSuite(Section):
    """What to predict."""

    measures: Literal["predict"]
    title: str
    output: UserPath
    network: str  # of timm's; with random weights, which make it no slower
    root: UserPath | None = None  # a folder of images; null: photographs of scikit-learn, as JPEG files
    images: PositiveInt = 200  # how many are made, without a root
    batch: PositiveInt = 16  # of `fastvit predict`
    rounds: PositiveInt = 5


SUITE = PredictSuite
Way = Callable[[Sequence[Path]], list[Tensor]]  # from files to the probabilities of each
_way: Way  # of this process
_until_ready: float  # seconds, also of this process


def measure(suite: PredictSuite) -> Iterator[dict[str, Any]]:
    """Images a second of each way in each round, each in a process of its own, after a first batch that is not counted.

    (`fastvit predict` has its process keep the memory that it frees, which would make the others faster, too.)
    """
    find_trained(suite.network, Options(random_weights=True))  # a name that is none fails here, in a sentence
    rates: dict[str, list[float]] = {name: [] for name in ways()}
    with _files(suite) as paths, ExitStack() as stack:
        processes = {name: stack.enter_context(_process(suite, name)) for name in rates}
        ready = {name: process.submit(_seconds_until_ready).result() for name, process in processes.items()}
        for process in processes.values():
            process.submit(_seconds, paths[: suite.batch]).result()
        for _ in range(suite.rounds):
            for name, process in processes.items():
                rates[name].append(len(paths) / process.submit(_seconds, paths).result())
            yield {"images": len(paths), "images_per_second": rates, "seconds_until_ready": ready}


def _process(suite: PredictSuite, name: str) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin, initargs=(name, suite.network, suite.batch))


def _begin(name: str, network: str, batch: int) -> None:
    """Of a process: make its way to predict ready."""
    global _way, _until_ready
    if name.startswith(COMMAND):
        keep_freed_memory(torch.device("cpu"))
    trained = find_trained(network, Options(random_weights=True))
    start = time.perf_counter()
    _way = ways()[name](trained, batch)
    _until_ready = time.perf_counter() - start


def _seconds_until_ready() -> float:
    return _until_ready


def _seconds(paths: Sequence[Path]) -> float:
    start = time.perf_counter()
    _way(paths)
    return time.perf_counter() - start


def as_trained(trained: Trained, batch: int) -> Way:
    """What a script does that takes the network as it is."""
    return _one_by_one(trained.module, trained)


def fused(trained: Trained, batch: int) -> Way:
    """The same with the network fused."""
    return _one_by_one(reparameterize_model(trained.module), trained)


def command(trained: Trained, batch: int, engine: str | None = None, dtype: torch.dtype = torch.float32) -> Way:
    """What `fastvit predict` does on a CPU."""
    predictor = trained.predictor_on(torch.device("cpu"), engine, dtype)
    return lambda paths: [each.prediction.probabilities for each in predict_files(predictor, paths, batch=batch)]


BASELINE, COMMAND = "one after the other, fused", "fastvit predict"
BY_OPENVINO = {
    f"{COMMAND} --engine openvino": torch.float32,
    f"{COMMAND} --engine openvino --precision bfloat16": torch.bfloat16,
}


def ways() -> dict[str, Callable[[Trained, int], Way]]:
    """All that are compared, by name."""
    known = {"one after the other, as trained": as_trained, BASELINE: fused, COMMAND: command}
    possible = precisions() if find_spec("openvino") else set()
    by_openvino = {name: dtype for name, dtype in BY_OPENVINO.items() if dtype in possible}
    return known | {name: partial(command, engine="openvino", dtype=dtype) for name, dtype in by_openvino.items()}


def _one_by_one(network: nn.Module, trained: Trained) -> Way:
    transform = trained.preprocessing.transform()

    @torch.inference_mode()
    def predict(paths: Sequence[Path]) -> list[Tensor]:
        return [network(transform(read_image(path))[None]).softmax(1)[0] for path in paths]

    return predict


def table(result: dict[str, Any]) -> str:
    """A row for each way."""
    rows: list[tuple[str, ...]] = [("way", "images/s", "from", "to", f"x {BASELINE}", "s until ready")]
    rates, ready = result["images_per_second"], result["seconds_until_ready"]
    rows += [(name, *cells(rates, name, BASELINE, 1), f"{ready[name]:.1f}") for name in rates]
    machine, suite = result["environment"], result["suite"]
    what = f"{suite['network']}, {result['images']} images, {suite['rounds']} rounds"
    return f"{markdown(rows)}\n\n{what}; {machine['cpu']}, threads: {machine['threads']}, torch {machine['torch']}"


@contextmanager
def _files(suite: PredictSuite) -> Iterator[list[Path]]:
    if suite.root:
        yield find_images([str(suite.root)])
        return
    with TemporaryDirectory() as folder:
        write_photographs(Path(folder), suite.images)
        yield find_images([folder])


def write_photographs(folder: Path, count: int) -> None:
    """Two photographs in four sizes, each turned or mirrored in one of eight ways, as JPEG files."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    ways = [None, *Image.Transpose]
    for number in range(count):
        picture = photographs[number % 2].resize(SIZES[number // 2 % len(SIZES)], Image.Resampling.BICUBIC)
        way = ways[number // 8 % len(ways)]
        (picture if way is None else picture.transpose(way)).save(folder / f"{number:04d}.jpg", quality=92)
