"""A small model of each module of timm, and small transformers with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from benchmarks.library.census_check import Subject
from isoreg.errors import import_extra


def timm_modules() -> list[str]:
    """Names of timm's modules that hold models."""
    import timm

    return sorted(name for name in timm.list_modules() if timm.list_models(module=name))


def timm_subject(module: str) -> Subject:
    """A small model of a timm module.

    Of the models whose names hint at a small size (or of all, if none does), the first eight are
    compared, and the one with the fewest parameters is taken.
    """
    import timm

    names = timm.list_models(module=module)
    small = [name for name in names if any(hint in name for hint in _SMALL)]
    smallest = min((small or names)[:8], key=_parameters)
    config = timm.get_pretrained_cfg(smallest)
    size = config.input_size if config else (3, 224, 224)
    build = partial(timm.create_model, smallest, num_classes=10)
    if size[-1] > _LARGE and module.endswith("vit"):  # tokens grow with the square of the side
        build, size = partial(build, img_size=336), (3, 336, 336)
    name = f"{module}: {smallest}"
    if _parameters(smallest) > _HUGE:  # all of it does not fit into 20 GB
        build, name = partial(build, depth=2), f"{name}, 2 blocks"
    return Subject(name, build, lambda: torch.randn(4, *size), {})


_LARGE = 448
_HUGE = 4e8
_SMALL = ("test_", "tiny", "nano", "atto", "pico", "femto", "xx", "xs", "small", "mini", "micro")


def _parameters(name: str) -> float:
    """Number of parameters, counted without memory for them; infinity if that fails."""
    import timm

    try:
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=10)
    except Exception:  # some models compute with their weights while they are built
        return float("inf")
    return float(sum(p.numel() for p in model.parameters()))


def transformers_subjects() -> Iterator[Subject]:
    """Small random transformers; text is compared by embeddings, images and sound by the input."""
    hf = import_extra("transformers", "transformers")

    def tokens() -> dict[str, Tensor]:
        return {"input_ids": torch.randint(1, 90, (4, 12))}

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    small |= {"intermediate_size": 64, "num_labels": 10}
    text = small | {"vocab_size": 99, "max_position_embeddings": 64, "pad_token_id": 0}

    yield Subject(
        "transformers: BERT",
        lambda: hf.BertForSequenceClassification(hf.BertConfig(**text)),
        tokens,
        {"inputs": "bert.embeddings"},
    )
    gpt = hf.GPT2Config(
        n_embd=32, n_layer=2, n_head=2, n_positions=64, vocab_size=99, num_labels=10, pad_token_id=0
    )
    yield Subject(
        "transformers: GPT-2",
        lambda: hf.GPT2ForSequenceClassification(gpt),
        tokens,
        {"inputs": "transformer.wte"},
    )
    llama = hf.LlamaConfig(**text, num_key_value_heads=2)
    yield Subject(
        "transformers: Llama",
        lambda: hf.LlamaForSequenceClassification(llama),
        tokens,
        {"inputs": "model.embed_tokens"},
    )
    yield from _pixels_and_sound(hf, small)


def _pixels_and_sound(hf: ModuleType, small: dict[str, int]) -> Iterator[Subject]:
    yield Subject(
        "transformers: ViT",
        lambda: hf.ViTForImageClassification(hf.ViTConfig(**small, image_size=32, patch_size=8)),
        lambda: {"pixel_values": torch.randn(4, 3, 32, 32)},
        {},
    )
    whisper = hf.WhisperConfig(
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        num_mel_bins=8,
        max_source_positions=16,
        num_labels=10,
    )
    yield Subject(
        "transformers: Whisper encoder",
        lambda: hf.WhisperForAudioClassification(whisper),
        lambda: {"input_features": torch.randn(4, 8, 32)},
        {},
    )
