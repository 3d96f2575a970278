// --verify: the prompt on every device and with every weight type, against a reference: the same checkpoint (or the one
// that is named) in f32 with the portable kernels of the CPU, or logits from a file.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cpu_kernels.h"
#include "inspect.h"
#include "npy.h"
#include "open_device.h"
#include "print.h"
#include "progress.h"
#include "trace.h"
#include "weights.h"

enum { TOP = 5, MAX_CONTENDERS = 64, MAX_SHOWN = 8, SINGLE_TOKENS = 8 };

// How far apart rounding alone may take two runs. A product is a sum of terms w x. Where w and x are kept in few bits,
// each term has a relative error of random sign, and the sum one of about the same size: `roundings`. For a binary type
// with p significant bits it is the unit roundoff 2^-p. The step of q8 is 1/127 of the largest of 32 numbers; half a
// step, relative to the root mean square of the 32, lies between 2^-8 and 2^-5.5. In f32 it is the sum that rounds: a
// random walk of steps of 2^-24, as many as the longest sum has terms, 4 C.
//
// What becomes of it depends on the model and the prompt: a sharp attention turns a small error of its scores into a
// large one of its weights, layer upon layer. So that is measured. The reference runs once more with every LayerNorm's
// weight, and so everything that goes into qkv, fc and the head, moved by up to PROBE of itself at random; the
// difference that this makes, over PROBE, is the amplification. One is added for the products behind no LayerNorm:
//     tolerance = MARGIN x rounding x (1 + amplification)
// for every layer and for the logits on its own.
//
// MARGIN: the bundled model, and random ones of 45 to 768 channels and 1 to 24 layers (GPT-2's initialisation; wide
// weights; single channels 8 times and biases 1000 times as large as others; attention scores of several tens), with
// prompts of 1 to 142 tokens, used 0.1 of the tolerance as a rule and 0.36 at most. A matrix with its signs turned went
// beyond it 3 to 60 times over, but for q8 where rounding itself changes a layer's work as much.
static const double PROBE = 0x1p-11, MARGIN = 8;
static const double roundings[NUM_DTYPES] = {
    [DTYPE_F32] = 0x1p-24, [DTYPE_BF16] = 0x1p-8, [DTYPE_F16] = 0x1p-11, [DTYPE_Q8] = 0x1p-6};

// A device with a weight type, and how it did.
typedef struct {
    const DeviceApi* api;
    char device[16];  // "CPU", "GPU 0"
    int gpu;          // its number
    char kernels[32]; // the variant of the CPU's, the architecture that the GPU's are for
    DType dtype;
    double* tolerances; // (L + 2) for the embedding, every layer and the logits
    bool was_run;
    bool is_broken; // the device failed in the middle of the run
    Error why_not;  // when it was not run to its end
    Difference difference;
    TopToken top[TOP]; // after the last position
    bool passed;
} Contender;

typedef struct {
    const Generation* g;
    Trace reference;
    TopToken top[TOP];
    int num_top;
    char name[128];        // of the reference
    DType file_dtype;      // that its weights were rounded to
    double* amplification; // (L + 2) how much rounding grows to, at every level
    Contender contenders[MAX_CONTENDERS];
    int num_contenders;
} Verifier;

// ---------------------------------------------------------------------------------------------------------------------
// Running.

static bool trace_open(Trace* trace, const GPT2Model* model, int T, Error* error) {
    const GPT2Config* c = &model->config;
    *trace = (Trace){.T = T, .V = c->vocab_size, .C = c->channels, .L = c->num_layers};
    size_t stream = (size_t)T * (size_t)c->channels * sizeof(float);
    trace->logits = allocate((size_t)T * (size_t)c->vocab_size, sizeof(float), "logits", error);
    trace->residuals = trace->logits != NULL ? allocate((size_t)c->num_layers + 1, stream, "layers", error) : NULL;
    return trace->residuals != NULL;
}

static void trace_free(Trace* trace) {
    free(trace->logits);
    free(trace->residuals);
    *trace = (Trace){0};
}

// Runs the prompt: most of it at once, the last tokens one by one, since devices have different kernels for the two.
static bool trace_tokens(Trace* trace, const DeviceApi* api, Device* device, const Generation* g, Error* error) {
    int T = g->num_prompt, single = T / 2 < SINGLE_TOKENS ? T / 2 : SINGLE_TOKENS, slot = 0;
    TokenRun run = {.tokens = g->prompt_tokens, .slots = &slot, .B = 1, .T = T - single, .position = 0};
    bool ok = api->forward(device, &run, run.T, trace->logits, error);
    run.T = 1;
    for (int t = T - single; ok && t < T; t++) {
        run.tokens = g->prompt_tokens + t;
        run.position = t;
        ok = api->forward(device, &run, 1, trace->logits + (size_t)t * (size_t)trace->V, error);
    }
    return ok;
}

// A false with contender->is_broken: the device was there and opened, but did not come to the end.
static bool trace_run(Trace* trace, Contender* contender, const GPT2Model* model, const Generation* g, Error* error) {
    if (!trace_open(trace, model, g->num_prompt, error)) return false;
    DeviceOptions options = {.max_seq_len = g->num_prompt,
                             .max_batch = 1,
                             .num_threads = g->threads,
                             .kernels = contender->api == &gpt2_cpu ? contender->kernels : NULL,
                             .gpu = contender->gpu,
                             .dtype = contender->dtype,
                             .cpu_logits = g->options->cpu_logits,
                             .residuals = trace->residuals};
    Device* device = contender->api->open(model, &options, error);
    if (device == NULL) return false;
    bool ok = trace_tokens(trace, contender->api, device, g, error);
    contender->is_broken = !ok;
    contender->api->close(device);
    return ok;
}

// Loads a checkpoint with its matrices as `dtype`, cut as --layers says.
static bool load(GPT2Model* model, const char* path, DType dtype, const Generation* g, Error* error) {
    if (!checkpoint_load(model, path, false, dtype, error)) return false;
    const GPT2Config *own = &model->config, *expected = &g->model.config;
    bool is_same = own->vocab_size == expected->vocab_size && own->channels == expected->channels &&
                   own->num_heads == expected->num_heads && own->num_layers >= expected->num_layers &&
                   own->max_seq_len >= g->num_prompt;
    if (!is_same) {
        fail(error,
             "--verify: %s has another shape (%d layers, %d heads, %d channels, %d tokens) than %s (%d, %d, %d, %d)",
             path, own->num_layers, own->num_heads, own->channels, own->vocab_size, g->paths.model,
             expected->num_layers, expected->num_heads, expected->channels, expected->vocab_size);
        checkpoint_free(model);
        return false;
    }
    model->config.num_layers = expected->num_layers;
    return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// The reference.

static bool is_npy(const char* path) {
    struct stat info;
    char magic[6] = "";
    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode)) return false;
    FILE* file = fopen(path, "rb");
    if (file == NULL) return false;
    bool is_read = fread(magic, 1, sizeof magic, file) == sizeof magic;
    fclose(file);
    return is_read && memcmp(magic, "\x93NUMPY", sizeof magic) == 0;
}

// Logits that --logits has written.
static bool read_reference(Verifier* v, const char* path, Error* error) {
    const Generation* g = v->g;
    size_t rows, cols, T = (size_t)g->num_prompt, V = (size_t)g->model.config.vocab_size;
    v->reference = (Trace){.T = (int)T, .V = (int)V, .L = g->model.config.num_layers};
    v->reference.logits = npy_read(path, &rows, &cols, error);
    if (v->reference.logits == NULL) return false;
    snprintf(v->name, sizeof v->name, "logits of the file");
    if (rows == T && cols == V) {
        return all_finite(v->reference.logits, T * V) ||
               fail(error, "--verify: %s holds logits that are not finite, which are no reference", path);
    }
    return fail(error,
                "--verify: %s holds logits of %zu positions and %zu tokens, the prompt has %zu and the model %zu", path,
                rows, cols, T, V);
}

static bool run_portable(Trace* trace, const GPT2Model* model, const Generation* g, Error* error) {
    Contender portable = {.api = &gpt2_cpu, .kernels = "portable", .dtype = DTYPE_F32};
    return trace_run(trace, &portable, model, g, error);
}

// Moves a copy of n numbers by up to PROBE of themselves. NULL when memory is short.
static float* moved(const float* values, size_t n, Sampler* random, Error* error) {
    float* copy = allocate(n, sizeof *copy, "--verify", error);
    for (size_t i = 0; copy != NULL && i < n; i++) {
        copy[i] = values[i] * (float)(1 + PROBE * (2 * sampler_uniform(random) - 1));
    }
    return copy;
}

// Fills in v->amplification from a run of the model and one with its LayerNorms moved.
static bool measure_amplification(Verifier* v, const Trace* trace, const GPT2Model* model, Error* error) {
    static const ParameterId norms[] = {LN1W, LN2W, LNFW};
    enum { NORMS = sizeof norms / sizeof *norms };
    const SamplerOptions greedy = {.top_p = 1, .repeat_penalty = 1};
    size_t levels = (size_t)trace->L + 2;
    float* copies[NORMS] = {NULL};
    GPT2Model shaken = *model; // shares all but these
    Trace other = {0};
    Difference difference = {0};
    Sampler random;
    v->amplification = allocate(levels, sizeof *v->amplification, "--verify", error);
    if (v->amplification == NULL || !sampler_open(&random, &greedy, trace->V, 1, 0, error)) return false;
    memset(v->amplification, 0, levels * sizeof *v->amplification);
    bool ok = true;
    for (int i = 0; ok && i < NORMS; i++) {
        ParameterShape shape = gpt2_parameter_shape(norms[i], &model->config);
        copies[i] = moved(model->tensors[norms[i]].data, shape.layers * shape.cols, &random, error);
        shaken.tensors[norms[i]].data = copies[i];
        ok = copies[i] != NULL;
    }
    ok = ok && run_portable(&other, &shaken, v->g, error) &&
         trace_compare(&difference, trace, &other, v->amplification, error);
    for (size_t l = 0; ok && l < levels; l++) {
        v->amplification[l] = (l + 1 < levels ? difference.layers[l].relative : difference.relative) / PROBE;
    }
    for (int i = 0; i < NORMS; i++) free(copies[i]);
    free(difference.layers);
    trace_free(&other);
    sampler_close(&random);
    return ok;
}

// What is not finite can be compared with nothing.
static bool check_reference(const Trace* trace, const GPT2Model* model, const char* path, Error* error) {
    return all_finite(trace->logits, (size_t)trace->T * (size_t)trace->V) || weights_fail_damaged(model, path, error);
}

// Runs the reference, and measures the amplification on it; where logits from a file are the reference, on the model.
static bool run_reference(Verifier* v, bool has_file, Error* error) {
    const Generation* g = v->g;
    const char* path = g->options->reference != NULL && !has_file ? g->options->reference : g->paths.model;
    GPT2Model model;
    Trace own = {0};
    if (has_file && !read_reference(v, g->options->reference, error)) return false;
    if (!load(&model, path, DTYPE_F32, g, error)) return false;
    bool ok = run_portable(&own, &model, g, error) && check_reference(&own, &model, path, error) &&
              measure_amplification(v, &own, &model, error);
    v->file_dtype = model.file_dtype;
    checkpoint_free(&model);
    if (has_file) {
        trace_free(&own);
        return ok;
    }
    snprintf(v->name, sizeof v->name, "f32, CPU portable");
    v->reference = own;
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------------
// The contenders.

static double rounding_of(DType dtype, const GPT2Config* config) {
    return roundings[dtype_unpacked(dtype)] * (dtype == DTYPE_F32 ? sqrt(4.0 * config->channels) : 1);
}

// Fills in the tolerances of a contender: by --tolerance, or by what rounding to its weight type explains. Where the
// weights of the reference come from another file, also by the rounding that both files carry.
static bool set_tolerances(Contender* c, const Verifier* v, Error* error) {
    const Generation* g = v->g;
    const GPT2Config* config = &g->model.config;
    size_t levels = (size_t)config->num_layers + 2;
    double rounding = rounding_of(c->dtype, config);
    if (g->options->reference != NULL) {
        rounding = fmax(rounding, rounding_of(g->model.file_dtype, config));
        rounding = fmax(rounding, rounding_of(v->file_dtype, config));
    }
    c->tolerances = allocate(levels, sizeof *c->tolerances, "--verify", error);
    for (size_t l = 0; c->tolerances != NULL && l < levels; l++) {
        double explained = MARGIN * rounding * (1 + v->amplification[l]);
        c->tolerances[l] = g->options->tolerance > 0 ? (double)g->options->tolerance : explained;
    }
    return c->tolerances != NULL;
}

// The next contender, which the caller completes; NULL when there are as many as the table holds.
static Contender* add_contender(Verifier* v, const DeviceApi* api, DType dtype) {
    if (v->num_contenders == MAX_CONTENDERS) return NULL;
    Contender* c = &v->contenders[v->num_contenders++];
    *c = (Contender){.api = api, .device = "CPU", .dtype = dtype};
    return c;
}

// The GPUs that --device admits. None is an error only where one was asked for.
static bool list_gpus(Verifier* v, DType dtype, Error* error) {
#ifdef GPT2_HIP
    const Options* options = v->g->options;
    if (options->device == DEVICE_CPU || dtype_unpacked(dtype) != dtype) return true;
    bool is_wanted = options->device == DEVICE_GPU;
    GpuInfo info;
    if (is_wanted && !find_gpu(&info, options, error)) return false;
    int count = is_wanted ? options->gpu + 1 : gpt2_hip_count(error);
    for (int gpu = is_wanted ? options->gpu : 0; gpu < count; gpu++) {
        Contender* c = add_contender(v, &gpt2_hip, dtype);
        if (c == NULL) return true;
        c->gpu = gpu;
        snprintf(c->device, sizeof c->device, "GPU %d", gpu);
        // "gfx90a:sramecc+:xnack-": what follows the colon are settings
        if (gpt2_hip_info(&info, gpu, error)) {
            snprintf(c->kernels, sizeof c->kernels, "%.*s", (int)strcspn(info.arch, ":"), info.arch);
        }
    }
#else
    (void)v, (void)dtype, (void)error;
#endif
    return true;
}

// The CPU is as many devices as it has kernel variants, the best first. The reference against itself would be no test.
static void list_cpus(Verifier* v, DType dtype) {
    const Options* options = v->g->options;
    const CpuKernels* kernels;
    for (int i = 0; (kernels = cpu_kernels_supported(i)) != NULL; i++) {
        bool is_reference = dtype == DTYPE_F32 && strcmp(kernels->name, "portable") == 0;
        if (is_reference && i > 0 && options->reference == NULL) continue;
        Contender* c = add_contender(v, &gpt2_cpu, dtype);
        if (c != NULL) snprintf(c->kernels, sizeof c->kernels, "%s", kernels->name);
    }
}

// Every weight type that is asked for on every device that is.
static bool list_contenders(Verifier* v, Error* error) {
    const Options* options = v->g->options;
    for (int dtype = 0; dtype < NUM_DTYPES; dtype++) {
        if (!options->keep_dtype && options->dtype != (DType)dtype) continue;
        if (!list_gpus(v, (DType)dtype, error)) return false;
        if (options->device != DEVICE_GPU) list_cpus(v, (DType)dtype);
    }
    return true;
}

static bool run_contender(Contender* c, const Verifier* v, const GPT2Model* model, Error* error) {
    Trace trace;
    size_t last = (size_t)(v->reference.T - 1) * (size_t)v->reference.V;
    if (!set_tolerances(c, v, error)) return false;
    c->was_run = trace_run(&trace, c, model, v->g, &c->why_not);
    bool ok = !c->was_run || (trace_compare(&c->difference, &v->reference, &trace, c->tolerances, error) &&
                              sampler_top(c->top, v->num_top, trace.logits + last, trace.V, error));
    trace_free(&trace);
    c->passed = c->was_run && ok && c->difference.first_bad < 0;
    bool is_wanted = c->api == &gpt2_cpu || v->g->options->device == DEVICE_GPU; // a GPU may be too small, say
    return c->was_run || !is_wanted ? ok : fail(error, "%s", c->why_not.text);
}

// Do all matrices of the model fit into this weight type? Vectors stay f32 whatever it is.
static bool can_express(const GPT2Model* model, DType dtype) {
    Error ignored;
    float* row = allocate(4 * (size_t)model->config.channels, sizeof *row, "--verify", &ignored);
    bool ok = row != NULL;
    for (int id = 0; row != NULL && id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &model->config);
        if (shape.kind == VECTOR) continue;
        for (size_t r = 0; ok && r < shape.layers * shape.rows; r++) {
            gpt2_matrix_row(row, &model->tensors[id], r, shape.cols);
            ok = first_unfit(row, dtype, shape.cols) == shape.cols;
        }
    }
    free(row);
    return ok;
}

// Runs all contenders; those of one weight type follow each other and share the model. A type that cannot express the
// weights is passed over, unless it was asked for.
static bool run_contenders(Verifier* v, Error* error) {
    GPT2Model model = {0};
    Progress progress = progress_start("verifying", (size_t)v->num_contenders, !v->g->options->quiet);
    bool ok = true, is_loaded = false;
    for (int i = 0; ok && i < v->num_contenders; i++) {
        Contender* c = &v->contenders[i];
        if (i == 0 || c->dtype != v->contenders[i - 1].dtype) {
            if (is_loaded) checkpoint_free(&model);
            is_loaded = load(&model, v->g->paths.model, c->dtype, v->g, &c->why_not);
        } else {
            c->why_not = v->contenders[i - 1].why_not;
        }
        if (is_loaded) ok = run_contender(c, v, &model, error);
        else if (!v->g->options->keep_dtype || can_express(&v->g->model, c->dtype))
            ok = fail(error, "%s", c->why_not.text);
        progress_add(&progress, 1);
    }
    progress_end(&progress);
    if (is_loaded) checkpoint_free(&model);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------------
// What is printed.

// The contenders whose tables are shown: of each weight type every GPU, or the best of the CPU's variants where there
// is none; what failed first, as far as there is room.
static int choose_shown(const Contender* shown[MAX_SHOWN], const Verifier* v) {
    int n = 0;
    for (int failing = 1; failing >= 0; failing--) {
        for (int i = 0; i < v->num_contenders && n < MAX_SHOWN; i++) {
            const Contender* c = &v->contenders[i];
            bool is_first = i == 0 || c->api != &gpt2_cpu || v->contenders[i - 1].dtype != c->dtype;
            if (c->was_run && (failing ? !c->passed : c->passed && is_first)) shown[n++] = c;
        }
    }
    return n;
}

static void bad_layer_name(char name[32], int layer, int L) {
    if (layer == 0) snprintf(name, 32, "embedding");
    else if (layer <= L) snprintf(name, 32, "layer %d", layer - 1);
    else snprintf(name, 32, "logits");
}

static void print_summary_row(FILE* out, const Verifier* v, const Contender* c) {
    const Difference* d = &c->difference;
    char bad[32] = "";
    fprintf(out, "%-5s %-5s %-11s", dtype_names[c->dtype], c->device, c->kernels);
    if (!c->was_run) {
        fprintf(out, " %s: %s\n", c->is_broken ? "FAILED" : "not run", c->why_not.text);
        return;
    }
    if (!c->passed) bad_layer_name(bad, d->first_bad, v->reference.L);
    fprintf(out, " %10.2e %10.2e %10.2e %10.2e %10.2e %10.2e %6d/%-5d %s%s%s\n", d->largest, d->mean, d->relative,
            c->tolerances[v->reference.L + 1], d->kl_mean, d->kl_largest, d->same_argmax, v->reference.T,
            c->passed ? "PASSED" : "FAILED", c->passed ? "" : ", first at ", bad);
}

// A token as Python writes it, padded with blanks to `width` characters.
static void print_padded(Page* page, const Generation* g, int id, int width) {
    size_t size;
    const char* bytes = tokenizer_decode(g->tokenizer, id, &size);
    fflush(page->out); // the page's text and length are now what has been printed
    size_t before = page->length;
    print_repr(page->out, bytes, size);
    fflush(page->out);
    for (size_t i = before; i < page->length; i++) width -= ((unsigned char)page->text[i] & 0xc0) != 0x80;
    fprintf(page->out, "%*s", width > 0 ? width : 0, "");
}

static void print_top(Page* page, const Verifier* v, const Contender* c) {
    char title[64];
    snprintf(title, sizeof title, "%s, %s %s", dtype_names[c->dtype], c->device, c->kernels);
    fprintf(page->out, "\n    %-46s   %s\n", v->name, title);
    for (int k = 0; k < v->num_top; k++) {
        fprintf(page->out, "%2d  ", k + 1);
        print_padded(page, v->g, v->top[k].id, 20);
        fprintf(page->out, " %12.4f %12.6f   ", (double)v->top[k].logit, v->top[k].probability);
        print_padded(page, v->g, c->top[k].id, 20);
        fprintf(page->out, " %12.4f %12.6f\n", (double)c->top[k].logit, c->top[k].probability);
    }
}

static void print_layers(FILE* out, const Verifier* v, const Contender* const* shown, int n) {
    fputs("\nResidual stream: the largest difference; the difference in what each layer adds to it, relative, and how "
          "much "
          "of the\ntolerance that is\n",
          out);
    fprintf(out, "%-10s", "");
    for (int i = 0; i < n; i++) {
        int width = i + 1 < n ? 17 : 0;
        fprintf(out, "  %-4s %-3.3s %-*.17s", dtype_names[shown[i]->dtype], shown[i]->device, width, shown[i]->kernels);
    }
    fputc('\n', out);
    for (int l = 0; l <= v->reference.L; l++) {
        char name[32];
        bad_layer_name(name, l, v->reference.L);
        fprintf(out, "%-10s", name);
        for (int i = 0; i < n; i++) {
            const LayerDifference* d = &shown[i]->difference.layers[l];
            bool is_bad = shown[i]->difference.first_bad == l;
            double share = 100 * d->relative / shown[i]->tolerances[l];
            fprintf(out, "  %9.2e %9.2e %4.0f%%%s", d->largest, d->relative, share,
                    is_bad      ? "!"
                    : i + 1 < n ? " "
                                : "");
        }
        fputc('\n', out);
    }
}

static void print_text(Page* page, const Verifier* v, bool passed) {
    FILE* out = page->out;
    const Generation* g = v->g;
    const Contender* shown[MAX_SHOWN];
    int n = choose_shown(shown, v);
    fprintf(out, "%s, %d layers; prompt ", g->paths.model, g->model.config.num_layers);
    print_repr(out, g->prompt.text, g->prompt.length);
    fprintf(out, ", %d tokens\nreference: %s%s%s\n", g->num_prompt, v->name,
            g->options->reference != NULL ? ", of " : "", g->options->reference != NULL ? g->options->reference : "");
    for (int i = 0; i < n; i++) print_top(page, v, shown[i]);
    if (n > 0 && v->reference.residuals != NULL) print_layers(out, v, shown, n);
    fprintf(out, "\n%-23s %10s %10s %10s %10s %10s %10s %12s\n", "Logits", "largest", "mean", "relative", "tolerance",
            "KL mean", "KL largest", "same argmax");
    for (int i = 0; i < v->num_contenders; i++) print_summary_row(out, v, &v->contenders[i]);
    if (!passed && v->reference.residuals == NULL) {
        fputs("A file of logits knows no layers: give the good checkpoint, --verify=GOOD, to have the layer named.\n",
              out);
    }
    fputs(passed ? "PASSED\n" : "FAILED\n", out);
}

static void json_contender(FILE* out, const Verifier* v, const Contender* c) {
    const Difference* d = &c->difference;
    fputs("    {", out);
    json_text(out, "device", c->device);
    json_text(out, "kernels", c->kernels);
    fprintf(out, "\"dtype\": \"%s\", ", dtype_names[c->dtype]);
    if (!c->was_run) {
        json_text(out, "not_run", c->why_not.text);
        fprintf(out, "\"passed\": %s}", c->is_broken ? "false" : "null");
        return;
    }
    json_number(out, "largest", d->largest, ", ");
    json_number(out, "mean", d->mean, ", ");
    json_number(out, "relative", d->relative, ", ");
    json_number(out, "tolerance", c->tolerances[v->reference.L + 1], ",\n     ");
    json_number(out, "kl_mean", d->kl_mean, ", ");
    json_number(out, "kl_largest", d->kl_largest, ", ");
    fprintf(out, "\"same_argmax\": %d,\n     ", d->same_argmax);
    json_top(out, v->g->tokenizer, c->top, v->num_top);
    fputs(",\n     \"layers\": [", out);
    for (int l = 0; d->layers != NULL && l <= v->reference.L; l++) {
        fputs(l == 0 ? "{" : ", {", out);
        json_number(out, "largest", d->layers[l].largest, ", ");
        json_number(out, "relative", d->layers[l].relative, ", ");
        json_number(out, "tolerance", c->tolerances[l], "}");
    }
    char bad[32] = "";
    if (d->first_bad >= 0) bad_layer_name(bad, d->first_bad, v->reference.L);
    fprintf(out, "],\n     \"first_bad\": %s%s%s, \"passed\": %s}", c->passed ? "null" : "\"", bad,
            c->passed ? "" : "\"", c->passed ? "true" : "false");
}

static void print_json(FILE* out, const Verifier* v, bool passed) {
    const Generation* g = v->g;
    fputs("{\n  ", out);
    json_text(out, "model", g->paths.model);
    fprintf(out, "\"layers\": %d, \"positions\": %d,\n  \"prompt\": ", g->model.config.num_layers, g->num_prompt);
    json_quoted(out, g->prompt.text, g->prompt.length);
    fputs(",\n  \"reference\": {", out);
    json_text(out, "name", v->name);
    if (g->options->reference != NULL) json_text(out, "path", g->options->reference);
    json_top(out, v->g->tokenizer, v->top, v->num_top);
    fputs("},\n  \"contenders\": [\n", out);
    for (int i = 0; i < v->num_contenders; i++) {
        if (i > 0) fputs(",\n", out);
        json_contender(out, v, &v->contenders[i]);
    }
    fprintf(out, "],\n  \"passed\": %s\n}\n", passed ? "true" : "false");
}

// ---------------------------------------------------------------------------------------------------------------------

static bool all_passed(const Verifier* v) {
    int run = 0;
    for (int i = 0; i < v->num_contenders; i++) {
        if (v->contenders[i].is_broken || (v->contenders[i].was_run && !v->contenders[i].passed)) return false;
        run += v->contenders[i].was_run;
    }
    return run > 0;
}

static bool run_all(Verifier* v, Error* error) {
    const Generation* g = v->g;
    bool has_file = g->options->reference != NULL && is_npy(g->options->reference);
    if (!list_contenders(v, error)) return false;
    v->num_top = g->model.config.vocab_size < TOP ? g->model.config.vocab_size : TOP;
    if (!run_reference(v, has_file, error)) return false;
    const float* last = v->reference.logits + (size_t)(v->reference.T - 1) * (size_t)v->reference.V;
    return sampler_top(v->top, v->num_top, last, v->reference.V, error) && run_contenders(v, error);
}

bool verify_devices(const Generation* g, TextOutput* out, bool* passed, Error* error) {
    Verifier* v = allocate(1, sizeof *v, "--verify", error);
    Page page;
    if (v == NULL) return false;
    memset(v, 0, sizeof *v);
    v->g = g;
    bool ok = run_all(v, error) && page_open(&page, error);
    if (ok) {
        *passed = all_passed(v);
        if (g->options->json) print_json(page.out, v, *passed);
        else print_text(&page, v, *passed);
        ok = page_end(&page, out, error);
    }
    for (int i = 0; i < v->num_contenders; i++) {
        free(v->contenders[i].difference.layers);
        free(v->contenders[i].tolerances);
    }
    free(v->amplification);
    trace_free(&v->reference);
    free(v);
    return ok;
}
