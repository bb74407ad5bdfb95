"""Classification with several labels an image: each label is there or not, whatever the others are."""
