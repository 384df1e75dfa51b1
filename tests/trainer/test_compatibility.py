"""What of a trainer is refused by name."""

from __future__ import annotations

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_classprune.trainer.compatibility import refuse_optimizers
from tests.support.kit import fit, plain_pruner, tiny


class ZeroRedundancyOptimizer(torch.optim.SGD):
    """Torch's needs several processes to be made."""


@pytest.mark.fit
def test_optimizers_that_are_spread_over_processes_are_refused_before_the_first_batch() -> None:
    net = tiny()
    net.configure_optimizers = lambda: ZeroRedundancyOptimizer(net.parameters(), 0.1)  # type: ignore[method-assign]
    net.training_step = lambda *_: pytest.fail("a batch was trained")  # type: ignore[method-assign]
    with pytest.raises(MisconfigurationException, match=r"ZeroRedundancyOptimizer spreads .*strategy='ddp'"):
        fit(net, plain_pruner(target_sparsity=0.5))


def test_others_pass() -> None:
    refuse_optimizers([torch.optim.SGD(tiny().parameters(), 0.1)])
