#!/usr/bin/env python3
"""Writes fixtures/weighted.safetensors: what the tiny SD3 model's encoders give for prompts with weights and for a long one.

usage: python scripts/make_weighted.py

The encoders are transformers'; the rule is ComfyUI's (`ClipTokenWeightEncoder.encode_token_weights`): a token of another
weight than 1 is moved along the line from the empty text's token at its place, CLIP reads a long text in runs of 77 tokens
with their own marks, and the first run's pooled vector is the text's. Each case of crates/generate/tests/weighted.rs has
`NAME/context` and `NAME/pooled`. Needs torch, diffusers, transformers and safetensors.
"""

from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import save_file

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
T5_LENGTH = 128
ROOM = 75

# Parts of a text and their weights. Every part begins a word.
WEIGHED = [("a photo of a", 1.0), ("red cat", 1.5), ("on", 1.0), ("grass", 1 / 1.1), ("with dogs", -0.5)]
LONG = [(" ".join(f"word {number} of many" for number in range(40)), 1.0), ("and a castle", 2.0)]


def ids_and_weights(tokenizer, parts):
    ids, weights = [], []
    for text, weight in parts:
        part = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += part
        weights += [weight] * len(part)
    return ids, weights


def clip_runs(tokenizer, parts):
    """Rows of 77 ids and weights. A run ends before the word that does not fit."""
    runs, row, row_weights = [], [], []
    for text, weight in parts:
        for word in text.split():
            ids = tokenizer(word, add_special_tokens=False)["input_ids"]
            if len(row) + len(ids) > ROOM:
                runs.append((row, row_weights))
                row, row_weights = [], []
            row, row_weights = row + ids, row_weights + [weight] * len(ids)
    runs.append((row, row_weights))
    begin, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    rows = []
    for ids, weights in runs:
        ids = [begin, *ids, end]
        rows.append((ids + [pad] * (77 - len(ids)), [1.0, *weights, 1.0] + [1.0] * (77 - len(ids))))
    return rows


def moved(tokens, empty, weights):
    weights = torch.tensor(weights)[None, :, None]
    return torch.where(weights == 1.0, tokens, (tokens - empty) * weights + empty)


def clip(tokenizer, encoder, parts):
    def run(ids):
        output = encoder(torch.tensor([ids]), output_hidden_states=True)
        return output.hidden_states[-2], output[0]

    empty, _ = run(clip_runs(tokenizer, [])[0][0])
    encoded = [(*run(ids), weights) for ids, weights in clip_runs(tokenizer, parts)]
    return torch.cat([moved(tokens, empty, weights) for tokens, _, weights in encoded], 1), encoded[0][1]


def t5(tokenizer, encoder, parts):
    ids, weights = ids_and_weights(tokenizer, parts)
    ids, weights = ids[: T5_LENGTH - 1] + [1], weights[: T5_LENGTH - 1] + [1.0]
    fill = T5_LENGTH - len(ids)
    ids, weights = ids + [0] * fill, weights + [1.0] * fill
    tokens = encoder(torch.tensor([ids]))[0]
    empty = encoder(torch.tensor([[1] + [0] * (T5_LENGTH - 1)]))[0]
    return moved(tokens, empty, weights)


@torch.no_grad()
def main():
    pipe = StableDiffusion3Pipeline.from_pretrained(FIXTURES / "sd3" / "model").to(dtype=torch.float32)
    found = {}
    for name, parts in {"weighed": WEIGHED, "long": LONG}.items():
        tokens_l, pooled_l = clip(pipe.tokenizer, pipe.text_encoder, parts)
        tokens_g, pooled_g = clip(pipe.tokenizer_2, pipe.text_encoder_2, parts)
        tokens_t5 = t5(pipe.tokenizer_3, pipe.text_encoder_3, parts)
        both = torch.cat([tokens_l, tokens_g], -1)
        both = torch.nn.functional.pad(both, (0, tokens_t5.shape[-1] - both.shape[-1]))
        found[f"{name}/context"] = torch.cat([both, tokens_t5], 1).contiguous()
        found[f"{name}/pooled"] = torch.cat([pooled_l, pooled_g], -1).contiguous()
        print(name, tuple(found[f"{name}/context"].shape))
    save_file(found, FIXTURES / "weighted.safetensors")


if __name__ == "__main__":
    main()
