// libFuzzer target for the tokenizer: hostile files for its loaders, hostile text for its encoder.
//
// The first byte of the input chooses what the rest is: 'b' the tokens of a .bin, to which a header is added, 'f' a
// .bin as a whole, 'h' the ends of vocab.json and of merges.txt with a NUL between, 'j' both files as a whole, and all
// else a text. What loads must then encode and decode without loss.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

static void require(bool ok, const char* claim) {
    if (ok) return;
    fprintf(stderr, "not so: %s\n", claim);
    abort();
}

// A file in memory, first `head`, then `data`; path[32] receives its name. The descriptor is to be closed.
static int memory_file(char path[32], const void* head, size_t head_size, const void* data, size_t size) {
    int fd = memfd_create("fuzz", 0);
    require(fd >= 0 && write(fd, head, head_size) == (ssize_t)head_size && write(fd, data, size) == (ssize_t)size,
            "a file in memory can be written");
    snprintf(path, 32, "/proc/self/fd/%d", fd);
    return fd;
}

// What every tokenizer must do with every text: ids in range that decode to the text, and the same ids again where the
// text follows itself behind <|endoftext|>.
static void check_text(const Tokenizer* tokenizer, const char* text, size_t length) {
    Error error;
    int *tokens, *twice;
    size_t num_tokens, num_twice, at = 0;
    require(tokenizer_encode(tokenizer, text, length, &tokens, &num_tokens, &error), "every text can be encoded");
    for (size_t i = 0; i < num_tokens; i++) {
        size_t n;
        require(tokens[i] >= 0 && tokens[i] < tokenizer_vocab_size(tokenizer), "ids are below the vocabulary's size");
        const char* bytes = tokenizer_decode(tokenizer, tokens[i], &n);
        require(n > 0 && n <= length - at && memcmp(bytes, text + at, n) == 0, "tokens are the bytes of the text");
        at += n;
    }
    require(at == length, "all of the text is there");
    if (tokenizer_eot(tokenizer) >= 0) {
        const char separator[] = "<|endoftext|>";
        size_t n = sizeof separator - 1;
        char* doubled = malloc(2 * length + n);
        require(doubled != NULL, "there is memory");
        memcpy(doubled, text, length);
        memcpy(doubled + length, separator, n);
        memcpy(doubled + length + n, text, length);
        require(tokenizer_encode(tokenizer, doubled, 2 * length + n, &twice, &num_twice, &error),
                "it can be encoded twice");
        size_t bytes = num_tokens * sizeof *tokens; // <|endoftext|> cannot overlap itself, so it stays where it was put
        require(num_twice == 2 * num_tokens + 1 && memcmp(twice, tokens, bytes) == 0 &&
                    memcmp(twice + num_tokens + 1, tokens, bytes) == 0,
                "the second time gives the same ids");
        free(doubled);
        free(twice);
    }
    free(tokens);
}

// What a file made it through loading: it must work.
static void check_loaded(Tokenizer* tokenizer, const Error* error, const char* text, size_t length) {
    require(tokenizer != NULL || error->text[0] != '\0', "what is refused has a reason");
    if (tokenizer != NULL) check_text(tokenizer, text, length);
    tokenizer_free(tokenizer);
}

// The header of a .bin with n tokens.
static void make_header(uint8_t header[1024], int n) {
    const int32_t numbers[3] = {20240328, 1, n};
    memset(header, 0, 1024);
    for (int i = 0; i < 12; i++) header[i] = (uint8_t)((uint32_t)numbers[i / 4] >> i % 4 * 8);
}

// 256 bytes and then the tokens that the input holds: as many as its length bytes say.
static void fuzz_tokens(const uint8_t* data, size_t size) {
    uint8_t head[1024 + 512];
    char path[32];
    Error error = {{0}};
    int n = 256;
    for (size_t i = 0; i < size; i += 1 + data[i]) n++;
    make_header(head, n);
    for (int b = 0; b < 256; b++) head[1024 + 2 * b] = 1, head[1024 + 2 * b + 1] = (uint8_t)b;
    int fd = memory_file(path, head, sizeof head, data, size);
    check_loaded(tokenizer_load_bin(path, &error), &error, (const char*)data, size);
    close(fd);
}

static void fuzz_bin(const uint8_t* data, size_t size) {
    char path[32];
    Error error = {{0}};
    int fd = memory_file(path, "", 0, data, size);
    check_loaded(tokenizer_load_bin(path, &error), &error, (const char*)data, size);
    close(fd);
}

// vocab.json up to a NUL, merges.txt behind it; `head` comes before the first.
static void fuzz_hf(const char* head, size_t head_size, const uint8_t* data, size_t size) {
    char vocab_path[32], merges_path[32];
    Error error = {{0}};
    const uint8_t* nul = memchr(data, 0, size);
    size_t n = nul != NULL ? (size_t)(nul - data) : size;
    const uint8_t* merges = nul != NULL ? nul + 1 : data + size;
    int vocab = memory_file(vocab_path, head, head_size, data, n);
    int lines = memory_file(merges_path, "", 0, merges, size - (size_t)(merges - data));
    check_loaded(tokenizer_load_hf(vocab_path, merges_path, &error), &error, (const char*)data, size);
    close(vocab);
    close(lines);
}

// vocab.json's first 256 entries, open for more.
static size_t make_vocab(char* out, size_t capacity) {
    size_t n = 0;
    int stand_in = 256;
    for (int b = 0; b < 256; b++) {
        bool printable = (b > 32 && b < 127) || (b > 160 && b != 173);
        n += (size_t)snprintf(out + n, capacity - n, "%s\"\\u%04x\":%d", b == 0 ? "{" : ",",
                              (unsigned)(printable ? b : stand_in++), b);
    }
    return n;
}

// A text, by a vocabulary whose tokens overlap in every way: all strings of 2 to 4 of these, and <|endoftext|>.
static void fuzz_text(const uint8_t* data, size_t size) {
    static const char letters[] = "a '";
    uint8_t file[8192];
    char path[32];
    Error error = {{0}};
    int n = 256;
    size_t at = 1024;
    for (int b = 0; b < 256; b++) file[at++] = 1, file[at++] = (uint8_t)b;
    for (int length = 2, count = 9; length <= 4; length++, count *= 3) {
        for (int i = 0; i < count; i++, n++) {
            file[at++] = (uint8_t)length;
            for (int k = 0, rest = i; k < length; k++, rest /= 3) file[at++] = (uint8_t)letters[rest % 3];
        }
    }
    file[at++] = 13;
    memcpy(file + at, "<|endoftext|>", 13);
    make_header(file, n + 1);
    int fd = memory_file(path, file, at + 13, "", 0);
    Tokenizer* tokenizer = tokenizer_load_bin(path, &error);
    require(tokenizer != NULL, "the fuzzer's own vocabulary loads");
    check_loaded(tokenizer, &error, (const char*)data, size);
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0) return 0;
    char vocab[8192];
    switch (data[0]) {
    case 'b': fuzz_tokens(data + 1, size - 1); break;
    case 'f': fuzz_bin(data + 1, size - 1); break;
    case 'h': fuzz_hf(vocab, make_vocab(vocab, sizeof vocab), data + 1, size - 1); break;
    case 'j': fuzz_hf("", 0, data + 1, size - 1); break;
    default: fuzz_text(data, size);
    }
    return 0;
}
