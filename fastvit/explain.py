"""Where a classifier looks: Grad-CAM (Selvaraju et al., ICCV 2017, arXiv 1610.02391, equations 1 and 2).

The map of a class is the sum of the channels of the last features, each weighted by how much the score of the class
grows with it on average, without what is negative. It is as coarse as these features: of FastViT, a cell for 32 x 32
pixels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvit.errors import RunError

OPACITY = 0.7  # of the color where the most is; where nothing is, the image alone is seen
COLORS = ((1.0, 1.0, 0.5), (1.0, 0.8, 0.0), (1.0, 0.0, 0.0))  # of nothing, half, and the most


def grad_cam(network: nn.Module, images: Tensor, classes: Sequence[int] | None = None) -> Tensor:
    """Where in each image the network sees a class.

    Args:
        network: a classifier in eval mode with `forward_features` and `forward_head`, as all of timm's have, fused or
            not. Only what follows the features is differentiated, so that it needs no more memory than a prediction.
        images: (B, 3, H, W), as the network takes them.
        classes: one for each image; by default the most probable.

    Returns:
        (B, H, W), from 0 to 1, where the most important place of each image is 1; 0 everywhere in an image of which
        nothing speaks for the class.

    Raises:
        RunError: the network is no such classifier, or its last features have no places.
    """
    if not hasattr(network, "forward_features") or not hasattr(network, "forward_head"):
        raise RunError("Grad-CAM is for classifiers, and for no exported file, which has no gradients")
    with torch.inference_mode(False), torch.enable_grad():
        with torch.no_grad():
            features = network.forward_features(images.clone())  # (B, C, h, w)
        channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        if features.ndim != 4:
            raise RunError(f"Grad-CAM needs features with places, and those of {type(network).__name__} have none")
        if max(features.shape[1:3] if channels_last else features.shape[2:]) == 1:
            size = " x ".join(map(str, images.shape[2:]))
            raise RunError(f"Grad-CAM: of an image of {size} px the last features are a single cell: give larger ones")
        features.requires_grad_()
        scores = network.forward_head(features)  # (B, classes)
        chosen = scores.argmax(1) if classes is None else torch.as_tensor(classes, device=scores.device)
        (gradients,) = torch.autograd.grad(scores.gather(1, chosen[:, None]).sum(), features)
        if channels_last:
            features, gradients = features.permute(0, 3, 1, 2), gradients.permute(0, 3, 1, 2)
        weights = gradients.mean((2, 3), keepdim=True)  # equation 1
        maps = (weights * features).sum(1, keepdim=True).relu()  # equation 2: (B, 1, h, w)
        return _spread(maps.detach().float(), images.shape[-2:])


def _spread(maps: Tensor, size: Sequence[int]) -> Tensor:
    """From the size of the features to that of the images, the largest value of each 1."""
    maps = F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)[:, 0]
    most = maps.amax((1, 2), keepdim=True)
    return torch.where(most > 0, maps / most, 0)


def heated(images: Tensor, maps: Tensor) -> Tensor:
    """The images, with more yellow and then red the more a place counts: (..., 3, H, W), colors from 0 to 1.

    Args:
        images: (..., 3, H, W), colors from 0 to 1.
        maps: (..., H, W), from 0 to 1.
    """
    shares = (1 - (2 * maps[..., None] - torch.arange(3, device=maps.device)).abs()).clamp(min=0)  # of the two nearest
    colors = (shares @ torch.tensor(COLORS, device=maps.device)).movedim(-1, -3)
    return torch.lerp(images, colors, OPACITY * maps[..., None, :, :])
