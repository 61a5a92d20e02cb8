"""The list of all studies."""

from __future__ import annotations

from typing import Any

from benchmarks.encoders import study as encoders
from benchmarks.library import attacks, auto, census, certified, scaling, speed, stepcost
from benchmarks.maps import study as maps
from benchmarks.paper import journal, mnist, rings, torus
from benchmarks.rivals import study as rivals
from benchmarks.robust import study as robust
from benchmarks.structure import cifar, digits, distances_report, small, together
from benchmarks.study import Study
from benchmarks.timm_models import experiment as timm

STUDIES: tuple[Study[Any], ...] = (
    *(mnist.STUDY, journal.STUDY, rings.STUDY, torus.STUDY, rivals.STUDY, robust.STUDY),
    *(digits.DIGITS, digits.SEARCH, small.RECIPE, cifar.STUDY),
    *(distances_report.STUDY, attacks.STUDY, certified.STUDY, census.STUDY, auto.STUDY),
    *(timm.STUDY, speed.STUDY, stepcost.STUDY, scaling.STUDY),
    *(encoders.STUDY, *together.STUDIES, maps.STUDY),
)


def by_command() -> dict[str, list[Study[Any]]]:
    """The studies of each command, which are its parts."""
    commands: dict[str, list[Study[Any]]] = {}
    for study in STUDIES:
        commands.setdefault(study.command, []).append(study)
    return commands
