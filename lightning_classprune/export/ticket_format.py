"""The packed ticket as a file to deploy: masks, weights and what is known of them."""

from __future__ import annotations

import copy
from pathlib import Path

from lightning_classprune.export.artefact import NOT_DECLARED, Artefact, Spec
from lightning_classprune.export.checks import TOLERANCES, in_memory
from lightning_classprune.export.deployed import Deployed
from lightning_classprune.tickets.loading import fill_from_ticket
from lightning_classprune.tickets.ticket_file import save_ticket


class TicketFormat:
    """`ticket.safetensors`, read back into a copy of the network."""

    name = "ticket"
    extra = None

    def write(self, rule: Deployed, folder: Path, spec: Spec) -> list[Artefact]:
        """Write the file; with fp32 values it gives the network bit for bit."""
        path, twin = folder / "ticket.safetensors", copy.deepcopy(rule)
        as_judged = spec.values == "fp32"
        told = (spec if as_judged else spec.undeclared()).told
        save_ticket(path, rule.network.state_dict(), spec.masks, card=told, values=spec.values)
        content = fill_from_ticket(path, twin.network).sha256
        tolerance = 0.0 if as_judged else TOLERANCES[spec.values]
        verdict = None if as_judged else NOT_DECLARED
        return [
            Artefact(path, in_memory(twin), tolerance, facts={"content_sha256": content}, verdict=verdict)
        ]
