"""timm's built-in FastViT made ours, wherever it sits."""

import copy
import pickle
import re
import warnings

import pytest
import timm
import timm.models.fastvit as builtin
import torch
from timm.layers import ConvNormAct, convert_sync_batchnorm
from timm.utils.model import freeze_batch_norm_2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import fastvit
from fastvit import from_timm, fusion_error, reparameterize_model
from reference import randomize, relative_error, small


def theirs(variant="fastvit_sa12", **kwargs):
    options = small(variant)
    kwargs = {"num_classes": 5, "layers": options["depths"], "embed_dims": options["dims"], **kwargs}
    return randomize(getattr(builtin, variant)(**kwargs)).eval()


def leftovers(model):
    """What complete fusing leaves none of."""
    names = ("BatchNorm", "LayerScale", "RepMixer", "MobileOneBlock", "ConvNormAct")
    kinds = [type(module).__name__ for module in model.modules()]
    return [kind for kind in kinds if any(name in kind for name in names) and not kind.endswith("RepMixerBlock")]


def fuse(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return reparameterize_model(model)


@pytest.mark.parametrize("variant", ["fastvit_t8", "fastvit_sa12", "fastvit_mci2", "fastvit_mci3"])
def test_the_network_becomes_ours_weight_for_weight(variant):
    model = theirs(variant, drop_path_rate=0.1)
    model.stem.requires_grad_(False)
    ours = from_timm(model)
    assert type(ours) is fastvit.FastViT
    assert {type(module).__module__.split(".")[0] for module in ours.stages.modules()} <= {"fastvit", "torch", "timm"}
    assert not [m for m in ours.modules() if type(m).__module__ == builtin.__name__]
    assert list(ours.state_dict()) == list(model.state_dict())
    assert all(map(torch.equal, ours.state_dict().values(), model.state_dict().values()))
    assert [p.requires_grad for p in ours.parameters()] == [p.requires_grad for p in model.parameters()]
    assert ours.feature_info == model.feature_info
    kinds = {name: type(module) for name, module in ours.named_modules()}
    made = timm.create_model(variant, num_classes=5, drop_path_rate=0.1, **small(variant))
    assert all(kinds[name] is type(m) for name, m in made.named_modules() if not isinstance(m, timm.layers.DropPath))
    x = torch.randn(2, 3, 64, 64).double()
    for network in (ours.double(), model.double()):
        network.train()
        for module in network.modules():
            if isinstance(module, timm.layers.DropPath):
                module.drop_prob = 0.0
    assert relative_error(ours(x), model(x)) < 1e-12
    assert relative_error(ours.eval()(x), model.eval()(x)) < 1e-12


def test_what_is_ours_or_another_s_stays():
    ours = fastvit.RepMixer(8)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), ours, ConvNormAct(8, 8), nn.Linear(2, 2))
    again = from_timm(model)
    assert [type(part) for part in again] == [nn.Conv2d, fastvit.RepMixer, ConvNormAct, nn.Linear]
    assert again[1] is not ours, "a copy"


def _with_a_head_of_one_s_own(model):
    model.head = nn.Identity()
    return model


PLACES = {
    "alone": lambda: theirs(),
    "unpickled": lambda: pickle.loads(pickle.dumps(theirs())),
    "within a model": lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.ModuleDict({"a": theirs()})["a"], nn.Tanh()),
    "features_only": lambda: theirs(features_only=True),
    "a getter of features": lambda: theirs("fastvit_mci0", features_only=True, feature_cls="getter"),
    "fused by timm": lambda: timm.utils.reparameterize_model(theirs("fastvit_mci3")),
    "made fused": lambda: theirs("fastvit_mci0", inference_mode=True),
    "frozen batch norms": lambda: freeze_batch_norm_2d(theirs()),
    "synchronized batch norms": lambda: convert_sync_batchnorm(theirs()),
    "other activations": lambda: theirs(act_layer=nn.ReLU),
    "a head of one's own": lambda: _with_a_head_of_one_s_own(theirs()),
    "no layer scale": lambda: theirs(layer_scale_init_value=None),
    "a stage": lambda: nn.Sequential(nn.Conv2d(3, 256, 1), theirs().stages[3]),
    "a block": lambda: nn.Sequential(nn.Conv2d(3, 64, 1), theirs().stages[0].blocks[0]),
}


@pytest.mark.parametrize("place", PLACES)
def test_it_fuses_completely(place):
    model = PLACES[place]().eval()
    before = copy.deepcopy(model.state_dict())
    fused = fuse(model)
    assert not leftovers(fused)
    assert fusion_error(model, fused, (3, 64, 64)) < 1e-5
    assert all(map(torch.equal, model.state_dict().values(), before.values())), "the original is untouched"


def test_what_stands_around_the_blocks_may_be_different():
    """Detection in timm's own code: a batch norm on the output of each stage."""
    model = theirs(fork_feat=True)
    fused = fuse(model)
    assert leftovers(fused) == ["BatchNorm2d"] * 4
    assert fusion_error(model, fused, (3, 64, 64)) < 1e-5


def test_it_fuses_to_the_same_as_ours():
    model = theirs()
    ours = timm.create_model("fastvit_sa12", num_classes=5, **small("fastvit_sa12"))
    ours.load_state_dict(model.state_dict())
    a, b = fuse(ours).state_dict(), fuse(model).state_dict()
    assert list(a) == list(b)
    assert all(map(torch.equal, a.values(), b.values()))


def test_the_rest_of_a_model_stays_bit_for_bit():
    """Also what is made of the same parts as FastViT: timm's ConvNormAct is everywhere."""
    neck = randomize(ConvNormAct(5, 6))
    model = nn.ModuleDict({"tower": theirs(), "neck": neck, "text": nn.Linear(4, 4)})
    fused = fuse(model)
    for name in ("neck", "text"):
        assert [type(m) for m in fused[name].modules()] == [type(m) for m in model[name].modules()]
        assert all(map(torch.equal, fused[name].state_dict().values(), model[name].state_dict().values()))


def _dropout(model):
    model.stages[0].blocks[0].mlp.drop.p = 0.1


def _another_part(model):
    model.stages[0].blocks[0].mlp.norm = nn.BatchNorm2d(3)


@pytest.mark.parametrize(("change", "reason"), [(_dropout, "has not: drop"), (_another_part, "has not: norm")])
def test_what_cannot_be_made_ours_is_named(change, reason):
    model = theirs()
    change(model)
    where = r"stages\.0\.blocks\.0\.mlp \(ConvMlp\)"
    with pytest.raises(ValueError, match=rf"{where} cannot be made fastvit's: .*{reason}"):
        from_timm(model)
    with pytest.warns(UserWarning, match="unfused") as caught:
        fused = reparameterize_model(model)
    messages = [str(warning.message) for warning in caught]
    assert re.match(rf"{where} is left unfused: .*{reason}", messages[0])
    (second,) = messages[1:]
    assert second.startswith("stages.0.blocks.0 (RepMixerBlock) is left unfused: ConvMlp has a forward of its own")
    assert fusion_error(model, fused, (3, 64, 64)) < 1e-5
    assert type(fused.stages[0].blocks[0].mlp) is builtin.ConvMlp


def test_a_block_whose_only_convolution_is_its_scale_is_left():
    """Without one, such a block is RepMixer's norm."""
    block = randomize(builtin.MobileOneBlock(8, 8, 3, group_size=1, num_conv_branches=0, use_act=False)).eval()
    with pytest.raises(ValueError, match="no convolution of its kernel size"):
        from_timm(block)
    with pytest.warns(UserWarning, match=r"the model \(MobileOneBlock\) is left unfused: it has no convolution"):
        fused = reparameterize_model(block)
    assert fusion_error(block, fused, (8, 8, 8)) < 1e-6


def test_hooks_and_replaced_parts_are_seen():
    model = theirs()
    model.stages[0].blocks[0].token_mixer.register_forward_hook(lambda module, args, output: 2 * output)
    model.stages[1].blocks[0].token_mixer.mixer.conv_scale.bn.act = nn.ReLU()
    model.stages[2].blocks[0].mlp.conv.bn.drop.register_forward_hook(lambda module, args, output: 2 * output)
    with pytest.warns(UserWarning, match="is left unfused") as caught:
        fused = reparameterize_model(model)
    assert len(caught) == 2
    assert fusion_error(model, fused, (3, 64, 64)) < 1e-5
    assert sum(isinstance(module, _BatchNorm) for module in fused.modules()) == 9, "of two RepMixers, and an FFN"
