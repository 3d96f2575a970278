// The tokenizer: the ids of fixtures made by other implementations, round trips, speed without cliffs, hostile files.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../tokenizer.h"
#include "test.h"

#define BUNDLED    "models/fairytales_tokenizer.bin"
#define GPT2       "../shared/gpt2-tokenizer"
#define EOT_TEXT   "<|endoftext|>"
#define EOT_LENGTH (sizeof EOT_TEXT - 1)

// ---------------------------------------------------------------------------------------------------------------------
// Bytes and temporary files. Without memory the tests end with status 1.

typedef struct {
    char* data; // (capacity) with a NUL behind the bytes
    size_t size, capacity;
} Bytes;

static void append(Bytes* b, const void* data, size_t n) {
    if (b->data == NULL || b->size + n + 1 > b->capacity) {
        b->capacity = 2 * (b->size + n + 1);
        b->data = realloc(b->data, b->capacity);
        if (b->data == NULL) exit(1);
    }
    if (n > 0) memcpy(b->data + b->size, data, n);
    b->size += n;
    b->data[b->size] = '\0';
}

static void append_string(Bytes* b, const char* s) {
    append(b, s, strlen(s));
}

static void append_token(Bytes* b, const char* token) {
    unsigned char length = (unsigned char)strlen(token);
    append(b, &length, 1);
    append_string(b, token);
}

static void put_32(char* p, uint32_t value) {
    for (int i = 0; i < 4; i++) p[i] = (char)(value >> 8 * i);
}

static Bytes read_all(const char* path) {
    Bytes b = {0};
    char block[4096];
    FILE* f = fopen(path, "rb");
    if (f == NULL) return b;
    for (size_t n; (n = fread(block, 1, sizeof block, f)) > 0;) append(&b, block, n);
    fclose(f);
    return b;
}

// A directory for the files of one test; files named through path_in() are removed with it.
typedef struct {
    char directory[200];
} Scratch;

static bool scratch_make(Scratch* s) {
    const char* parent = getenv("TMPDIR");
    snprintf(s->directory, sizeof s->directory, "%s/test_tokenizer_XXXXXX", parent != NULL ? parent : "/tmp");
    return mkdtemp(s->directory) != NULL;
}

static const char* path_in(const Scratch* s, const char* name, char path[256]) {
    snprintf(path, 256, "%s/%s", s->directory, name);
    return path;
}

static const char* write_file(const Scratch* s, const char* name, const Bytes* content, char path[256]) {
    FILE* f = fopen(path_in(s, name, path), "wb");
    if (f == NULL || fwrite(content->data, 1, content->size, f) != content->size) perror(path);
    if (f != NULL) fclose(f);
    return path;
}

static void scratch_remove(const Scratch* s) {
    const char* names[] = {"t.bin", "vocab.json", "merges.txt", "fifo"};
    char path[256];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unlink(path_in(s, names[i], path));
    rmdir(s->directory);
}

// ---------------------------------------------------------------------------------------------------------------------
// Judging

// Does the text get exactly these ids?
static bool has_ids(const Tokenizer* tokenizer, const char* text, size_t length, const int* ids, size_t n) {
    Error error;
    int* tokens;
    size_t num_tokens;
    if (!tokenizer_encode(tokenizer, text, length, &tokens, &num_tokens, &error)) return false;
    bool same = num_tokens == n && (n == 0 || memcmp(tokens, ids, n * sizeof *ids) == 0);
    free(tokens);
    return same;
}

// Does decoding the ids of the text give the text?
static bool comes_back(const Tokenizer* tokenizer, const char* text, size_t length) {
    Error error;
    int* tokens;
    size_t num_tokens, at = 0;
    if (!tokenizer_encode(tokenizer, text, length, &tokens, &num_tokens, &error)) return false;
    bool same = true;
    for (size_t i = 0; same && i < num_tokens; i++) {
        size_t n;
        const char* bytes = tokenizer_decode(tokenizer, tokens[i], &n);
        same = n <= length - at && memcmp(bytes, text + at, n) == 0;
        at += n;
    }
    free(tokens);
    return same && at == length;
}

// A text and its ids, from a fixture.
typedef struct {
    Bytes text;
    int* ids; // (num_ids)
    size_t num_ids;
} Vector;

// Reads a line "hexadecimal bytes, tab, ids with blanks between"; false for a comment.
static bool parse_vector(Vector* v, const char* line) {
    unsigned byte;
    *v = (Vector){0};
    if (line[0] == '#') return false;
    append(&v->text, "", 0);
    for (; sscanf(line, "%2x", &byte) == 1 && *line != '\t'; line += 2) append(&v->text, &(char){(char)byte}, 1);
    v->ids = calloc(strlen(line) + 1, sizeof *v->ids); // more than there are ids
    if (v->ids == NULL) exit(1);
    char* end;
    for (long id = strtol(line, &end, 10); end != line; id = strtol(line, &end, 10)) {
        v->ids[v->num_ids++] = (int)id;
        line = end;
    }
    return true;
}

// Compares a fixture; *texts is their number. `falsify` is added to every last id, to see that a difference is noticed.
// The number of texts with other ids, or SIZE_MAX without a fixture. `all`, when not NULL, collects texts and ids, each
// text behind <|endoftext|>.
static size_t compare_vectors(const Tokenizer* tokenizer, const char* path, int falsify, size_t* texts, Vector* all) {
    char* line = NULL;
    size_t capacity = 0, wrong = 0;
    FILE* f = fopen(path, "r");
    *texts = 0;
    if (f == NULL) return SIZE_MAX;
    while (getline(&line, &capacity, f) > 0) {
        Vector v;
        if (!parse_vector(&v, line)) continue;
        ++*texts;
        if (v.num_ids > 0) v.ids[v.num_ids - 1] += falsify;
        wrong += !has_ids(tokenizer, v.text.data, v.text.size, v.ids, v.num_ids);
        if (all != NULL) {
            all->ids = realloc(all->ids, (all->num_ids + v.num_ids + 1) * sizeof *all->ids);
            if (all->ids == NULL) exit(1);
            append_string(&all->text, EOT_TEXT);
            append(&all->text, v.text.data, v.text.size);
            all->ids[all->num_ids++] = tokenizer_eot(tokenizer);
            memcpy(all->ids + all->num_ids, v.ids, v.num_ids * sizeof *v.ids);
            all->num_ids += v.num_ids;
        }
        free(v.text.data);
        free(v.ids);
    }
    free(line);
    fclose(f);
    return wrong;
}

// ---------------------------------------------------------------------------------------------------------------------
// The bundled vocabulary

// xorshift64: reproducible noise.
static uint64_t next_random(uint64_t* state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

static void test_vectors(Tests* t, const Tokenizer* tokenizer) {
    const char* fixture = "tests/fixtures/tokenizer_fairytales.txt";
    size_t texts, ignored;
    Vector all = {0};
    size_t wrong = compare_vectors(tokenizer, fixture, 0, &texts, &all);
    test_check(t, wrong == 0 && texts >= 300, "%zu texts get the ids of an independent implementation: %zd differ",
               texts, (ssize_t)wrong);
    wrong = compare_vectors(tokenizer, fixture, 1, &ignored, NULL);
    test_check(t, wrong + 1 == texts,
               "with every last id changed, %zd of %zu texts differ (all but the empty one): the "
               "comparison sees it",
               (ssize_t)wrong, texts);
    size_t once = all.text.size, once_ids = all.num_ids;
    Bytes twice = {0};
    append(&twice, all.text.data, once);
    append(&twice, all.text.data, once);
    all.ids = realloc(all.ids, (2 * once_ids + 1) * sizeof *all.ids);
    if (all.ids == NULL) exit(1);
    memcpy(all.ids + once_ids, all.ids, once_ids * sizeof *all.ids);
    test_check(t, once > 0 && has_ids(tokenizer, twice.data, twice.size, all.ids, 2 * once_ids),
               "all of them in one text, twice, with " EOT_TEXT " between (%zu bytes), get the same ids as one by one",
               twice.size);
    test_check(t, comes_back(tokenizer, twice.data, twice.size), "and decode to the same %zu bytes", twice.size);
    free(twice.data);
    free(all.text.data);
    free(all.ids);
}

static void test_special(Tests* t, const Tokenizer* tokenizer) {
    int eot = tokenizer_eot(tokenizer), x = 0, *tokens = NULL;
    size_t n = 1;
    Error error;
    if (tokenizer_encode(tokenizer, "x", 1, &tokens, &n, &error) && n == 1) x = tokens[0];
    free(tokens);
    test_check(t, has_ids(tokenizer, EOT_TEXT, EOT_LENGTH, &eot, 1), EOT_TEXT " is the one token %d", eot);
    test_check(t, has_ids(tokenizer, "x" EOT_TEXT EOT_TEXT "x", 2 + 2 * EOT_LENGTH, (int[]){x, eot, eot, x}, 4),
               EOT_TEXT " is found in the middle of a text and twice in a row");
    tokens = NULL;
    bool ok = tokenizer_encode(tokenizer, "", 0, &tokens, &n, &error);
    test_check(t, ok && n == 0 && tokens != NULL, "the empty text has %zu tokens and an array all the same", n);
    free(tokens);
    test_check(t, comes_back(tokenizer, "a\0b\0\0", 5), "NUL bytes come back from \"a\\0b\\0\\0\"");
}

static void test_noise(Tests* t, const Tokenizer* tokenizer) {
    enum { NUM_TEXTS = 3000, LONGEST = 300 };
    // pieces that meet at every boundary: of UTF-8, of words, of the special token
    const char* pieces[] = {" ",        "  ",      "\n",     "'",        "s",    "ll",       "the",      "1",
                            "!",        "\xC3",    "\xA9",   "\xE2\x80", "\x99", "\xF0\x9F", "\x98\x80", "\xE3\x80\x80",
                            "\xC2\x85", "<|endof", "text|>", EOT_TEXT};
    uint64_t state = 88172645463325252u;
    size_t lost = 0, bytes = 0;
    for (int i = 0; i < NUM_TEXTS; i++) {
        Bytes text = {0};
        size_t n = next_random(&state) % LONGEST;
        append(&text, "", 0);
        while (text.size < n) {
            uint64_t r = next_random(&state);
            if (i % 2 == 0) append(&text, &(char){(char)(r >> 32)}, 1);
            else append_string(&text, pieces[(r >> 32) % (sizeof pieces / sizeof *pieces)]);
        }
        lost += !comes_back(tokenizer, text.data, text.size);
        bytes += text.size;
        free(text.data);
    }
    test_check(t, lost == 0, "decode(encode(x)) == x for %d random byte strings (%zu bytes): %zu lost", NUM_TEXTS,
               bytes, lost);
}

// Encodes n bytes that repeat `pattern` (a random letter for '?'); the claim is a bound that only a quadratic method
// misses, the figure is for the reader.
static void test_speed(Tests* t, const Tokenizer* tokenizer, const char* what, const char* pattern, size_t n) {
    const double limit = 20.0; // seconds; at n = 1e6 a quadratic method needs minutes
    uint64_t state = 1;
    Error error;
    int* tokens = NULL;
    size_t num_tokens = 0, period = strlen(pattern);
    char* text = malloc(n);
    if (text == NULL) exit(1);
    for (size_t i = 0; i < n; i++) {
        char c = pattern[i % period];
        text[i] = c != '?' ? c : (char)('a' + (next_random(&state) >> 20) % 26);
    }
    double start = seconds_now();
    bool ok = tokenizer_encode(tokenizer, text, n, &tokens, &num_tokens, &error);
    double seconds = seconds_now() - start;
    test_check(t, ok && seconds < limit, "%s: %zu bytes in %.3f s (%.0f MB/s), at most %.0f s", what, n, seconds,
               1e-6 * (double)n / seconds, limit);
    free(tokens);
    free(text);
}

static void test_bundled(Tests* t, const Scratch* scratch) {
    Error error = {{0}};
    char path[256];
    double start = seconds_now();
    Tokenizer* tokenizer = tokenizer_load_bin(BUNDLED, &error);
    double seconds = seconds_now() - start;
    if (!test_check(t, tokenizer != NULL, BUNDLED " loads in %.2f ms %s", 1e3 * seconds, error.text)) return;
    int V = tokenizer_vocab_size(tokenizer), eot = tokenizer_eot(tokenizer);
    test_check(t, V == 4096 && eot == 4095, "it has %d tokens (4096) and " EOT_TEXT " is %d (4095)", V, eot);
    test_vectors(t, tokenizer);
    test_special(t, tokenizer);
    test_noise(t, tokenizer);
    test_speed(t, tokenizer, "English", "Once upon a time there was a ????; it's ??? years old, and didn't ????? .\n",
               5000000);
    test_speed(t, tokenizer, "one word of letters", "?", 1000000);
    test_speed(t, tokenizer, "one word of one letter", "a", 1000000);
    test_speed(t, tokenizer, "nothing but spaces", " ", 1000000);
    test_speed(t, tokenizer, "nothing but apostrophes", "'", 1000000);

    Bytes v1 = read_all(BUNDLED);
    put_32(v1.data + 4, 1);
    put_32(v1.data + 12, 0);
    Tokenizer* old = tokenizer_load_bin(write_file(scratch, "t.bin", &v1, path), &error);
    test_check(t, old != NULL && tokenizer_eot(old) == eot, "as a version 1 file, " EOT_TEXT " is found by its bytes");
    if (old != NULL) {
        size_t texts, wrong = compare_vectors(old, "tests/fixtures/tokenizer_fairytales.txt", 0, &texts, NULL);
        test_check(t, wrong == 0, "as a version 1 file it gives the same ids: %zd differ", (ssize_t)wrong);
    }
    tokenizer_free(old);
    free(v1.data);
    tokenizer_free(tokenizer);
}

// GPT-2's own vocabulary, where it lies beside the repository.
static void test_gpt2_vocabulary(Tests* t) {
    const char* fixture = "tests/fixtures/tokenizer_gpt2.txt";
    Error error;
    size_t texts, wrong;
    if (access(GPT2 "/gpt2_tokenizer.bin", R_OK) != 0) {
        test_skip(t, GPT2 " is not here: GPT-2's own vocabulary is not tried");
        return;
    }
    Tokenizer* tokenizer = tokenizer_load_bin(GPT2 "/gpt2_tokenizer.bin", &error);
    if (test_check(t, tokenizer != NULL, "GPT-2's gpt2_tokenizer.bin loads")) {
        wrong = compare_vectors(tokenizer, fixture, 0, &texts, NULL);
        test_check(t, wrong == 0, "%zu texts get Hugging Face's ids by the .bin: %zd differ", texts, (ssize_t)wrong);
    }
    tokenizer_free(tokenizer);
#ifdef HAVE_JANSSON
    tokenizer = tokenizer_load_hf(GPT2 "/vocab.json", GPT2 "/merges.txt", &error);
    if (test_check(t, tokenizer != NULL, "GPT-2's vocab.json and merges.txt load")) {
        wrong = compare_vectors(tokenizer, fixture, 0, &texts, NULL);
        test_check(t, wrong == 0, "%zu texts get Hugging Face's ids by vocab.json: %zd differ", texts, (ssize_t)wrong);
    }
    tokenizer_free(tokenizer);
#endif
}

// ---------------------------------------------------------------------------------------------------------------------
// Hostile .bin files. The good one: 256 bytes in order, "th", "he", "the", <|endoftext|>

enum { TINY_TOKENS = 260, TINY_EOT = 259, HEADER = 1024 };

static Bytes tiny_bin(void) {
    Bytes b = {0};
    char header[HEADER] = {0};
    put_32(header, 20240328);
    put_32(header + 4, 2);
    put_32(header + 8, TINY_TOKENS);
    put_32(header + 12, TINY_EOT);
    append(&b, header, sizeof header);
    for (int i = 0; i < 256; i++) append(&b, (char[]){1, (char)i}, 2);
    append_token(&b, "th");
    append_token(&b, "he");
    append_token(&b, "the");
    append_token(&b, EOT_TEXT);
    return b;
}

// Is the file refused with a line that names it and holds `expected`?
static void check_refused(Tests* t, const char* path, const char* what, const char* expected) {
    Error error = {{0}};
    Tokenizer* tokenizer = tokenizer_load_bin(path, &error);
    test_check(t, tokenizer == NULL && strstr(error.text, path) != NULL && strstr(error.text, expected) != NULL,
               "%s is refused: %s", what, tokenizer == NULL ? error.text : "it was loaded");
    tokenizer_free(tokenizer);
}

static void test_hostile_bin(Tests* t, const Scratch* scratch) {
    Bytes good = tiny_bin();
    const long whole = (long)good.size;
    const struct {
        const char* what;
        const char* expected;
        long size; // the file is cut, or lengthened with zeros, to this
        int width; // bytes written over those at `at`
        size_t at;
        uint32_t value;
    } cases[] = {
        {"an empty file", "it is empty", 0, 0, 0, 0},
        {"a header cut short", "header", HEADER - 1, 0, 0, 0},
        {"a file of two bytes", "no known format", 2, 0, 0, 0},
        {"a GGUF file", "GGUF", whole, 4, 0, 0x46554747},
        {"a header without tokens", "ends", HEADER, 0, 0, 0},
        {"another magic (a model's)", "it is a model", whole, 4, 0, 20240326},
        {"the magic byte-swapped", "big-endian", whole, 4, 0, __builtin_bswap32(20240328)},
        {"version 0", "version 0", whole, 4, 4, 0},
        {"version 3", "version 3", whole, 4, 4, 3},
        {"a negative number of tokens", "-1 tokens", whole, 4, 8, UINT32_MAX},
        {"no tokens", "0 tokens", whole, 4, 8, 0},
        {"2^24 + 1 tokens", "16777217 tokens", whole, 4, 8, (1 << 24) + 1},
        {"a token too many in the header", "ends", whole, 4, 8, TINY_TOKENS + 1},
        {"2^24 tokens in a small file", "ends", whole, 4, 8, 1 << 24},
        {"a file cut within its last token", "ends", whole - 1, 0, 0, 0},
        {"a file cut before its last token", "ends", whole - (long)EOT_LENGTH - 1, 0, 0, 0},
        {"a last token longer than the file", "ends", whole, 1, (size_t)whole - EOT_LENGTH - 1, 255},
        {"a token of length 0", "no bytes", whole, 1, HEADER, 0},
        {"a byte after the last token", "but the file has", whole + 1, 0, 0, 0},
        {"the same token twice", "same", whole, 1, HEADER + 2 * 'b' + 1, 'a'},
        {"an id of " EOT_TEXT " that is negative", "must be 0 to 259", whole, 4, 12, UINT32_MAX},
        {"an id of " EOT_TEXT " past the end", "must be 0 to 259", whole, 4, 12, TINY_TOKENS},
        {"an id of " EOT_TEXT " that is another token", "another token", whole, 4, 12, 256},
    };
    char path[256];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Bytes bad = {0};
        append(&bad, good.data, good.size); // its terminating NUL is the byte that may be added
        bad.size = (size_t)cases[i].size;
        char value[4];
        put_32(value, cases[i].value);
        memcpy(bad.data + cases[i].at, value, (size_t)cases[i].width);
        check_refused(t, write_file(scratch, "t.bin", &bad, path), cases[i].what, cases[i].expected);
        free(bad.data);
    }
    // 'a' swallows its neighbour: no token is the byte 'a' alone
    good.data[HEADER + 2 * 'a'] = 3;
    put_32(good.data + 8, TINY_TOKENS - 1);
    put_32(good.data + 12, TINY_EOT - 1);
    check_refused(t, write_file(scratch, "t.bin", &good, path), "a vocabulary without the byte 0x61", "0x61");
    free(good.data);

    check_refused(t, scratch->directory, "a directory", "regular file");
    check_refused(t, path_in(scratch, "missing", path), "a file that is not there", "No such file");
    if (mkfifo(path_in(scratch, "fifo", path), 0600) == 0) check_refused(t, path, "a FIFO", "regular file");
    else test_skip(t, "no FIFO can be made in %s", scratch->directory);
}

static void test_tiny_bin(Tests* t, const Scratch* scratch) {
    Error error;
    char path[256];
    Bytes b = tiny_bin();
    Tokenizer* tokenizer = tokenizer_load_bin(write_file(scratch, "t.bin", &b, path), &error);
    if (test_check(t, tokenizer != NULL, "a vocabulary of %d tokens loads", TINY_TOKENS)) {
        test_check(t, has_ids(tokenizer, "the he", 6, (int[]){258, ' ', 257}, 3), "\"the he\" merges to 258 32 257");
        test_check(t, has_ids(tokenizer, "thhe", 4, (int[]){256, 257}, 2), "\"thhe\" merges to 256 257");
    }
    tokenizer_free(tokenizer);
    b.size -= EOT_LENGTH + 1; // without <|endoftext|>, as version 1
    put_32(b.data + 4, 1);
    put_32(b.data + 8, TINY_TOKENS - 1);
    tokenizer = tokenizer_load_bin(write_file(scratch, "t.bin", &b, path), &error);
    test_check(t, tokenizer != NULL && tokenizer_eot(tokenizer) == -1,
               "a version 1 file without " EOT_TEXT " has none (-1)");
    test_check(t, tokenizer != NULL && comes_back(tokenizer, "a" EOT_TEXT, 1 + EOT_LENGTH),
               "and there " EOT_TEXT " is bytes like others");
    tokenizer_free(tokenizer);
    free(b.data);
}

// ---------------------------------------------------------------------------------------------------------------------
// Unicode classes, seen from outside. In this vocabulary 'a', '1' and '!' merge with any byte from 0x80 on, so that the
// first byte of a character is in the same token as the mark before it when both are of one class. So does any of these
// bytes with an 'a' behind it.

static Tokenizer* load_class_vocabulary(const Scratch* scratch, Error* error) {
    char path[256];
    Bytes b = tiny_bin();
    b.size -= EOT_LENGTH + 1; // without <|endoftext|>, as version 1
    for (int i = 0; i < 3 * 128; i++) append(&b, (char[]){2, "a1!"[i / 128], (char)(128 + i % 128)}, 3);
    for (int i = 128; i < 256; i++) append(&b, (char[]){2, (char)i, 'a'}, 3);
    put_32(b.data + 4, 1);
    put_32(b.data + 8, TINY_TOKENS - 1 + 4 * 128);
    Tokenizer* tokenizer = tokenizer_load_bin(write_file(scratch, "t.bin", &b, path), error);
    free(b.data);
    return tokenizer;
}

static size_t put_utf8(char* p, uint32_t c) {
    if (c < 0x800) {
        p[0] = (char)(0xC0 | c >> 6);
        p[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    size_t n = c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6) p[i] = (char)(0x80 | (c & 0x3F));
    p[0] = (char)((n == 3 ? 0xE0 : 0xF0) | c);
    return n;
}

enum { CODE_POINTS = 0x110000, SURROGATES = 0xD800, AFTER_SURROGATES = 0xE000 };

// Fills in class[c], one of "LNSO", for the code points from 0x80 on, by encoding each behind the three marks.
static bool observe_classes(const Tokenizer* tokenizer, char* class) {
    const size_t longest = 3 * (2 + 4); // "\na?\n1?\n!?"
    Error error;
    int* tokens;
    size_t num_tokens, length = 0, at = 0;
    char* text = malloc(CODE_POINTS * longest);
    unsigned char* joined =
        calloc(CODE_POINTS * longest, 1); // by byte of the text: a mark in one token with the next byte
    if (text == NULL || joined == NULL) exit(1);
    for (uint32_t c = 0x80; c < CODE_POINTS; c++) {
        for (int mark = 0; mark < 3 && (c < SURROGATES || c >= AFTER_SURROGATES); mark++) {
            text[length++] = '\n';
            text[length++] = "a1!"[mark];
            length += put_utf8(text + length, c);
        }
    }
    bool ok = tokenizer_encode(tokenizer, text, length, &tokens, &num_tokens, &error);
    for (size_t i = 0; ok && i < num_tokens; i++) {
        size_t n;
        tokenizer_decode(tokenizer, tokens[i], &n);
        joined[at] = n > 1;
        at += n;
    }
    at = 0;
    for (uint32_t c = 0x80; ok && c < CODE_POINTS; c++) {
        if (c >= SURROGATES && c < AFTER_SURROGATES) continue;
        size_t step = 2 + put_utf8(text, c);
        bool with_letter = joined[at + 1], with_number = joined[at + step + 1], with_other = joined[at + 2 * step + 1];
        ok = with_letter + with_number + with_other <= 1;
        class[c] = with_letter ? 'L' : with_number ? 'N' : with_other ? 'O' : 'S';
        at += 3 * step;
    }
    if (ok) free(tokens);
    free(joined);
    free(text);
    return ok;
}

static void test_classes(Tests* t, const Scratch* scratch) {
    Error error = {{0}};
    Tokenizer* tokenizer = load_class_vocabulary(scratch, &error);
    if (!test_check(t, tokenizer != NULL, "a vocabulary that shows classes loads %s", error.text)) return;
    char* expected = malloc(CODE_POINTS);
    char* observed = malloc(CODE_POINTS);
    if (expected == NULL || observed == NULL) exit(1);
    memset(expected, 'O', CODE_POINTS);
    memset(observed, 'O', CODE_POINTS);
    FILE* f = fopen("tests/fixtures/tokenizer_classes.txt", "r");
    char line[100], class;
    unsigned first, last;
    size_t ranges = 0, wrong = 0, changed = 0;
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (sscanf(line, "%x %x %c", &first, &last, &class) != 3 || first > last || last >= CODE_POINTS) continue;
        memset(expected + first, class, last - first + 1);
        ranges++;
    }
    if (f != NULL) fclose(f);
    bool ok = observe_classes(tokenizer, observed);
    for (uint32_t c = 0x80; c < CODE_POINTS; c++) {
        wrong += observed[c] != expected[c];
        changed += c > 0x80 && observed[c] != expected[c - 1];
    }
    test_check(t, ok && ranges > 500 && wrong == 0,
               "the classes of all code points above ASCII are Hugging Face's (%zu ranges): %zu differ", ranges, wrong);
    test_check(t, changed > 500, "compared with their neighbours' classes %zu differ: the comparison sees it", changed);

    const char* not_utf8[] = {"\x80",         "\xBF",         "\xC0\x80",     "\xC1\xBF",         "\xE2\x82",
                              "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x9F\x98", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80",
                              "\xF5\x80",     "\xFE",         "\xFF",         "\xE4\xB8",         "\xD9\xD9"};
    size_t n = sizeof not_utf8 / sizeof *not_utf8, other = 0;
    for (size_t i = 0; i < n; i++) {
        bool alone =
            true; // each byte: apart from 'a' before it, joined with '!'; then the whole, apart from '1' and 'a'
        for (const char* byte = not_utf8[i]; *byte != '\0'; byte++) {
            unsigned value = (unsigned char)*byte;
            int mark = TINY_TOKENS - 1 + 2 * 128 + (int)value - 128, bytes[2] = {'a', (int)value};
            alone = alone && has_ids(tokenizer, (char[]){'!', *byte}, 2, &mark, 1);
            alone = alone && has_ids(tokenizer, (char[]){'a', *byte}, 2, bytes, 2);
        }
        char text[16];
        int ids[16], num_ids = 0;
        int length = snprintf(text, sizeof text, "1%sa", not_utf8[i]);
        for (int k = 0; k < length; k++) ids[num_ids++] = (unsigned char)text[k];
        other += alone && has_ids(tokenizer, text, (size_t)length, ids, (size_t)num_ids);
    }
    test_check(t, other == n,
               "%zu of %zu sequences that are not UTF-8 are symbols of their own, neither letter nor number", other, n);
    free(expected);
    free(observed);
    tokenizer_free(tokenizer);
}

// ---------------------------------------------------------------------------------------------------------------------
// Hugging Face's two files, with the same tokens

// vocab.json of the tiny vocabulary; every byte that is not a letter is escaped.
static Bytes tiny_vocab(void) {
    Bytes b = {0};
    char entry[64];
    int stand_in = 256;
    append_string(&b, "{");
    for (int i = 0; i < 256; i++) {
        bool printable = (i > 32 && i < 127) || (i > 160 && i != 173), letter = i >= 'a' && i <= 'z';
        if (letter) snprintf(entry, sizeof entry, "\"%c\":%d,", i, i);
        else snprintf(entry, sizeof entry, "\"\\u%04x\":%d,", (unsigned)(printable ? i : stand_in++), i);
        append_string(&b, entry);
    }
    append_string(&b, "\"th\":256, \"he\":257, \"the\":258, \"" EOT_TEXT "\":259}\n");
    return b;
}

#define TINY_MERGES "#version: 0.2\nt h\nh e\nth e\n"

#ifdef HAVE_JANSSON

// `text` with its first `from` replaced by `to`; NULL leaves it as it is.
static Bytes replaced(const char* text, const char* from, const char* to) {
    Bytes b = {0};
    const char* at = from != NULL ? strstr(text, from) : NULL;
    append(&b, text, at != NULL ? (size_t)(at - text) : strlen(text));
    if (at != NULL) append_string(&b, to);
    if (at != NULL) append_string(&b, at + strlen(from));
    return b;
}

// Do both tokenizers give the text the same ids?
static bool same_ids(const Tokenizer* a, const Tokenizer* b, const char* text, size_t length) {
    Error error;
    int* tokens;
    size_t num_tokens;
    if (!tokenizer_encode(a, text, length, &tokens, &num_tokens, &error)) return false;
    bool same = has_ids(b, text, length, tokens, num_tokens);
    free(tokens);
    return same;
}

static Tokenizer* load_hf(const Scratch* scratch, const Bytes* vocab, const Bytes* merges, Error* error) {
    char vocab_path[256], merges_path[256];
    write_file(scratch, "vocab.json", vocab, vocab_path);
    write_file(scratch, "merges.txt", merges, merges_path);
    return tokenizer_load_hf(vocab_path, merges_path, error);
}

static void test_hf(Tests* t, const Scratch* scratch) {
    Error error = {{0}};
    char path[256];
    Bytes vocab = tiny_vocab(), merges = {0}, b = tiny_bin();
    append_string(&merges, TINY_MERGES);
    const char* texts[] = {
        "the he", "thhe", "then there, he\nthe", "\x80\xFF the\xE2\x80", EOT_TEXT "the" EOT_TEXT, "ththththheheheth"};
    Tokenizer* bin = tokenizer_load_bin(write_file(scratch, "t.bin", &b, path), &error);
    Tokenizer* hf = load_hf(scratch, &vocab, &merges, &error);
    if (test_check(t, hf != NULL && bin != NULL, "vocab.json and merges.txt of %d tokens load %s", TINY_TOKENS,
                   error.text)) {
        test_check(t, tokenizer_vocab_size(hf) == TINY_TOKENS && tokenizer_eot(hf) == TINY_EOT,
                   "they have %d tokens, " EOT_TEXT " is %d", tokenizer_vocab_size(hf), tokenizer_eot(hf));
        size_t same = 0, back = 0, n = sizeof texts / sizeof *texts;
        for (size_t i = 0; i < n; i++) same += same_ids(bin, hf, texts[i], strlen(texts[i]));
        for (int i = 0; i < 256; i++) back += has_ids(hf, &(char){(char)i}, 1, &i, 1);
        test_check(t, same == n, "%zu of %zu texts get the ids that the .bin gives", same, n);
        test_check(t, back == 256, "%zu of 256 bytes are the token that their stand-in names", back);
    }
    tokenizer_free(hf);
    Bytes other = {0};
    append_string(&other, "h e\r\nt h\r\nth e"); // no comment, ends of line as on Windows, none at the end
    hf = load_hf(scratch, &vocab, &other, &error);
    test_check(t, hf != NULL && has_ids(hf, "the", 3, (int[]){'t', 257}, 2),
               "merges follow merges.txt, not the ids: with \"h e\" first, \"the\" is t he %s", error.text);
    tokenizer_free(hf);
    tokenizer_free(bin);
    free(vocab.data);
    free(merges.data);
    free(other.data);
    free(b.data);
}

static void test_hostile_hf(Tests* t, const Scratch* scratch) {
    const struct {
        const char* what;
        const char* expected;
        const char *vocab_from, *vocab_to;   // replaced in vocab.json
        const char *merges_from, *merges_to; // and in merges.txt
    } cases[] = {
        {"vocab.json that is no JSON", "byte 2", "{", "{,", NULL, NULL},
        {"vocab.json that ends early", "expected near end of file", ", \"" EOT_TEXT "\":259}", "", NULL, NULL},
        {"vocab.json with something behind it", "end of file expected", "259}", "259} {}", NULL, NULL},
        {"a key twice", "duplicate", "\"th\"", "\"he\"", NULL, NULL},
        {"an id twice", "same id", ":256", ":257", NULL, NULL},
        {"an id past the end", "dense", ":256", ":260", NULL, NULL},
        {"a negative id", "dense", ":256", ":-1", NULL, NULL},
        {"an id of 2^64", "too big integer", ":256", ":18446744073709551616", NULL, NULL},
        {"an id that is no integer", "dense", ":256", ":256.0", NULL, NULL},
        {"an id that is a string", "dense", ":256", ":\"256\"", NULL, NULL},
        {"a token with a blank", "stands for no byte", "\"th\"", "\"t h\"", NULL, NULL},
        {"a token with U+00AD", "stands for no byte", "\"th\"", "\"t\\u00ad\"", NULL, NULL},
        {"a token with U+0144", "stands for no byte", "\"th\"", "\"t\\u0144\"", NULL, NULL},
        {"a token with U+4E2D", "stands for no byte", "\"th\"", "\"t\\u4e2d\"", NULL, NULL},
        {"a token with half a surrogate pair", "invalid Unicode", "\"th\"", "\"t\\ud800\"", NULL, NULL},
        {"a token with \\u0000", "NUL", "\"th\"", "\"t\\u0000\"", NULL, NULL},
        {"a token that is not UTF-8", "decode byte 0xc3", "\"th\"", "\"t\xC3\"", NULL, NULL},
        {"a token without bytes", "no bytes", "\"th\"", "\"\"", NULL, NULL},
        {"a vocabulary without the byte 0x61", "0x61", "\"a\"", "\"aq\"", NULL, NULL},
        {"a merge of an unknown token", "not in vocab.json", NULL, NULL, "h e", "h zzz"},
        {"a merge into an unknown token", "not in vocab.json", NULL, NULL, "h e", "h a"},
        {"a merge of nothing", "not in vocab.json", NULL, NULL, "h e", " e"},
        {"a merge of three", "one space", NULL, NULL, "h e", "h e e"},
        {"a merge of one", "one space", NULL, NULL, "h e", "he"},
        {"an empty line among the merges", "line 3", NULL, NULL, "h e", ""},
        {"a merge with U+4E2D", "stands for no byte", NULL, NULL, "h e", "h \xE4\xB8\xAD"},
        {"a merge that is not UTF-8", "stands for no byte", NULL, NULL, "h e", "h \xC4"},
        {"a merge twice", "twice", NULL, NULL, "h e", "t h"},
        {"merges.txt that is empty", "empty", NULL, NULL, TINY_MERGES, ""},
    };
    Bytes good = tiny_vocab();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Error error = {{0}};
        Bytes vocab = replaced(good.data, cases[i].vocab_from, cases[i].vocab_to);
        Bytes merges = replaced(TINY_MERGES, cases[i].merges_from, cases[i].merges_to);
        Tokenizer* hf = load_hf(scratch, &vocab, &merges, &error);
        test_check(t, hf == NULL && strstr(error.text, cases[i].expected) != NULL, "%s is refused: %s", cases[i].what,
                   hf == NULL ? error.text : "it was loaded");
        tokenizer_free(hf);
        free(vocab.data);
        free(merges.data);
    }
    for (size_t i = 0; i < 3; i++) {
        Error error = {{0}};
        const char* what[] = {"vocab.json that is an array", "a vocabulary of 1 token",
                              "vocab.json nested 100,000 deep"};
        Bytes vocab = {0}, merges = {0};
        append_string(&vocab, i == 0 ? "[1]" : i == 1 ? "{\"a\":0}" : "");
        while (i == 2 && vocab.size < 500000) append_string(&vocab, "{\"a\":");
        append_string(&merges, TINY_MERGES);
        Tokenizer* hf = load_hf(scratch, &vocab, &merges, &error);
        test_check(t, hf == NULL && strstr(error.text, i < 2 ? "256 to" : "depth") != NULL, "%s is refused: %s",
                   what[i], hf == NULL ? error.text : "it was loaded");
        tokenizer_free(hf);
        free(vocab.data);
        free(merges.data);
    }
    Error error = {{0}};
    char path[256];
    write_file(scratch, "vocab.json", &good, path);
    Tokenizer* hf = tokenizer_load_hf(path, scratch->directory, &error);
    test_check(t, hf == NULL && strstr(error.text, "regular file") != NULL, "a directory as merges.txt is refused: %s",
               error.text);
    tokenizer_free(hf);
    free(good.data);
}

#else

static void test_hf(Tests* t, const Scratch* scratch) {
    Error error = {{0}};
    char path[256];
    Bytes vocab = tiny_vocab();
    Tokenizer* hf = tokenizer_load_hf(write_file(scratch, "vocab.json", &vocab, path), path, &error);
    test_check(t, hf == NULL && strstr(error.text, "libjansson") != NULL,
               "without libjansson vocab.json is refused: %s", error.text);
    tokenizer_free(hf);
    free(vocab.data);
}

static void test_hostile_hf(Tests* t, const Scratch* scratch) {
    (void)scratch;
    test_skip(t, "built without libjansson: hostile vocab.json files are not tried");
}

#endif

void test_tokenizer(Tests* t) {
    Scratch scratch;
    test_section("tokenizer");
    if (!test_check(t, scratch_make(&scratch), "a directory for temporary files can be made")) return;
    test_bundled(t, &scratch);
    test_gpt2_vocabulary(t);
    test_tiny_bin(t, &scratch);
    test_hostile_bin(t, &scratch);
    test_classes(t, &scratch);
    test_hf(t, &scratch);
    test_hostile_hf(t, &scratch);
    scratch_remove(&scratch);
}
