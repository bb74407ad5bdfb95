"""What is known of a network of open_clip's before its weights are read."""

import hashlib

import torch

from fastvit.trained import Options, find_trained

NAME = "open_clip:MobileCLIP2-S0"


def test_weights_come_from_open_clip_s_hub_or_from_a_file_as_it_is_named(tmp_path):
    """Also from one in whose path another library has its name."""
    file = tmp_path / "timm's" / "weights.pt"
    file.parent.mkdir()
    torch.save({}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert find_trained(NAME, Options(checkpoint=file)).weights == f"weights.pt, sha256 {digest}"
    assert find_trained(f"{NAME}.dfndr2b").weights == f"open_clip's hub, {NAME}.dfndr2b"
