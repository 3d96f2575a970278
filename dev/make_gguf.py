#!/usr/bin/env python3
"""Writes GPT-2 124M with random weights as GGUF files, so that llama.cpp can be timed on the shape of our benchmarks.

    python3 dev/make_gguf.py TOKENIZER_DIRECTORY OUTPUT_DIRECTORY [f32 bf16 f16 q8_0 ...]

TOKENIZER_DIRECTORY holds GPT-2's vocab.json and merges.txt. Each type becomes OUTPUT_DIRECTORY/gpt2-TYPE.gguf; all of
them hold the same numbers, rounded to the type. Speed does not depend on the weights' values. Needs PyPI's gguf.
"""
import argparse
import json
import os

import gguf
import numpy as np

CONTEXT, LAYERS, HEADS, CHANNELS = 1024, 12, 12, 768
TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}


def tensor_shapes(vocab_size):
    """Name and shape of every tensor, rows (out) first, as llama.cpp's converter names those of GPT-2."""
    C = CHANNELS
    yield "token_embd.weight", (vocab_size, C)
    yield "position_embd.weight", (CONTEXT, C)
    for layer in range(LAYERS):
        b = f"blk.{layer}."
        yield from ((b + "attn_norm.weight", (C,)), (b + "attn_norm.bias", (C,)))
        yield from ((b + "attn_qkv.weight", (3 * C, C)), (b + "attn_qkv.bias", (3 * C,)))
        yield from ((b + "attn_output.weight", (C, C)), (b + "attn_output.bias", (C,)))
        yield from ((b + "ffn_norm.weight", (C,)), (b + "ffn_norm.bias", (C,)))
        yield from ((b + "ffn_up.weight", (4 * C, C)), (b + "ffn_up.bias", (4 * C,)))
        yield from ((b + "ffn_down.weight", (C, 4 * C)), (b + "ffn_down.bias", (C,)))
    yield from (("output_norm.weight", (C,)), ("output_norm.bias", (C,)))


def add_settings(writer, file_type):
    writer.add_name("GPT-2 124M, random weights")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(CHANNELS)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(4 * CHANNELS)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type(file_type)


def add_vocabulary(writer, tokens, merges):
    """tokens: in the order of their ids, written in GPT-2's alphabet of printable bytes."""
    end = tokens.index("<|endoftext|>")
    types = [gguf.TokenType.CONTROL if i == end else gguf.TokenType.NORMAL for i in range(len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)


def add_weights(writer, vocab_size, tensor_type):
    """Matrices in the type that was asked for; vectors and, as in llama.cpp's own files, positions stay f32."""
    random = np.random.default_rng(1)
    for name, shape in tensor_shapes(vocab_size):
        values = (0.02 * random.standard_normal(shape, dtype=np.float32)).astype(np.float32)
        if len(shape) == 1 or name.startswith("position"):
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, tensor_type), raw_dtype=tensor_type)


def write_gguf(path, tokens, merges, type_name):
    tensor_type, file_type = TYPES[type_name]
    writer = gguf.GGUFWriter(path + ".tmp", "gpt2")
    add_settings(writer, file_type)
    add_vocabulary(writer, tokens, merges)
    add_weights(writer, len(tokens), tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.rename(path + ".tmp", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", help="directory with vocab.json and merges.txt")
    parser.add_argument("output", help="directory for gpt2-TYPE.gguf")
    parser.add_argument("types", nargs="*", help="of f32, bf16, f16, q8_0 (default: all)")
    args = parser.parse_args()
    for name in args.types:
        if name not in TYPES:
            parser.error(f"no type {name}; there are {', '.join(TYPES)}")
    with open(os.path.join(args.tokenizer, "vocab.json"), encoding="utf-8") as f:
        ids = json.load(f)
    with open(os.path.join(args.tokenizer, "merges.txt"), encoding="utf-8") as f:
        merges = [line.rstrip("\n") for line in f if line.strip() and not line.startswith("#version")]
    tokens = sorted(ids, key=ids.get)
    for name in args.types or TYPES:
        path = os.path.join(args.output, f"gpt2-{name}.gguf")
        write_gguf(path, tokens, merges, name)
        print(f"{path}: {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main()
