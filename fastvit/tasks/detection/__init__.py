"""Detection, and instance segmentation: boxes and masks of objects. Needs the extra `detection`."""
