"""What is pruned, and by which criterion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_classprune.pruning.criteria import CriterionName, PreparedCriterion, check_criterion_argument
from lightning_classprune.pruning.granularities import GRANULARITIES
from lightning_classprune.pruning.parameters import Prunable
from lightning_classprune.pruning.selection import Scope
from lightning_classprune.trainer import arguments


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What is pruned.

    Attributes:
        criterion: By which score the smallest are pruned. Of the weights alone: `"magnitude"`,
            `"magnitude_increase"`, `"lamp"` (magnitude relative to the layer), `"random"`. Of the gradients that train
            them: `"gradient"`, `"lamp_gradient"` (relative to the layer). Of the protected classes' gradients, by a few
            passes at each cut: `"class_gradient"`, `"class_lamp_gradient"`. Or a function (weight, rewind point) ->
            scores, or a `PreparedCriterion`, which looks at training data first.
        scope: `"global"` (one threshold over all layers) or `"layer"`.
        granularity: What is pruned, and what sparsity, target and fraction count: `"weight"`; `"channel"`, whole
            coupled channels, which can then leave the network (needs the extra `compact`, and
            `example_input_array` or a map-style training data set); or `"2:4"`, one step to half of the weights.
        prunable: Patterns or a predicate (name, parameter) -> bool; by default the weights of the layers in
            `parameters.LAYERS`: convolutions, linear, recurrent and attention layers.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    criterion: CriterionName | Callable[[Tensor, Tensor], Any] | PreparedCriterion = "magnitude"
    scope: Scope = "global"
    granularity: str = "weight"
    prunable: Prunable = None

    def __post_init__(self) -> None:
        check_criterion_argument(self.criterion)
        arguments.one_of("Cut.scope", self.scope, ("global", "layer"))
        arguments.one_of("Cut.granularity", self.granularity, GRANULARITIES)


#: What is cut where nobody says how: by identity, for a search may have a default of its own.
UNSAID = Cut()
