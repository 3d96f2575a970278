// The model: its configuration, its parameters and the table that describes them.
//
// Letters, as in llm.c: B sequences side by side, T positions, C channels, V vocabulary, Vp vocabulary padded,
// L layers, NH heads, hs = C / NH head size, maxT longest sequence.
#ifndef GPT2_H
#define GPT2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dtype.h"
#include "utils.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GPT2_VERSION "0.1.0"

typedef struct {
    int max_seq_len;       // maxT, 1024 for GPT-2
    int vocab_size;        // V, 50257
    int padded_vocab_size; // Vp, rows of wte: 50304 in llm.c's files, V in others
    int num_layers;        // L, 12 24 36 48
    int num_heads;         // NH, 12 16 20 25
    int channels;          // C, 768 1024 1280 1600
} GPT2Config;

// What a parameter does, which decides how it is stored.
//   EMBEDDING  a matrix whose rows are looked up (wte is the head's weight as well); kept in the model's dtype
//   LINEAR     the weight (out, in) of a matrix product; kept in the model's dtype. Hugging Face's files hold GPT-2's
//              transposed, as (in, out), because its Conv1D layer expects them so
//   VECTOR     a bias or a LayerNorm parameter; kept as f32
typedef enum { EMBEDDING, LINEAR, VECTOR } ParameterKind;

// Every parameter of GPT-2, in the order of llm.c's checkpoints. Loading, sizes, printing and tests follow this table.
//   id, llm.c's name, Hugging Face's name (after "h.<layer>." where it is per layer), kind, layers, rows, columns
#define GPT2_PARAMETERS(X)                                                                                             \
    X(WTE, "wte", "wte.weight", EMBEDDING, 1, Vp, C)                                                                   \
    X(WPE, "wpe", "wpe.weight", EMBEDDING, 1, maxT, C)                                                                 \
    X(LN1W, "ln1w", "ln_1.weight", VECTOR, L, 1, C)                                                                    \
    X(LN1B, "ln1b", "ln_1.bias", VECTOR, L, 1, C)                                                                      \
    X(QKVW, "qkvw", "attn.c_attn.weight", LINEAR, L, 3 * C, C)                                                         \
    X(QKVB, "qkvb", "attn.c_attn.bias", VECTOR, L, 1, 3 * C)                                                           \
    X(ATTPROJW, "attprojw", "attn.c_proj.weight", LINEAR, L, C, C)                                                     \
    X(ATTPROJB, "attprojb", "attn.c_proj.bias", VECTOR, L, 1, C)                                                       \
    X(LN2W, "ln2w", "ln_2.weight", VECTOR, L, 1, C)                                                                    \
    X(LN2B, "ln2b", "ln_2.bias", VECTOR, L, 1, C)                                                                      \
    X(FCW, "fcw", "mlp.c_fc.weight", LINEAR, L, 4 * C, C)                                                              \
    X(FCB, "fcb", "mlp.c_fc.bias", VECTOR, L, 1, 4 * C)                                                                \
    X(FCPROJW, "fcprojw", "mlp.c_proj.weight", LINEAR, L, C, 4 * C)                                                    \
    X(FCPROJB, "fcprojb", "mlp.c_proj.bias", VECTOR, L, 1, C)                                                          \
    X(LNFW, "lnfw", "ln_f.weight", VECTOR, 1, 1, C)                                                                    \
    X(LNFB, "lnfb", "ln_f.bias", VECTOR, 1, 1, C)

#define PARAMETER_ID(id, name, hf_name, kind, layers, rows, cols) id,
typedef enum { GPT2_PARAMETERS(PARAMETER_ID) NUM_PARAMETERS } ParameterId;
#undef PARAMETER_ID

// One row of the table with its letters filled in from a configuration.
typedef struct {
    const char* name;    // llm.c's
    const char* hf_name; // Hugging Face's, without "transformer." and "h.<layer>."
    ParameterKind kind;
    bool per_layer;
    size_t layers;     // L, or 1
    size_t rows, cols; // of one layer
} ParameterShape;

ParameterShape gpt2_parameter_shape(ParameterId id, const GPT2Config* config);

// A parameter in memory. Vectors (LayerNorm and biases, 0.1 % of all parameters) are f32 whatever the dtype.
typedef struct {
    DType dtype;
    const void* data;       // (layers, rows, dtype_row_stride(dtype, cols)), not aligned to more than one element
    const uint16_t* scales; // Q8 only: (layers, rows, q8_num_scales(cols)) as binary16
    // BF16Z only (bf16z.h)
    const uint8_t* common;       // (BF16Z_COMMON) the table of high bytes, for all layers
    const uint32_t* rare;        // the rare weights of all the model's matrices, row by row
    const uint32_t* rare_starts; // (layers * rows + 1) where those of each row begin
} Tensor;

// The rare weights of matrices in BF16Z, and the matrices' memory where it is not the file's (pack.h).
typedef struct {
    size_t num_rare;
    uint32_t* rare; // (num_rare)
    void* block;    // data, common and rare_starts of all of them
} Packed;

// A loaded model. checkpoint.h fills it in and frees it; everything else only reads it.
typedef struct {
    GPT2Config config;
    DType dtype;                         // of the matrices in memory
    DType file_dtype;                    // of the matrices in the file
    size_t num_parameters;               // total_params of llm.c: padding included
    Tensor tensors[NUM_PARAMETERS];      // indexed by ParameterId
    struct CheckpointContents* contents; // filled in by the loaders (checkpoint.h), or NULL
    bool shows_progress;                 // loading shows its progress on a terminal
    // the memory behind the tensors
    void* mapping; // the file, mapped read-only, or NULL
    size_t mapping_bytes;
    void* block;   // what had to be converted or transposed, or NULL
    Packed packed; // BF16Z: the matrices
} GPT2Model;

// Is this a GPT-2 that the program can run? Positive sizes below stated limits, C % NH == 0, V <= Vp, and no product
// of sizes that overflows. The error names the number and what it should be; `where` is the file.
bool gpt2_config_check(const GPT2Config* config, const char* where, Error* error);

// Number of parameters, padding included.
size_t gpt2_num_parameters(const GPT2Config* config);

// One layer of a tensor that holds all of them: its data is (rows, cols).
Tensor gpt2_tensor_layer(const Tensor* tensor, const ParameterShape* shape, size_t layer);

// The matrix of one layer of a model (layer 0 for the ones outside layers).
Tensor gpt2_tensor(const GPT2Model* model, ParameterId id, int layer);

// The vector of one layer: f32, (cols).
const float* gpt2_vector(const GPT2Model* model, ParameterId id, int layer);

// Row `row` of a matrix with `cols` columns, widened to out (cols): an embedding lookup.
void gpt2_matrix_row(float* out, const Tensor* matrix, size_t row, size_t cols);

// Bytes of each part of a tensor, all layers together, when the matrices are kept as `dtype`; 0 for parts it lacks.
typedef struct {
    size_t data, scales, common, rare_starts;
} TensorBytes;

TensorBytes gpt2_tensor_bytes(const ParameterShape* shape, DType dtype);

// That tensor with its parts in a block from *offset on, in the order of TensorBytes, each at a multiple of 64 bytes;
// *offset moves past them. The caller sets its rare weights. With block == NULL only *offset is of use.
Tensor gpt2_place_tensor(const ParameterShape* shape, DType dtype, const void* block, size_t* offset);

// Bytes of weights that one decoded token must read where the matrices are kept as `dtype`: every block, the final
// LayerNorm and the head (V rows of wte), and one row each of wte and wpe. Rare weights of BF16Z depend on the model.
size_t gpt2_bytes_per_token_in(DType dtype, const GPT2Config* config);

// The same with the rare weights of this model.
size_t gpt2_bytes_per_token(const GPT2Model* model, DType dtype);

#ifdef __cplusplus
}
#endif

#endif
