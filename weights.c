#include "weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"
#include "openmp.h"
#include "pack.h"
#include "processors.h"
#include "progress.h"

_Static_assert(sizeof(size_t) >= 8, "sizes of checkpoints need 64 bits");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "weights are used as the little-endian files hold them");

// ---------------------------------------------------------------------------------------------------------------------
// Conversion of one layer of one parameter

enum {
    TILE = 32, // rows converted together: a transposed source is read in runs of this many elements, whole cache lines
    PARALLEL_ELEMENTS = 1 << 15, // below it, waking other threads takes longer than the work
    TILE_PAD = 16, // floats that keep the rows of a tile apart, so that columns do not fall into one cache set
};

typedef struct {
    ParameterShape shape;
    SourceTensor source;
    DType dtype;      // of the result
    char* data;       // (rows, dtype_row_stride(dtype, cols))
    uint16_t* scales; // (rows, q8_num_scales(cols)) when the result is Q8
} Conversion;

// A weight that the result's dtype cannot express.
typedef struct {
    bool found;
    size_t row, col;
    float value;
} Unfit;

size_t first_unfit(const float* in, DType dtype, size_t n) {
    // The largest magnitudes that do not round to infinity; in Q8 it is the scale, largest / 127, that must not.
    static const float limits[NUM_DTYPES] = {
        [DTYPE_BF16] = 0x1.fefffep127f, [DTYPE_F16] = 0x1.ffdffep15f, [DTYPE_Q8] = 8321039.5f};
    dtype = dtype_unpacked(dtype);
    if (dtype == DTYPE_F32) return n;
    int any = 0;
    for (size_t i = 0; i < n; i++) any |= !(fabsf(in[i]) <= limits[dtype]);
    if (!any) return n;
    size_t i = 0;
    while (fabsf(in[i]) <= limits[dtype]) i++;
    return i;
}

// row_to_f32 for elements at any alignment.
static void widen(float* out, const unsigned char* in, DType dtype, size_t n) {
    if (dtype == DTYPE_F32) {
        memcpy(out, in, n * sizeof(float));
        return;
    }
    uint16_t aligned[256];
    const size_t chunk = sizeof aligned / sizeof *aligned;
    for (size_t i = 0; i < n; i += chunk) {
        size_t m = n - i < chunk ? n - i : chunk;
        memcpy(aligned, in + i * sizeof *aligned, m * sizeof *aligned);
        row_to_f32(out + i, aligned, dtype, m);
    }
}

// Rows first .. first + n of a source that holds (cols, rows), n <= TILE, into out (n, stride): in square tiles, so
// that both the reads and the writes use whole cache lines.
static void read_transposed(float* out, size_t stride, const Conversion* c, size_t first, size_t n) {
    float tile[TILE][TILE]; // (columns of the result, rows of the result)
    const unsigned char* data = c->source.tensor.data;
    size_t rows = c->shape.rows, cols = c->shape.cols, size = dtype_size(c->source.tensor.dtype);
    for (size_t col = 0; col < cols; col += TILE) {
        size_t m = cols - col < TILE ? cols - col : TILE;
        for (size_t j = 0; j < m; j++) {
            widen(tile[j], data + ((col + j) * rows + first) * size, c->source.tensor.dtype, n);
        }
        for (size_t r = 0; r < n; r++) {
            for (size_t j = 0; j < m; j++) out[r * stride + col + j] = tile[j][r];
        }
    }
}

// One row of floats into the result, rounded.
static void write_row(const Conversion* c, size_t row, const float* in, Unfit* unfit) {
    size_t cols = c->shape.cols;
    if (c->dtype != c->source.tensor.dtype) {
        size_t col = first_unfit(in, c->dtype, cols);
        if (col < cols) {
#pragma omp critical(weights_unfit)
            if (!unfit->found || row < unfit->row) *unfit = (Unfit){true, row, col, in[col]};
            return;
        }
    }
    char* out = c->data + row * dtype_stride_bytes(c->dtype, cols);
    uint16_t* scales = c->dtype == DTYPE_Q8 ? c->scales + row * q8_num_scales(cols) : NULL;
    row_from_f32(out, scales, in, c->dtype, cols);
}

// One row of a source that is not transposed, into out (cols).
static void read_row(float* out, const Conversion* c, size_t row) {
    const Tensor* tensor = &c->source.tensor;
    size_t cols = c->shape.cols;
    if (tensor->dtype == DTYPE_Q8 || tensor->dtype == DTYPE_BF16Z) {
        gpt2_matrix_row(out, tensor, row, cols);
    } else {
        const unsigned char* data = tensor->data;
        widen(out, data + row * dtype_stride_bytes(tensor->dtype, cols), tensor->dtype, cols);
    }
}

// Rows first .. first + n, n <= TILE. scratch (TILE, cols + TILE_PAD).
static void convert_rows(const Conversion* c, size_t first, size_t n, float* scratch, Unfit* unfit) {
    const Tensor* tensor = &c->source.tensor;
    size_t stride = c->shape.cols + TILE_PAD, row_bytes = dtype_stride_bytes(c->dtype, c->shape.cols);
    if (c->source.is_transposed) {
        read_transposed(scratch, stride, c, first, n);
        for (size_t r = 0; r < n; r++) write_row(c, first + r, scratch + r * stride, unfit);
    } else if (tensor->dtype == c->dtype) { // not Q8, not BF16Z: these would have stayed in the file
        memcpy(c->data + first * row_bytes, (const char*)tensor->data + first * row_bytes, n * row_bytes);
    } else {
        for (size_t row = first; row < first + n; row++) {
            read_row(scratch, c, row);
            write_row(c, row, scratch, unfit);
        }
    }
}

// scratch (threads, scratch_size).
static Unfit convert(const Conversion* c, float* scratch, size_t scratch_size) {
    Unfit unfit = {0};
    size_t rows = c->shape.rows;
    bool is_large = rows * c->shape.cols >= PARALLEL_ELEMENTS;
    if (is_large) part_threads(omp_get_max_threads());
#pragma omp parallel for schedule(static) if (is_large)
    for (size_t first = 0; first < rows; first += TILE) {
        size_t n = rows - first < TILE ? rows - first : TILE;
        convert_rows(c, first, n, scratch + (size_t)omp_get_thread_num() * scratch_size, &unfit);
    }
    return unfit;
}

// ---------------------------------------------------------------------------------------------------------------------
// A whole model

static bool stays_in_file(DType dtype, const SourceTensor* source, bool use_in_place) {
    return use_in_place && source->tensor.dtype == dtype;
}

// Says where every tensor lies: in the file, or in the block, each at a multiple of 64 bytes. Returns the block's size;
// with block == NULL that is all it is good for.
static size_t place_tensors(GPT2Model* model, const SourceTensor* sources, bool use_in_place, const void* block) {
    size_t offset = 0;
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &model->config);
        const SourceTensor* source = &sources[source_index(&model->config, id, 0)];
        DType dtype = shape.kind == VECTOR ? DTYPE_F32 : model->dtype;
        bool stays = stays_in_file(dtype, source, use_in_place);
        model->tensors[id] = stays ? source->tensor : gpt2_place_tensor(&shape, dtype, block, &offset);
    }
    return offset;
}

static bool convert_parameter(GPT2Model* model, ParameterId id, const SourceTensor* sources, float* scratch,
                              size_t scratch_size, Progress* progress, const char* where, Error* error) {
    ParameterShape shape = gpt2_parameter_shape(id, &model->config);
    for (size_t layer = 0; layer < shape.layers; layer++) {
        Tensor tensor = gpt2_tensor(model, id, (int)layer); // its memory is model->block, so it may be written
        Conversion c = {shape, sources[source_index(&model->config, (int)id, layer)], tensor.dtype, (char*)tensor.data,
                        (uint16_t*)tensor.scales};
        Unfit unfit = convert(&c, scratch, scratch_size);
        if (unfit.found) {
            return fail(error,
                        "%s: %s holds %g (layer %zu, row %zu, column %zu), which %s cannot express; try --dtype f32",
                        where, shape.name, (double)unfit.value, layer, unfit.row, unfit.col, dtype_names[c.dtype]);
        }
        release_pages(c.source.tensor.data, shape.rows * dtype_stride_bytes(c.source.tensor.dtype, shape.cols));
        progress_add(progress, shape.rows * shape.cols);
    }
    return true;
}

static bool convert_parameters(GPT2Model* model, const SourceTensor* sources, bool use_in_place, const char* where,
                               Error* error) {
    size_t scratch_size = TILE * (4 * (size_t)model->config.channels + TILE_PAD); // 4C: the longest row, fcprojw's
    float* scratch = allocate((size_t)omp_get_max_threads() * scratch_size, sizeof(float), "loading", error);
    if (scratch == NULL) return false;
    Progress progress = progress_start("loading", model->num_parameters, model->shows_progress);
    bool ok = true;
    for (int id = 0; ok && id < NUM_PARAMETERS; id++) {
        const SourceTensor* source = &sources[source_index(&model->config, id, 0)];
        if (stays_in_file(model->tensors[id].dtype, source, use_in_place)) continue;
        ok = convert_parameter(model, (ParameterId)id, sources, scratch, scratch_size, &progress, where, error);
    }
    progress_end(&progress);
    free(scratch);
    return ok;
}

// The number of a file among those that hold weights; it becomes one when it is not yet. files has room for another.
static bool number_file(size_t* number, CheckpointContents* contents, const char* file, Error* error) {
    for (*number = 0; *number < contents->num_files; ++*number) {
        if (strcmp(contents->files[*number], file) == 0) return true;
    }
    contents->files[*number] = strdup(file);
    if (contents->files[*number] == NULL) return fail(error, "%s: no memory for its name", file);
    contents->num_files++;
    return true;
}

static bool note_contents(const GPT2Model* model, const SourceTensor* sources, const char* where, Error* error) {
    CheckpointContents* contents = model->contents;
    size_t L = (size_t)model->config.num_layers;
    contents->places = allocate(NUM_PARAMETERS * L, sizeof *contents->places, where, error);
    contents->files = allocate(NUM_PARAMETERS * L, sizeof *contents->files, where, error);
    if (contents->places == NULL || contents->files == NULL) return false;
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &model->config);
        for (size_t layer = 0; layer < shape.layers; layer++) {
            const SourceTensor* source = &sources[source_index(&model->config, id, layer)];
            TensorPlace* place = &contents->places[source_index(&model->config, id, layer)];
            DType dtype = source->tensor.dtype;
            size_t bytes = shape.rows * dtype_stride_bytes(dtype, shape.cols);
            *place = (TensorPlace){0, source->offset, bytes, dtype, source->is_transposed};
            if (!number_file(&place->file, contents, source->file, error)) return false;
        }
    }
    return true;
}

SourceTensor* weights_new_sources(const GPT2Config* config, const char* where, Error* error) {
    size_t n = (size_t)NUM_PARAMETERS * (size_t)config->num_layers;
    SourceTensor* sources = allocate(n, sizeof *sources, where, error);
    if (sources != NULL) memset(sources, 0, n * sizeof *sources);
    return sources;
}

bool weights_from_sources(GPT2Model* model, const SourceTensor* sources, DType dtype, bool use_in_place,
                          const char* where, Error* error) {
    if (dtype == DTYPE_BF16Z && sources[0].tensor.dtype != DTYPE_BF16Z) {
        return weights_from_sources(model, sources, DTYPE_BF16, use_in_place, where, error) &&
               pack_model(model, where, error);
    }
    model->dtype = dtype;
    model->num_parameters = gpt2_num_parameters(&model->config);
    if (model->contents != NULL && !note_contents(model, sources, where, error)) return false;
    size_t bytes = place_tensors(model, sources, use_in_place, NULL);
    if (bytes == 0) return true; // everything stays in the file
    Error memory;
    model->block = allocate(bytes, 1, where, &memory);
    if (model->block == NULL) return fail(error, "%s; its weights need less as --dtype q8", memory.text);
    prefer_huge_pages(model->block, bytes); // a token reads all of it: spares it page walks (dev/CPU.md)
    place_tensors(model, sources, use_in_place, model->block);
    return convert_parameters(model, sources, use_in_place, where, error);
}

bool weights_from_file(GPT2Model* model, const SourceTensor* sources, MappedFile* file, bool keep_dtype, DType dtype,
                       const char* path, Error* error) {
    if (keep_dtype) dtype = model->file_dtype;
    bool stays = dtype == model->file_dtype;
    bool is_packed_later = dtype == DTYPE_BF16Z && model->file_dtype == DTYPE_BF16;
    if (!weights_from_sources(model, sources, dtype, stays || is_packed_later, path, error)) return false;
    if (stays) {
        model->mapping = (void*)file->bytes;
        model->mapping_bytes = file->size;
        *file = (MappedFile){0};
    }
    return true;
}

bool weights_find_damage(const GPT2Model* model, Error* found) {
    Error ignored;
    float* row = allocate(4 * (size_t)model->config.channels, sizeof *row, "search", &ignored);
    for (int id = 0; row != NULL && id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &model->config);
        size_t rows = id == WTE ? (size_t)model->config.vocab_size : shape.layers * shape.rows; // padding is never used
        for (size_t r = 0; r < rows; r++) {
            gpt2_matrix_row(row, &model->tensors[id], r, shape.cols);
            size_t col = 0;
            while (col < shape.cols && isfinite(row[col])) col++;
            if (col == shape.cols) continue;
            fail(found, "%s holds %g (layer %zu, row %zu, column %zu)", shape.name, (double)row[col], r / shape.rows,
                 r % shape.rows, col);
            free(row);
            return true;
        }
    }
    free(row);
    return false;
}

bool weights_fail_damaged(const GPT2Model* model, const char* path, Error* error) {
    Error found;
    if (weights_find_damage(model, &found)) {
        return fail(error, "%s: its logits are not finite: %s; the file is damaged", path, found.text);
    }
    return fail(error,
                "%s: its logits are not finite, though all weights are: its activations are too large for %s weights%s",
                path, dtype_names[model->dtype], model->dtype == DTYPE_F32 ? "" : "; try --dtype f32");
}
