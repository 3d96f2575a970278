// The arithmetic of the CPU device, one set of kernels for each instruction set.
//
// cpu_kernels.c is compiled once per variant, each time with the flags of one instruction set, and the best variant
// that the processor has is chosen at run time. Every kernel computes each output by a sequence of operations that
// depends on nothing but the sizes of that output's inputs: not on how many rows are computed together, nor by which
// thread. That is why the text does not depend on threads, batch or chunking.
#ifndef CPU_KERNELS_H
#define CPU_KERNELS_H

#include "gpt2.h"

// Positions per block of the key cache. Keys are laid out as (T / KEY_BLOCK, hs, KEY_BLOCK): one vector holds one
// channel of several keys, so that scores need no sum across a vector's lanes.
enum { KEY_BLOCK = 16 };

// Head size in the value cache: hs rounded up to whole vectors, the rest 0.
static inline size_t padded_head_size(size_t hs) {
    return (hs + 15) / 16 * 16;
}

// What happens to the sums of a matrix product on their way into out.
typedef enum {
    EPILOGUE_STORE,         // out = sum + bias
    EPILOGUE_ADD,           // out += sum + bias: the residual connection
    EPILOGUE_GELU,          // out = GELU(sum + bias)
    EPILOGUE_GELU_IN_GROUPS // the same, by matmul_tall, for another such product
} Epilogue;

// The KV cache of one head of one layer of one sequence, as DTYPE_F32 or DTYPE_F16.
typedef struct {
    DType dtype;
    void* keys;   // (ceil(maxT / KEY_BLOCK), hs, KEY_BLOCK)
    void* values; // (maxT, padded_head_size(hs))
} HeadCache;

typedef struct {
    const char* name;

    // Activations are packed, row by row, into the form that the matrix product with weights of a dtype needs (f32,
    // bf16, or int8 with scales). packed_row_bytes: of one packed row of C elements, a multiple of 64.
    size_t (*packed_row_bytes)(DType dtype, size_t C);
    void (*pack_row)(void* out, const float* in, DType dtype, size_t C);

    // out (R, OC), only columns [begin, end): out = epilogue(inp (R, C) · weight (OC, C)ᵀ + bias (OC)).
    // inp holds R packed rows; bias may be NULL. Calls with different ranges of columns may run at the same time.
    void (*matmul)(float* out, const void* inp, const Tensor* weight, const float* bias, size_t R, size_t C, size_t OC,
                   size_t begin, size_t end, Epilogue epilogue);

    // The same product, bit for bit, for many rows. Rows are transposed in groups of `rows_of_group`: group_rows makes a
    // group from n packed rows (the last group may have fewer), and a group takes as many bytes as rows_of_group packed
    // rows. inp holds the groups; `tile` is scratch of tile_bytes, which may be 0.
    size_t rows_of_group;
    void (*group_rows)(void* group, const void* packed, size_t n, DType dtype, size_t C);
    size_t (*tile_bytes)(DType dtype, size_t C);
    void (*matmul_tall)(float* out, const void* inp, const Tensor* weight, const float* bias, size_t R, size_t C,
                        size_t OC, size_t begin, size_t end, Epilogue epilogue, void* tile);

    // With EPILOGUE_GELU_IN_GROUPS out is the groups that pack_row and group_rows would make of the rows, for weights of
    // the same dtype: OC * sizeof(float) bytes a row, rows rounded up to rows_of_group. begin and end are multiples of
    // TALL_PRODUCT_COLUMNS or OC. leaves_groups: is that possible for a product of C channels to OC columns?
    bool (*leaves_groups)(DType dtype, size_t C, size_t OC);

    // How many of R rows, the first ones, are to pass through matmul_tall rather than matmul to be faster: none, all, or
    // those that fill whole groups.
    size_t (*rows_for_tall)(DType dtype, size_t R);

    // out (C) = (in - mean(in)) / sqrt(var(in) + 1e-5) * weight + bias, all (C). LayerNorm, Ba et al. 2016.
    void (*layernorm)(float* out, const float* in, const float* weight, const float* bias, size_t C);

    // Writes the keys and the values of n positions from `first` on into a head's cache, rounded to the cache's dtype.
    // key and value: rows of hs floats, `stride` floats apart.
    void (*cache_store)(const HeadCache* cache, const float* key, const float* value, size_t stride, size_t hs,
                        size_t first, size_t n);

    // Causal attention of one head for Q queries at positions first .. first + Q - 1, Q <= ATTENTION_MAX_QUERIES:
    //   out = softmax(q · kᵀ / sqrt(hs)) · v, over keys 0 .. own position.
    // out and q: rows of hs floats, `out_stride` and `q_stride` floats apart.
    // scores: scratch of ATTENTION_MAX_QUERIES * (keys rounded up to KEY_BLOCK) floats.
    void (*attention)(float* out, size_t out_stride, const float* q, size_t q_stride, const HeadCache* cache, size_t hs,
                      size_t first, size_t Q, float* scores);
} CpuKernels;

enum { ATTENTION_MAX_QUERIES = 8 };

enum { TALL_PRODUCT_COLUMNS = 48 }; // matmul_tall: preferred multiple of columns

// The variant of that name, or the best that the processor has for NULL; NULL when it is unknown or not supported here.
const CpuKernels* cpu_kernels_select(const char* name);

// The i-th variant that this processor can run, best first; NULL past the end.
const CpuKernels* cpu_kernels_supported(int i);

#endif
