"""Suite `layers`: where the time of a call goes, layer by layer, and what is left to gain.

OpenVINO, the fastest engine on a CPU, tells the time of each node of the graph that it runs, where it is compiled to
count; that is why this suite compiles by itself. It fuses a convolution with its bias, activation and sum; such a node
is of the kind of its convolution. Beside the time stand the operations and the bytes of each kind, and the least time
that they take on this machine (the roofline): of batch 1 all tensors fit into the caches, so that it is their bandwidth
that counts, and not the memory's.
"""

from collections.abc import Iterator
from importlib.metadata import version
from math import prod
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from fastvit.benchmark.limits import cached_bandwidth, least_seconds, peak
from fastvit.benchmark.networks import build, input_size
from fastvit.benchmark.report import markdown
from fastvit.benchmark.suite import Form, Network
from fastvit.config import Section, UserPath
from fastvit.deploy import export
from fastvit.deploy.runtimes.openvino import configuration, core, precisions
from fastvit.deploy.runtimes.run import make_settings
from fastvit.errors import EngineError, require_packages
from fastvit.runtime.environment import environment
from fastvit.runtime.timing import seconds_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTWISE, DEPTHWISE, OTHER = "1x1 convolutions", "depthwise convolutions", "other convolutions"
PRODUCTS, LAYOUT, REST = "matrix products", "layouts", "all else"
KINDS = (POINTWISE, DEPTHWISE, OTHER, PRODUCTS, LAYOUT, REST)
MOVING = ("Reorder", "Transpose", "Reshape", "Concatenation", "Split")  # nodes that compute nothing


class LayersSuite(Section):
    """Each network in each precision."""

    measures: Literal["layers"]
    title: str
    output: UserPath
    networks: Annotated[dict[str, Network], Field(min_length=1)]
    dtypes: Annotated[tuple[Literal["float32", "bfloat16"], ...], Field(min_length=1)]
    rounds: PositiveInt


SUITE = LayersSuite


def measure(suite: LayersSuite) -> Iterator[dict[str, Any]]:
    """The median time of each kind of layer, its work, and this machine's limits."""
    require_packages("the suite of layers", "openvino", "onnx", "onnxscript", extra="openvino")
    cpu = torch.device("cpu")
    dtypes = [dtype for dtype in suite.dtypes if getattr(torch, dtype) in precisions()]  # others run as float32
    if not dtypes:
        raise EngineError(f"OpenVINO computes in none of {', '.join(suite.dtypes)} on this machine")
    result: dict[str, Any] = {
        "environment": environment() | {"openvino": version("openvino")},
        "peak": {dtype: peak(getattr(torch, dtype), cpu)["flops"] for dtype in dtypes},
        "bandwidth": cached_bandwidth(cpu),
        "rows": [],
    }
    for name, network in suite.networks.items():
        image = torch.randn(1, *input_size(network), generator=torch.Generator().manual_seed(0))
        with TemporaryDirectory() as folder:
            path = Path(folder) / "network.xml"
            export(build(network, Form()), path, image, format="openvino")
            for dtype in dtypes:
                result["rows"].append({"network": name, "dtype": dtype} | profile(path, image, dtype, suite.rounds))
                yield result


def profile(path: Path, image: Tensor, dtype: str, rounds: int) -> dict[str, Any]:
    """Milliseconds of a call, and of each kind of layer in it: how many nodes, their milliseconds, their work."""
    model = core().read_model(path)
    model.reshape(list(image.shape))
    settings = configuration(make_settings(getattr(torch, dtype)), streams=1)
    plain = core().compile_model(model, "CPU", settings).create_infer_request()
    compiled = core().compile_model(model, "CPU", settings | {"PERF_COUNT": True})
    counted, pixels = compiled.create_infer_request(), image.numpy()
    seconds, times = [], {}
    for _ in range(rounds):
        plain.infer([pixels])
        seconds.append(seconds_of(lambda: plain.infer([pixels])))
        counted.infer([pixels])
        for node in counted.profiling_info:
            times.setdefault(node.node_name, []).append(1000 * node.real_time.total_seconds())
    medians = {name: median(each) for name, each in times.items()}
    return {"ms": 1000 * median(seconds), "kinds": by_kind(model, compiled, medians, getattr(torch, dtype).itemsize)}


def by_kind(model: Any, compiled: Any, milliseconds: dict[str, float], itemsize: int) -> dict[str, dict[str, Any]]:
    """The nodes that took time, summed up.

    Args:
        model: before it was compiled, where the work can be counted.
        milliseconds: of the nodes of the compiled one.
        itemsize: bytes of a number.
    """
    work = {op.get_friendly_name(): work_of(op) for op in model.get_ops()}
    # A linear layer is run under the name of the addition of its bias.
    sums = (op for op in model.get_ops() if op.get_type_name() == "Add")
    linear = work | {op.get_friendly_name(): work_behind(op) for op in sums}
    kinds = {kind: {"nodes": 0, "ms": 0.0, "macs": 0, "bytes": 0} for kind in KINDS}
    for node in compiled.get_runtime_model().get_ops():
        if not (taken := milliseconds.get(node.get_friendly_name())):
            continue
        info = node.get_rt_info()
        layer_type, originals = (str(info[key].value) for key in ("layerType", "originalLayersNames"))
        kind, macs, numbers = kind_of(layer_type, originals, linear if layer_type == "FullyConnected" else work)
        for name, amount in (("nodes", 1), ("ms", taken), ("macs", macs), ("bytes", numbers * itemsize)):
            kinds[kind][name] += amount
    return kinds


Work = tuple[str, int, int]  # the kind, the multiply-adds, and the numbers that go in and come out, with weights


def work_of(op: Any) -> Work | None:
    """Of a node of OpenVINO's graph before it is compiled; None if it multiplies nothing."""
    name = op.get_type_name()
    if name not in ("Convolution", "GroupConvolution", "MatMul"):
        return None
    shapes = [list(op.input_value(i).get_shape()) for i in range(2)] + [list(op.output(0).get_shape())]
    taken, weights, made = shapes
    inner = prod(weights[-3:])  # input channels of a group, and the two sides of the kernel
    if name == "MatMul":
        inner = taken[-2 if op.get_attributes()["transpose_a"] else -1]
    one_each = name == "GroupConvolution" and weights[-3] == 1
    one_pixel = name == "Convolution" and weights[-2:] == [1, 1]
    kind = PRODUCTS if name == "MatMul" else DEPTHWISE if one_each else POINTWISE if one_pixel else OTHER
    return kind, prod(made) * inner, sum(map(prod, shapes))


def work_behind(op: Any) -> Work | None:
    """Of the product that is added up, between which and the addition it may be scaled."""
    for _ in range(3):
        op = op.input_value(0).get_node()
        if (found := work_of(op)) or not op.get_input_size():
            return found
    return None


def kind_of(layer_type: str, originals: str, work: dict[str, Work | None]) -> Work:
    """Of a node as it is run, from the nodes that were fused into it."""
    if layer_type in MOVING:
        return LAYOUT, 0, 0
    known = [found for name in originals.split(",") if (found := work.get(name))]
    if not known:
        return REST, 0, 0
    return known[0][0], sum(macs for _, macs, _ in known), sum(numbers for *_, numbers in known)


def least_ms(kind: dict[str, Any], row: dict[str, Any], result: dict[str, Any]) -> float:
    """The least time that a kind of layer takes on this machine."""
    return 1000 * least_seconds(2 * kind["macs"], kind["bytes"], result["peak"][row["dtype"]], result["bandwidth"])[0]


def table(result: dict[str, Any]) -> str:
    """A line for each kind of layer in each network and precision."""
    head = ("network", "precision", "layers", "nodes", "ms", "share", "GFLOP/s", "GB/s", "least ms")
    lines: list[tuple[str, ...]] = [head]
    for row in result["rows"]:
        total = sum(kind["ms"] for kind in row["kinds"].values())
        for name, kind in row["kinds"].items():
            if not kind["ms"]:
                continue
            rates = [
                f"{amount / kind['ms'] / 1e6:.0f}" if amount else "" for amount in (2 * kind["macs"], kind["bytes"])
            ]
            least = f"{least_ms(kind, row, result):.2f}" if kind["macs"] else ""
            shown = (str(kind["nodes"]), f"{kind['ms']:.2f}", f"{kind['ms'] / total:.0%}", *rates, least)
            lines.append((row["network"], row["dtype"], name, *shown))
        least = sum(least_ms(kind, row, result) for kind in row["kinds"].values())
        whole = ("", f"{total:.2f}", "100%", "", "", f"{least:.2f}")
        lines.append((row["network"], row["dtype"], f"all; a call takes {row['ms']:.2f}", *whole))
    peaks = ", ".join(f"{dtype} {flops / 1e9:.0f} GFLOP/s" for dtype, flops in result["peak"].items())
    machine = result["environment"]
    below = f"{machine['cpu']}, threads: {machine['threads']}, torch {machine['torch']}, openvino {machine['openvino']}"
    limits = f"At most: {peaks}; {result['bandwidth'] / 1e9:.0f} GB/s from and to the caches."
    return f"{markdown(lines)}\n\n{limits} {below}"


def picture(result: dict[str, Any]) -> "Figure":
    """A bar for each network and precision, divided by kind; of each kind the dark part is the least time."""
    from matplotlib.figure import Figure

    from fastvit.benchmark.picture import COLORS

    rows = result["rows"]
    figure = Figure(figsize=(9, 1.6 + 0.55 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(rows):
        left = 0.0
        for name, color in zip(KINDS, COLORS, strict=False):
            kind = row["kinds"][name]
            axes.barh(y, kind["ms"], left=left, color=color, alpha=0.45, label=name if y == 0 else None)
            axes.barh(y, least_ms(kind, row, result), left=left, color=color)
            left += kind["ms"]
    axes.set_yticks(range(len(rows)), [f"{row['network']}, {row['dtype']}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds of one image; dark: the least that this work takes on this machine")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure
