#include "operations.h"

const char* operation_name(Operation operation) {
#define OPERATION_NAME(id, name) name,
    static const char* const names[] = {GPT2_OPERATIONS(OPERATION_NAME)};
#undef OPERATION_NAME
    return names[operation];
}

int pass_parts(PassPart parts[MAX_PASS_PARTS], const GPT2Config* config, CallShape pass) {
    const CallShape last = {.B = pass.B, .T = 1, .position = pass.position + pass.T - 1};
    int n = 0, L = config->num_layers, whole = pass.T > 1 ? L - 1 : L; // layers that all tokens pass through
    parts[n++] = (PassPart){OPERATION_EMBED, pass, 1};
    parts[n++] = (PassPart){OPERATION_QKV, pass, L};
    for (int o = OPERATION_ATTENTION; o <= OPERATION_FCPROJ && whole > 0; o++)
        parts[n++] = (PassPart){(Operation)o, pass, whole};
    for (int o = OPERATION_ATTENTION; o <= OPERATION_FCPROJ && whole < L; o++)
        parts[n++] = (PassPart){(Operation)o, last, L - whole};
    parts[n++] = (PassPart){OPERATION_HEAD, last, 1};
    return n;
}

size_t cache_element_bytes(DType dtype) {
    return dtype == DTYPE_F32 ? sizeof(float) : sizeof(uint16_t);
}

// A product with `vectors` f32 vectors of bias and LayerNorm. An epilogue that adds reads out as well.
static OperationCost product(double M, size_t N, size_t K, DType dtype, size_t vector_floats, bool adds) {
    double n = (double)N, k = (double)K;
    OperationCost cost = {.M = M, .N = n, .K = k, .flops = 2 * M * n * k};
    cost.bytes = n * (double)dtype_row_bytes(dtype, K) + 4.0 * (double)vector_floats;
    cost.bytes += 4 * M * k + 4 * M * n * (adds ? 2 : 1);
    return cost;
}

// q · kᵀ and the weighted sum of v, 2 C operations each for every key that a query sees. Every sequence's cache is read
// once, with the new keys and values written to it before.
static OperationCost attention(const GPT2Config* config, DType dtype, CallShape shape) {
    double B = shape.B, T = shape.T, C = config->channels;
    double keys = shape.position + (T + 1) / 2; // on average over the queries
    double cache = 2 * C * (double)cache_element_bytes(dtype) * B * (shape.position + 2 * T);
    return (OperationCost){
        .M = B * T, .N = keys, .K = C, .flops = 4 * B * T * keys * C, .bytes = cache + 4 * B * T * 4 * C};
}

OperationCost operation_cost(Operation operation, const GPT2Config* config, DType dtype, CallShape shape) {
    size_t C = (size_t)config->channels, V = (size_t)config->vocab_size;
    double M = (double)shape.B * shape.T;
    switch (operation) {
    case OPERATION_EMBED: // a row of wte and one of wpe, added
        return (OperationCost){
            .M = M, .flops = M * (double)C, .bytes = M * (2.0 * (double)dtype_row_bytes(dtype, C) + 4.0 * (double)C)};
    case OPERATION_QKV: return product(M, 3 * C, C, dtype, 3 * C + 2 * C, false);
    case OPERATION_ATTENTION: return attention(config, dtype, shape);
    case OPERATION_ATTPROJ: return product(M, C, C, dtype, C, true);
    case OPERATION_FC: return product(M, 4 * C, C, dtype, 4 * C + 2 * C, false);
    case OPERATION_FCPROJ: return product(M, C, 4 * C, dtype, C, true);
    case OPERATION_HEAD: return product(M, V, C, dtype, 2 * C, false);
    default: return (OperationCost){0};
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The roof.

// The embedding works on f32, products on what their weights are.
static double peak_of(Operation operation, const Roof* roof) {
    if (operation == OPERATION_EMBED) return roof->f32;
    return operation == OPERATION_ATTENTION ? roof->attention : roof->products;
}

bool is_bound_by_memory(Operation operation, const OperationCost* cost, const Roof* roof) {
    return cost->bytes / roof->bandwidth >= cost->flops / peak_of(operation, roof);
}

double operation_roof(Operation operation, const OperationCost* cost, const Roof* roof) {
    return is_bound_by_memory(operation, cost, roof) ? cost->bytes / roof->bandwidth
                                                     : cost->flops / peak_of(operation, roof);
}

double pass_roof(const GPT2Config* config, DType dtype, CallShape pass, const Roof* roof) {
    PassPart parts[MAX_PASS_PARTS];
    double seconds = 0;
    for (int i = 0, n = pass_parts(parts, config, pass); i < n; i++) {
        OperationCost cost = operation_cost(parts[i].operation, config, dtype, parts[i].shape);
        seconds += parts[i].calls * operation_roof(parts[i].operation, &cost, roof);
    }
    return seconds;
}
