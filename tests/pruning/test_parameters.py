import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from lightning_classprune.pruning.parameters import select_parameters
from lightning_classprune.trainer.names import canonical, named_parameters

torch.set_num_threads(1)


class Net(nn.Module):
    """One of everything, with a name for each."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose1d(4, 2, 3)
        self.words = nn.Embedding(10, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.body = nn.Sequential(nn.Linear(4, 4, bias=False), nn.LayerNorm(4), nn.Linear(4, 6))
        self.scale = nn.Parameter(torch.ones(4, 4))
        self.head = nn.Linear(6, 2)


WEIGHTS = [
    "stem.weight",
    "up.weight",
    "attention.out_proj.weight",
    "body.0.weight",
    "body.2.weight",
    "head.weight",
]


def test_by_default_the_weights_of_convolutions_and_linear_layers():
    net = Net()
    chosen = select_parameters(net)
    assert list(chosen) == WEIGHTS
    assert chosen["stem.weight"] is net.stem.weight


@pytest.mark.parametrize(
    ("prunable", "expected"),
    [
        ("body.*", ["body.0.weight", "body.2.weight"]),
        (["body.*", "head.weight"], ["body.0.weight", "body.2.weight", "head.weight"]),
        (("head.weight", "stem.*"), ["stem.weight", "head.weight"]),  # in the order of the module
        ("!head.*", WEIGHTS[:-1]),
        (["body.*", "!body.0.weight"], ["body.2.weight"]),
        (["!*.?.weight", "!attention.*"], ["stem.weight", "up.weight", "head.weight"]),
        ([], WEIGHTS),
        ({"include": ["body.*"]}, ["body.0.weight", "body.2.weight"]),
        ({"include": "body.*", "exclude": "body.2*"}, ["body.0.weight"]),
        ({"exclude": ["head.*"]}, WEIGHTS[:-1]),
        ({"include": None, "exclude": None}, WEIGHTS),
        ({}, WEIGHTS),
    ],
)
def test_patterns_narrow_the_default(prunable, expected):
    assert list(select_parameters(Net(), prunable)) == expected


def test_a_predicate_replaces_the_default():
    chosen = select_parameters(Net(), lambda name, parameter: parameter.ndim == 2 and "weight" not in name)
    assert list(chosen) == ["scale"]
    assert "words.weight" in select_parameters(Net(), lambda name, _: name.startswith("words"))


@pytest.mark.parametrize(
    ("prunable", "message"),
    [
        (
            "bdoy.*",
            r"prunable: pattern 'bdoy.\*' matches no prunable parameter; there are stem.weight, up.weight",
        ),
        (["body.*", "!nothing"], "prunable: pattern 'nothing' matches no"),
        ("norm.weight", "prunable: pattern 'norm.weight' matches no"),
        ({"exclude": ["words.*"]}, r"prunable: pattern 'words.\*' matches no"),
        ({"includes": ["body.*"]}, r"prunable: unknown key \['includes'\]"),
        (5, "prunable=5 is neither patterns nor a predicate"),
        ([5], r"prunable: patterns must be strings, got \[5\]"),
        ({"exclude": [None]}, "prunable: patterns must be strings"),
        (lambda name, parameter: False, "leaves no trainable parameter to prune in Net"),
        (["body.*", "!*"], "leaves no trainable parameter to prune in Net"),
    ],
)
def test_what_selects_nothing_or_is_no_selection_is_refused(prunable, message):
    with pytest.raises(ValueError, match=message) as error:
        select_parameters(Net(), prunable)
    assert "prunable" in str(error.value)


def test_nothing_trainable_to_prune():
    with pytest.raises(ValueError, match="prunable=None leaves no trainable parameter to prune in Embedding"):
        select_parameters(nn.Embedding(3, 3))
    with pytest.raises(ValueError, match="unfreeze a convolution or linear layer"):
        select_parameters(Net().requires_grad_(False))


def test_frozen_weights_are_left_out_unless_they_will_be_unfrozen_or_a_predicate_asks():
    net = Net()
    net.stem.requires_grad_(False)
    assert list(select_parameters(net)) == WEIGHTS[1:]
    assert list(select_parameters(net, frozen=True)) == WEIGHTS
    assert list(select_parameters(net, lambda name, _: name == "stem.weight")) == ["stem.weight"]


def test_a_weight_that_two_modules_share_counts_once_under_its_first_name():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    assert list(select_parameters(net)) == ["0.weight"]
    assert list(named_parameters(net)) == ["0.weight", "0.bias", "2.bias"]


@pytest.mark.parametrize("linear_first", [True, False])
def test_a_weight_tied_to_a_module_of_another_kind_is_left_out(linear_first):
    head, words = nn.Linear(4, 10), nn.Embedding(10, 4)
    head.weight = words.weight
    net = nn.Sequential(*([head, words] if linear_first else [words, head]), nn.Linear(4, 4))
    assert list(select_parameters(net)) == ["2.weight"]


def test_a_parametrized_weight_is_no_parameter_of_its_layer():
    net = nn.Sequential(weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    assert list(select_parameters(net)) == ["1.weight"]


@pytest.mark.parametrize("frozen", [False, True])
def test_complex_weights_are_refused_by_name(frozen):
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, dtype=torch.complex64)).requires_grad_(not frozen)
    with pytest.raises(
        ValueError, match=r"prunable: `1.weight` has dtype torch.complex64.*prunable=\['!1.weight'\]"
    ):
        select_parameters(net, frozen=frozen)
    net.requires_grad_(True)
    assert list(select_parameters(net, ["!1.weight"])) == ["0.weight"]


def test_integer_weights_are_refused_by_name():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].weight = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"prunable: `0\.weight` has dtype torch\.int8"):
        select_parameters(net)


def test_lazy_weights_are_refused_by_name():
    with pytest.raises(ValueError, match=r"prunable: `1\.weight` is not initialized"):
        select_parameters(nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2)))


def test_names_do_not_depend_on_wrappers():
    assert canonical("net._orig_mod.body._fsdp_wrapped_module.0._checkpoint_wrapped_module.weight") == (
        "net.body.0.weight"
    )
    net = Net()
    plain = select_parameters(net)
    net.body = torch.compile(net.body)
    compiled = torch.compile(net)
    assert list(select_parameters(compiled)) == list(plain)
    assert all(select_parameters(compiled)[name] is plain[name] for name in plain)
    assert list(select_parameters(compiled, "body.0.*")) == ["body.0.weight"]
