"""What pruning costs: the training step, the pruning step, and a round's own work.

    python -m benchmarks.overhead [--weights 25e6 1e8] [--repeats 15] [--out benchmarks/results]

Timings are interleaved in one process: the variants take turns, so that noise of the machine hits all alike, and
medians of the ratios within turns are reported. Memory is the peak of a process of its own for each method, above
weights and old masks. Writes overhead.md and .json.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from benchmarks.support import command_line, markdown, one_thread, quiet_trainer, versions, write
from lightning_classprune import ClassAwarePruningCallback, Cut, Guard
from lightning_classprune.pruning.criteria import Criterion, CriterionName
from lightning_classprune.pruning.cutter import Cutter
from lightning_classprune.pruning.masks import full_masks
from lightning_classprune.pruning.parameters import select_parameters
from lightning_classprune.pruning.selection import shrink_masks
from lightning_classprune.pruning.units import SingleWeights
from lightning_classprune.trainer.processes import Processes
from lightning_classprune.trainer.sharding import Sharding

SPARSITY = 0.9


#: Optimizer steps from one cut of a shrinking mask to the next.
CUT_EVERY = 20


class Training:
    """A ResNet-18 at 32x32 in training by SGD with momentum and weight decay; called, it takes one step.

    Args:
        network: The ResNet-18.
        batch: Samples of a step.
        held: 90% of its weights are pruned.
        heard: A criterion listens to the gradients of its weights.
        clip: The largest norm of the gradients; None for any.
    """

    def __init__(
        self,
        network: nn.Module,
        batch: int,
        held: bool = False,
        heard: bool = False,
        clip: float | None = None,
    ) -> None:
        self.network, self.clip = network, clip
        self.optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
        self.heard = heard
        parameters = select_parameters(network) if held or heard else {}
        whole = Sharding(Processes())
        units = SingleWeights(parameters, "global", whole, by_layer=True)
        self.cutter = Cutter(network, units, Criterion.of("lamp_gradient" if heard else "lamp"), whole)
        self.masks = full_masks(parameters)
        if held:
            self.cut(SPARSITY)
        self.images, self.labels = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.network(self.images), self.labels).backward()
        if self.heard:
            self.cutter.observe(SimpleNamespace(precision_plugin=None), self.optimizer)
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        self.optimizer.step()

    def cut(self, sparsity: float) -> None:
        """Shrink the masks and hold them, as in the middle of a round."""
        assert not self.cutter.has_nan()
        self.masks = self.cutter.shrink(self.masks, int(sparsity * self.cutter.units.total), None)
        self.cutter.tighten(self.masks, [self.optimizer])


def reparametrized(network: nn.Module) -> nn.Module:
    """The network as Lightning's ModelPruning trains it: `weight_orig * weight_mask` in a forward hook."""
    pairs = [(m, "weight") for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=SPARSITY)
    return network


def paired(
    calls: Mapping[str, Callable[[], object]], turns: int, warm: bool = True
) -> list[dict[str, float]]:
    """CPU seconds of every call, by turn: calls of one turn meet the same machine."""
    for call in calls.values() if warm else ():
        call()
        call()  # the first step of a held network looks at all its weights
    found = []
    for _ in range(turns):
        found.append({})
        for name, call in calls.items():
            start = time.process_time()
            call()
            found[-1][name] = time.process_time() - start
    return found


def while_shrinking(batch: int, turns: int) -> tuple[list[float], list[float]]:
    """How many times a dense step's time a step takes, cuts among them, by turns of 20 steps; and seconds of cuts."""
    ratios: list[float] = []
    cuts: list[float] = []
    for _ in range(3):
        dense = Training(resnet18(num_classes=10), batch)
        shrinking = Training(resnet18(num_classes=10), batch, held=True, heard=True)
        paired({"dense": dense, "shrinking": shrinking}, 2)
        for number in range(1, turns + 1):
            found = paired({"dense": dense, "shrinking": shrinking}, CUT_EVERY, warm=False)
            start = time.process_time()
            shrinking.cut(SPARSITY + 0.005 * number)
            cuts.append(time.process_time() - start)
            of_all = {name: sum(turn[name] for turn in found) for name in found[0]}
            ratios.append((of_all["shrinking"] + cuts[-1]) / of_all["dense"])
    return ratios, cuts


def training_step(batch: int, repeats: int) -> dict[str, Any]:
    """Seconds of a dense step, and how many times that others take, by pairs of neighbours.

    Of three networks each, for where memory lies is chance.
    """
    turns: list[dict[str, float]] = []
    for _ in range(3):
        steps = {
            "dense": Training(resnet18(num_classes=10), batch),
            "dense again": Training(resnet18(num_classes=10), batch),
            "ModelPruning": Training(reparametrized(resnet18(num_classes=10)), batch),
            "ours": Training(resnet18(num_classes=10), batch, held=True),
            "ours, clipping": Training(resnet18(num_classes=10), batch, held=True, clip=1e3),
            "dense, clipping": Training(resnet18(num_classes=10), batch, clip=1e3),
            "dense, listening": Training(resnet18(num_classes=10), batch, heard=True),
            "shrinking, without its cuts": Training(resnet18(num_classes=10), batch, held=True, heard=True),
        }
        turns += paired(steps, repeats)
    seconds = statistics.median(turn["dense"] for turn in turns)
    ratios = {name: [turn[name] / turn["dense"] for turn in turns] for name in steps}
    ratios["shrinking"], cuts = while_shrinking(batch, 3)
    return {
        "dense": seconds,
        "cut": statistics.median(cuts),
        "ratios": {name: statistics.median(ratio) for name, ratio in ratios.items()},
        "quartiles": {name: statistics.quantiles(ratio, n=4)[::2] for name, ratio in ratios.items()},
    }


LIMITS = """\
What limits each:

* Step: one more pass over memory, over the gradients, whatever the batch; the weights of torch's own optimizers are
  proved to stay zero and not touched. Who writes to gradients after their hooks (clipping, a scaler of half precision)
  adds a pass over the weights, as do other optimizers and several processes.
* Prune: five passes over the scores instead of a sort. The result, new masks of one byte a weight, is 25 points of the
  memory; the working memory beyond it is a constant of some 10 MB plus the scores of the largest tensor.
* Round: judging is one forward pass over the guard data; the rest is copying weights four times and the selection.
* Listening: a pass over the gradients to see that they are finite, and two over the running means; only in the last 80
  to 200 steps of a round, and while a mask shrinks. Of a tensor that has a quarter of its weights left these are
  fetched, in one pass. The class criteria add 16 forward and backward passes a cut.
* Shrinking: `shrinking` is whole turns of 20 steps, each with its cut, at 90% and a little more. Above what holding
  costs that is the fetch, for the kept weights of a mask of single weights lie in all cache lines; and a twentieth of a
  cut: two passes over all weights (none is NaN; those that are kept are fetched), four that set to zero (weights,
  gradients, momentum, what masks them), and an exact selection among the kept. Two passes a step and a twentieth of a
  cut are the floor of what is exact and hears every step; a larger batch makes them a smaller share."""
# By whose cuts the cost is told: without gradients, with the training's own, and with passes of their own.
COMPARED: tuple[CriterionName, ...] = ("magnitude", "lamp", "lamp_gradient", "class_lamp_gradient")
METHODS = ("ours", "topk", "sort", "global_unstructured")


def layers(weights: int) -> list[nn.Linear]:
    """Fifty equal layers."""
    return [nn.Linear(weights // 50 // 1000, 1000, bias=False) for _ in range(50)]


def choose(method: str, linears: list[nn.Linear]) -> Callable[[], Any]:
    """A function that chooses 20% of all weights to prune."""
    parameters = {str(i): layer.weight for i, layer in enumerate(linears)}
    count = int(0.2 * sum(p.numel() for p in parameters.values()))
    masks = full_masks(parameters)

    def joined() -> Tensor:
        return torch.cat([p.detach().abs().view(-1) for p in parameters.values()])

    def torch_prune() -> None:
        prune.global_unstructured([(m, "weight") for m in linears], prune.L1Unstructured, amount=0.2)

    functions: dict[str, Callable[[], Any]] = {
        "ours": lambda: shrink_masks(masks, lambda name: parameters[name].detach().abs(), count, "global"),
        "topk": lambda: torch.topk(joined(), count, largest=False),
        "sort": lambda: torch.sort(joined()),
        "global_unstructured": torch_prune,
    }
    return functions[method]


def peak_memory(method: str, weights: int) -> float:
    """Peak bytes above what the weights and old masks take, as a share of the fp32 weights. For a fresh process."""
    choose(method, layers(500_000))()  # library code is paged in on first use
    function = choose(method, layers(weights))
    before = _status("VmRSS")
    kept_alive = function()
    extra = _status("VmHWM") - before
    del kept_alive
    return max(extra, 0) / (4 * weights)


def _status(key: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) * 1024


def pruning_step(weights: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Median seconds, and extra memory as a share of the weights, of choosing 20% to prune."""
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for _ in range(repeats):
        for method in METHODS:
            function = choose(method, layers(weights))
            start = time.perf_counter()
            function()
            seconds[method].append(time.perf_counter() - start)
    memory = {
        method: float(
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "benchmarks.overhead",
                    "--memory-of",
                    method,
                    "--weights",
                    str(weights),
                ],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for method in METHODS
    }
    return {method: (statistics.median(seconds[method]), memory[method]) for method in METHODS}


class _ResNet(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = resnet18(num_classes=2)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


class _Clock(ClassAwarePruningCallback):
    """Times the callback's own work in a round, and the training epochs."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.spent: dict[str, list[float]] = {"epoch": [], "judge": [], "begin": []}

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_fit_start(trainer, pl_module)
        for name, key in (("end_of_round", "judge"), ("_begin_round", "begin")):
            setattr(self._run, name, self._timed(getattr(self._run, name), key))

    def _timed(self, function: Callable[..., Any], key: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            self.spent[key].append(time.perf_counter() - start)
            return result

        return timed

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if batch_idx == 0:
            self._epoch = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self.spent["epoch"].append(time.perf_counter() - self._epoch)


def round_cost(images: int, guard: int, criterion: CriterionName = "magnitude") -> dict[str, float]:
    """Median seconds of an epoch (ResNet-18, 32x32), of judging and of pruning (by a criterion) + rewinding."""
    data = TensorDataset(torch.randn(images, 3, 32, 32), torch.arange(images) % 2)
    held_out = TensorDataset(torch.randn(guard, 3, 32, 32), torch.arange(guard) % 2)
    callback = _Clock(
        num_classes=2,
        protect={1: 1.0},
        target_sparsity=0.6,
        guard=Guard(confidence=None, max_fp_rise=None),
        cut=Cut(criterion=criterion),
        guard_dataloader=DataLoader(held_out, batch_size=64),
    )
    quiet_trainer(callback, max_epochs=1).fit(_ResNet(), DataLoader(data, batch_size=64))
    return {key: statistics.median(values) for key, values in callback.spent.items()}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--weights", type=float, nargs="+", default=[25e6, 1e8])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--memory-of", choices=METHODS, help="print one method's memory and stop (used by itself)"
    )
    arguments = parser.parse_args()
    torch.manual_seed(0)
    one_thread()
    if arguments.memory_of:
        print(peak_memory(arguments.memory_of, int(arguments.weights[0])))
        return
    result: dict[str, Any] = {
        "versions": versions(),
        "machine": f"{platform.machine()}, 1 thread",
        "step": {str(b): training_step(b, arguments.repeats) for b in (8, 64)},
        "prune": {f"{n:.2g}": pruning_step(int(n), 3) for n in arguments.weights},
        "round": round_cost(images=2048, guard=512),
        "cut": {name: round_cost(images=2048, guard=512, criterion=name)["begin"] for name in COMPARED},
    }
    lines = [
        f"Made by `python -m benchmarks.overhead`: torch {torch.__version__}, CPU, one thread; medians of CPU time, of "
        "steps by pairs of neighbours.",
        "",
    ]
    steps = [
        {"training step, ResNet-18 32x32, 90% sparse": f"batch {batch} ({found['dense'] * 1e3:.0f} ms dense)"}
        | {name: f"{ratio:.3f}x" for name, ratio in found["ratios"].items() if name != "dense"}
        for batch, found in result["step"].items()
    ]
    spread = "; ".join(
        f"batch {batch}: ours {' to '.join(f'{q:.3f}' for q in found['quartiles']['ours'])}, dense again "
        f"{' to '.join(f'{q:.3f}' for q in found['quartiles']['dense again'])}, a cut {found['cut'] * 1e3:.0f} ms"
        for batch, found in result["step"].items()
    )
    prunings = [
        {
            "prune 20%, 50 tensors": f"{name}, {weights} weights",
            "time against topk": f"{seconds / methods['topk'][0]:.2f}x ({seconds:.2f} s)",
            "extra memory with its result, share of the weights": f"{memory:.1%}",
        }
        for weights, methods in result["prune"].items()
        for name, (seconds, memory) in methods.items()
    ]
    lines += [markdown(steps), "", f"Middle half of the pairs: {spread}.", "", markdown(prunings)]
    r = result["round"]
    own = r["judge"] + r["begin"]
    lines += [
        "",
        f"A round's own cost, ResNet-18 on 2,048 images a training epoch and 512 guard images: judging "
        f"{r['judge']:.2f} s, pruning and rewinding {r['begin']:.2f} s, together {own / r['epoch']:.1%} of one epoch "
        f"({r['epoch']:.1f} s).",
    ]
    cuts = [
        {
            "pruning and rewinding by": name,
            "seconds": seconds,
            "share of an epoch": f"{seconds / r['epoch']:.1%}",
        }
        for name, seconds in result["cut"].items()
    ]
    lines += ["", markdown(cuts), "", LIMITS]
    write(arguments.out / "overhead.json", [json.dumps(result, indent=1)])
    write(arguments.out / "overhead.md", lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
