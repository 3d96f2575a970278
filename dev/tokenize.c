// Token ids of stdin, for comparing with other tokenizers and for timing.
//
//     tokenize TOKENIZER.bin | DIRECTORY [--time N]  < text
//
// DIRECTORY holds vocab.json and merges.txt. Without --time the input is a row of texts, each behind its length as a
// 64-bit number, and the answer to each is the number of its tokens and their ids, all 32-bit numbers, little-endian as
// the machine is. With --time the whole input is one text, encoded N times; the fastest, in MB/s, is printed.
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../tokenizer.h"

static int stop(const char* message) {
    fprintf(stderr, "tokenize: %s\n", message);
    return 1;
}

static Tokenizer* load(const char* path, Error* error) {
    struct stat status;
    char vocab[4096], merges[4096];
    if (stat(path, &status) != 0 || !S_ISDIR(status.st_mode)) return tokenizer_load_bin(path, error);
    snprintf(vocab, sizeof vocab, "%s/vocab.json", path);
    snprintf(merges, sizeof merges, "%s/merges.txt", path);
    return tokenizer_load_hf(vocab, merges, error);
}

// Answers texts until the input ends.
static int answer(const Tokenizer* tokenizer, Error* error) {
    uint64_t length;
    while (fread(&length, sizeof length, 1, stdin) == 1) {
        char* text = allocate(length, 1, "text", error);
        int* tokens;
        size_t num_tokens;
        if (text == NULL) return stop(error->text);
        if (fread(text, 1, length, stdin) != length) return stop("the input ends within a text");
        if (!tokenizer_encode(tokenizer, text, length, &tokens, &num_tokens, error)) return stop(error->text);
        uint32_t n = (uint32_t)num_tokens;
        if (fwrite(&n, sizeof n, 1, stdout) != 1 || fwrite(tokens, sizeof *tokens, n, stdout) != n) {
            return stop(strerror(errno));
        }
        free(tokens);
        free(text);
    }
    return fflush(stdout) == 0 ? 0 : stop(strerror(errno));
}

// Times the whole input.
static int measure(const Tokenizer* tokenizer, int repeats, Error* error) {
    size_t length = 0, capacity = 1 << 24, num_tokens = 0, n;
    double best = 1e30;
    char* text = NULL;
    do {
        char* larger = realloc(text, capacity *= 2);
        if (larger == NULL) return stop("no memory for the input");
        text = larger;
        length += n = fread(text + length, 1, capacity - length, stdin);
    } while (length == capacity);
    for (int i = 0; i < repeats; i++) {
        int* tokens;
        double start = seconds_now();
        if (!tokenizer_encode(tokenizer, text, length, &tokens, &num_tokens, error)) return stop(error->text);
        double seconds = seconds_now() - start;
        if (seconds < best) best = seconds;
        free(tokens);
    }
    printf("%zu bytes, %zu tokens, %.3f s, %.1f MB/s\n", length, num_tokens, best, 1e-6 * (double)length / best);
    free(text);
    return 0;
}

int main(int argc, char** argv) {
    Error error;
    bool timed = argc == 4 && strcmp(argv[2], "--time") == 0;
    if (argc != 2 && !timed) return stop("usage: tokenize TOKENIZER.bin|DIRECTORY [--time N] < text");
    double start = seconds_now();
    Tokenizer* tokenizer = load(argv[1], &error);
    if (tokenizer == NULL) return stop(error.text);
    if (timed) printf("loaded %d tokens in %.2f ms\n", tokenizer_vocab_size(tokenizer), 1e3 * (seconds_now() - start));
    int status = timed ? measure(tokenizer, atoi(argv[3]), &error) : answer(tokenizer, &error);
    tokenizer_free(tokenizer);
    return status;
}
