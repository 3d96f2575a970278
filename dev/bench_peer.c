// llama.cpp through its own benchmark, llama-bench: one measurement a call, so that it alternates with ours.
#include <stdlib.h>
#include <string.h>

#include "bench.h"

enum { MAX_ARGUMENTS = 40 };

// Appends the words of text (which is cut up) to argv.
static int add_words(const char** argv, int n, char* text) {
    for (char* word = strtok(text, " "); word != NULL && n < MAX_ARGUMENTS - 1; word = strtok(NULL, " "))
        argv[n++] = word;
    return n;
}

// One call of llama-bench; false when it fails or prints no figure.
static bool peer_run(const BenchOptions* o, const char* flags, int prompt, int n, int depth, double* seconds,
                     Error* error) {
    ProcessResult result;
    char numbers[128], words[64];
    const char* argv[MAX_ARGUMENTS] = {o->peer, "-m", o->peer_model, "-r", "1", "-o", "json"};
    snprintf(numbers, sizeof numbers, "-t %d -p %d -n %d -d %d", o->threads, prompt, n, depth);
    snprintf(words, sizeof words, "%s", flags);
    int count = add_words(argv, 7, numbers);
    argv[add_words(argv, count, words)] = NULL;
    if (!process_run(&result, argv, error)) return false;
    const char *key = "\"avg_ts\":", *at = strstr(result.output, key);
    double rate = at == NULL ? 0 : strtod(at + strlen(key), NULL); // tokens per second
    free(result.output);
    if (!(rate > 0)) return fail(error, "%s -o json printed no avg_ts; is it llama-bench?", o->peer);
    *seconds = (prompt > 0 ? prompt : 1) / rate;
    return true;
}

double peer_seconds(const BenchOptions* o, const char* flags, int prompt, int n, int depth) {
    Error error;
    double seconds;
    if (!peer_run(o, flags, prompt, n, depth, &seconds, &error)) die(&error);
    return seconds;
}

void peer_choose_flags(const BenchOptions* o, char flags[64], int prompt, int n, int depth) {
    static const char* const choices[] = {"-fa 0", "-fa 1", "-fa 1 -ctk bf16 -ctv bf16", "-fa 1 -ctk q8_0 -ctv q8_0"};
    Error error;
    double best = 0, seconds;
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
        // not every build takes every cache type
        if (!peer_run(o, choices[i], prompt, n, depth, &seconds, &error) || (best > 0 && seconds >= best)) continue;
        best = seconds;
        snprintf(flags, 64, "%s", choices[i]);
    }
    if (best == 0) die(&error);
}
