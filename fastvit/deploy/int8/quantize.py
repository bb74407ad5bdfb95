"""Quantise a classifier to int8: find what to leave in float, compare with float, and refuse what is not good."""

import math
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastvit.compare import relative_error
from fastvit.deploy.card import Card
from fastvit.deploy.export import describe
from fastvit.deploy.files import explained, placed_when_done, require_free, require_space
from fastvit.deploy.formats import get_format
from fastvit.deploy.formats.format import Format
from fastvit.deploy.int8.engines import Nncf, OnnxRuntimeQdq, Quantizer, XnnpackPt2e
from fastvit.deploy.int8.images import Samples
from fastvit.deploy.int8.litert import AiEdge
from fastvit.deploy.int8.measure import Comparison, as_run, compare_precisions, logits_of
from fastvit.deploy.int8.sensitivity import layer_errors
from fastvit.deploy.request import Request, make_request
from fastvit.deploy.runtimes.run import Run, Settings, plain_mode
from fastvit.deploy.sidecar import Sidecar, write_sidecar
from fastvit.errors import ExportError

QUANTIZERS: dict[str, Quantizer] = {each.format: each for each in (Nncf(), OnnxRuntimeQdq(), XnnpackPt2e(), AiEdge())}
FLOAT_LAYERS = (0, 2, 4, 6, 8)  # of the most sensitive layers, this many are left in float, one try after the other
GOOD_ENOUGH = 0.03  # relative L2 error on the calibration images that ends the tries
SENSITIVITY_IMAGES = 32


def quantize(
    model: nn.Module,
    path: str | Path,
    calibration: Samples,
    validation: Samples,
    *,
    format: str,
    card: Card,
    min_agreement: float = 98.0,
    max_top1_loss: float = 1.0,
    overwrite: bool = False,
) -> Sidecar:
    """Fuse and quantise a classifier, one image at a time, and measure it beside float32 and bfloat16.

    Which layers stay in float is decided on the calibration images; nothing is chosen on the validation images.

    Args:
        model: (B, C, H, W) -> (B, classes); it is left as it is.
        path: where to; `~` is the home.
        calibration, validation: different images. Those to calibrate on are kept in memory.
        format: a name in `QUANTIZERS`.
        card: what belongs to the network, as in `fastvit.deploy.export`.
        min_agreement: least percentage of validation images with the same class as in float32.
        max_top1_loss: most points of top-1 that may be lost, of the images that have labels.
        overwrite: replace what is there.

    Returns:
        What the JSON file beside it says; its "verification" is the comparison.

    Raises:
        UserError: it cannot be done, or the result falls below these bounds. Then nothing is written.
    """
    path, kind = Path(path).expanduser(), get_format(format)
    if format not in QUANTIZERS:
        raise ExportError(f"int8 is for {', '.join(QUANTIZERS)}, not for {format}")
    quantizer = QUANTIZERS[format]
    kind.require()
    quantizer.require()
    require_free(path, kind, overwrite=overwrite)
    with plain_mode(), placed_when_done(path, kind) as draft:
        images = calibration.images()
        request = make_request(model, images[:1], limits=kind.limits, card=card, depthwise=kind.depthwise)
        require_space(draft.parent, request)
        tries = _quantize_until_good(quantizer, kind, request, images, draft)
        with explained(f"the int8 file of {kind.name} cannot be measured", draft.parent, request):
            comparison = compare_precisions(kind, request, draft, validation)
        _require_good(comparison, min_agreement, max_top1_loss)
        sidecar = describe(kind, request, draft)
        sidecar["versions"] |= quantizer.versions()
        sidecar["quantization"] = {"method": quantizer.method, "calibration_images": len(images), **tries}
        sidecar["verification"] = {
            "runtime": kind.runtime,
            "min_agreement": min_agreement,
            "max_top1_loss": max_top1_loss,
            **comparison.to_dict(),
        }
        write_sidecar(sidecar, draft)
    return sidecar


def _quantize_until_good(
    quantizer: Quantizer, kind: Format, request: Request, images: Tensor, draft: Path
) -> dict[str, Any]:
    """Write the first result that is good enough, or else the best one. Returns what was tried."""
    errors = layer_errors(request.network, images[:SENSITIVITY_IMAGES])
    expected = _logits(as_run(request.network), images)
    tries: dict[int, float] = {}

    def attempt(count: int) -> float:
        with explained(f"{quantizer.method} failed", draft.parent, request):
            quantizer.quantize(request, images, list(errors)[:count], draft)
            return relative_error(_logits(kind.load(draft, Settings()), images), expected)

    for count in FLOAT_LAYERS:
        tries[count] = attempt(count)
        if tries[count] <= GOOD_ENOUGH:
            break
    best = min(tries, key=lambda count: (math.isnan(tries[count]), tries[count]))
    if best != count:
        attempt(best)
    return {
        "float_layers": [name.removeprefix("network.") for name in list(errors)[:best]],
        "error_on_calibration_images_by_float_layers": {str(number): error for number, error in tries.items()},
        "most_sensitive_layers": {
            name.removeprefix("network."): error for name, error in list(errors.items())[: FLOAT_LAYERS[-1]]
        },
    }


def _logits(run: Run, images: Tensor) -> Tensor:
    return logits_of({"": run}, ((image[None], 0) for image in images))[0][""]


def _require_good(comparison: Comparison, min_agreement: float, max_top1_loss: float) -> None:
    full, _, quantized = comparison.rows
    if quantized.agreement < min_agreement:
        raise ExportError(
            f"int8 predicts the same class as float32 on {quantized.agreement:.1f} % of the validation images, less "
            f"than {min_agreement:g} %: not good, nothing was written"
        )
    if full.top1 is not None and full.top1 - quantized.top1 > max_top1_loss:
        raise ExportError(
            f"int8 loses {full.top1 - quantized.top1:.1f} points of top-1 ({full.top1:.1f} to {quantized.top1:.1f}) on "
            f"{comparison.labelled} labelled images, more than {max_top1_loss:g}: not good, nothing was written"
        )
