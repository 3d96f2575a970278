// The parts of dev/bench.c: options, one row of its table, and the rows that live in files of their own.
#ifndef BENCH_H
#define BENCH_H

#include "../gpt2_kernels.h"
#include "../machine.h"
#include "bench_measure.h"

typedef struct {
    int threads, repeats;
    DType dtype;
    const char* kernels; // variant, or NULL for the best
    const char* shape;
    const char* rows;         // names, with commas between
    const char* json;         // file to append to, or NULL
    const char* program;      // ./gpt2
    const char* tokenizer;    // tokenizer .bin, or NULL
    const char* corpus;       // text for the tokenizer row, or NULL
    const char* peer;         // llama-bench, or NULL
    const char* peer_model;   // GGUF for it
    const char* peer_process; // shell command beside the process row, or NULL
} BenchOptions;

// One row of the table. Times are seconds: per token where tokens are decoded, else of the whole.
typedef struct {
    const char* name;
    int depth;         // positions in the KV cache before the first token
    int tokens;        // that were run in one measurement
    double per_second; // what the rate counts: 1 token, T tokens, bytes; 0: there is no rate
    const char* unit;  // of the rate
    Times seconds;
    Times bandwidth;   // read bandwidth between the measurements, bytes/s; empty where it does not matter
    Times handover;    // of a cache line from thread to thread, beside the bandwidth: do they share a way to memory?
    double bytes;      // that one token reads
    double operations; // of one measurement, 0 where they do not matter
    Times peak;        // operations per second that the processor does at most; empty where it does not matter
    double predicted;  // seconds, by the roof of the rates that were measured; 0: not predicted
    double megabytes;  // peak memory of a process, 0: not measured
    Times peer;        // the peer's seconds for the same; empty without a peer
    char peer_flags[64];
    double peer_megabytes;
    char note[80]; // what else there is to say
} Row;

typedef struct {
    const BenchOptions* options;
    GPT2Model model;
    Device* device;
    float* logits;        // (V)
    int* tokens;          // (maxT)
    void* buffer;         // for the bandwidth: as much as a token with a full context reads
    Roof roof;            // for predictions, but for the bandwidth, which is measured beside each row
    double token_seconds; // of decoding 20 tokens from an empty context, 0 before it was measured
    FILE* json;           // or NULL
} Bench;

// Prints a row, and writes it to the JSON file, one object per line.
void bench_report(const Bench* b, const Row* row);

// Seconds per token of decoding n tokens one after the other from `position` on, after some that are not counted.
double bench_decode_seconds(const Bench* b, Device* device, int position, int n);

// ---------------------------------------------------------------------------------------------------------------------
// llama.cpp's llama-bench on the same work. Seconds per token (prompt = 0), or for `prompt` tokens (n = 0).

// Tries the flags that it has for its attention and KV cache and writes the fastest into flags.
void peer_choose_flags(const BenchOptions* o, char flags[64], int prompt, int n, int depth);
double peer_seconds(const BenchOptions* o, const char* flags, int prompt, int n, int depth);

// ---------------------------------------------------------------------------------------------------------------------
// rows of other files

// The program as users start it, with a random checkpoint in a temporary directory, removed again: 20 tokens, the first
// token, a full context. The caller has released its own model: see process_run about memory.
void bench_process(const Bench* b);

// 1, 2, 4 and 8 threads, then the same with a core taken by another process; the ratio to one thread alone.
void bench_threads(const Bench* b);

// Encoding the corpus with one thread.
void bench_tokenizer(const Bench* b);

#endif
