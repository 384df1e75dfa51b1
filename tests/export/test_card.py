"""The card: every fact in its place, and nothing claimed that is not known."""

from __future__ import annotations

from typing import Any

from lightning_classprune.export import card

FACTS: dict[str, Any] = {
    "format": 1,
    "purpose": "all",
    "advice": "Take `model.onnx`: it is 10.0 times smaller than dense.",
    "claim": "90.0% of the prunable weights are gone: class 'crack' missed 3 of 40 against 4 for the dense network.",
    "class_names": ["ok", "crack"],
    "parameters": 1200,
    "prunable": 1000,
    "kept": 100,
    "sparsity": 0.9,
    "layers": [
        {"name": "0.weight", "shape": [20, 40], "kept": 100, "total": 800},
        {"name": "2.weight", "shape": [10, 20], "kept": 0, "total": 200},
    ],
    "compact": {
        "parameters": [1200, 300],
        "macs": [5000, 1000],
        "nonzero": [100, 90],
        "effective_sparsity": 0.91,
        "collapsed": ["2"],
        "folded": 0,
        "stays": {"0": "unknown operation"},
        "difference": 0.0,
        "kept": {"0": [3, 20]},
    },
    "verdict": {"verdict": "accepted"},
    "ledger": [],
    "thresholds": {},
    "offsets": {},
    "values": "fp32",
    "about": {},
    "environment": {
        "versions": {"torch": "2.14.1", "scipy": None},
        "python": "3.11.7",
        "platform": "Linux",
        "started": "2026-01-01T00:00:00+00:00",
        "git": None,
    },
    "artefacts": {
        "model.onnx": {
            "file": "model.onnx",
            "bytes": 500,
            "sha256": "ab" * 32,
            "max_difference": 2e-7,
            "changed_decisions": 0,
        },
        "ticket.safetensors": {
            "file": "ticket.safetensors",
            "bytes": 400,
            "sha256": "cd" * 32,
            "max_difference": 0.0,
            "changed_decisions": 0,
        },
    },
    "dense_bytes": {"onnx": 5000, "state_dict": 4800},
    "measured": {"cpu": "A processor", "load_average": 1.25, "threads": 1, "runtime": "ONNX Runtime"},
    "latency": {"1": {"dense": 1.5, "model.onnx": 1.25}, "32": {"dense": 12.0, "model.onnx": 12.0}},
    "test": {
        "model.onnx": {
            "ok": {"support": 60, "fn": 2, "fp": 1, "recall": 58 / 60},
            "crack": {"support": 0, "fn": 0, "fp": 2, "recall": None},
        }
    },
}


def lines(**change: Any) -> list[str]:
    return card.markdown({**FACTS, **change}).splitlines()


def test_the_claim_stands_first_and_every_figure_in_a_table() -> None:
    text = lines()
    assert text[2] == FACTS["claim"]
    assert text[4] == f"**{FACTS['advice']}**"
    assert "| prunable weights | 1,000, 900 of them gone: 90.00% sparsity |" in text
    assert "| decision | the largest score |" in text
    assert "| `model.onnx` | 0.5 | 10.0x | 2.0e-07 | 0 | `abababababababab…` |" in text
    assert "| `ticket.safetensors` | 0.4 | 12.0x | 0.0e+00 | 0 | `cdcdcdcdcdcdcdcd…` |" in text
    assert "| batch | dense | model.onnx | " in text
    assert "| 32 | 12 | 12 | " in text
    assert "| model.onnx | ok | 2/60 | 0.9667 | 1 |" in text
    assert "| model.onnx | crack | 0/0 | - | 2 |" in text
    assert "| `0.weight` | 100 | 800 | 87.50% |" in text
    assert "| `2.weight` | 0 | 200 | 100.00% **nothing is left** |" in text
    assert "torch 2.14.1, Python 3.11.7, 2026-01-01T00:00:00+00:00." in text


def test_tables_are_tables() -> None:
    text = lines()
    for number, line in enumerate(text):
        if line.startswith("|---"):
            columns = line.rstrip("| ").count("|")
            assert text[number - 1].rstrip("| ").count("|") in (columns, 0)  # the first has an empty head
            rows = text[number + 1 :]
            body = rows[: next((i for i, row in enumerate(rows) if not row.startswith("|")), len(rows))]
            assert body
            assert {row.rstrip().rstrip("|").count("|") for row in body} == {columns}


def test_what_the_times_depend_on_is_told() -> None:
    assert "on A processor (Linux) at a load average of 1.2. Zeros" in " ".join(lines())
    silent = {"cpu": None, "load_average": None, "threads": 1, "runtime": "ONNX Runtime"}
    assert "on a processor that is not named (Linux). Zeros" in " ".join(lines(measured=silent))


def test_names_with_bars_stay_in_their_cells() -> None:
    counts = {"a|b": {"support": 0, "fn": 0, "fp": 2, "recall": None}}
    text = lines(class_names=["a|b", "c"], test={"model.onnx": counts}, thresholds={"a|b": 0.5})
    assert "| classes | a\\|b, c |" in text
    assert "| model.onnx | a\\|b | 0/0 | - | 2 |" in text
    assert any(line.startswith("| decision | a\\|b if its margin") for line in text)


def test_a_microcontroller_is_told_what_it_needs() -> None:
    code = {
        "file": "model.c",
        "bytes": 900,
        "sha256": "ef" * 32,
        "max_difference": 0.0,
        "changed_decisions": 0,
    }
    code |= {"runtime": "C99", "flash": 14_823, "ram": 81_920, "multiplications": 165_580}
    times = {"1": {"dense": 1.5, "model.c": 0.125}, "32": {"dense": 40.0, "model.c": 4.0}}
    text = lines(artefacts={"model.c": code}, latency=times)
    assert "| 14,823 | 81,920 | 165,580 | 0.125 |" in text
    assert "| `model.c` | 0.9 | - | 0.0e+00 | 0 | `efefefefefefefef…` |" in text
    assert "On a microcontroller" not in "\n".join(lines())


def test_what_is_not_known_is_not_told() -> None:
    text = "\n".join(lines(test={}, latency={}, verdict=None))
    assert "Test data" not in text
    assert "Milliseconds" not in text
    assert "exported without a ledger" in text
    assert "no pruning step was accepted" in "\n".join(lines(verdict={"verdict": "baseline"}))


def test_what_was_removed_and_what_stays_is_told() -> None:
    text = " ".join(lines())
    assert "300 parameters instead of 1,200 and 1,000 multiplications a sample instead of 5,000." in text
    assert "10 kept weights have no effect: the effective sparsity is 91.00%." in text
    assert "**`2` has collapsed**" in text
    assert "* `0` cannot shrink: unknown operation" in lines()
    same = {**FACTS["compact"], "parameters": [1200, 1200], "nonzero": [90, 90], "collapsed": [], "stays": {}}
    text = " ".join(lines(compact=same))
    assert "there is no compact network" in text
    assert "no effect:" not in text


def test_a_dense_network_has_nothing_pruned() -> None:
    text = "\n".join(lines(prunable=0, kept=0, layers=[]))
    assert "prunable" not in text.split("## Files")[0].replace(FACTS["claim"], "")
    assert "by layer" not in text


def test_a_threshold_and_further_facts_are_told() -> None:
    text = "\n".join(lines(thresholds={"crack": -0.125}, about={"seed": 3}))
    assert "crack if its margin is at least -0.125, otherwise the largest of the others" in text
    assert '"seed": 3' in text


def test_an_offset_that_the_network_does_not_contain_is_told() -> None:
    text = "\n".join(lines(offsets={"crack": 0.25}))
    assert (
        "| decision offset | +0.25 added to the score of crack: the ONNX and C files do it; with the others put"
        in text
    )
    assert "decision offset" not in "\n".join(lines())


def test_dense_stands_beside_delivered() -> None:
    dense = {"fn": 4, "support": 40, "fp": 2, "negatives": 60}
    now = dense | {"fn": 3, "newly_missed": 1, "newly_found": 2, "tolerance": 0.05}
    now |= {"fp": 8, "new_alarms": 6, "gone_alarms": 0, "max_fp_rise": 0.1, "fp_risen": True}
    rows = [{"verdict": "baseline", "classes": {"crack": dense}}]
    text = lines(verdict={"verdict": "accepted", "classes": {"crack": now}}, ledger=rows)
    assert "| crack | missed | 4/40 | 3/40 | 1 | 2 | 5 points |" in text
    assert "| crack | false alarms | 2/60 | 8/60 (shown to be more) | 6 | 0 | 10 points |" in text
    assert "which were not guarded" not in "\n".join(text)
    unguarded = {"verdict": "accepted", "classes": {"crack": now | {"max_fp_rise": None}}}
    text = lines(verdict=unguarded, ledger=rows)
    assert "| crack | false alarms | 2/60 | 8/60 (shown to be more) | 6 | 0 | not guarded |" in text
    assert "It promises nothing about false alarms, which were not guarded" in "\n".join(text)


def test_a_class_name_with_a_bar_stays_in_its_cell() -> None:
    text = card.markdown(FACTS | {"class_names": ["ok", "a|b"]})
    assert r"| classes | ok, a\|b |" in text


def test_corruptions_have_dense_beside_delivered() -> None:
    def of(fn: int, fp: int, **known: Any) -> dict[str, Any]:
        return {"fog": {"classes": {"crack": {"fn": fn, "support": 40, "fp": fp, "negatives": 60, **known}}}}

    tested = {"newly_missed": 2, "newly_found": 1, "tolerance": 0.08}
    tested |= {"new_alarms": 3, "gone_alarms": 0, "max_fp_rise": 0.1}
    dense = {"verdict": "baseline", "classes": {}, "corruptions": of(4, 7)}
    told = lines(verdict={"verdict": "accepted", "corruptions": of(5, 10, **tested)}, ledger=[dense])
    assert "## Guard data under corruption" in told
    assert "| fog | crack | missed | 4/40 | 5/40 | 2 | 1 | 8 points |" in told
    assert "| fog | crack | false alarms | 7/60 | 10/60 | 3 | 0 | 10 points |" in told
    assert "## Guard data under corruption" not in lines()


def test_files_with_a_verdict_of_their_own() -> None:
    counts = {"fn": 3, "support": 40, "newly_missed": 2, "newly_found": 1}
    counts |= {"fp": 5, "negatives": 60, "new_alarms": 4, "gone_alarms": 0}
    plain = FACTS["artefacts"]["model.onnx"]
    files = {
        "model.onnx": plain,
        "int8-accepted.onnx": plain
        | {"file": "int8-accepted.onnx", "verdict": "accepted", "reason": "proven", "counts": {"a|b": counts}}
        | {"calibration": {"samples": 512, "sha256": "cd" * 32}},
        "half.onnx": plain
        | {"file": "half.onnx", "verdict": "unproven (not declared)", "reason": "", "counts": None},
    }
    text = lines(artefacts=files)
    assert "| `int8-accepted.onnx` | accepted | a\\|b | 3/40 | 2 | 1 | 5/60 | 4 | 0 |" in text
    assert any(line.startswith("| `half.onnx` | unproven (not declared) | not counted") for line in text)
    assert "* `int8-accepted.onnx` accepted: proven" in text
    assert any("was calibrated on 512 samples" in line for line in text)
    assert any("2 of them have verdicts of" in line for line in text)
    assert not any("verdict of" in line or "verdicts of" in line for line in lines())


def test_classes_that_nobody_protects_have_their_misses() -> None:
    assert "nobody protects" not in card.markdown(FACTS)
    losses = [{"name": "ru|st", "dense": 12, "delivered": 140, "cases": 300}]
    page = card.markdown(FACTS | {"about": {"unprotected": losses}})
    assert "## Classes that nobody protects" in page
    assert "| ru\\|st | 12/300 | 140/300 |" in page
