#!/usr/bin/env python3
"""GPT-2 124M in PyTorch on this machine's GPU, in the format of make bench-gpu: the decode step eagerly, with a static KV
cache and CUDA graphs; prompts, whose matrix products are the vendor's (cuBLAS, hipBLAS); and the decode step as
transformers has it, where that is installed. Random weights, batch 1, bf16, greedy. The first two variants are checked against each other.

    dev/bench_gpu_torch.py            on a CUDA or ROCm device
    dev/bench_gpu_torch.py --smoke    a small shape on the CPU, without graphs: does the script run, do the variants agree?
"""
import argparse
import statistics
import time

import torch
import torch.nn.functional as F


class GPT2:
    """Weights as llm.c has them: one row per output channel."""

    def __init__(self, L, NH, C, V, maxT, device, dtype):
        generator = torch.Generator().manual_seed(1)

        def draw(*shape, scale=0.02):
            return (torch.randn(*shape, generator=generator) * scale).to(device=device, dtype=dtype)

        self.L, self.NH, self.C, self.V, self.maxT = L, NH, C, V, maxT
        self.device, self.dtype = device, dtype
        self.wte, self.wpe = draw(V, C), draw(maxT, C)
        self.layers = [
            dict(ln1=(1 + draw(C), draw(C)), qkv=(draw(3 * C, C), draw(3 * C)), attproj=(draw(C, C), draw(C)),
                 ln2=(1 + draw(C), draw(C)), fc=(draw(4 * C, C), draw(4 * C)), fcproj=(draw(C, 4 * C), draw(C)))
            for _ in range(L)
        ]
        self.lnf = (1 + draw(C), draw(C))
        self.bytes = 2 * (V * C + L * 12 * C * C)

    def caches(self):
        hs = self.C // self.NH
        return [tuple(torch.zeros(1, self.NH, self.maxT, hs, device=self.device, dtype=self.dtype) for _ in range(2))
                for _ in range(self.L)]

    def layer(self, x, weights, attend):
        q, k, v = F.linear(F.layer_norm(x, (self.C,), *weights["ln1"]), *weights["qkv"]).split(self.C, dim=-1)
        heads = (1, -1, self.NH, self.C // self.NH)
        att = attend(*(t.view(heads).transpose(1, 2) for t in (q, k, v)))
        x = x + F.linear(att.transpose(1, 2).reshape(1, -1, self.C), *weights["attproj"])
        hidden = F.gelu(F.linear(F.layer_norm(x, (self.C,), *weights["ln2"]), *weights["fc"]), approximate="tanh")
        return x + F.linear(hidden, *weights["fcproj"])

    def logits(self, x):
        return F.linear(F.layer_norm(x[:, -1], (self.C,), *self.lnf), self.wte)


def eager_step(model, token, position, caches):
    """The cache grows: each step attends to as many keys as there are. token (1, T)."""
    T = token.shape[1]
    x = F.embedding(token, model.wte) + model.wpe[position:position + T]
    for weights, (keys, values) in zip(model.layers, caches):
        def attend(q, k, v, keys=keys, values=values):
            keys[:, :, position:position + T] = k
            values[:, :, position:position + T] = v
            return F.scaled_dot_product_attention(q, keys[:, :, :position + T], values[:, :, :position + T], is_causal=T > 1)

        x = model.layer(x, weights, attend)
    return model.logits(x)


class GraphStep:
    """One captured step: token and position lie on the device, and attention is masked over the whole static cache. On the
    CPU, which has no graphs, the same step runs as it is."""

    def __init__(self, model, caches):
        self.model, self.caches = model, caches
        self.token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        self.position = torch.zeros(1, dtype=torch.long, device=model.device)
        self.all = torch.arange(model.maxT, device=model.device)
        self.graph = None
        if model.device == "cpu":
            return
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.run()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.result = self.run()
            self.next = self.result.argmax(-1)

    def run(self):
        model = self.model
        mask = (self.all <= self.position).view(1, 1, 1, -1)
        x = F.embedding(self.token, model.wte) + model.wpe[self.position]
        for weights, (keys, values) in zip(model.layers, self.caches):
            def attend(q, k, v, keys=keys, values=values):
                keys.index_copy_(2, self.position, k)
                values.index_copy_(2, self.position, v)
                return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)

            x = model.layer(x, weights, attend)
        return model.logits(x)

    def __call__(self, token, position):
        self.token.fill_(token)
        self.position.fill_(position)
        if self.graph is None:
            self.result = self.run()
            self.next = self.result.argmax(-1)
        else:
            self.graph.replay()
        return self.result, self.next


def wait(device):
    if device != "cpu":
        torch.cuda.synchronize()


def copy_bandwidth(device):
    a = torch.empty(256 << 20, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    copies, times = 8, []
    for _ in range(20):
        wait(device)
        start = time.perf_counter()
        for _ in range(copies):
            b.copy_(a)
        wait(device)
        times.append(time.perf_counter() - start)
    return 2 * copies * a.numel() / statistics.median(times)


def transformers_step(shape, device):
    """fill(depth), step(token, position) with Hugging Face's GPT-2 of the same shape, or None where it is not installed."""
    try:
        from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel
    except ImportError as error:
        print(f"transformers  cannot be imported: {error}")
        return None
    config = GPT2Config(vocab_size=shape["V"], n_positions=shape["maxT"], n_embd=shape["C"], n_layer=shape["L"],
                        n_head=shape["NH"], bos_token_id=None, eos_token_id=None)
    model = GPT2LMHeadModel(config).to(device=device, dtype=torch.bfloat16).eval()
    state = {}

    def fill(depth):
        state["cache"] = DynamicCache()
        if depth > 0:
            model(torch.full((1, depth), 464 % shape["V"], device=device), past_key_values=state["cache"], use_cache=True)

    def step(token, position):
        out = model(torch.tensor([[token]], device=device), past_key_values=state["cache"], use_cache=True)
        return out.logits[0, -1].argmax().item()

    return fill, step


def measure_prompts(model, caches):
    for T in (model.maxT // 16, model.maxT // 2, model.maxT):
        tokens = torch.full((1, T), 464 % model.V, device=model.device)
        times = []
        for i in range(8):
            wait(model.device)
            start = time.perf_counter()
            eager_step(model, tokens, 0, caches).float().cpu()
            if i >= 2:
                times.append(time.perf_counter() - start)
        median = statistics.median(times)
        print(f"prompt of {T:4} tokens: {1e3 * median:8.2f} ms ({1e3 * min(times):.2f} to {1e3 * max(times):.2f}), "
              f"{T / median:.0f} tokens/s")


def measure(name, step, model, depth, tokens, bandwidth):
    """step(token, position) -> the next token, as a number on the host. Prints one line."""
    times, token = [], 1
    for i in range(tokens):
        start = time.perf_counter()
        token = step(token, depth + i)
        if i >= tokens // 5:
            times.append(time.perf_counter() - start)
    times.sort()
    median = statistics.median(times)
    print(f"{name:<13} {depth:6} {1e6 * median:10.1f} {1e6 * times[int(0.05 * (len(times) - 1))]:10.1f} to "
          f"{1e6 * times[int(0.95 * (len(times) - 1))]:8.1f} {1e-9 * model.bytes / median:8.0f} "
          f"{100 * model.bytes / median / bandwidth:6.0f} %")


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true")
    smoke = parser.parse_args().smoke
    device = "cpu" if smoke else "cuda"
    shape = dict(L=2, NH=3, C=96, V=301, maxT=64) if smoke else dict(L=12, NH=12, C=768, V=50257, maxT=1024)
    model = GPT2(**shape, device=device, dtype=torch.bfloat16)
    most_tokens = 4 if smoke else 100
    bandwidth = float("inf") if smoke else copy_bandwidth(device)
    where = "CPU (smoke test: the figures mean nothing)" if smoke else torch.cuda.get_device_name()
    print(f"PyTorch {torch.__version__}, {where}, copies at {1e-9 * bandwidth:.0f} GB/s")
    print(f"{'variant':<13} {'depth':>6} {'us/token':>10} {'5 % to 95 %':>22} {'GB/s':>8} {'of copy':>8}")
    caches = model.caches()
    depths = [(depth, min(most_tokens, shape["maxT"] - depth)) for depth in (0, shape["maxT"] // 2, shape["maxT"] * 1000 // 1024)]

    def fill(depth):
        if depth > 0:
            eager_step(model, torch.full((1, depth), 464 % shape["V"], device=device), 0, caches)

    def eager(token, position):
        return eager_step(model, torch.tensor([[token]], device=device), position, caches).argmax(-1).item()

    for depth, tokens in depths:
        fill(depth)
        measure("eager", eager, model, depth, tokens, bandwidth)
    graph = GraphStep(model, caches)
    for depth, tokens in depths:
        fill(depth)
        reference = eager_step(model, torch.tensor([[1]], device=device), depth, caches)
        found, _ = graph(1, depth)
        off = ((found - reference).abs().max() / reference.abs().max()).item()
        if not off < 3e-2:
            raise SystemExit(f"the step with a static cache is wrong: {off}")
        measure("static cache" if smoke else "CUDA graphs", lambda token, position: graph(token, position)[1].item(), model,
                depth, tokens, bandwidth)
    measure_prompts(model, caches)
    hugging_face = transformers_step(shape, device)
    for depth, tokens in depths if hugging_face else []:
        hugging_face[0](depth)
        measure("transformers", hugging_face[1], model, depth, tokens, bandwidth)


main()
