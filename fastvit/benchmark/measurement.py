"""One thing to measure, and what there is to say if it cannot be."""

from dataclasses import dataclass

from fastvit.benchmark.suite import Form, Network


@dataclass(frozen=True)
class Measurement:
    """One network in one form at one batch and image size."""

    network_name: str
    form_name: str
    network: Network
    form: Form
    batch_size: int


@dataclass(frozen=True)
class Failure:
    """Why something could not be measured, in one line, and where."""

    reason: str
    trace: str
