"""A program for test_ecosystem.py: timm, transformers and open_clip where fastvit is not imported, or only afterwards.

Reads from the given folder what fastvit's networks were saved to, and writes there what timm's built-in networks are
saved to and compute.
"""

import json
import sys
from pathlib import Path

import open_clip
import timm
import torch
from timm.models import save_for_hf
from torch import nn
from transformers import FastVlmConfig, FastVlmForConditionalGeneration, TimmWrapperForImageClassification

assert "fastvit" not in sys.modules
folder = Path(sys.argv[1])
images = torch.load(folder / "images.pt")


def close(a, b, bound=1e-5):
    assert (a - b).norm() < bound * b.norm(), f"they differ by {(a - b).norm() / b.norm()}"


def without_model_args(folder):
    """timm 1.0.31 writes the number of classes twice, and transformers 5.24 passes it on twice."""
    config = json.loads((folder / "config.json").read_text())
    del config["model_args"]
    (folder / "config.json").write_text(json.dumps(config))


def randomize(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
        elif hasattr(module, "gamma"):
            nn.init.uniform_(module.gamma, 0.1, 0.5)
    return model.eval()


def fast_vlm():
    """The smallest encoder, in the form that FastVLM is published in, and a language model of one layer."""
    vision = {
        "model_type": "timm_wrapper",
        "architecture": "fastvit_mci0",
        "hidden_size": 1024,
        "do_pooling": True,
        "model_args": {"inference_mode": True},
    }
    text = {
        "model_type": "qwen2",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 64,
    }
    config = FastVlmConfig(vision_config=vision, text_config=text, image_token_index=3, image_seq_length=4)
    return FastVlmForConditionalGeneration(config)


@torch.no_grad()
def answer(model):
    tokens = torch.tensor([[3, 3, 3, 3, 5, 6]] * len(images))
    return model.eval()(input_ids=tokens, pixel_values=images).logits


@torch.no_grad()
def embed(model):
    return torch.cat([model.encode_image(images), model.encode_text(torch.arange(2 * 77).reshape(2, 77))])


torch.manual_seed(0)
with torch.no_grad():
    expected = torch.load(folder / "logits.pt")
    model = timm.create_model("fastvit_t8", num_classes=5).eval()
    model.load_state_dict(torch.load(folder / "ours.pt"), strict=True)
    close(model(images), expected)
    close(timm.create_model(f"local-dir:{folder / 'ours'}", pretrained=True).eval()(images), expected)
    wrapper = TimmWrapperForImageClassification.from_pretrained(folder / "ours_transformers").eval()
    close(wrapper(images).logits, expected)

    torch.save(model.state_dict(), folder / "theirs.pt")
    torch.save(model, folder / "theirs.pickle")
    save_for_hf(model, folder / "theirs")
    without_model_args(folder / "theirs")
    clip = randomize(open_clip.create_model("MobileCLIP2-S0"))
    torch.save({"state_dict": clip.state_dict(), "embeddings": embed(clip)}, folder / "clip.pt")
    vlm = randomize(fast_vlm())
    vlm.save_pretrained(folder / "vlm")
    torch.save(answer(vlm), folder / "answer.pt")

import fastvit  # noqa: E402 - after all these were made

for whole, tower, run in (
    (model, "", lambda model: model(images)),
    (wrapper, "timm_model.", lambda model: model(images).logits),
    (clip, "visual.", embed),
    (vlm, "model.vision_tower.", answer),
):
    fused = fastvit.reparameterize_model(whole)
    kinds = {type(module).__name__ for module in fused.modules()}
    assert not [kind for kind in kinds if "BatchNorm" in kind or "LayerScale" in kind], kinds
    with torch.no_grad():
        close(run(fused), run(whole), 1e-4)
    rest = fused.state_dict()
    for name, tensor in whole.state_dict().items():
        assert name.startswith(tower) or torch.equal(rest[name], tensor), name
