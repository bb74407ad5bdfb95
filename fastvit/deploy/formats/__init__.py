"""The formats that a network can be exported to, one in each file."""

from pathlib import Path

from fastvit.deploy.formats.aot_inductor import AotInductor
from fastvit.deploy.formats.coreml import CoreMl
from fastvit.deploy.formats.executorch import ExecuTorch
from fastvit.deploy.formats.format import Format
from fastvit.deploy.formats.image_input import OnnxImage, OpenVinoImage
from fastvit.deploy.formats.litert import LiteRt
from fastvit.deploy.formats.onnx import Onnx
from fastvit.deploy.formats.openvino import OpenVino
from fastvit.deploy.formats.safetensors import SafeTensors
from fastvit.deploy.formats.timm_folder import TimmFolder
from fastvit.deploy.formats.torch_export import TorchExport
from fastvit.deploy.formats.web import Web
from fastvit.errors import ExportError, nearest

FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        Onnx(),
        OnnxImage(),
        TorchExport(),
        AotInductor(),
        OpenVino(),
        OpenVinoImage(),
        SafeTensors(),
        ExecuTorch(),
        CoreMl(),
        LiteRt(),
        Web(),
        TimmFolder(),
    )
}


def get_format(name: str) -> Format:
    """The format of that name; raises ExportError."""
    if name not in FORMATS:
        raise ExportError(f"there is no format {name!r}, but {', '.join(FORMATS)}{nearest(name, FORMATS)}")
    return FORMATS[name]


def format_of(path: Path) -> Format:
    """The format with the suffix of a path, of several the first in `FORMATS`; raises ExportError."""
    # The longest first: .exported.pt2 also ends in .pt2.
    for each in sorted(FORMATS.values(), key=lambda each: -len(each.suffix)):
        if path.name.endswith(each.suffix):
            return each
    suffixes = ", ".join(f"{each.suffix} ({each.name})" for each in FORMATS.values())
    raise ExportError(f"the suffix of {path} is none of {suffixes}")
