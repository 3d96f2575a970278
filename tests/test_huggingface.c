// Weights from Hugging Face's files: every way to write one toy, and every way to spoil it.
#include "test_loading.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../checkpoint.h"

typedef struct {
    char directory[256], config[300], weights[300], index[300];
    Toy toy;
} Bench;

static const GPT2Config toy_config = {5, 37, 37, 2, 3, 36};
static const SafetensorsStyle plain = {"", {"F32", "F32", "F32"}, false, false, 0, 1};

static void write_text(const char* path, const char* text) {
    write_file(path, text, strlen(text));
}

static void write_config(const Bench* bench) {
    char* text = toy_config_json(&bench->toy);
    write_text(bench->config, text);
    free(text);
}

static void check_loads(Tests* t, const Toy* toy, const char* path, const char* what) {
    Error error = {""};
    long kept = load_and_compare(toy, path, true, DTYPE_F32, &error);
    long wide = load_and_compare(toy, path, false, DTYPE_F32, &error);
    test_check(t, kept == 0 && wide == 0, "%s: the same weights, kept and as f32 (%ld and %ld differ) %s", what, kept,
               wide, error.text);
}

// ---------------------------------------------------------------------------------------------------------------------
// Right files

static void test_styles(Tests* t, const Bench* bench) {
    static const struct {
        const char* what;
        SafetensorsStyle style;
    } cases[] = {
        {"F32", {"", {"F32", "F32", "F32"}, false, false, 0, 1}},
        {"F16", {"", {"F16", "F16", "F16"}, false, false, 0, 1}},
        {"BF16", {"", {"BF16", "BF16", "BF16"}, false, false, 0, 1}},
        {"F32, BF16 and F16 mixed", {"", {"F32", "BF16", "F16"}, false, false, 0, 1}},
        {"BF16 with F32 vectors among them", {"", {"BF16", "F32", "BF16"}, false, false, 0, 1}},
        {"names with transformer.", {"transformer.", {"F32", "F32", "F32"}, false, false, 0, 1}},
        {"masks of old files", {"", {"F32", "F32", "F32"}, true, false, 0, 1}},
        {"masks, prefix, F16 and a tied lm_head", {"transformer.", {"F16", "F16", "F16"}, true, true, 0, 1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        toy_write_safetensors(bench->weights, &bench->toy, &cases[i].style);
        check_loads(t, &bench->toy, bench->directory, cases[i].what);
        check_loads(t, &bench->toy, bench->weights, "  the bare file");
    }
    float* weight = toy_tensor(&bench->toy, QKVW, 1) + 36;
    Error error = {""};
    *weight += 1;
    long wrong = load_and_compare(&bench->toy, bench->directory, true, DTYPE_F32, &error);
    *weight -= 1;
    test_check(t, wrong == 1, "the checker notices one weight that is another (%ld differ)", wrong);
}

// OpenAI's own file has a header of odd length, so that its F32 lie at odd addresses.
static void test_odd_header(Tests* t, const Bench* bench) {
    static const char* const dtypes[] = {"F32", "F16", "BF16"};
    Error error = {""};
    for (int d = 0; d < 3; d++) {
        SafetensorsStyle style = plain;
        for (int i = 0; i < 3; i++) style.dtypes[i] = dtypes[d];
        Safetensors file = toy_safetensors(&bench->toy, &style);
        long wrong = 0;
        for (int spaces = 0; spaces < 8; spaces++) {
            safetensors_write(bench->weights, &file);
            wrong += load_and_compare(&bench->toy, bench->weights, spaces % 2 == 0, DTYPE_F32, &error) != 0;
            char* longer = NULL;
            if (asprintf(&longer, "%s ", file.header) < 0) break;
            free(file.header);
            file.header = longer;
        }
        test_check(t, wrong == 0, "%s at any alignment, after headers of 8 lengths (%ld refused or wrong)", dtypes[d],
                   wrong);
        safetensors_release(&file);
    }
}

// --dtype auto keeps what all matrices hold: the type that they share, else f32, in which none is rounded.
static void test_kept_dtype(Tests* t, const Bench* bench) {
    static const struct {
        const char* dtypes[3]; // of one tensor after the other
        DType kept;
    } cases[] = {{{"F16", "F16", "F16"}, DTYPE_F16},
                 {{"BF16", "BF16", "BF16"}, DTYPE_BF16},
                 {{"BF16", "F32", "BF16"}, DTYPE_F32},
                 {{"F16", "BF16", "F16"}, DTYPE_F32}};
    int right = 0;
    enum { CASES = sizeof cases / sizeof *cases };
    for (int i = 0; i < CASES; i++) {
        SafetensorsStyle style = plain;
        memcpy(style.dtypes, cases[i].dtypes, sizeof style.dtypes);
        toy_write_safetensors(bench->weights, &bench->toy, &style);
        GPT2Model m;
        Error error;
        bool ok = checkpoint_load(&m, bench->directory, true, DTYPE_Q8, &error);
        right += ok && m.dtype == cases[i].kept && m.file_dtype == cases[i].kept;
        if (ok) checkpoint_free(&m);
    }
    test_check(t, right == CASES, "--dtype auto keeps the matrices' common type, or f32 for several: %d of %d", right,
               CASES);
}

// Numbers that fill all bits of f32: as HF stores them, transposed, against the same as llm.c stores them.
static void test_transposition(Tests* t, const Bench* bench) {
    static const GPT2Config shapes[] = {{3, 5, 5, 1, 1, 1},
                                        {7, 40, 40, 1, 2, 31 * 2},
                                        {2, 33, 33, 3, 1, 64},
                                        {4, 300, 300, 1, 3, 120}}; // the last by several threads
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        Bench other = *bench;
        other.toy = toy_make(shapes[i], 10 + i, false);
        write_config(&other);
        toy_write_safetensors(bench->weights, &other.toy, &plain);
        char what[64];
        snprintf(what, sizeof what, "transposed, C = %d", shapes[i].channels);
        check_loads(t, &other.toy, bench->directory, what);
        toy_free(&other.toy);
    }
    write_config(bench);
}

static void test_bad_index(Tests* t, const Bench* bench, const char* index) {
    static const struct {
        const char *what, *from, *to, *reason;
    } cases[] = {
        {"an index without weight_map", "weight_map", "weight_mop", "weight_map"},
        {"an index that names a missing file", "model-00002-of", "model-00009-of", "cannot be opened"},
        {"an index that names a file elsewhere", "model-00001-of", "../model-00001-of", "same directory"},
        {"an index that names no file", "\"wte.weight\": \"model-00001-of-00003.safetensors\"", "\"wte.weight\": 1",
         "same directory"},
        {"an index with a tensor that no file has", "\"wte.weight\"", "\"wte2.weight\"", "is not in"},
        {"an index that puts a tensor into another file", "\"wte.weight\": \"model-00001-of-00003.safetensors\"",
         "\"wte.weight\": \"model-00002-of-00003.safetensors\"", "is not in"},
        {"an index that leaves out a tensor", "\"wte.weight\": \"model-00001-of-00003.safetensors\", ", "",
         "is not what"},
        {"an index with a duplicate", "\"wte.weight\":", "\"wpe.weight\": \"x\", \"wte.weight\":", "duplicate"},
        {"an index that is no object", "{\"metadata\"", "[{\"metadata\"", "JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char* text = replaced(index, cases[i].from, cases[i].to);
        write_text(bench->index, text);
        check_refused(t, bench->directory, cases[i].what, cases[i].reason);
        free(text);
    }
}

static void test_shards(Tests* t, const Bench* bench) {
    char path[400];
    unlink(bench->weights);
    free(toy_write_shards(&bench->toy, bench->directory, 1));
    check_loads(t, &bench->toy, bench->directory, "an index of one file");
    char* index = toy_write_shards(&bench->toy, bench->directory, 3);
    check_loads(t, &bench->toy, bench->directory, "three shards and their index");
    snprintf(path, sizeof path, "%s/model-00002-of-00003.safetensors", bench->directory);
    check_refused(t, path, "one shard alone", "give the directory");
    test_bad_index(t, bench, index);
    free(index);
    unlink(bench->index);
    check_refused(t, bench->directory, "a directory without weights", "neither model.safetensors nor");
    snprintf(path, sizeof path, "%s/pytorch_model.bin", bench->directory);
    write_text(path, "PK\3\4");
    check_refused(t, bench->directory, "a directory with PyTorch's file only", "save_pretrained");
}

// Without config.json the shapes must say it: C a multiple of 64.
static void test_without_config(Tests* t, const Bench* bench) {
    unlink(bench->config);
    toy_write_safetensors(bench->weights, &bench->toy, &plain);
    check_refused(t, bench->directory, "a directory without config.json", "config.json");
    check_refused(t, bench->weights, "a bare file with 36 channels and no config.json", "heads");
    Toy toy = toy_make((GPT2Config){6, 9, 9, 2, 2, 128}, 5, true);
    toy_write_safetensors(bench->weights, &toy, &plain);
    check_loads(t, &toy, bench->weights, "a bare file with 128 channels: two heads of 64");
    toy_free(&toy);
    write_file(bench->weights, "\2\0\0\0\0\0\0\0{}", 10);
    check_refused(t, bench->weights, "a file without tensors", "no GPT-2");
    write_config(bench);
}

// ---------------------------------------------------------------------------------------------------------------------
// Wrong configurations

static void test_bad_config(Tests* t, const Bench* bench) {
    static const struct {
        const char *what, *from, *to, *reason; // reason NULL: it is right
    } cases[] = {
        {"no model_type", "\"model_type\": \"gpt2\", ", "", NULL},
        {"gelu_pytorch_tanh", "gelu_new", "gelu_pytorch_tanh", NULL},
        {"n_inner = 4 C", "\"n_inner\": null", "\"n_inner\": 144", NULL},
        {"n_ctx only", "\"n_positions\": 5, ", "", NULL},
        {"no switches", "\"scale_attn_weights\": true, ", "", NULL},
        {"another model", "\"gpt2\"", "\"llama\"", "llama"},
        {"another activation", "gelu_new", "relu", "relu"},
        {"the exact GELU", "gelu_new", "gelu", "activation_function"},
        {"another width", "\"n_inner\": null", "\"n_inner\": 100", "n_inner"},
        {"another epsilon", "1e-05", "1e-06", "layer_norm_epsilon"},
        {"an epsilon in quotes", "1e-05", "\"1e-05\"", "layer_norm_epsilon"},
        {"unscaled attention", "\"scale_attn_weights\": true", "\"scale_attn_weights\": false", "scale_attn_weights"},
        {"scaling by layer", "_layer_idx\": false", "_layer_idx\": true", "scale_attn_by_inverse_layer_idx"},
        {"upcast attention", "\"reorder_and_upcast_attn\": false", "\"reorder_and_upcast_attn\": true",
         "reorder_and_upcast_attn"},
        {"cross attention", "\"add_cross_attention\": false", "\"add_cross_attention\": true", "add_cross_attention"},
        {"a head of its own, absent", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false",
         "tie_word_embeddings"},
        {"a tie that is a number", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": 1",
         "tie_word_embeddings"},
        {"two contexts", "\"n_ctx\": 5", "\"n_ctx\": 4", "n_ctx"},
        {"quantised weights", "{", "{\"quantization_config\": {}, ", "quantization_config"},
        {"n_ctx null", "\"n_ctx\": 5", "\"n_ctx\": null", NULL},
        {"no n_layer", "\"n_layer\": 2, ", "", "n_layer"},
        {"n_head in quotes", "\"n_head\": 3", "\"n_head\": \"3\"", "n_head"},
        {"n_embd with a fraction", "\"n_embd\": 36", "\"n_embd\": 36.0", "n_embd"},
        {"a negative vocabulary", "\"vocab_size\": 37", "\"vocab_size\": -37", "vocab_size"},
        {"a vocabulary beyond int", "\"vocab_size\": 37", "\"vocab_size\": 4294967333", "vocab_size"},
        {"heads that do not divide C", "\"n_head\": 3", "\"n_head\": 5", "multiple"},
        {"another vocabulary than wte's", "\"vocab_size\": 37", "\"vocab_size\": 38", "wte.weight"},
        {"more layers than there are", "\"n_layer\": 2", "\"n_layer\": 3", "h.2.ln_1.weight is missing"},
        {"fewer layers than there are", "\"n_layer\": 2", "\"n_layer\": 1", "beyond the 1"},
        {"a key twice", "\"n_head\": 3", "\"n_head\": 3, \"n_head\": 3", "duplicate"},
        {"no JSON", "{", "<", "JSON"},
    };
    char* config = toy_config_json(&bench->toy);
    toy_write_safetensors(bench->weights, &bench->toy, &plain);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char* text = replaced(config, cases[i].from, cases[i].to);
        write_text(bench->config, text);
        if (cases[i].reason == NULL) check_loads(t, &bench->toy, bench->directory, cases[i].what);
        else check_refused(t, bench->directory, cases[i].what, cases[i].reason);
        free(text);
    }
    write_text(bench->config, "");
    check_refused(t, bench->directory, "an empty config.json", "empty");
    char* text = replaced(config, "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
    SafetensorsStyle with_head = plain;
    with_head.has_head = true;
    write_text(bench->config, text);
    toy_write_safetensors(bench->weights, &bench->toy, &with_head);
    check_loads(t, &bench->toy, bench->directory, "a head said to be its own, but equal to wte");
    free(text);
    write_text(bench->config, config);
    free(config);
}

// ---------------------------------------------------------------------------------------------------------------------
// Wrong .safetensors

// With the toy in F32 wte is (37,36) at [0,5328], wpe (5,36) at [5328,6048], ln_1.weight of both layers behind it, and
// ln_f.bias comes last.
static void test_bad_header(Tests* t, const Bench* bench) {
    static const struct {
        const char *what, *from, *to, *reason;
    } cases[] = {
        {"an unknown tensor", "\"wpe.weight\"", "\"wqe.weight\"", "wqe.weight"},
        {"a tensor of another head", "\"wpe.weight\"", "\"score.weight\"", "score.weight"},
        {"a layer with a leading zero", "\"h.1.ln_1.weight\"", "\"h.01.ln_1.weight\"", "h.01"},
        {"a layer with a sign", "\"h.1.ln_1.weight\"", "\"h.+1.ln_1.weight\"", "h.+1"},
        {"a layer beyond all", "\"h.1.ln_1.weight\"", "\"h.99999999999999999999.ln_1.weight\"", "none of GPT-2's"},
        {"a tensor twice, by prefix", "\"wpe.weight\"", "\"transformer.wte.weight\"", "twice"},
        {"a tensor twice, by name", "\"wpe.weight\"", "\"wte.weight\"", "duplicate"},
        {"control characters in a name, without repeating them", "\"wpe.weight\"", "\"\\u001b[31m\"", "tensor ?[31m"},
        {"a dtype that is none of the format", "\"wte.weight\":{\"dtype\":\"F32\"", "\"wte.weight\":{\"dtype\":\"F31\"",
         "F31"},
        {"a dtype that is no weight's", "\"wte.weight\":{\"dtype\":\"F32\"", "\"wte.weight\":{\"dtype\":\"I32\"",
         "F32, F16 or BF16"},
        {"no dtype", "\"wte.weight\":{\"dtype\":\"F32\",", "\"wte.weight\":{", "(none)"},
        {"a dtype of another size", "\"wte.weight\":{\"dtype\":\"F32\"", "\"wte.weight\":{\"dtype\":\"F16\"",
         "data_offsets"},
        {"a transposed shape", "[37,36]", "[36,37]", "(37, 36)"},
        {"another rank", "[37,36]", "[37,36,1]", "(37, 36)"},
        {"a vector as a matrix", "\"h.1.ln_1.weight\":{\"dtype\":\"F32\",\"shape\":[36]",
         "\"h.1.ln_1.weight\":{\"dtype\":\"F32\",\"shape\":[1,36]", "wrong shape"},
        {"a shape that is too large", "[37,36]", "[37,37]", "do not make"},
        {"a shape whose product overflows", "[37,36]", "[4294967296,4294967296]", "do not make"},
        {"a product that wraps to the right one", "[37,36]", "[4611686018427387941,36]", "do not make"},
        {"a negative size", "[37,36]", "[-37,-36]", "list"},
        {"a size with a fraction", "[37,36]", "[37.0,36]", "list"},
        {"a size beyond 64 bits", "[37,36]", "[37000000000000000000,36]", "JSON"},
        {"no shape", "\"shape\":[37,36],", "", "list"},
        {"too many dimensions", "[37,36]", "[37,36,1,1,1,1,1,1,1]", "list"},
        {"offsets beyond the data", "[0,5328]", "[0,532800000]", "within"},
        {"offsets that go backwards", "[0,5328]", "[5328,0]", "ascending"},
        {"a negative offset", "[0,5328]", "[-4,5324]", "ascending"},
        {"one offset", "[0,5328]", "[5328]", "two"},
        {"three offsets", "[0,5328]", "[0,5328,1]", "two"},
        {"offsets that are no numbers", "[0,5328]", "[\"0\",\"5328\"]", "two"},
        {"overlapping tensors", "[5328,6048]", "[5324,6044]", "an overlap"},
        {"a hole between tensors", "[5328,6048]", "[5332,6052]", "a hole"},
        {"a misaligned tensor", "[5328,6048]", "[5329,6049]", "misaligned"},
        {"a mask of a layer that is not there", ",\"wpe.weight\":{",
         ",\"h.7.attn.bias\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},\"wpe.weight\":{",
         "beyond the 2"},
        {"a tensor that is no object", ",\"wpe.weight\":{", ",\"extra\":1,\"wpe.weight\":{", "extra"},
        {"metadata that is no object", "{\"format\":\"pt\"}", "1", "__metadata__"},
        {"metadata with a number", "\"pt\"", "1", "format"},
        {"a header that is a list", "}}", "}]", "JSON"},
        {"text after the header's object", "\"__metadata__\"", "},{\"__metadata__\"", "JSON"},
        {"a NUL in a name", "\"wpe.weight\"", "\"wpe.weight\\u0000\"", "JSON"},
        {"bytes that are not UTF-8", "\"wpe.weight\"", "\"wpe\xff.weight\"", "JSON"},
    };
    Safetensors file = toy_safetensors(&bench->toy, &plain);
    char* header = file.header;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        file.header = replaced(header, cases[i].from, cases[i].to);
        safetensors_write(bench->weights, &file);
        check_refused(t, bench->directory, cases[i].what, cases[i].reason);
        free(file.header);
    }
    file.header = replaced(header, "{\"__metadata__\":{\"format\":\"pt\"},", "{");
    safetensors_write(bench->weights, &file);
    check_loads(t, &bench->toy, bench->directory, "no metadata at all");
    free(file.header);
    file.header = header;
    safetensors_release(&file);
}

static void test_deep_header(Tests* t, const Bench* bench) {
    enum { DEPTH = 100000 };
    Safetensors file = {malloc(DEPTH + 8), {(unsigned char*)strdup(""), 0}};
    if (file.header == NULL || file.data.data == NULL) return;
    strcpy(file.header, "{\"a\":");
    memset(file.header + 5, '[', DEPTH);
    file.header[DEPTH + 5] = '\0';
    safetensors_write(bench->weights, &file);
    check_refused(t, bench->directory, "a header nested 100000 deep", "JSON");
    safetensors_release(&file);
}

// The data in other sizes than the header says, and the length in front of it.
static void test_bad_bytes(Tests* t, const Bench* bench) {
    static const struct {
        const char* what;
        unsigned char length[8];
        const char* reason;
    } lengths[] = {
        {"a header of no bytes", {0}, "JSON"},
        {"a header of one byte", {1}, "JSON"},
        {"a header above 100,000,000 bytes", {1, 0xe1, 0xf5, 5}, "100000000"},
        {"a header of 2^63 bytes", {0, 0, 0, 0, 0, 0, 0, 0x80}, "allows"},
        {"a header of 2^64 - 1 bytes", {255, 255, 255, 255, 255, 255, 255, 255}, "allows"},
        {"a header longer than the file", {0, 0, 0, 5}, "cut short"},
    };
    Safetensors file = toy_safetensors(&bench->toy, &plain);
    Bytes bytes = safetensors_bytes(&file);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        unsigned char kept[8];
        memcpy(kept, bytes.data, 8);
        memcpy(bytes.data, lengths[i].length, 8);
        write_file(bench->weights, bytes.data, bytes.size);
        memcpy(bytes.data, kept, 8);
        check_refused(t, bench->directory, lengths[i].what, lengths[i].reason);
    }
    write_file(bench->weights, bytes.data, bytes.size - 1);
    check_refused(t, bench->directory, "data that is one byte short", "cut short");
    bytes.data = realloc(bytes.data, bytes.size + 4);
    memset(bytes.data + bytes.size, 0, 4);
    write_file(bench->weights, bytes.data, bytes.size + 4);
    check_refused(t, bench->directory, "data that is four bytes long", "follow the last tensor");
    Error error;
    int loaded = 0, tried = 0;
    for (size_t size = bytes.size; size > 0; tried++) {
        size -= size > 4000 ? 1999 : size > 41 ? 41 : size;
        loaded += truncate(bench->weights, (off_t)size) != 0;
        loaded += load_and_compare(&bench->toy, bench->directory, true, DTYPE_F32, &error) >= 0;
    }
    test_check(t, loaded == 0, "cut at %d places it is refused every time (%d loaded)", tried, loaded);
    write_text(bench->weights, "version https://git-lfs.github.com/spec/v1\noid sha256:00\n");
    check_refused(t, bench->directory, "a git-lfs pointer in its place", "git-lfs");
    write_text(bench->weights, "");
    check_refused(t, bench->directory, "an empty file in its place", "empty");
    free(bytes.data);
    safetensors_release(&file);
}

// Every byte of length and header with one bit flipped: refused, or the same weights, never others.
static void test_flipped_bits(Tests* t, const Bench* bench) {
    Safetensors file = toy_safetensors(&bench->toy, &plain);
    Bytes bytes = safetensors_bytes(&file);
    size_t end = 8 + strlen(file.header);
    int tried = 0, refused = 0, wrong = 0;
    write_file(bench->weights, bytes.data, bytes.size);
    FILE* out = fopen(bench->weights, "r+b");
    for (size_t i = 0; out != NULL && i < end; i++, tried++) {
        Error error;
        int flipped = bytes.data[i] ^ 1 << i % 8;
        bool ok = fseek(out, (long)i, SEEK_SET) == 0 && fputc(flipped, out) == flipped && fflush(out) == 0;
        long result = ok ? load_and_compare(&bench->toy, bench->directory, true, DTYPE_F32, &error) : 1;
        refused += result < 0;
        wrong += result > 0;
        if (fseek(out, (long)i, SEEK_SET) != 0 || fputc(bytes.data[i], out) == EOF) break;
    }
    if (out != NULL) fclose(out);
    test_check(t, wrong == 0 && tried == (int)end,
               "one flipped bit in each of %d bytes of header: %d refused, %d loaded wrongly", tried, refused, wrong);
    free(bytes.data);
    safetensors_release(&file);
}

static void test_other_head(Tests* t, const Bench* bench) {
    SafetensorsStyle with_head = plain;
    with_head.has_head = true;
    Safetensors file = toy_safetensors(&bench->toy, &with_head);
    file.data.data[file.data.size - 1] ^= 1; // the head is the last tensor
    safetensors_write(bench->weights, &file);
    check_refused(t, bench->directory, "a head that is not wte", "lm_head.weight differs");
    file.data.data[file.data.size - 1] ^= 1;
    char* header = replaced(file.header, "\"lm_head.weight\":{\"dtype\":\"F32\",\"shape\":[37,36]",
                            "\"lm_head.weight\":{\"dtype\":\"F32\",\"shape\":[36,37]");
    free(file.header);
    file.header = header;
    safetensors_write(bench->weights, &file);
    check_refused(t, bench->directory, "a head of another shape", "lm_head.weight differs");
    safetensors_release(&file);
}

// A model from Hugging Face's files saved as llm.c's.
static void test_saving(Tests* t, const Bench* bench) {
    char saved[300];
    snprintf(saved, sizeof saved, "%s/saved.bin", bench->directory);
    toy_write_safetensors(bench->weights, &bench->toy,
                          &(SafetensorsStyle){"", {"F16", "F16", "F16"}, false, false, 0, 1});
    GPT2Model m;
    Error error = {""};
    Bytes expected = toy_llmc(&bench->toy, 5);
    bool ok = checkpoint_load(&m, bench->directory, false, DTYPE_BF16, &error) && checkpoint_save(&m, saved, &error);
    checkpoint_free(&m);
    Bytes file = ok ? read_file(saved) : (Bytes){0};
    ok = ok && file.size == expected.size && memcmp(file.data, expected.data, file.size) == 0;
    test_check(t, ok, "F16 from Hugging Face saved as version 5 is llm.c's file, byte for byte (%zu bytes) %s",
               file.size, error.text);
    free(file.data);
    free(expected.data);
}

#ifdef HAVE_JANSSON
enum { HAS_JSON = 1 };
#else
enum { HAS_JSON = 0 };
#endif

static void test_without_json(Tests* t, const Bench* bench) {
    toy_write_safetensors(bench->weights, &bench->toy, &plain);
    check_refused(t, bench->directory, "a directory, as this build has no libjansson", "libjansson");
    check_refused(t, bench->weights, "a .safetensors file, as this build has no libjansson", "libjansson");
    test_skip(t, "Hugging Face's files: this build has no libjansson");
}

static void test_with_json(Tests* t, const Bench* bench) {
    test_styles(t, bench);
    test_odd_header(t, bench);
    test_kept_dtype(t, bench);
    test_transposition(t, bench);
    test_saving(t, bench);
    test_without_config(t, bench);
    test_shards(t, bench);
    test_section("checkpoint: Hugging Face's files to be refused");
    test_bad_config(t, bench);
    test_bad_header(t, bench);
    test_deep_header(t, bench);
    test_bad_bytes(t, bench);
    test_flipped_bits(t, bench);
    test_other_head(t, bench);
}

void test_huggingface(Tests* t) {
    Bench bench = {.toy = toy_make(toy_config, 1, true)};
    make_directory(bench.directory);
    snprintf(bench.config, sizeof bench.config, "%s/config.json", bench.directory);
    snprintf(bench.weights, sizeof bench.weights, "%s/model.safetensors", bench.directory);
    snprintf(bench.index, sizeof bench.index, "%s/model.safetensors.index.json", bench.directory);
    write_config(&bench);
    test_section("checkpoint: Hugging Face's files");
    if (HAS_JSON) test_with_json(t, &bench);
    else test_without_json(t, &bench);
    remove_directory(bench.directory);
    toy_free(&bench.toy);
}
