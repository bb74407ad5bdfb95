"""Preprocessing as an ONNX graph: from an RGB image of any size to a network's input, bit for bit as Pillow makes it.

Pillow resizes one axis after the other. A pixel of the result is a sum of some pixels with weights in 22-bit fixed
point, and is rounded to 8 bits. Here each axis is a product with the matrix of those weights, which the graph makes
from the size of the image. All operations are ones that every runtime of ONNX has. ONNX's own `Resize` with
antialiasing is not one: OpenVINO ignores the antialiasing, and WebGPU and TensorRT refuse it.

A sum in fixed point takes 30 bits, and float32 has 24: the weights are split into upper and lower 11 bits, which leaves
two sums that float32 holds without rounding.
"""

import math

import onnx
from onnx import ModelProto, compose
from onnxscript import FLOAT, UINT8, OnnxFunction, optimizer, script
from onnxscript import opset20 as op

from fastvit.data.preprocessing import CENTER, Preprocessing
from fastvit.data.whole_image import ResizeBox, WholeImage
from fastvit.errors import ExportError

INT64, DOUBLE, FLOAT32 = onnx.TensorProto.INT64, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT
ONE = float(1 << 22)  # Pillow's PRECISION_BITS
UPPER = float(1 << 11)  # what one of the upper bits is worth in lower ones
HALF = float(1 << 10)  # added before bits are cut off, in upper ones


@script(default_opset=op)
def bicubic(t):
    """Weight at the distance `t`, with a = -1/2."""
    near = (1.5 * t - 2.5) * t * t + 1.0
    far = ((2.5 - 0.5 * t) * t - 4.0) * t + 2.0
    return op.Where(t < 1.0, near, op.Where(t < 2.0, far, 0.0 * t))


@script(default_opset=op)
def bilinear(t):
    """Weight at the distance `t`."""
    return op.Max(1.0 - t, 0.0 * t)


KERNELS = {"bicubic": (bicubic, 2), "bilinear": (bilinear, 1)}  # and how far they reach to each side


def resampling(kernel: OnnxFunction, support: int, block: int) -> OnnxFunction:
    """Resizing of one axis.

    A matrix for the whole axis would be nearly all zeros. `block` neighbours in the result share one small matrix, on
    the part of the axis that they see.
    """
    width, last = 2.0 * support, block - 1.0

    @script(default_opset=op)
    def resample(pixels, length, resized, first, count):
        """(length, n) in uint8 or float32 -> (count, n): of `resized` pixels those from `first` on, from 0 to 255."""
        scale = op.Cast(length, to=DOUBLE) / op.Cast(resized, to=DOUBLE)
        coarser = op.Max(length, resized)
        spread = op.Cast(coarser, to=DOUBLE) / op.Cast(resized, to=DOUBLE)
        seen = op.Cast(op.Ceil(last * scale + width * spread), to=INT64) + 1

        rows = (count + (block - 1)) / block * block
        row = first + op.Reshape(op.Range(0, rows, 1), op.Constant(value_ints=[-1, block, 1]))  # (blocks, block, 1)
        center = (op.Cast(op.Slice(row, [0], [1], [1]), to=DOUBLE) + 0.5) * scale
        begin = op.Cast(op.Floor(center - support * spread), to=INT64)
        position = begin + op.Range(0, seen, 1)  # (blocks, 1, seen)
        # The distance of both pixels' centers on a grid as fine as both: integers, so that only the division rounds.
        apart = op.Abs((2 * position + 1) * resized - (2 * row + 1) * length)
        weight = kernel(op.Cast(apart, to=DOUBLE) / op.Cast(2 * coarser, to=DOUBLE))
        weight = op.Where(op.And(position >= 0, position < length), weight, 0.0 * weight)
        weight = op.Round(weight / op.ReduceSum(weight, [2]) * ONE)
        upper = op.Round(weight / UPPER)
        lower = weight - upper * UPPER
        matrix = op.Cast(op.Concat(upper, lower, axis=1), to=FLOAT32)  # (blocks, 2 * block, seen)

        index = op.Squeeze(op.Clip(position, 0, length - 1), [1])
        values = op.Cast(op.Gather(pixels, index, axis=0), to=FLOAT32)  # (blocks, seen, n)
        uppers, lowers = op.Split(op.MatMul(matrix, values), axis=1, num_outputs=2)
        result = op.Floor((uppers + op.Floor(lowers / UPPER) + HALF) / UPPER)
        result = op.Reshape(op.Clip(result, 0.0, 255.0), op.Concat(rows, [-1], axis=0))
        return op.Slice(result, [0], count, [0])

    return resample


def preprocessing_graph(preprocessing: Preprocessing | WholeImage) -> ModelProto:
    """A model from `image`, uint8 (H, W, 3) of any size, to `pixels`, float32 (1, 3, height, width), normalized.

    Raises:
        ExportError: this preprocessing is not a resize by Pillow's bilinear or bicubic and a crop of the center.
    """
    is_whole = isinstance(preprocessing, WholeImage)
    if not is_whole and preprocessing.crop_mode != CENTER:
        raise ExportError(
            f"only a crop of the center can be inside a file, and this network's crop_mode is "
            f"{preprocessing.crop_mode}: export onnx or openvino with --preprocessing outside"
        )
    kernel = "bilinear" if is_whole else preprocessing.interpolation
    if kernel not in KERNELS:
        how = kernel or "in a way of the task"
        raise ExportError(f"preprocessing inside needs images resized by {' or '.join(KERNELS)}, not {how}")
    place = whole_in(preprocessing.box) if is_whole else cropped(preprocessing)
    resample = resampling(*KERNELS[kernel], block=16)
    mean, std = (list(values) for values in (preprocessing.mean, preprocessing.std))

    @script(default_opset=op)
    def graph(image: UINT8[None, None, 3]) -> FLOAT[1, 3, None, None]:
        height, width = op.Shape(image, start=0, end=1), op.Shape(image, start=1, end=2)
        new_height, new_width, top, left, high, wide = place(height, width)
        # Transposing is quick as long as it is two-dimensional.
        columns = op.Transpose(op.Reshape(image, [0, -1]), perm=[1, 0])  # (W * 3, H)
        columns = op.Reshape(columns, op.Concat(width, [-1], axis=0))
        columns = resample(columns, width, new_width, left, wide)  # (wide, H * 3)
        rows = op.Transpose(op.Reshape(columns, op.Concat([-1], height, axis=0)), perm=[1, 0])
        rows = resample(rows, height, new_height, top, high)  # (high, wide * 3)
        colors = op.Transpose(op.Reshape(rows, op.Concat([1], high, wide, [3], axis=0)), perm=[0, 3, 1, 2])
        each = op.Constant(value_ints=[1, 3, 1, 1])
        shift = op.Reshape(op.Constant(value_floats=mean), each)
        scale = op.Reshape(op.Constant(value_floats=std), each)
        pixels = (colors / 255.0 - shift) / scale
        return pixels  # noqa: RET504 - the name of the output

    return optimizer.optimize(graph.to_model_proto())


def cropped(preprocessing: Preprocessing) -> OnnxFunction:
    """(height, width) -> the resized (height, width), and (top, left, height, width) of the crop in it."""
    crop = preprocessing.height, preprocessing.width
    high, wide = crop
    target = [math.floor(side / preprocessing.crop_pct) for side in crop]
    resized = shorter_side_to(target[0]) if target[0] == target[1] else to_cover(*target)

    @script(default_opset=op)
    def place(height, width):
        new_height, new_width = resized(height, width)
        crop_height, crop_width = op.Constant(value_ints=[high]), op.Constant(value_ints=[wide])
        top, left = centered(new_height, crop_height), centered(new_width, crop_width)
        return new_height, new_width, top, left, crop_height, crop_width

    return place


@script(default_opset=op)
def centered(resized, crop):
    """Where a centered crop begins, halves to the even side, as Python rounds."""
    return op.Cast(op.Round(op.Cast(resized - crop, to=DOUBLE) / 2.0), to=INT64)


def shorter_side_to(side: int) -> OnnxFunction:
    """Both sides resized so that the shorter one is `side`, cut off to whole pixels: torchvision's `Resize`."""

    @script(default_opset=op)
    def resized(height, width):
        shorter = op.Min(height, width)
        return height * side / shorter, width * side / shorter

    return resized


def to_cover(target_height: int, target_width: int) -> OnnxFunction:
    """Both sides resized so that they just cover the target, rounded: timm's `ResizeKeepRatio`."""
    down, across = float(target_height), float(target_width)

    @script(default_opset=op)
    def resized(height, width):
        height, width = op.Cast(height, to=DOUBLE), op.Cast(width, to=DOUBLE)
        ratio = op.Min(height / down, width / across)
        return op.Cast(op.Round(height / ratio), to=INT64), op.Cast(op.Round(width / ratio), to=INT64)

    return resized


def whole_in(box: ResizeBox) -> OnnxFunction:
    """As `cropped`, of all of the image."""
    short, long, divisor = float(box.short or 0), float(box.long), box.divisor

    @script(default_opset=op)
    def fitted(side, factor):
        rounded = op.Cast(op.Round(op.Cast(side, to=DOUBLE) * factor), to=INT64)
        return op.Max((rounded + (divisor - 1)) / divisor, 1) * divisor

    @script(default_opset=op)
    def fitting(height, width):
        shorter, longer = op.Cast(op.Min(height, width), to=DOUBLE), op.Cast(op.Max(height, width), to=DOUBLE)
        return op.Min(short / shorter, long / longer)

    @script(default_opset=op)
    def unchanged(height, width):
        return op.Cast(op.Constant(value_float=1.0), to=DOUBLE)

    factor_of = unchanged if box.short is None else fitting

    @script(default_opset=op)
    def place(height, width):
        factor = factor_of(height, width)
        high, wide = fitted(height, factor), fitted(width, factor)
        zero = 0 * high
        return high, wide, zero, zero, high, wide

    return place


def joined(preprocessing: ModelProto, network: ModelProto) -> ModelProto:
    """A network, whose input is one normalized image, behind the graph of its preprocessing."""
    before = compose.add_prefix(preprocessing, "preprocessing/", rename_inputs=False)
    before.ir_version = network.ir_version
    before.opset_import[0].version = max(entry.version for entry in network.opset_import if entry.domain == "")
    return compose.merge_models(before, network, [(before.graph.output[0].name, network.graph.input[0].name)])
