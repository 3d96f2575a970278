// The sampler against its definition: a full sort and plain float64 sums.
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../sampler.h"
#include "test.h"

enum { MAX_V = 600 };

// SplitMix64, written down a second time from the paper.
static uint64_t mix(uint64_t z) {
    z ^= z >> 30;
    z *= 0xbf58476d1ce4e5b9u;
    z ^= z >> 27;
    z *= 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint64_t splitmix(uint64_t* state) {
    return mix(*state += 0x9e3779b97f4a7c15u);
}

static double uniform(uint64_t* state) {
    return (double)(splitmix(state) >> 11) / 9007199254740992.0;
}

// ---------------------------------------------------------------------------------------------------------------------
// The definition.

typedef struct {
    double logit, p;
    int id;
} Entry;

static int by_logit(const void* left, const void* right) {
    const Entry *a = left, *b = right;
    return a->logit != b->logit ? (a->logit < b->logit) - (a->logit > b->logit) : a->id - b->id;
}

static int by_id(const void* left, const void* right) {
    return ((const Entry*)left)->id - ((const Entry*)right)->id;
}

static void softmax(Entry* e, int n, double temperature) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += e[i].p = exp((e[i].logit - e[0].logit) / temperature);
    for (int i = 0; i < n; i++) e[i].p /= sum;
}

// The token that `u` of [0, 1) draws. `temperature_first` is the wrong order, for checking the check.
static int defined_next(const SamplerOptions* o, const float* logits, int V, const int* tokens, int num_tokens,
                        double u, bool temperature_first) {
    Entry e[MAX_V] = {0};
    int n = 0;
    for (int id = 0; id < V; id++) {
        float logit = logits[id];
        bool repeated = false;
        for (int i = num_tokens > REPEAT_WINDOW ? num_tokens - REPEAT_WINDOW : 0; i < num_tokens; i++) {
            repeated |= tokens[i] == id;
        }
        if (repeated) logit = logit > 0 ? logit / o->repeat_penalty : logit * o->repeat_penalty;
        if (isnan(logit) || logit == -INFINITY) continue;
        e[n++] = (Entry){temperature_first ? (double)logit / (double)o->temperature : (double)logit, 0, id};
    }
    qsort(e, (size_t)n, sizeof *e, by_logit);
    if (o->temperature == 0) return e[0].id;
    if (o->top_k > 0 && o->top_k < n) n = o->top_k;
    softmax(e, n, 1);
    double sum = 0;
    for (int i = 0; i < n && o->top_p < 1; i++) {
        sum += e[i].p;
        if (sum >= (double)o->top_p) n = i + 1;
    }
    int last = n - 1;
    while (e[last].p < (double)o->min_p * e[0].p) last--;
    n = last + 1;
    softmax(e, n, temperature_first ? 1 : (double)o->temperature);
    qsort(e, (size_t)n, sizeof *e, by_id);
    double cumulated = 0;
    for (int i = 0; i < n; i++) {
        cumulated += e[i].p;
        if (u < cumulated) return e[i].id;
    }
    return e[n - 1].id;
}

// ---------------------------------------------------------------------------------------------------------------------

// A normally distributed number, by Box and Muller's formula.
static float normal(uint64_t* state) {
    double radius = sqrt(-2 * log(1 - uniform(state)));
    return (float)(radius * cos(6.283185307179586 * uniform(state)));
}

// Random logits, some with ties, some with tokens that cannot be; at least one can.
static int random_logits(float* logits, uint64_t* state) {
    int V = 1 + (int)(splitmix(state) % MAX_V);
    bool has_ties = splitmix(state) % 3 == 0, has_holes = splitmix(state) % 4 == 0;
    float scale = (float)(0.1 + 8 * uniform(state)), offset = 40 * normal(state);
    for (int i = 0; i < V; i++) {
        float x = scale * normal(state) + offset;
        logits[i] = has_ties ? roundf(x) : x;
        if (has_holes && i > 0 && splitmix(state) % 5 == 0) logits[i] = splitmix(state) % 2 == 0 ? -INFINITY : NAN;
    }
    return V;
}

static SamplerOptions random_options(uint64_t* state) {
    SamplerOptions o = {.top_p = 1, .repeat_penalty = 1};
    if (splitmix(state) % 8 != 0) o.temperature = (float)(0.05 + 2 * uniform(state));
    if (splitmix(state) % 2 == 0) o.top_k = 1 + (int)(splitmix(state) % (2 * MAX_V));
    if (splitmix(state) % 2 == 0) o.top_p = (float)uniform(state);
    if (splitmix(state) % 2 == 0) o.min_p = (float)uniform(state);
    if (splitmix(state) % 2 == 0) o.repeat_penalty = (float)(0.5 + 2 * uniform(state));
    return o;
}

// Draws one token for each of `trials` random cases; returns how often sampler and definition differ.
static int count_differences(int trials, bool temperature_first) {
    static float logits[MAX_V];
    uint64_t state = 42;
    int tokens[100], differences = 0;
    for (int t = 0; t < trials; t++) {
        int V = random_logits(logits, &state), num_tokens = (int)(splitmix(&state) % 100);
        SamplerOptions o = random_options(&state);
        for (int i = 0; i < num_tokens; i++) tokens[i] = (int)(splitmix(&state) % (uint64_t)V);
        Sampler sampler;
        Error error;
        uint64_t seed = splitmix(&state), stream = splitmix(&state) % 4, reference = mix(mix(seed) + stream);
        if (!sampler_open(&sampler, &o, V, seed, stream, &error)) return trials;
        for (int draw = 0; draw < 3; draw++) {
            int token = sampler_next(&sampler, logits, tokens, (size_t)num_tokens);
            double u = o.temperature > 0 ? uniform(&reference) : 0;
            differences += token != defined_next(&o, logits, V, tokens, num_tokens, u, temperature_first);
        }
        sampler_close(&sampler);
    }
    return differences;
}

static void test_definition(Tests* t) {
    int trials = 3000;
    int differences = count_differences(trials, false), wrong = count_differences(trials, true);
    test_check(t, differences == 0,
               "in %d draws under random options sampler and definition choose another token %d times", 3 * trials,
               differences);
    test_check(t, wrong > trials / 20, "a definition that applies the temperature first is found out, %d times", wrong);
}

static void test_generator(Tests* t) {
    uint64_t state = 1234567; // a published vector of SplitMix64
    const uint64_t expected[] = {6457827717110365317u, 3203168211198807973u, 9817491932198370423u};
    bool same = true;
    for (int i = 0; i < 3; i++) same &= splitmix(&state) == expected[i];
    test_check(t, same, "the test's SplitMix64 gives the published numbers");

    enum { V = 512 };
    float logits[V] = {0};
    SamplerOptions o = {.temperature = 1, .top_p = 1, .repeat_penalty = 1};
    Error error;
    int agree = 0, equal_streams = 0, draws = 200;
    Sampler first, second;
    if (!test_check(t, sampler_open(&first, &o, V, 7, 0, &error) && sampler_open(&second, &o, V, 7, 1, &error),
                    "samplers open")) {
        return;
    }
    uint64_t reference = mix(mix(7) + 0);
    for (int i = 0; i < draws; i++) {
        int a = sampler_next(&first, logits, NULL, 0), b = sampler_next(&second, logits, NULL, 0);
        agree += a == (int)(uniform(&reference) * V);
        equal_streams += a == b;
    }
    sampler_close(&first);
    sampler_close(&second);
    test_check(t, agree == draws, "%d of %d draws from equal logits are SplitMix64's numbers", agree, draws);
    test_check(t, equal_streams < 5, "two streams of one seed agree in %d of %d draws", equal_streams, draws);
}

// Chi-square of `draws` draws against probabilities p (V).
static double chi_square(const SamplerOptions* o, const float* logits, const double* p, int V, int draws) {
    Sampler sampler;
    Error error;
    int counts[16] = {0};
    if (!sampler_open(&sampler, o, V, 3, 0, &error)) return INFINITY;
    for (int i = 0; i < draws; i++) counts[sampler_next(&sampler, logits, NULL, 0)]++;
    sampler_close(&sampler);
    double sum = 0;
    for (int i = 0; i < V; i++) {
        if (p[i] == 0 && counts[i] > 0) return INFINITY;
        if (p[i] > 0) sum += (counts[i] - draws * p[i]) * (counts[i] - draws * p[i]) / (draws * p[i]);
    }
    return sum;
}

static void test_frequencies(Tests* t) {
    enum { V = 8, DRAWS = 40000 };
    const float logits[V] = {1, 0.5f, -0.25f, 2, 0, 1.5f, -1, 0.75f};
    SamplerOptions o = {.temperature = 0.7f, .top_k = 6, .top_p = 1, .repeat_penalty = 1};
    double p[V], flat[V], sum = 0; // top-k leaves out tokens 2 and 6
    for (int i = 0; i < V; i++) sum += p[i] = i == 2 || i == 6 ? 0 : exp((double)logits[i] / 0.7f);
    for (int i = 0; i < V; i++) {
        p[i] /= sum;
        flat[i] = p[i] > 0 ? 1.0 / 6 : 0;
    }
    double right = chi_square(&o, logits, p, V, DRAWS), wrong = chi_square(&o, logits, flat, V, DRAWS);
    test_check(t, right < 20.5,
               "%d draws have the frequencies of the softmax: chi-square %.1f, 20.5 is the 99.9 %% limit", DRAWS,
               right); // 5 degrees of freedom
    test_check(t, wrong > 1000, "the frequencies are not those of another distribution: chi-square %.0f", wrong);
}

// The token that is chosen from `logits` under `o`, the first of a fresh sampler.
static int choose(SamplerOptions o, const float* logits, int V, const int* tokens, size_t num_tokens) {
    Sampler sampler;
    Error error;
    if (!sampler_open(&sampler, &o, V, 1, 0, &error)) return -1;
    int token = sampler_next(&sampler, logits, tokens, num_tokens);
    sampler_close(&sampler);
    return token;
}

static void test_greedy(Tests* t) {
    const float ties[] = {1, 3, 2, 3, -INFINITY}, with_nan[] = {NAN, -2, NAN, -1, NAN};
    const float none[] = {-INFINITY, -INFINITY}, nans[] = {NAN, NAN, NAN}, zeros[] = {-1, -0.0f, 0.0f};
    SamplerOptions greedy = {.top_p = 1, .repeat_penalty = 1},
                   random = {.temperature = 1, .top_p = 0.9f, .repeat_penalty = 1.1f};
    test_check(t, sampler_argmax(ties, 5) == 1, "of two equal logits the lower id is the likeliest (%d)",
               sampler_argmax(ties, 5));
    test_check(t, sampler_argmax(with_nan, 5) == 3, "a NaN is never the likeliest (%d)", sampler_argmax(with_nan, 5));
    test_check(t, sampler_argmax(zeros, 3) == 1, "-0 and 0 are equal (%d)", sampler_argmax(zeros, 3));
    test_check(t, choose(greedy, ties, 5, NULL, 0) == 1, "temperature 0 takes the likeliest");
    int a = choose(random, none, 2, NULL, 0), b = choose(random, nans, 3, NULL, 0);
    test_check(t, a >= 0 && a < 2 && b >= 0 && b < 3, "only -inf, and only NaN, still give a token (%d, %d)", a, b);
    const float one[] = {-5};
    test_check(t, choose(random, one, 1, NULL, 0) == 0 && choose(greedy, one, 1, NULL, 0) == 0,
               "a vocabulary of one token works");
}

static void test_limits(Tests* t) {
    const float logits[] = {0.1f, 0.3f, 0.3f, 0.2f}, extreme[] = {-3e38f, 3e38f, INFINITY, -INFINITY};
    SamplerOptions o = {.temperature = 1, .top_p = 1, .repeat_penalty = 1};
    o.top_k = 1;
    test_check(t, choose(o, logits, 4, NULL, 0) == 1, "top-k 1 takes the likeliest, the lower id among equals");
    o.top_k = 1000000;
    int token = choose(o, logits, 4, NULL, 0);
    test_check(t, token >= 0 && token < 4, "top-k above the vocabulary means all (%d)", token);
    o.top_k = 0;
    o.top_p = 0;
    test_check(t, choose(o, logits, 4, NULL, 0) == 1, "top-p 0 still keeps one token");
    o.top_p = 1;
    o.min_p = 1;
    test_check(t, choose(o, logits, 4, NULL, 0) == 1 || choose(o, logits, 4, NULL, 0) == 2,
               "min-p 1 keeps the likeliest and its equals");
    o.min_p = 0;
    test_check(t, choose(o, extreme, 4, NULL, 0) == 2, "an infinite logit is taken, largest floats do no harm");
    o.temperature = FLT_TRUE_MIN;
    test_check(t, choose(o, extreme, 4, NULL, 0) == 2, "the smallest temperature above 0 is all but greedy");
}

static void test_penalty(Tests* t) {
    const float positive[] = {2, 1.5f, 1}, negative[] = {-1, -1.5f, -3};
    SamplerOptions o = {.top_p = 1, .repeat_penalty = 1.6f};
    const int twice[] = {0, 0}, once[] = {0};
    int far[REPEAT_WINDOW + 1] = {0};
    for (int i = 1; i <= REPEAT_WINDOW; i++) far[i] = 2;
    test_check(t, choose(o, positive, 3, once, 1) == 1,
               "a repeated token with a logit above 0 is divided by the penalty");
    test_check(t, choose(o, negative, 3, once, 1) == 1,
               "a repeated token with a logit below 0 is multiplied by the penalty");
    const float close[] = {2, 1.1f};
    test_check(t, choose(o, close, 2, twice, 2) == 0, "a token that occurs twice is penalised once");
    test_check(t, choose(o, positive, 3, far, REPEAT_WINDOW) == 1, "token %d back is penalised", REPEAT_WINDOW);
    test_check(t, choose(o, positive, 3, far, REPEAT_WINDOW + 1) == 0, "token %d back is not", REPEAT_WINDOW + 1);
}

static void test_top(Tests* t) {
    enum { V = 300 };
    static float logits[V];
    uint64_t state = 5;
    for (int i = 0; i < V; i++) logits[i] = roundf(2 * normal(&state));
    TopToken top[V];
    Error error;
    bool ok = sampler_top(top, V, logits, V, &error), ordered = ok;
    double sum = 0;
    for (int k = 0; ok && k < V; k++) {
        sum += top[k].probability;
        ordered &= top[k].logit == logits[top[k].id];
        if (k > 0)
            ordered &=
                top[k - 1].logit > top[k].logit || (top[k - 1].logit == top[k].logit && top[k - 1].id < top[k].id);
    }
    test_check(t, ordered, "the likeliest %d tokens come in falling order, the lower id first among equals", V);
    test_check(t, fabs(sum - 1) < 1e-12, "their probabilities sum to 1 (off by %.1e)", sum - 1);
    TopToken few[5];
    ok = sampler_top(few, 5, logits, V, &error) && memcmp(few, top, sizeof few) == 0;
    test_check(t, ok, "the likeliest 5 are the first 5 of them, with the same probabilities");
    const float odd[] = {NAN, 1, -INFINITY, 1};
    ok = sampler_top(few, 4, odd, 4, &error) && few[0].id == 1 && few[1].id == 3 && few[2].id == 2 && few[3].id == 0;
    test_check(t, ok && few[0].probability == 0.5 && few[3].probability == 0,
               "-inf and NaN come last, with probability 0");
}

void test_sampler(Tests* t) {
    test_section("sampler: logits to token");
    test_generator(t);
    test_definition(t);
    test_frequencies(t);
    test_greedy(t);
    test_limits(t);
    test_penalty(t);
    test_top(t);
}
