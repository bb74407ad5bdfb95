"""Data that several tasks share: images, folders of them, digits, scenes of digits, preprocessing."""
