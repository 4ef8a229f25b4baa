"""Compares the logits of base plus LoRA, unmerged, with those of the merged model that came back from the store."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from contracts.facts import Parity
from contracts.vocabulary import digest_of
from services.merger.domain import PARITY_PROMPTS, PROBE_CONVERSATION

Progress = Callable[[int, int], None]


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a model folder, never code from it."""
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def render_probe(tokenizer: Any) -> str | None:
    """Render the probe conversation; None for a model without a chat template."""
    if not tokenizer.chat_template:
        return None
    rendered: str = tokenizer.apply_chat_template(list(PROBE_CONVERSATION), tokenize=False, add_generation_prompt=True)
    return rendered


def rendered_prompt_digest(folder: Path) -> str | None:
    """Give the digest of the rendered probe conversation."""
    rendered = render_probe(load_tokenizer(folder))
    return None if rendered is None else digest_of(rendered.encode())


def tokenizer_differences(base: Path, checkpoint: Path) -> list[str]:
    """Say in what the checkpoint's own tokenizer differs from the base's; empty when it brings none.

    Files may differ byte by byte when another library version saved them, so the comparison is by meaning.
    """
    if not (checkpoint / "tokenizer_config.json").is_file() and not (checkpoint / "tokenizer.json").is_file():
        template = checkpoint / "chat_template.jinja"
        ours = load_tokenizer(base).chat_template
        return ["chat template"] if template.is_file() and template.read_text(encoding="utf-8") != ours else []
    mine, theirs = load_tokenizer(base), load_tokenizer(checkpoint)
    text = " ".join(PARITY_PROMPTS) + "".join(turn["content"] for turn in PROBE_CONVERSATION)
    compared = {
        "vocabulary": (mine.get_vocab(), theirs.get_vocab()),
        "token ids of a probe text": (mine(text)["input_ids"], theirs(text)["input_ids"]),
        "chat template": (mine.chat_template, theirs.chat_template or mine.chat_template),
        "end of text token": (mine.eos_token, theirs.eos_token),
    }
    return [what for what, (ours, other) in compared.items() if ours != other]


def encode_prompts(tokenizer: Any, prompts: Sequence[str]) -> list[torch.Tensor]:
    """Turn the prompts into token ids, as a user's message where the model has a chat template."""
    encoded = []
    for prompt in prompts:
        text = prompt
        if tokenizer.chat_template:
            turn = [{"role": "user", "content": prompt}]
            text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        encoded.append(tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"])
    return encoded


def load_model(folder: Path, adapter: Path | None = None) -> Any:
    """Load a model in float32, with a LoRA beside it when there is one."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False, local_files_only=True, use_safetensors=True
    )
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    return model.eval()


def logits_of(model: Any, prompts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Give the float32 logits at every position of every prompt."""
    with torch.no_grad():
        return [model(input_ids=ids).logits[0].float() for ids in prompts]


def measure_parity(reference: Path, adapter: Path | None, stored: Path, progress: Progress) -> Parity:
    """Compare `reference` (plus `adapter`, unmerged) with the merged model that was stored.

    KL is KL(reference || merged), the mean over all positions, in nats.

    Raises:
        ArithmeticError: either side gives logits that are not finite.
    """
    prompts = encode_prompts(load_tokenizer(stored), PARITY_PROMPTS)
    model = load_model(reference, adapter)
    expected = logits_of(model, prompts)
    progress(1, 3)
    effect = None
    if adapter is not None:
        with model.disable_adapter():
            effect = compare(expected, logits_of(model, prompts)).mean_kl
    del model
    progress(2, 3)
    found = logits_of(load_model(stored), prompts)
    progress(3, 3)
    return compare(expected, found).model_copy(update={"effect_kl": effect})


def compare(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> Parity:
    """Reduce two lists of logits (positions by vocabulary) to the figures of parity.

    Raises:
        ArithmeticError: either side holds NaN or infinity.
    """
    if not all(bool(torch.isfinite(logits).all()) for logits in [*expected, *found]):
        msg = "the logits of one side hold NaN or infinity"
        raise ArithmeticError(msg)
    largest = max(float((ours - theirs).abs().max()) for ours, theirs in zip(expected, found, strict=True))
    mine, theirs = torch.cat(list(expected)), torch.cat(list(found))
    log_p, log_q = torch.log_softmax(mine, dim=-1), torch.log_softmax(theirs, dim=-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean()
    agreement = (mine.argmax(dim=-1) == theirs.argmax(dim=-1)).float().mean()
    return Parity(
        prompts=len(expected),
        max_abs_logit_difference=largest,
        mean_kl=max(0.0, float(kl)),  # rounding can leave -1e-9
        top1_agreement_ratio=float(agreement),
    )
