"""What data has to say is told in few sentences."""

from fastvit.data.notices import LeftOut, sentences


def test_what_is_left_out_for_one_reason_is_one_sentence():
    bad = [LeftOut("bad", f"{i}.png") for i in range(5)]
    said = sentences([bad[0], "a table without splits", LeftOut("no image", "notes.txt"), *bad[1:]])
    assert said == [
        "a table without splits",
        "bad: 5, such as 0.png, 1.png, 2.png and 2 more",
        "no image: 1, such as notes.txt",
    ]
    assert sentences([]) == []
