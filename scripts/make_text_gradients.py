#!/usr/bin/env python3
"""Make tiny random text encoders with the gradients that PyTorch finds for every parameter, in f32.

usage: python scripts/make_text_gradients.py --out fixtures/text_gradients

Writes clip_l.safetensors, clip_g.safetensors and t5.safetensors. Each holds
  weight.NAME      every parameter, by its name in transformers
  ids              [2, L]
  slope.OUTPUT     what the output is multiplied with; the sum of all products is the loss
  output.OUTPUT    `penultimate` and `pooled` of a CLIP, `encoded` of T5
  grad.NAME        the gradient of that loss
The token table of a CLIP has 49,408 rows, of which few are looked at: `rows` says which, `weight.` and `grad.` of it
have only those, and all other gradients are zero.

t5.safetensors is a T5ForConditionalGeneration without tied embeddings, and has beside these
  targets          [2, M], -100 where there is nothing to guess
  decoder_ids      [2, M]: the targets moved by one, the padding token first
  logits, loss     of the decoder on the encoder's output, and their mean cross entropy
  lm_grad.NAME     the gradient of that loss
The metadata has the sizes as JSON under `config`.

Needs torch, transformers and safetensors.
"""

import argparse
import json
from pathlib import Path

START, END = 49406, 49407
TABLE = "text_model.embeddings.token_embedding.weight"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    return parser.parse_args()


def main() -> None:
    options = parse()

    # Only now: `--help` works without them.
    import torch
    from safetensors.torch import save_file
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        T5Config,
        T5ForConditionalGeneration,
    )

    def scatter(model: torch.nn.Module, std: float) -> None:
        """Every parameter gets values that show where it is used, norms and biases too."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                is_scale = "norm" in name and name.endswith("weight")
                parameter.copy_(torch.randn_like(parameter) * std + (1 if is_scale else 0))

    def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        loss.backward()
        return {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            for name, parameter in model.named_parameters()
        }

    def weighted(outputs: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        slopes = {name: torch.randn_like(output) for name, output in outputs.items()}
        tensors.update({f"slope.{name}": slope for name, slope in slopes.items()})
        tensors.update({f"output.{name}": output.detach() for name, output in outputs.items()})
        return sum((outputs[name] * slope).sum() for name, slope in slopes.items())

    def save(name: str, tensors: dict[str, torch.Tensor], config: dict[str, int]) -> None:
        options.out.mkdir(parents=True, exist_ok=True)
        tensors = {key: tensor.detach().contiguous().clone() for key, tensor in tensors.items()}
        save_file(tensors, options.out / f"{name}.safetensors", {"config": json.dumps(config)})

    def clip(name: str, activation: str, width: int, heads: int, layers: int) -> None:
        config = CLIPTextConfig(
            vocab_size=END + 1,
            hidden_size=width,
            intermediate_size=2 * width + 5,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            hidden_act=activation,
            projection_dim=width - 3,
            bos_token_id=START,
            eos_token_id=END,
            pad_token_id=END,
            attn_implementation="eager",
        )
        model = CLIPTextModelWithProjection(config).float().eval()
        scatter(model, 0.3)
        ids = torch.tensor(
            [[START, 7, 300, 41000, 7, 12, END, END, END], [START, 9, END, 0, 0, 0, 0, 0, 0]]
        )
        out = model(input_ids=ids, output_hidden_states=True)
        tensors = {"ids": ids}
        loss = weighted({"penultimate": out.hidden_states[-2], "pooled": out.text_embeds}, tensors)
        found = gradients(model, loss)
        rows = ids.unique()
        assert found[TABLE].abs().sum(1).nonzero().flatten().tolist() == rows.tolist()
        weights = dict(model.named_parameters())
        for prefix, values in [("weight", weights), ("grad", found)]:
            for key, value in values.items():
                tensors[f"{prefix}.{key}"] = value[rows] if key == TABLE else value
        tensors["rows"] = rows
        sizes = dict(width=width, heads=heads, layers=layers, mlp=2 * width + 5, projection=width - 3)
        save(name, tensors, sizes)

    def t5() -> None:
        sizes = dict(width=18, heads=3, head_width=8, mlp=29, layers=2, decoder_layers=3, vocabulary=40)
        sizes |= dict(buckets=8, max_distance=11)
        config = T5Config(
            vocab_size=sizes["vocabulary"],
            d_model=sizes["width"],
            d_kv=sizes["head_width"],
            d_ff=sizes["mlp"],
            num_layers=sizes["layers"],
            num_decoder_layers=sizes["decoder_layers"],
            num_heads=sizes["heads"],
            relative_attention_num_buckets=sizes["buckets"],
            relative_attention_max_distance=sizes["max_distance"],
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            decoder_start_token_id=0,
            dropout_rate=0.0,
        )
        model = T5ForConditionalGeneration(config).float().eval()
        # Newer releases tie the head all the same.
        model.lm_head.weight = torch.nn.Parameter(torch.empty(sizes["vocabulary"], sizes["width"]))
        model.config.scale_decoder_outputs = False
        scatter(model, 0.3)
        ids = torch.randint(3, 40, (2, 23))
        ids[1, 15:] = 0
        tensors = {"ids": ids}
        encoded = model.encoder(input_ids=ids).last_hidden_state
        found = gradients(model, weighted({"encoded": encoded}, tensors))
        # The decoder's parameters are not in this loss.
        found = {key: value for key, value in found.items() if key.startswith(("shared", "encoder"))}

        targets = torch.randint(1, 40, (2, 14))
        targets[0, 9:] = -100
        out = model(input_ids=ids, labels=targets)
        of_model = gradients(model, out.loss)
        decoder_ids = torch.cat([torch.zeros(2, 1, dtype=torch.long), targets[:, :-1].clamp(min=0)], 1)
        again = model(input_ids=ids, decoder_input_ids=decoder_ids).logits
        assert torch.equal(again, out.logits)
        tensors |= {"targets": targets, "decoder_ids": decoder_ids, "logits": out.logits}
        tensors["loss"] = out.loss.reshape(1)
        weights = dict(model.named_parameters())
        assert "lm_head.weight" in weights and "shared.weight" in weights, weights.keys()
        for prefix, values in [("weight", weights), ("grad", found), ("lm_grad", of_model)]:
            tensors |= {f"{prefix}.{key}": value for key, value in values.items()}
        save("t5", tensors, sizes)

    torch.manual_seed(0)
    clip("clip_l", "quick_gelu", width=24, heads=3, layers=3)
    clip("clip_g", "gelu", width=20, heads=2, layers=2)
    t5()


if __name__ == "__main__":
    main()
