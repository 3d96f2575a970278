// --info: what a checkpoint is, where everything in it lies, and what it needs.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "inspect.h"
#include "operations.h"
#include "print.h"
#include "weights.h"

typedef struct {
    const Generation* g;
    GPT2Model model; // as the file has it
    CheckpointContents contents;
} Info;

// A row of the table of tensors: one layer of a parameter, or all of them where they adjoin in the file.
typedef struct {
    ParameterId id;
    ParameterShape shape;
    size_t layer, num_layers;
    TensorPlace place; // of the first layer, bytes of all
} TensorRow;

typedef struct {
    double minimum, maximum, mean; // of the numbers that are finite
    size_t num_nan, num_infinite;
} Statistics;

static TensorRow row_at(const Info* info, ParameterId id, size_t layer) {
    TensorRow row = {.id = id, .shape = gpt2_parameter_shape(id, &info->model.config), .layer = layer};
    const TensorPlace* places = &info->contents.places[source_index(&info->model.config, (int)id, 0)];
    row.place = places[layer];
    row.num_layers = 1;
    for (size_t l = layer + 1; l < row.shape.layers && !row.place.is_transposed; l++) {
        bool adjoins = places[l].file == row.place.file && places[l].dtype == row.place.dtype &&
                       places[l].offset == row.place.offset + row.place.bytes;
        if (!adjoins || layer > 0) break;
        row.place.bytes += places[l].bytes;
        row.num_layers++;
    }
    return row;
}

// scratch (cols)
static Statistics statistics(const Info* info, const TensorRow* row, float* scratch) {
    Statistics s = {.minimum = INFINITY, .maximum = -INFINITY};
    double sum = 0, finite = 0;
    for (size_t layer = row->layer; layer < row->layer + row->num_layers; layer++) {
        Tensor tensor = gpt2_tensor(&info->model, row->id, (int)layer);
        for (size_t r = 0; r < row->shape.rows; r++) {
            gpt2_matrix_row(scratch, &tensor, r, row->shape.cols);
            for (size_t c = 0; c < row->shape.cols; c++) {
                double value = (double)scratch[c];
                s.num_nan += isnan(value) != 0;
                s.num_infinite += isinf(value) != 0;
                if (!isfinite(value)) continue;
                s.minimum = fmin(s.minimum, value);
                s.maximum = fmax(s.maximum, value);
                sum += value;
                finite++;
            }
        }
    }
    s.mean = sum / finite;
    return s;
}

// The name that the file has for it, its shape there.
static void describe_row(char name[64], char shape[64], const Info* info, const TensorRow* row) {
    const ParameterShape* s = &row->shape;
    bool is_hf = strncmp(info->contents.format, "Hugging", 7) == 0;
    if (!is_hf) snprintf(name, 64, "%s", s->name);
    else if (s->per_layer && row->num_layers == 1) snprintf(name, 64, "h.%zu.%s", row->layer, s->hf_name);
    else if (s->per_layer) snprintf(name, 64, "h.0-%zu.%s", row->num_layers - 1, s->hf_name);
    else snprintf(name, 64, "%s", s->hf_name);
    size_t outer = row->place.is_transposed ? s->cols : s->rows, inner = row->place.is_transposed ? s->rows : s->cols;
    int n = s->per_layer && !is_hf ? snprintf(shape, 64, "(%zu, ", row->num_layers) : snprintf(shape, 64, "(");
    if (s->kind == VECTOR) snprintf(shape + n, 64 - (size_t)n, "%zu)", s->cols);
    else snprintf(shape + n, 64 - (size_t)n, "%zu, %zu)", outer, inner);
}

// What a loop over the rows of the table does with each. scratch (4C)
static void print_row(FILE* out, const Info* info, const TensorRow* row, bool is_first, float* scratch) {
    char name[64], shape[64];
    bool is_json = info->g->options->json, with_values = info->g->options->verbose;
    describe_row(name, shape, info, row);
    Statistics s = with_values ? statistics(info, row, scratch) : (Statistics){0};
    if (!is_json) {
        fprintf(out, "  %-26s %-18s %-5s %4zu %12zu %12zu", name, shape, dtype_names[row->place.dtype], row->place.file,
                row->place.offset, row->place.bytes);
        if (with_values) {
            fprintf(out, " %12.5g %12.5g %12.5g %6zu %6zu", s.minimum, s.maximum, s.mean, s.num_nan, s.num_infinite);
        }
        fputc('\n', out);
        return;
    }
    fputs(is_first ? "\n    {" : ",\n    {", out);
    json_text(out, "name", name);
    fprintf(out, "\"parameter\": \"%s\", \"layer\": %zu, \"layers\": %zu, ", row->shape.name, row->layer,
            row->num_layers);
    json_text(out, "shape", shape);
    fprintf(out, "\"dtype\": \"%s\", \"transposed\": %s, \"file\": %zu, \"offset\": %zu, \"bytes\": %zu",
            dtype_names[row->place.dtype], row->place.is_transposed ? "true" : "false", row->place.file,
            row->place.offset, row->place.bytes);
    if (with_values) {
        fputs(", ", out);
        json_number(out, "minimum", s.minimum, ", ");
        json_number(out, "maximum", s.maximum, ", ");
        json_number(out, "mean", s.mean, ", ");
        fprintf(out, "\"nan\": %zu, \"infinite\": %zu", s.num_nan, s.num_infinite);
    }
    fputc('}', out);
}

static bool print_rows(FILE* out, const Info* info, Error* error) {
    float* scratch = allocate(4 * (size_t)info->model.config.channels, sizeof *scratch, "--info", error);
    if (scratch == NULL) return false;
    bool is_first = true;
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &info->model.config);
        for (size_t layer = 0; layer < shape.layers;) {
            TensorRow row = row_at(info, (ParameterId)id, layer);
            print_row(out, info, &row, is_first, scratch);
            is_first = false;
            layer += row.num_layers;
        }
    }
    free(scratch);
    return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// Sizes.

static size_t parameters_without_padding(const GPT2Config* config) {
    GPT2Config bare = *config;
    bare.padded_vocab_size = bare.vocab_size;
    return gpt2_num_parameters(&bare);
}

static size_t weight_bytes(const GPT2Config* config, DType dtype) {
    size_t bytes = 0;
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, config);
        DType kept = shape.kind == VECTOR ? DTYPE_F32 : dtype;
        bytes += shape.layers * shape.rows * dtype_row_bytes(kept, shape.cols);
    }
    return bytes;
}

// Keys and values of one position, all layers.
static size_t cache_bytes(const GPT2Config* config, DType dtype) {
    return 2 * (size_t)config->num_layers * (size_t)config->channels * cache_element_bytes(dtype);
}

static void print_memory(FILE* out, const Info* info) {
    const GPT2Config* config = &info->model.config;
    size_t full = (size_t)info->g->context;
    const size_t contexts[3] = {(full + 7) / 8, (full + 1) / 2, full};
    fprintf(out, "\n[Memory]  MB: weights, KV cache of one sequence, both\n  %-6s %10s", "", "weights");
    for (int i = 0; i < 3; i++) fprintf(out, "   cache %6zu       both", contexts[i]);
    fputc('\n', out);
    for (int dtype = 0; dtype < NUM_DTYPES; dtype++) {
        double weights = 1e-6 * (double)weight_bytes(config, (DType)dtype);
        fprintf(out, "  %-6s %10.2f", dtype_names[dtype], weights);
        for (int i = 0; i < 3; i++) {
            double cache = 1e-6 * (double)(cache_bytes(config, (DType)dtype) * contexts[i]);
            fprintf(out, " %14.2f %10.2f", cache, weights + cache);
        }
        fputs(dtype == (int)info->model.dtype ? "  as the file has them\n" : "\n", out);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The tokenizer.

static const char SAMPLE[] = "Once upon a time, it's 1234.";

static bool print_sample(FILE* out, const Generation* g, Error* error) {
    int* ids;
    size_t n, size;
    if (!tokenizer_encode(g->tokenizer, SAMPLE, strlen(SAMPLE), &ids, &n, error)) return false;
    if (g->options->json) {
        fputs("\"sample\": ", out);
        json_quoted(out, SAMPLE, strlen(SAMPLE));
        fputs(", ", out);
        json_ids(out, "sample_tokens", ids, (int)n);
    } else {
        fprintf(out, "  sample:");
        for (size_t i = 0; i < n; i++) {
            const char* bytes = tokenizer_decode(g->tokenizer, ids[i], &size);
            fprintf(out, " %d ", ids[i]);
            print_repr(out, bytes, size);
        }
        fputc('\n', out);
    }
    free(ids);
    return true;
}

// ---------------------------------------------------------------------------------------------------------------------

static bool print_text(FILE* out, const Info* info, Error* error) {
    const Generation* g = info->g;
    const GPT2Config* c = &info->model.config;
    const CheckpointContents* contents = &info->contents;
    fprintf(out, "model: %s%s\nformat: %s\nconfiguration: %s\n", g->paths.model,
            g->paths.is_bundled ? " (the bundled one)" : "", contents->format, contents->configuration);
    for (size_t i = 0; i < contents->num_files; i++) fprintf(out, "file %zu: %s\n", i, contents->files[i]);
    fprintf(out, "max_seq_len %d, vocab_size %d (%d rows), num_layers %d, num_heads %d of %d channels, channels %d\n",
            c->max_seq_len, c->vocab_size, c->padded_vocab_size, c->num_layers, c->num_heads,
            c->channels / c->num_heads, c->channels);
    fprintf(out, "parameters: %zu, without padding %zu\n", gpt2_num_parameters(c), parameters_without_padding(c));
    fprintf(out, "\n[Tensors]\n  %-26s %-18s %-5s %4s %12s %12s", "name", "shape", "type", "file", "offset", "bytes");
    if (g->options->verbose) { fprintf(out, " %12s %12s %12s %6s %6s", "minimum", "maximum", "mean", "NaN", "inf"); }
    fputc('\n', out);
    if (!print_rows(out, info, error)) return false;
    print_memory(out, info);
    if (g->tokenizer == NULL) {
        fputs("\n[Tokenizer]\n  none beside the model; -T names one\n", out);
        return true;
    }
    fprintf(out, "\n[Tokenizer]\n  from: %s\n  tokens: %d\n  <|endoftext|>: ", g->paths.tokenizer,
            tokenizer_vocab_size(g->tokenizer));
    if (tokenizer_eot(g->tokenizer) >= 0) fprintf(out, "%d\n", tokenizer_eot(g->tokenizer));
    else fputs("none\n", out);
    return print_sample(out, g, error);
}

static bool print_json(FILE* out, const Info* info, Error* error) {
    const Generation* g = info->g;
    const GPT2Config* c = &info->model.config;
    const CheckpointContents* contents = &info->contents;
    fputs("{\n  ", out);
    json_text(out, "model", g->paths.model);
    json_text(out, "format", contents->format);
    json_text(out, "configuration", contents->configuration);
    fputs("\n  \"files\": [", out);
    for (size_t i = 0; i < contents->num_files; i++) {
        if (i > 0) fputs(", ", out);
        json_quoted(out, contents->files[i], strlen(contents->files[i]));
    }
    fprintf(
        out,
        "],\n  \"config\": {\"max_seq_len\": %d, \"vocab_size\": %d, \"padded_vocab_size\": %d, \"num_layers\": %d, "
        "\"num_heads\": %d, \"channels\": %d},\n  \"parameters\": %zu, \"parameters_without_padding\": %zu,\n",
        c->max_seq_len, c->vocab_size, c->padded_vocab_size, c->num_layers, c->num_heads, c->channels,
        gpt2_num_parameters(c), parameters_without_padding(c));
    fputs("  \"tensors\": [", out);
    if (!print_rows(out, info, error)) return false;
    fputs("],\n  \"memory\": {", out);
    for (int dtype = 0; dtype < NUM_DTYPES; dtype++) {
        fprintf(out, "%s\"%s\": {\"weights\": %zu, \"cache_per_token\": %zu}", dtype == 0 ? "" : ", ",
                dtype_names[dtype], weight_bytes(c, (DType)dtype), cache_bytes(c, (DType)dtype));
    }
    if (g->tokenizer == NULL) {
        fputs("},\n  \"tokenizer\": null\n}\n", out);
        return true;
    }
    fputs("},\n  \"tokenizer\": {", out);
    json_text(out, "path", g->paths.tokenizer);
    fprintf(out, "\"tokens\": %d, \"eot\": %d, ", tokenizer_vocab_size(g->tokenizer), tokenizer_eot(g->tokenizer));
    if (!print_sample(out, g, error)) return false;
    fputs("}\n}\n", out);
    return true;
}

bool info_print(const Generation* g, TextOutput* out, Error* error) {
    Info info = {.g = g};
    Page page = {0};
    if (!checkpoint_load_contents(&info.model, &info.contents, g->paths.model, error)) return false;
    bool ok = page_open(&page, error);
    ok = ok && (g->options->json ? print_json(page.out, &info, error) : print_text(page.out, &info, error));
    if (ok) ok = page_end(&page, out, error);
    else page_drop(&page);
    checkpoint_free(&info.model);
    checkpoint_contents_free(&info.contents);
    return ok;
}
