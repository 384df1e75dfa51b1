import copy
import io

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import clip_grad_norm_
from torch.optim import LBFGS, SGD, Adam, AdamW

from lightning_classprune.pruning.enforcement import Enforcement, _cut, _stencil
from lightning_classprune.pruning.masks import apply_masks

torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Linear(4, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.body(self.norm(self.conv(x)).mean((2, 3)))))


X = torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(0, 2, (8,), generator=torch.Generator().manual_seed(2))


def make(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    net = Net().to(dtype)
    parameters = {f"{name}.weight": getattr(net, name).weight for name in ("conv", "body")}
    generator = torch.Generator().manual_seed(seed)
    masks = {name: torch.rand(p.shape, generator=generator) < 0.4 for name, p in parameters.items()}
    return net, parameters, masks


def loss_of(net):
    return nn.functional.cross_entropy(net(X.to(net.head.weight.dtype)), Y)


def train(net, optimizers, steps=6, clip=None):
    for _ in range(steps):
        for optimizer in optimizers:

            def closure(optimizer=optimizer):
                optimizer.zero_grad()
                loss = loss_of(net)
                loss.backward()
                if clip:
                    clip_grad_norm_(net.parameters(), clip)
                return loss

            optimizer.step(closure)


def leaks(parameters, masks):
    """Pruned weights that are not zero."""
    return sum(int((parameters[name].detach()[~mask] != 0).sum()) for name, mask in masks.items())


def hooks_on(net, optimizers):
    """Number of hooks that torch keeps for parameters and optimizers."""
    return sum(len(p._post_accumulate_grad_hooks or ()) for p in net.parameters()) + sum(
        len(o._optimizer_step_post_hooks) for o in optimizers
    )


OPTIMIZERS = {
    "sgd": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "sgd for-loop": lambda p: SGD(p, lr=0.1, momentum=0.9, dampening=0.1, foreach=False),
    "adam": lambda p: Adam(p, lr=0.05, weight_decay=0.1),
    "adamw": lambda p: AdamW(p, lr=0.05, weight_decay=0.1, amsgrad=True),
    "adamw fused": lambda p: AdamW(p, lr=0.05, fused=True),
    "adamw foreach": lambda p: AdamW(p, lr=0.05, foreach=True),
    "lbfgs": lambda p: LBFGS(p, lr=0.5, max_iter=4, history_size=3),
    "lbfgs wolfe": lambda p: LBFGS(p, lr=0.5, max_iter=4, line_search_fn="strong_wolfe"),
}


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("kind", list(OPTIMIZERS))
def test_pruned_weights_stay_zero_and_the_others_train(kind, clip):
    net, parameters, masks = make()
    optimizer = OPTIMIZERS[kind](list(net.parameters()))
    train(net, [optimizer], steps=3)  # dense, so that momentum and second moments are not zero
    before = {name: p.detach().clone() for name, p in parameters.items()}
    apply_masks(masks, parameters)
    train(net, [optimizer], steps=1, clip=clip)
    assert leaks(parameters, masks) > 0  # as it goes without
    apply_masks(masks, parameters)
    Enforcement().hold(masks, parameters, [optimizer])
    for _ in range(6):
        train(net, [optimizer], steps=1, clip=clip)
        assert leaks(parameters, masks) == 0
    for name, mask in masks.items():
        assert (parameters[name].detach() != before[name])[mask].all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_other_precisions(kind, dtype):
    net, parameters, masks = make(dtype=dtype)
    optimizer = OPTIMIZERS[kind](list(net.parameters()))
    train(net, [optimizer], steps=2)
    apply_masks(masks, parameters)
    Enforcement().hold(masks, parameters, [optimizer])
    train(net, [optimizer])
    assert leaks(parameters, masks) == 0
    assert parameters["conv.weight"].dtype == dtype


def test_channels_last_weights():
    net, parameters, masks = make()
    net.to(memory_format=torch.channels_last)
    plain, plain_parameters, _ = make()
    for module, params in ((net, parameters), (plain, plain_parameters)):
        optimizer = SGD(module.parameters(), lr=0.1, momentum=0.9)
        apply_masks(masks, params)
        Enforcement().hold(masks, params, [optimizer])
        train(module, [optimizer], steps=1)
    assert parameters["conv.weight"].is_contiguous(memory_format=torch.channels_last)
    assert leaks(parameters, masks) == leaks(plain_parameters, masks) == 0
    torch.testing.assert_close(parameters["conv.weight"], plain_parameters["conv.weight"])


def test_several_optimizers_with_groups_of_their_own():
    net, parameters, masks = make()
    first = SGD([net.conv.weight, net.conv.bias], lr=0.1, momentum=0.9)
    second = AdamW([{"params": [net.body.bias]}, {"params": [net.body.weight], "lr": 0.05}], lr=0.01)
    third = SGD(net.head.parameters(), lr=0.1)
    train(net, [first, second, third], steps=2)
    apply_masks(masks, parameters)
    Enforcement().hold(masks, parameters, [first, second, third])
    train(net, [first, second, third])
    assert leaks(parameters, masks) == 0


def test_a_parameter_group_added_later_is_held_too():
    net, parameters, masks = make()
    optimizer = SGD([net.conv.weight], lr=0.1, momentum=0.9, weight_decay=0.1)
    Enforcement().hold(masks, parameters, [optimizer])
    optimizer.add_param_group({"params": [net.body.weight]})
    train(net, [optimizer])
    assert leaks(parameters, masks) == 0


def test_gradients_are_masked_before_anyone_looks_at_them():
    net, parameters, masks = make()
    apply_masks(masks, parameters)
    reference = copy.deepcopy(net)
    Enforcement().hold(masks, parameters, [SGD(net.parameters(), lr=0.1)])
    loss_of(net).backward()
    loss_of(reference).backward()
    dense_norm = clip_grad_norm_(reference.parameters(), 1e9)
    for name, mask in masks.items():
        gradient = dict(reference.named_parameters())[name].grad
        gradient.mul_(mask)
        assert torch.equal(parameters[name].grad, gradient)
        assert gradient.any()
    assert torch.equal(net.head.weight.grad, reference.head.weight.grad)
    # The clipping norm is that of the sparse network.
    norm = clip_grad_norm_(net.parameters(), 1e9)
    assert torch.equal(norm, clip_grad_norm_(reference.parameters(), 1e9))
    assert norm < dense_norm


def test_accumulated_gradients_are_masked():
    net, parameters, masks = make()
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
    apply_masks(masks, parameters)
    Enforcement().hold(masks, parameters, [optimizer])
    for _ in range(3):
        loss_of(net).backward()
        assert all(not parameters[name].grad[~mask].any() for name, mask in masks.items())
    optimizer.step()
    assert leaks(parameters, masks) == 0


@pytest.mark.parametrize("kind", ["sgd", "adamw", "lbfgs"])
def test_held_training_is_that_of_a_network_without_the_pruned_weights(kind):
    """Against the product written into the forward pass, with fresh optimizers."""

    class Sparse(Net):
        def forward(self, x):
            for name, mask in masks.items():
                weight = dict(self.named_parameters())[name]
                weight.register_hook(mask.to(weight.dtype).mul)
            return super().forward(x)

    net, parameters, masks = make()
    apply_masks(masks, parameters)
    torch.manual_seed(0)
    other = Sparse()
    other.load_state_dict(net.state_dict())
    optimizers = {
        net: OPTIMIZERS[kind](list(net.parameters())),
        other: OPTIMIZERS[kind](list(other.parameters())),
    }
    Enforcement().hold(masks, parameters, [optimizers[net]])
    for module, optimizer in optimizers.items():
        train(module, [optimizer], steps=4)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_a_weight_that_two_modules_share():
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    mask = torch.eye(4, dtype=torch.bool)
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    apply_masks({"0.weight": mask}, {"0.weight": net[0].weight})
    Enforcement().hold({"0.weight": mask}, {"0.weight": net[0].weight}, [optimizer])
    for _ in range(4):
        optimizer.zero_grad()
        net(torch.ones(3, 4)).square().sum().backward()
        assert not net[2].weight.grad[~mask].any()
        assert net[2].weight.grad[mask].all()
        optimizer.step()
        assert not net[2].weight[~mask].any()


def test_dense_masks_install_no_hook():
    net, parameters, masks = make()
    optimizer = SGD(net.parameters(), lr=0.1)
    enforcement = Enforcement()
    dense = {name: torch.ones_like(mask) for name, mask in masks.items()}
    enforcement.hold(dense, parameters, [optimizer])
    assert hooks_on(net, [optimizer]) == 0
    enforcement.hold(dense | {"body.weight": masks["body.weight"]}, parameters, [optimizer])
    assert hooks_on(net, [optimizer]) == 2
    assert not net.conv.weight._post_accumulate_grad_hooks


def test_holding_replaces_and_releasing_leaves_no_trace():
    net, parameters, masks = make()
    keys, optimizer = list(net.state_dict()), SGD(net.parameters(), lr=0.1, momentum=0.9)
    enforcement = Enforcement()
    enforcement.release()
    enforcement.hold(masks, parameters, [optimizer])
    assert hooks_on(net, [optimizer]) == 3
    harder = {name: mask & (torch.rand(mask.shape) < 0.5) for name, mask in masks.items()}
    apply_masks(harder, parameters)
    enforcement.hold(harder, parameters, [optimizer])
    assert hooks_on(net, [optimizer]) == 3
    train(net, [optimizer])
    assert leaks(parameters, harder) == 0
    assert list(net.state_dict()) == keys
    assert all(type(p) is nn.Parameter for p in net.parameters())
    for _ in range(2):
        enforcement.release()
        assert hooks_on(net, [optimizer]) == 0


def test_after_release_training_is_as_if_nothing_had_been():
    net, parameters, masks = make()
    plain, _, _ = make()
    optimizers = [OPTIMIZERS["adamw"](list(module.parameters())) for module in (net, plain)]
    enforcement = Enforcement()
    enforcement.hold(masks, parameters, optimizers[:1])
    enforcement.release()
    for module, optimizer in zip((net, plain), optimizers, strict=True):
        train(module, [optimizer], clip=0.1)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), plain.parameters(), strict=True))


def test_a_frozen_weight_that_is_unfrozen_while_held():
    net, parameters, masks = make()
    net.conv.requires_grad_(False)
    apply_masks(masks, parameters)
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
    enforcement = Enforcement()
    enforcement.hold(masks, parameters, [optimizer])
    assert not net.conv.weight.requires_grad
    frozen = net.conv.weight.detach().clone()
    train(net, [optimizer], steps=2)
    assert torch.equal(net.conv.weight, frozen)
    net.conv.requires_grad_(True)
    train(net, [optimizer], steps=2)
    assert (net.conv.weight != frozen)[masks["conv.weight"]].all()
    assert leaks(parameters, masks) == 0
    loss_of(net).backward()
    assert not net.conv.weight.grad[~masks["conv.weight"]].any()
    enforcement.release()
    assert hooks_on(net, [optimizer]) == 0


def test_a_held_network_is_copied_and_saved_without_its_hooks():
    net, parameters, masks = make()
    optimizer = SGD(net.parameters(), lr=0.1)
    apply_masks(masks, parameters)
    Enforcement().hold(masks, parameters, [optimizer])
    twin = copy.deepcopy(net)
    assert hooks_on(twin, []) == 0
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    loaded = Net()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), loaded.parameters(), strict=True))


def test_steps_that_a_scaler_skips_leave_zeros():
    net, parameters, masks = make()
    optimizer = AdamW(net.parameters(), lr=0.1)
    apply_masks(masks, parameters)
    Enforcement().hold(masks, parameters, [optimizer])
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scales = []
    for factor in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(loss_of(net) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        assert leaks(parameters, masks) == 0
    assert scales == [4.0, 2.0, 2.0]


class Around:
    """Wraps an optimizer, moves weights after its steps and has whatever else of it: Lookahead, as many write it."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def step(self, closure=None):
        loss = self.inner.step(closure)
        with torch.no_grad():
            for group in self.inner.param_groups:
                for p in group["params"]:
                    p.add_(0.01)
        return loss


class Bare(SGD):
    """Without what torch's own constructor makes."""

    def __init__(self, inner):
        self.__dict__ = {"inner": inner, "param_groups": inner.param_groups, "defaults": inner.defaults}
        self.state = inner.state

    def zero_grad(self, set_to_none=True):
        self.inner.zero_grad(set_to_none)

    def step(self, closure=None):
        return Around(self.inner).step(closure)


@pytest.mark.parametrize("kind", [Around, Bare])
def test_an_optimizer_without_hooks_of_its_own_has_its_step_wrapped(kind):
    net, parameters, masks = make()
    optimizer = kind(SGD(net.parameters(), lr=0.1, momentum=0.9))
    before = vars(optimizer).copy()
    enforcement = Enforcement()
    enforcement.rehearse(masks, parameters, [optimizer])
    assert vars(optimizer) == before
    apply_masks(masks, parameters)
    enforcement.hold(masks, parameters, [optimizer])
    for _ in range(3):
        train(net, [optimizer], steps=1)
        assert all(bool((parameters[name][~mask] == 0).all()) for name, mask in masks.items())
        assert all(bool((parameters[name][mask] != 0).any()) for name, mask in masks.items())
    enforcement.release()
    assert vars(optimizer) == before


def test_a_step_that_a_schedule_wrapped_stays_wrapped():
    net, parameters, masks = make()
    optimizer = Bare(SGD(net.parameters(), lr=0.1))
    own = optimizer.step = optimizer.step
    enforcement = Enforcement()
    enforcement.hold(masks, parameters, [optimizer])
    held = optimizer.step
    optimizer.step = lambda closure=None: held(closure)  # as if a schedule were made now
    enforcement.release()
    train(net, [optimizer], steps=1)
    assert any(bool((parameters[name][~mask] != 0).any()) for name, mask in masks.items())
    assert own is not held


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_what_is_held_in_the_middle_of_a_training_is_forgotten(name):
    """Weights, gradients and what the optimizer remembers of them are exactly zero, and all else is as it was."""
    net, parameters, masks = make()
    optimizer = OPTIMIZERS[name](net.parameters())
    train(net, [optimizer], 2)
    before = copy.deepcopy(optimizer.state_dict()["state"]), copy.deepcopy(net.state_dict())
    enforcement = Enforcement()
    enforcement.tighten(masks, parameters, [optimizer])
    for number, (key, parameter) in enumerate(net.named_parameters()):
        mask = masks.get(key, torch.ones_like(parameter, dtype=torch.bool))
        held = {f"state {k}": (v, before[0][number][k]) for k, v in optimizer.state[parameter].items()}
        for now, then in ((parameter.detach(), before[1][key]), *held.values()):
            if now.shape == mask.shape:
                assert torch.equal(now, then * mask)
                assert not torch.signbit(now[~mask]).any()
            else:
                assert torch.equal(now, then)
        assert not parameter.grad[~mask].any()


def test_what_is_masked_is_zero_whatever_it_was():
    """Infinity, NaN and what is negative leave +0.0: gradients that overflow are no matter of pruned weights."""
    weight = nn.Parameter(torch.ones(2, 3))
    mask = torch.tensor([[True, False, False], [False, True, False]])
    gradient = torch.tensor([[1.0, float("nan"), float("inf")], [-1.0, float("-inf"), -0.0]])
    Enforcement().hold({"w": mask}, {"w": weight}, [SGD([weight], lr=0.1)])
    (weight * gradient).sum().backward()
    assert torch.equal(weight.grad, torch.tensor([[1.0, 0, 0], [0, float("-inf"), 0]]))
    assert not torch.signbit(weight.grad[~mask]).any()


@pytest.mark.parametrize("layout", ["sparse", "strided"])
def test_gradients_of_an_embedding(layout):
    table = nn.Embedding(5, 3, sparse=layout == "sparse")
    mask = torch.rand(5, 3, generator=torch.Generator().manual_seed(3)) < 0.5
    optimizer = SGD(table.parameters(), lr=0.1)
    apply_masks({"w": mask}, {"w": table.weight})
    Enforcement().hold({"w": mask}, {"w": table.weight}, [optimizer])
    table(torch.tensor([1, 2, 2])).sum().backward()
    expected = torch.tensor([0.0, 1, 2, 0, 0]).unsqueeze(1) * mask
    assert torch.equal(table.weight.grad.to_dense(), expected)
    optimizer.step()
    assert leaks({"w": table.weight}, {"w": mask}) == 0


@pytest.mark.parametrize("kind", [SGD, torch.optim.SparseAdam])
def test_a_cut_wipes_sparse_gradients_too(kind):
    """A training loop clears them before the next backward pass, after the cut."""
    table = nn.Embedding(5, 3, sparse=True)
    optimizer = kind(list(table.parameters()), lr=0.1)
    mask = torch.rand(5, 3, generator=torch.Generator().manual_seed(3)) < 0.5
    enforcement = Enforcement()
    for _ in range(3):
        optimizer.zero_grad()
        table(torch.tensor([1, 2, 2])).sum().backward()
        optimizer.step()
        enforcement.tighten({"w": mask}, {"w": table.weight}, [optimizer])
        assert leaks({"w": table.weight}, {"w": mask}) == 0
        assert not table.weight.grad.to_dense()[~mask].any()
    optimizer.step()
    assert leaks({"w": table.weight}, {"w": mask}) == 0


def test_what_holds_is_filled_again_where_it_lies():
    """A graph that was captured in one round reads the masks of the next."""
    net, parameters, masks = make()
    enforcement, optimizer = Enforcement(), SGD(net.parameters(), lr=0.1)
    enforcement.hold(masks, parameters, [optimizer])
    places = {name: stencil.data_ptr() for name, stencil in enforcement._stencils.items()}
    harder = {name: mask & (torch.rand(mask.shape) < 0.5) for name, mask in masks.items()}
    apply_masks(harder, parameters)
    enforcement.hold(harder, parameters, [optimizer])
    assert {name: stencil.data_ptr() for name, stencil in enforcement._stencils.items()} == places
    train(net, [optimizer])
    assert leaks(parameters, harder) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("device", "each"), [("cpu", None), ("cuda", 1)])
def test_bytes_of_a_held_weight(device, each, dtype):
    """On a GPU one byte, beside the mask's own; on a CPU, where bytes are slow, as many as the weight has."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        weight = nn.Parameter(torch.ones(64, 3, 3, 3, dtype=dtype, device=device))
        weight.data = weight.data.to(memory_format=torch.channels_last)
        mask = torch.zeros(64, 3, 3, 3, dtype=torch.bool, device=device)
        stencil = _stencil(mask, weight.detach(), None)
        assert stencil.device.type == device
        assert stencil.stride() == weight.stride()
        assert stencil.untyped_storage().nbytes() == weight.numel() * (each or dtype.itemsize)
        assert _stencil(mask, weight.detach(), stencil) is stencil
        assert _cut(weight.detach(), stencil).shape == weight.shape


def test_bytes_and_whole_numbers_cut_alike():
    weight = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    mask = torch.rand(4, 5, generator=torch.Generator().manual_seed(2)) < 0.5
    whole = _stencil(mask, weight, None)
    assert whole.dtype == torch.int32
    assert torch.equal(_cut(weight.clone(), whole), _cut(weight.clone(), ~mask))
    assert torch.equal(_cut(weight.double(), whole), weight.double().masked_fill(~mask, 0))
