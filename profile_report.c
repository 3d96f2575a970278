// --profile: the prompt and some tokens after it, once to warm up and once with the clock on.
#include <stdlib.h>

#include "cpu_kernels.h"
#include "inspect.h"
#include "machine.h"
#include "operation_table.h"
#include "print.h"

typedef struct {
    const Generation* g;
    Device* device;
    Profile profile;
    int B;         // sequences
    int num_new;   // tokens to decode
    int* slots;    // (B)
    int* next;     // (B)
    float* logits; // (B, V)
    Roof rates;
    Phase phases[2];
    int num_phases;
    double clock_seconds; // what reading the clock once takes
} Profiler;

static bool profiler_open(Profiler* p, Error* error) {
    const Generation* g = p->g;
    size_t V = (size_t)g->model.config.vocab_size, B = (size_t)p->B;
    int room = g->context - g->num_prompt, wish = g->options->num_predict;
    p->num_new = wish < 0 || wish > room ? room : wish;
    if (!profile_open(&p->profile, g->threads, error)) return false;
    DeviceOptions options = {.max_seq_len = g->num_prompt + p->num_new,
                             .max_batch = p->B,
                             .num_threads = g->threads,
                             .profile = &p->profile};
    p->device = gpt2_cpu.open(&g->model, &options, error);
    p->slots = allocate(B, sizeof *p->slots, "samples", error);
    p->next = allocate(B, sizeof *p->next, "samples", error);
    p->logits = allocate(B, V * sizeof *p->logits, "logits", error);
    if (p->device == NULL || p->slots == NULL || p->next == NULL || p->logits == NULL) return false;
    for (int b = 0; b < p->B; b++) p->slots[b] = b;
    return true;
}

static void profiler_close(Profiler* p) {
    gpt2_cpu.close(p->device);
    profile_close(&p->profile);
    for (int i = 0; i < p->num_phases; i++) free(p->phases[i].rows);
    free(p->slots);
    free(p->next);
    free(p->logits);
}

// The prompt, then its cache and its next token for every sequence.
static bool prefill(Profiler* p, double* seconds, Error* error) {
    const Generation* g = p->g;
    TokenRun run = {.tokens = g->prompt_tokens, .slots = p->slots, .B = 1, .T = g->num_prompt, .position = 0};
    double start = seconds_now();
    if (!gpt2_cpu.forward(p->device, &run, 1, p->logits, error)) return false;
    *seconds = seconds_now() - start;
    for (int b = 0; b < p->B; b++) {
        p->next[b] = sampler_argmax(p->logits, g->model.config.vocab_size);
        if (b > 0 && !gpt2_cpu.copy_cache(p->device, b, 0, g->num_prompt, error)) return false;
    }
    return true;
}

// n greedy tokens of every sequence.
static bool decode(Profiler* p, int n, double* seconds, Error* error) {
    const Generation* g = p->g;
    size_t V = (size_t)g->model.config.vocab_size;
    double start = seconds_now();
    for (int i = 0; i < n; i++) {
        TokenRun run = {.tokens = p->next, .slots = p->slots, .B = p->B, .T = 1, .position = g->num_prompt + i};
        if (!gpt2_cpu.forward(p->device, &run, 1, p->logits, error)) return false;
        for (int b = 0; b < p->B; b++) p->next[b] = sampler_argmax(p->logits + (size_t)b * V, (int)V);
    }
    *seconds = seconds_now() - start;
    return true;
}

// Turns what was recorded since profile_reset() into the next phase.
static bool end_phase(Profiler* p, const char* name, int tokens, double wall, Error* error) {
    Phase* phase = &p->phases[p->num_phases];
    *phase = (Phase){.name = name, .tokens = tokens, .wall = wall};
    if (!profile_rows(&phase->rows, &phase->num_rows, &p->profile, &p->g->model.config, p->g->model.dtype, error)) {
        return false;
    }
    p->num_phases++;
    return true;
}

static bool run_phases(Profiler* p, Error* error) {
    double seconds;
    if (!prefill(p, &seconds, error) || !decode(p, p->num_new < 2 ? p->num_new : 2, &seconds, error)) return false;
    profile_reset(&p->profile);
    if (!prefill(p, &seconds, error) || !end_phase(p, "prefill", p->g->num_prompt, seconds, error)) return false;
    profile_reset(&p->profile);
    if (p->num_new == 0) return true;
    return decode(p, p->num_new, &seconds, error) && end_phase(p, "decode", p->num_new, seconds, error);
}

// What the clock costs: the profile reads it three times for an operation, on every thread.
static double clock_cost(void) {
    enum { READS = 1000 };
    double start = seconds_now(), latest = start;
    for (int i = 0; i < READS; i++) latest = seconds_now();
    return (latest - start) / READS;
}

static void print_text(FILE* out, const Profiler* p) {
    const Generation* g = p->g;
    fprintf(out, "%s, %s weights, %.1f MB per token; %s", g->paths.model, dtype_names[g->model.dtype],
            1e-6 * (double)gpt2_bytes_per_token(&g->model), gpt2_cpu.describe(p->device));
    if (p->B > 1) fprintf(out, "; %d sequences", p->B);
    fputc('\n', out);
    print_machine(out, &p->rates);
    size_t calls = 0;
    for (int i = 0; i < p->num_phases; i++) print_phase(out, &p->phases[i], &p->rates, true);
    for (int o = 0; o < NUM_OPERATIONS; o++) calls += (size_t)operation_calls((Operation)o, &g->model.config);
    fprintf(out, "\nin these times: %zu readings of the clock in every pass, %.1f us\n", 3 * calls,
            3e6 * (double)calls * p->clock_seconds);
}

static void print_json(FILE* out, const Profiler* p) {
    const Generation* g = p->g;
    fputs("{\n  ", out);
    json_text(out, "model", g->paths.model);
    json_text(out, "device", gpt2_cpu.describe(p->device));
    fprintf(out, "\"dtype\": \"%s\", \"threads\": %d, \"sequences\": %d,\n  ", dtype_names[g->model.dtype], g->threads,
            p->B);
    json_machine(out, &p->rates);
    fputs(",\n  ", out);
    json_number(out, "clock_us", 1e6 * p->clock_seconds, ",\n  \"phases\": [\n    ");
    for (int i = 0; i < p->num_phases; i++) {
        if (i > 0) fputs(",\n    ", out);
        json_phase(out, &p->phases[i], &p->rates);
    }
    fputs("]\n}\n", out);
}

bool profile_run(const Generation* g, TextOutput* out, Error* error) {
    Profiler p = {.g = g, .B = g->options->samples};
    Page page = {0};
    bool ok = profiler_open(&p, error) && run_phases(&p, error) &&
              machine_measure(&p.rates, cpu_kernels_select(NULL)->name, g->model.dtype, gpt2_bytes_per_token(&g->model),
                              g->threads, error) &&
              page_open(&page, error);
    if (ok) {
        p.clock_seconds = clock_cost();
        if (g->options->json) print_json(page.out, &p);
        else print_text(page.out, &p);
        ok = page_end(&page, out, error);
    }
    profiler_close(&p);
    return ok;
}
