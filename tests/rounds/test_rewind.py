import copy
import io
from collections import Counter, OrderedDict, deque

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.optim import LBFGS, SGD, AdamW
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)
from torch.utils.data import DataLoader, TensorDataset

from lightning_classprune.rounds.rewind import HeldScheduler, Rewind, hold_schedulers, release_schedulers
from lightning_classprune.trainer.snapshots import (
    _load,
    capture_buffers,
    capture_tensors,
    capture_training,
    copy_state,
    restore_buffers,
    restore_tensors,
    restore_training,
)

torch.set_num_threads(1)


def saved(state):
    """A state as a checkpoint brings it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same(a, b):
    """Equal in structure and bit for bit."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def tensors_in(state):
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors_in(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from tensors_in(value)


# --- rewind ---


@pytest.mark.parametrize(
    ("text", "rewind", "keeps_weights"),
    [
        ("init", Rewind("init", 0), False),
        ("epoch:0", Rewind("epoch", 0), False),
        ("epoch:12", Rewind("epoch", 12), False),
        ("step:300", Rewind("step", 300), False),
        ("lr", Rewind("lr", 0), True),
        ("none", Rewind("none", 0), True),
    ],
)
def test_points_by_their_names(text, rewind, keeps_weights):
    assert Rewind.parse(text) == rewind
    assert rewind.keeps_weights is keeps_weights


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Init",
        "epoch",
        "epoch:",
        "epoch:-1",
        "epoch:1.0",
        "epoch: 1",
        "init:0",
        "lr:1",
        " lr",
        "lr\n",
        5,
        None,
    ],
)
def test_what_is_no_point_is_refused_by_name(text):
    with pytest.raises(ValueError, match=r"rewind=.* is unknown; allowed are 'init', 'epoch:K', 'step:K'"):
        Rewind.parse(text)


# --- copies ---


def test_a_copy_shares_nothing_that_can_change():
    tensor = torch.ones(2)
    state = {0: {"a": tensor, "b": [tensor, (tensor, None)]}, "c": {1, 2}, "d": [1], "e": Counter({3: 2})}
    copied = copy_state(state)
    expected = copy.deepcopy(state)
    tensor.fill_(9)
    state["c"].add(3)
    state["d"].append(2)
    state["e"][3] += 1
    state[0]["b"].append(0)
    assert_same(copied, expected)


def test_copies_are_plain_detached_and_load_safely():
    parameter = nn.Parameter(torch.ones(2))
    state = OrderedDict(
        a=parameter, b=deque([1, 2], maxlen=5), c=frozenset({1}), d=Counter({3: 2}), e=(1, "x", None, 2.5)
    )
    copied = copy_state(state)
    assert_same(
        copied, {"a": torch.ones(2), "b": [1, 2], "c": {1}, "d": Counter({3: 2}), "e": (1, "x", None, 2.5)}
    )
    assert not copied["a"].requires_grad
    assert_same(saved(copied), copied)


# --- tensors ---


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(3)
        self.tied = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.tied[1].weight = self.tied[0].weight
        self.register_buffer("hidden", torch.ones(2), persistent=False)

    def forward(self, x):
        x = self.norm(self.conv(x)).mean((2, 3))
        return self.tied[1](self.tied[0](x) * self.hidden.sum())


def disturb(net):
    optimizer = SGD(net.parameters(), lr=0.1)
    net(torch.randn(4, 2, 5, 5)).square().sum().backward()
    optimizer.step()
    net.hidden += 1


def test_all_tensors_come_back_into_their_own_storage():
    net = Net()
    disturb(net)
    storage = {name: t.data_ptr() for name, t in [*net.named_parameters(), *net.named_buffers()]}
    before = {name: t.detach().clone() for name, t in [*net.named_parameters(), *net.named_buffers()]}
    captured = capture_tensors(net)
    assert captured.keys() == before.keys()
    assert {"norm.running_var", "norm.num_batches_tracked", "hidden", "tied.0.weight"} < captured.keys()
    assert "tied.1.weight" not in captured
    disturb(net)
    assert_same(captured, before)
    assert not torch.equal(net.norm.running_mean, before["norm.running_mean"])
    for _ in range(2):
        restore_tensors(net, saved(captured))
        live = dict([*net.named_parameters(), *net.named_buffers()])
        assert {name: t.data_ptr() for name, t in live.items()} == storage
        assert_same({name: t.detach() for name, t in live.items()}, before)
        assert all(p.requires_grad for p in net.parameters())
        disturb(net)
    assert_same(captured, before)


def test_names_do_not_depend_on_wrappers():
    net = Net()
    captured = capture_tensors(torch.compile(net))
    assert_same(captured, capture_tensors(net))
    disturb(net)
    restore_tensors(torch.compile(net), captured)
    assert_same(capture_tensors(net), captured)


@pytest.mark.parametrize("change", ["added", "missing", "reshaped"])
def test_a_module_that_changed_is_refused_and_nothing_is_written(change):
    net = Net()
    captured = capture_tensors(net)
    if change == "added":
        net.extra = nn.Linear(1, 1)
    elif change == "missing":
        del net.hidden
        net.forward = lambda x: net.tied[0](net.norm(net.conv(x)).mean((2, 3)))
    else:
        net.conv.weight = nn.Parameter(torch.ones(3, 2, 1, 1))
    with torch.no_grad():
        net.conv.weight.zero_()
    name = {"added": "extra.bias, extra.weight", "missing": "hidden", "reshaped": "conv.weight"}[change]
    with pytest.raises(
        RuntimeError, match=f"cannot rewind: the module's tensors changed during training: {name}; let the"
    ):
        restore_tensors(net, captured)
    assert not net.conv.weight.any()


def test_a_buffer_that_grew_is_as_large_as_it_was():
    """A memory of samples, or a table of positions for longer sequences."""
    net = Net()
    net.tied[0].register_buffer("seen", torch.arange(2))
    net.tied[1].register_buffer("seen", net.tied[0].seen)
    captured = capture_tensors(torch.compile(net))
    net.hidden = torch.ones(5)
    net.tied[0].seen = net.tied[1].seen = torch.arange(7)
    for _ in range(2):
        restore_tensors(torch.compile(net), captured)
        assert_same(capture_tensors(net), captured)
        assert net.tied[0].seen is net.tied[1].seen
        assert "hidden" not in net.state_dict()
        net.hidden += 1  # of the capture nothing is shared


def test_buffers_alone_come_back_as_large_as_they_were():
    """Of a resumed run, and of the members of a nested round."""
    net = Net()
    captured = capture_buffers(net)
    net.hidden = torch.zeros(5)
    restore_buffers(net, captured)
    assert_same(capture_buffers(net), captured)
    assert net.hidden.tolist() == [1, 1]


def test_a_buffer_that_came_later_stays_as_it_is():
    """Made at the first batch: the rewind point of before cannot know it."""
    net = Net()
    captured = capture_tensors(net)
    net.tied[0].register_buffer("scale", torch.tensor(3.0))
    with torch.no_grad():
        net.conv.weight.zero_()
    with pytest.warns(UserWarning, match=r"not rewound: tied\.0\.scale; a round begins"):
        restore_tensors(net, captured)
    assert net.tied[0].scale == 3
    assert_same({n: t for n, t in capture_tensors(net).items() if n != "tied.0.scale"}, captured)


# --- optimizers and schedulers as they are ---

OPTIMIZERS = {
    "sgd": lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adamw": lambda p: AdamW(p, lr=0.02, amsgrad=True),
    "fused": lambda p: AdamW(p, lr=0.02, fused=True),
    "capturable": lambda p: AdamW(p, lr=torch.tensor(0.02), foreach=False),
    "lbfgs": lambda p: LBFGS(p, lr=0.3, max_iter=3, history_size=2),
    "groups": lambda p: SGD([{"params": p[:1]}, {"params": p[1:], "lr": 0.01, "momentum": 0.5}], lr=0.1),
}

SCHEDULERS = {
    "onecycle": lambda o: OneCycleLR(o, max_lr=0.1, total_steps=12),
    "cosine": lambda o: CosineAnnealingLR(o, T_max=9, eta_min=0.001),
    "plateau": lambda o: ReduceLROnPlateau(o, factor=0.5, patience=0, threshold=0.9, cooldown=1),
    "multistep": lambda o: MultiStepLR(o, [2, 4, 4, 7], gamma=0.5),
    "cyclic": lambda o: CyclicLR(o, 0.01, 0.1, step_size_up=3, mode="exp_range", gamma=0.9),
    "sequential": lambda o: SequentialLR(o, [LinearLR(o, 0.1, total_iters=2), CosineAnnealingLR(o, 7)], [4]),
}


def pairs():
    for optimizer in OPTIMIZERS:
        yield optimizer, "cosine"
    for scheduler in SCHEDULERS:
        yield "sgd", scheduler
    yield "adamw", "onecycle"
    yield "groups", "multistep"
    yield "groups", "plateau"
    yield "lbfgs", "multistep"


class Training:
    """A network, an optimizer and a scheduler, without a trainer."""

    def __init__(self, optimizer, scheduler):
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
        self.x, self.y = torch.randn(16, 4), torch.randn(16, 1)
        self.optimizer = OPTIMIZERS[optimizer](list(self.net.parameters()))
        self.scheduler = SCHEDULERS[scheduler](self.optimizer)

    def step(self):
        def closure():
            self.optimizer.zero_grad()
            loss = (self.net(self.x) - self.y).square().mean()
            loss.backward()
            return loss

        loss = self.optimizer.step(closure)
        self.scheduler.step(*[loss.item()] * isinstance(self.scheduler, ReduceLROnPlateau))

    def states(self):
        return [self.net.state_dict(), self.optimizer.state_dict(), self.scheduler.state_dict()]

    def trail(self, steps):
        """What can be seen after each step."""
        seen = []
        for _ in range(steps):
            self.step()
            seen.append(copy.deepcopy(self.states()))
        return seen


def test_a_rate_that_is_a_tensor_stays_the_same_one():
    """A captured graph goes on reading it where it lies, and so does a scheduler that fills it."""
    training = Training("capturable", "cosine")
    group = training.optimizer.param_groups[0]
    rate, captured = group["lr"], copy_state(training.optimizer.state_dict())
    training.trail(3)
    assert rate != captured["param_groups"][0]["lr"]
    _load(training.optimizer, copy_state(captured))
    assert training.optimizer.param_groups[0]["lr"] is rate
    assert_same(training.optimizer.state_dict(), captured)


@pytest.mark.parametrize(("optimizer", "scheduler"), list(pairs()))
@pytest.mark.parametrize("before", [0, 3])
def test_training_goes_on_from_a_copy_as_it_did_before(optimizer, scheduler, before):
    training = Training(optimizer, scheduler)
    training.trail(before)
    captured = [copy_state(state) for state in training.states()]
    assert_same(captured, [copy_state(state) for state in copy.deepcopy(training.states())])
    untouched = copy.deepcopy(captured)
    first = training.trail(5)
    assert_same(captured, untouched)
    for snapshot in (captured, saved(captured)):
        for live, state in zip((training.net, training.optimizer, training.scheduler), snapshot, strict=True):
            live.load_state_dict(copy_state(state))
        assert_same(training.trail(5), first)
        assert_same(snapshot, untouched)


@pytest.mark.parametrize(("optimizer", "scheduler"), list(pairs()))
def test_a_copy_holds_no_tensor_of_the_live_state(optimizer, scheduler):
    training = Training(optimizer, scheduler)
    training.trail(3)
    live = {t.data_ptr() for t in tensors_in(training.states())}
    copies = [t for state in training.states() for t in tensors_in(copy_state(state))]
    assert copies
    assert live.isdisjoint(t.data_ptr() for t in copies)


# --- in a trainer ---


class Module(LightningModule):
    """One batch an epoch, the same each time, so that epochs from one state are alike."""

    def __init__(self, optimizer="sgd", scheduler="cosine", interval="epoch"):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1))
        self.choice = optimizer, scheduler, interval

    def training_step(self, batch, _):
        x, y = batch
        loss = (self.net(x) - y).square().mean()
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        optimizer, scheduler, interval = self.choice
        optimizer = OPTIMIZERS[optimizer]([p for p in self.parameters() if p.requires_grad])
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": SCHEDULERS[scheduler](optimizer),
                "interval": interval,
                "monitor": "loss",
            },
        }


def look(trainer):
    """Everything that a trainer's training changes, apart from its counters."""
    return copy.deepcopy(
        [
            trainer.lightning_module.state_dict(),
            [o.state_dict() for o in trainer.optimizers],
            [c.scheduler.state_dict() for c in trainer.lr_scheduler_configs],
            trainer.precision_plugin.state_dict(),
            [p.requires_grad for p in trainer.lightning_module.parameters()],
        ]
    )


class Again(Callback):
    """Captures at the start of one epoch and goes back to it at the start of others."""

    def __init__(self, capture_at, restore_at):
        self.capture_at, self.restore_at, self.seen = capture_at, restore_at, []

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.capture_at:
            self.captured = [capture_tensors(pl_module), capture_training(trainer)]
            self.untouched = copy.deepcopy(self.captured)
        if trainer.current_epoch in self.restore_at:
            tensors, training = saved(self.captured)
            restore_tensors(pl_module, tensors)
            restore_training(trainer, training)
        self.seen.append(look(trainer))


def fit(module, *callbacks, epochs, **options):
    torch.manual_seed(2)
    data = DataLoader(TensorDataset(torch.randn(16, 4), torch.randn(16, 1)), batch_size=16)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "accelerator": "cpu",
    }
    trainer = Trainer(
        max_epochs=epochs, callbacks=list(callbacks), enable_model_summary=False, devices=1, **quiet | options
    )
    trainer.fit(module, data)
    return trainer


@pytest.mark.parametrize(("optimizer", "scheduler"), list(pairs()))
def test_a_trainer_trains_again_from_a_captured_state(optimizer, scheduler):
    again = Again(2, {5, 8})
    interval = "step" if scheduler == "onecycle" else "epoch"
    fit(Module(optimizer, scheduler, interval), again, epochs=11)
    assert_same(again.seen[5:8], again.seen[2:5])
    assert_same(again.seen[8:11], again.seen[2:5])
    assert_same(again.captured, again.untouched)
    assert not torch.equal(*(again.seen[i][0]["net.0.weight"] for i in (2, 3)))


def test_a_grad_scaler_goes_back_too():
    class Overflows(Module):
        def training_step(self, batch, index):
            return super().training_step(batch, index) * (float("inf") if self.current_epoch == 3 else 1)

    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    again = Again(1, {5})
    fit(Overflows(), again, epochs=7, plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)])
    scales = [seen[3]["scale"] for seen in again.seen]
    assert scales == [1024.0, 1024.0, 2048.0, 2048.0, 1024.0, 1024.0, 2048.0]
    assert_same(again.seen[5:7], again.seen[1:3])


class Unfreeze(Callback):
    """As fine-tuning callbacks do: a parameter group more from epoch 2 on."""

    def setup(self, trainer, pl_module, stage):
        pl_module.net[0].requires_grad_(False)

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            pl_module.net[0].requires_grad_(True)
            trainer.optimizers[0].add_param_group({"params": pl_module.net[0].parameters(), "lr": 0.01})


@pytest.mark.parametrize("scheduler", ["cosine", "multistep"])
def test_parameter_groups_added_since_go_away_and_their_weights_are_frozen_again(scheduler):
    again = Again(1, {4})
    module = Module("sgd", scheduler)
    fit(module, Unfreeze(), again, epochs=6)
    assert [len(seen[1][0]["param_groups"]) for seen in again.seen] == [1, 1, 2, 2, 1, 1]
    assert_same(again.seen[4], again.seen[1])
    assert not module.net[0].weight.requires_grad
    assert torch.equal(module.net[0].weight, again.seen[1][0]["net.0.weight"])


class Hold(Callback):
    def __init__(self, at, release_at=None):
        self.at, self.release_at, self.rates = at, release_at, []

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.at:
            hold_schedulers(trainer)
            hold_schedulers(trainer)
        if trainer.current_epoch == self.release_at:
            release_schedulers(trainer)
            release_schedulers(trainer)
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_held_schedulers_leave_the_rate_and_go_on_when_released():
    free, held = Hold(None), Hold(3, 6)
    fit(Module(), free, epochs=9)
    trainer = fit(Module(), held, epochs=9)
    assert len(set(free.rates)) == 9
    assert held.rates == [*free.rates[:4], *[free.rates[3]] * 3, *free.rates[4:6]]
    assert type(trainer.lr_scheduler_configs[0].scheduler) is CosineAnnealingLR


def test_a_schedule_that_has_come_to_its_end_can_be_held():
    with pytest.raises(ValueError, match="Tried to step 13 times"):
        fit(Module("sgd", "onecycle", "step"), epochs=15)
    held = Hold(11)
    fit(Module("sgd", "onecycle", "step"), held, epochs=15)
    assert held.rates[-1] == held.rates[11]


def test_what_is_held_is_captured_and_restored_through_its_stand_in():
    training = Training("sgd", "multistep")
    held = HeldScheduler(training.scheduler)
    training.trail(3)
    assert_same(copy_state(held.state_dict()), copy_state(training.scheduler.state_dict()))
    assert held.get_last_lr() == training.scheduler.get_last_lr()
    captured = copy_state(held.state_dict())
    training.trail(2)
    held.step(0.5)
    held.load_state_dict(copy_state(captured))
    assert training.scheduler.last_epoch == 3
    with pytest.raises(AttributeError, match="nothing_like_this"):
        held.nothing_like_this  # noqa: B018
    twin = copy.deepcopy(held)
    assert twin.last_epoch == 3
    assert twin.held is not training.scheduler
