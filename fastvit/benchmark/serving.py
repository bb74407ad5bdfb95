"""How an engine serves: clients that each send one image, wait for the answer and send the next, all in one process.

The clients' threads and the engine share the machine's cores, as in a small server. Engines take turns of some seconds,
round after round, so that a machine that slows down slows all of them.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from fastvit.benchmark.machine import load_now, show
from fastvit.benchmark.networks import build, input_size
from fastvit.benchmark.report import markdown
from fastvit.benchmark.suite import Form, Network
from fastvit.config import Section, UserPath
from fastvit.deploy import Inference, compile_for_inference
from fastvit.errors import reason_of

SETTLE_SECONDS = 0.1  # threads of the engine that had its turn still spin for a while
Row = dict[str, Any]


class Server(Section):
    """An engine, ready to compute single images."""

    engine: Literal["auto", "torch", "openvino", "onnxruntime"]
    dtype: Literal["float32", "bfloat16"] = "float32"
    streams: PositiveInt | Literal["cores"] | None = None  # calls computed at a time; cores: as many as there are

    def start(self, model: torch.nn.Module, image: Tensor) -> Inference:
        streams = torch.get_num_threads() if self.streams == "cores" else self.streams
        return compile_for_inference(model, image, getattr(torch, self.dtype), self.engine, streams=streams)


class ServingSuite(Section):
    """Every network in every server, under every number of clients."""

    measures: Literal["serving"]
    title: str
    output: UserPath  # folder for the table and the samples
    networks: Annotated[dict[str, Network], Field(min_length=1)]
    servers: Annotated[dict[str, Server], Field(min_length=1)]
    clients: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    rounds: PositiveInt = 5
    seconds: PositiveFloat = 3.0  # of a turn


SUITE = ServingSuite


def measure(suite: ServingSuite) -> Iterator[dict[str, Any]]:
    """All turns' latencies, in a row for each network, number of clients, and server."""
    result: dict[str, Any] = {
        "clients": list(suite.clients),
        "load_before": load_now(),
        "rows": [],
    }
    for row in _rows(suite):
        result["rows"].append(row)
        yield result
    show()


def _rows(suite: ServingSuite) -> Iterator[Row]:
    for name, network in suite.networks.items():
        image = torch.randn(1, *input_size(network), generator=torch.Generator().manual_seed(0))
        model = build(network, Form())
        servers: dict[str, Inference] = {}
        for server_name, server in suite.servers.items():
            show(f"{name}: {server_name} gets ready")
            try:
                servers[server_name] = server.start(model, image)
            except Exception as error:  # engines have errors of their own
                reason = reason_of(error)
                yield {"network": name, "server": server_name, "error": reason}
        for clients in suite.clients:
            show(f"{name}: {clients} clients")
            yield from _turns(suite, name, servers, clients, image)


def _turns(suite: ServingSuite, network: str, servers: dict[str, Inference], clients: int, image: Tensor) -> list[Row]:
    rows = {
        name: {"network": network, "server": name, "engine": infer.engine, "clients": clients, "rounds": []}
        for name, infer in servers.items()
    }
    for _ in range(suite.rounds):
        for name, infer in servers.items():
            time.sleep(SETTLE_SECONDS)
            requests([infer] * clients, image, seconds=SETTLE_SECONDS)  # brings it back into the caches
            seconds, latencies = requests([infer] * clients, image, seconds=suite.seconds)
            rows[name]["rounds"].append(
                {"seconds": round(seconds, 4), "ms": [float(f"{1000 * each:.4g}") for each in latencies]}
            )
    return list(rows.values())


def requests(servers: Sequence[Callable[[Tensor], Any]], image: Tensor, *, seconds: float) -> tuple[float, list[float]]:
    """Have a client for each of `servers` send images for some seconds, each at least one.

    Returns:
        The seconds from the start to the last answer, and those from each request to its answer.
    """
    start = threading.Barrier(len(servers))

    def client(server: Callable[[Tensor], Any]) -> tuple[float, float, list[float]]:
        start.wait()
        latencies, began = [], time.perf_counter()
        now = began
        while not latencies or now < began + seconds:
            server(image)
            latencies.append(time.perf_counter() - now)
            now += latencies[-1]
        return began, now, latencies

    with ThreadPoolExecutor(len(servers)) as pool:
        began, ended, latencies = zip(*pool.map(client, servers), strict=True)
    return max(ended) - min(began), [each for of_client in latencies for each in of_client]


def table(result: dict[str, Any]) -> str:
    """In Markdown: a line for each network and server, and the figures under each number of clients."""
    clients = result["clients"]
    lines: dict[tuple[str, str], list[str]] = {}
    for row in result["rows"]:
        if "error" not in row:
            lines.setdefault((row["network"], row["server"]), []).append(figures(row["rounds"]))
    head = ("network", "server", *(f"{count} clients" if count > 1 else "1 client" for count in clients))
    where = result["environment"]
    text = (
        f"{where['cpu']}, {where['threads']} threads, torch {where['torch']}; load before: {result['load_before']}. "
        "Images a second; milliseconds from request to answer, median and 99th percentile.\n\n"
        f"{markdown([head, *((*key, *cells) for key, cells in lines.items())])}"
    )
    failed = (row for row in result["rows"] if "error" in row)
    return text + "".join(f"\n\n{row['network']}, {row['server']}: {row['error']}" for row in failed)


def figures(rounds: Sequence[dict[str, Any]]) -> str:
    """Requests a second over all rounds, and the median and the 99th percentile of all latencies."""
    latencies = sorted(each for turn in rounds for each in turn["ms"])
    per_second = len(latencies) / sum(turn["seconds"] for turn in rounds)
    median, late = (latencies[int(share * (len(latencies) - 1))] for share in (0.5, 0.99))
    return f"{per_second:.1f}/s, {median:.1f}, {late:.1f}"
