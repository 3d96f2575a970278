// What a forward pass consists of, and what each of its operations costs: the sizes of the matrix products, the
// arithmetic and the bytes, from the shapes alone. The profile, the estimate and the roofline follow from this table.
#ifndef OPERATIONS_H
#define OPERATIONS_H

#include "gpt2.h"

#ifdef __cplusplus
extern "C" {
#endif

// The operations of a token in their order. LayerNorm, bias, GELU and residual are parts of the products beside them.
//   id, name in tables and JSON
#define GPT2_OPERATIONS(X)                                                                                             \
    X(EMBED, "embedding")                                                                                              \
    X(QKV, "qkv")                                                                                                      \
    X(ATTENTION, "attention")                                                                                          \
    X(ATTPROJ, "attproj")                                                                                              \
    X(FC, "fc")                                                                                                        \
    X(FCPROJ, "fcproj")                                                                                                \
    X(HEAD, "head")

#define OPERATION_ID(id, name) OPERATION_##id,
typedef enum { GPT2_OPERATIONS(OPERATION_ID) NUM_OPERATIONS } Operation;
#undef OPERATION_ID

// The tokens that one call processes: T new ones for each of B sequences that hold `position` tokens already.
typedef struct {
    int B, T, position;
} CallShape;

// One call: out (M, N) = inp (M, K) times a matrix of (N, K).
//   embedding  M rows of C channels, no product (N and K are 0)
//   attention  M = B T queries, N keys each on average, K = C channels of all heads; it has two such products
typedef struct {
    double M, N, K;
    double flops; // multiplications and additions: 2 M N K for a product
    double bytes; // what must be read and written at least once: weights, activations in and out (f32), KV cache
} OperationCost;

// The name in tables and JSON. The text is static.
const char* operation_name(Operation operation);

// The calls of one operation in a forward pass that have the same shape.
typedef struct {
    Operation operation;
    CallShape shape;
    int calls;
} PassPart;

enum { MAX_PASS_PARTS = 2 * NUM_OPERATIONS };

// The parts of a pass with logits for the last token of each sequence only, in their order: in the last layer all other
// tokens need their keys and values alone. Returns how many there are.
int pass_parts(PassPart parts[MAX_PASS_PARTS], const GPT2Config* config, CallShape pass);

// The cost of one call; `dtype` is that of the matrices.
OperationCost operation_cost(Operation operation, const GPT2Config* config, DType dtype, CallShape shape);

// The peak rates of a machine: the roof of the roofline (Williams, Waterman and Patterson, 2009). A multiply-add counts
// as two operations.
typedef struct {
    double bandwidth;   // bytes per second
    size_t working_set; // the bytes that were read over and over to measure it, or 0
    double f32;         // operations per second of multiply-adds in f32
    double products;    // operations per second of the instruction that products with the weights are made of
    double attention;   // the same for attention: as f32 on the CPU, as products on a GPU
} Roof;

// Do the bytes take longer than the arithmetic?
bool is_bound_by_memory(Operation operation, const OperationCost* cost, const Roof* roof);

// Seconds that the machine needs at least: for the bytes or for the arithmetic, whichever takes longer.
double operation_roof(Operation operation, const OperationCost* cost, const Roof* roof);

// The same for all parts of a pass. Ignores launches, barriers and cache misses.
double pass_roof(const GPT2Config* config, DType dtype, CallShape pass, const Roof* roof);

// Bytes of one number in the KV cache: binary16, or f32 when the weights are f32.
size_t cache_element_bytes(DType dtype);

#ifdef __cplusplus
}
#endif

#endif
