"""What a table may publish: controls of equal chances, named ends, images, commits."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import check, images, provenance
from benchmarks.check import RESULTS, committed, lab_of
from benchmarks.claims import Entry, Unfair, below, comparable, demand_controls, ends
from benchmarks.images import SEEN, SET_ASIDE, SIZES, Part, Uses, faults, rows
from benchmarks.results import Results, read
from benchmarks.structure import fairness
from benchmarks.structure.cifar import CIFAR_TRIALS
from benchmarks.structure.training import chosen_strengths
from benchmarks.structure.trials import TRIALS, Trial, isometry
from benchmarks.studies import STUDIES
from benchmarks.study import Lab, Study, expected, new_lab

COMMITTED = {
    name: made for name, made in committed(STUDIES).items() if (RESULTS / f"{name}.json").exists()
}
FAIR = {
    "ours": Entry((0.1, 1.0, 10.0), 1.0, "control"),
    "control": Entry((0.01, 0.1, 1.0, 10.0), 0.1),
    "rival": Entry((1.0, 2.0, 3.0), 2.0),
    "plain": Entry(),
}


def test_a_control_of_wider_grid_is_fair_and_then_nothing_is_said() -> None:
    assert below(FAIR) == ""


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"control": Entry((0.01, 0.1), 0.1)}, "'ours' was chosen from .*try the control at 1, 10"),
        ({"ours": Entry((0.1, 1.0), 1.0, "elsewhere")}, "its control 'elsewhere' is not in the"),
        ({"ours": Entry((), 1.0, "control")}, "'ours' has strength 1.0, its control 0.1"),
        ({"rival": Entry((1.0, 2.0), 5.0)}, "'rival': its strength 5 is none of 1, 2"),
    ],
)
def test_a_row_without_a_control_of_equal_grid_is_refused(
    changed: dict[str, Entry], sentence: str
) -> None:
    with pytest.raises(Unfair, match=sentence):
        demand_controls(FAIR | changed)


def test_choices_at_both_ends_are_named_and_those_in_between_are_not() -> None:
    entries = FAIR | {"low": Entry((1.0, 2.0, 4.0), 1.0), "high": Entry((1.0, 2.0), 2.0)}
    assert ends(entries) == (
        "Chosen at the largest of what was tried, so the best may lie beyond: high (2 of 2). "
        "Chosen at the smallest of what was tried, below which it comes to training without it: "
        "low (1 of 3)."
    )
    assert ends({"fixed": Entry((), 1.0), "single": Entry((1.0,), 1.0)}) == ""


def test_a_row_that_has_no_control_says_why_below_the_table() -> None:
    assert "Without a control: ours (no gain is claimed)." in below({
        "ours": Entry((0.1, 1.0), 1.0, "", "no gain is claimed")
    })


def test_strengths_that_the_control_was_not_tried_at_take_no_part_in_the_choice() -> None:
    assert comparable((3.0, 1.0, 0.1), (0.1, 0.3, 1.0)) == (0.1, 1.0)
    assert comparable((3.0, 1.0), None) == (1.0, 3.0)

    def tried(method: str, strength: float, fine: float) -> dict[str, Any]:
        figures = {"coarse": 0.9, "10 a class": fine}
        return {"key": {"method": method, "strength": strength}, "figures": figures}

    runs = [tried("cross-entropy", 0.0, 0.1)]
    runs += [tried("ours", strength, strength) for strength in (0.1, 1.0, 3.0)]
    runs += [tried("control", strength, 0.5) for strength in (0.1, 1.0)]
    assert chosen_strengths(runs)["ours"] == 3
    assert chosen_strengths(runs, controls={"ours": "control"})["ours"] == 1
    with pytest.raises(KeyError):
        chosen_strengths(runs, controls={"ours": "control"})["its control"]


def test_the_control_of_a_trial_is_the_same_trial_shuffled() -> None:
    of = fairness.controls(TRIALS | CIFAR_TRIALS)
    assert of["isometry, manifold"] == "control: manifold, shuffled"
    assert of["isometry, contrastive"] == "control: contrastive, shuffled"
    assert "control: constant distance" not in of
    assert "manifold predicted by a head" not in of
    trials = {
        "a": isometry((1.0, 2.0), 1.0),
        "other": isometry((1.0, 2.0), 1.0, "x", shuffled=True),
    }
    with pytest.raises(Unfair, match="'a': its control 'its control' is not in the table"):
        demand_controls(fairness.entries(trials))
    demand_controls(fairness.entries(trials, {"a": "no gain"}))


def study(**fields: Any) -> Study[Any]:
    def tables(_: object) -> str:
        return "# A table\n"

    keys: Any = lambda _: [{"method": "isometry", "seed": 0}]  # noqa: E731
    found: Study[Any] = Study("one", lambda quick: Entry(), keys, lambda *_: {}, tables, **fields)
    return found


RUN = {"key": {"method": "isometry", "seed": 0}, "figures": {}, "commit": "abc1234", "made": "x"}


def test_a_study_of_our_method_that_says_nothing_of_controls_is_not_published() -> None:
    found = {"runs": [RUN]}
    with pytest.raises(Unfair, match="one: a method of ours without"):
        study().page(found)
    assert "Without a control: a trial." in study(without_control="a trial").page(found)
    with pytest.raises(Unfair, match="try the control at 10"):
        unfair = FAIR | {"control": Entry((0.1, 1.0), 0.1)}
        study(entries=lambda _: unfair).page(found)
    assert study().page({"runs": []}) == "# A table\n"


def test_the_trials_of_every_study_are_fair_by_their_committed_runs() -> None:
    ruled = [name for name, (each, _) in COMMITTED.items() if each.entries]
    assert len(ruled) >= 9
    for name in ruled:
        each, options = COMMITTED[name]
        lab: Lab[Any] = lab_of(each, options, RESULTS / f"{name}.json")
        list(expected(each, lab))
        assert each.entries is not None
        entries = each.entries(lab.found())
        demand_controls(entries)
        assert any(entry.control or entry.without for entry in entries.values()) or name == "rivals"


def test_features_are_not_probed_without_the_inputs_beside_them() -> None:
    uses = Uses((), (), (Part("torus", seeds=(5,)),))
    probed = {**RUN, "key": {"method": "a", "seed": 0}, "figures": {"test": {"few-shot": 0.5}}}
    raw = {**probed, "key": {"method": "raw pixels", "seed": 0}}
    with pytest.raises(Unfair, match="features are probed and the inputs are not"):
        study(uses=uses).page({"runs": [probed]})
    assert "Without" not in study(uses=uses).page({"runs": [probed, raw]})
    with pytest.raises(Unfair, match="features are probed"):
        study(uses=uses).page({"runs": [probed, {**raw, "figures": {}}]})
    assert "Without the raw inputs: elsewhere." in study(uses=uses, without_raw="elsewhere").page({
        "runs": [probed]
    })
    assert study().page({"runs": [probed]}), "what is chosen on validation data is no claim"


def test_parts_count_their_images_and_overlaps() -> None:
    third = rows("digits test", 0, 360, step=3)
    assert len(third.members()) == 120
    assert str(third) == "digits test, 0 to 360, one in 3"
    assert images.overlap(third, rows("digits test", 180, 360)) == 60
    assert images.overlap(third, rows("digits train", 0, 360)) == 0
    mixed = rows("digits test", 0, 36, shuffled=True)
    assert len(mixed.members()) == 36
    assert mixed.members() != rows("digits test", 0, 36).members()
    rest = Part("digits test", but=third)
    assert rest.members() | third.members() == Part("digits test").members()
    assert images.overlap(rest, third) == 0
    assert str(rest) == f"digits test, but {third}"
    assert images.overlap(Part("torus", seeds=(1, 2)), Part("torus", seeds=(2, 3))) == 1


def test_what_is_measured_on_images_that_were_chosen_or_trained_on_is_refused() -> None:
    part = rows("digits test", 0, 100)
    assert not faults(Uses((Part("digits train"),), (), (part,)))
    for uses in (Uses((part,), (), (part,)), Uses((), (part,), (part,))):
        assert "measured on 100 images" in faults(uses)[0]
        with pytest.raises(ValueError, match="measured on 100 images"):
            images.sentence(uses)
    kept = Part("CIFAR-10 train", (12_000, 12_100, 1), shuffled=True)
    assert "images that are set aside" in faults(Uses((kept,)))[0]


def test_no_study_reads_what_is_set_aside_or_measures_on_what_it_was_chosen_on() -> None:
    assert [study.name for study in STUDIES if faults(study.uses)] == []
    assert sum(len(part.members()) for part in SET_ASIDE) > 25_000
    assert all(images.overlap(part, seen) == 0 for part in SET_ASIDE for seen in SEEN)


def test_a_table_says_whether_a_choice_had_seen_its_images() -> None:
    seen = images.sentence(Uses((), (rows("MNIST train", 0, 5),), (Part("MNIST test"),)))
    assert "measured on MNIST test, chosen on MNIST train, 0 to 5." in seen
    assert "no image of it is left that no choice has seen" in seen
    fresh = Uses((), (), (Part("torus", seeds=(5,)),))
    assert images.sentence(fresh) == (
        "Images: measured on torus drawn with seed 5, nothing was chosen."
    )
    assert images.as_field(fresh)["unseen"] is True
    assert images.as_field(Uses((), (), (Part("MNIST test"),)))["unseen"] is False


def test_every_study_with_images_says_which() -> None:
    for name, (each, _) in COMMITTED.items():
        uses_images = each.data != "none" and not name.startswith(("attacks", "census"))
        assert bool(each.uses.trained) or not uses_images, name


def test_another_field_of_images_is_found_by_the_check(tmp_path: Path) -> None:
    uses = Uses((), (), (Part("torus", seeds=(5,)),))
    one = study(uses=uses, without_control="a trial")
    path = tmp_path / "one.json"
    lab = new_lab(one, path)
    lab.results.add({"method": "isometry", "seed": 0}, {}, {})
    assert [found.images for found in check.check([one], tmp_path)] == [True]
    other = replace(one, uses=Uses((), (), (Part("torus", seeds=(6,)),)))
    assert [found.images for found in check.check([other], tmp_path)] == [False]


def test_runs_whose_source_cannot_be_looked_up_are_counted_below_the_table() -> None:
    lost = next(iter(provenance.LOST))
    runs = [{"commit": name} for name in ("1234567", lost, "1234567 with changes", None)]
    assert provenance.doubts(runs) == (
        "Provenance: of 4 runs, 1 name a commit that the history does not have, 1 were made with "
        "changes that no commit holds, 1 name no commit."
    )
    assert provenance.doubts(runs[:1]) == ""


def test_every_commit_that_runs_name_is_in_the_history_or_named_as_lost() -> None:
    root = RESULTS.parent.parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    if git("rev-parse", "--is-shallow-repository") != "false":
        pytest.skip("no whole history here")
    history = git("log", "--format=%H").split()
    named = {
        run["commit"].split()[0]
        for path in RESULTS.glob("*.json")
        for run in read(path)["runs"]
        if run["commit"] and "with" not in run["commit"]
    }
    there = {name for name in named if any(commit.startswith(name) for commit in history)}
    assert named - there == provenance.LOST & named


def test_no_run_was_made_with_changes_but_those_that_are_older_than_the_rule() -> None:
    older = {"robust": 21, "structure-cifar": 68, "structure-digits": 5}
    found = {findings.file[:-5]: findings.uncertain for findings in check.check(STUDIES)}
    assert {name for name, count in found.items() if count > older.get(name, 0)} == set()


def test_results_without_images_are_still_read_and_gain_them_with_the_next_run(
    tmp_path: Path,
) -> None:
    path = tmp_path / "one.json"
    Results(path, "one", {}).add({"seed": 0}, {}, {})
    assert read(path)["images"] == {}
    Results(path, "one", {}, {"measured": ["x"]}).add({"seed": 1}, {}, {})
    held = read(path)
    assert (len(held["runs"]), held["images"]) == (2, {"measured": ["x"]})


def test_trials_are_described_by_what_they_do_and_not_by_their_strengths() -> None:
    assert Trial("jacobian", (1.0,)).describe() == Trial("jacobian", (2.0, 3.0), 2.0).describe()


def test_sizes_of_the_bundled_digits_are_those_of_the_data() -> None:
    from isoreg.datasets import digits

    for part in ("train", "validation", "test"):
        assert len(digits(part)[0]) == SIZES[f"digits {part}"]
