#include "trace.h"

#include <math.h>

#include "sampler.h"

// |a - b|, infinite where one of them is no finite number.
static double distance(float a, float b) {
    double d = fabs((double)a - (double)b);
    return isfinite(d) ? d : INFINITY;
}

// ln of the sum of e^logit.
static double log_sum(const float* logits, int V) {
    double largest = -INFINITY, sum = 0;
    for (int v = 0; v < V; v++) largest = (double)logits[v] > largest ? (double)logits[v] : largest;
    for (int v = 0; v < V; v++) sum += exp((double)logits[v] - largest);
    return largest + log(sum);
}

// KL(p || q) = sum of p ln(p / q) for the softmax of two positions (V) each.
static double divergence(const float* p, const float* q, int V) {
    double sum_p = log_sum(p, V), sum_q = log_sum(q, V), kl = 0;
    for (int v = 0; v < V; v++) {
        double log_p = (double)p[v] - sum_p;
        kl += exp(log_p) * (log_p - ((double)q[v] - sum_q));
    }
    return isfinite(kl) ? (kl > 0 ? kl : 0) : INFINITY; // rounding can make it a little less than 0
}

// fmax(), which gcc 12 for aarch64 answers with an internal error in some loops; a NaN is never the larger one.
static double larger(double a, double b) {
    return b > a ? b : a;
}

// The largest distance of a logit (V) from the mean of them all.
static double spread(const float* logits, int V) {
    double mean = 0, largest = 0;
    for (int v = 0; v < V; v++) mean += (double)logits[v] / V;
    for (int v = 0; v < V; v++) largest = larger(largest, fabs((double)logits[v] - mean));
    return largest;
}

static void compare_logits(Difference* d, const Trace* reference, const Trace* other) {
    int V = reference->V;
    double sum = 0, scale = 0;
    for (int t = 0; t < reference->T; t++) {
        const float *a = reference->logits + (size_t)t * (size_t)V, *b = other->logits + (size_t)t * (size_t)V;
        for (int v = 0; v < V; v++) {
            double difference = distance(a[v], b[v]);
            d->largest = larger(d->largest, difference);
            sum += difference;
        }
        double kl = divergence(a, b, V);
        d->kl_mean += kl / reference->T;
        d->kl_largest = larger(d->kl_largest, kl);
        d->same_argmax += sampler_argmax(a, V) == sampler_argmax(b, V);
        scale = larger(scale, spread(a, V));
    }
    d->mean = sum / reference->T / V;
    d->relative = d->largest > 0 ? d->largest / scale : 0;
}

// A small part of the stream counts with what a layer has added to it: a layer that adds next to nothing would
// otherwise be judged by the rounding of the stream itself.
static const double STREAM_SHARE = 1.0 / 16;

// a and b (T, C), the streams after a layer; before_a and before_b those before it, or NULL.
static LayerDifference compare_layer(const float* a, const float* b, const float* before_a, const float* before_b,
                                     int T, int C) {
    LayerDifference d = {0};
    for (size_t t = 0, i = 0; t < (size_t)T; t++) {
        double apart = 0, added = 0, stream = 0;
        for (int c = 0; c < C; c++, i++) {
            d.largest = larger(d.largest, distance(a[i], b[i]));
            double from_a = before_a != NULL ? (double)before_a[i] : 0,
                   from_b = before_b != NULL ? (double)before_b[i] : 0;
            double of_a = (double)a[i] - from_a, of_b = (double)b[i] - from_b;
            apart += (of_a - of_b) * (of_a - of_b);
            added += of_a * of_a;
            stream += (double)a[i] * (double)a[i];
        }
        double scale = sqrt(added) + (before_a != NULL ? STREAM_SHARE * sqrt(stream) : 0);
        if (!(apart <= 0)) d.relative = larger(d.relative, isfinite(apart) ? sqrt(apart) / scale : INFINITY);
    }
    return d;
}

bool trace_compare(Difference* difference, const Trace* reference, const Trace* other, const double* tolerances,
                   Error* error) {
    size_t stream = (size_t)reference->T * (size_t)reference->C;
    *difference = (Difference){.first_bad = -1};
    compare_logits(difference, reference, other);
    if (reference->residuals != NULL && other->residuals != NULL) {
        size_t layers = (size_t)reference->L + 1;
        difference->layers = allocate(layers, sizeof *difference->layers, "comparison", error);
        if (difference->layers == NULL) return false;
        for (size_t l = 0; l < layers; l++) {
            const float *a = reference->residuals + l * stream, *b = other->residuals + l * stream;
            LayerDifference d =
                compare_layer(a, b, l > 0 ? a - stream : NULL, l > 0 ? b - stream : NULL, reference->T, reference->C);
            difference->layers[l] = d;
            if (difference->first_bad < 0 && !(d.relative <= tolerances[l])) difference->first_bad = (int)l;
        }
    }
    int logits = reference->L + 1;
    if (difference->first_bad < 0 && !(difference->relative <= tolerances[logits])) difference->first_bad = logits;
    return true;
}
