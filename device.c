// What all devices share: the check of a run, and the choice of a token from logits in memory.
#include <math.h>

#include "gpt2_kernels.h"

static bool slots_ok(const TokenRun* run, int max_batch, Error* error) {
    for (int b = 0; b < run->B; b++) {
        if (run->slots[b] < 0 || run->slots[b] >= max_batch) {
            return fail(error, "sequence %d: KV cache %d is outside 0 to %d", b, run->slots[b], max_batch - 1);
        }
        for (int other = 0; other < b; other++) {
            if (run->slots[other] == run->slots[b]) {
                return fail(error, "sequences %d and %d: both use KV cache %d", other, b, run->slots[b]);
            }
        }
    }
    return true;
}

bool token_run_check(const TokenRun* run, const GPT2Model* model, int max_batch, int max_seq_len, int num_logits,
                     Error* error) {
    int V = model->config.vocab_size;
    if (run->B < 1 || run->B > max_batch || run->T < 1 || run->position < 0 || run->T > max_seq_len - run->position ||
        num_logits < 0 || num_logits > run->T) {
        return fail(error, "a run of %d x %d tokens at position %d with %d logits is outside %d x %d tokens", run->B,
                    run->T, run->position, num_logits, max_batch, max_seq_len);
    }
    for (size_t i = 0; i < (size_t)run->B * (size_t)run->T; i++) {
        if (run->tokens[i] < 0 || run->tokens[i] >= V) {
            return fail(error, "token %d is outside the vocabulary of %d", run->tokens[i], V);
        }
    }
    return slots_ok(run, max_batch, error);
}

int choice_pick(const Choice* choice, float* logits) {
    bool forbids = choice->forbidden >= 0;
    float kept = forbids ? logits[choice->forbidden] : 0;
    if (forbids) logits[choice->forbidden] = -INFINITY;
    int token = sampler_next(choice->sampler, logits, choice->text, choice->num_tokens);
    bool is_finite = isfinite(logits[token]);
    if (forbids) logits[choice->forbidden] = kept;
    return is_finite ? token : -1;
}
