// --estimate: what a prompt and a token would take on a machine that is not here, from bytes and arithmetic alone. No
// launch, barrier or cache miss is in it: it is the least time, not a promise.
#include "chips.h"
#include "cpu_kernels.h"
#include "inspect.h"
#include "machine.h"
#include "open_device.h"
#include "operation_table.h"
#include "print.h"

enum { DEFAULT_PROMPT = 512 };

typedef struct {
    const Generation* g;
    DType dtype;
    CallShape prefill, decode;
    size_t bytes; // of weights for one token
    Roof rates;   // of the machine asked for
    bool is_here; // it is this one
    // this one, measured
    Roof cpu, gpu;
    char cpu_name[96], gpu_name[256]; // "": there is no GPU, or none that --device admits
} Estimate;

// Where the text would run here; an error only where a GPU was asked for that cannot be used.
static bool measure_here(Estimate* e, Error* error) {
    const Generation* g = e->g;
    const Options* options = g->options;
    const char* variant = cpu_kernels_select(NULL)->name;
    GpuInfo info;
    bool has_gpu = find_gpu(&info, options, error);
    e->dtype = dtype_on_device(options, options->keep_dtype ? g->model.file_dtype : options->dtype, has_gpu);
    e->bytes = gpt2_bytes_per_token_in(e->dtype, &g->model.config);
#ifdef GPT2_HIP
    has_gpu = has_gpu && gpt2_hip_measure(&e->gpu, options->gpu, e->dtype, e->bytes, error);
#endif
    if (!has_gpu && options->device == DEVICE_GPU) return false;
    if (has_gpu) snprintf(e->gpu_name, sizeof e->gpu_name, "this GPU (%s, %s)", info.name, info.arch);
    snprintf(e->cpu_name, sizeof e->cpu_name, "this CPU (%s, %d thread%s)", variant, g->threads,
             g->threads == 1 ? "" : "s");
    if (!machine_measure(&e->cpu, variant, e->dtype, e->bytes, g->threads, error)) return false;
    e->rates = has_gpu ? e->gpu : e->cpu;
    return true;
}

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
    if (!measure_here(e, error)) return false;
    e->is_here = wish[0] == 0;
    if (wish[0] > 0) e->rates.bandwidth = 1e9 * wish[0], e->rates.working_set = 0;
    if (wish[1] > 0) e->rates.products = e->rates.attention = e->rates.f32 = 1e9 * wish[1];
    return true;
}

static Phase estimate_phase(const Estimate* e, const char* name, CallShape shape, const Roof* rates,
                            ProfileRow rows[MAX_PASS_PARTS]) {
    Phase phase = {.name = name, .tokens = shape.T, .rows = rows};
    phase.num_rows = estimate_rows(rows, &e->g->model.config, e->dtype, shape, rates);
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
    print_chip(out, e, e->cpu_name, &e->cpu);
    if (e->gpu_name[0] != '\0') {
        if (is_json) fputc(',', out);
        print_chip(out, e, e->gpu_name, &e->gpu);
    }
    for (int i = 0; i < NUM_CHIPS; i++) {
        Roof rates = chip_rates(&chips[i], e->dtype);
        if (is_json) fputc(',', out);
        print_chip(out, e, chips[i].name, &rates);
    }
}

static void print_text(FILE* out, const Estimate* e, const Phase phases[2]) {
    fprintf(out, "%s, %s weights, %.1f MB per token; from the shapes, nothing was run\n", e->g->paths.model,
            dtype_names[e->dtype], 1e-6 * (double)e->bytes);
    const char* here = e->gpu_name[0] != '\0' ? e->gpu_name : e->cpu_name;
    fprintf(out, "%s; ", e->is_here ? here : "the machine asked for");
    print_machine(out, &e->rates);
    for (int i = 0; i < 2; i++) print_phase(out, &phases[i], &e->rates, false);
    fprintf(out, "\n%-34s %8s %9s %9s %12s %12s %10s\n", "machine", "GB/s", "products", "f32", "prefill ms", "token ms",
            "tokens/s");
    print_chips(out, e);
    fputs(
        "products and f32 in GFLOP/s; this machine is measured, the others are what their makers and others publish\n",
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
    ProfileRow rows[2][MAX_PASS_PARTS];
    const Phase phases[2] = {estimate_phase(&e, "prefill", e.prefill, &e.rates, rows[0]),
                             estimate_phase(&e, "decode", e.decode, &e.rates, rows[1])};
    if (g->options->json) print_json(page.out, &e, phases);
    else print_text(page.out, &e, phases);
    return page_end(&page, out, error);
}
