"""PEFT and graftwork against each other, run by an interpreter that has peft, with graftwork's own as its argument.

Adapters of many kinds that PEFT trained (with random numbers for training) are applied by graftwork and compared with what PEFT merges;
an adapter that graftwork extracts is loaded by PEFT and compared with the fine-tuned model.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM


def llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 40}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "attention_bias": True}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=False))


def gpt2():
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40, "n_positions": 8}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False))


CASES = {
    "plain": (llama, {"target_modules": ["q_proj", "down_proj"]}),
    "rslora": (
        llama,
        {
            "target_modules": ["q_proj", "k_proj"],
            "use_rslora": True,
            "rank_pattern": {"layers.0.self_attn.q_proj": 2},
            "alpha_pattern": {"k_proj": 3},
        },
    ),
    "dora": (llama, {"target_modules": ["q_proj", "k_proj", "up_proj"], "use_dora": True}),
    "dora_embedding": (llama, {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True}),
    "embedding": (llama, {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head", "norm"]}),
    "all_biases": (llama, {"target_modules": ["q_proj"], "bias": "all"}),
    "their_biases": (llama, {"target_modules": ["q_proj"], "bias": "lora_only"}),
    "biases_of_factors": (llama, {"target_modules": ["q_proj"], "lora_bias": True}),
    "transposed": (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "transposed_dora": (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "use_dora": True}),
    "both_ways": (gpt2, {"target_modules": ["c_proj", "lm_head"]}),
}


def shake(model, amount, chosen):
    noise = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if chosen(parameter):
            parameter.data += amount * torch.randn(parameter.shape, generator=noise)


def compare(name, found, wanted, tolerance):
    assert set(found) == set(wanted), (name, set(found) ^ set(wanted))
    worst = max((found[key] - wanted[key]).abs().max().item() for key in wanted)
    assert worst < tolerance, (name, worst)


def graftwork(python, *arguments):
    subprocess.run([python, "-m", "graftwork", *map(str, arguments)], check=True, capture_output=True)


def main(python, root):
    for name, (make, settings) in CASES.items():
        folder = root / name
        make().save_pretrained(folder / "base")
        trained = get_peft_model(make(), LoraConfig(r=4, lora_alpha=8, **settings))
        shake(trained, 0.05, lambda parameter: parameter.requires_grad)
        trained.save_pretrained(folder / "lora")
        graftwork(python, "convert", f"{folder}/base+{folder}/lora", folder / "merged", "--format", "huggingface")
        merged = PeftModel.from_pretrained(make(), folder / "lora").merge_and_unload()
        merged.save_pretrained(folder / "by_peft")
        files = [load_file(folder / which / "model.safetensors") for which in ("merged", "by_peft")]
        compare(name, *files, 1e-6)
    for make in (llama, gpt2):
        folder = root / make.__name__
        make().save_pretrained(folder / "base")
        tuned = make()
        shake(tuned, 0.03, lambda _: True)
        tuned.save_pretrained(folder / "tuned")
        options = ["--rank", 64, "--embeddings", "--save-rest"]
        graftwork(python, "extract-lora", folder / "tuned", "--base", folder / "base", "-o", folder / "lora", *options)
        assert json.loads((folder / "lora" / "adapter_config.json").read_text())["r"] == 64
        again = PeftModel.from_pretrained(make(), folder / "lora").merge_and_unload()
        compare(f"extracted from {make.__name__}", again.state_dict(), tuned.state_dict(), 1e-6)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(sys.argv[1], Path(place))
