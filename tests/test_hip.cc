// The GPU device, kernel by kernel and as a whole. The file takes in gpt2_kernels.hip itself, so that kernels can be
// launched by themselves, and is built in as many ways: by g++ with the host harness (make test, make test-hip-san), by
// nvcc or hipcc for a real card (make test-gpu).
#include "../gpt2_kernels.hip"

extern "C" {
#include "../checkpoint.h"
#include "../tokenizer.h"
}
#include "reference.h"
#include "test.h"

#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

typedef std::vector<float> Floats;
typedef std::vector<double> Doubles;

// ---------------------------------------------------------------------------------------------------------------------
// Tools

// SplitMix64, and numbers from it: reference.c has the same, but what is tested should not draw from its state.
struct Random {
    uint64_t state;
    uint64_t bits() {
        uint64_t z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }
    int below(int n) { return (int)(bits() % (uint64_t)n); }
    float uniform() { return (float)(bits() >> 40) * 0x1p-23f - 1; } // in [-1, 1)
    Floats floats(size_t n, float scale) {
        Floats out(n);
        for (size_t i = 0; i < n; i++) out[i] = scale * uniform();
        return out;
    }
    std::vector<int> ints(size_t n, int limit) {
        std::vector<int> out(n);
        for (size_t i = 0; i < n; i++) out[i] = below(limit);
        return out;
    }
};

static const double UNEQUAL = 1e300; // a difference that no bound lets pass

// The largest difference, relative to the largest of `truth`.
static double difference(const float* found, const double* truth, size_t n) {
    double worst = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        double error = fabs((double)found[i] - truth[i]);
        if (!(error <= worst)) worst = error == error ? error : UNEQUAL; // a NaN is as wrong as can be
        largest = fmax(largest, fabs(truth[i]));
    }
    return worst / fmax(largest, 1e-30);
}

// Memory on the card, freed at the end of the scope. Every test stops at the first call that fails.
static void need(hipError_t status, const char* what) {
    if (status == hipSuccess) return;
    fprintf(stderr, "test_hip: %s: %s\n", what, hipGetErrorString(status));
    exit(1);
}

template <class T> struct Card {
    T* data;
    size_t n;
    explicit Card(const std::vector<T>& values) : data(NULL), n(values.size()) {
        need(hipMalloc((void**)&data, n * sizeof(T)), "hipMalloc");
        need(hipMemcpy(data, values.data(), n * sizeof(T), hipMemcpyHostToDevice), "hipMemcpy");
    }
    ~Card() { (void)hipFree(data); }
    std::vector<T> read() const {
        std::vector<T> values(n);
        need(hipGetLastError(), "kernel");
        need(hipMemcpy(values.data(), data, n * sizeof(T), hipMemcpyDeviceToHost), "hipMemcpy");
        return values;
    }
    Card(const Card&) = delete;
    Card& operator=(const Card&) = delete;
};

static int padded(int n) {
    return round_up(n, ROW_ALIGN);
}

// rows (rows, C) -> (rows, padded C), zeros behind.
static Floats pad_rows(const Floats& in, int rows, int C) {
    Floats out((size_t)rows * (size_t)padded(C), 0.0f);
    for (int r = 0; r < rows; r++) {
        for (int c = 0; c < C; c++) out[(size_t)(r * padded(C) + c)] = in[(size_t)(r * C + c)];
    }
    return out;
}

// A random matrix (rows, C) in a format: as the card wants it, and as exact floats.
struct RandomMatrix {
    std::vector<char> data;
    std::vector<uint16_t> scales;
    Floats exact; // (rows, C)
    RandomMatrix(Random* random, DType dtype, int rows, int C) : exact((size_t)rows * (size_t)C) {
        size_t stride = (size_t)padded(C), row_bytes = stride * dtype_size(dtype), blocks = stride / Q8_BLOCK;
        data.assign((size_t)rows * row_bytes, 0);
        scales.assign((size_t)rows * blocks, 0);
        for (size_t r = 0; r < (size_t)rows; r++) {
            Floats row = random->floats((size_t)C, 1);
            row_from_f32(&data[r * row_bytes], &scales[r * blocks], row.data(), dtype, (size_t)C);
            Tensor tensor = {dtype, &data[r * row_bytes], &scales[r * blocks], NULL, NULL, NULL};
            gpt2_matrix_row(&exact[r * (size_t)C], &tensor, 0, (size_t)C);
        }
    }
};

// ---------------------------------------------------------------------------------------------------------------------
// Kernels by themselves, against float64

static double layernorm_difference(Random* random, int C) {
    const int rows = 5, count = 2, pitch = 3, first = 1; // rows 1, 2, 4, 5, 7 of the input
    Floats in = random->floats((size_t)(8 * C), 3), weight = random->floats((size_t)C, 2),
           bias = random->floats((size_t)C, 1);
    Card<float> card_in(pad_rows(in, 8, C)), card_weight(weight), card_bias(bias);
    Card<float> out(Floats((size_t)(rows * padded(C)), 0.0f));
    Activation activation = {out.data, DTYPE_F32};
    hipLaunchKernelGGL(layernorm, dim3(rows), dim3(THREADS), 0, NULL, activation, card_in.data, card_weight.data,
                       card_bias.data, C, padded(C), count, pitch, first);
    Doubles truth((size_t)(rows * padded(C)), 0.0);
    for (int r = 0; r < rows; r++) {
        const float* x = &in[(size_t)((r / count * pitch + first + r % count) * C)];
        double mean = 0, variance = 0;
        for (int c = 0; c < C; c++) mean += (double)x[c] / C;
        for (int c = 0; c < C; c++) variance += ((double)x[c] - mean) * ((double)x[c] - mean) / C;
        for (int c = 0; c < C; c++) {
            truth[(size_t)(r * padded(C) + c)] =
                ((double)x[c] - mean) / sqrt(variance + 1e-5) * (double)weight[(size_t)c] + (double)bias[(size_t)c];
        }
    }
    return difference(out.read().data(), truth.data(), truth.size());
}

static double embed_difference(Random* random, DType dtype, int C) {
    const int B = 2, T = 3, V = 11, position = 4;
    RandomMatrix wte(random, dtype, V, C), wpe(random, dtype, position + T, C);
    std::vector<int> tokens = random->ints((size_t)(B * T), V), step(1, position);
    tokens[0] = V - 1;
    Card<char> wte_data(wte.data), wpe_data(wpe.data);
    Card<uint16_t> wte_scales(wte.scales), wpe_scales(wpe.scales);
    Card<int> card_tokens(tokens), card_step(step);
    Card<float> out(Floats((size_t)(B * T * padded(C)), 7.0f));
    Matrix wte_card = {wte_data.data, wte_scales.data}, wpe_card = {wpe_data.data, wpe_scales.data};
    switch (dtype) {
    case DTYPE_F32:
        hipLaunchKernelGGL((embed<DTYPE_F32>), dim3(B * T), dim3(THREADS), 0, NULL, out.data, wte_card, wpe_card,
                           card_step.data, card_tokens.data, T, padded(C));
        break;
    case DTYPE_BF16:
        hipLaunchKernelGGL((embed<DTYPE_BF16>), dim3(B * T), dim3(THREADS), 0, NULL, out.data, wte_card, wpe_card,
                           card_step.data, card_tokens.data, T, padded(C));
        break;
    case DTYPE_F16:
        hipLaunchKernelGGL((embed<DTYPE_F16>), dim3(B * T), dim3(THREADS), 0, NULL, out.data, wte_card, wpe_card,
                           card_step.data, card_tokens.data, T, padded(C));
        break;
    default:
        hipLaunchKernelGGL((embed<DTYPE_Q8>), dim3(B * T), dim3(THREADS), 0, NULL, out.data, wte_card, wpe_card,
                           card_step.data, card_tokens.data, T, padded(C));
        break;
    }
    Doubles truth((size_t)(B * T * padded(C)), 0.0);
    for (int m = 0; m < B * T; m++) {
        for (int c = 0; c < C; c++) {
            truth[(size_t)(m * padded(C) + c)] = (double)wte.exact[(size_t)(tokens[(size_t)m] * C + c)] +
                                                 (double)wpe.exact[(size_t)((position + m % T) * C + c)];
        }
    }
    return difference(out.read().data(), truth.data(), truth.size());
}

__global__ void round_to_half(uint16_t* out, const float* in, int n) {
    for (int i = (int)threadIdx.x; i < n; i += THREADS) out[i] = float_to_half(in[i]);
}

// How many floats does the card not round as dtype.c does? All halves, their neighbours, the points between two, and
// numbers of any size.
static int wrongly_rounded(Random* random) {
    Floats in;
    for (unsigned half = 0; half < 65536; half += half % 1024 == 5 ? 1000 : 1) { // the ends of every binade
        float f = f16_to_f32((uint16_t)half), above = f16_to_f32((uint16_t)(half + 1));
        for (float x : {f, nextafterf(f, 1e9f), nextafterf(f, -1e9f), (f + above) / 2}) in.push_back(x);
    }
    for (int i = 0; i < 4000; i++) in.push_back(f32_from_bits((uint32_t)random->bits()));
    Card<float> card_in(in);
    Card<uint16_t> out(std::vector<uint16_t>(in.size(), 0));
    hipLaunchKernelGGL(round_to_half, dim3(1), dim3(THREADS), 0, NULL, out.data, card_in.data, (int)in.size());
    std::vector<uint16_t> halves = out.read();
    int wrong = 0;
    for (size_t i = 0; i < in.size(); i++) {
        wrong += in[i] == in[i] ? halves[i] != f32_to_f16(in[i]) : !((halves[i] & 0x7fff) > 0x7c00);
    }
    return wrong;
}

static double exact_gelu(double x) {
    return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

// prefill_matmul in one of the ways that its results go.
static double matmul_difference(Random* random, DType dtype, int rows, int C, int OC, OutputKind kind) {
    RandomMatrix weight(random, dtype, OC, C);
    Floats in = random->floats((size_t)(rows * C), 1), bias = random->floats((size_t)OC, 1);
    Floats before = random->floats((size_t)(rows * OC), 1);
    Card<char> data(weight.data);
    Card<uint16_t> scales(weight.scales);
    Card<float> card_in(pad_rows(in, rows, C)), card_bias(bias), out(before);
    Device device;
    memset((void*)&device, 0, sizeof device);
    Matrix matrix = {data.data, scales.data};
    Output output = plain_output(kind, out.data, OC);
    Activation activation = {card_in.data, DTYPE_F32};
    switch (dtype) {
    case DTYPE_F32:
        launch_matmul<DTYPE_F32>(&device, output, activation, matrix, card_bias.data, rows, padded(C), OC);
        break;
    case DTYPE_BF16:
        launch_matmul<DTYPE_BF16>(&device, output, activation, matrix, card_bias.data, rows, padded(C), OC);
        break;
    case DTYPE_F16:
        launch_matmul<DTYPE_F16>(&device, output, activation, matrix, card_bias.data, rows, padded(C), OC);
        break;
    default: launch_matmul<DTYPE_Q8>(&device, output, activation, matrix, card_bias.data, rows, padded(C), OC); break;
    }
    Doubles truth((size_t)(rows * OC));
    for (int m = 0; m < rows; m++) {
        for (int o = 0; o < OC; o++) {
            double sum = (double)bias[(size_t)o];
            for (int c = 0; c < C; c++)
                sum += (double)in[(size_t)(m * C + c)] * (double)weight.exact[(size_t)(o * C + c)];
            if (kind == OUTPUT_GELU) sum = exact_gelu(sum);
            truth[(size_t)(m * OC + o)] = kind == OUTPUT_ADD ? sum + (double)before[(size_t)(m * OC + o)] : sum;
        }
    }
    return difference(out.read().data(), truth.data(), truth.size());
}

// A row as LayerNorm leaves it, in float64.
static Doubles exact_layernorm(const float* x, const float* weight, const float* bias, int C) {
    double mean = 0, variance = 0;
    Doubles out((size_t)C);
    for (int c = 0; c < C; c++) mean += (double)x[c] / C;
    for (int c = 0; c < C; c++) variance += ((double)x[c] - mean) * ((double)x[c] - mean) / C;
    for (int c = 0; c < C; c++)
        out[(size_t)c] = ((double)x[c] - mean) / sqrt(variance + 1e-5) * (double)weight[c] + (double)bias[c];
    return out;
}

// One stage of a decode step on random rows: FC and HEAD begin with a LayerNorm, FCPROJ adds up slices.
static double stage_difference(Random* random, DType dtype, int rows, int C, Stage stage) {
    int K = stage == STAGE_FCPROJ ? 4 * C : C, OC = stage == STAGE_FC ? 4 * C : stage == STAGE_HEAD ? 67 : C;
    RandomMatrix weight(random, dtype, OC, K);
    Floats in = random->floats((size_t)(rows * K), 1), bias = random->floats((size_t)OC, 1);
    Floats x = random->floats((size_t)(rows * C), 3), ln_weight = random->floats((size_t)C, 2),
           ln_bias = random->floats((size_t)C, 1);
    Card<char> data(weight.data);
    Card<uint16_t> scales(weight.scales);
    Card<float> card_x(pad_rows(x, rows, C)), card_bias(bias), card_weight(ln_weight), card_ln_bias(ln_bias);
    Card<float> hidden(stage == STAGE_FCPROJ ? pad_rows(in, rows, K) : Floats((size_t)(rows * padded(4 * C)), 7.0f));
    Card<float> logits(Floats((size_t)(rows * OC), 7.0f));
    Device device;
    Decode decode;
    Error error;
    HeadRows head = {rows, rows, 0};
    memset((void*)&device, 0, sizeof device), memset((void*)&decode, 0, sizeof decode);
    device.options.dtype = dtype, device.compute_units = 2;
    decode.heads.C = C, decode.heads.T = 1, decode.rows = rows, decode.V = OC;
    decode.stride = padded(C), decode.hidden_stride = padded(4 * C);
    decode.matrices[stage] = {data.data, scales.data}, decode.biases[stage] = card_bias.data;
    decode.ln_weights[stage] = card_weight.data, decode.ln_biases[stage] = card_ln_bias.data;
    decode.flow.x = decode.flow.middle = card_x.data, decode.flow.hidden = hidden.data, decode.logits = logits.data;
    if (!enqueue_stage(&device, decode, stage, 0, head, &error)) return UNEQUAL;
    Floats out = stage == STAGE_FC ? hidden.read() : stage == STAGE_HEAD ? logits.read() : card_x.read();
    int stride = stage == STAGE_FC ? padded(4 * C) : stage == STAGE_HEAD ? OC : padded(C);
    Floats found;
    Doubles truth;
    for (int m = 0; m < rows; m++) {
        Doubles normed = exact_layernorm(&x[(size_t)(m * C)], ln_weight.data(), ln_bias.data(), C);
        for (int o = 0; o < OC; o++) {
            double sum = stage == STAGE_HEAD ? 0 : (double)bias[(size_t)o];
            for (int k = 0; k < K; k++) {
                double a = stage == STAGE_FCPROJ ? (double)in[(size_t)(m * K + k)] : normed[(size_t)k];
                sum += a * (double)weight.exact[(size_t)(o * K + k)];
            }
            if (stage == STAGE_FCPROJ) sum += (double)x[(size_t)(m * C + o)];
            truth.push_back(stage == STAGE_FC ? exact_gelu(sum) : sum);
            found.push_back(out[(size_t)(m * stride + o)]);
        }
    }
    return difference(found.data(), truth.data(), truth.size());
}

// What a matrix instruction gets of x, and the largest share of x that this loses.
static float rounded(float x, DType dtype) {
    return dtype == DTYPE_F16 ? f16_to_f32(f32_to_f16(x)) : bf16_to_f32(f32_to_bf16(x));
}
static double rounding(DType dtype) {
    return dtype == DTYPE_F16 ? 0x1p-11 : 0x1p-8 / (1 + 0x1p-8); // of 8 bits, less than half of the last
}

// How matrix_matmul did, in the worst of its outputs.
struct MatrixVerdict {
    double computed; // relative to the largest: the difference from the product of what it was given
    double
        rounded; // in bounds: the difference from the product before rounding, bound = rounding x the sum of |in · weight|
    bool is_untouched; // what lies between the rows of its output
    bool is_same;      // every tile size gives the same bits
};

static int lanes_of_card; // that a matrix instruction takes, as the card answered; 0: it has none

// Those that an instruction of Shape takes. Of a real card only the card knows: hipcc's host code is one for all targets.
template <class Shape> static int matrix_lanes() {
#ifdef HIP_HOST_RUNTIME_H
    return Shape::LANES;
#else
    return lanes_of_card;
#endif
}

// One product in the tiles of SIZE. Returns the (rows, OC + 3) outputs.
template <class Shape, int SIZE>
static Floats run_matrix_matmul(DType dtype, const Output& output, const uint16_t* in, Matrix weight, const float* bias,
                                int rows, int stride, int OC) {
    Device device;
    memset((void*)&device, 0, sizeof device);
    device.matrix_lanes = matrix_lanes<Shape>();
    if (dtype == DTYPE_BF16) launch_tiles<Shape, DTYPE_BF16, SIZE>(&device, output, in, weight, bias, rows, stride, OC);
    else if (dtype == DTYPE_F16)
        launch_tiles<Shape, DTYPE_F16, SIZE>(&device, output, in, weight, bias, rows, stride, OC);
    else launch_tiles<Shape, DTYPE_Q8, SIZE>(&device, output, in, weight, bias, rows, stride, OC);
    need(hipGetLastError(), "matrix_matmul");
    size_t n = (size_t)rows * (size_t)output.stride;
    bool is_wide = output.kind != OUTPUT_GELU;
    std::vector<char> bytes(n * (is_wide ? 4 : 2));
    need(hipMemcpy(bytes.data(), is_wide ? output.out : output.hidden.data, bytes.size(), hipMemcpyDeviceToHost),
         "hipMemcpy");
    Floats out(n);
    row_to_f32(out.data(), bytes.data(), is_wide ? DTYPE_F32 : (DType)output.hidden.format, n);
    return out;
}

template <class Shape>
static MatrixVerdict judge_matrix_matmul(Random* random, DType dtype, int rows, int C, int OC, OutputKind kind) {
    const int stride = OC + 3;
    const float CANARY = 77;
    DType format = (DType)matrix_format(dtype);
    RandomMatrix weight(random, dtype, OC, C);
    Floats in = random->floats((size_t)(rows * C), 1), bias = random->floats((size_t)OC, 1);
    Floats before((size_t)(rows * stride), kind == OUTPUT_ADD ? 0.5f : NAN), wide = pad_rows(in, rows, C);
    std::vector<uint16_t> narrow(wide.size()), hidden(before.size());
    row_from_f32(narrow.data(), NULL, wide.data(), format, wide.size());
    for (int m = 0; m < rows; m++) {
        for (int o = OC; o < stride; o++) before[(size_t)(m * stride + o)] = CANARY;
    }
    row_from_f32(hidden.data(), NULL, before.data(), format, before.size());
    Card<char> data(weight.data);
    Card<uint16_t> scales(weight.scales), card_in(narrow);
    Card<float> card_bias(bias);
    Matrix matrix = {data.data, scales.data};
    Floats outs[3];
    for (int i = 0; i < 3; i++) {
        Card<float> out(before);
        Card<uint16_t> card_hidden(hidden);
        Output output = plain_output(kind, out.data, stride);
        output.hidden.data = card_hidden.data, output.hidden.format = format;
        outs[i] = i == 0   ? run_matrix_matmul<Shape, 128>(dtype, output, card_in.data, matrix, card_bias.data, rows,
                                                         padded(C), OC)
                  : i == 1 ? run_matrix_matmul<Shape, 64>(dtype, output, card_in.data, matrix, card_bias.data, rows,
                                                          padded(C), OC)
                           : run_matrix_matmul<Shape, 32>(dtype, output, card_in.data, matrix, card_bias.data, rows,
                                                          padded(C), OC);
    }
    MatrixVerdict verdict = {0, 0, true, outs[0] == outs[1] && outs[1] == outs[2]};
    double largest = 0, worst = 0;
    for (int m = 0; m < rows; m++) {
        for (int o = 0; o < stride; o++) {
            double found = (double)outs[0][(size_t)(m * stride + o)];
            if (o >= OC) {
                verdict.is_untouched &= found == (double)rounded(CANARY, format);
                continue;
            }
            double exact = (double)bias[(size_t)o], given = exact, magnitude = 0;
            for (int c = 0; c < C; c++) {
                double x = (double)in[(size_t)(m * C + c)], w = (double)weight.exact[(size_t)(o * C + c)];
                exact += x * w, given += (double)rounded((float)x, format) * w, magnitude += fabs(x * w);
            }
            double bound = rounding(format) * magnitude + 1e-6;
            if (kind == OUTPUT_GELU) { // its slope is below 1.13; the result is rounded as well
                exact = exact_gelu(exact), given = exact_gelu(given);
                bound = 1.13 * bound + rounding(format) * (fabs(exact) + 1.13 * bound);
                given = fabs(found - given) <= rounding(format) * fabs(given) * 1.001 + 1e-6 ? found : given;
            }
            if (kind == OUTPUT_ADD) exact += 0.5, given += 0.5;
            worst = fmax(worst, found == found ? fabs(found - given) : UNEQUAL);
            verdict.rounded = fmax(verdict.rounded, found == found ? fabs(found - exact) / bound : UNEQUAL);
            largest = fmax(largest, fabs(given));
        }
    }
    verdict.computed = worst / largest;
    return verdict;
}

// Attention over random caches beside matrices of the format, for B sequences in crossed slots: the queries of T tokens
// behind `before` others, of which `first` belong to the chunk of the queries. What lies in the caches behind the last
// token is NaN.
struct RandomAttention {
    DType dtype;
    int B, position, stride;
    Heads heads;
    Floats q, k, v; // as exact as the card has them
    std::vector<char> k_bytes, v_bytes;
    std::vector<int> step;

    RandomAttention(Random* random, DType format, int sequences, int T, int before, int first, int NH, int hs)
        : dtype(format), B(sequences), position(before), stride(padded(NH * hs)),
          heads({NH * hs, NH, hs, round_up(hs, HEAD_ALIGN), before + T + 3, T, first}), step(1, before - first) {
        DType cache_dtype = (DType)cache_format(dtype);
        const int batch = B + 1;
        size_t row = (size_t)heads.head_stride, cache = (size_t)(batch * NH * heads.maxT) * row;
        q = random->floats((size_t)(B * T * NH) * row, 2), k = random->floats(cache, 2), v = random->floats(cache, 1);
        for (size_t i = 0; i < q.size(); i++) q[i] = (int)(i % row) < hs ? q[i] : 0;
        for (size_t i = 0; i < k.size(); i++) {
            if ((int)(i % row) >= hs) k[i] = v[i] = 0;
            else if ((int)(i / row) % heads.maxT >= position + T) k[i] = v[i] = NAN;
        }
        k_bytes.resize(cache * dtype_size(cache_dtype)), v_bytes.resize(k_bytes.size());
        row_from_f32(k_bytes.data(), NULL, k.data(), cache_dtype, cache);
        row_to_f32(k.data(), k_bytes.data(), cache_dtype, cache);
        row_from_f32(v_bytes.data(), NULL, v.data(), cache_dtype, cache);
        row_to_f32(v.data(), v_bytes.data(), cache_dtype, cache);
        for (int b = 0; b < B; b++) step.push_back(batch - 1 - b);
    }

    size_t outputs() const { return (size_t)(B * heads.T * stride); }

    // out (B * T, stride), and what it would be if all values were positive.
    void truth(Doubles* out, Doubles* magnitude) const {
        size_t row = (size_t)heads.head_stride;
        int T = heads.T, hs = heads.hs;
        out->assign(outputs(), 0), magnitude->assign(outputs(), 0);
        for (int m = 0; m < B * T; m++) {
            for (int h = 0; h < heads.NH; h++) {
                size_t head = (size_t)((step[(size_t)(1 + m / T)] * heads.NH + h) * heads.maxT) * row;
                int num_keys = position + m % T + 1;
                Doubles weight((size_t)num_keys);
                double total = 0;
                for (int s = 0; s < num_keys; s++) {
                    double score = 0;
                    for (int i = 0; i < hs; i++)
                        score += (double)q[(size_t)(m * heads.NH + h) * row + (size_t)i] *
                                 (double)k[head + (size_t)s * row + (size_t)i];
                    total += weight[(size_t)s] = exp(score / sqrt((double)hs));
                }
                for (int s = 0; s < num_keys; s++) {
                    for (int i = 0; i < hs; i++) {
                        size_t at = (size_t)(m * stride + h * hs + i);
                        double part = weight[(size_t)s] / total * (double)v[head + (size_t)s * row + (size_t)i];
                        (*out)[at] += part, (*magnitude)[at] += fabs(part);
                    }
                }
            }
        }
    }
};

// out (hs): the softmaxes of `num_ranges` ranges of keys, (2 + head_stride) each, put together in float64.
static void put_together(float* out, const float* parts, int num_ranges, int part, int hs) {
    double largest = -INFINITY, total = 0;
    for (int r = 0; r < num_ranges; r++) largest = fmax(largest, (double)parts[r * part]);
    Doubles sums((size_t)hs, 0.0);
    for (int r = 0; r < num_ranges; r++) {
        double factor = exp((double)parts[r * part] - largest);
        total += factor * (double)parts[r * part + 1];
        for (int i = 0; i < hs; i++) sums[(size_t)i] += factor * (double)parts[r * part + 2 + i];
    }
    for (int i = 0; i < hs; i++) out[i] = (float)(sums[(size_t)i] / total);
}

static double attention_difference(Random* random, DType dtype, int B, int T, int position, int NH, int hs,
                                   bool is_decode) {
    RandomAttention a(random, dtype, B, T, position, is_decode ? 0 : position / 3, NH, hs);
    int ranges = (a.heads.maxT + RANGE - 1) / RANGE, part = 2 + a.heads.head_stride;
    Card<float> card_q(a.q), out(Floats(a.outputs(), 0.0f)), parts(Floats((size_t)(B * T * NH * ranges * part), 7.0f));
    Card<char> card_k(a.k_bytes), card_v(a.v_bytes);
    Card<int> card_step(a.step);
    Device device;
    Decode decode;
    Error error;
    memset((void*)&device, 0, sizeof device), memset((void*)&decode, 0, sizeof decode);
    device.att = out.data, device.step = card_step.data, device.stride = a.stride;
    device.options.dtype = dtype;
    decode.heads = a.heads, decode.rows = B * T, decode.ranges = ranges, decode.flow.q = card_q.data;
    decode.flow.partials = parts.data, decode.keys = card_k.data, decode.values = card_v.data;
    if (!(is_decode ? enqueue_attention(&device, decode, 0, &error)
                    : attend(&device, a.heads, card_q.data, card_k.data, card_v.data, B, &error)))
        return UNEQUAL;
    Floats found = out.read(), ranges_found = parts.read();
    for (int i = 0; is_decode && i < B * T * NH; i++) {
        put_together(&found[(size_t)(i / NH * a.stride + i % NH * hs)], &ranges_found[(size_t)(i * ranges * part)],
                     (position + i / NH % T) / RANGE + 1, part, hs);
    }
    Doubles truth, magnitude;
    a.truth(&truth, &magnitude);
    return difference(found.data(), truth.data(), truth.size());
}

// matrix_attention, in bounds: the weights and the outputs are rounded, and expf and the sums are f32's.
template <class Shape>
static double matrix_attention_bounds(Random* random, DType dtype, int B, int T, int position, int NH, int hs) {
    RandomAttention a(random, dtype, B, T, position, position / 2, NH, hs);
    DType format = (DType)matrix_format(dtype);
    for (float& x : a.q) x = rounded(x, DTYPE_F16);
    const uint16_t CANARY = 0x1234;
    Card<float> card_q(a.q);
    Card<uint16_t> out(std::vector<uint16_t>(a.outputs(), CANARY));
    Card<char> card_k(a.k_bytes), card_v(a.v_bytes);
    Card<int> card_step(a.step);
    Device device;
    memset((void*)&device, 0, sizeof device);
    device.rounded_att = out.data, device.step = card_step.data, device.stride = a.stride;
    device.options.dtype = dtype, device.matrix_lanes = matrix_lanes<Shape>();
    float score_scale = 1 / sqrtf((float)hs);
    if (hs <= 64)
        launch_matrix_attention<Shape, 64>(&device, a.heads, card_q.data, card_k.data, card_v.data, B, score_scale);
    else launch_matrix_attention<Shape, 128>(&device, a.heads, card_q.data, card_k.data, card_v.data, B, score_scale);
    std::vector<uint16_t> found = out.read();
    Doubles truth, magnitude;
    a.truth(&truth, &magnitude);
    double worst = 0;
    for (size_t i = 0; i < found.size(); i++) {
        if ((int)(i % (size_t)a.stride) >= NH * hs) {
            if (found[i] != CANARY) return UNEQUAL;
            continue;
        }
        float value;
        row_to_f32(&value, &found[i], format, 1);
        double bound = rounding(DTYPE_F16) * magnitude[i] + rounding(format) * fabs(truth[i]) + 4e-6;
        worst = fmax(worst, value == value ? fabs((double)value - truth[i]) / bound : UNEQUAL);
    }
    return worst;
}

template <class Shape> static void check_matrix_attention(Tests* t, Random* random, const char* name) {
    const int cases[][4] = {{9, 0, 2, 64},    {35, 5, 2, 15},  {70, 130, 1, 64},
                            {17, 40, 1, 128}, {64, 31, 1, 80}, {65, 0, 1, 32}};
    double worst = 0;
    for (int i = 0; i < 6; i++) {
        worst = fmax(worst, matrix_attention_bounds<Shape>(random, i % 2 == 0 ? DTYPE_F16 : DTYPE_BF16, i < 2 ? 2 : 1,
                                                           cases[i][0], cases[i][1], cases[i][2], cases[i][3]));
    }
    test_check(t, worst <= 1,
               "matrix_attention by %s, heads of 15 to 128, 9 to 70 queries, up to 200 keys: %.2f of what rounding "
               "may lose against float64; nothing else is written",
               name, worst);
}

template <class Shape> static void check_matrix_shape(Tests* t, Random* random, const char* name) {
    const int sizes[][3] = {{9, 15, 9}, {17, 64, 67}, {63, 96, 33}, {64, 45, 128}, {65, 160, 24}, {130, 32, 131}};
    const DType dtypes[] = {DTYPE_BF16, DTYPE_F16, DTYPE_Q8};
    const OutputKind kinds[] = {OUTPUT_STORE, OUTPUT_GELU, OUTPUT_ADD};
    check_matrix_attention<Shape>(t, random, name);
    for (int d = 0; d < 3; d++) {
        MatrixVerdict all = {0, 0, true, true};
        for (int s = d; s < 6; s += d == 0 ? 1 : 2) { // bf16 takes them all
            MatrixVerdict one = judge_matrix_matmul<Shape>(random, dtypes[d], sizes[s][0], sizes[s][1], sizes[s][2],
                                                           kinds[(s + d) % 3]);
            all.computed = fmax(all.computed, one.computed), all.rounded = fmax(all.rounded, one.rounded);
            all.is_untouched &= one.is_untouched, all.is_same &= one.is_same;
        }
        test_check(
            t, all.computed < 2e-5 && all.rounded <= 1 && all.is_untouched && all.is_same,
            "matrix_matmul in %s by %s, 9 to 130 rows, 15 to 160 columns, 9 to 131 outputs: the product of the "
            "rounded numbers within 2e-5: %.1e; at most %.2f of what rounding may lose; nothing else is written; "
            "the same bits in tiles of 128, 64 and 32",
            dtype_names[dtypes[d]], name, all.computed, all.rounded);
    }
}

// Does the card say that it has matrix instructions? Its answer is kept.
static bool has_matrix_instructions() {
    Card<int> answer(std::vector<int>(PROBE_ANSWERS, 0));
    hipLaunchKernelGGL(probe, dim3(1), dim3(THREADS), 0, NULL, answer.data);
    lanes_of_card = answer.read()[1];
    return lanes_of_card > 0;
}

static void check_matrix_shapes(Tests* t, Random* random) {
    if (!has_matrix_instructions()) return test_skip(t, "matrix instructions: the card has none");
#ifdef HIP_HOST_RUNTIME_H
    if (hip_host::machine_code() == nullptr) {
        if (hip_host::state().wave_size == 64) return check_matrix_shape<Mfma>(t, random, "MFMA");
        check_matrix_shape<Wmma11>(t, random, "gfx11's WMMA");
        check_matrix_shape<Wmma12>(t, random, "gfx12's WMMA");
        return check_matrix_shape<MmaSync>(t, random, "mma.sync");
    }
    const std::string& chip = hip_host::machine_code()->chip();
    if (hip_host::state().wave_size == 64) return check_matrix_shape<Mfma>(t, random, chip.c_str());
    if (chip.compare(0, 5, "gfx11") == 0) return check_matrix_shape<Wmma11>(t, random, chip.c_str());
    check_matrix_shape<Wmma12>(t, random, chip.c_str());
#else
    check_matrix_shape<NativeShape>(t, random, "the card's own instruction");
#endif
}

static void check_kernels(Tests* t, Random* random) {
    double worst = 0;
    const int widths[] = {1, 15, 45, 256, 768, 1600};
    for (int C : widths) worst = fmax(worst, layernorm_difference(random, C));
    test_check(t, worst < 2e-6, "layernorm of 1 to 1600 channels is float64's within 2e-6 of the largest: %.1e", worst);
    worst = 0;
    for (int d = 0; d < NUM_GPU_DTYPES; d++) {
        for (int C : {15, 45, 768}) worst = fmax(worst, embed_difference(random, (DType)d, C));
    }
    test_check(t, worst < 1e-6, "embed adds the right rows of f32, bf16, f16 and q8, with zeros behind them: %.1e",
               worst);

    test_check(t, wrongly_rounded(random) == 0, "floats are rounded to f16 as dtype.c does: all of them");

    const OutputKind kinds[] = {OUTPUT_STORE, OUTPUT_GELU, OUTPUT_ADD};
    for (int d = 0; d < NUM_GPU_DTYPES; d++) {
        const int tile_rows[] = {9, 64, 70}, sizes[][2] = {{15, 9}, {45, 67}, {160, 131}, {768, 24}};
        double decode = 0, prefill = 0;
        const Stage stages[] = {STAGE_FC, STAGE_FCPROJ, STAGE_HEAD};
        for (int i = 0; i < 3; i++) {
            for (int rows : {1, 3, 9})
                decode = fmax(decode, stage_difference(random, (DType)d, rows, i == rows % 3 ? 15 : 45, stages[i]));
            decode = fmax(decode, stage_difference(random, (DType)d, 1 << (d + i) % 4, 160, stages[i]));
        }
        for (int i = 0; i < 3; i++) {
            for (int s = 0; s < 4; s++)
                prefill = fmax(prefill, matmul_difference(random, (DType)d, tile_rows[i], sizes[s][0], sizes[s][1],
                                                          kinds[(i + s) % 3]));
        }
        test_check(
            t, decode < 2e-6,
            "decode_stage in %s, fc, fcproj and head of 1 to 9 rows, 15 to 160 channels: within 2e-6 of float64: %.1e",
            dtype_names[d], decode);
        test_check(t, prefill < 2e-6,
                   "prefill_matmul in %s, 9 to 70 rows, 15 to 768 columns: within 2e-6 of float64: %.1e",
                   dtype_names[d], prefill);
    }
    const int head_sizes[] = {15, 32, 64, 80, 128, 200};
    double decode = 0, prefill = 0;
    for (int hs : head_sizes) {
        DType dtype = hs % 128 == 0 ? DTYPE_F32 : DTYPE_BF16, other = hs % 128 == 0 ? DTYPE_Q8 : DTYPE_F32;
        decode = fmax(decode, attention_difference(random, dtype, 2, 3, 30, 2, hs, true));
        decode = fmax(decode, attention_difference(random, other, 1, 1, hs == 64 ? 600 : 0, 1, hs, true));
        prefill = fmax(prefill, attention_difference(random, dtype, 2, 35, 5, 2, hs, false));
    }
    prefill = fmax(prefill, attention_difference(random, DTYPE_F32, 1, 9, 0, 1, 64, false));
    test_check(t, decode < 2e-6, "decode_attention, heads of 15 to 200, 1 to 601 keys: within 2e-6 of float64: %.1e",
               decode);
    test_check(t, prefill < 2e-6,
               "prefill_attention, heads of 15 to 200, 9 and 35 queries: within 2e-6 of float64: %.1e", prefill);
}

// ---------------------------------------------------------------------------------------------------------------------
// The device as a whole

// The harness can be a card of several sizes.
#ifdef HIP_HOST_RUNTIME_H
enum { NUM_SIZES = 3 };
static void set_card_size(int i) {
    const int sizes[NUM_SIZES] = {hip_host::COMPUTE_UNITS, 1, hip_host::COMPUTE_UNITS - 1};
    hip_host::state().compute_units = sizes[i];
}
#else
enum { NUM_SIZES = 1 };
static void set_card_size(int) {}
#endif

static DeviceOptions device_options(const GPT2Model* model, int max_batch, DType dtype) {
    DeviceOptions options;
    memset(&options, 0, sizeof options);
    options.max_seq_len = model->config.max_seq_len, options.max_batch = max_batch;
    options.num_threads = 1, options.dtype = dtype;
    options.kernels = route_names[ROUTE_LAUNCHES];
    return options;
}

static Device* open_device(Tests* t, const GPT2Model* model, const DeviceOptions* options) {
    Error error;
    Device* d = gpt2_hip.open(model, options, &error);
    if (d == NULL) test_check(t, false, "the device opens: %s", error.text);
    return d;
}

// The CPU beside it, with its own kernels.
static Device* open_cpu(const GPT2Model* model, DeviceOptions options, Error* error) {
    options.kernels = NULL;
    return gpt2_cpu.open(model, &options, error);
}

// forward with one sequence in `slot`; a failure leaves NaNs.
static Floats run_tokens(Device* d, const std::vector<int>& tokens, int from, int to, int slot, int num_logits, int V) {
    Error error;
    Floats logits((size_t)(num_logits * V), NAN);
    TokenRun run = {&tokens[(size_t)from], &slot, 1, to - from, from};
    if (!gpt2_hip.forward(d, &run, num_logits, logits.data(), &error)) fprintf(stderr, "test_hip: %s\n", error.text);
    return logits;
}

// Have the last logits of a context the bits that they have among all of it, `whole` (T, V)? One in one chunk, and seven in
// several chunks, of which the first ones have none of them.
static bool last_have_same_bits(Device* d, const std::vector<int>& tokens, const Floats& whole, int T, int V) {
    int chunk = d->max_rows;
    Floats last = run_tokens(d, tokens, 0, T, 0, 1, V);
    d->max_rows = 19;
    Floats last_seven = run_tokens(d, tokens, 0, T, 0, min(7, T), V);
    d->max_rows = chunk;
    return std::equal(last.begin(), last.end(), whole.end() - V) &&
           std::equal(last_seven.begin(), last_seven.end(), whole.end() - (long)last_seven.size());
}

// Does one shape in one format agree with float64: the whole context at once, in short runs, and token by token?
static void check_shape(Tests* t, const GPT2Config& config, DType dtype) {
    GPT2Model model;
    Error error;
    int T = config.max_seq_len, V = config.vocab_size, half = T - T / 4;
    if (!reference_model(&model, &config, dtype, 1, &error)) return (void)test_check(t, false, "%s", error.text);
    std::vector<int> tokens = Random{7}.ints((size_t)T, V);
    Doubles truth((size_t)(T * V));
    bool ok = reference_forward(truth.data(), &model, tokens.data(), T, &error);
    DeviceOptions options = device_options(&model, 1, dtype);
    Device* d = ok ? open_device(t, &model, &options) : NULL;
    if (d != NULL) {
        Floats whole = run_tokens(d, tokens, 0, T, 0, T, V), again = run_tokens(d, tokens, 0, T, 0, T, V), steps;
        for (int at = half, n; at < T; at += n) {
            n = at % 3 == 0 ? min(T - at, 5) : 1; // rewound, then in runs of one and of five
            Floats logits = run_tokens(d, tokens, at, at + n, 0, n, V);
            steps.insert(steps.end(), logits.begin(), logits.end());
        }
        bool is_prompt = T > DECODE_TOKENS, last_are_same = !is_prompt || last_have_same_bits(d, tokens, whole, T, V);
        d->matrix_lanes = 0;
        Floats plain = run_tokens(d, tokens, 0, T, 0, T, V);
        last_are_same &= !is_prompt || last_have_same_bits(d, tokens, plain, T, V);
        double prefill = difference(whole.data(), truth.data(), truth.size());
        double decode = difference(steps.data(), &truth[(size_t)(half * V)], steps.size());
        double unrounded = difference(plain.data(), truth.data(), truth.size());
        double bound = dtype == DTYPE_F32 ? 1e-5 : 1e-3; // a cache in 16 bits rounds
        double rounded_bound = dtype == DTYPE_F32 ? 1e-5 : dtype == DTYPE_BF16 ? 2e-2 : 5e-3; // and so do activations
        test_check(t,
                   prefill < rounded_bound && decode < rounded_bound && unrounded < bound && whole == again &&
                       last_are_same,
                   "C %d, %d heads of %d, V %d, %d layers, T %d, %s: logits within %.0e of float64, prefill %.1e, "
                   "decode behind it %.1e; within %.0e without matrix instructions: %.1e; twice the same bits, and "
                   "asked for alone the last ones have them too",
                   config.channels, config.num_heads, config.channels / config.num_heads, V, config.num_layers, T,
                   dtype_names[dtype], rounded_bound, prefill, decode, bound, unrounded);
    }
    gpt2_hip.close(d);
    reference_model_free(&model);
}

static void check_shapes(Tests* t) {
    const GPT2Config shapes[] = {
        {40, 301, 307, 2, 3, 45},  // heads of 15, nothing a multiple of anything
        {36, 97, 128, 2, 2, 64},   // heads of 32
        {33, 211, 211, 1, 2, 160}, // heads of 80
        {36, 131, 160, 2, 1, 128}, // one head of 128
        {12, 77, 80, 1, 1, 200},   // one head of 200, two slices
        {1, 50, 50, 1, 2, 16},     // a context of one token
        {6, 31, 32, 1, 12, 768},   // GPT-2 124M's rows, which take no question
    };
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (int d = 0; d < NUM_GPU_DTYPES; d++) {
            if (s == 0 || (size_t)d == s % NUM_GPU_DTYPES) check_shape(t, shapes[s], (DType)d);
        }
    }
}

// Batches, slots, chunks, copies: all of it must give the very bits that one sequence alone gives.
static void check_equalities(Tests* t) {
    const GPT2Config config = {180, 53, 64, 2, 2, 24};
    const int B = 3, T = 175, V = config.vocab_size;
    GPT2Model model;
    Error error;
    if (!reference_model(&model, &config, DTYPE_BF16, 3, &error)) return (void)test_check(t, false, "%s", error.text);
    DeviceOptions options = device_options(&model, B + 1, DTYPE_BF16);
    Device* d = open_device(t, &model, &options);
    if (d == NULL) return reference_model_free(&model);
    std::vector<int> tokens = Random{5}.ints((size_t)(B * T), V);
    const int slots[] = {2, 0, 3};
    Floats together((size_t)(B * 2 * V)), alone, steps((size_t)(B * V)), step_alone;
    TokenRun run = {tokens.data(), slots, B, T, 0};
    bool ok = gpt2_hip.forward(d, &run, 2, together.data(), &error); // 525 rows: more than a chunk
    std::vector<int> last(tokens.begin(), tokens.begin() + B);
    TokenRun step = {last.data(), slots, B, 1, T};
    ok = ok && gpt2_hip.forward(d, &step, 1, steps.data(), &error);
    for (int b = 0; ok && b < B; b++) {
        std::vector<int> mine(tokens.begin() + b * T, tokens.begin() + (b + 1) * T);
        mine.push_back(last[(size_t)b]);
        Floats logits = run_tokens(d, mine, 0, T, 1, 2, V), next = run_tokens(d, mine, T, T + 1, 1, 1, V);
        alone.insert(alone.end(), logits.begin(), logits.end());
        step_alone.insert(step_alone.end(), next.begin(), next.end());
    }
    test_check(t, ok && together == alone,
               "3 sequences of 175 tokens in crossed slots, in 2 chunks: the bits of each alone");
    test_check(t, ok && steps == step_alone, "a step of 3 sequences: the bits of each alone");

    // slot 1 holds sequence 2 and its step; slot 0 gets its first 100 tokens and goes on by itself
    std::vector<int> mine(tokens.begin() + 2 * T, tokens.begin() + 3 * T);
    Floats original = run_tokens(d, mine, 100, 120, 1, 1, V);
    ok = ok && gpt2_hip.copy_cache(d, 0, 1, 100, &error);
    test_check(t, ok && original == run_tokens(d, mine, 100, 120, 0, 1, V),
               "a copied cache continues with the same bits");
    test_check(t, original != run_tokens(d, mine, 101, 121, 0, 1, V), "and another position gives others");

    TokenRun bad = {tokens.data(), slots, 1, T, 20};
    const int same[] = {1, 1, 2}, outside[] = {V};
    bool refused = !gpt2_hip.forward(d, &bad, 1, alone.data(), &error);
    bad = {tokens.data(), same, B, 1, 0}, refused &= !gpt2_hip.forward(d, &bad, 1, alone.data(), &error);
    bad = {outside, slots, 1, 1, 0}, refused &= !gpt2_hip.forward(d, &bad, 1, alone.data(), &error);
    test_check(t, refused, "a run past the context, a slot used twice and a token outside the vocabulary are refused");
    gpt2_hip.close(d);
    reference_model_free(&model);
}

// What B sequences come to by one route: the tokens picked behind `depth` others, greedily and then otherwise, and the
// logits they were picked from.
static Floats route_results(Tests* t, const GPT2Model* model, DType dtype, int B, int depth, const char* route) {
    const SamplerOptions ways[] = {{0, 0, 1, 0, 1}, {0.8f, 20, 0.9f, 0, 1.3f}};
    int V = model->config.vocab_size;
    DeviceOptions options = device_options(model, B, dtype);
    options.kernels = route;
    Device* d = open_device(t, model, &options);
    Floats results, logits((size_t)V);
    Error error;
    std::vector<int> tokens = Random{21}.ints((size_t)(B * depth), V), slots, next((size_t)B, 1);
    for (int b = 0; b < B; b++) slots.push_back(B - 1 - b);
    TokenRun prompt = {tokens.data(), slots.data(), B, depth, 0};
    bool ok = d != NULL && gpt2_hip.forward(d, &prompt, 0, NULL, &error);
    for (int i = 0; ok && i < 4; i++) {
        std::vector<Sampler> samplers((size_t)B);
        std::vector<Choice> choices;
        for (int b = 0; b < B; b++) {
            ok = ok && sampler_open(&samplers[(size_t)b], &ways[i / 2], V, 4, (uint64_t)b, &error);
            choices.push_back({&samplers[(size_t)b], tokens.data() + b * depth, (size_t)depth, 2 * b});
        }
        std::vector<int> given = next;
        TokenRun step = {given.data(), slots.data(), B, 1, depth + i};
        ok = ok && gpt2_hip.next(d, &step, choices.data(), next.data(), &error);
        for (int b = 0; ok && b < B; b++) {
            ok = gpt2_hip.fetch_logits(d, b, logits.data(), &error);
            results.insert(results.end(), logits.begin(), logits.end());
            results.push_back((float)next[(size_t)b]);
        }
        for (Sampler& sampler : samplers) sampler_close(&sampler);
    }
    if (!ok || strcmp(route_names[d->route], route) != 0) results.push_back(NAN); // which equals nothing
    gpt2_hip.close(d);
    return results;
}

// All routes give the same bits, on a card of any size, in every format and for any number of sequences, also where a
// second range of keys begins.
static const GPT2Config TWO_RANGES = {RANGE + 4, 77, 80, 2, 3, 45};
static const GPT2Config WIDE = {6, 31, 32, 1, 13, 832}; // a row is more than what is read together
static const GPT2Config NARROW = {8, 5, 5, 2, 1, 3};    // a card has blocks to spare in every stage but fc

static void check_routes(Tests* t, const GPT2Config& config, DType dtype, const std::vector<int>& batches,
                         const std::vector<int>& depths) {
    GPT2Model model;
    Error error;
    int compared = 0, same = 0;
    if (!reference_model(&model, &config, dtype, 5, &error)) return (void)test_check(t, false, "%s", error.text);
    for (int B : batches) {
        for (int depth : depths) {
            Floats truth = route_results(t, &model, dtype, B, depth, route_names[ROUTE_LAUNCHES]);
            compared++, same += route_results(t, &model, dtype, B, depth, route_names[ROUTE_GRAPH]) == truth;
            for (int i = 0; i < (B > PERSISTENT_ROWS ? 1 : depth > RANGE / 2 ? 2 : NUM_SIZES); i++) {
                set_card_size(i);
                compared++, same += route_results(t, &model, dtype, B, depth, route_names[ROUTE_PERSISTENT]) == truth;
            }
            set_card_size(0);
        }
    }
    test_check(
        t, same == compared && compared > 0,
        "graph and persistent kernel give the bits of the launches in %s, %d channels, up to %d sequences and %d "
        "tokens: %d of %d",
        dtype_names[dtype], config.channels, batches.back(), depths.back() + 4, same, compared);
    reference_model_free(&model);
}

// At the first wave size in every format; at the second, which shares all but the shuffles, in one.
static void check_all_routes(Tests* t) {
#ifdef HIP_HOST_RUNTIME_H
    if (hip_host::state().wave_size == 64) return check_routes(t, TWO_RANGES, DTYPE_Q8, {1}, {3});
#endif
    check_routes(t, TWO_RANGES, DTYPE_BF16, {1, 2, 8}, {3});
    check_routes(t, TWO_RANGES, DTYPE_BF16, {1}, {RANGE - 2});
    for (DType dtype : {DTYPE_F32, DTYPE_F16, DTYPE_Q8}) check_routes(t, TWO_RANGES, dtype, {2}, {3});
    check_routes(t, NARROW, DTYPE_BF16, {1}, {2});
    for (DType dtype : {DTYPE_BF16, DTYPE_Q8}) check_routes(t, WIDE, dtype, {1}, {2});
}

// Without a name the device measures which route is fastest, and says which; what it measured with leaves no trace.
static void check_choice_of_route(Tests* t) {
    const GPT2Config config = {20, 61, 61, 2, 2, 32};
    GPT2Model model;
    Error error;
    if (!reference_model(&model, &config, DTYPE_F32, 1, &error)) return (void)test_check(t, false, "%s", error.text);
    std::vector<int> tokens = Random{7}.ints(9, config.vocab_size);
    DeviceOptions options = device_options(&model, 1, DTYPE_F32);
    Device* named = open_device(t, &model, &options);
    options.kernels = NULL;
    Device* d = open_device(t, &model, &options);
    if (named != NULL && d != NULL) {
        Floats truth = run_tokens(named, tokens, 0, 9, 0, 9, config.vocab_size);
        test_check(t,
                   d->route != ROUTE_LAUNCHES && strstr(gpt2_hip.describe(d), route_names[d->route]) != NULL &&
                       truth == run_tokens(d, tokens, 0, 9, 0, 9, config.vocab_size),
                   "the device chooses a route by measuring: %s", gpt2_hip.describe(d));
    }
    gpt2_hip.close(d);
    gpt2_hip.close(named);
    reference_model_free(&model);
}

// What the function writes to standard error.
template <class Function> static std::string standard_error_of(Function function) {
    char text[500] = "";
    FILE* file = tmpfile();
    fflush(stderr);
    int before = dup(2);
    if (file == NULL || before < 0 || dup2(fileno(file), 2) < 0) return "no standard error to look at";
    function();
    fflush(stderr);
    dup2(before, 2);
    close(before);
    rewind(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    return text;
}

// The logits and picks of six steps of one sequence, after two of which `disturb` is called.
template <class Disturb> static Floats disturbed_steps(Device* d, int V, Disturb disturb) {
    const SamplerOptions greedy = {0, 0, 1, 0, 1};
    Floats results, logits((size_t)V);
    Sampler sampler;
    Error error;
    int slot = 0, next = 1;
    bool ok = sampler_open(&sampler, &greedy, V, 4, 0, &error);
    for (int i = 0; ok && i < 6; i++) {
        int given = next;
        TokenRun run = {&given, &slot, 1, 1, i};
        Choice choice = {&sampler, &given, 1, -1};
        if (i == 2) disturb();
        ok = gpt2_hip.next(d, &run, &choice, &next, &error) && gpt2_hip.fetch_logits(d, 0, logits.data(), &error);
        results.insert(results.end(), logits.begin(), logits.end());
        results.push_back(ok ? (float)next : NAN);
    }
    sampler_close(&sampler);
    return results;
}

// Numbers that do not come: the blocks of the persistent kernel give up, and the text goes on from the same token.
template <class Disturb>
static void check_standstill(Tests* t, const GPT2Model* model, const Floats& truth, const char* what, int patience,
                             Disturb disturb) {
    int V = model->config.vocab_size;
    Error error;
    DeviceOptions options = device_options(model, 1, DTYPE_F32);
    options.kernels = route_names[ROUTE_PERSISTENT];
    Device* d = open_device(t, model, &options);
    if (d == NULL) return;
    Floats results;
    bool was_persistent = false;
    std::string said = standard_error_of([&] {
        results = disturbed_steps(d, V, [&] {
            was_persistent = d->route == ROUTE_PERSISTENT && d->max_blocks[1] > 0;
            d->patience = patience;
            disturb(true);
        });
    });
    bool is_line = said.find("stood still") != std::string::npos && said.find('\n', 1) == said.size() - 1;
    test_check(t,
               was_persistent && results == truth && d->route == ROUTE_GRAPH && is_line &&
                   strstr(gpt2_hip.describe(d), "persistent") != NULL && strstr(gpt2_hip.describe(d), ", then graph"),
               "%s: the persistent kernel ends, the device says so once and goes on with the same bits by launches",
               what);
    gpt2_hip.close(d);
    options.kernels = NULL;
    disturb(false);
    d = open_device(t, model, &options);
    if (d == NULL) return;
    d->patience = patience;
    disturb(true);
    d->max_blocks[1] = 1;
    bool ok = false;
    said = standard_error_of([&] { ok = try_routes(d, &error); });
    disturb(false);
    test_check(t,
               ok && d->route == ROUTE_GRAPH && d->max_blocks[1] == 0 && said.find("stood still") != std::string::npos,
               "%s when the routes are tried: the graph is chosen", what);
    gpt2_hip.close(d);
}

static void check_standstills(Tests* t) {
    const GPT2Config config = {20, 61, 61, 2, 2, 32};
    GPT2Model model;
    Error error;
    if (!reference_model(&model, &config, DTYPE_F32, 1, &error)) return (void)test_check(t, false, "%s", error.text);
    DeviceOptions options = device_options(&model, 1, DTYPE_F32);
    Device* d = open_device(t, &model, &options);
    if (d == NULL) return reference_model_free(&model);
    Floats truth = disturbed_steps(d, config.vocab_size, [] {});
    gpt2_hip.close(d);
    check_standstill(t, &model, truth, "a patience of one look", 1, [](bool) {});
#ifdef HIP_HOST_RUNTIME_H
    hip_host::State& s = hip_host::state();
    for (int late = 0; late < 2; late++) {
        check_standstill(t, &model, truth,
                         late ? "a block that begins when the others have ended" : "a block that does not run", 3000,
                         [&s, late](bool is_on) { s.is_late = late == 1, s.absent_block = is_on ? 1 : -1; });
    }
#endif
    reference_model_free(&model);
}

// Continues `text` by the device's own picks; *agreed counts those that choice_pick makes from the device's logits,
// which must come through the choice as they were.
static std::vector<int> generate(Device* d, std::vector<int> text, int n, const SamplerOptions& options, int V,
                                 int forbidden, int* agreed) {
    Sampler on_card, on_cpu;
    Error error;
    Floats logits((size_t)V), fetched((size_t)V);
    int slot = 0, position = 0;
    *agreed = 0;
    if (!sampler_open(&on_card, &options, V, 9, 0, &error) || !sampler_open(&on_cpu, &options, V, 9, 0, &error))
        return text;
    for (int i = 0; i < n; i++) {
        int next = -1;
        TokenRun run = {&text[(size_t)position], &slot, 1, (int)text.size() - position, position};
        Choice choice = {&on_card, text.data(), text.size(), forbidden},
               check = {&on_cpu, text.data(), text.size(), forbidden};
        if (!gpt2_hip.next(d, &run, &choice, &next, &error) || !gpt2_hip.fetch_logits(d, 0, fetched.data(), &error) ||
            !gpt2_hip.forward(d, &run, 1, logits.data(), &error)) {
            fprintf(stderr, "test_hip: %s\n", error.text);
            break;
        }
        *agreed += next == choice_pick(&check, logits.data()) && fetched == logits;
        position = (int)text.size();
        text.push_back(next);
    }
    sampler_close(&on_card);
    sampler_close(&on_cpu);
    return text;
}

static void check_picks(Tests* t) {
    const GPT2Config config = {64, 509, 509, 1, 2, 16};
    const int V = config.vocab_size, n = 6;
    const SamplerOptions ways[] = {
        {0, 0, 1, 0, 1},
        {0, 0, 1, 0, 1.5f},
        {1, 0, 1, 0, 1},
        {0.7f, 40, 1, 0, 1},
        {1.3f, 0, 0.9f, 0, 1},
        {1, 0, 1, 0.05f, 1},
        {0.9f, 100, 0.95f, 0.01f, 1.2f},
        {2, 1, 1, 0, 1},
    };
    GPT2Model model;
    Error error;
    if (!reference_model(&model, &config, DTYPE_F16, 4, &error)) return (void)test_check(t, false, "%s", error.text);
    DeviceOptions options = device_options(&model, 1, DTYPE_F16);
    Device* d = open_device(t, &model, &options);
    options.cpu_logits = true;
    Device* cpu_head_device = open_device(t, &model, &options);
    if (d != NULL && cpu_head_device != NULL) {
        std::vector<int> prompt = Random{6}.ints(11, V);
        int total = 0, agreed, same = 0;
        for (const SamplerOptions& way : ways) {
            int forbidden = generate(d, prompt, 1, way, V, -1, &agreed).back(); // what it would begin with
            std::vector<int> text = generate(d, prompt, n, way, V, forbidden, &agreed);
            total += agreed * (std::find(text.begin() + 11, text.end(), forbidden) == text.end());
            same += text == generate(cpu_head_device, prompt, n, way, V, forbidden, &agreed);
        }
        test_check(
            t, total == 8 * n,
            "the card picks as choice_pick does, greedy and 7 ways of sampling, one token forbidden: %d of %d tokens",
            total, 8 * n);
        test_check(t, same == 8, "--cpu-logits gives the same text: %d of 8", same);
    }
    gpt2_hip.close(cpu_head_device);
    gpt2_hip.close(d);
    reference_model_free(&model);
}

// An f32 model on the card in the other formats: the bounds of the issue.
static void check_conversion(Tests* t) {
    const GPT2Config config = {24, 301, 307, 2, 3, 96};
    const double bounds[NUM_GPU_DTYPES] = {1e-4, 2e-2, 2e-3, 5e-2};
    int T = config.max_seq_len, V = config.vocab_size;
    GPT2Model model;
    Error error;
    if (!reference_model(&model, &config, DTYPE_F32, 8, &error)) return (void)test_check(t, false, "%s", error.text);
    std::vector<int> tokens = Random{2}.ints((size_t)T, V);
    Doubles truth((size_t)(T * V));
    bool ok = reference_forward(truth.data(), &model, tokens.data(), T, &error);
    for (int dtype = 0; ok && dtype < NUM_GPU_DTYPES; dtype++) {
        DeviceOptions options = device_options(&model, 1, (DType)dtype);
        Device* d = open_device(t, &model, &options);
        if (d == NULL) continue;
        double worst = difference(run_tokens(d, tokens, 0, T, 0, T, V).data(), truth.data(), truth.size());
        test_check(t, worst < bounds[dtype] && (dtype == DTYPE_F32 || worst > 1e-5),
                   "an f32 model as %s on the card: logits within %.0e of the f32 model's: %.1e", dtype_names[dtype],
                   bounds[dtype], worst);
        gpt2_hip.close(d);
    }
    reference_model_free(&model);
}

// Greedy text on the card, token for token against the CPU. Where they part, the CPU's two likeliest tokens must be
// closer than the bound (relative to the largest logit), within which also all logits of the common text must lie.
static void check_generation(Tests* t, const char* name, const GPT2Model* model, DType dtype, std::vector<int> text,
                             int n, double bound) {
    Error error;
    int V = model->config.vocab_size, slot = 0, agreed, same = 0;
    DeviceOptions options = device_options(model, 1, dtype);
    Device *d = open_device(t, model, &options), *cpu = open_cpu(model, options, &error);
    Floats logits((size_t)V);
    double worst = 0, gap = 0;
    size_t prompt = text.size();
    const SamplerOptions greedy = {0, 0, 1, 0, 1};
    if (d != NULL && cpu != NULL) text = generate(d, text, n, greedy, V, -1, &agreed);
    bool ok = text.size() == prompt + (size_t)n;
    for (size_t length = prompt; ok && length < text.size(); length++) {
        int from = length == prompt ? 0 : (int)length - 1;
        TokenRun run = {&text[(size_t)from], &slot, 1, (int)length - from, from};
        ok = gpt2_cpu.forward(cpu, &run, 1, logits.data(), &error);
        Doubles truth(logits.begin(), logits.end());
        worst =
            fmax(worst, difference(run_tokens(d, text, from, (int)length, 0, 1, V).data(), truth.data(), (size_t)V));
        int best = sampler_argmax(logits.data(), V);
        same += best == text[length];
        double lead = truth[(size_t)best] - truth[(size_t)text[length]], largest = 0;
        for (double x : truth) largest = fmax(largest, fabs(x));
        gap = fmax(gap, lead / largest);
    }
    test_check(t, ok && worst < bound && gap < bound && 4 * same >= 3 * n,
               "%s: %d of %d greedy tokens are the CPU's, logits within %.0e of its: %.1e", name, same, n, bound,
               worst);
    gpt2_cpu.close(cpu);
    gpt2_hip.close(d);
}

static void check_generations(Tests* t) {
    const GPT2Config config = {40, 301, 320, 2, 3, 96};
    const double bounds[NUM_GPU_DTYPES] = {1e-4, 2e-2, 2e-2, 5e-2};
    GPT2Model model;
    Error error;
    for (int dtype = 0; dtype < NUM_GPU_DTYPES; dtype++) {
        char name[64];
        snprintf(name, sizeof name, "a random model in %s", dtype_names[dtype]);
        if (!reference_model(&model, &config, (DType)dtype, 12, &error))
            return (void)test_check(t, false, "%s", error.text);
        check_generation(t, name, &model, (DType)dtype, Random{3}.ints(12, config.vocab_size), 8, bounds[dtype]);
        reference_model_free(&model);
    }
}

// The bundled model on real text.
static void check_bundled_model(Tests* t) {
    GPT2Model model;
    Error error;
    size_t n;
    int* tokens = NULL;
    Tokenizer* tokenizer = tokenizer_load_bin("models/fairytales_tokenizer.bin", &error);
    if (tokenizer == NULL || !checkpoint_load(&model, "models/fairytales.bin", true, DTYPE_F32, &error)) {
        if (tokenizer != NULL) tokenizer_free(tokenizer);
        return test_skip(t, "the bundled model: %s", error.text);
    }
    const char* prompt = "Once upon a time there was a king";
    if (test_check(t, tokenizer_encode(tokenizer, prompt, strlen(prompt), &tokens, &n, &error),
                   "the bundled tokenizer encodes the prompt")) {
        check_generation(t, "the bundled model", &model, model.dtype, std::vector<int>(tokens, tokens + n), 4, 2e-2);
    }
    free(tokens);
    tokenizer_free(tokenizer);
    checkpoint_free(&model);
}

// The residual stream and the profile of two sequences: three tokens each, then a longer run behind them.
struct LookInside {
    Floats residuals, logits;
    Profile profile;
    double wall; // seconds of both runs
};

static bool look_inside(LookInside* look, const DeviceApi* api, const GPT2Model* model, const int* tokens, int T,
                        Error* error) {
    const GPT2Config* c = &model->config;
    const int slots[2] = {2, 0};
    DeviceOptions options = device_options(model, 3, model->dtype);
    look->residuals.assign((size_t)(c->num_layers + 1) * 3 * (size_t)c->max_seq_len * (size_t)c->channels, 77.0f);
    look->logits.resize(2 * (size_t)c->vocab_size);
    options.residuals = look->residuals.data();
    options.profile = &look->profile;
    if (!profile_open(&look->profile, options.num_threads, error)) return false;
    Device* d = api == &gpt2_cpu ? open_cpu(model, options, error) : api->open(model, &options, error);
    TokenRun first = {tokens, slots, 2, 3, 0}, second = {tokens + 6, slots, 2, T, 3};
    double start = seconds_now();
    bool ok =
        d != NULL && api->forward(d, &first, 0, NULL, error) && api->forward(d, &second, 1, look->logits.data(), error);
    look->wall = seconds_now() - start;
    api->close(d);
    return ok;
}

static void check_look_inside(Tests* t) {
    const GPT2Config config = {40, 67, 67, 2, 3, 45}; // rows that are padded on the card
    GPT2Model model;
    Error error;
    LookInside card, cpu;
    ProfileRow *rows = NULL, *cpu_rows = NULL;
    size_t n = 0, cpu_n = 0, same = 0, differ = 0;
    if (!reference_model(&model, &config, DTYPE_F32, 9, &error)) return (void)test_check(t, false, "%s", error.text);
    std::vector<int> tokens = Random{17}.ints(6 + 2 * 20, config.vocab_size);
    bool ok = look_inside(&card, &gpt2_hip, &model, tokens.data(), 20, &error) &&
              look_inside(&cpu, &gpt2_cpu, &model, tokens.data(), 20, &error);
    for (size_t i = 0; ok && i < cpu.residuals.size(); i++) {
        differ += !(fabs((double)card.residuals[i] - (double)cpu.residuals[i]) < 1e-4);
    }
    test_check(
        t, ok && differ == 0, "%s",
        ok ? "the residual stream after every layer is the CPU's, and nothing is written for tokens that are not run"
           : error.text);
    ok = ok && profile_rows(&rows, &n, &card.profile, &config, DTYPE_F32, &error) &&
         profile_rows(&cpu_rows, &cpu_n, &cpu.profile, &config, DTYPE_F32, &error);
    double sum = 0;
    for (size_t r = 0; ok && r < n && r < cpu_n; r++) {
        const ProfileRow *a = &rows[r], *b = &cpu_rows[r];
        // the CPU computes the two last tokens' logits one by one, since they lie apart
        same += a->operation == b->operation && (a->operation == OPERATION_HEAD || a->calls == b->calls);
        sum += a->seconds;
    }
    test_check(t, ok && n == cpu_n && same == n && sum > 0 && sum <= card.wall,
               "the profile has the CPU's %zu rows; %.3f ms of operations lie within the %.3f ms of the run", n,
               1e3 * sum, 1e3 * card.wall);
    free(rows), free(cpu_rows);
    profile_close(&card.profile), profile_close(&cpu.profile);
    reference_model_free(&model);
}

// The checks are checked: a model with one number changed must not pass for the original.
static void check_checker(Tests* t) {
    const GPT2Config config = {20, 61, 61, 2, 2, 32};
    int T = config.max_seq_len, V = config.vocab_size;
    GPT2Model model;
    Error error;
    if (!reference_model(&model, &config, DTYPE_F32, 1, &error)) return (void)test_check(t, false, "%s", error.text);
    std::vector<int> tokens = Random{7}.ints((size_t)T, V);
    Doubles truth((size_t)(T * V));
    bool ok = reference_forward(truth.data(), &model, tokens.data(), T, &error);
    ((float*)(uintptr_t)gpt2_vector(&model, FCB, 1))[5] += 0.01f;
    DeviceOptions options = device_options(&model, 1, DTYPE_F32);
    Device* d = ok ? open_device(t, &model, &options) : NULL;
    if (d != NULL) {
        double worst = difference(run_tokens(d, tokens, 0, T, 0, T, V).data(), truth.data(), truth.size());
        test_check(t, worst > 1e-5, "one bias of one layer changed by 0.01 is seen: %.1e", worst);
        Floats broken(1, NAN);
        test_check(t, difference(broken.data(), truth.data(), 1) > 1, "a NaN is seen");
    }
    gpt2_hip.close(d);
    reference_model_free(&model);
}

static void check_device(Tests* t) {
    Random random = {11};
    check_kernels(t, &random);
    check_matrix_shapes(t, &random);
    check_shapes(t);
    check_equalities(t);
    check_all_routes(t);
    check_choice_of_route(t);
    check_standstills(t);
    check_picks(t);
    check_conversion(t);
    check_generations(t);
    check_look_inside(t);
    check_checker(t);
}

#ifdef HIP_HOST_RUNTIME_H
// ---------------------------------------------------------------------------------------------------------------------
// The harness itself: does it see what a card would suffer from? Each fault runs in a process of its own.

#include <sys/wait.h>

template <bool HAS_BARRIER> __global__ void mirror(int* out) {
    __shared__ int values[THREADS];
    values[threadIdx.x] = (int)(threadIdx.x + blockIdx.x);
    if (HAS_BARRIER) __syncthreads();
    out[blockIdx.x * THREADS + threadIdx.x] = values[THREADS - 1 - threadIdx.x];
    __syncthreads();
}

__global__ void read_past_end(float* out, const float* in, int n) {
    out[threadIdx.x] = in[n + (int)threadIdx.x % 8 * 4];
}

__global__ void barrier_for_some(int* out) {
    if (threadIdx.x < 40) __syncthreads();
    out[threadIdx.x] = 1;
}

// gfx11 wants each number twice, in both halves of the wave; here each lane brings its own.
__global__ void matrix_of_lanes(float* out) {
    uint4 packs[Wmma11::PACKS];
    for (uint4& pack : packs) pack = make_uint4(threadIdx.x, 0, 0, 0);
    Wmma11::Sums sums = {};
    Wmma11::multiply<true>(&sums, packs, packs);
    out[threadIdx.x] = sums[0];
}

// Every block adds to every cell in turn, with a barrier of the whole grid between two cells.
__global__ void grid_rounds(int* cells, int* arrived, int rounds) {
    for (int round = 0; round < rounds; round++) {
        if (threadIdx.x == 0) {
            cells[(round + (int)blockIdx.x) % (int)gridDim.x] += round + 1; // racy, but for the barrier
            __atomic_fetch_add(arrived, 1, __ATOMIC_ACQ_REL);
            while (__atomic_load_n(arrived, __ATOMIC_ACQUIRE) < (round + 1) * (int)gridDim.x) std::this_thread::yield();
        }
        __syncthreads();
    }
}

__global__ void dynamic_sum(float* out) {
    HIP_DYNAMIC_SHARED(float, values)
    values[threadIdx.x] = (float)threadIdx.x;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (unsigned i = 1; i < blockDim.x; i++) values[0] += values[i];
        out[0] = values[0];
    }
}

enum Fault { NO_FAULT, NO_BARRIER, PAST_END, BARRIER_FOR_SOME, WRONG_OPERANDS };

// Runs a kernel with the fault. Returns only when nothing stopped it: are its results right?
static bool run_fault(Fault fault, bool reverse) {
    const int blocks = 8;
    hip_host::state().reverse = reverse;
    need(hipSetDevice(0), "hipSetDevice");
    Card<int> out(std::vector<int>(blocks * THREADS, 0));
    Card<float> floats(Floats(THREADS, 1.0f)), in(Floats(48, 1.0f));
    if (fault == PAST_END) hipLaunchKernelGGL(read_past_end, dim3(1), dim3(THREADS), 0, NULL, floats.data, in.data, 48);
    if (fault == BARRIER_FOR_SOME) hipLaunchKernelGGL(barrier_for_some, dim3(1), dim3(THREADS), 0, NULL, out.data);
    if (fault == WRONG_OPERANDS) hipLaunchKernelGGL(matrix_of_lanes, dim3(1), dim3(32), 0, NULL, floats.data);
    if (fault == NO_BARRIER) hipLaunchKernelGGL((mirror<false>), dim3(blocks), dim3(THREADS), 0, NULL, out.data);
    else hipLaunchKernelGGL((mirror<true>), dim3(blocks), dim3(THREADS), 0, NULL, out.data); // right, if it is reached
    std::vector<int> values = out.read();
    for (int i = 0; i < blocks * THREADS; i++) {
        if (values[(size_t)i] != THREADS - 1 - i % THREADS + i / THREADS) return false;
    }
    return true;
}

// Does the process with this fault end badly? What it prints is not shown.
static bool is_caught(Fault fault, bool reverse) {
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (freopen("/dev/null", "w", stderr) == NULL) _exit(2);
        exit(run_fault(fault, reverse) ? 0 : 1);
    }
    int status = 0;
    return child > 0 && waitpid(child, &status, 0) == child && status != 0;
}

// Before anything else is launched, for a forked process has only the thread that forked.
static void check_faults(Tests* t) {
    test_check(t, !is_caught(NO_FAULT, false) && !is_caught(NO_FAULT, true),
               "the harness runs a right kernel to its end");
    test_check(t, is_caught(NO_BARRIER, false) || is_caught(NO_BARRIER, true), "it catches a missing __syncthreads");
    test_check(t, is_caught(PAST_END, false), "it catches a read past the end of a buffer");
    test_check(t, is_caught(WRONG_OPERANDS, false),
               "it catches a matrix instruction whose operands are laid out wrongly");
    test_check(t, is_caught(BARRIER_FOR_SOME, false), "it catches a __syncthreads that some threads do not reach");
}

static void check_harness(Tests* t) {
    Card<int> cells(std::vector<int>(hip_host::COMPUTE_UNITS, 0)), arrived(std::vector<int>(1, 0));
    int rounds = 12, per_unit = 0, expected = rounds * (rounds + 1) / 2;
    void* arguments[] = {(void*)&cells.data, (void*)&arrived.data, (void*)&rounds};
    need(hipOccupancyMaxActiveBlocksPerMultiprocessor(&per_unit, grid_rounds, 64, 0), "occupancy");
    dim3 grid((unsigned)(per_unit * hip_host::COMPUTE_UNITS)), more(grid.x + 1);
    need(hipLaunchCooperativeKernel(grid_rounds, grid, dim3(64), arguments, 0, NULL), "cooperative launch");
    bool ok = true;
    int sum = 0;
    for (int cell : cells.read()) sum += cell;
    ok = sum == expected * (int)grid.x &&
         hipLaunchCooperativeKernel(grid_rounds, more, dim3(64), arguments, 0, NULL) != hipSuccess;
    test_check(t, ok, "a cooperative launch runs %d blocks side by side through %d grid barriers, and refuses more",
               (int)grid.x, rounds);
    Card<float> total(Floats(1, 0.0f));
    hipLaunchKernelGGL(dynamic_sum, dim3(1), dim3(96), 96 * sizeof(float), NULL, total.data);
    test_check(t, total.read()[0] == 96 * 95 / 2, "dynamic shared memory holds what it is asked to");
}

// ---------------------------------------------------------------------------------------------------------------------
// What can go wrong

static const GPT2Config SMALL = {24, 37, 37, 1, 2, 16};

// Opens the model and picks three tokens. False with the error filled in.
static bool short_text(const GPT2Model* model, const char* route, std::vector<int>* text, std::string* description,
                       Error* error) {
    DeviceOptions options = device_options(model, 1, DTYPE_Q8);
    options.kernels = route;
    const SamplerOptions greedy = {0, 0, 1, 0, 1};
    Sampler sampler;
    int slot = 0, position = 0;
    text->assign(3, 5);
    if (!sampler_open(&sampler, &greedy, model->config.vocab_size, 1, 0, error)) return false;
    Device* d = gpt2_hip.open(model, &options, error);
    bool ok = d != NULL;
    if (ok) *description = gpt2_hip.describe(d);
    for (int i = 0; ok && i < 3; i++) {
        int next;
        Choice choice = {&sampler, text->data(), text->size(), -1};
        TokenRun run = {text->data() + position, &slot, 1, (int)text->size() - position, position};
        ok = gpt2_hip.next(d, &run, &choice, &next, error);
        position = (int)text->size();
        if (ok) text->push_back(next);
    }
    gpt2_hip.close(d);
    sampler_close(&sampler);
    return ok;
}

static bool leaked() {
    return !hip_host::state().device.empty() || !hip_host::state().host.empty();
}

// Each call of HIP in turn fails, by one route: what may be done without, a graph or what the card says of itself,
// changes nothing, and the rest is reported.
static void check_failing_calls(Tests* t, const GPT2Model* model, const char* route) {
    hip_host::State& s = hip_host::state();
    Error error;
    std::vector<int> expected, text;
    std::string description;
    long first = s.calls;
    bool ok = short_text(model, route, &expected, &description, &error);
    long calls = s.calls - first, told = 0, survived = 0, wrong = 0, leaks = leaked();
    for (long n = 0; ok && n < calls; n++) {
        s.fail_call = s.calls + n;
        error.text[0] = 0;
        if (short_text(model, route, &text, &description, &error)) survived++, wrong += text != expected;
        else told += strstr(error.text, "GPU") != NULL;
        leaks += leaked();
    }
    s.fail_call = -1;
    test_check(t, ok && told + survived == calls && survived <= 30 && wrong == 0 && leaks == 0,
               "%s: each of the %ld calls for three tokens fails once: %ld are reported, %ld do without, none leaks or "
               "changes the text",
               route, calls, told, survived);
}

static void check_errors(Tests* t) {
    hip_host::State& s = hip_host::state();
    GPT2Model model;
    Error error;
    std::vector<int> text;
    std::string description;
    if (!reference_model(&model, &SMALL, DTYPE_F32, 5, &error)) return (void)test_check(t, false, "%s", error.text);
    for (const char* route : route_names) check_failing_calls(t, &model, route);
    bool ok = short_text(&model, "waltz", &text, &description, &error);
    test_check(t, !ok && strstr(error.text, "waltz") != NULL, "a route that there is not: \"%s\"", error.text);

    s.num_devices = 0;
    ok = short_text(&model, route_names[ROUTE_LAUNCHES], &text, &description, &error);
    test_check(t, !ok && strstr(error.text, "--device cpu") != NULL, "no GPU: \"%s\"", error.text);
    s.num_devices = 1, s.has_code = false;
    ok = short_text(&model, route_names[ROUTE_LAUNCHES], &text, &description, &error);
    test_check(t, !ok && strstr(error.text, "GPU_TARGETS") != NULL, "no code for the card: \"%s\"", error.text);
    s.has_code = true;
    size_t memory = s.memory;
    s.memory = 5000;
    ok = short_text(&model, route_names[ROUTE_LAUNCHES], &text, &description, &error);
    test_check(t, !ok && strstr(error.text, "--ctx") != NULL, "no memory: \"%s\"", error.text);
    s.memory = memory;
    reference_model_free(&model);
}

// A head that does not fit goes to the CPU.
static void check_small_memory(Tests* t) {
    const GPT2Config config = {24, 4000, 4000, 1, 2, 16};
    hip_host::State& s = hip_host::state();
    size_t memory = s.memory;
    GPT2Model model;
    Error error;
    std::vector<int> expected, text;
    std::string description;
    if (!reference_model(&model, &config, DTYPE_Q8, 5, &error)) return (void)test_check(t, false, "%s", error.text);
    s.memory_peak = 0;
    bool ok = short_text(&model, route_names[ROUTE_LAUNCHES], &expected, &description, &error);
    s.memory = s.memory_peak - 1;
    ok = ok && short_text(&model, route_names[ROUTE_LAUNCHES], &text, &description, &error);
    s.memory = memory;
    test_check(t, ok && text == expected && description.find("does not fit") != std::string::npos,
               "one byte too few for the head: the same text with logits from the CPU; %s",
               ok ? description.c_str() : error.text);
    reference_model_free(&model);
}

// The bandwidth in --list-devices, from what drivers say of cards with each kind of memory, is that of the data sheets.
static void check_bandwidths(Tests* t) {
    static const struct {
        const char *arch, *card;
        int clock_khz, bus_bits;
        double published; // GB/s
    } cards[] = {
        {"gfx90a:sramecc+:xnack-", "MI250X, one of two chips", 1600000, 4096, 1638},
        {"gfx942:sramecc+:xnack-", "MI300X", 1300000, 8192, 5300},
        {"gfx1030", "RX 6900 XT", 1000000, 256, 512},
        {"gfx1100", "RX 7900 XTX", 1249000, 384, 960},
        {"gfx1151", "Radeon 8060S", 1000000, 256, 256},
        {"gfx1201", "RX 9070 XT", 1258000, 256, 640},
        {"sm_90", "H100 SXM", 2619000, 5120, 3350},
        {"gfx1100", "a card whose driver does not know", 0, 0, 0},
    };
    hip_host::State& s = hip_host::state();
    for (const auto& card : cards) {
        GpuInfo info;
        Error error;
        s.arch = card.arch, s.memory_clock_khz = card.clock_khz, s.memory_bus_bits = card.bus_bits;
        bool ok = gpt2_hip_info(&info, 0, &error);
        double bandwidth = ok ? 1e-9 * info.bandwidth : -1;
        test_check(t, ok && fabs(bandwidth - card.published) <= 0.01 * card.published,
                   "%s, %d MHz, %d bits: %.0f GB/s, published %.0f", card.card, card.clock_khz / 1000, card.bus_bits,
                   bandwidth, card.published);
    }
    s.arch = NULL, s.memory_clock_khz = s.memory_bus_bits = 0;
}

void test_hip(Tests* t) {
    if (hip_host::machine_code() != nullptr) {
        test_section(("GPU, machine code of " + hip_host::machine_code()->chip()).c_str());
        check_device(t);
        return check_bundled_model(t);
    }
    test_section("GPU kernels on the host harness");
    check_faults(t);
    check_harness(t);
    for (int wave = 32; wave <= 64; wave += 32) {
        char title[64];
        snprintf(title, sizeof title, "GPU, wave size %d, threads %s", wave,
                 wave == 32 ? "first to last" : "last to first");
        test_section(title);
        hip_host::state().wave_size = wave;
        hip_host::state().reverse = wave == 64;
        check_device(t);
#ifdef __SANITIZE_THREAD__ // orders threads by what they wait for, not by who runs first: one pass shows it all
        return test_skip(t, "wave size 64 and errors: they start no kernel that has not been seen");
#endif
    }
    check_bundled_model(t);
    test_section("GPU, what can go wrong");
    check_errors(t);
    check_small_memory(t);
    check_bandwidths(t);
}
#else
void test_hip(Tests* t) {
    test_section("GPU kernels on this machine's card");
    check_device(t);
    check_bundled_model(t);
}
#endif
