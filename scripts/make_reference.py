#!/usr/bin/env python3
"""Reference logits by Hugging Face transformers, for `make test`.

    python3 scripts/make_reference.py [--out tests/fixtures] [--bundled models/fairytales.bin]

Makes small GPT-2 models of odd shapes from seeds, runs transformers' GPT2LMHeadModel on them in float32, and writes for
each NAME.bin, a checkpoint in llm.c's format (versions 1, 3 and 5), and NAME_debug_state.bin in the format of llm.c's
gpt2_124M_debug_state.bin: 256 int32 [20240327, 2, B, T], x (B, T), y (B, T) int32, logits (B, T, V) float32, loss float32.
One model is also written as transformers writes it, hf_odd/, with its logits beside it. The bundled model gets its
fairytales_debug_state.bin from the weights in its own file. Needs torch and transformers.
"""
import argparse
import os

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

# name, checkpoint version, V, maxT, L, NH, C: what each is odd in
SHAPES = [
    ("odd_vocabulary", 3, 1021, 20, 2, 2, 24, "a prime vocabulary, as GPT-2's 50257 nearly is; heads of 12"),
    ("one_layer_one_head", 5, 101, 9, 1, 1, 80, "a head of 80"),
    ("bf16", 5, 257, 33, 2, 2, 64, "bf16 weights, heads of 32, a full context over three blocks of keys"),
    ("unpadded", 1, 64, 16, 2, 5, 35, "version 1: no padded vocabulary; heads of 7"),
    ("wide_bf16", 5, 130, 6, 1, 4, 128, "sums of 512 bf16 terms, where kernels may round activations"),
]
LINEAR = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # Conv1D: stored (in, out)
PER_LAYER = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")


def replace_file(path, data):
    with open(path + ".tmp", "wb") as f:
        f.write(data)
    os.replace(path + ".tmp", path)


def seeded_model(V, maxT, L, NH, C, seed, bf16):
    """A GPT2LMHeadModel whose every parameter matters: no bias is 0, no LayerNorm weight 1, logits spread by units."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=V, n_positions=maxT, n_embd=C, n_layer=L, n_head=NH)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "ln_" in name and name.endswith("weight"):
                p.copy_(1 + 0.2 * torch.randn_like(p))
            elif name.endswith("bias"):
                p.copy_(0.1 * torch.randn_like(p))
            elif "wte" in name or "wpe" in name:
                p.copy_(2 * torch.randn_like(p) / C**0.5)
            else:
                p.copy_(torch.randn_like(p) / p.shape[0] ** 0.5)
            if bf16:
                p.copy_(p.to(torch.bfloat16).float())
    return model


def llmc_tensors(model):
    """The parameters in llm.c's order and layout."""
    state = {k.removeprefix("transformer."): v for k, v in model.state_dict().items()}
    yield "wte", state["wte.weight"]
    yield "wpe", state["wpe.weight"]
    for module in PER_LAYER:
        for kind in ("weight", "bias"):
            layers = [state[f"h.{l}.{module}.{kind}"] for l in range(model.config.n_layer)]
            yield module, torch.stack([w.T.contiguous() if module in LINEAR and kind == "weight" else w for w in layers])
    yield "ln_f", state["ln_f.weight"]
    yield "ln_f", state["ln_f.bias"]


def write_checkpoint(path, model, version):
    c = model.config
    Vp = c.vocab_size if version == 1 else (c.vocab_size + 127) // 128 * 128
    header = np.zeros(256, dtype="<i4")
    header[:8] = 20240326, version, c.n_positions, c.vocab_size, c.n_layer, c.n_head, c.n_embd, Vp if version > 1 else 0
    chunks = [header.tobytes()]
    for name, tensor in llmc_tensors(model):
        if name == "wte":
            tensor = torch.cat([tensor, torch.zeros(Vp - c.vocab_size, c.n_embd)])
        if version == 5:
            chunks.append(tensor.to(torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
        else:
            chunks.append(tensor.float().contiguous().numpy().astype("<f4").tobytes())
    replace_file(path, b"".join(chunks))


def read_checkpoint(path):
    """A llm.c checkpoint of version 5 (bf16) as a GPT2LMHeadModel."""
    with open(path, "rb") as f:
        header = np.frombuffer(f.read(1024), dtype="<i4")
        data = torch.from_numpy(np.frombuffer(f.read(), dtype="<i2").copy()).view(torch.bfloat16).float()
    assert header[0] == 20240326 and header[1] == 5
    maxT, V, L, NH, C, Vp = (int(x) for x in header[2:8])
    model = GPT2LMHeadModel(GPT2Config(vocab_size=V, n_positions=maxT, n_embd=C, n_layer=L, n_head=NH)).eval()
    state = {k.removeprefix("transformer."): v for k, v in model.state_dict().items()}
    position = 0

    def take(*shape):
        nonlocal position
        n = int(np.prod(shape))
        position += n
        return data[position - n : position].view(*shape)

    with torch.no_grad():
        state["wte.weight"].copy_(take(Vp, C)[:V])
        state["wpe.weight"].copy_(take(maxT, C))
        for module in PER_LAYER:
            for kind in ("weight", "bias"):
                shape = state[f"h.0.{module}.{kind}"].shape
                linear = module in LINEAR and kind == "weight"
                layers = take(L, *(reversed(shape) if linear else shape))
                for l in range(L):
                    state[f"h.{l}.{module}.{kind}"].copy_(layers[l].T if linear else layers[l])
        state["ln_f.weight"].copy_(take(C))
        state["ln_f.bias"].copy_(take(C))
    assert position == len(data)
    return model


def write_debug_state(path, model, ids):
    """ids (B, T + 1): inputs and targets."""
    x, y = ids[:, :-1], ids[:, 1:]
    with torch.no_grad():
        logits = model(x).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
    header = np.zeros(256, dtype="<i4")
    header[:4] = 20240327, 2, *x.shape
    replace_file(path, b"".join([header.tobytes(), x.numpy().astype("<i4").tobytes(), y.numpy().astype("<i4").tobytes(),
                                 logits.numpy().astype("<f4").tobytes(), loss.numpy().astype("<f4").tobytes()]))
    print(f"{path}: logits {tuple(logits.shape)}, largest {logits.abs().max():.2f}, spread {logits.std():.2f}, loss {loss:.3f}")


def sampled_text(model, length):
    """(1, length) ids that the model finds plausible: <|endoftext|>, the last id, and a sampled continuation."""
    torch.manual_seed(7)
    ids = torch.tensor([[model.config.vocab_size - 1]])
    while ids.shape[1] < length:
        with torch.no_grad():
            probabilities = torch.softmax(model(ids).logits[0, -1], dim=0)
        ids = torch.cat([ids, torch.multinomial(probabilities, 1)[None]], dim=1)
    return ids


def main():
    p = argparse.ArgumentParser(description="reference logits by Hugging Face transformers for make test")
    p.add_argument("--out", default="tests/fixtures")
    p.add_argument("--bundled", default="models/fairytales.bin")
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    for seed, (name, version, V, maxT, L, NH, C, _) in enumerate(SHAPES):
        model = seeded_model(V, maxT, L, NH, C, seed, version == 5)
        ids = torch.randint(0, V, (2, maxT + 1))
        write_checkpoint(os.path.join(a.out, name + ".bin"), model, version)
        write_debug_state(os.path.join(a.out, name + "_debug_state.bin"), model, ids)
    model = seeded_model(61, 12, 2, 2, 20, 100, False)
    model.save_pretrained(os.path.join(a.out, "hf_odd"))
    write_debug_state(os.path.join(a.out, "hf_odd_debug_state.bin"), model, torch.randint(0, 61, (2, 13)))
    model = read_checkpoint(a.bundled)
    write_debug_state(os.path.join(a.out, "fairytales_debug_state.bin"), model, sampled_text(model, 13))


if __name__ == "__main__":
    main()
