#!/usr/bin/env python3
"""Writes the texts and token ids that tests/test_tokenizer.c compares with.

    python3 scripts/make_tokenizer_vectors.py --bundled models/fairytales_tokenizer.bin --gpt2 DIRECTORY

tests/fixtures/tokenizer_fairytales.txt holds the ids of the bundled vocabulary. They come from the plain
implementation below, which shares nothing with tokenizer.c: Python's re for the words, a dictionary of bytes for the
merges. tests/fixtures/tokenizer_gpt2.txt holds those of GPT-2's own vocabulary, made by Hugging Face's tokenizers
from DIRECTORY/vocab.json and merges.txt; the plain implementation must agree with it, or nothing is written. One line
per text: its bytes in hexadecimal, a tab, the ids. tests/fixtures/tokenizer_classes.txt holds Hugging Face's classes of
all code points: first and last of a range in hexadecimal, then L (letter), N (number) or S (white space), in order; what
is not named is other. Needs `pip install tokenizers`.
"""
import argparse
import os
import random
import re
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "dev"))
from make_unicode_classes import LETTER, NUMBER, OTHER, SPACE, classes_of_hugging_face  # noqa: E402

EOT = b"<|endoftext|>"


# ---------------------------------------------------------------------------------------------------------
# vocabularies

def read_bin(path):
    """The tokens of an llm.c tokenizer .bin as byte strings by id."""
    with open(path, "rb") as f:
        data = f.read()
    magic, version, n = struct.unpack_from("<3i", data)
    assert magic == 20240328 and version in (1, 2), f"{path} is no tokenizer"
    tokens, at = [], 1024
    for _ in range(n):
        tokens.append(data[at + 1:at + 1 + data[at]])
        at += 1 + data[at]
    assert at == len(data), f"{path} does not end with its last token"
    return tokens


def hugging_face(directory):
    """GPT-2's tokenizer as Hugging Face's fast one sets it up from vocab.json and merges.txt."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    files = [os.path.join(directory, name) for name in ("vocab.json", "merges.txt")]
    tokenizer = Tokenizer(models.BPE.from_file(*files))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([EOT.decode()])
    return tokenizer


# ---------------------------------------------------------------------------------------------------------
# the plain implementation

class PlainTokenizer:
    """Any bytes to ids: words by a regular expression, merges by the joined bytes of the lowest id."""

    # Every symbol is first replaced by one of ASCII that behaves like it, so that re's idea of Unicode has no say
    WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", re.ASCII)
    ALIKE = {LETTER: "a", NUMBER: "0", OTHER: "!", SPACE: "\n"}

    def __init__(self, tokens, classes):
        """tokens: byte strings by id; classes: of all code points, as make_unicode_classes.py has them."""
        self.id_of = {token: i for i, token in enumerate(tokens)}
        self.classes = classes

    def words(self, text):
        """The words of a byte string without the special token. What is not UTF-8 becomes lone surrogates: OTHER."""
        symbols = text.decode("utf-8", "surrogateescape")
        alike = "".join(c if c < "\x80" else self.ALIKE[self.classes.get(ord(c), OTHER)] for c in symbols)
        return [symbols[m.start():m.end()].encode("utf-8", "surrogateescape") for m in self.WORD.finditer(alike)]

    def merge(self, word):
        parts = [word[i:i + 1] for i in range(len(word))]
        while len(parts) > 1:
            ranks = [self.id_of.get(a + b, len(self.id_of)) for a, b in zip(parts, parts[1:])]
            best = min(ranks)
            if best == len(self.id_of):
                break
            i = ranks.index(best)
            parts[i:i + 2] = [parts[i] + parts[i + 1]]
        return [self.id_of[part] for part in parts]

    def encode(self, text):
        ids = []
        for i, stretch in enumerate(text.split(EOT)):
            ids += [self.id_of[EOT]] if i > 0 else []
            ids += [id for word in self.words(stretch) for id in self.merge(word)]
        return ids


# ---------------------------------------------------------------------------------------------------------
# texts that are hard to get right

SPACES = [chr(c) for c in [*range(9, 14), 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F,
                           0x205F, 0x3000]]
SCRIPTS = [range(0x41, 0x7B), range(0xC0, 0x250), range(0x370, 0x400), range(0x400, 0x530), range(0x531, 0x590),
           range(0x5D0, 0x5F5), range(0x600, 0x700), range(0x900, 0x980), range(0xE00, 0xE5C), range(0x1100, 0x1200),
           range(0x1E00, 0x2000), range(0x2070, 0x20A0), range(0x2150, 0x2190), range(0x2460, 0x2500),
           range(0x3040, 0x3100), range(0x4E00, 0x5000), range(0xAC00, 0xAD00), range(0x10330, 0x1034B),
           range(0x12000, 0x12080), range(0x1D400, 0x1D500), range(0x1E900, 0x1E95A), range(0x20000, 0x20080)]
EMOJI = ["😀", "👩‍👩‍👧‍👦", "👍🏽", "🇫🇷🇯🇵", "1️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "❤️‍🔥", "☎︎", "🧑🏿‍🚀", "🫠"]
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'RE", "'Ve", "'M", "'lL", "'D", "’s", "’t",
                "''s", "' s", "'r", "'v", "'l", "'", "'sa", "'res", "'d1", "'t've", "'ſ", "`s"]
ENGLISH = ("Once upon a time there lived in a deep, dark forest an old woodcutter who couldn't read; he'd 3 sons & "
           "1,024 sheep -- \"Don't you dare!\" said the wolf, who'll eat anything. They're gone... http://x.org/~a_b?c=1")
FIXED = ["", " ", "  ", "   ", "\n", "\n\n", " \n", "\n ", "\t\t x", "a", " a", "a ", " a ", "a  b", "a   b", "a \n b",
         "a\n\n\nb", "a\r\nb\r\n", "  1", "1 2  3", "x1y2", "_a_", " _a", "  _", "!  ", "don't", " don't", "DON'T",
         "'tis 's", "s's's", "a'", "\0", "\0\0a\0", "a\0b", " \0", "\x7f\x1b[0m", "\ufeffa", "\u200b", "a\u200bb",
         "\ufffd", "\uffff", "\U0010ffff", "é", "e\u0301", "Straße", "ﬁ", "Ⅷ ½ ² ٣ 三", "日本語の文章。", "שלום עולם",
         "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก", "안녕하세요 세계", "Здравствуй, мир", "Γειά σου Κόσμε", "Zażółć gęślą jaźń",
         "<|endoftext|>", "a<|endoftext|>b", " <|endoftext|> ", "  <|endoftext|>  x", "<|endoftext|><|endoftext|>",
         "<|endoftext|", "<|endoftext|>>", "<<|endoftext|>", "<|endof<|endoftext|>text|>", "<|ENDOFTEXT|>",
         "\n<|endoftext|>\n", "it'<|endoftext|>s", "é<|endoftext|>é", "'" * 40, "a" * 33, "a" * 32, "a" * 31, "a" * 257,
         " " * 33, "\n" * 70, "!" * 200, "9" * 90, "ab" * 60, "th" * 50, "é" * 40, "the" * 100, "=" * 64 + "-" * 65]
NOT_UTF8 = [b"\x80", b"\xff", b"a\x80b", b" \x80 \x81", b"\xc0\x80", b"\xc1\xbf", b"\xc3", b"\xc3a", b"\xe2\x82",
            b"\xe2\x82\xe2\x82\xac", b"\xe2\x28\xa1", b"\xe0\x80\x80", b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xed\xbf\xbf",
            b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xf0\x80\x80\x80", b"\xf0\x8f\xbf\xbf", b"\xf0\x90\x80\x80",
            b"\xf4\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xf0\x9f\x98", b"\xf0\x9f\x98\x80\x80",
            b"a\xc3\xa9\xc3", b"\xe1\x9a\xe1\x9a\x80", b"  \xe3\x80\x80\xe3\x80", b"\xc2\xa0\xc2", b"\xfe\xff\x00a",
            b"1\xf0\x9d\x9f\x98\xf0\x9d\x9f", b"\xe2\x80\x99s\xe2\x80s", b"'\x80s", b"x\xff<|endoftext|>\xff", bytes(range(256))]


def random_text(rng, pieces):
    """A few pieces of everything above, often glued together without a space."""
    out = []
    for _ in range(rng.randint(1, pieces)):
        kind = rng.randrange(11)
        if kind < 3:
            script = rng.choice(SCRIPTS)
            out.append("".join(chr(rng.choice(script)) for _ in range(rng.randint(1, 6))))
        elif kind == 3:
            start = rng.randrange(len(ENGLISH))
            out.append(ENGLISH[start:start + rng.randint(1, 30)])
        elif kind == 4:
            out.append("".join(rng.choices(SPACES, k=rng.randint(1, 4))))
        elif kind == 5:
            out.append(rng.choice(" \n") * rng.randint(1, 5))
        elif kind == 6:
            out.append(rng.choice(CONTRACTIONS))
        elif kind == 7:
            out.append(rng.choice(EMOJI))
        elif kind == 8:
            out.append("".join(chr(rng.choice([*range(32), *range(127, 160)])) for _ in range(rng.randint(1, 3))))
        elif kind == 9:
            out.append(chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])))
        else:
            out.append(rng.choice(["", " ", EOT.decode(), str(rng.randrange(10 ** 6)), "".join(rng.choices("!?.-_/", k=3))]))
    return "".join(out)


def texts():
    """The texts of the fixtures, the same at every call: (UTF-8, other bytes)."""
    rng = random.Random(20240328)
    good = [*FIXED, *CONTRACTIONS, *EMOJI, ENGLISH]
    good += [f"a{s}b" for s in SPACES] + [f"{s}{s}b" for s in SPACES] + [f"it{c} {c}" for c in CONTRACTIONS]
    good += ["".join(chr(c) for c in list(script)[:12]) for script in SCRIPTS]
    good += [random_text(rng, 6) for _ in range(150)]
    good += ["".join(rng.choices("etaoinshrdlu", k=n)) for n in (16, 33, 63, 64, 65, 66, 200, 400)]
    bad = NOT_UTF8 + [rng.randbytes(rng.randint(1, 40)) for _ in range(30)]
    for _ in range(40):
        cut = bytearray(random_text(rng, 5).encode())
        del cut[rng.randrange(len(cut) + 1):][:1]
        bad.append(bytes(cut[rng.randrange(2):]))
    good = list(dict.fromkeys(text.encode() for text in good))
    return good, list(dict.fromkeys(text for text in bad if text not in good))


def write_fixture(name, what, lines):
    path = os.path.relpath(os.path.join(HERE, "..", "tests", "fixtures", name))
    with open(path + ".tmp", "w") as f:
        f.write(f"# Made by scripts/make_tokenizer_vectors.py: {what}\n")
        f.writelines(line + "\n" for line in lines)
    os.replace(path + ".tmp", path)
    print(f"{path}: {len(lines)} lines")


def vector_lines(vectors):
    return [f"{text.hex()}\t{' '.join(map(str, ids))}" for text, ids in vectors]


def class_lines(classes):
    ranges = []
    for c, k in sorted(classes.items()):
        if k == OTHER:
            continue
        if ranges and ranges[-1][1:] == [c - 1, k]:
            ranges[-1][1] = c
        else:
            ranges.append([c, c, k])
    letters = {LETTER: "L", NUMBER: "N", SPACE: "S"}
    return [f"{first:X} {last:X} {letters[k]}" for first, last, k in ranges]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundled", required=True, help="the bundled model's tokenizer .bin")
    parser.add_argument("--gpt2", required=True, help="directory with GPT-2's vocab.json, merges.txt and .bin")
    args = parser.parse_args()
    classes = classes_of_hugging_face()
    good, bad = texts()
    bundled = PlainTokenizer(read_bin(args.bundled), classes)
    vectors = [(text, bundled.encode(text)) for text in good + bad]
    reference = hugging_face(args.gpt2)
    plain = PlainTokenizer(read_bin(os.path.join(args.gpt2, "gpt2_tokenizer.bin")), classes)
    gpt2_vectors = [(text, reference.encode(text.decode()).ids) for text in good]
    wrong = [text for text, ids in gpt2_vectors if plain.encode(text) != ids]
    if wrong:
        sys.exit(f"the plain implementation and Hugging Face differ on {len(wrong)} texts, first {wrong[0]!r}")
    write_fixture("tokenizer_fairytales.txt", "bytes, tab, ids", vector_lines(vectors))
    write_fixture("tokenizer_gpt2.txt", "bytes, tab, ids", vector_lines(gpt2_vectors))
    write_fixture("tokenizer_classes.txt", "first, last, class", class_lines(classes))


if __name__ == "__main__":
    main()
