"""Every test starts alike: one thread, no seed left behind by another test, and a mark that says what it costs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from hypothesis import settings

# A deadline would measure the machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

MARKS = ("unit", "fit", "processes", "job")  # see pyproject.toml
#: The mark of the tests of a folder or module, where they have none of their own; the longest name counts.
COSTS = {
    "": "unit",
    "benchmarks/paper/test_arms": "fit",
    "benchmarks/paper/test_jobs": "job",
    "benchmarks/paper/test_saliency": "fit",
    "benchmarks/test_fair_verdict": "fit",
    "benchmarks/test_guard_replay": "fit",
    "export": "fit",
    "export/test_environment": "processes",
    "export/test_export": "job",
    "guard/test_data": "fit",
    "guard/test_validation_recall": "fit",
    "house/test_commands": "processes",
    "house/test_door": "processes",
    "house/test_mirror": "fit",
    "house/test_packaging": "job",
    "house/test_readme": "job",
    "integration": "fit",
    "integration/test_distributed": "processes",
    "integration/test_judgement_ddp": "processes",
    "integration/test_fsdp2": "processes",
    "integration/test_killed": "processes",
    "job": "job",
    "job/data": "unit",
    "job/objects/test_answers": "unit",
    "job/objects/test_final_test": "fit",
    "job/objects/test_networks": "fit",
    "job/test_kinds": "unit",
    "job/test_beginning": "unit",
    "job/data/test_small": "fit",
    "job/report": "unit",
    "job/report/test_report_app": "job",
    "job/sweep": "unit",
    "job/test_checked": "unit",
    "job/test_classifier": "fit",
    "job/test_config_file": "unit",
    "job/test_final_test": "unit",
    "job/test_ledger_file": "unit",
    "job/test_lock": "unit",
    "job/test_models": "unit",
    "job/test_objective": "unit",
    "job/test_own_process": "processes",
    "job/test_plain_errors": "unit",
    "job/test_reproduction": "unit",
    "job/test_torchvision_models": "fit",
    "job/test_trust": "unit",
    "ledger/test_frame": "fit",
    "pruning/test_class_gradient": "fit",
    "pruning/test_granularities": "fit",
    "pruning/test_scoring": "fit",
    "pruning/test_units": "fit",
    "rounds/test_listening": "fit",
    "rounds/test_rewind": "fit",
    "rounds/test_run_state": "fit",
    "tickets/test_ladder": "fit",
    "trainer/test_other_callbacks": "fit",
}


def pytest_configure() -> None:
    # Processes that tests start inherit this; workers that share two cores must not fight for them.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test exactly one mark of its cost.

    Raises:
        pytest.UsageError: A test has several.
    """
    for item in items:
        own = {mark.name for mark in item.iter_markers() if mark.name in MARKS}
        if len(own) > 1:
            raise pytest.UsageError(f"{item.nodeid} has several marks of its cost: {', '.join(sorted(own))}")
        if not own:
            item.add_marker(cost(item.path))


def cost(path: Path) -> str:
    """The mark of a module's tests."""
    name = path.relative_to(Path(__file__).parent).with_suffix("").as_posix()
    parts = name.split("/")
    named = ("/".join(parts[:length]) for length in range(len(parts), -1, -1))
    return next(COSTS[one] for one in named if one in COSTS)


@pytest.fixture(autouse=True)
def _unit_tests_are_cheap(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that is marked `unit` and trains, or starts a process, fails: the marks are true."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("this test is marked `unit`, but calls Trainer.fit or starts a process")

    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("unit"):
            patch.setattr(lightning.pytorch.Trainer, "fit", refuse)
            patch.setattr(pytorch_lightning.Trainer, "fit", refuse)
            patch.setattr(subprocess, "Popen", refuse)
        yield


@pytest.fixture(autouse=True)
def _own_seed() -> Iterator[None]:
    before = {key: os.environ.pop(key, None) for key in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    yield
    for key, value in before.items():
        os.environ.pop(key, None)
        if value is not None:
            os.environ[key] = value
