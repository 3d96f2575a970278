#include "pack.h"

#include <stdlib.h>
#include <string.h>

#include "mapped_file.h"
#include "openmp.h"
#include "processors.h"
#include "progress.h"

// Places the matrices, packed, in a block. Returns its size; with block == NULL that is all it is good for.
static size_t place_matrices(Tensor* packed, const GPT2Config* config, const void* block) {
    size_t offset = 0;
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, config);
        if (shape.kind != VECTOR) packed[id] = gpt2_place_tensor(&shape, DTYPE_BF16Z, block, &offset);
    }
    return offset;
}

// A matrix, all layers of it, on its way.
typedef struct {
    const uint16_t* in; // (rows, cols)
    size_t rows, cols;
    uint8_t *data, *common;
    uint32_t* starts; // (rows + 1)
} Packing;

enum { SAMPLE = 1 << 18 }; // weights that tell which high bytes are common

static void find_common(const Packing* p) {
    uint32_t counts[128] = {0};
    size_t every = p->rows * p->cols / SAMPLE + 1;
    for (size_t r = 0; r < p->rows; r += every) {
        for (size_t c = 0; c < p->cols; c++) counts[p->in[r * p->cols + c] >> 8 & 127]++;
    }
    bf16z_choose_common(p->common, counts);
}

// Packs rows first .. end - 1. starts[r + 1] becomes how many of row r's weights are rare.
static void pack_rows(const Packing* p, size_t first, size_t end) {
    size_t row_bytes = dtype_stride_bytes(DTYPE_BF16Z, p->cols);
#pragma omp parallel for schedule(static)
    for (size_t r = first; r < end; r++) {
        p->starts[r + 1] = (uint32_t)bf16z_pack_row(p->data + r * row_bytes, p->in + r * p->cols, p->common, p->cols);
    }
}

// Lists the rare weights of rows first .. end - 1 behind those that are listed. starts[r + 1] becomes where row r's
// end.
static bool list_rare(Packed* packed, const Packing* p, size_t first, size_t end, const char* where, Error* error) {
    size_t num_rare = packed->num_rare;
    for (size_t r = first; r < end; r++) {
        num_rare += p->starts[r + 1];
        if (num_rare > UINT32_MAX) {
            return fail(error, "%s: too many of its weights are of rare magnitudes for bf16z; try --dtype bf16", where);
        }
        p->starts[r + 1] = (uint32_t)num_rare;
    }
    uint32_t* longer = realloc(packed->rare, (num_rare + 1) * sizeof *longer);
    if (longer == NULL) return fail(error, "%s: no memory for %zu rare weights; try --dtype bf16", where, num_rare);
    packed->rare = longer;
    packed->num_rare = num_rare;
#pragma omp parallel for schedule(static)
    for (size_t r = first; r < end; r++) {
        if (p->starts[r] == p->starts[r + 1]) continue;
        bf16z_list_rare(longer + p->starts[r], p->in + r * p->cols, p->common, p->cols);
    }
    return true;
}

enum { ROWS_AT_ONCE = 4096 }; // before their pages are given back

static bool pack_matrix(Packed* packed, const Packing* p, Progress* progress, const char* where, Error* error) {
    find_common(p);
    p->starts[0] = (uint32_t)packed->num_rare;
    for (size_t first = 0; first < p->rows; first += ROWS_AT_ONCE) {
        size_t n = p->rows - first < ROWS_AT_ONCE ? p->rows - first : ROWS_AT_ONCE;
        pack_rows(p, first, first + n);
        if (!list_rare(packed, p, first, first + n, where, error)) return false;
        release_pages(p->in + first * p->cols, n * p->cols * sizeof *p->in);
        progress_add(progress, n * p->cols);
    }
    return true;
}

// Packs the matrices into their places.
static bool pack_matrices(GPT2Model* model, const Tensor* packed, const char* where, Error* error) {
    Progress progress = progress_start("packing", model->num_parameters, model->shows_progress);
    bool ok = true;
    for (int id = 0; ok && id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &model->config);
        if (shape.kind == VECTOR) continue;
        Packing p = {.in = model->tensors[id].data, .rows = shape.layers * shape.rows, .cols = shape.cols};
        p.data = (uint8_t*)packed[id].data; // their memory is the block, so it may be written
        p.common = (uint8_t*)packed[id].common;
        p.starts = (uint32_t*)packed[id].rare_starts;
        ok = pack_matrix(&model->packed, &p, &progress, where, error);
        if (ok) model->tensors[id] = packed[id];
    }
    progress_end(&progress);
    return ok;
}

bool pack_model(GPT2Model* model, const char* where, Error* error) {
    Tensor packed[NUM_PARAMETERS];
    size_t bytes = place_matrices(packed, &model->config, NULL);
    Error memory;
    void* block = model->packed.block = allocate(bytes, 1, where, &memory);
    if (block == NULL) return fail(error, "%s; try --dtype bf16", memory.text);
    place_matrices(packed, &model->config, block);
    prefer_huge_pages(block, bytes);
    part_threads(omp_get_max_threads());
    if (!pack_matrices(model, packed, where, error)) return false;
    for (int id = 0; id < NUM_PARAMETERS; id++) { // the list lies still only now
        if (model->tensors[id].dtype == DTYPE_BF16Z) model->tensors[id].rare = model->packed.rare;
    }
    model->dtype = DTYPE_BF16Z;
    return true;
}

void pack_free(GPT2Model* model) {
    free(model->packed.block);
    free(model->packed.rare);
    model->packed = (Packed){0};
}
