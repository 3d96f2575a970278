// How well a model predicts a text: --top K --all and --perplexity.
//
// The negative log likelihood of a token is -ln of the probability that the model gave it after the tokens before it;
// its mean over the text is the loss, and exp(mean) the perplexity: as unsure as if it chose among so many tokens.
//
// A text longer than the context is read in windows, as transformers' guide to perplexity does it: each begins `stride`
// tokens after the one before, and only those of its tokens are judged that no window before has judged, so that they
// have at least context - stride tokens before them.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "inspect.h"
#include "open_device.h"
#include "print.h"
#include "progress.h"
#include "weights.h"

enum { ROWS = 64 }; // positions whose logits are computed together

typedef struct {
    const Generation* g;
    TextOutput* out;
    OpenDevice device;
    float* logits; // (ROWS, V)
    TopToken* top; // (K), or NULL
    int window;    // tokens that the context holds
    int stride;
    int windows;  // that have been run
    int judged;   // tokens
    double nll;   // sum over them
    int reported; // positions printed
    Progress progress;
    // What the guide computes: the mean of each window weighted with one less than the tokens that it judges, because
    // its loss function shifts the labels by one.
    double guide_nll;
    int guide_tokens;
    double window_nll; // sum over the tokens of this window that the guide judges
    int window_judged;
} Scorer;

// ---------------------------------------------------------------------------------------------------------------------
// One position.

typedef struct {
    int id;   // the token that follows, -1 at the end of the text
    int rank; // 1: the likeliest; of equals the lower id comes first
    double nll;
} NextToken;

static NextToken judge(const float* logits, int V, int id) {
    double largest = -INFINITY, sum = 0;
    NextToken next = {.id = id, .rank = 1};
    for (int v = 0; v < V; v++) {
        if ((double)logits[v] > largest) largest = (double)logits[v];
    }
    for (int v = 0; v < V; v++) {
        sum += exp((double)logits[v] - largest);
        next.rank += logits[v] > logits[id] || (logits[v] == logits[id] && v < id);
    }
    next.nll = log(sum) + largest - (double)logits[id];
    return next;
}

static void print_token(FILE* out, const Generation* g, int id) {
    size_t size;
    const char* bytes = tokenizer_decode(g->tokenizer, id, &size);
    if (g->options->json) json_quoted(out, bytes, size);
    else print_repr(out, bytes, size);
}

static void print_row(FILE* out, const Scorer* s, int position, const NextToken* next) {
    const Generation* g = s->g;
    fprintf(out, "%d after ", position);
    print_token(out, g, g->prompt_tokens[position]);
    if (next->id >= 0) {
        fputs(": next ", out);
        print_token(out, g, next->id);
        fprintf(out, " (%d), rank %d, probability %.6f, -ln %.4f", next->id, next->rank, exp(-next->nll), next->nll);
    }
    fputc('\n', out);
    for (int k = 0; k < g->options->top; k++) {
        const TopToken* t = &s->top[k];
        fprintf(out, "%7d  %10.4f  %11.6f  ", t->id, (double)t->logit, t->probability);
        print_token(out, g, t->id);
        fputc('\n', out);
    }
}

static void print_json_row(FILE* out, const Scorer* s, int position, const NextToken* next) {
    const Generation* g = s->g;
    fprintf(out, "%s\n    {\"position\": %d, \"id\": %d, \"token\": ", s->reported == 0 ? "" : ",", position,
            g->prompt_tokens[position]);
    print_token(out, g, g->prompt_tokens[position]);
    if (next->id >= 0) {
        fprintf(out, ",\n     \"next\": {\"id\": %d, \"token\": ", next->id);
        print_token(out, g, next->id);
        fprintf(out, ", \"rank\": %d, ", next->rank);
        json_number(out, "probability", exp(-next->nll), ", ");
        json_number(out, "nll", next->nll, "}");
    }
    fputs(",\n     ", out);
    json_top(out, g->tokenizer, s->top, g->options->top);
    fputc('}', out);
}

// Judges the token after `position` by the logits (V) at it; in_guide: the guide's windows judge it too.
static bool score_position(Scorer* s, int position, const float* logits, bool in_guide, Error* error) {
    const Generation* g = s->g;
    int V = g->model.config.vocab_size;
    NextToken next = {.id = -1};
    if (!all_finite(logits, (size_t)V)) return weights_fail_damaged(&g->model, g->paths.model, error);
    if (position + 1 < g->num_prompt) {
        next = judge(logits, V, g->prompt_tokens[position + 1]);
        s->nll += next.nll;
        s->judged++;
        if (in_guide) s->window_nll += next.nll, s->window_judged++;
    }
    if (s->top == NULL) return true;
    Page page;
    if (!sampler_top(s->top, g->options->top, logits, V, error) || !page_open(&page, error)) return false;
    if (g->options->json) print_json_row(page.out, s, position, &next);
    else print_row(page.out, s, position, &next);
    s->reported++;
    return page_end(&page, s->out, error);
}

// ---------------------------------------------------------------------------------------------------------------------
// Windows.

// Runs the window [begin, end) as a context of its own as far as `last`, and scores the positions from `first` on.
static bool score_window(Scorer* s, int begin, int first, int last, int end, Error* error) {
    const Generation* g = s->g;
    size_t V = (size_t)g->model.config.vocab_size;
    int slot = 0, before = first - begin;
    TokenRun run = {.tokens = g->prompt_tokens + begin, .slots = &slot, .B = 1, .T = before, .position = 0};
    if (before > 0 && !s->device.api->forward(s->device.handle, &run, 0, NULL, error)) return false;
    for (int p = first; p < last && !s->out->is_closed; p += run.T) {
        run.tokens = g->prompt_tokens + p;
        run.T = last - p < ROWS ? last - p : ROWS;
        run.position = p - begin;
        if (!s->device.api->forward(s->device.handle, &run, run.T, s->logits, error)) return false;
        for (int t = 0; t < run.T; t++) {
            if (!score_position(s, p + t, s->logits + (size_t)t * V, p + t + 1 < end, error)) return false;
        }
        progress_add(&s->progress, (size_t)run.T);
    }
    s->windows++;
    return true;
}

static bool score_windows(Scorer* s, Error* error) {
    int n = s->g->num_prompt, scored = 0; // positions
    for (int begin = 0, end = 0; end < n && !s->out->is_closed; begin += s->stride) {
        int judged_before = end; // tokens
        end = begin + s->window < n ? begin + s->window : n;
        // The last position of a window predicts the first token of the next one, which judges it with more before it,
        // unless that starts right behind.
        int last = end == n || begin + s->stride >= end ? end : end - 1;
        s->window_nll = 0, s->window_judged = 0;
        if (!score_window(s, begin, scored, last, end, error)) return false;
        scored = last;
        int weight = end - judged_before - 1;
        if (s->window_judged > 0) s->guide_nll += s->window_nll / s->window_judged * weight;
        s->guide_tokens += weight;
    }
    return true;
}

// ---------------------------------------------------------------------------------------------------------------------

static bool print_summary(const Scorer* s, Error* error) {
    const Generation* g = s->g;
    Page page;
    if (!page_open(&page, error)) return false;
    double mean = s->judged > 0 ? s->nll / s->judged : NAN, guide = s->guide_nll / s->guide_tokens;
    bool has_windows = s->windows > 1 && s->guide_tokens > 0;
    if (g->options->json) {
        fputs(s->top != NULL ? "],\n  " : "  ", page.out);
        json_text(page.out, "model", g->paths.model);
        fprintf(page.out, "\"dtype\": \"%s\", ", dtype_names[s->device.dtype]);
        json_text(page.out, "device", s->device.api->describe(s->device.handle));
        fprintf(page.out, "\"tokens\": %d, \"judged\": %d, \"windows\": %d, \"context\": %d, \"stride\": %d, ",
                g->num_prompt, s->judged, s->windows, s->window, s->stride);
        json_number(page.out, "mean_nll", mean, ", ");
        json_number(page.out, "perplexity", exp(mean), ", ");
        json_number(page.out, "perplexity_window_means", has_windows ? exp(guide) : exp(mean), "\n}\n");
        return page_end(&page, s->out, error);
    }
    fprintf(page.out, "%smodel: %s\ntokens: %d, judged: %d, by %s weights on %s\n", s->top != NULL ? "\n" : "",
            g->paths.model, g->num_prompt, s->judged, dtype_names[s->device.dtype],
            s->device.api->describe(s->device.handle));
    if (s->windows > 1) {
        fprintf(page.out, "windows: %d of %d tokens, stride %d\n", s->windows, s->window, s->stride);
    }
    if (s->judged > 0) {
        fprintf(page.out, "mean negative log likelihood: %.6f\nperplexity: %.4f\n", mean, exp(mean));
    } else {
        fputs("one token predicts nothing: no perplexity\n", page.out);
    }
    if (has_windows) {
        fprintf(page.out, "perplexity from the means of the windows, as transformers' guide adds them up: %.4f\n",
                exp(guide));
    }
    return page_end(&page, s->out, error);
}

static bool scorer_open(Scorer* s, Error* error) {
    const Generation* g = s->g;
    size_t V = (size_t)g->model.config.vocab_size;
    DeviceOptions needs = {.max_seq_len = g->num_prompt < s->window ? g->num_prompt : s->window, .max_batch = 1};
    if (!open_device(&s->device, g, &needs, error)) return false;
    s->logits = allocate(ROWS, V * sizeof *s->logits, "logits", error);
    if (s->logits == NULL || g->options->top == 0) return s->logits != NULL;
    s->top = allocate((size_t)g->options->top, sizeof *s->top, "--top", error);
    return s->top != NULL;
}

bool score_prompt(const Generation* g, TextOutput* out, Error* error) {
    Scorer s = {.g = g, .out = out, .window = g->context};
    s.stride = g->options->stride > 0 ? g->options->stride : (g->context + 1) / 2;
    bool ok = scorer_open(&s, error);
    if (ok && g->options->json) {
        static const char start[] = "{\n", rows[] = "{\n  \"positions\": [";
        ok = s.top != NULL ? text_write(out, rows, sizeof rows - 1, error)
                           : text_write(out, start, sizeof start - 1, error);
    }
    bool is_silent = s.top == NULL && !g->options->quiet; // until the summary: positions would be printed between
    s.progress = progress_start("scoring", (size_t)g->num_prompt, is_silent);
    ok = ok && score_windows(&s, error);
    progress_end(&s.progress);
    ok = ok && print_summary(&s, error);
    close_device(&s.device);
    free(s.logits);
    free(s.top);
    return ok;
}
