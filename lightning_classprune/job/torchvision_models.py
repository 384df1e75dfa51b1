"""Torchvision's classification models for the ready-made job, with both ends fitted to the data."""

from __future__ import annotations

import copy
import difflib

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum


def torchvision_model(
    name: str,
    num_classes: int = 2,
    in_channels: int = 3,
    weights: str | WeightsEnum | None = None,
    **kwargs: object,
) -> nn.Module:
    """Build any classification model of `torchvision.models` by name, with its ends fitted to the data.

    Input `(N, in_channels, H, W)`, the sizes allowed being the model's own; output logits `(N, num_classes)`.
    `weights` names pretrained weights ("DEFAULT", "IMAGENET1K_V1", ...); the head is then a new layer of
    `num_classes` outputs. With `in_channels` other than 3 the first convolution is replaced: freshly drawn
    without `weights`, otherwise the mean of the pretrained RGB filters scaled by 3 / in_channels, so that a
    grey image repeated over the channels gives the same activations as before. `kwargs` go to torchvision's
    builder. The auxiliary heads of googlenet and inception_v3 are removed: a loss expects one tensor.

    Raises ValueError for an unknown name (with the closest known names) or a size below 1.
    """
    at_least_one("num_classes", num_classes)
    at_least_one("in_channels", in_channels)
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
        hint = f"did you mean one of {close}?" if close else "see torchvision.models.list_models()."
        raise ValueError(
            f"name={name!r} is not a classification model of torchvision {torchvision.__version__}; {hint}"
        )
    if weights is None:
        model: nn.Module = torchvision.models.get_model(name, num_classes=num_classes, **kwargs)
    else:
        model = torchvision.models.get_model(name, weights=weights, **kwargs)
        replace_head(model, num_classes)
    _drop_auxiliary_heads(model)
    if in_channels != 3:
        replace_stem(model, in_channels, keep_filters=weights is not None)
    return model


def replace_head(model: nn.Module, num_classes: int) -> None:
    """Replace the model's last linear or convolution layer by a fresh one with `num_classes` outputs.

    In every classification model of torchvision that layer, in the order of `named_modules()`, is the
    classifier. Raises ValueError when the model has no such layer.
    """
    name, head = _ends(model)[1]
    if isinstance(head, nn.Linear):
        like = {"device": head.weight.device, "dtype": head.weight.dtype}
        new: nn.Module = nn.Linear(head.in_features, num_classes, bias=head.bias is not None, **like)
    else:
        new = _like(head, head.in_channels, num_classes)
    _set_module(model, name, new)


def replace_stem(model: nn.Module, in_channels: int, *, keep_filters: bool) -> None:
    """Put a convolution of `in_channels` input channels in place of the model's first one.

    With `keep_filters` every input channel gets the mean of the old filters over their C input channels,
    times C / in_channels: an image with equal channels keeps its activations. Otherwise the filters are
    freshly drawn. Raises ValueError when the model's first weight layer is not an ungrouped convolution.
    """
    name, stem = _ends(model)[0]
    if not isinstance(stem, nn.Conv2d) or stem.groups != 1:
        raise ValueError(f"the first layer {name!r} of {type(model).__name__} is no plain Conv2d: {stem}")
    new = _like(stem, in_channels, stem.out_channels)
    if keep_filters:
        with torch.no_grad():
            new.weight.copy_(_spread_channels(stem.weight, in_channels))
            if stem.bias is not None and new.bias is not None:
                new.bias.copy_(stem.bias)
    _set_module(model, name, new)
    if hasattr(model, "transform_input"):
        # Pretrained, googlenet and inception_v3 renormalise the input channels 0, 1 and 2 by index.
        model.transform_input = False  # type: ignore[assignment]


def _drop_auxiliary_heads(model: nn.Module) -> None:
    # Torchvision refuses aux_logits=False together with weights, so they go after the model is built.
    if hasattr(model, "aux_logits"):
        model.aux_logits = False  # type: ignore[assignment]
    for name in ("aux1", "aux2", "AuxLogits"):
        if hasattr(model, name):
            setattr(model, name, None)


def _spread_channels(weight: Tensor, in_channels: int) -> Tensor:
    mean = weight.mean(dim=1, keepdim=True)
    return mean.expand(-1, in_channels, -1, -1) * (weight.shape[1] / in_channels)


def _ends(model: nn.Module) -> tuple[tuple[str, nn.Linear | nn.Conv2d], tuple[str, nn.Linear | nn.Conv2d]]:
    """Name and module of the first and of the last layer that holds a weight matrix."""
    layers = [(name, m) for name, m in model.named_modules() if name and isinstance(m, nn.Linear | nn.Conv2d)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no named Linear or Conv2d layer to replace.")
    return layers[0], layers[-1]


def _like(conv: nn.Conv2d, in_channels: int, out_channels: int) -> nn.Conv2d:
    """Return a fresh ungrouped convolution with the geometry of `conv` and other channel counts."""
    new = copy.deepcopy(conv)
    new.in_channels, new.out_channels = in_channels, out_channels
    new.weight = nn.Parameter(conv.weight.new_empty(out_channels, in_channels, *conv.kernel_size))
    if conv.bias is not None:
        new.bias = nn.Parameter(conv.weight.new_empty(out_channels))
    new.reset_parameters()
    return new


def _set_module(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)


def at_least_one(argument: str, value: int) -> int:
    """Return `value`, or raise ValueError with the name of the argument."""
    if value < 1:
        raise ValueError(f"{argument}={value} must be at least 1.")
    return value
