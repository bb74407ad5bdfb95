"""Pictures of label maps."""

import torch

from fastvit.tasks.segmentation.masks import UNLABELLED
from fastvit.tasks.segmentation.picture import class_colors, overlay


def test_the_overlay_colors_labels_and_leaves_the_rest():
    image, labels = torch.rand(3, 4, 4), torch.zeros(4, 4, dtype=torch.uint8)
    labels[0] = UNLABELLED
    labels[1] = 2
    colors = class_colors(3)
    painted = overlay(image, labels, colors)
    torch.testing.assert_close(painted[0], image[:, 0].T)
    torch.testing.assert_close(painted[1], 0.4 * image[:, 1].T + 0.6 * torch.tensor(colors[2]) / 255)


def test_colors_of_150_classes_differ():
    colors = torch.tensor(class_colors(150), dtype=torch.float32)
    assert torch.pdist(colors).min() >= 3
