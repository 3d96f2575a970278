#!/usr/bin/env python3
"""Generates unicode_classes.h: which code points GPT-2's pre-tokenizer takes for letters, numbers and white space.

    python3 dev/make_unicode_classes.py > unicode_classes.h.tmp && mv unicode_classes.h.tmp unicode_classes.h

The table must equal what the users' other tools do, whatever the edition of Unicode that they were built with, so it
is not made from the Unicode database but observed: every code point is put behind a letter, a digit and a mark, and
Hugging Face's byte-level pre-tokenizer shows with which of them it stays together. The result goes to standard output;
what was counted goes to standard error. Needs `pip install tokenizers tiktoken`.

Seen with tokenizers 0.23.3 and tiktoken 0.14.0: both follow Unicode 16.0 (141,028 letters, 1,911 numbers, 25 white
space) and differ on 0 code points. Where a later edition of the two disagrees, Hugging Face's answer is taken and the
count is printed; then it belongs into this paragraph. With tiktoken absent the comparison is left out.
"""
import sys

OTHER, LETTER, NUMBER, SPACE = range(4)
NEIGHBOURS = {LETTER: "a", NUMBER: "1", OTHER: "!"}  # what joins with nothing of these is white space
BLOCK = 128  # code points per block: four words of 2-bit classes; 256 make a larger table, 64 too many blocks


def code_points():
    """Every code point that UTF-8 can carry: all but the surrogates."""
    return [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def classes_of_hugging_face():
    """{code point: class} by the splits of tokenizers' ByteLevel pre-tokenizer."""
    from tokenizers import pre_tokenizers
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True).pre_tokenize_str

    def class_of(c):
        joined = [k for k, neighbour in NEIGHBOURS.items() if len(split(neighbour + chr(c))) == 1]
        assert len(joined) <= 1, f"U+{c:04X} joins with {joined}"
        return joined[0] if joined else SPACE

    return {c: class_of(c) for c in code_points()}


def classes_of_tiktoken():
    """The same by tiktoken, whose splits do not show: a vocabulary in which every joined pair is one token."""
    import tiktoken
    from tiktoken_ext.openai_public import r50k_pat_str
    ranks = {bytes([b]): b for b in range(256)}
    for c in code_points():
        for neighbour in NEIGHBOURS.values():
            ranks.setdefault((neighbour + chr(c)).encode(), len(ranks))
    encoding = tiktoken.Encoding("classes", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})

    def class_of(c):
        joined = [k for k, neighbour in NEIGHBOURS.items() if len(encoding.encode_ordinary(neighbour + chr(c))) == 1]
        assert len(joined) <= 1, f"U+{c:04X} joins with {joined}"
        return joined[0] if joined else SPACE

    return {c: class_of(c) for c in code_points()}


def pack(classes):
    """(limit, index, blocks): class of c < limit is 2 bits of blocks[index[c // BLOCK]]; above all are OTHER."""
    limit = (max(c for c, k in classes.items() if k != OTHER) // BLOCK + 1) * BLOCK
    blocks, index = {}, []
    for start in range(0, limit, BLOCK):
        words = [sum(classes.get(w + i, OTHER) << 2 * i for i in range(32)) for w in range(start, start + BLOCK, 32)]
        index.append(blocks.setdefault(tuple(words), len(blocks)))
    assert len(blocks) <= 256, "the index no longer fits into bytes"
    return limit, index, list(blocks)


def lines_of(items, width=116):
    """Comma-separated items in lines of at most `width` characters, indented."""
    lines = [""]
    for item in items:
        if len(lines[-1]) + len(item) + 2 > width:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + item + ","
    return "\n".join("    " + line for line in lines)


def main():
    classes = classes_of_hugging_face()
    count = {k: sum(v == k for v in classes.values()) for k in range(4)}
    print(f"{count[LETTER]} letters, {count[NUMBER]} numbers, {count[SPACE]} white space", file=sys.stderr)
    try:
        other = classes_of_tiktoken()
        print(f"tiktoken differs on {sum(classes[c] != other[c] for c in classes)} code points", file=sys.stderr)
    except ImportError:
        print("tiktoken is not installed: not compared", file=sys.stderr)
    limit, index, blocks = pack(classes)
    print(f"""\
// Made by dev/make_unicode_classes.py, do not edit: the classes of GPT-2's pre-tokenizer, 2 bits per code point, in
// blocks of {BLOCK} code points of which equal ones are kept once. {count[LETTER]} letters, {count[NUMBER]} numbers, {count[SPACE]} white space.
// Included by tokenizer.c alone.
// clang-format off
#include <stdint.h>

enum {{ CLASS_OTHER, CLASS_LETTER, CLASS_NUMBER, CLASS_SPACE }};

enum {{ UNICODE_CLASSES_LIMIT = 0x{limit:X} }}; // every code point from here on is CLASS_OTHER

// Block of code point c: unicode_block_index[c / {BLOCK}].
static const uint8_t unicode_block_index[{len(index)}] = {{
{lines_of(map(str, index))}
}};

// Class of code point c: bits 2 * (c % 32) and the next of unicode_blocks[block][c % {BLOCK} / 32].
static const uint64_t unicode_blocks[{len(blocks)}][{BLOCK // 32}] = {{
{lines_of("{" + ", ".join(f"0x{w:X}u" for w in b) + "}" for b in blocks)}
}};
// clang-format on""")


if __name__ == "__main__":
    main()
