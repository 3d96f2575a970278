#!/usr/bin/env python3
"""Trains the small model under models/ from the fairy tale corpus.

    python3 scripts/train_model.py --corpus fairytales.txt.gz --out models

Two stages. A byte-level BPE is learned from the training books: ids 0..255 are the bytes, then the merges in
the order in which they were learned, `<|endoftext|>` last, so that an id is also a merge rank. Then a GPT-2
is trained on the encoded books with AdamW for the embeddings, LayerNorms and biases and Muon for the matrices
of the blocks. One book, --held-out, is left out of both stages and judges the result in bits per byte.

Writes OUT/fairytales.bin (llm.c checkpoint, version 5: bf16), OUT/fairytales_tokenizer.bin (llm.c tokenizer,
version 2) and LOG, a CSV of the loss curve that scripts/plot_training.py draws. Needs torch, numpy, tokenizers.
"""
import argparse
import csv
import gzip
import math
import os
import struct
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

EOT = "<|endoftext|>"


# ---------------------------------------------------------------------------------------------------------
# the corpus and its vocabulary

def read_books(path):
    """The corpus as a list of books; they are separated by a line with the end-of-text token."""
    with gzip.open(path, "rt", encoding="utf-8") as f:
        return [book.strip() + "\n" for book in f.read().split(EOT + "\n")]


def train_tokenizer(books, vocab_size):
    """A GPT-2 style byte-level BPE as (tokenizers.Tokenizer, list of vocab_size - 1 byte strings by id)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - 1, initial_alphabet=byte_level.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(books, trainer)
    byte_of = {c: b for b, c in byte_to_unicode().items()}
    tokens = [bytes(byte_of[c] for c in tokenizer.id_to_token(i)) for i in range(tokenizer.get_vocab_size())]
    assert len(tokens) == vocab_size - 1 and len(set(tokens)) == len(tokens), "the vocabulary must be full and distinct"
    assert sorted(tokens[:256]) == [bytes([b]) for b in range(256)], "the first 256 ids must be the bytes"
    return tokenizer, tokens


def byte_to_unicode():
    """GPT-2's printable stand-in for every byte: itself where printable, else 256, 257, ... in order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def encode_books(tokenizer, books, eot):
    """All books in one array of ids, each preceded by the end-of-text token."""
    ids = []
    for book in books:
        ids.append(eot)
        ids.extend(tokenizer.encode(book).ids)
    return np.array(ids, dtype=np.int64)


# ---------------------------------------------------------------------------------------------------------
# the model: GPT-2 with the names and layouts of llm.c

class Block(nn.Module):
    def __init__(self, C, NH, dropout):
        super().__init__()
        self.NH = NH
        self.dropout = dropout
        self.ln1, self.ln2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.attproj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.fc, self.fcproj = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x):  # (B, T, C)
        B, T, C = x.shape
        q, k, v = (y.view(B, T, self.NH, C // self.NH).transpose(1, 2) for y in self.qkv(self.ln1(x)).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = self.attproj(y.transpose(1, 2).reshape(B, T, C))
        x = x + F.dropout(y, self.dropout, self.training)
        y = self.fcproj(F.gelu(self.fc(self.ln2(x)), approximate="tanh"))
        return x + F.dropout(y, self.dropout, self.training)


class GPT2(nn.Module):
    def __init__(self, V, maxT, L, NH, C, dropout):
        super().__init__()
        self.V, self.maxT, self.L, self.NH, self.C = V, maxT, L, NH, C
        self.wte, self.wpe = nn.Embedding(V, C), nn.Embedding(maxT, C)
        self.blocks = nn.ModuleList(Block(C, NH, dropout) for _ in range(L))
        self.lnf = nn.LayerNorm(C)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * L) if name.endswith("proj.weight") else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, x, y):
        """Mean cross entropy in nats of targets y after inputs x, both (B, T) ids."""
        h = self.wte(x) + self.wpe(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            h = block(h)
        logits = self.lnf(h) @ self.wte.weight.T
        return F.cross_entropy(logits.float().view(-1, self.V), y.reshape(-1))


# ---------------------------------------------------------------------------------------------------------
# files

def replace_file(path, chunks):
    """Writes beside and renames, so that a reader never meets half a file."""
    with open(path + ".tmp", "wb") as f:
        for chunk in chunks:
            f.write(chunk)
    os.replace(path + ".tmp", path)


def bf16_bytes(t):
    return t.detach().to(torch.bfloat16).contiguous().cpu().view(torch.int16).numpy().tobytes()


def write_checkpoint(path, m):
    """llm.c checkpoint version 5; the vocabulary needs no padding rows because 128 divides V."""
    assert m.V % 128 == 0
    header = np.zeros(256, dtype="<i4")
    header[:8] = 20240326, 5, m.maxT, m.V, m.L, m.NH, m.C, m.V
    chunks = [header.tobytes(), bf16_bytes(m.wte.weight), bf16_bytes(m.wpe.weight)]
    for layer in ("ln1", "qkv", "attproj", "ln2", "fc", "fcproj"):
        for kind in ("weight", "bias"):
            chunks += [bf16_bytes(getattr(getattr(b, layer), kind)) for b in m.blocks]
    replace_file(path, chunks + [bf16_bytes(m.lnf.weight), bf16_bytes(m.lnf.bias)])


def write_tokenizer(path, tokens):
    """llm.c tokenizer version 2; the end-of-text token comes last."""
    tokens = tokens + [EOT.encode()]
    header = np.zeros(256, dtype="<i4")
    header[:4] = 20240328, 2, len(tokens), len(tokens) - 1
    replace_file(path, [header.tobytes()] + [struct.pack("B", len(t)) + t for t in tokens])


# ---------------------------------------------------------------------------------------------------------
# training

def batches(ids, B, T, rng):
    """(B, T) inputs and targets without end: each epoch visits every window once, cut at a new offset."""
    while True:
        offset = int(rng.integers(T))
        starts = np.arange(offset, len(ids) - T - 1, T)
        rng.shuffle(starts)
        for i in range(0, len(starts) - B + 1, B):
            rows = np.stack([ids[s : s + T + 1] for s in starts[i : i + B]])
            yield torch.from_numpy(rows[:, :-1]), torch.from_numpy(rows[:, 1:])


@torch.no_grad()
def bits_per_byte(m, loss_of, ids, n_bytes, device):
    """Bits per byte of a text of n_bytes bytes encoded as ids, in windows of T tokens that do not overlap:
    no token sees more context than a reader of the window's start would give it, so this is an upper bound."""
    m.eval()
    T, nats = m.maxT, 0.0
    for s in range(0, len(ids) - 1, T):
        row = torch.from_numpy(ids[s : s + T + 1]).to(device)
        nats += loss_of(row[None, :-1], row[None, 1:]).item() * (len(row) - 1)
    m.train()
    return nats / math.log(2) / n_bytes


def optimizers(m, lr_muon, lr_adam, weight_decay):
    matrices = [p for n, p in m.named_parameters() if p.dim() == 2 and n.startswith("blocks")]
    tables = [m.wte.weight, m.wpe.weight]
    vectors = [p for p in m.parameters() if p.dim() == 1]
    return [
        torch.optim.Muon(matrices, lr=lr_muon, weight_decay=weight_decay, momentum=0.95),
        torch.optim.AdamW(
            [{"params": tables, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}],
            lr=lr_adam, betas=(0.9, 0.98), eps=1e-9),
    ]


def learning_rate(step, steps, warmup):
    """Share of the peak rate: linear warm-up, constant, then linear to zero over the last 60 % of the steps."""
    return min(1.0, (step + 1) / warmup, (steps - step) / (0.6 * steps))


def main():
    p = argparse.ArgumentParser(description="train the small bundled GPT-2", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--corpus", required=True, help="fairytales.txt.gz")
    p.add_argument("--out", default="models", help="folder for the model and its tokenizer")
    p.add_argument("--log", default="dev/training/loss.csv", help="the loss curve")
    p.add_argument("--held-out", default="The Crimson Fairy Book", help="the book that judges, by its first line")
    p.add_argument("--vocab", type=int, default=4096)
    p.add_argument("--layers", type=int, default=8)
    p.add_argument("--heads", type=int, default=4)
    p.add_argument("--channels", type=int, default=256)
    p.add_argument("--context", type=int, default=512)
    p.add_argument("--steps", type=int, default=2000)
    p.add_argument("--batch", type=int, default=16, help="windows of --context tokens per step")
    p.add_argument("--lr-muon", type=float, default=0.02)
    p.add_argument("--lr-adam", type=float, default=0.004)
    p.add_argument("--weight-decay", type=float, default=0.1)
    p.add_argument("--dropout", type=float, default=0.05)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--fp32", action="store_true", help="train in float32 instead of bfloat16 autocast")
    p.add_argument("--eager", action="store_true", help="do not compile the model")
    a = p.parse_args()

    torch.manual_seed(a.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    books = read_books(a.corpus)
    held_out = [b for b in books if b.startswith(a.held_out)]
    assert len(held_out) == 1, f"exactly one book must begin with {a.held_out!r}"
    books.remove(held_out[0])
    tokenizer, tokens = train_tokenizer(books, a.vocab)
    ids = encode_books(tokenizer, books, a.vocab - 1)
    judge_ids, judge_bytes = encode_books(tokenizer, held_out, a.vocab - 1), len(held_out[0].encode())

    m = GPT2(a.vocab, a.context, a.layers, a.heads, a.channels, a.dropout).to(device)
    forward = m if a.eager else torch.compile(m)

    def loss_of(x, y):
        with torch.autocast(device, dtype=torch.bfloat16, enabled=not a.fp32):
            return forward(x, y)

    def eager_loss(x, y):
        with torch.autocast(device, dtype=torch.bfloat16, enabled=not a.fp32):
            return m(x, y)

    print(f"{len(books)} books, {len(ids)} tokens; held out: {a.held_out}, {judge_bytes} bytes, {len(judge_ids)} tokens; "
          f"{sum(q.numel() for q in m.parameters())} parameters on {device}", flush=True)
    os.makedirs(a.out, exist_ok=True)
    os.makedirs(os.path.dirname(a.log) or ".", exist_ok=True)
    write_tokenizer(os.path.join(a.out, "fairytales_tokenizer.bin"), tokens)
    opts = optimizers(m, a.lr_muon, a.lr_adam, a.weight_decay)
    stream = batches(ids, a.batch, a.context, np.random.default_rng(a.seed))
    start, recent = time.monotonic(), []
    with open(a.log, "w", newline="") as log:
        out = csv.writer(log)
        out.writerow(["step", "tokens", "minutes", "train_nats_per_token", "held_out_bits_per_byte"])
        for step in range(a.steps):
            for opt in opts:
                for group in opt.param_groups:
                    group.setdefault("peak", group["lr"])
                    group["lr"] = group["peak"] * learning_rate(step, a.steps, 100)
            x, y = next(stream)
            loss = loss_of(x.to(device), y.to(device))
            loss.backward()
            nn.utils.clip_grad_norm_(m.parameters(), 1.0)
            for opt in opts:
                opt.step()
                opt.zero_grad(set_to_none=True)
            recent.append(loss.item())
            last = step + 1 == a.steps
            if (step + 1) % 20 == 0 or last:
                bpb = bits_per_byte(m, eager_loss, judge_ids, judge_bytes, device) if (step + 1) % 200 == 0 or last else None
                minutes = (time.monotonic() - start) / 60
                row = [step + 1, (step + 1) * a.batch * a.context, f"{minutes:.2f}", f"{np.mean(recent):.4f}", "" if bpb is None else f"{bpb:.4f}"]
                out.writerow(row)
                log.flush()
                print(*row, flush=True)
                recent = []
                if bpb is not None:
                    write_checkpoint(os.path.join(a.out, "fairytales.bin"), m)


if __name__ == "__main__":
    main()
