#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "report.h"
#include "utf8.h"

// One string. What JSON (RFC 8259) forbids in a string is escaped, what is not UTF-8 becomes U+FFFD, one for each byte.
static void print_string(FILE* out, const char* bytes, size_t n) {
    const unsigned char* s = (const unsigned char*)bytes;
    fputc('"', out);
    for (size_t i = 0; i < n;) {
        int length = utf8_length(s + i, n - i);
        if (length <= 0) fputs("\xef\xbf\xbd", out);
        else if (s[i] == '"' || s[i] == '\\') fprintf(out, "\\%c", s[i]);
        else if (s[i] == '\n') fputs("\\n", out);
        else if (s[i] < 0x20 || s[i] == 0x7f) fprintf(out, "\\u%04x", s[i]);
        else fwrite(s + i, 1, (size_t)length, out);
        i += length > 0 ? (size_t)length : 1;
    }
    fputc('"', out);
}

static void print_text(FILE* out, const char* key, const char* text) {
    fprintf(out, "\"%s\": ", key);
    print_string(out, text, strlen(text));
    fputs(", ", out);
}

// A number in as few digits as tell it from every other float, or null for what JSON has no number for.
static void print_number(FILE* out, const char* key, double value, const char* end) {
    char digits[32] = "null";
    for (int precision = 6; isfinite(value) && precision <= 9; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (strtof(digits, NULL) == (float)value) break;
    }
    fprintf(out, "\"%s\": %s%s", key, digits, end);
}

static void print_ids(FILE* out, const char* key, const int* tokens, int n) {
    fprintf(out, "\"%s\": [", key);
    for (int i = 0; i < n; i++) fprintf(out, i == 0 ? "%d" : ", %d", tokens[i]);
    fputs("]", out);
}

static void print_model(FILE* out, const Generation* g) {
    const GPT2Config* c = &g->model.config;
    fputs("  \"model\": {", out);
    print_text(out, "path", g->paths.model);
    print_text(out, "tokenizer", g->paths.tokenizer);
    fprintf(out, "\"bundled\": %s, ", g->paths.is_bundled ? "true" : "false");
    fprintf(out, "\"dtype\": \"%s\", \"file_dtype\": \"%s\"},\n", dtype_names[g->model.dtype],
            dtype_names[g->model.file_dtype]);
    fprintf(out,
            "  \"config\": {\"max_seq_len\": %d, \"vocab_size\": %d, \"num_layers\": %d, \"num_heads\": %d, "
            "\"channels\": %d, \"total_params\": %zu},\n",
            c->max_seq_len, c->vocab_size, c->num_layers, c->num_heads, c->channels, g->model.num_parameters);
}

static void print_settings(FILE* out, const Generation* g) {
    const SamplerOptions* s = &g->options->sampler;
    fputs("  ", out);
    print_text(out, "device", g->device);
    fprintf(out, "\"threads\": %d, \"context\": %d, \"seed\": %llu,\n  \"sampling\": {", g->threads, g->context,
            (unsigned long long)g->options->seed);
    print_number(out, "temp", (double)s->temperature, ", ");
    fprintf(out, "\"top_k\": %d, ", s->top_k);
    print_number(out, "top_p", (double)s->top_p, ", ");
    print_number(out, "min_p", (double)s->min_p, ", ");
    print_number(out, "repeat_penalty", (double)s->repeat_penalty, "},\n");
}

static void print_top(FILE* out, const Generation* g) {
    if (g->top == NULL) return;
    fputs("  \"top\": [", out);
    for (int k = 0; k < g->options->top; k++) {
        const TopToken* t = &g->top[k];
        size_t size;
        const char* bytes = tokenizer_decode(g->tokenizer, t->id, &size);
        fprintf(out, "%s\n    {\"id\": %d, ", k == 0 ? "" : ",", t->id);
        print_number(out, "logit", (double)t->logit, ", ");
        print_number(out, "probability", t->probability, ", \"token\": ");
        print_string(out, bytes, size);
        fputc('}', out);
    }
    fputs("],\n", out);
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
        print_string(out, text, length);
        fputs(", ", out);
        print_ids(out, "tokens", generated, sample->num_generated);
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
    print_number(out, "load_ms", 1e3 * g->load_seconds, ", ");
    print_number(out, "prompt_ms", 1e3 * g->prompt_seconds, ", ");
    print_number(out, "total_ms", 1e3 * g->total_seconds, ", ");
    print_number(out, "prompt_tokens_per_second", f.prompt_per_second, ", ");
    print_number(out, "tokens_per_second", f.tokens_per_second, ", ");
    print_number(out, "per_token_ms", f.tokens > 0 ? 1e3 * g->total_seconds / f.tokens : 0, ", ");
    print_number(out, "generation_per_token_ms", 1e3 * f.seconds_per_token, ",\n    \"step_ms\": {");
    print_number(out, "minimum", 1e3 * f.minimum, ", ");
    print_number(out, "median", 1e3 * f.median, ", ");
    print_number(out, "p95", 1e3 * f.p95, ", ");
    print_number(out, "maximum", 1e3 * f.maximum, "}, ");
    fprintf(out, "\"bytes_per_token\": %zu, ", f.bytes_per_token);
    print_number(out, "gb_per_second", 1e-9 * f.bytes_per_second, "}\n");
    return true;
}

bool report_json(const Generation* g, TextOutput* out, Error* error) {
    char* text = NULL;
    size_t length;
    FILE* stream = open_memstream(&text, &length);
    if (stream == NULL) return fail(error, "--json: no memory for the report");
    fputs("{\n  \"version\": \"" GPT2_VERSION "\",\n", stream);
    print_model(stream, g);
    print_settings(stream, g);
    fputs("  \"prompt\": ", stream);
    print_string(stream, g->prompt.text, g->prompt.length);
    fputs(",\n  ", stream);
    print_ids(stream, "prompt_tokens", g->prompt_tokens, g->num_prompt);
    fputs(",\n", stream);
    print_top(stream, g);
    bool ok = print_samples(stream, g) && print_timings(stream, g);
    fputs("}\n", stream);
    if (fclose(stream) != 0 || !ok) {
        free(text);
        return fail(error, "--json: no memory for the report");
    }
    ok = text_write(out, text, length, error);
    free(text);
    return ok;
}
