"""What every prediction has, whatever it says."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fastvit.predictor import Shown
from fastvit.tasks.classification.prediction import Classes
from fastvit.tasks.detection.prediction import Objects
from fastvit.tasks.hand_mesh.prediction import Hand
from fastvit.tasks.multi_label.prediction import Labels
from fastvit.tasks.segmentation.prediction import LabelMap

NAMES = tuple("abcdefg")
SIX_BOXES = torch.tensor([[1.0, 1, 5, 6]]).repeat(6, 1)
PREDICTIONS = (
    Classes(NAMES, torch.linspace(0, 1, 7).softmax(0)),
    Labels(NAMES, torch.linspace(0, 1, 7)),
    LabelMap(NAMES, torch.arange(64, dtype=torch.uint8).reshape(8, 8) % 7),
    Objects(NAMES, (8, 8), SIX_BOXES, torch.arange(1, 7), torch.linspace(1, 0, 6), torch.ones(6, 1, 28, 28)),
    Hand(*np.random.default_rng(0).random((2, 21, 3)), np.ones((21, 2)), np.array([1.0, 0, 0]), np.array([[0, 1, 2]])),
)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=lambda each: type(each).__name__)
def test_it_is_told_as_commands_tell_it_unless_asked_otherwise(prediction):
    """The five most probable classes, and the objects and labels of a score of at least one half."""
    usual = Shown(top=5, score=0.5)
    assert prediction.summary() == prediction.summary(usual)
    assert json.dumps(prediction.to_dict()) == json.dumps(prediction.to_dict(usual))
    assert prediction.rows() == prediction.rows(usual)
    image = Image.new("RGB", (8, 8))
    assert prediction.draw(image) == prediction.draw(image, usual)
