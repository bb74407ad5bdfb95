"""The demo of segmentation: scenes of digits with their label maps."""

from PIL import Image

from fastvit.data.digit_scenes import DigitScenes


class DigitLabelMaps(DigitScenes):
    """Pairs of an image and its label map (mode L); `fastvit.data.digit_scenes.CLASSES` names the labels."""

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        scene = super().__getitem__(index)
        return scene.image, Image.fromarray(scene.label_map().numpy())
