#include "sampler.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "dtype.h"

// A token that may still be chosen. `mass` is whatever is being counted: 1 for top-k, the unnormalised probability for
// everything else. Candidates always lie in the order of their ids, so that what is drawn does not depend on how they
// were selected.
typedef struct Candidate {
    double mass;
    float logit;
    int id;
} Candidate;

// ---------------------------------------------------------------------------------------------------------------------
// The generator: SplitMix64. The state walks in steps of an odd constant, the output is the state mixed.

static const uint64_t SPLITMIX_STEP = 0x9e3779b97f4a7c15u; // 2^64 / the golden ratio

// The mixing function of SplitMix64; a bijection, so different states never give the same number.
static uint64_t splitmix_mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

// All streams walk the same circle of 2^64 states. mix(mix(seed) + stream) starts them at unrelated places of it, and
// two streams of one seed never at the same one.
static uint64_t splitmix_start(uint64_t seed, uint64_t stream) {
    return splitmix_mix(splitmix_mix(seed) + stream);
}

// The next number, uniform in [0, 1): the upper 53 bits, so that every value is an exact double.
static double splitmix_uniform(uint64_t* state) {
    *state += SPLITMIX_STEP;
    return (double)(splitmix_mix(*state) >> 11) * 0x1p-53;
}

// ---------------------------------------------------------------------------------------------------------------------
// Selecting the likeliest candidates without sorting them.

// Unsigned integers that are ordered as the floats are: of a negative float every bit is flipped, of the others the
// sign. -0 counts as 0, and a NaN is below everything.
static uint32_t order_key(float logit) {
    if (isnan(logit)) return 0;
    uint32_t bits = f32_bits(logit + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

enum { DIGIT_VALUES = 1 << 11 };

// Sums the masses of the candidates whose key has the digits found so far (`key` under the mask `known`) per value of
// their next digit, and goes down from the highest value until the sum, *above included, reaches `target`. Returns the
// digit where it does; *above becomes the mass beyond it.
static uint32_t threshold_digit(const Candidate* candidates, int n, uint32_t key, uint32_t known, int shift,
                                uint32_t highest, double target, double* above) {
    double mass[DIGIT_VALUES] = {0};
    for (int i = 0; i < n; i++) {
        uint32_t k = order_key(candidates[i].logit);
        if ((k & known) == key) mass[k >> shift & highest] += candidates[i].mass;
    }
    uint32_t digit = highest;
    while (digit > 0 && *above + mass[digit] < target) *above += mass[digit--];
    return digit;
}

// Keeps the fewest likeliest candidates whose masses sum to `target` (or all, when they do not reach it), the lower id
// first among equals. Returns how many are kept; at least one when any has mass. They stay in the order of their ids.
//
// This is a radix search for the key of the least likely one to keep: one digit of the key after another, 11, 11 and
// 10 bits, and what is below the digits found is dropped at once. It takes O(V) for any distribution, where sorting V
// logits would take many times as long.
static int keep_likeliest(Candidate* candidates, int n, double target) {
    static const int shifts[] = {21, 10, 0};
    uint32_t key = 0, known = 0;    // the digits found, and the mask of their bits
    double above = 0;               // mass of the candidates that are certainly kept
    target = fmax(target, DBL_MIN); // a target of 0 still takes the likeliest
    for (int pass = 0; pass < 3; pass++) {
        uint32_t highest = shifts[pass] > 0 ? DIGIT_VALUES - 1 : (1u << 10) - 1;
        uint32_t digit = threshold_digit(candidates, n, key, known, shifts[pass], highest, target, &above);
        key |= digit << shifts[pass];
        known |= highest << shifts[pass];
        int kept = 0;
        for (int i = 0; i < n; i++) {
            if ((order_key(candidates[i].logit) & known) >= key) candidates[kept++] = candidates[i];
        }
        n = kept;
    }
    int kept = 0;
    for (int i = 0; i < n; i++) { // of those with the very logit of the threshold, as many as are needed
        if (order_key(candidates[i].logit) == key) {
            if (above >= target) continue;
            above += candidates[i].mass;
        }
        candidates[kept++] = candidates[i];
    }
    return kept;
}

// ---------------------------------------------------------------------------------------------------------------------
// The steps of sampler_next, in their order. Each returns how many candidates are left.

// A repeated token is made less likely: a logit above 0 is divided by R, one below 0 multiplied (Keskar et al. 2019).
// However often a token occurs in the window, it is penalised once. candidates (V), candidate i is token i.
static void penalise_repeats(const Sampler* sampler, const int* tokens, size_t num_tokens) {
    size_t first = num_tokens > REPEAT_WINDOW ? num_tokens - REPEAT_WINDOW : 0;
    float R = sampler->options.repeat_penalty;
    for (size_t i = first; i < num_tokens; i++) {
        bool is_seen = false;
        for (size_t j = first; j < i; j++) is_seen |= tokens[j] == tokens[i];
        if (is_seen) continue;
        Candidate* c = &sampler->candidates[tokens[i]];
        c->logit = c->logit > 0 ? c->logit / R : c->logit * R;
    }
}

// All tokens but those that cannot be: a NaN comes from a damaged model, and -inf is how a token is forbidden.
static int drop_impossible(Candidate* candidates, int n) {
    int kept = 0;
    for (int i = 0; i < n; i++) {
        if (isnan(candidates[i].logit) || candidates[i].logit == -INFINITY) continue;
        candidates[kept] = candidates[i];
        if (candidates[kept].logit > FLT_MAX) candidates[kept].logit = FLT_MAX; // inf - inf has no exponential
        kept++;
    }
    return kept;
}

static float largest_logit(const Candidate* candidates, int n) {
    float largest = -INFINITY;
    for (int i = 0; i < n; i++) {
        if (candidates[i].logit > largest) largest = candidates[i].logit;
    }
    return largest;
}

// Sets each mass to exp((logit - largest) / temperature), the softmax without its division, and returns their sum.
static double softmax_masses(Candidate* candidates, int n, double temperature) {
    double largest = (double)largest_logit(candidates, n), sum = 0;
    for (int i = 0; i < n; i++) {
        candidates[i].mass = exp(((double)candidates[i].logit - largest) / temperature);
        sum += candidates[i].mass;
    }
    return sum;
}

static int keep_top_k(Candidate* candidates, int n, int top_k) {
    if (top_k == 0 || top_k >= n) return n;
    for (int i = 0; i < n; i++) candidates[i].mass = 1;
    return keep_likeliest(candidates, n, top_k);
}

static int keep_top_p(Candidate* candidates, int n, float top_p) {
    if (top_p >= 1) return n;
    double sum = softmax_masses(candidates, n, 1);
    return keep_likeliest(candidates, n, (double)top_p * sum);
}

// p >= P * p_max is, in logits, logit >= largest + log P.
static int keep_min_p(Candidate* candidates, int n, float min_p) {
    if (min_p <= 0) return n;
    double least = (double)largest_logit(candidates, n) + log((double)min_p);
    int kept = 0;
    for (int i = 0; i < n; i++) {
        if ((double)candidates[i].logit >= least) candidates[kept++] = candidates[i];
    }
    return kept;
}

// The candidate in whose share of the whole mass the number `uniform` of [0, 1) falls.
static int draw(Candidate* candidates, int n, double temperature, double uniform) {
    double point = uniform * softmax_masses(candidates, n, temperature), sum = 0;
    int last = 0;
    for (int i = 0; i < n; i++) {
        if (candidates[i].mass == 0) continue;
        sum += candidates[i].mass;
        last = i; // rounding may leave the point at the very end
        if (point < sum) break;
    }
    return candidates[last].id;
}

static int likeliest(const Candidate* candidates, int n) {
    int best = 0;
    for (int i = 1; i < n; i++) {
        if (candidates[i].logit > candidates[best].logit) best = i;
    }
    return candidates[best].id;
}

// ---------------------------------------------------------------------------------------------------------------------

bool sampler_open(Sampler* sampler, const SamplerOptions* options, int V, uint64_t seed, uint64_t stream,
                  Error* error) {
    *sampler = (Sampler){.options = *options, .state = splitmix_start(seed, stream), .V = V};
    sampler->candidates = allocate((size_t)V, sizeof *sampler->candidates, "sampler", error);
    return sampler->candidates != NULL;
}

void sampler_close(Sampler* sampler) {
    free(sampler->candidates);
    sampler->candidates = NULL;
}

double sampler_uniform(Sampler* sampler) {
    return splitmix_uniform(&sampler->state);
}

int sampler_next(Sampler* sampler, const float* logits, const int* tokens, size_t num_tokens) {
    const SamplerOptions* o = &sampler->options;
    Candidate* candidates = sampler->candidates;
    double uniform = o->temperature > 0 ? sampler_uniform(sampler) : 0;
    bool has_penalty = o->repeat_penalty != 1;
    if (o->temperature <= 0 && !has_penalty) return sampler_argmax(logits, sampler->V);

    for (int i = 0; i < sampler->V; i++) candidates[i] = (Candidate){0, logits[i], i};
    if (has_penalty) penalise_repeats(sampler, tokens, num_tokens);
    int n = drop_impossible(candidates, sampler->V);
    if (n == 0) return sampler_argmax(logits, sampler->V); // nothing is possible: not random, and not a crash
    if (o->temperature <= 0) return likeliest(candidates, n);
    n = keep_top_k(candidates, n, o->top_k);
    n = keep_top_p(candidates, n, o->top_p);
    n = keep_min_p(candidates, n, o->min_p);
    return draw(candidates, n, (double)o->temperature, uniform);
}

int sampler_argmax(const float* logits, int V) {
    int best = 0;
    while (best < V - 1 && isnan(logits[best])) best++;
    for (int i = best + 1; i < V; i++) {
        if (logits[i] > logits[best]) best = i;
    }
    return best;
}

static int by_falling_logit(const void* left, const void* right) {
    const Candidate *a = left, *b = right;
    uint32_t x = order_key(a->logit), y = order_key(b->logit);
    if (x != y) return x > y ? -1 : 1;
    return a->id - b->id;
}

bool sampler_top(TopToken* out, int K, const float* logits, int V, Error* error) {
    Candidate* candidates = allocate((size_t)V, sizeof *candidates, "the likeliest tokens", error);
    if (candidates == NULL) return false;
    for (int i = 0; i < V; i++) candidates[i] = (Candidate){0, logits[i], i};
    int n = drop_impossible(candidates, V);
    double largest = (double)largest_logit(candidates, n), sum = softmax_masses(candidates, n, 1);

    for (int i = 0; i < V; i++) candidates[i] = (Candidate){1, logits[i], i};
    n = keep_likeliest(candidates, V, K);
    qsort(candidates, (size_t)n, sizeof *candidates, by_falling_logit);
    for (int i = 0; i < n; i++) {
        double logit = fmin((double)candidates[i].logit, FLT_MAX); // as drop_impossible() has it
        bool is_possible = !isnan(candidates[i].logit) && candidates[i].logit != -INFINITY;
        double probability = is_possible ? exp(logit - largest) / sum : 0;
        out[i] = (TopToken){candidates[i].id, candidates[i].logit, probability};
    }
    free(candidates);
    return true;
}
