"""Data that timm and torchvision do not already have, and what they lack in error messages."""
