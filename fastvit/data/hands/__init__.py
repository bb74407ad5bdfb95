"""Hands: an articulated mesh model, MANO's and a synthetic one, and images with hands in them."""
