#include "report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "print.h"
#include "processors.h"

const char* const stop_names[] = {"none", "length", "eot", "context", "interrupted"};

// ---------------------------------------------------------------------------------------------------------------------
// Figures.

bool report_figures(Figures* figures, const Generation* g) {
    *figures = (Figures){.bytes_per_token = gpt2_bytes_per_token(&g->model, g->device_dtype)};
    int first_tokens = 0; // of the samples: these follow from the prompt
    for (int b = 0; b < g->options->samples; b++) {
        figures->tokens += g->samples[b].num_generated;
        first_tokens += g->samples[b].num_generated > 0;
    }
    if (g->prompt_seconds > 0) figures->prompt_per_second = g->num_prompt / g->prompt_seconds;
    if (figures->tokens > 0) figures->seconds_per_token = g->total_seconds / figures->tokens;
    if (g->num_steps > 0) {
        size_t n = (size_t)g->num_steps;
        double* sorted = malloc(n * sizeof *sorted);
        if (sorted == NULL) return false;
        memcpy(sorted, g->step_seconds, n * sizeof *sorted);
        sort_numbers(sorted, n);
        figures->minimum = sorted[0];
        figures->median = quantile(sorted, n, 0.5);
        figures->p95 = quantile(sorted, n, 0.95);
        figures->maximum = sorted[n - 1];
        free(sorted);
        double sum = 0;
        for (int i = 0; i < g->num_steps; i++) sum += g->step_seconds[i];
        if (figures->tokens > first_tokens) figures->seconds_per_token = sum / (figures->tokens - first_tokens);
        if (sum > 0) figures->bytes_per_second = (double)figures->bytes_per_token * g->num_steps / sum;
    }
    if (figures->seconds_per_token > 0) figures->tokens_per_second = 1 / figures->seconds_per_token;
    return true;
}

char* generation_text(const Generation* g, const int* tokens, int n, size_t* length) {
    char* text = NULL;
    FILE* out = open_memstream(&text, length);
    if (out == NULL) return NULL;
    for (int i = 0; i < n; i++) {
        size_t size;
        const char* bytes = tokenizer_decode(g->tokenizer, tokens[i], &size);
        fwrite(bytes, 1, size, out);
    }
    bool is_whole = ferror(out) == 0; // memory may have been short at any time
    if (fclose(out) == 0 && is_whole) return text;
    free(text);
    return NULL;
}

bool report_top(const Generation* g, TextOutput* out, Error* error) {
    Page page;
    if (!page_open(&page, error)) return false;
    fprintf(page.out, "%7s  %10s  %11s  token\n", "id", "logit", "probability");
    for (int k = 0; k < g->options->top; k++) {
        const TopToken* t = &g->top[k];
        size_t size;
        const char* bytes = tokenizer_decode(g->tokenizer, t->id, &size);
        fprintf(page.out, "%7d  %10.4f  %11.6f  ", t->id, (double)t->logit, t->probability);
        print_repr(page.out, bytes, size);
        fputc('\n', page.out);
    }
    return page_end(&page, out, error);
}

bool report_tokens(const int* tokens, size_t n, TextOutput* out, Error* error) {
    Page page;
    if (!page_open(&page, error)) return false;
    for (size_t i = 0; i < n; i++) fprintf(page.out, i == 0 ? "%d" : " %d", tokens[i]);
    fputc('\n', page.out);
    return page_end(&page, out, error);
}

// ---------------------------------------------------------------------------------------------------------------------
// The report on standard error.

static void print_config(const GPT2Model* model) {
    const GPT2Config* config = &model->config;
    fprintf(stderr, "[GPT-2 Config]\n");
    fprintf(stderr, "  max_seq_len: %d\n", config->max_seq_len);
    fprintf(stderr, "  vocab_size: %d\n", config->vocab_size);
    fprintf(stderr, "  num_layers: %d\n", config->num_layers);
    fprintf(stderr, "  num_heads: %d\n", config->num_heads);
    fprintf(stderr, "  channels: %d\n", config->channels);
    fprintf(stderr, "  total_params: %zu\n\n", model->num_parameters);
}

static void print_tensors(const GPT2Model* model) {
    fprintf(stderr, "[Tensors]\n");
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &model->config);
        DType dtype = model->tensors[id].dtype;
        char text[64];
        int n =
            shape.per_layer ? snprintf(text, sizeof text, "(%zu, ", shape.layers) : snprintf(text, sizeof text, "(");
        if (shape.kind == VECTOR) snprintf(text + n, sizeof text - (size_t)n, "%zu)", shape.cols);
        else snprintf(text + n, sizeof text - (size_t)n, "%zu, %zu)", shape.rows, shape.cols);
        fprintf(stderr, "  %-9s %-18s %-5s %12zu bytes\n", shape.name, text, dtype_names[dtype],
                shape.layers * shape.rows * dtype_row_bytes(dtype, shape.cols));
    }
    fprintf(stderr, "\n");
}

static void print_sampling(const Generation* g) {
    const SamplerOptions* s = &g->options->sampler;
    fprintf(stderr, "  sampling: ");
    if (s->temperature > 0) {
        fprintf(stderr, "temp %g", (double)s->temperature);
        if (s->top_k > 0) fprintf(stderr, ", top-k %d", s->top_k);
        if (s->top_p < 1) fprintf(stderr, ", top-p %g", (double)s->top_p);
        if (s->min_p > 0) fprintf(stderr, ", min-p %g", (double)s->min_p);
    } else {
        fprintf(stderr, "greedy");
    }
    if (s->repeat_penalty != 1) fprintf(stderr, ", repeat-penalty %g", (double)s->repeat_penalty);
    fprintf(stderr, "\n");
    if (s->temperature > 0) fprintf(stderr, "  seed: %llu\n", (unsigned long long)g->options->seed);
}

static void print_prompt(const Generation* g) {
    enum { SHOWN = 200 };
    size_t shown = g->prompt.length;
    if (shown > SHOWN) { // whole characters
        for (shown = SHOWN; shown > SHOWN - 4 && (g->prompt.text[shown] & 0xc0) == 0x80; shown--) {}
    }
    fprintf(stderr, "Prompt: ");
    if (g->prompt.length == 0) fprintf(stderr, "<|endoftext|>");
    print_escaped(stderr, g->prompt.text, shown, 0);
    if (g->prompt.length > SHOWN) fprintf(stderr, "... (%zu bytes)", g->prompt.length);
    fprintf(stderr, "\n");
}

void report_before(const Generation* g) {
    const GPT2Model* model = &g->model;
    print_config(model);
    if (g->options->verbose) print_tensors(model);
    fprintf(stderr, "[Run]\n");
    fprintf(stderr, "  model: %s%s\n", g->paths.model, g->paths.is_bundled ? " (the bundled one)" : "");
    fprintf(stderr, "  tokenizer: %s\n", g->paths.tokenizer);
    fprintf(stderr, "  dtype: %s", dtype_names[g->device_dtype]);
    if (g->device_dtype != model->file_dtype) fprintf(stderr, " (%s in the file)", dtype_names[model->file_dtype]);
    fprintf(stderr, "\n  device: %s\n", g->device);
    fprintf(stderr, "  threads: %d", g->threads);
#ifdef _OPENMP
    if (g->threads < g->options->threads) {
        fputs(g->threads < cpu_processors() ? " (OMP_THREAD_LIMIT)" : " (as many as there are processors)", stderr);
    }
#else
    fprintf(stderr, " (built without OpenMP)");
#endif
    fprintf(stderr, "\n");
    if (g->context != model->config.max_seq_len) fprintf(stderr, "  context: %d tokens\n", g->context);
    print_sampling(g);
    fprintf(stderr, "  load time: %.2f ms\n\n", 1e3 * g->load_seconds);
    print_prompt(g);
    fprintf(stderr, "\n");
}

// Says why the text is not as long as it was asked to be.
static void print_stops(const Generation* g) {
    for (int b = 0; b < g->options->samples; b++) {
        const Sample* sample = &g->samples[b];
        if (sample->stop == STOP_LENGTH) continue;
        if (g->options->samples > 1) fprintf(stderr, "sample %d ", b);
        fprintf(stderr, "stopped after %d tokens: ", sample->num_generated);
        if (sample->stop == STOP_EOT) fprintf(stderr, "<|endoftext|>\n");
        else if (sample->stop == STOP_INTERRUPTED) fprintf(stderr, "interrupted\n");
        else fprintf(stderr, "the context of %d tokens is full\n", g->context);
    }
}

void report_after(const Generation* g) {
    Figures f;
    if (!report_figures(&f, g)) return;
    fprintf(stderr, "\n");
    print_stops(g);
    fprintf(stderr, "Time for %d tokens: %.2f ms\n", f.tokens, 1e3 * g->total_seconds);
    if (f.tokens > 0) fprintf(stderr, "Per token: %.2f ms\n", 1e3 * g->total_seconds / f.tokens);
    fprintf(stderr, "\n[Speed]\n  prompt: %d tokens, %.2f ms, %.1f tokens/s\n", g->num_prompt, 1e3 * g->prompt_seconds,
            f.prompt_per_second);
    if (f.tokens > 0)
        fprintf(stderr, "  generation: %.2f ms per token, %.1f tokens/s\n", 1e3 * f.seconds_per_token,
                f.tokens_per_second);
    if (g->num_steps > 0) {
        fprintf(stderr, "  per %s: minimum %.2f, median %.2f, 95th percentile %.2f, maximum %.2f ms\n",
                g->options->samples > 1 ? "step" : "token", 1e3 * f.minimum, 1e3 * f.median, 1e3 * f.p95,
                1e3 * f.maximum);
    }
    fprintf(stderr, "  weights read per token: %.2f MB", 1e-6 * (double)f.bytes_per_token);
    if (f.bytes_per_second > 0) fprintf(stderr, ", %.2f GB/s", 1e-9 * f.bytes_per_second);
    fprintf(stderr, "\n  logits hash: %016llx\n", g->samples[0].logits_hash);
}
