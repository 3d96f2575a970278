// --estimate: what a prompt and a token would take on a machine that is not here, from bytes and arithmetic alone. No
// launch, barrier or cache miss is in it: it is the least time, not a promise.
#include "chips.h"
#include "cpu_kernels.h"
#include "inspect.h"
#include "machine.h"
#include "operation_table.h"
#include "print.h"

enum { DEFAULT_PROMPT = 512 };

typedef struct {
    const Generation* g;
    DType dtype;
    CallShape prefill, decode;
    size_t bytes;        // of weights for one token
    Roof rates;          // of the machine asked for
    Roof here;           // of this one, measured
    bool is_here;        // both are the same
    const char* variant; // of the CPU's kernels
} Estimate;

static bool estimate_open(Estimate* e, Error* error) {
    const Generation* g = e->g;
    const double* wish = g->options->estimate;
    int T = g->num_prompt, n = g->options->num_predict;
    if (T == 0) T = g->context > DEFAULT_PROMPT ? DEFAULT_PROMPT : (g->context + 1) / 2;
    int room = g->context - T;
    if (n < 0 || n > room) n = room;
    int depth = T + n / 2 < g->context ? T + n / 2 : g->context - 1;
    e->prefill = (CallShape){.B = 1, .T = T, .position = 0}; // one prompt for all samples
    e->decode = (CallShape){.B = g->options->samples, .T = 1, .position = depth};
    e->dtype = g->options->keep_dtype ? g->model.file_dtype : g->options->dtype;
    e->bytes = gpt2_bytes_per_token_in(e->dtype, &g->model.config);
    e->variant = cpu_kernels_select(NULL)->name;
    if (!machine_measure(&e->here, e->variant, e->dtype, e->bytes, g->threads, error)) return false;
    e->rates = e->here;
    e->is_here = wish[0] == 0;
    if (wish[0] > 0) e->rates.bandwidth = 1e9 * wish[0];
    if (wish[1] > 0) e->rates.products = e->rates.f32 = 1e9 * wish[1];
    return true;
}

static Phase estimate_phase(const Estimate* e, const char* name, CallShape shape, const Roof* rates,
                            ProfileRow rows[NUM_OPERATIONS]) {
    estimate_rows(rows, &e->g->model.config, e->dtype, shape, rates);
    Phase phase = {.name = name, .tokens = shape.T, .rows = rows, .num_rows = NUM_OPERATIONS};
    phase.wall = phase_operations(&phase);
    return phase;
}

static void print_chip(FILE* out, const Estimate* e, const char* name, const Roof* rates) {
    const GPT2Config* config = &e->g->model.config;
    double prefill = pass_roof(config, e->dtype, e->prefill, rates);
    double token = pass_roof(config, e->dtype, e->decode, rates);
    if (e->g->options->json) {
        fputs("\n    {", out);
        json_text(out, "name", name);
        json_machine(out, rates);
        fputs(", ", out);
        json_number(out, "prefill_ms", 1e3 * prefill, ", ");
        json_number(out, "token_ms", 1e3 * token, "}");
        return;
    }
    fprintf(out, "%-34s %8.1f %9.0f %9.0f %12.4f %12.4f %10.0f\n", name, 1e-9 * rates->bandwidth,
            1e-9 * rates->products, 1e-9 * rates->f32, 1e3 * prefill, 1e3 * token, e->decode.B / token);
}

static void print_chips(FILE* out, const Estimate* e) {
    bool is_json = e->g->options->json;
    char here[64];
    snprintf(here, sizeof here, "this CPU (%s, %d thread%s)", e->variant, e->g->threads, e->g->threads == 1 ? "" : "s");
    print_chip(out, e, here, &e->here);
    for (int i = 0; i < NUM_CHIPS; i++) {
        Roof rates = chip_rates(&chips[i], e->dtype);
        if (is_json) fputc(',', out);
        print_chip(out, e, chips[i].name, &rates);
    }
}

static void print_text(FILE* out, const Estimate* e, const Phase phases[2]) {
    fprintf(out, "%s, %s weights, %.1f MB per token; from the shapes, nothing was run\n", e->g->paths.model,
            dtype_names[e->dtype], 1e-6 * (double)e->bytes);
    fputs(e->is_here ? "this machine, measured; " : "the machine asked for; ", out);
    print_machine(out, &e->rates);
    for (int i = 0; i < 2; i++) print_phase(out, &phases[i], &e->rates, false);
    fprintf(out, "\n%-34s %8s %9s %9s %12s %12s %10s\n", "machine", "GB/s", "products", "f32", "prefill ms", "token ms",
            "tokens/s");
    print_chips(out, e);
    fputs("products and f32 in GFLOP/s; this CPU is measured, the GPUs are what their makers and others publish\n",
          out);
}

static void print_json(FILE* out, const Estimate* e, const Phase phases[2]) {
    fputs("{\n  ", out);
    json_text(out, "model", e->g->paths.model);
    fprintf(out, "\"dtype\": \"%s\", \"is_measured\": false, \"bytes_per_token\": %zu,\n  ", dtype_names[e->dtype],
            e->bytes);
    json_machine(out, &e->rates);
    fputs(",\n  \"phases\": [\n    ", out);
    json_phase(out, &phases[0], &e->rates);
    fputs(",\n    ", out);
    json_phase(out, &phases[1], &e->rates);
    fputs("],\n  \"chips\": [", out);
    print_chips(out, e);
    fputs("]\n}\n", out);
}

bool estimate_run(const Generation* g, TextOutput* out, Error* error) {
    Estimate e = {.g = g};
    Page page;
    if (!estimate_open(&e, error) || !page_open(&page, error)) return false;
    ProfileRow rows[2][NUM_OPERATIONS];
    const Phase phases[2] = {estimate_phase(&e, "prefill", e.prefill, &e.rates, rows[0]),
                             estimate_phase(&e, "decode", e.decode, &e.rates, rows[1])};
    if (g->options->json) print_json(page.out, &e, phases);
    else print_text(page.out, &e, phases);
    return page_end(&page, out, error);
}
