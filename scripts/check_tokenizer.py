#!/usr/bin/env python3
"""Compares tokenizer.c with Hugging Face tokenizers and tiktoken on GPT-2's own vocabulary.

    cc -O2 -D_GNU_SOURCE -DHAVE_JANSSON -o build/tokenize dev/tokenize.c tokenizer.c mapped_file.c utils.c -ljansson
    python3 scripts/check_tokenizer.py --tokenize build/tokenize --gpt2 DIRECTORY --corpus TEXT.gz [--strings N]

DIRECTORY holds vocab.json, merges.txt and gpt2_tokenizer.bin: the C tokenizer is judged on both kinds of files, .bin
only with --no-hf (a build without libjansson). Compared are the corpus, every code point alone and among neighbours,
N random texts of many scripts, and long words; random bytes must come back unchanged and split as documented. Prints
what was counted and each difference; the exit status is the verdict. Needs `pip install tokenizers tiktoken`.
"""
import argparse
import array
import gzip
import os
import random
import struct
import subprocess
import sys
import time

os.environ.setdefault("RAYON_NUM_THREADS", "1")  # one thread against one thread
sys.dont_write_bytecode = True

from make_tokenizer_vectors import (EMOJI, EOT, NOT_UTF8, PlainTokenizer, SPACES, classes_of_hugging_face,  # noqa: E402
                                    hugging_face, random_text, read_bin)

BATCH = 20000


class Program:
    """dev/tokenize on one tokenizer, as a function from byte strings to lists of ids."""

    def __init__(self, program, tokenizer):
        self.command = [program, tokenizer]
        self.name = os.path.basename(tokenizer)

    def encode_batch(self, texts):
        data = b"".join(struct.pack("=Q", len(text)) + text for text in texts)
        answer = subprocess.run(self.command, input=data, stdout=subprocess.PIPE, check=True).stdout
        numbers, at, ids = array.array("I", answer), 0, []
        for _ in texts:
            ids.append(numbers[at + 1:at + 1 + numbers[at]].tolist())
            at += 1 + numbers[at]
        assert at == len(numbers), "the program answered more than it was asked"
        return ids

    def seconds(self, path, repeats):
        with open(path, "rb") as f:
            answer = subprocess.run(self.command + ["--time", str(repeats)], stdin=f, stdout=subprocess.PIPE, check=True)
        return float(answer.stdout.split()[-4])


def make_tiktoken(tokens, pattern=None):
    """tiktoken's GPT-2 without its download, as a function of a batch; `pattern` in place of GPT-2's for words."""
    import tiktoken
    from tiktoken_ext.openai_public import r50k_pat_str
    ranks = {token: i for i, token in enumerate(tokens) if token != EOT}
    encoding = tiktoken.Encoding("gpt2", pat_str=pattern or r50k_pat_str, mergeable_ranks=ranks,
                                 special_tokens={EOT.decode(): tokens.index(EOT)})
    return lambda batch: encoding.encode_batch(batch, num_threads=1, allowed_special="all")


class Verdict:
    def __init__(self):
        self.failures = 0

    def judge(self, ok, claim):
        self.failures += not ok
        print(f"{'ok' if ok else 'FAILED':7}{claim}", flush=True)

    def report(self, title, compared, different):
        """different: texts with what each tokenizer said."""
        self.judge(not different, f"{title}: {compared} compared, {len(different)} differ")
        for text, answers in different[:5]:
            print(f"       {text[:120]!r}")
            for name, ids in answers.items():
                print(f"         {name:20} {ids[:40]}")


def differences(programs, references, texts):
    """(number of texts, those on which not all agree, with what each said); UTF-8 texts, in batches."""
    compared, different, batch = 0, [], []

    def flush():
        answers = {p.name: p.encode_batch([text.encode() for text in batch]) for p in programs}
        answers.update({name: encode(batch) for name, encode in references.items()})
        for i, text in enumerate(batch):
            of_text = {name: ids[i] for name, ids in answers.items()}
            if any(ids != next(iter(of_text.values())) for ids in of_text.values()):
                different.append((text, of_text))
        batch.clear()

    for text in texts:
        batch.append(text)
        compared += 1
        if len(batch) == BATCH:
            flush()
    flush()
    return compared, different


def compare(verdict, title, programs, references, texts):
    """All programs against all references."""
    verdict.report(title, *differences(programs, references, texts))


def check_the_check(verdict, programs, tokens, rng):
    """Tokenizers that are wrong in one small thing each must be found out by the random texts."""
    wrong = {"white space that keeps its last character": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+",
             "contractions in capitals": r"'(?i:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
             "no contraction of 'd": r"'s|'t|'re|'ve|'m|'ll| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
             "numbers of ASCII only": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[0-9]+| ?[^\s\p{L}0-9]+|\s+(?!\S)|\s+"}
    texts = list(random_texts(rng, 5000))
    for name, pattern in wrong.items():
        compared, different = differences(programs[:1], {name: make_tiktoken(tokens, pattern)}, texts)
        verdict.judge(different, f"a wrong tokenizer is noticed, {name}: {len(different)} of {compared} differ")


def every_code_point():
    """Each code point alone, then among neighbours of every class, before and after."""
    for c in range(0x110000):
        if not 0xD800 <= c < 0xE000:
            c = chr(c)
            yield c
            yield f"a{c}a {c} {c}{c}1{c}1  {c}\n{c}!{c}?\n\n{c}  \u3000{c}\u00a0'{c} '{c}s {c}'s x{c}'ll  "


def random_texts(rng, n):
    for i in range(n):
        yield random_text(rng, 3 + i % 20)


def long_words(rng):
    """Words on both sides of the length at which the method changes, and runs of one symbol."""
    for n in [*range(10, 70), 100, 255, 256, 1000, 5000, 20000]:
        yield "".join(rng.choices("etaoinshrdlucmfwypvbgkjqxz", weights=range(26, 0, -1), k=n))
        yield "".join(rng.choices("aąбβ中한", k=n))
        yield "".join(rng.choices("0123456789", k=n))
        yield "".join(rng.choices("=-#*!/", weights=[9, 9, 1, 4, 1, 1], k=n))
        yield "".join(rng.choices(SPACES, k=n)) + "x"
        yield "".join(rng.choices(EMOJI, k=n))
        for symbol in ["a", "A", " ", "\n", "\t", "\r\n", "=", "-", "ab", "é", "\0", "\u3000", "'s", "0", "ÃÂ"]:
            yield symbol * n
            yield "x" + symbol * n + "y"


def bytes_texts(rng, n):
    """Bytes of every kind: noise, and UTF-8 with bytes taken out and put in."""
    yield from NOT_UTF8
    for i in range(n):
        if i % 3 == 0:
            yield rng.randbytes(rng.randint(0, 60))
        else:
            text = bytearray(random_text(rng, 12).encode())
            for _ in range(rng.randint(1, 4)):
                at = rng.randint(0, len(text))
                text[at:at + rng.randrange(2)] = rng.randbytes(rng.randrange(3))
            yield bytes(text)


def compare_bytes(verdict, programs, tokens, classes, texts):
    """Round trips, and the ids of the plain implementation, which has the same rule for what is not UTF-8."""
    texts = list(texts)
    plain = PlainTokenizer(tokens, classes)
    for program in programs:
        answers = program.encode_batch(texts)
        lost = [(text, {"back": ids}) for text, ids in zip(texts, answers) if b"".join(tokens[i] for i in ids) != text]
        verdict.report(f"bytes come back, {program.name}", len(texts), lost)
    expected = ((text, ids, plain.encode(text)) for text, ids in zip(texts, answers))
    wrong = [(text, {"C": ids, "plain": other}) for text, ids, other in expected if ids != other]
    verdict.report("bytes of any kind, against the plain implementation", len(texts), wrong)


def speed(programs, references, corpus, path):
    """MB/s of the corpus, printed and not judged; one thread each, the best of three."""
    megabytes = len(corpus.encode()) / 1e6
    figures = {p.name: min(p.seconds(path, 3) for _ in range(2)) for p in programs}
    for name, encode in references.items():
        times = []
        for _ in range(3):
            start = time.perf_counter()
            encode([corpus])
            times.append(time.perf_counter() - start)
        figures[name] = min(times)
    print("speed  " + ", ".join(f"{name} {megabytes / s:.1f} MB/s" for name, s in figures.items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenize", required=True, help="the program made of dev/tokenize.c")
    parser.add_argument("--gpt2", required=True, help="directory with GPT-2's vocab.json, merges.txt and .bin")
    parser.add_argument("--corpus", required=True, help="UTF-8 text, gzip")
    parser.add_argument("--strings", type=int, default=200000, help="random texts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-hf", action="store_true", help="the program was built without libjansson")
    args = parser.parse_args()
    binary = os.path.join(args.gpt2, "gpt2_tokenizer.bin")
    programs = [Program(args.tokenize, binary)] + ([] if args.no_hf else [Program(args.tokenize, args.gpt2)])
    tokens, rng, verdict = read_bin(binary), random.Random(args.seed), Verdict()
    huggingface = hugging_face(args.gpt2)
    references = {"Hugging Face": lambda batch: [e.ids for e in huggingface.encode_batch_fast(batch)],
                  "tiktoken": make_tiktoken(tokens)}
    check_the_check(verdict, programs, tokens, rng)
    with gzip.open(args.corpus) as f:
        corpus = f.read().decode()
    compare(verdict, "the corpus, whole", programs, references, [corpus])
    compare(verdict, "the corpus, lines", programs, references, corpus.splitlines(keepends=True))
    compare(verdict, "every code point, alone and among others", programs, references, every_code_point())
    compare(verdict, "random texts", programs, references, random_texts(rng, args.strings))
    compare(verdict, "long words", programs, references, long_words(rng))
    compare_bytes(verdict, programs, tokens, classes_of_hugging_face(), bytes_texts(rng, args.strings // 10))
    plain_corpus = args.tokenize + ".corpus.tmp"
    with open(plain_corpus, "wb") as f:
        f.write(corpus.encode())
    speed(programs, references, corpus, plain_corpus)
    os.remove(plain_corpus)
    return 1 if verdict.failures else 0


if __name__ == "__main__":
    sys.exit(main())
