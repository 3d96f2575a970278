// --profile: the prompt and some tokens after it, once to warm up and once with the clock on.
#include <stdlib.h>

#include "inspect.h"
#include "open_device.h"
#include "operation_table.h"
#include "print.h"
#include "weights.h"

typedef struct {
    const Generation* g;
    OpenDevice device;
    Profile profile;
    Sampler sampler; // greedy
    int B;           // sequences
    int num_new;     // tokens to decode
    int* slots;      // (B)
    int* next;       // (B)
    Choice* choices; // (B)
    float* logits;   // (B, V)
    Roof rates;
    Phase phases[2];
    int num_phases;
} Profiler;

static bool profiler_open(Profiler* p, Error* error) {
    const Generation* g = p->g;
    size_t V = (size_t)g->model.config.vocab_size, B = (size_t)p->B;
    int room = g->context - g->num_prompt, wish = g->options->num_predict;
    const SamplerOptions greedy = {.top_p = 1, .repeat_penalty = 1};
    p->num_new = wish < 0 || wish > room ? room : wish;
    p->slots = allocate(B, sizeof *p->slots, "samples", error);
    p->next = allocate(B, sizeof *p->next, "samples", error);
    p->choices = allocate(B, sizeof *p->choices, "samples", error);
    p->logits = allocate(B, V * sizeof *p->logits, "logits", error);
    if (p->slots == NULL || p->next == NULL || p->choices == NULL || p->logits == NULL ||
        !sampler_open(&p->sampler, &greedy, (int)V, 0, 0, error) || !profile_open(&p->profile, g->threads, error)) {
        return false;
    }
    for (int b = 0; b < p->B; b++) p->slots[b] = b, p->choices[b] = (Choice){.sampler = &p->sampler, .forbidden = -1};
    return true;
}

static void profiler_close(Profiler* p) {
    close_device(&p->device);
    profile_close(&p->profile);
    sampler_close(&p->sampler);
    for (int i = 0; i < p->num_phases; i++) free(p->phases[i].rows);
    free(p->slots);
    free(p->next);
    free(p->choices);
    free(p->logits);
}

// Opens the device, with the clock on or off.
static bool take_device(Profiler* p, Profile* profile, Error* error) {
    const DeviceOptions needs = {.max_seq_len = p->g->num_prompt + p->num_new, .max_batch = p->B, .profile = profile};
    close_device(&p->device);
    return open_device(&p->device, p->g, &needs, error);
}

// The prompt, then its cache and its next token for every sequence.
static bool prefill(Profiler* p, double* seconds, Error* error) {
    const Generation* g = p->g;
    const DeviceApi* api = p->device.api;
    TokenRun run = {.tokens = g->prompt_tokens, .slots = p->slots, .B = 1, .T = g->num_prompt, .position = 0};
    double start = seconds_now();
    if (!api->forward(p->device.handle, &run, 1, p->logits, error)) return false;
    *seconds = seconds_now() - start;
    size_t V = (size_t)g->model.config.vocab_size;
    if (!all_finite(p->logits, V)) return weights_fail_damaged(&g->model, g->paths.model, error);
    for (int b = 0; b < p->B; b++) {
        p->next[b] = sampler_argmax(p->logits, (int)V);
        if (b > 0 && !api->copy_cache(p->device.handle, b, 0, g->num_prompt, error)) return false;
    }
    return true;
}

// The next token of every sequence, as a text takes it: picked by the device where the device picks.
static bool decode_token(Profiler* p, int position, Error* error) {
    size_t V = (size_t)p->g->model.config.vocab_size;
    const DeviceApi* api = p->device.api;
    TokenRun run = {.tokens = p->next, .slots = p->slots, .B = p->B, .T = 1, .position = position};
    if (api->next != NULL) return api->next(p->device.handle, &run, p->choices, p->next, error);
    if (!api->forward(p->device.handle, &run, 1, p->logits, error)) return false;
    for (int b = 0; b < p->B; b++) p->next[b] = choice_pick(&p->choices[b], p->logits + (size_t)b * V);
    return true;
}

// n greedy tokens of every sequence.
static bool decode(Profiler* p, int n, double* seconds, Error* error) {
    double start = seconds_now();
    for (int i = 0; i < n; i++) {
        if (!decode_token(p, p->g->num_prompt + i, error)) return false;
        for (int b = 0; b < p->B; b++) {
            if (p->next[b] >= 0) continue; // token_run_check would not know why
            return weights_fail_damaged(&p->g->model, p->g->paths.model, error);
        }
    }
    *seconds = seconds_now() - start;
    return true;
}

// Turns what was recorded since profile_reset() into the next phase.
static bool end_phase(Profiler* p, const char* name, int tokens, double wall, Error* error) {
    Phase* phase = &p->phases[p->num_phases];
    *phase = (Phase){.name = name, .tokens = tokens, .wall = wall};
    if (!profile_rows(&phase->rows, &phase->num_rows, &p->profile, &p->g->model.config, p->device.dtype, error)) {
        return false;
    }
    p->num_phases++;
    return true;
}

static bool warm_up(Profiler* p, Error* error) {
    double ignored;
    return prefill(p, &ignored, error) && decode(p, p->num_new < 2 ? p->num_new : 2, &ignored, error);
}

// With the clock on.
static bool run_phases(Profiler* p, Error* error) {
    double seconds;
    if (!take_device(p, &p->profile, error) || !warm_up(p, error)) return false;
    profile_reset(&p->profile);
    if (!prefill(p, &seconds, error) || !end_phase(p, "prefill", p->g->num_prompt, seconds, error)) return false;
    profile_reset(&p->profile);
    if (p->num_new == 0) return true;
    return decode(p, p->num_new, &seconds, error) && end_phase(p, "decode", p->num_new, seconds, error);
}

// The same with the clock off, to tell what it costs. On a GPU the tokens are a captured graph again.
static bool run_plainly(Profiler* p, Error* error) {
    return take_device(p, NULL, error) && warm_up(p, error) && prefill(p, &p->phases[0].unprofiled, error) &&
           (p->num_phases < 2 || decode(p, p->num_new, &p->phases[1].unprofiled, error));
}

static void print_text(FILE* out, const Profiler* p) {
    const Generation* g = p->g;
    fprintf(out, "%s, %s weights, %.1f MB per token; %s", g->paths.model, dtype_names[p->device.dtype],
            1e-6 * (double)gpt2_bytes_per_token(&g->model, p->device.dtype), p->device.api->describe(p->device.handle));
    if (p->B > 1) fprintf(out, "; %d sequences", p->B);
    fputc('\n', out);
    print_machine(out, &p->rates);
    for (int i = 0; i < p->num_phases; i++) print_phase(out, &p->phases[i], &p->rates, true);
}

static void print_json(FILE* out, const Profiler* p) {
    const Generation* g = p->g;
    fputs("{\n  ", out);
    json_text(out, "model", g->paths.model);
    json_text(out, "device", p->device.api->describe(p->device.handle));
    fprintf(out, "\"dtype\": \"%s\", \"threads\": %d, \"sequences\": %d,\n  ", dtype_names[p->device.dtype], g->threads,
            p->B);
    json_machine(out, &p->rates);
    fputs(",\n  \"phases\": [\n    ", out);
    for (int i = 0; i < p->num_phases; i++) {
        if (i > 0) fputs(",\n    ", out);
        json_phase(out, &p->phases[i], &p->rates);
    }
    fputs("]\n}\n", out);
}

bool profile_run(const Generation* g, TextOutput* out, Error* error) {
    Profiler p = {.g = g, .B = g->options->samples};
    Page page = {0};
    bool ok = profiler_open(&p, error) && run_phases(&p, error) && run_plainly(&p, error) &&
              measure_device(&p.rates, &p.device, g, error) && page_open(&page, error);
    if (ok) {
        if (g->options->json) print_json(page.out, &p);
        else print_text(page.out, &p);
        ok = page_end(&page, out, error);
    }
    profiler_close(&p);
    return ok;
}
