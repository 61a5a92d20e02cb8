"""`IsometryTrainer` and Accelerate with the real libraries: right scale, nothing left behind."""

from __future__ import annotations

import functools
import pickle
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isoreg import AutoBeta, InputError, IsometryRegularizer, RecordError, isometry_penalty
from isoreg.integrations import calls

transformers = pytest.importorskip("transformers")
adapter = pytest.importorskip("isoreg.integrations.transformers")
accelerate = pytest.importorskip("accelerate")

N = 12
Y = torch.arange(N) % 3
PIXELS = torch.rand(N, 3, 8, 8, generator=torch.Generator().manual_seed(1))
IDS = torch.randint(1, 20, (N, 6), generator=torch.Generator().manual_seed(1))


SMALL: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTConfig", "ViTForImageClassification", {
        "image_size": 8, "patch_size": 4, "intermediate_size": 8, "hidden_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }),
    "bert": ("BertConfig", "BertForSequenceClassification", {
        "vocab_size": 20, "intermediate_size": 8, "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }),
    "bart": ("BartConfig", "BartForSequenceClassification", {
        "vocab_size": 20, "decoder_ffn_dim": 8, "dropout": 0.0, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_ffn_dim": 8,
    }),
    "t5": ("T5Config", "T5ForSequenceClassification", {
        "vocab_size": 20, "dropout_rate": 0.0, "classifier_dropout": 0.0, "eos_token_id": 2,
        "decoder_start_token_id": 0, "pad_token_id": 0, "d_model": 8, "d_kv": 4, "d_ff": 8,
        "num_layers": 1, "num_heads": 2,
    }),
}  # fmt: skip


def small(name: str) -> Any:
    """A model of three classes, the same at every call."""
    torch.manual_seed(0)
    config, kind, sizes = SMALL[name]
    config = getattr(transformers, config)(num_labels=3, **sizes)
    return getattr(transformers, kind)(config)


vit, bert, bart, t5 = (functools.partial(small, name) for name in SMALL)


class Plain(nn.Module):
    """A model that takes no loss arguments: the Trainer divides its loss itself."""

    main_input_name = "pixel_values"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(pixel_values)
        found = {"logits": logits}
        return found if labels is None else {"loss": F.cross_entropy(logits, labels), **found}


def rows(name: str, values: Tensor) -> list[dict[str, Any]]:
    return [{"labels": int(y), name: v} for v, y in zip(values, Y, strict=True)]


IMAGES = rows("pixel_values", PIXELS)


def trainer(model: Any, folder: Path, data: Any = IMAGES, kind: Any = None, **options: Any) -> Any:
    names = ("isometry", "isometry_labels", "compute_loss_func", "eval_dataset")
    names += ("isometry_reference", "isometry_distances")
    given = {name: options.pop(name) for name in names if name in options}
    args = transformers.TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **{
            "per_device_train_batch_size": 6,
            "max_steps": 1,
            "learning_rate": 0.1,
            "optim": "sgd",
            "max_grad_norm": 0.0,
            "save_strategy": "no",
            "logging_steps": 1,
            "lr_scheduler_type": "constant",
            **options,
        },
    )
    kind = kind or adapter.IsometryTrainer
    return kind(model, args, train_dataset=data, **given)


def trained(*args: Any, **options: Any) -> Any:
    """A Trainer that has trained."""
    found = trainer(*args, **options)
    found.train()
    return found


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The batches that a Trainer trains on from now on."""
    seen: list[dict[str, Tensor]] = []
    original = adapter.IsometryTrainer.compute_loss

    def compute_loss(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if model.training:
            seen.append({k: v.clone() for k, v in inputs.items()})
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(adapter.IsometryTrainer, "compute_loss", compute_loss)
    return seen


def loss_func(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    return F.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch


class Deaf(Plain):
    """It takes loss arguments and does not use them: the Trainer adds its losses up."""

    def forward(self, pixel_values: Tensor, labels: Any = None, **_: Any) -> dict[str, Tensor]:
        return super().forward(pixel_values, labels)


def deaf_func(outputs: Any, labels: Tensor, **_: Any) -> Tensor:
    return F.cross_entropy(outputs["logits"], labels)


def deaf_func_of_any(outputs: Any, labels: Tensor, **_: Any) -> Tensor:
    return outputs["logits"].square().mean()


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("kind", ["vit", "plain", "function", "deaf", "deaf function", "told"])
def test_an_update_weighs_loss_and_penalty_as_one_batch_does_whatever_scales_the_loss(
    kind: str, accumulate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build: Any = {"vit": vit, "told": vit, "deaf": Deaf}.get(kind, Plain)
    functions = {"function": loss_func, "deaf function": deaf_func}
    options = {"compute_loss_func": functions[kind]} if kind in functions else {}
    seen, model, twin = recorded(monkeypatch), build(), build()
    found = trainer(
        model,
        tmp_path,
        isometry={"beta": 0.5},
        gradient_accumulation_steps=accumulate,
        per_device_train_batch_size=N // accumulate,
        **options,
    )
    assert found.model_accepts_loss_kwargs == (kind in {"vit", "deaf", "told"})
    if kind == "told":  # that the loss does not come divided, though it does
        if not hasattr(found, "loss_is_scaled_for_ga"):
            pytest.skip("the first Trainers of transformers 5 are not told")
        found.loss_is_scaled_for_ga = False
    found.train()
    assert len(seen) == accumulate
    twin.train()
    iso = IsometryRegularizer(twin, beta=0.5, inputs=lambda **kw: kw["pixel_values"])
    for batch in seen:
        logits = twin(pixel_values=batch["pixel_values"])
        logits = logits["logits"]
        loss = F.cross_entropy(logits, batch["labels"]) / (accumulate if kind == "told" else 1)
        loss = loss + iso(batch["labels"])
        (loss / (1 if "deaf" in kind else accumulate)).backward()
    for p in twin.parameters():
        if p.grad is not None:
            p.data -= 0.1 * p.grad
    for (name, p), q in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        torch.testing.assert_close(p, q[1], msg=lambda text, name=name: f"{name}: {text}")


def test_token_ids_are_compared_by_their_embeddings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, model, twin = recorded(monkeypatch), bert(), bert()
    found = trained(model, tmp_path, rows("input_ids", IDS), isometry={"beta": 1.0})
    (batch,) = seen
    embed = twin.get_input_embeddings()
    iso = IsometryRegularizer(twin, inputs=lambda input_ids, **_: embed(input_ids))
    twin.train()(**batch)
    (entry,) = [entry for entry in found.state.log_history if "loss" in entry]
    assert entry["isometry/penalty"] == pytest.approx(iso(batch["labels"]).item(), rel=1e-5)


@pytest.mark.parametrize("make", [bart, t5], ids=["bart", "t5"])
def test_of_an_encoder_with_a_decoder_the_encoder_s_embeddings_are_compared(
    make: Any, tmp_path: Path
) -> None:
    ids = torch.randint(3, 20, (N, 6), generator=torch.Generator().manual_seed(1))
    ids[:, -1] = 2  # where a sequence ends, whose features are classified
    data = [{"input_ids": x, "labels": int(y)} for x, y in zip(ids, Y, strict=True)]
    found = trained(
        make(), tmp_path, data, isometry={"beta": 0.5}, per_device_train_batch_size=N, max_steps=1
    )
    twin, entering = make(), []
    (name,) = found.iso.penalties
    twin.get_submodule(name).register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    with torch.no_grad():
        twin(ids)
        embedded = twin.get_encoder().get_input_embeddings()(ids)
        expected = isometry_penalty(embedded, entering[0], Y)
    torch.testing.assert_close(found.iso.penalties[name], expected, rtol=1e-4, atol=1e-6)


def test_a_text_classifier_adds_up_loss_and_penalty_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, model, twin = recorded(monkeypatch), bert(), bert()
    options = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": N // 2}
    trainer(model, tmp_path, data=rows("input_ids", IDS), isometry={"beta": 0.5}, **options).train()
    twin.train()
    iso = IsometryRegularizer(twin, beta=0.5, inputs=twin.get_input_embeddings())
    for batch in seen:
        loss = twin(**batch).loss + iso(batch["labels"])
        loss.backward()
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        expected = q if q.grad is None else q - 0.1 * q.grad
        torch.testing.assert_close(p, expected, msg=lambda text, name=name: f"{name}: {text}")


class Named(nn.Module):
    """Labels of a name of its own, and targets of another kind beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Plain().net

    def forward(self, pixels: Tensor, species: Tensor, boxes: Any = None) -> dict[str, Tensor]:
        logits = self.net(pixels)
        return {"loss": F.cross_entropy(logits, species), "logits": logits}


@pytest.mark.parametrize("how", ["a key", "a function"])
@pytest.mark.parametrize("with_boxes", [False, True])
def test_the_trainers_label_names_are_labels_and_nothing_to_compare_with(
    with_boxes: bool, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = torch.rand(N, 4)
    data: list[dict[str, Any]] = [
        {"pixels": x, "species": int(y)} | ({"boxes": b} if with_boxes else {})
        for x, y, b in zip(PIXELS, Y, boxes, strict=True)
    ]
    seen, model = recorded(monkeypatch), Named()
    options: dict[str, Any] = {"label_names": ["species"]}
    if with_boxes:
        options = {
            "label_names": ["species", "boxes"],
            "isometry_labels": "species" if how == "a key" else lambda batch: batch["species"],
        }
    found = trained(
        model,
        tmp_path,
        data,
        isometry={"beta": 0.5},
        per_device_train_batch_size=N,
        remove_unused_columns=False,
        **options,
    )
    twin, batch = Named(), seen[0]
    with torch.no_grad():
        features = twin.net[:3](batch["pixels"])
        expected = isometry_penalty(batch["pixels"], features, batch["species"])
    torch.testing.assert_close(found.iso.penalties["net.3"], expected)


def test_beside_the_trainers_labels_the_samples_have_as_many_rows_as_the_first_tensor() -> None:
    trainer = types.SimpleNamespace(label_names=["species", "boxes"])
    batch = {"note": "", "step": torch.tensor(3.0), "score": torch.rand(N)}
    batch |= {"table": torch.rand(3, 4), "pixels": PIXELS, "boxes": torch.rand(N, 4)}
    batch["copy"] = batch["species"] = torch.rand(N, 3)  # labels under a second name
    assert torch.equal(adapter.IsometryTrainer._default(trainer)(**batch), PIXELS)


def test_penalties_are_in_the_log_and_the_model_is_as_it_was(tmp_path: Path) -> None:
    model = vit()
    found = trained(model, tmp_path, max_steps=3, isometry={"beta": 0.5}, eval_dataset=IMAGES)
    logs = [entry for entry in found.state.log_history if "loss" in entry]
    assert len(logs) == 3
    for entry in logs:
        assert entry["isometry/penalty"] == pytest.approx(
            0.5 * entry["isometry/penalty/classifier"], rel=1e-5
        )
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    before = found.iso.report().steps
    assert found.evaluate()["eval_loss"] > 0
    assert found.iso.report().steps == before


PLACES = torch.rand(N, 2, generator=torch.Generator().manual_seed(2))
KINDS = (Y + 1) % 2
ANNOTATED: list[dict[str, Any]] = [
    {**row, "place": place, "kind": int(kind), "gaps": gaps}
    for row, place, kind, gaps in zip(
        IMAGES, PLACES, KINDS, torch.cdist(PLACES, PLACES), strict=True
    )
]
FOUND = {"reference": "place", "labels": "kind", "distances": "gaps"}


def expected_penalty(argument: str, model: Any) -> Tensor:
    features = model.net[:3](PIXELS)
    labels = KINDS if argument == "labels" else Y
    reference = PIXELS.flatten(1) if argument == "labels" else PLACES
    return isometry_penalty(reference, features, labels).detach()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("how", ["a key", "a key of unused columns", "a function"])
@pytest.mark.parametrize("argument", FOUND)
def test_what_the_penalty_alone_needs_is_kept_in_the_batch_and_out_of_the_model_s_call(
    argument: str, how: str, compiled: bool, tmp_path: Path
) -> None:
    torch._dynamo.reset()
    key = FOUND[argument]
    finder = (lambda batch: batch[key]) if how == "a function" else key
    found = trainer(
        Plain(),
        tmp_path,
        ANNOTATED,
        eval_dataset=ANNOTATED,
        per_device_train_batch_size=N,
        per_device_eval_batch_size=N,  # as many rows as (N, N) distances have columns
        remove_unused_columns=how == "a key",
        **({"torch_compile": True, "torch_compile_backend": "eager"} if compiled else {}),
        **{f"isometry_{argument}": finder},
    )
    found._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(ANNOTATED)
    found.train()
    torch.testing.assert_close(found.iso.penalties["net.3"], expected_penalty(argument, Plain()))
    assert found.evaluate()["eval_loss"] > 0
    unlabelled = [{k: x for k, x in row.items() if k != "labels"} for row in ANNOTATED]
    assert found.predict(unlabelled).predictions.shape == (N, 3)
    assert not any(m._forward_pre_hooks for m in found.model_wrapped.modules())


class Seeing(Plain):
    def forward(self, pixel_values: Tensor, labels: Any = None, place: Any = None) -> Any:
        assert place.shape == (6, 2)
        return super().forward(pixel_values, labels)


class Taking(Plain):
    def forward(self, pixel_values: Tensor, labels: Any = None, **rest: Any) -> Any:
        assert set(rest) >= {"place", "kind", "gaps"}
        return super().forward(pixel_values, labels)


@pytest.mark.parametrize(("model", "only_used"), [(Seeing, True), (Seeing, False), (Taking, False)])
def test_a_model_gets_what_it_takes_itself(model: Any, only_used: bool, tmp_path: Path) -> None:
    options = {"remove_unused_columns": only_used, "isometry_reference": "place"}
    trainer(model(), tmp_path, ANNOTATED, **options).train()


class Unlabelled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"loss": logits.square().mean(), "logits": logits}


def test_labels_under_a_usual_name_stay_out_of_a_model_without(tmp_path: Path) -> None:
    data = [{"x": x, "y": int(y)} for x, y in zip(PLACES, Y, strict=True)]
    found = trained(Unlabelled(), tmp_path, data, remove_unused_columns=False)
    assert found.iso.report().steps == 1
    other = trainer(Unlabelled(), tmp_path, [{**row, "z": 1} for row in data])
    told = "IsometryTrainer: labels are looked for .* got a mapping with 'x'. Say where they are: "
    told += "isometry_labels=lambda batch: ... With remove_unused_columns=False"
    with pytest.raises(InputError, match=told):
        other.train()


class Weighted(transformers.Trainer):  # type: ignore[misc]
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        kinds = inputs.pop("kind")
        outputs = model(**inputs)
        loss = (outputs["loss"] * kinds).sum()
        return (loss, outputs) if return_outputs else loss


class WeightedIsometry(adapter.IsometryTrainer, Weighted):
    pass


def test_a_loss_of_one_s_own_gets_what_the_model_does_not_take(tmp_path: Path) -> None:
    found = trained(Plain(), tmp_path, ANNOTATED, WeightedIsometry, isometry_labels="kind",
        remove_unused_columns=False, eval_dataset=ANNOTATED)  # fmt: skip
    assert found.evaluate()["eval_loss"] > 0


@pytest.mark.parametrize("argument", FOUND)
def test_what_is_not_in_the_batch_is_named_as_the_trainer_s_argument(
    argument: str, tmp_path: Path
) -> None:
    reading = {f"isometry_{argument}": lambda batch: batch["place"]}
    told = rf"^IsometryTrainer: isometry_{argument} .*'place'.* with '.*', '.*'\."
    told += r".* With remove_unused_columns=False a batch keeps"
    for data, options in ((ANNOTATED, reading), (IMAGES, {f"isometry_{argument}": "place"})):
        with pytest.raises(InputError, match=told):
            trainer(Plain(), tmp_path, data, **options).train()


def test_several_labels_or_targets_are_refused_and_what_is_told_trains(tmp_path: Path) -> None:
    several = [{**row, "labels": [1.0, 1.0, float(k % 2)]} for k, row in enumerate(IMAGES)]
    targets = [{**row, "labels": 0.3 * k} for k, row in enumerate(IMAGES)]
    for data in several, targets:
        with pytest.raises(InputError, match=r"labels=None \(isometry_labels=None of IsometryTr"):
            trainer(small("vit"), tmp_path, data, compute_loss_func=deaf_func_of_any).train()
        trained(
            small("vit"),
            tmp_path,
            data,
            compute_loss_func=deaf_func_of_any,
            isometry_labels=None,
        )


def test_generation_is_without_what_the_penalty_alone_needs(tmp_path: Path) -> None:
    class Generating(adapter.IsometryTrainer, transformers.Seq2SeqTrainer):
        pass

    config = transformers.T5Config(
        vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2,
        decoder_start_token_id=0, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    data = [{"input_ids": x, "labels": x, "place": p} for x, p in zip(IDS, PLACES, strict=True)]
    arguments = transformers.Seq2SeqTrainingArguments(
        str(tmp_path), max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True,
        save_strategy="no", predict_with_generate=True, generation_max_length=3,
    )  # fmt: skip
    found = Generating(
        transformers.T5ForConditionalGeneration(config),
        arguments,
        train_dataset=data,
        eval_dataset=data,
        isometry={"layers": "encoder.block.0"},
        isometry_labels=None,
        isometry_reference="place",
    )
    found.train()
    assert found.iso.report().steps == 1
    assert len(found.predict(data).predictions) == N


class Based(nn.Module):
    """As peft's models are: it passes on what it gets."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def get_base_model(self) -> nn.Module:
        return self.base

    def forward(self, pixel_values: Any = None, **rest: Any) -> Any:
        return self.base(pixel_values, **rest)


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


@pytest.mark.parametrize(
    ("model", "any_other"),
    [(Plain(), False), (Deaf(), True), (Based(Plain()), False), (Around(Plain()), False)],
)
def test_what_a_model_takes_is_looked_up_through_what_passes_all_on(
    model: nn.Module, any_other: bool
) -> None:
    assert calls.names_taken(model) == ({"pixel_values", "labels"}, any_other)


def test_the_model_that_was_compiled_is_found() -> None:
    model = Plain()
    for each in (model, torch.compile(model, backend="eager")):
        assert calls.uncompiled(each) is model


def test_what_is_left_out_of_a_call_no_hook_of_the_model_sees_nor_any_later_call() -> None:
    model, seen = Plain(), []
    model.register_forward_pre_hook(lambda _, args, kw: seen.append({*kw}), with_kwargs=True)
    with calls.leaving_out(model, "labels".__eq__):
        assert "loss" not in model(pixel_values=PIXELS, labels=Y)
    assert "loss" in model(pixel_values=PIXELS, labels=Y)
    assert seen == [{"pixel_values"}, {"pixel_values", "labels"}]


@pytest.mark.parametrize("compiled_by", ["Trainer", "user"])
@pytest.mark.parametrize("isometry", [{}, {"layers": "net.*1"}, {"inputs": "net.1"}])
def test_a_compiled_model_s_layers_are_named_as_those_of_the_model_itself(
    isometry: dict[str, Any], compiled_by: str, tmp_path: Path
) -> None:
    torch._dynamo.reset()
    by_trainer = {"torch_compile": True, "torch_compile_backend": "eager"}
    logs: list[dict[str, Any]] = []
    for options in ({}, by_trainer if compiled_by == "Trainer" else {}):
        model: Any = Deaf()  # as transformers wants a model compiled before
        if logs and compiled_by == "user":
            model = torch.compile(model, backend="eager")
        options = {"remove_unused_columns": False, **options}
        found = trainer(model, tmp_path, isometry=isometry, **options)
        found.train()
        logs.append({k: v for k, v in found.state.log_history[0].items() if "isometry" in k})
    plain, compiled = logs
    assert len(plain) == 3
    assert compiled == pytest.approx(plain, rel=1e-4)


def test_an_error_in_training_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = vit()
    found = trainer(model, tmp_path, isometry_labels=lambda batch: batch["labels"][:2])
    with pytest.raises(InputError, match="IsometryTrainer: 2 labels for a recorded batch of 6"):
        found.train()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_evaluation_during_training_is_without_penalty(tmp_path: Path) -> None:
    found = trained(
        vit(), tmp_path, isometry={"beta": 50.0}, eval_dataset=IMAGES, eval_strategy="steps",
        eval_steps=1, learning_rate=0.0,
    )  # fmt: skip
    (entry,) = [entry for entry in found.state.log_history if "eval_loss" in entry]
    assert not any("isometry" in name for name in entry)
    model = vit().eval()
    expected = F.cross_entropy(model(PIXELS).logits, Y).item()
    assert entry["eval_loss"] == pytest.approx(expected, rel=1e-4)


def test_a_run_resumed_with_auto_beta_is_that_of_one_piece(tmp_path: Path) -> None:
    options = {"isometry": {"beta": AutoBeta(0.3)}, "save_strategy": "steps", "save_steps": 2}
    whole = trainer(Plain(), tmp_path / "whole", max_steps=4, **options)
    whole.train()
    broken = trainer(Plain(), tmp_path / "broken", max_steps=2, **options)
    broken.train()
    resumed = trainer(Plain(), tmp_path / "broken", max_steps=4, **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.iso.report().steps == 2
    assert resumed.iso.beta == pytest.approx(whole.iso.beta, rel=1e-6)


class WithoutPenalty(adapter.IsometryTrainer):
    def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        return model(**inputs)["loss"]


class AlwaysEval(Plain):
    def train(self, mode: bool = True) -> AlwaysEval:
        return super().train(False)


def test_each_process_goes_on_with_its_own_state_and_a_new_one_with_that_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "checkpoint-1"
    for process, beta in ((1, 0.25), (0, 0.5)):  # the first one may be the slower one
        monkeypatch.setattr(transformers.TrainingArguments, "process_index", process)
        found = trainer(Plain(), tmp_path, isometry={"beta": beta})
        found.train()
        found._save_optimizer_and_scheduler(str(checkpoint))
    for process, beta in ((0, 0.5), (1, 0.25), (2, 0.5)):
        monkeypatch.setattr(transformers.TrainingArguments, "process_index", process)
        found = trainer(Plain(), tmp_path, isometry={"beta": 0.1})
        found._resumed = checkpoint
        found._attach(found.model)
        assert found.iso.beta == beta
        found.iso.detach()


@pytest.mark.parametrize(("model", "kind"), [(Plain, WithoutPenalty), (AlwaysEval, None)])
def test_a_training_that_leaves_the_penalty_out_ends_in_its_first_step(
    model: Any, kind: Any, tmp_path: Path
) -> None:
    found = trainer(model(), tmp_path, kind=kind)
    with pytest.raises(RecordError, match="^IsometryTrainer: compute_loss must reach"):
        found.train()


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    found = trainer(Plain(), tmp_path)
    found._resumed = tmp_path
    torch.save({"beta": Plain}, tmp_path / "isometry.pt")
    with pytest.raises(pickle.UnpicklingError):
        found._attach(Plain())


def test_a_trainer_can_train_twice(tmp_path: Path) -> None:
    found = trained(vit(), tmp_path, isometry={"beta": 0.5})
    first = found.iso
    found.train(None, None)  # the Trainer's arguments in their order
    assert found.iso is not first
    assert found.iso.report().steps == 1


def test_a_second_training_asks_anew_how_losses_are_added_up(tmp_path: Path) -> None:
    found = trained(Plain(), tmp_path, gradient_accumulation_steps=2, max_steps=1)
    assert found._loss_is_mean is False
    found.compute_loss_func = loss_func
    found.train()
    assert found._loss_is_mean is True


def test_outside_of_a_training_the_loss_is_the_trainer_s_and_nothing_is_attached(
    tmp_path: Path,
) -> None:
    model = Plain()
    found = trainer(model, tmp_path, isometry={"beta": 0.5})
    batch = {"pixel_values": PIXELS, "labels": Y}
    expected = model(**batch)["loss"]
    torch.testing.assert_close(found.compute_loss(model, dict(batch)), expected)
    found.train()
    expected = model.train()(**batch)["loss"]
    torch.testing.assert_close(found.compute_loss(model, dict(batch)), expected)
    torch.testing.assert_close(found.training_step(model, dict(batch)), expected.detach())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Twice(adapter.IsometryTrainer):
    """Another pass goes before the one that is penalised."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        assert self.iso is not None
        with self.iso.paused():
            other = model(inputs["pixel_values"] + 1)["logits"].square().mean()
        return super().compute_loss(model, inputs, *args, **kwargs) + other


def test_passes_before_the_penalty_can_be_paused_from_the_first_step_on(tmp_path: Path) -> None:
    found = trained(Plain(), tmp_path, kind=Twice, max_steps=2)
    assert found.iso.report().steps == 2


# Accelerate: nothing to adapt


def test_accelerate_accumulates_the_two_lines_as_they_are() -> None:
    updated = []
    for accelerated in (True, False):
        model = Plain()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        iso = IsometryRegularizer(model, beta=0.5)
        parts = [(PIXELS[:6], Y[:6]), (PIXELS[6:], Y[6:])]
        if accelerated:
            accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
            prepared, optimizer = accelerator.prepare(model, optimizer)
            for x, y in parts:
                with accelerator.accumulate(prepared):
                    accelerator.backward(prepared(x, y)["loss"] + iso(y))
                    optimizer.step()
                    optimizer.zero_grad()
        else:
            for x, y in parts:
                ((model(x, y)["loss"] + iso(y)) / 2).backward()
            optimizer.step()
        updated.append(list(model.parameters()))
    for one, other in zip(*updated, strict=True):
        torch.testing.assert_close(one, other)


def test_accelerate_keeps_the_average_of_auto_beta_in_its_checkpoints(tmp_path: Path) -> None:
    betas = []
    accelerator = accelerate.Accelerator(cpu=True)
    for run in range(2):
        model = Plain()
        iso = IsometryRegularizer(model, beta="auto")
        model = accelerator.prepare(model)
        accelerator.register_for_checkpointing(iso)
        if run:
            accelerator.load_state(str(tmp_path))
        else:
            for _ in range(3):
                accelerator.backward(model(PIXELS, Y)["loss"] + iso(Y))
            accelerator.save_state(str(tmp_path))
        betas.append(iso.beta)
        accelerator.free_memory()
        accelerator._custom_objects.clear()
    assert betas[0] == betas[1] > 0
