"""Command lines of the studies, made from the options that each study declares."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.results import locked
from benchmarks.study import Study, execute, new_lab
from isoreg._devices import pick_device
from isoreg.errors import IsoregError

_DATA = ("mnist", "digits")
_COMMON: dict[str, Any] = {
    "quick": Annotated[bool, typer.Option("--quick", help="Quickly; figures mean nothing.")],
    "seeds": Annotated[int, typer.Option(min=1, help="Number of seeds.")],
    "data_dir": Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder with the data; default: $ISOREG_DATA, or a download.",
        ),
    ],
    "device": Annotated[str, typer.Option(help="A torch device.")],
    "out": Annotated[Path | None, typer.Option(help="JSON file; default: runs/NAME.json.")],
}


def options_of(study: Study[Any]) -> dict[str, inspect.Parameter]:
    """The options of one study beside the common ones: the parameters of its ``settings``."""
    parameters = inspect.signature(study.settings, eval_str=True).parameters
    return {name: parameter for name, parameter in parameters.items() if name != "quick"}


def takes(study: Study[Any]) -> list[str]:
    """The names of all options of a study, the common ones first."""
    common = ["quick", *["seeds"] * (study.seeds > 0), *["data_dir"] * (study.data != "none")]
    return [*common, *["device"] * study.device, "out", *options_of(study)]


def command_of(studies: Sequence[Study[Any]]) -> Callable[..., None]:
    """A function for typer; its signature has the options of all parts of the command."""
    parameters = _parameters(studies)
    names = [study.part or "training" for study in studies]

    def command(**given: Any) -> None:
        part = given.pop("part", names[0])
        if part not in names:
            raise typer.BadParameter(f"--part must be one of {', '.join(names)}, got {part!r}")
        study = studies[names.index(part)]
        common = {name: given.pop(name) for name in _COMMON if name in given}
        changed = {n: v for n, v in given.items() if v != parameters[n].default}
        if foreign := set(changed) - set(options_of(study)):
            flags = ", ".join("--" + name.replace("_", "-") for name in sorted(foreign))
            raise typer.BadParameter(f"{flags}: no option of --part {study.part}")
        quick, out = common.pop("quick"), common.pop("out")
        common["seeds"] = 1 if quick else common.get("seeds", 1)
        common["workers"] = changed.get("workers", 0)
        out = out or Path("runs") / f"{study.name}{'-quick' * quick}.json"
        try:
            _check_out(out)
            if "device" in common:
                common["device"] = str(pick_device(common["device"]))
                if "device" in options_of(study):
                    changed["device"] = common["device"]
            lab = new_lab(study, out, quick=quick, options=changed, **common)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        try:
            execute(study, lab, Console())
        except IsoregError as error:
            if error.caller not in _DATA:
                raise
            raise SystemExit(str(error)) from error  # missing data are no bug of ours

    command.__name__ = studies[0].command
    command.__doc__ = f"Measure: {'; '.join(study.shows for study in studies)}."
    command.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    command.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return command


def _check_out(out: Path) -> None:
    """Refuse an unusable output file at once, because the first run may take hours."""
    if out.suffix != ".json":
        raise ValueError(
            f"--out must end in .json, got {out.name}: table and figure are saved beside it, in "
            "files of its name that end in .md and .png"
        )
    try:
        with locked(out):
            pass
    except OSError as error:
        raise ValueError(f"--out must be where files can be written ({error})") from error


def _parameters(studies: Sequence[Study[Any]]) -> dict[str, inspect.Parameter]:
    names = dict.fromkeys(name for study in studies for name in takes(study))
    defaults = {"quick": False, "seeds": studies[0].seeds, "device": "cpu"}
    parameters = {
        name: _keyword(name, _COMMON[name], defaults.get(name)) for name in names if name in _COMMON
    }
    if len(studies) > 1:
        parts = [study.part or "training" for study in studies]
        choice = typer.Option(help=f"What to run: {', '.join(parts)}.")
        parameters["part"] = _keyword("part", Annotated[str, choice], parts[0])
    for study in studies:
        for name, parameter in options_of(study).items():
            if name not in _COMMON:
                parameters.setdefault(name, _keyword(name, parameter.annotation, parameter.default))
    return parameters


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, annotation=annotation, default=default)
