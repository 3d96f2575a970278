#include "huggingface.h"

#ifdef HAVE_JANSSON
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "checkpoint.h"
#include "safetensors.h"
#include "weights.h"

// What config.json says, or, where there is none, what the shapes say.
typedef struct {
    GPT2Config config;
    bool is_tied; // the head's weight is wte, so that the file need not hold it
} HfConfig;

// One file of tensors and where it lies.
typedef struct {
    char path[4096];
    MappedFile file;
    SafetensorsFile tensors;
} Shard;

// ---------------------------------------------------------------------------------------------------------------------
// config.json

static json_t* load_json_object(const char* path, Error* error) {
    MappedFile file;
    if (!map_file(&file, path, error)) return NULL;
    json_t* root = parse_json_object(file.bytes, file.size, path, error);
    unmap_file(&file);
    return root;
}

static bool read_int(int* out, const json_t* root, const char* key, const char* path, Error* error) {
    const json_t* value = json_object_get(root, key);
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < 0 || number > INT_MAX) {
        return fail(error, "%s: %s is missing or not a whole number; it is no GPT-2 configuration", path, key);
    }
    *out = (int)number;
    return true;
}

// Switches that change what the model computes: only the GPT-2 of the paper is implemented.
static bool check_switches(const json_t* root, const char* path, Error* error) {
    static const struct {
        const char* key;
        bool required;
    } switches[] = {
        {"scale_attn_weights", true},       {"scale_attn_by_inverse_layer_idx", false},
        {"reorder_and_upcast_attn", false}, {"add_cross_attention", false},
        {"is_encoder_decoder", false},
    };
    for (size_t i = 0; i < sizeof switches / sizeof *switches; i++) {
        const json_t* value = json_object_get(root, switches[i].key);
        if (value == NULL || json_is_null(value)) continue;
        if (!json_is_boolean(value) || json_boolean_value(value) != switches[i].required) {
            return fail(error, "%s: %s must be %s: another variant of GPT-2 is not supported", path, switches[i].key,
                        switches[i].required ? "true" : "false");
        }
    }
    return true;
}

// What a configuration may only say in one way, or not at all.
static bool check_contradictions(HfConfig* hf, const json_t* root, const char* path, Error* error) {
    const json_t *context = json_object_get(root, "n_ctx"), *tied = json_object_get(root, "tie_word_embeddings");
    const json_t* quantization = json_object_get(root, "quantization_config");
    hf->is_tied = !json_is_false(tied);
    if (context != NULL && !json_is_null(context) && json_integer_value(context) != hf->config.max_seq_len) {
        return fail(error, "%s: n_ctx is not n_positions, which is %d", path, hf->config.max_seq_len);
    }
    if (tied != NULL && !json_is_null(tied) && !json_is_boolean(tied)) {
        return fail(error, "%s: tie_word_embeddings is neither true nor false", path);
    }
    if (quantization == NULL || json_is_null(quantization)) return true;
    return fail(error, "%s: has a quantization_config; only weights in F32, F16 or BF16 are read", path);
}

// Absent, null, or one of the words.
static bool check_word(const json_t* root, const char* key, const char* const* words, size_t n, const char* path,
                       Error* error) {
    const json_t* value = json_object_get(root, key);
    if (value == NULL || json_is_null(value)) return true;
    const char* word = json_string_value(value);
    for (size_t i = 0; word != NULL && i < n; i++) {
        if (strcmp(word, words[i]) == 0) return true;
    }
    return fail(error, "%s: %s is %s, only %s is supported", path, key, word ? printable(word).text : "no string",
                words[0]);
}

static bool check_variant(const json_t* root, const GPT2Config* config, const char* path, Error* error) {
    static const char *const types[] = {"gpt2"}, *const activations[] = {"gelu_new", "gelu_pytorch_tanh"};
    const json_t *inner = json_object_get(root, "n_inner"), *epsilon = json_object_get(root, "layer_norm_epsilon");
    if (!check_word(root, "model_type", types, 1, path, error) ||
        !check_word(root, "activation_function", activations, 2, path, error) || !check_switches(root, path, error)) {
        return false;
    }
    if (inner != NULL && !json_is_null(inner) && json_integer_value(inner) != 4 * (json_int_t)config->channels) {
        return fail(error, "%s: n_inner must be null or 4 * n_embd = %lld: another width is not supported", path,
                    4 * (long long)config->channels);
    }
    if (epsilon != NULL && fabs(json_number_value(epsilon) - 1e-5) > 1e-12) {
        return fail(error, "%s: layer_norm_epsilon is %g, only 1e-5 is supported", path, json_number_value(epsilon));
    }
    return true;
}

static bool parse_config(HfConfig* hf, const json_t* root, const char* path, Error* error) {
    GPT2Config* config = &hf->config;
    const char* positions = json_object_get(root, "n_positions") != NULL ? "n_positions" : "n_ctx";
    bool ok = read_int(&config->vocab_size, root, "vocab_size", path, error) &&
              read_int(&config->max_seq_len, root, positions, path, error) &&
              read_int(&config->channels, root, "n_embd", path, error) &&
              read_int(&config->num_layers, root, "n_layer", path, error) &&
              read_int(&config->num_heads, root, "n_head", path, error);
    if (!ok) return false;
    config->padded_vocab_size = config->vocab_size;
    return gpt2_config_check(config, path, error) && check_contradictions(hf, root, path, error) &&
           check_variant(root, config, path, error);
}

static bool load_config(HfConfig* hf, const char* path, Error* error) {
    json_t* root = load_json_object(path, error);
    bool ok = root != NULL && parse_config(hf, root, path, error);
    json_decref(root);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------------
// Names

// What a tensor's name stands for.
typedef enum { NAME_PARAMETER, NAME_MASK, NAME_HEAD, NAME_UNKNOWN } NameKind;

typedef struct {
    NameKind kind;
    ParameterId id;
    size_t layer;
} Name;

// "h.<layer>." at the start of *name: moves *name behind it. The number as written by str(): no sign, no leading zero.
static bool take_layer(const char** name, size_t* layer) {
    const char* digit = *name;
    if (digit[0] != 'h' || digit[1] != '.') return false;
    digit += 2;
    const char* first = digit;
    *layer = 0;
    for (; *digit >= '0' && *digit <= '9' && digit - first < 6; digit++) *layer = *layer * 10 + (size_t)(*digit - '0');
    if (digit == first || *digit != '.' || (*first == '0' && digit - first > 1)) return false;
    *name = digit + 1;
    return true;
}

static Name parse_name(const char* name) {
    static const char prefix[] = "transformer.";
    if (strncmp(name, prefix, sizeof prefix - 1) == 0) name += sizeof prefix - 1;
    if (strcmp(name, "lm_head.weight") == 0) return (Name){.kind = NAME_HEAD};
    Name result = {.kind = NAME_UNKNOWN};
    bool in_layer = take_layer(&name, &result.layer);
    // causal masks that older versions of transformers wrote along
    if (in_layer && (strcmp(name, "attn.bias") == 0 || strcmp(name, "attn.masked_bias") == 0)) result.kind = NAME_MASK;
    const GPT2Config any = {0};
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &any);
        if (shape.per_layer == in_layer && strcmp(name, shape.hf_name) == 0) {
            result.kind = NAME_PARAMETER;
            result.id = (ParameterId)id;
        }
    }
    return result;
}

// ---------------------------------------------------------------------------------------------------------------------
// Tensors into sources

// What has been collected from the shards.
typedef struct {
    GPT2Config config;
    SourceTensor* sources;        // see source_index; data is NULL for what has not been met
    const SafetensorsEntry* wte;  // NULL until met
    const SafetensorsEntry* head; // lm_head.weight, NULL when absent
} Collection;

static bool read_dtype(DType* dtype, const SafetensorsEntry* entry, const char* path, Error* error) {
    static const struct {
        const char* name;
        DType dtype;
    } dtypes[] = {{"F32", DTYPE_F32}, {"F16", DTYPE_F16}, {"BF16", DTYPE_BF16}};
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        if (strcmp(entry->dtype, dtypes[i].name) == 0) {
            *dtype = dtypes[i].dtype;
            return true;
        }
    }
    return fail(error, "%s: tensor %s is %s; weights in F32, F16 or BF16 are read, so save it as one of these", path,
                printable(entry->name).text, entry->dtype);
}

// Vectors are (cols), embeddings (rows, cols), linear layers (cols, rows) for GPT-2's Conv1D.
static bool check_shape(const SafetensorsEntry* entry, const ParameterShape* shape, const char* path, Error* error) {
    bool is_linear = shape->kind == LINEAR;
    size_t outer = is_linear ? shape->cols : shape->rows, inner = is_linear ? shape->rows : shape->cols;
    if (shape->kind == VECTOR && entry->rank == 1 && entry->shape[0] == inner) return true;
    if (shape->kind != VECTOR && entry->rank == 2 && entry->shape[0] == outer && entry->shape[1] == inner) return true;
    char expected[64];
    if (shape->kind == VECTOR) snprintf(expected, sizeof expected, "(%zu)", inner);
    else snprintf(expected, sizeof expected, "(%zu, %zu)", outer, inner);
    return fail(error, "%s: tensor %s has the wrong shape; %s is due by the configuration", path,
                printable(entry->name).text, expected);
}

static bool fail_layer(const Collection* collection, const SafetensorsEntry* entry, const char* path, Error* error) {
    return fail(error, "%s: tensor %s is of a layer beyond the %d of the configuration", path,
                printable(entry->name).text, collection->config.num_layers);
}

static bool collect_parameter(Collection* collection, const SafetensorsEntry* entry, const Name* name, const char* path,
                              Error* error) {
    ParameterShape shape = gpt2_parameter_shape(name->id, &collection->config);
    if (name->layer >= shape.layers) return fail_layer(collection, entry, path, error);
    SourceTensor* source = &collection->sources[source_index(&collection->config, (int)name->id, name->layer)];
    if (source->tensor.data != NULL) {
        return fail(error, "%s: tensor %s is there twice, with and without \"transformer.\" or in two files", path,
                    printable(entry->name).text);
    }
    *source = (SourceTensor){
        .tensor.data = entry->data, .is_transposed = shape.kind == LINEAR, .file = path, .offset = entry->offset};
    if (name->id == WTE) collection->wte = entry;
    return read_dtype(&source->tensor.dtype, entry, path, error) && check_shape(entry, &shape, path, error);
}

static bool collect_entry(Collection* collection, const SafetensorsEntry* entry, const char* path, Error* error) {
    Name name = parse_name(entry->name);
    switch (name.kind) {
    case NAME_PARAMETER: return collect_parameter(collection, entry, &name, path, error);
    case NAME_MASK:
        if (name.layer >= (size_t)collection->config.num_layers) return fail_layer(collection, entry, path, error);
        return true;
    case NAME_HEAD:
        if (collection->head != NULL) return fail(error, "%s: tensor lm_head.weight is there twice", path);
        collection->head = entry;
        return true;
    default:
        return fail(error,
                    "%s: tensor %s is none of GPT-2's; another architecture, or a head other than the language "
                    "model's, is not supported",
                    path, printable(entry->name).text);
    }
}

static bool check_complete(const Collection* collection, const char* path, Error* error) {
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &collection->config);
        for (size_t layer = 0; layer < shape.layers; layer++) {
            if (collection->sources[source_index(&collection->config, id, layer)].tensor.data != NULL) continue;
            char prefix[32] = "";
            if (shape.per_layer) snprintf(prefix, sizeof prefix, "h.%zu.", layer);
            return fail(error, "%s: tensor %s%s is missing%s", path, prefix, shape.hf_name,
                        strstr(path, "-of-") ? "; this is one shard of several, so give the directory" : "");
        }
    }
    return true;
}

// GPT-2's head multiplies by wte. A file may hold that matrix a second time, but not another one.
static bool check_head(const Collection* collection, bool is_tied, const char* path, Error* error) {
    const SafetensorsEntry *head = collection->head, *wte = collection->wte;
    if (head == NULL) {
        if (is_tied) return true;
        return fail(error, "%s: tie_word_embeddings is false, but there is no lm_head.weight", path);
    }
    if (head->rank == 2 && head->shape[0] == wte->shape[0] && head->shape[1] == wte->shape[1] &&
        strcmp(head->dtype, wte->dtype) == 0 && memcmp(head->data, wte->data, wte->bytes) == 0) {
        return true;
    }
    return fail(error, "%s: lm_head.weight differs from wte.weight; a GPT-2 with a head of its own is not supported",
                path);
}

// The type of all matrices or, where they have several, the one that holds any of them.
static DType common_dtype(const Collection* collection) {
    DType first = collection->sources[source_index(&collection->config, WTE, 0)].tensor.dtype;
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &collection->config);
        for (size_t layer = 0; shape.kind != VECTOR && layer < shape.layers; layer++) {
            if (collection->sources[source_index(&collection->config, id, layer)].tensor.dtype != first)
                return DTYPE_F32;
        }
    }
    return first;
}

// Loads what the shards hold, given a checked configuration. `path` is what the user gave.
static bool load_shards(GPT2Model* model, const HfConfig* hf, const Shard* shards, size_t num_shards, const char* path,
                        bool keep_dtype, DType dtype, Error* error) {
    Collection collection = {.config = hf->config};
    collection.sources = weights_new_sources(&hf->config, path, error);
    if (collection.sources == NULL) return false;
    bool ok = true;
    for (size_t s = 0; ok && s < num_shards; s++) {
        const SafetensorsFile* tensors = &shards[s].tensors;
        for (size_t i = 0; ok && i < tensors->num_entries; i++) {
            ok = collect_entry(&collection, &tensors->entries[i], shards[s].path, error);
        }
    }
    ok = ok && check_complete(&collection, path, error) && check_head(&collection, hf->is_tied, path, error);
    if (ok) {
        model->config = hf->config;
        model->file_dtype = common_dtype(&collection);
        if (keep_dtype) dtype = model->file_dtype;
        ok = weights_from_sources(model, collection.sources, dtype, false, path, error);
    }
    free(collection.sources);
    return ok;
}

// For model->contents, if there is one.
static void note_origin(GPT2Model* model, const char* configuration) {
    CheckpointContents* contents = model->contents;
    if (contents == NULL) return;
    snprintf(contents->format, sizeof contents->format, "Hugging Face, safetensors");
    snprintf(contents->configuration, sizeof contents->configuration, "%s", configuration);
}

// ---------------------------------------------------------------------------------------------------------------------
// One file

// The configuration as the shapes of wte and wpe and the numbers of the layers give it.
static bool derive_config(HfConfig* hf, const SafetensorsFile* tensors, const char* path, Error* error) {
    GPT2Config* config = &hf->config;
    *hf = (HfConfig){.is_tied = true};
    for (size_t i = 0; i < tensors->num_entries; i++) {
        const SafetensorsEntry* entry = &tensors->entries[i];
        Name name = parse_name(entry->name);
        if (name.kind != NAME_PARAMETER) continue;
        bool is_embedding = entry->rank == 2 && entry->shape[0] <= INT_MAX && entry->shape[1] <= INT_MAX;
        if (name.id == WTE && is_embedding) {
            config->vocab_size = config->padded_vocab_size = (int)entry->shape[0];
            config->channels = (int)entry->shape[1];
        }
        if (name.id == WPE && is_embedding) config->max_seq_len = (int)entry->shape[0];
        if ((int)name.layer >= config->num_layers) config->num_layers = (int)name.layer + 1;
    }
    if (config->channels % 64 != 0) {
        return fail(error,
                    "%s: the number of heads cannot be told from %d channels (not a multiple of 64); put the "
                    "model's config.json beside it",
                    path, config->channels);
    }
    config->num_heads = config->channels / 64;
    if (config->channels > 0 && config->max_seq_len > 0) return gpt2_config_check(config, path, error);
    return fail(error, "%s: has no wte.weight and wpe.weight, so it is no GPT-2", path);
}

// directory/name; false when it is too long.
static bool join_path(char* out, size_t size, const char* directory, const char* name, Error* error) {
    if ((size_t)snprintf(out, size, "%s/%s", directory, name) < size) return true;
    return fail(error, "%s: the path is too long", directory);
}

static bool is_file(const char* path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

// config.json in the directory of `path`.
static bool config_beside(char* out, size_t size, const char* path, Error* error) {
    const char* slash = strrchr(path, '/');
    int length = slash != NULL ? (int)(slash - path) + 1 : 0;
    if ((size_t)snprintf(out, size, "%.*sconfig.json", length, path) < size) return true;
    return fail(error, "%s: the path is too long", path);
}

bool load_safetensors(GPT2Model* model, const MappedFile* file, const char* path, bool keep_dtype, DType dtype,
                      Error* error) {
    HfConfig hf = {0};
    Shard shard = {.file = *file};
    char config_path[4096];
    if ((size_t)snprintf(shard.path, sizeof shard.path, "%s", path) >= sizeof shard.path) {
        return fail(error, "%s: the path is too long", path);
    }
    if (!config_beside(config_path, sizeof config_path, path, error)) return false;
    if (!safetensors_parse(&shard.tensors, file, path, error)) return false;
    note_origin(model, is_file(config_path) ? config_path : "the shapes of the tensors, heads of 64");
    bool ok =
        is_file(config_path) ? load_config(&hf, config_path, error) : derive_config(&hf, &shard.tensors, path, error);
    ok = ok && load_shards(model, &hf, &shard, 1, path, keep_dtype, dtype, error);
    safetensors_free(&shard.tensors);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------------
// A directory

enum { MAX_SHARDS = 256 }; // the largest GPT-2 comes in two

static bool open_shard(Shard* shard, const char* directory, const char* name, Error* error) {
    *shard = (Shard){0};
    return join_path(shard->path, sizeof shard->path, directory, name, error) &&
           map_file(&shard->file, shard->path, error) &&
           safetensors_parse(&shard->tensors, &shard->file, shard->path, error);
}

static void close_shards(Shard* shards, size_t num_shards) {
    for (size_t s = 0; s < num_shards; s++) {
        safetensors_free(&shards[s].tensors);
        unmap_file(&shards[s].file);
    }
    free(shards);
}

// Finds the shard of that file name or opens it as the next one; NULL on failure.
static Shard* need_shard(Shard* shards, size_t* num_shards, const char* directory, const char* name,
                         const char* index_path, Error* error) {
    if (name == NULL || name[0] == '\0' || strchr(name, '/') != NULL) {
        fail(error, "%s: weight_map must name files of the same directory", index_path);
        return NULL;
    }
    for (size_t s = 0; s < *num_shards; s++) {
        if (strcmp(shards[s].path + strlen(directory) + 1, name) == 0) return &shards[s];
    }
    if (*num_shards == MAX_SHARDS) {
        fail(error, "%s: names more than %d files", index_path, MAX_SHARDS);
        return NULL;
    }
    return open_shard(&shards[(*num_shards)++], directory, name, error) ? &shards[*num_shards - 1] : NULL;
}

// Opens the files of weight_map (tensor name to file name) and checks that they hold what it says and no more.
static bool open_weight_map(Shard* shards, size_t* num_shards, const json_t* weight_map, const char* directory,
                            const char* index_path, Error* error) {
    if (!json_is_object(weight_map)) return fail(error, "%s: has no weight_map", index_path);
    const char* name;
    json_t* value;
    json_object_foreach((json_t*)weight_map, name, value) {
        const char* file_name = json_string_value(value);
        const Shard* shard = need_shard(shards, num_shards, directory, file_name, index_path, error);
        if (shard == NULL) return false;
        if (json_object_get(shard->tensors.header, name) == NULL) {
            return fail(error, "%s: tensor %s is not in %s", index_path, printable(name).text, shard->path);
        }
    }
    for (size_t s = 0; s < *num_shards; s++) {
        for (size_t i = 0; i < shards[s].tensors.num_entries; i++) {
            const char* held = shards[s].tensors.entries[i].name;
            const char* file_name = json_string_value(json_object_get(weight_map, held));
            if (file_name == NULL || strcmp(shards[s].path + strlen(directory) + 1, file_name) != 0) {
                return fail(error, "%s: tensor %s is not what %s says of this file", shards[s].path,
                            printable(held).text, index_path);
            }
        }
    }
    return true;
}

static bool open_index(Shard* shards, size_t* num_shards, const char* directory, const char* index_path, Error* error) {
    json_t* root = load_json_object(index_path, error);
    if (root == NULL) return false;
    bool ok = open_weight_map(shards, num_shards, json_object_get(root, "weight_map"), directory, index_path, error);
    json_decref(root);
    return ok;
}

// model.safetensors, or else the files of the index.
static bool open_directory(Shard* shards, size_t* num_shards, const char* directory, Error* error) {
    char single[4096], index[4096], pytorch[4096];
    if (!join_path(single, sizeof single, directory, "model.safetensors", error) ||
        !join_path(index, sizeof index, directory, "model.safetensors.index.json", error) ||
        !join_path(pytorch, sizeof pytorch, directory, "pytorch_model.bin", error)) {
        return false;
    }
    if (is_file(single)) {
        *num_shards = 1;
        return open_shard(&shards[0], directory, "model.safetensors", error);
    }
    if (is_file(index)) return open_index(shards, num_shards, directory, index, error);
    return fail(error, "%s: has neither model.safetensors nor model.safetensors.index.json%s", directory,
                is_file(pytorch) ? "; save_pretrained() of transformers makes one from pytorch_model.bin" : "");
}

bool load_hf_directory(GPT2Model* model, const char* path, bool keep_dtype, DType dtype, Error* error) {
    HfConfig hf = {0};
    char config_path[4096];
    size_t length = strlen(path), num_shards = 0;
    char directory[4096];
    while (length > 1 && path[length - 1] == '/') length--;
    if ((size_t)snprintf(directory, sizeof directory, "%.*s", (int)length, path) >= sizeof directory) {
        return fail(error, "%s: the path is too long", path);
    }
    if (!join_path(config_path, sizeof config_path, directory, "config.json", error)) return false;
    if (!is_file(config_path)) {
        return fail(error, "%s: has no config.json, so it is no Hugging Face model directory", directory);
    }
    if (!load_config(&hf, config_path, error)) return false;
    note_origin(model, config_path);
    Shard* shards = allocate(MAX_SHARDS, sizeof *shards, path, error);
    if (shards == NULL) return false;
    bool ok = open_directory(shards, &num_shards, directory, error) &&
              load_shards(model, &hf, shards, num_shards, directory, keep_dtype, dtype, error);
    close_shards(shards, num_shards);
    return ok;
}

#else

static bool refuse(const char* path, Error* error) {
    return fail(error,
                "%s: this build reads no Hugging Face formats, since libjansson was missing; install it "
                "(libjansson-dev) and run make again",
                path);
}

bool load_safetensors(GPT2Model* model, const MappedFile* file, const char* path, bool keep_dtype, DType dtype,
                      Error* error) {
    (void)model, (void)file, (void)keep_dtype, (void)dtype;
    return refuse(path, error);
}

bool load_hf_directory(GPT2Model* model, const char* path, bool keep_dtype, DType dtype, Error* error) {
    (void)model, (void)keep_dtype, (void)dtype;
    return refuse(path, error);
}
#endif
