// Fuzzer of everything that reads weights. A loaded model is read to its last weight, so that AddressSanitizer sees a
// tensor that leaves its memory. The first byte of an input says what the rest is, see Target.
//
// A corpus directory that is empty is filled with a right file of each kind first. -rss_limit_mb and -timeout stand for
// the promise that a small file asks for little memory and time.
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "checkpoint.h"
#include "tests/toy_checkpoint.h"

typedef enum {
    BIN,         // model.bin, of any format, images among them
    SAFETENSORS, // model.safetensors of a directory
    HEADER,      // the JSON in model.safetensors, with the right length before and the right data behind it
    CONFIG,      // config.json
    INDEX,       // model.safetensors.index.json, with both of its files
    NUM_TARGETS
} Target;

static const SafetensorsStyle whole = {"", {"F32", "F16", "BF16"}, true, true, 0, 1};

// The directories and what does not change in them. libFuzzer calls a function without arguments, so these are global.
static char root[256];
static Toy toy;
static Safetensors tensors;
static char* sound_index; // model.safetensors.index.json of the toy in two files

static void in_root(char path[512], const char* name) {
    snprintf(path, 512, "%s/%s", root, name);
}

static void put(const char* name, const void* data, size_t size) {
    char path[512];
    in_root(path, name);
    write_file(path, data, size);
}

static void put_safetensors(const char* name, const Safetensors* file) {
    char path[512];
    in_root(path, name);
    safetensors_write(path, file);
}

static void remove_root(void) {
    remove_directory(root);
}

static void make_root(void) {
    static const char* const directories[] = {"weights", "config", "index"};
    char path[512];
    make_directory(root);
    atexit(remove_root);
    toy = toy_make((GPT2Config){2, 4, 4, 2, 2, 4}, 1, true);
    tensors = toy_safetensors(&toy, &whole);
    char* config = toy_config_json(&toy);
    for (int i = 0; i < 3; i++) {
        in_root(path, directories[i]);
        if (mkdir(path, 0700) != 0) exit(1);
        strcat(path, "/config.json");
        write_file(path, config, strlen(config));
    }
    free(config);
    put_safetensors("config/model.safetensors", &tensors);
    in_root(path, "index");
    sound_index = toy_write_shards(&toy, path, 2);
}

static void put_seed(const char* corpus, const char* name, Target target, const void* data, size_t size) {
    char path[512];
    unsigned char* bytes = malloc(size + 1);
    if (bytes == NULL) exit(1);
    bytes[0] = (unsigned char)target;
    memcpy(bytes + 1, data, size);
    snprintf(path, sizeof path, "%s/%s", corpus, name);
    write_file(path, bytes, size + 1);
    free(bytes);
}

static void fill_corpus(const char* corpus) {
    static const char* const names[] = {"", "v1", "", "v3", "", "v5"};
    for (int version = 1; version <= 5; version += 2) {
        Bytes bytes = toy_llmc(&toy, version);
        put_seed(corpus, names[version], BIN, bytes.data, bytes.size);
        free(bytes.data);
    }
    for (DType dtype = DTYPE_F16; dtype <= DTYPE_BF16Z; dtype++) {
        Bytes image = toy_image(&toy, dtype);
        put_seed(corpus, dtype_names[dtype], BIN, image.data, image.size);
        free(image.data);
    }
    Bytes bytes = safetensors_bytes(&tensors);
    put_seed(corpus, "safetensors", SAFETENSORS, bytes.data, bytes.size);
    free(bytes.data);
    put_seed(corpus, "header", HEADER, tensors.header, strlen(tensors.header));
    char* config = toy_config_json(&toy);
    put_seed(corpus, "config", CONFIG, config, strlen(config));
    put_seed(corpus, "index", INDEX, sound_index, strlen(sound_index));
    free(config);
}

static bool is_empty_directory(const char* path) {
    DIR* directory = opendir(path);
    if (directory == NULL) return false;
    int entries = 0;
    while (readdir(directory) != NULL) entries++;
    closedir(directory);
    return entries <= 2; // . and ..
}

int LLVMFuzzerInitialize(int* argc, char*** argv) {
    make_root();
    for (int i = 1; i < *argc; i++) {
        if (is_empty_directory((*argv)[i])) fill_corpus((*argv)[i]);
    }
    return 0;
}

// Reads every weight, and returns their fingerprint so that the reading is not optimised away.
static unsigned long long read_weights(const GPT2Model* model) {
    unsigned long long fingerprint = 0;
    size_t row_size = 4 * (size_t)model->config.channels;
    float* row = calloc(row_size, sizeof *row);
    for (int id = 0; row != NULL && id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &model->config);
        for (size_t r = 0; r < shape.layers * shape.rows; r++) {
            gpt2_matrix_row(row, &model->tensors[id], r, shape.cols);
            fingerprint ^= hash_bytes(row, shape.cols * sizeof *row);
        }
    }
    free(row);
    return fingerprint;
}

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const char* const names[NUM_TARGETS] = {"model.bin", "weights/model.safetensors",
                                                   "weights/model.safetensors", "config/config.json",
                                                   "index/model.safetensors.index.json"};
    static const char* const loaded[NUM_TARGETS] = {"model.bin", "weights", "weights", "config", "index"};
    if (size < 2 || data[0] >= NUM_TARGETS) return -1;
    if (root[0] == '\0') make_root(); // replayed by make test, without libFuzzer
    Target target = data[0];
    if (target == HEADER) {
        Safetensors file = {strndup((const char*)data + 1, size - 1), tensors.data};
        put_safetensors(names[target], &file);
        free(file.header);
    } else {
        put(names[target], data + 1, size - 1);
    }
    char path[512];
    in_root(path, loaded[target]);
    for (int dtype = 0; dtype <= NUM_DTYPES; dtype++) { // the last stands for "as the file has them"
        GPT2Model model;
        Error error = {""};
        if (checkpoint_load(&model, path, dtype == NUM_DTYPES, (DType)dtype, &error)) {
            Error config_error;
            if (!gpt2_config_check(&model.config, path, &config_error)) abort();
            if (read_weights(&model) != read_weights(&model)) abort();
            checkpoint_free(&model);
        } else if (error.text[0] == '\0' || strchr(error.text, '\n') != NULL) {
            abort(); // an error is one sentence
        }
    }
    return 0;
}
