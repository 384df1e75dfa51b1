import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from lightning_classprune.pruning.parameters import LAYERS, gates_of, select_parameters, tell_coverage
from lightning_classprune.trainer.names import canonical, named_parameters
from tests.support.witness import log_messages

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
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "body.0.weight",
    "body.2.weight",
    "head.weight",
]


def test_by_default_the_weights_of_the_layers_that_are_known():
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
    with pytest.raises(ValueError, match="unfreeze a convolution, linear, recurrent or attention layer"):
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


@pytest.mark.parametrize(
    ("layer", "gates"),
    [
        (nn.LSTM(3, 2), {"weight_ih_l0": 4, "weight_hh_l0": 4}),
        (nn.LSTM(3, 4, proj_size=2), {"weight_ih_l0": 4, "weight_hh_l0": 4, "weight_hr_l0": 1}),
        (nn.GRU(3, 2, bidirectional=True, bias=False), dict.fromkeys(
            ["weight_ih_l0", "weight_hh_l0", "weight_ih_l0_reverse", "weight_hh_l0_reverse"], 3
        )),
        (nn.RNN(3, 2), {"weight_ih_l0": 1, "weight_hh_l0": 1}),
        (nn.LSTMCell(3, 2), {"weight_ih": 4, "weight_hh": 4}),
        (nn.GRUCell(3, 2), {"weight_ih": 3, "weight_hh": 3}),
        (nn.RNNCell(3, 2), {"weight_ih": 1, "weight_hh": 1}),
        (nn.MultiheadAttention(4, 2), {"in_proj_weight": 3, "out_proj.weight": 1}),
        (
            nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True),
            {"q_proj_weight": 1, "k_proj_weight": 1, "v_proj_weight": 1, "out_proj.weight": 1},
        ),
        (nn.Bilinear(2, 3, 4), {"weight": 1}),
        (nn.Conv3d(2, 3, 1), {"weight": 1}),
        (nn.TransformerEncoderLayer(4, 2, 8), {
            "self_attn.in_proj_weight": 3, "self_attn.out_proj.weight": 1, "linear1.weight": 1, "linear2.weight": 1
        }),
    ],
)  # fmt: skip
def test_the_weights_of_known_layers_and_the_gates_that_stay_alive(layer, gates):
    chosen = select_parameters(layer)
    assert gates_of(layer, chosen) == gates
    assert list(chosen) == list(gates)


def test_a_layer_can_be_named_that_is_not_known_and_its_subclasses_count(monkeypatch):
    class Conv1D(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(3, 6)), nn.Parameter(torch.ones(6))

    class Own(Conv1D):
        pass

    net = nn.Sequential(Own(), nn.Linear(6, 2))
    assert list(select_parameters(net)) == ["1.weight"]
    monkeypatch.setitem(LAYERS, f"{__name__}.{Conv1D.__qualname__}", {"*": 3})
    assert gates_of(net, select_parameters(net)) == {"0.weight": 3, "1.weight": 1}
    monkeypatch.setitem(
        LAYERS, f"{__name__}.{Conv1D.__qualname__}", {"*": 2}
    )  # three rows have no two halves
    assert gates_of(net, select_parameters(net)) == {"0.weight": 1, "1.weight": 1}


def test_what_other_layers_make_their_weights_of_is_left_alone():
    import torch.nn.utils as old

    recurrent = nn.LSTM(3, 2)
    with pytest.warns(FutureWarning):
        old.weight_norm(recurrent, "weight_hh_l0")
    assert list(select_parameters(recurrent)) == ["weight_ih_l0"]
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    old.spectral_norm(net[0])
    assert list(select_parameters(net)) == ["1.weight"]


def told(net, chosen=None):
    with log_messages() as said:
        tell_coverage(net, select_parameters(net) if chosen is None else chosen)
    return said


def test_how_much_can_be_pruned_is_one_line():
    head = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    assert told(head) == [
        "48 of 74 weights (64.9%) are prunable; dense stay biases and other vectors (26)",
    ]
    assert told(nn.Linear(4, 2, bias=False)) == ["8 of 8 weights (100.0%) are prunable"]
    head[0].weight.requires_grad_(False)
    frozen = select_parameters(head, frozen=True)
    assert told(head, frozen)[0].startswith("48 of 74 weights")


def test_a_network_that_stays_mostly_dense_is_warned_of_with_what_stays_and_why():
    net = nn.ModuleDict(
        {
            "words": nn.Embedding(10, 8),
            "tied": nn.Linear(8, 10, bias=False),
            "normed": weight_norm(nn.Linear(8, 6, bias=False)),
            "frozen": nn.Linear(8, 5, bias=False).requires_grad_(False),
            "left": nn.Linear(8, 4, bias=False),
            "more": nn.Embedding(3, 8),
            "head": nn.Linear(8, 2),
        }
    )
    net["tied"].weight = net["words"].weight
    chosen = select_parameters(net, ["head.weight"])
    with pytest.warns(UserWarning, match="16 of 248 weights") as caught:
        assert told(net, chosen) == []
    assert str(caught[0].message) == (
        "16 of 248 weights (6.5%) are prunable; dense stay words.weight (80, tied to Embedding), "
        "normed.parametrizations.weight.original1 (48, parametrized: remove the parametrization to prune it), "
        "frozen.weight (40, frozen), left.weight (32, not chosen), 2 other tensors (30), biases and other vectors (2). "
        "Sparsity counts prunable weights only, so most of the network stays as large as it is; a predicate names "
        "others: Cut(prunable=lambda name, parameter: ...)"
    )
