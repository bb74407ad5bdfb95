"""Boxes and legends on pictures of any size."""

import pytest
from PIL import Image

from fastvit.tasks.drawing import distinct_colors, draw_boxes, enlarged, with_legend


def test_small_pictures_are_enlarged_and_others_stay():
    small = Image.new("RGB", (64, 100))
    small.putpixel((10, 20), (255, 0, 0))
    picture, factor = enlarged(small)
    assert (picture.size, factor) == ((256, 400), 4)
    assert picture.getpixel((43, 83)) == (255, 0, 0)
    assert enlarged(Image.new("RGB", (300, 256)))[1] == 1
    assert enlarged(Image.new("RGB", (500, 1)))[0].size == (4000, 8)  # and not 128,000 wide
    assert enlarged(Image.new("RGB", (5000, 1)))[1] == 1


def test_a_frame_is_where_its_box_is_with_its_text_within_the_picture():
    picture = Image.new("RGB", (400, 300))
    color = (200, 30, 30)
    draw_boxes(picture, [(100.0, 80.0, 300.0, 200.0)], ["cat 0.93"], [color])
    for x, y in ((100, 150), (300, 150), (200, 80), (200, 200)):
        assert picture.getpixel((x, y)) == color
    assert picture.getpixel((200, 150)) == (0, 0, 0)
    above = picture.crop((100, 60, 180, 79)).getcolors()
    assert {color, (255, 255, 255)} <= {each for _, each in above}


@pytest.mark.parametrize("box", [(-20.0, -20.0, 50.0, 50.0), (390.0, 0.0, 420.0, 10.0), (50.0, 60.0, 50.0, 60.0)])
def test_a_box_at_the_edge_or_without_an_area_has_its_text(box: tuple[float, float, float, float]):
    picture = Image.new("RGB", (400, 300))
    draw_boxes(picture, [box], ["a rather long name of a class 0.93"], [(255, 255, 0)])
    colors = {color: count for count, color in picture.getcolors(100_000)}
    assert colors[255, 255, 0] > 1500
    assert len(colors) > 5  # letters, with smooth edges


def test_the_legend_goes_on_in_another_row_and_leaves_the_picture():
    picture = Image.new("RGB", (300, 200), "gray")
    colors = distinct_colors(24)
    whole = with_legend(picture, [(f"class number {i}", color) for i, color in enumerate(colors)])
    assert whole.crop((0, 0, 300, 200)).tobytes() == picture.tobytes()
    shown = {color for _, color in whole.crop((0, 200, *whole.size)).getcolors(100_000)}
    assert set(colors) <= shown
    assert whole.width == 300
    assert with_legend(picture, []).size == picture.size
