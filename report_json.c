#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "print.h"
#include "report.h"

static void print_model(FILE* out, const Generation* g) {
    const GPT2Config* c = &g->model.config;
    fputs("  \"model\": {", out);
    json_text(out, "path", g->paths.model);
    json_text(out, "tokenizer", g->paths.tokenizer);
    fprintf(out, "\"bundled\": %s, ", g->paths.is_bundled ? "true" : "false");
    fprintf(out, "\"dtype\": \"%s\", \"file_dtype\": \"%s\"},\n", dtype_names[g->device_dtype],
            dtype_names[g->model.file_dtype]);
    fprintf(out,
            "  \"config\": {\"max_seq_len\": %d, \"vocab_size\": %d, \"num_layers\": %d, \"num_heads\": %d, "
            "\"channels\": %d, \"total_params\": %zu},\n",
            c->max_seq_len, c->vocab_size, c->num_layers, c->num_heads, c->channels, g->model.num_parameters);
}

static void print_settings(FILE* out, const Generation* g) {
    const SamplerOptions* s = &g->options->sampler;
    fputs("  ", out);
    json_text(out, "device", g->device);
    fprintf(out, "\"threads\": %d, \"context\": %d, \"seed\": %llu,\n  \"sampling\": {", g->threads, g->context,
            (unsigned long long)g->options->seed);
    json_number(out, "temp", (double)s->temperature, ", ");
    fprintf(out, "\"top_k\": %d, ", s->top_k);
    json_number(out, "top_p", (double)s->top_p, ", ");
    json_number(out, "min_p", (double)s->min_p, ", ");
    json_number(out, "repeat_penalty", (double)s->repeat_penalty, "},\n");
}

void json_top(FILE* out, const Tokenizer* tokenizer, const TopToken* top, int n) {
    fputs("\"top\": [", out);
    for (int k = 0; k < n; k++) {
        size_t size;
        const char* bytes = tokenizer_decode(tokenizer, top[k].id, &size);
        fprintf(out, "%s{\"id\": %d, ", k == 0 ? "" : ", ", top[k].id);
        json_number(out, "logit", (double)top[k].logit, ", ");
        json_number(out, "probability", top[k].probability, ", \"token\": ");
        json_quoted(out, bytes, size);
        fputc('}', out);
    }
    fputc(']', out);
}

static void print_top(FILE* out, const Generation* g) {
    if (g->top == NULL) return;
    fputs("  ", out);
    json_top(out, g->tokenizer, g->top, g->options->top);
    fputs(",\n", out);
}

static bool print_samples(FILE* out, const Generation* g) {
    fputs("  \"samples\": [", out);
    for (int b = 0; b < g->options->samples; b++) {
        const Sample* sample = &g->samples[b];
        const int* generated = sample->tokens + g->num_prompt;
        size_t length;
        char* text = generation_text(g, generated, sample->num_generated, &length);
        if (text == NULL) return false;
        fprintf(out, "%s\n    {\"text\": ", b == 0 ? "" : ",");
        json_quoted(out, text, length);
        fputs(", ", out);
        json_ids(out, "tokens", generated, sample->num_generated);
        fprintf(out, ", \"stop_reason\": \"%s\", \"logits_hash\": \"%016llx\"}", stop_names[sample->stop],
                sample->logits_hash);
        free(text);
    }
    fputs("],\n", out);
    return true;
}

static bool print_timings(FILE* out, const Generation* g) {
    Figures f;
    if (!report_figures(&f, g)) return false;
    fprintf(out, "  \"timings\": {\"tokens\": %d, \"steps\": %d, ", f.tokens, g->num_steps);
    json_number(out, "load_ms", 1e3 * g->load_seconds, ", ");
    json_number(out, "prompt_ms", 1e3 * g->prompt_seconds, ", ");
    json_number(out, "total_ms", 1e3 * g->total_seconds, ", ");
    json_number(out, "prompt_tokens_per_second", f.prompt_per_second, ", ");
    json_number(out, "tokens_per_second", f.tokens_per_second, ", ");
    json_number(out, "per_token_ms", f.tokens > 0 ? 1e3 * g->total_seconds / f.tokens : 0, ", ");
    json_number(out, "generation_per_token_ms", 1e3 * f.seconds_per_token, ",\n    \"step_ms\": {");
    json_number(out, "minimum", 1e3 * f.minimum, ", ");
    json_number(out, "median", 1e3 * f.median, ", ");
    json_number(out, "p95", 1e3 * f.p95, ", ");
    json_number(out, "maximum", 1e3 * f.maximum, "}, ");
    fprintf(out, "\"bytes_per_token\": %zu, ", f.bytes_per_token);
    json_number(out, "gb_per_second", 1e-9 * f.bytes_per_second, ",\n    \"steps_ms\": [");
    for (int i = 0; i < g->num_steps; i++) fprintf(out, "%s%.6g", i == 0 ? "" : ", ", 1e3 * g->step_seconds[i]);
    fputs("]}\n", out);
    return true;
}

bool report_json(const Generation* g, TextOutput* out, Error* error) {
    Page page;
    if (!page_open(&page, error)) return false;
    FILE* stream = page.out;
    fputs("{\n  \"version\": \"" GPT2_VERSION "\",\n", stream);
    print_model(stream, g);
    print_settings(stream, g);
    fputs("  \"prompt\": ", stream);
    json_quoted(stream, g->prompt.text, g->prompt.length);
    fputs(",\n  ", stream);
    json_ids(stream, "prompt_tokens", g->prompt_tokens, g->num_prompt);
    fputs(",\n", stream);
    print_top(stream, g);
    bool ok = print_samples(stream, g) && print_timings(stream, g);
    fputs("}\n", stream);
    if (ok) return page_end(&page, out, error);
    page_drop(&page);
    return fail(error, "--json: no memory for the report");
}
