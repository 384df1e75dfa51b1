"""The names of what is missed."""

from __future__ import annotations

from lightning_classprune.job.report.missed import LISTED, missed_samples, sample_name
from tests.job.report.pages import DENSE, SAMPLES, answers, scores


def test_newly_missed_samples_stand_apart() -> None:
    both = {"test": {"dense": answers(DENSE, "crack"), "delivered": answers(DENSE, "crack")}}
    (old,) = missed_samples(both, SAMPLES, ["crack"])
    assert (old["kind"], old["shown"], old["rest"]) == ("missed by both", ["test3.png"], 0)
    kinds = [
        (one["split"], one["kind"], one["shown"]) for one in missed_samples(scores("crack"), {}, ["crack"])
    ]
    assert kinds == [
        ("guard", "newly missed", ["no. 0", "no. 1"]),
        ("test", "newly missed", ["no. 0", "no. 1"]),
    ]


def test_without_a_delivered_network_nothing_is_said() -> None:
    assert missed_samples({"test": {"dense": answers(DENSE, "crack")}}, SAMPLES, ["crack"]) == []
    assert LISTED > 100


def test_a_sample_has_its_name_or_its_number() -> None:
    assert sample_name(SAMPLES, "guard", 2) == "guard2.png"
    assert sample_name({}, "guard", 2) == "no. 2"
