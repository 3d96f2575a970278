// Weights from files: llm.c's format, conversion, saving, and where models are found. Images are judged in
// test_image.c, Hugging Face's files in test_huggingface.c.
#include "../checkpoint.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "test_loading.h"

// Odd on purpose: V, 3C and 4C are no multiples of the loader's tiles, hs is not 64.
static const GPT2Config toy_config = {5, 37, 37, 2, 3, 36};

typedef struct {
    char directory[256];
    char file[300]; // the checkpoint that is spoiled and loaded
    Toy toy;        // exact in every dtype
} Bench;

// ---------------------------------------------------------------------------------------------------------------------
// llm.c's files that are right

static void test_versions(Tests* t, Bench* bench) {
    Error error = {""};
    for (int version = 1; version <= 5; version += 2) {
        Bytes bytes = toy_llmc(&bench->toy, version);
        write_file(bench->file, bytes.data, bytes.size);
        long wrong = load_and_compare(&bench->toy, bench->file, true, DTYPE_F32, &error);
        test_check(t, wrong == 0, "version %d of llm.c's format loads bit for bit (%ld weights differ%s)", version,
                   wrong, wrong < 0 ? error.text : "");
        float* weight = toy_tensor(&bench->toy, FCPROJW, 1) + 17;
        *weight += 1;
        wrong = load_and_compare(&bench->toy, bench->file, true, DTYPE_F32, &error);
        *weight -= 1;
        test_check(t, wrong == 1, "the checker notices one weight that is another (%ld differ)", wrong);
        free(bytes.data);
    }
}

// Where the weights lie: matrices of a bf16 file where the file has them, vectors as f32; an f32 file entirely in
// place.
static void test_mapping(Tests* t, Bench* bench) {
    for (int version = 3; version <= 5; version += 2) {
        Bytes bytes = toy_llmc(&bench->toy, version);
        write_file(bench->file, bytes.data, bytes.size);
        free(bytes.data);
        GPT2Model m;
        Error error = {""};
        if (!checkpoint_load(&m, bench->file, true, DTYPE_F32, &error)) {
            test_check(t, false, "%s", error.text);
            continue;
        }
        const char* mapping = m.mapping;
        int outside = 0;
        for (int id = 0; id < NUM_PARAMETERS; id++) {
            const char* data = m.tensors[id].data;
            bool is_inside = mapping != NULL && data >= mapping + 1024 && data < mapping + m.mapping_bytes;
            bool is_vector = gpt2_parameter_shape((ParameterId)id, &m.config).kind == VECTOR;
            outside += is_inside != (version == 3 || !is_vector);
        }
        bool ok = outside == 0 && mapping != NULL && (const char*)m.tensors[WTE].data == mapping + 1024 &&
                  (m.block == NULL) == (version == 3);
        test_check(t, ok, "version %d is used where the file has it, %s (%d tensors elsewhere)", version,
                   version == 3 ? "all of it" : "but for the vectors, which become f32", outside);
        checkpoint_free(&m);
    }
}

// Whether the mapping at `address` has been advised to use 2 MB pages, as /proc/self/smaps shows it ("hg").
static bool is_advised_huge(const void* address) {
    FILE* f = fopen("/proc/self/smaps", "r");
    char line[512];
    bool is_here = false, is_advised = false;
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        unsigned long begin, end;
        if (sscanf(line, "%lx-%lx ", &begin, &end) == 2) {
            is_here = begin <= (uintptr_t)address && (uintptr_t)address < end;
        } else if (is_here && strncmp(line, "VmFlags:", 8) == 0) {
            is_advised = strstr(line, " hg") != NULL;
        }
    }
    if (f != NULL) fclose(f);
    return is_advised;
}

// A checkpoint that is read for the first time should come in 2 MB pages (dev/CPU.md: 15 ms of every process after).
static void test_huge_pages(Tests* t, Bench* bench) {
    const size_t bytes = 4 << 20;
    void* known = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (known == MAP_FAILED || madvise(known, bytes, MADV_HUGEPAGE) != 0 || !is_advised_huge(known)) {
        test_skip(t, "the system does not show which memory shall have 2 MB pages");
    } else {
        Bytes file = toy_llmc(&bench->toy, 3);
        write_file(bench->file, file.data, file.size);
        free(file.data);
        GPT2Model m;
        Error error = {""};
        bool loaded = checkpoint_load(&m, bench->file, true, DTYPE_F32, &error);
        test_check(t, loaded && is_advised_huge(m.mapping), "the mapped weights ask for 2 MB pages%s", error.text);
        if (loaded) checkpoint_free(&m);
    }
    if (known != MAP_FAILED) munmap(known, bytes);
}

static size_t count_unaligned(const GPT2Model* model) {
    size_t n = 0;
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        const Tensor* tensor = &model->tensors[id];
        n += (uintptr_t)tensor->data % 64 != 0 || (uintptr_t)tensor->scales % 64 != 0;
    }
    return n;
}

// The same for a model in BF16Z: its rows are those of BF16.
static size_t wrong_packed_rows(const Toy* toy, const GPT2Model* model) {
    size_t wrong = 0, longest = 4 * (size_t)toy->config.channels;
    uint16_t* rounded = malloc(longest * sizeof *rounded);
    float* row = malloc(longest * sizeof *row);
    for (int id = 0; row != NULL && rounded != NULL && id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &toy->config);
        for (size_t r = 0; shape.kind != VECTOR && r < shape.layers * shape.rows; r++) {
            row_from_f32(rounded, NULL, toy_tensor(toy, (ParameterId)id, 0) + r * shape.cols, DTYPE_BF16, shape.cols);
            gpt2_matrix_row(row, &model->tensors[id], r, shape.cols);
            bool same = model->tensors[id].dtype == DTYPE_BF16Z;
            for (size_t c = 0; c < shape.cols; c++) same &= f32_bits(row[c]) == (uint32_t)rounded[c] << 16;
            wrong += !same;
        }
    }
    free(row);
    free(rounded);
    return row == NULL || rounded == NULL ? 1 : wrong;
}

// Every row of a converted model against row_from_f32 of the row it came from: how many rows differ.
static size_t wrong_rows(const Toy* toy, const GPT2Model* model) {
    if (model->dtype == DTYPE_BF16Z) return wrong_packed_rows(toy, model);
    size_t wrong = 0, longest = 4 * (size_t)toy->config.channels;
    char* row = malloc(longest * sizeof(float) + 64);
    uint16_t* scales = malloc(longest * sizeof *scales);
    for (int id = 0; row != NULL && scales != NULL && id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &toy->config);
        const Tensor* tensor = &model->tensors[id];
        size_t row_bytes = dtype_stride_bytes(tensor->dtype, shape.cols);
        size_t scale_bytes = tensor->dtype == DTYPE_Q8 ? q8_num_scales(shape.cols) * sizeof *scales : 0;
        for (size_t r = 0; r < shape.layers * shape.rows; r++) {
            row_from_f32(row, scales, toy_tensor(toy, (ParameterId)id, 0) + r * shape.cols, tensor->dtype, shape.cols);
            bool same = memcmp(row, (const char*)tensor->data + r * row_bytes, row_bytes) == 0;
            if (scale_bytes > 0)
                same &= memcmp(scales, tensor->scales + r * q8_num_scales(shape.cols), scale_bytes) == 0;
            wrong += !same;
        }
    }
    free(row);
    free(scales);
    return row == NULL || scales == NULL ? 1 : wrong;
}

static void test_conversion(Tests* t, Bench* bench) {
    Toy toy = toy_make((GPT2Config){4, 300, 300, 1, 3, 120}, 2, false); // large enough for several threads
    Bytes bytes = toy_llmc(&toy, 3);
    write_file(bench->file, bytes.data, bytes.size);
    for (int dtype = DTYPE_BF16; dtype < NUM_DTYPES; dtype++) {
        GPT2Model m;
        Error error = {""};
        bool ok = checkpoint_load(&m, bench->file, false, (DType)dtype, &error);
        size_t wrong = ok ? wrong_rows(&toy, &m) : 1, unaligned = ok ? count_unaligned(&m) : 1;
        ok = ok && wrong == 0 && unaligned == 0 && m.dtype == (DType)dtype && m.file_dtype == DTYPE_F32 &&
             m.tensors[LN1W].dtype == DTYPE_F32 && m.mapping == NULL;
        test_check(t, ok,
                   "f32 becomes %s row by row, vectors stay f32, tensors begin at 64 bytes, the file is let go "
                   "(%zu rows wrong, %zu unaligned)%s",
                   dtype_names[dtype], wrong, unaligned, error.text);
        checkpoint_free(&m);
    }
    free(bytes.data);
    toy_free(&toy);
}

// A weight that the wanted dtype cannot express is an error, never an infinity.
static void test_unfit(Tests* t, Bench* bench) {
    const struct {
        float value;
        bool fits[NUM_DTYPES];
    } cases[] = {
        {65504, {true, true, true, true, true}},   {70000, {true, true, false, true, true}},
        {1e7f, {true, true, false, false, true}},  {3.4e38f, {true, false, false, false, false}},
        {NAN, {true, false, false, false, false}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Toy toy = toy_make(toy_config, 3, true);
        toy_tensor(&toy, ATTPROJW, 1)[35 * 36 + 3] = cases[i].value;
        Bytes bytes = toy_llmc(&toy, 3);
        write_file(bench->file, bytes.data, bytes.size);
        int wrong = 0;
        Error error = {""};
        for (int dtype = 0; dtype < NUM_DTYPES; dtype++) {
            GPT2Model m;
            bool ok = checkpoint_load(&m, bench->file, false, (DType)dtype, &error);
            wrong += ok != cases[i].fits[dtype];
            if (!ok)
                wrong +=
                    strstr(error.text, "attprojw") == NULL || strstr(error.text, "layer 1, row 35, column 3") == NULL;
            if (ok) checkpoint_free(&m);
        }
        test_check(t, wrong == 0, "a weight of %g: f32 %d, bf16 %d, f16 %d, q8 %d, bf16z %d accept it%s",
                   (double)cases[i].value, cases[i].fits[0], cases[i].fits[1], cases[i].fits[2], cases[i].fits[3],
                   cases[i].fits[4], error.text);
        free(bytes.data);
        toy_free(&toy);
    }
}

// The four GPT-2 in f32 and bf16, as files of the right size without contents: mapped, so that no memory is needed.
static void test_published_sizes(Tests* t, Bench* bench) {
    const struct {
        const char* name;
        GPT2Config config;
        size_t parameters, padded; // OpenAI's count; llm.c's with 50304 rows
    } models[] = {
        {"124M", {1024, 50257, 50304, 12, 12, 768}, 124439808, 124475904},
        {"355M", {1024, 50257, 50304, 24, 16, 1024}, 354823168, 354871296},
        {"774M", {1024, 50257, 50304, 36, 20, 1280}, 774030080, 774090240},
        {"1558M", {1024, 50257, 50304, 48, 25, 1600}, 1557611200, 1557686400},
    };
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const GPT2Config* c = &models[i].config;
        GPT2Config unpadded = *c;
        unpadded.padded_vocab_size = unpadded.vocab_size;
        size_t parameters = gpt2_num_parameters(&unpadded);
        for (int version = 3; version <= 5; version += 2) {
            int32_t header[256] = {20240326,      version,      c->max_seq_len, c->vocab_size,
                                   c->num_layers, c->num_heads, c->channels,    c->padded_vocab_size};
            size_t size = 1024 + models[i].padded * (version == 3 ? 4 : 2);
            write_file(bench->file, header, sizeof header);
            if (truncate(bench->file, (off_t)size) != 0) {
                test_skip(t, "%s: a sparse file of %zu bytes: %s", models[i].name, size, strerror(errno));
                continue;
            }
            GPT2Model m;
            Error error = {""};
            bool ok = checkpoint_load(&m, bench->file, true, DTYPE_F32, &error) && parameters == models[i].parameters &&
                      m.num_parameters == models[i].padded;
            test_check(t, ok, "GPT-2 %s has %zu parameters, %zu padded; version %d is %zu bytes%s", models[i].name,
                       parameters, m.num_parameters, version, size, error.text);
            checkpoint_free(&m);
        }
    }
    unlink(bench->file);
}

// ---------------------------------------------------------------------------------------------------------------------
// llm.c's files that are wrong

static void test_bad_headers(Tests* t, Bench* bench) {
    static const struct {
        const char* what;
        int field, value; // of the header's 256 int32
        const char* reason;
    } cases[] = {
        {"version 2", 1, 2, "version 2"},
        {"version 4", 1, 4, "version 4"},
        {"version 0", 1, 0, "unknown"},
        {"version 6", 1, 6, "unknown"},
        {"version -1", 1, -1, "unknown"},
        {"no positions", 2, 0, "max_seq_len"},
        {"negative positions", 2, -5, "max_seq_len"},
        {"too many positions", 2, 1 << 30, "max_seq_len"},
        {"no vocabulary", 3, 0, "vocab_size"},
        {"a vocabulary above its padding", 3, 129, "padded_vocab_size"},
        {"too large a vocabulary", 3, 1 << 30, "vocab_size"},
        {"no layers", 4, 0, "num_layers"},
        {"negative layers", 4, -2, "num_layers"},
        {"too many layers", 4, 1 << 20, "num_layers"},
        {"no heads", 5, 0, "num_heads"},
        {"heads that do not divide the channels", 5, 5, "multiple"},
        {"no channels", 6, 0, "channels"},
        {"too many channels", 6, 1 << 24, "channels"},
        {"more layers than the file holds", 4, 3, "cut short"},
        {"fewer layers than the file holds", 4, 1, "appended"},
        {"the largest sizes together", 4, 4096, "cut short"},
        {"a missing padded_vocab_size", 7, 0, "padded_vocab_size"},
        {"another padded_vocab_size", 7, 64, "appended"},
    };
    Bytes bytes = toy_llmc(&bench->toy, 5);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t kept, value = cases[i].value;
        unsigned char* field = bytes.data + 4 * cases[i].field;
        memcpy(&kept, field, 4);
        memcpy(field, &value, 4);
        write_file(bench->file, bytes.data, bytes.size);
        memcpy(field, &kept, 4);
        check_refused(t, bench->file, cases[i].what, cases[i].reason);
    }
    free(bytes.data);
}

static void test_bad_sizes(Tests* t, Bench* bench) {
    for (int version = 1; version <= 5; version += 2) {
        Bytes bytes = toy_llmc(&bench->toy, version);
        write_file(bench->file, bytes.data, bytes.size - 1);
        check_refused(t, bench->file, "a file that is one byte short", "cut short");
        bytes.data = realloc(bytes.data, bytes.size + 1);
        bytes.data[bytes.size] = 0;
        write_file(bench->file, bytes.data, bytes.size + 1);
        check_refused(t, bench->file, "a file that is one byte long", "appended");
        Error error;
        int loaded = 0, tried = 0;
        for (size_t size = bytes.size; size > 0; tried++) {
            size -= size > 2100 ? 997 : size > 25 ? 25 : size;
            loaded += truncate(bench->file, (off_t)size) != 0;
            loaded += load_and_compare(&bench->toy, bench->file, true, DTYPE_F32, &error) >= 0;
        }
        test_check(t, loaded == 0, "version %d cut at %d places is refused every time (%d loaded)", version, tried,
                   loaded);
        free(bytes.data);
    }
}

// One bit of the header's eight numbers changed. Only V within its padding and the number of heads may go unnoticed, as
// the file's size does not depend on them.
static void test_flipped_bits(Tests* t, Bench* bench) {
    Bytes bytes = toy_llmc(&bench->toy, 5);
    int loaded = 0, tried = 0;
    for (size_t bit = 0; bit < 8 * 32; bit++) {
        if (bit / 32 == 3 || bit / 32 == 5) continue;
        bytes.data[bit / 8] ^= (unsigned char)(1 << bit % 8);
        write_file(bench->file, bytes.data, bytes.size);
        bytes.data[bit / 8] ^= (unsigned char)(1 << bit % 8);
        Error error;
        loaded += load_and_compare(&bench->toy, bench->file, true, DTYPE_F32, &error) >= 0;
        tried++;
    }
    test_check(t, loaded == 0, "one flipped bit of the header is noticed: %d of %d loaded", loaded, tried);
    free(bytes.data);
}

static void test_other_files(Tests* t, Bench* bench) {
#define CONTENT(text) text, sizeof text - 1
    static const struct {
        const char *what, *content;
        size_t size;
        const char* reason;
    } cases[] = {
        {"an empty file", CONTENT(""), "is empty"},
        {"a file of one byte", CONTENT("x"), "no known format"},
        {"a GGUF file", CONTENT("GGUF\3\0\0\0"), "GGUF"},
        {"a zip archive", CONTENT("PK\3\4\0\0\0\0"), "PyTorch"},
        {"a Python pickle", CONTENT("\x80\2}q\0."), "pickle"},
        {"a gzip file", CONTENT("\x1f\x8b\x08\0\0\0"), "gzip"},
        {"a git-lfs pointer", CONTENT("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"), "git-lfs"},
        {"a web page", CONTENT("<!DOCTYPE html><html><body>404"), "web page"},
        {"a web page after blank lines", CONTENT("\n\n  <html lang=\"en\">"), "web page"},
        {"a JSON text", CONTENT("{\"model_type\": \"gpt2\"}"), "JSON"},
        {"zeros", CONTENT("\0\0\0\0\0\0\0\0\0\0\0\0"), "no known format"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_file(bench->file, cases[i].content, cases[i].size);
        check_refused(t, bench->file, cases[i].what, cases[i].reason);
    }
    static const struct {
        const char* what;
        uint32_t magic;
        const char* reason;
    } numbers[] = {
        {"llm.c's header, ending early", 20240326, "cut short"},
        {"llm.c's tokenizer", 20240328, "--tokenizer"},
        {"llm.c's debug state", 20240327, "debug state"},
        {"a byte-swapped llm.c file", __builtin_bswap32(20240326), "big-endian"},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        write_file(bench->file, &numbers[i].magic, sizeof numbers[i].magic);
        check_refused(t, bench->file, numbers[i].what, numbers[i].reason);
    }
    char path[300];
    snprintf(path, sizeof path, "%s/pipe", bench->directory);
    if (mkfifo(path, 0600) == 0) check_refused(t, path, "a pipe, without waiting for its writer", "is a pipe");
    check_refused(t, "/dev/null", "a device", "is a device");
    snprintf(path, sizeof path, "%s/missing.bin", bench->directory);
    check_refused(t, path, "a file that is not there", "No such file");
}

// ---------------------------------------------------------------------------------------------------------------------
// Saving

static bool is_same_file(const char* path, const Bytes* bytes) {
    Bytes file = read_file(path);
    bool same = file.size == bytes->size && memcmp(file.data, bytes->data, file.size) == 0;
    free(file.data);
    return same;
}

static bool is_there(const char* path) {
    return access(path, F_OK) == 0;
}

static void test_saving(Tests* t, Bench* bench) {
    char saved[300];
    snprintf(saved, sizeof saved, "%s/saved.bin", bench->directory);
    for (int from = 1; from <= 5; from += 2) {
        Bytes source = toy_llmc(&bench->toy, from);
        write_file(bench->file, source.data, source.size);
        free(source.data);
        for (int to = 3; to <= 5; to += 2) {
            GPT2Model m;
            Error error = {""};
            Bytes expected = toy_llmc(&bench->toy, to);
            bool ok = checkpoint_load(&m, bench->file, false, to == 3 ? DTYPE_F32 : DTYPE_BF16, &error) &&
                      checkpoint_save(&m, saved, &error);
            checkpoint_free(&m);
            test_check(t, ok && is_same_file(saved, &expected),
                       "version %d saved as version %d is the file, byte for byte, "
                       "padded to 128 rows with zeros%s",
                       from, to, error.text);
            free(expected.data);
        }
    }
    GPT2Model m;
    Error error = {""};
    bool ok = checkpoint_load(&m, saved, true, DTYPE_F32, &error) && checkpoint_save(&m, saved, &error);
    size_t held = ok ? toy_differences(&bench->toy, &m) : 1;
    checkpoint_free(&m);
    long written = load_and_compare(&bench->toy, saved, true, DTYPE_F32, &error);
    test_check(t, held == 0 && written == 0,
               "a mapped file may be saved over: %zu weights of the model and %ld of the file differ", held, written);
    unlink(saved);
}

// What a failed save leaves behind: the old file, and no other.
static void check_failed_save(Tests* t, const GPT2Model* model, const char* path, const char* what,
                              const char* reason) {
    char beside[320];
    snprintf(beside, sizeof beside, "%s.tmp", path);
    Error error = {"(it was saved)"};
    bool saved = checkpoint_save(model, path, &error);
    bool ok = !saved && strstr(error.text, reason) != NULL && !is_there(beside);
    test_check(t, ok, "saving %s fails and leaves nothing: %s", what, error.text);
}

static void test_failed_saving(Tests* t, Bench* bench) {
    char path[300];
    GPT2Model m;
    Error error = {""};
    Bytes source = toy_llmc(&bench->toy, 3);
    write_file(bench->file, source.data, source.size);
    free(source.data);
    if (!test_check(t, checkpoint_load(&m, bench->file, true, DTYPE_F32, &error), "a model to save %s", error.text))
        return;
    snprintf(path, sizeof path, "%s/nowhere/saved.bin", bench->directory);
    check_failed_save(t, &m, path, "into a directory that is not there", "No such file");
    snprintf(path, sizeof path, "%s/saved.bin", bench->directory);
    struct rlimit kept, small;
    if (getrlimit(RLIMIT_FSIZE, &kept) == 0) {
        small = (struct rlimit){3000, kept.rlim_max};
        void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &small);
        bool saved = checkpoint_save(&m, path, &error);
        setrlimit(RLIMIT_FSIZE, &kept);
        signal(SIGXFSZ, handler);
        char beside[320];
        snprintf(beside, sizeof beside, "%s.tmp", path);
        test_check(t, !saved && !is_there(path) && !is_there(beside), "a full disk is an error and leaves no file: %s",
                   error.text);
    }
    if (test_check(t, mkdir(path, 0700) == 0, "a directory stands in the way")) {
        check_failed_save(t, &m, path, "over a directory", "is a directory");
        rmdir(path);
    }
    checkpoint_free(&m);
    Toy toy = toy_make(toy_config, 4, true);
    toy_tensor(&toy, LNFB, 0)[7] = 3.4e38f;
    source = toy_llmc(&toy, 3);
    write_file(bench->file, source.data, source.size);
    if (checkpoint_load(&m, bench->file, false, DTYPE_BF16, &error)) {
        check_failed_save(t, &m, path, "3.4e38 as bf16", "lnfb");
    }
    checkpoint_free(&m);
    free(source.data);
    toy_free(&toy);
}

// ---------------------------------------------------------------------------------------------------------------------
// Finding

static const char* const settings[] = {"GPT2_MODEL", "HF_HUB_CACHE", "HF_HOME", "HOME"};
enum { NUM_SETTINGS = sizeof settings / sizeof *settings };

static void create(const char* path) {
    write_file(path, "", 0);
}

// Finds without a wish; checks model and tokenizer (NULL: an error that holds `model` is due).
static void check_found(Tests* t, const char* wish, const char* what, const char* model, const char* tokenizer) {
    ModelPaths paths;
    Error error = {""};
    bool found = checkpoint_find(&paths, wish, NULL, &error);
    if (tokenizer == NULL) {
        test_check(t, !found && strstr(error.text, model) != NULL, "%s: an error: %s", what, error.text);
        return;
    }
    bool ok = found && strcmp(paths.model, model) == 0 && strcmp(paths.tokenizer, tokenizer) == 0 && !paths.is_bundled;
    test_check(t, ok, "%s: %s with %s%s", what, found ? paths.model : "nothing", found ? paths.tokenizer : "",
               error.text);
}

static void make_hub_cache(const char* hub, const char* repository) {
    static const char* const levels[] = {"", "/refs", "/snapshots", "/snapshots/0123abcd"};
    static const char* const files[] = {"config.json", "model.safetensors", "vocab.json", "merges.txt"};
    char path[512];
    mkdir(hub, 0700);
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        snprintf(path, sizeof path, "%s/%s%s", hub, repository, levels[i]);
        mkdir(path, 0700);
    }
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s/snapshots/0123abcd/%s", hub, repository, files[i]);
        create(path);
    }
    snprintf(path, sizeof path, "%s/%s/refs/main", hub, repository);
    write_file(path, "0123abcd\n", 9);
}

// In an empty working directory: first the bundled model or nothing, then one more preferred place after the other.
static void test_default_order(Tests* t) {
    ModelPaths paths;
    Error error = {""};
    if (checkpoint_find(&paths, NULL, NULL, &error)) { // test_surroundings.c tries a program with nothing beside it
        test_check(t, paths.is_bundled, "no model here: the one beside this program is found (%s)", paths.model);
    } else {
        test_check(t, strstr(error.text, "scripts/download_gpt2.sh") && strstr(error.text, "gpt2_124M_bf16.bin"),
                   "no model anywhere: %s", error.text);
        mkdir("models", 0700);
        create("models/fairytales.bin");
        create("models/fairytales_tokenizer.bin");
    }
    bool found = checkpoint_find(&paths, NULL, NULL, &error);
    test_check(t,
               found && paths.is_bundled && strstr(paths.model, "models/fairytales.bin") &&
                   strstr(paths.tokenizer, "models/fairytales_tokenizer.bin"),
               "last comes the bundled model: %s", found ? paths.model : error.text);
    mkdir(".cache", 0700);
    mkdir(".cache/huggingface", 0700);
    make_hub_cache(".cache/huggingface/hub", "models--gpt2");
    const char* snapshot = ".cache/huggingface/hub/models--gpt2/snapshots/0123abcd";
    setenv("HOME", ".", 1);
    check_found(t, NULL, "before it the Hugging Face cache", "./.cache/huggingface/hub/models--gpt2/snapshots/0123abcd",
                "./.cache/huggingface/hub/models--gpt2/snapshots/0123abcd");
    mkdir("home", 0700);
    make_hub_cache("home/hub", "models--openai-community--gpt2");
    snapshot = "home/hub/models--openai-community--gpt2/snapshots/0123abcd";
    setenv("HF_HOME", "home", 1);
    check_found(t, NULL, "$HF_HOME moves it", snapshot, snapshot);
    make_hub_cache("hub", "models--openai-community--gpt2");
    snapshot = "hub/models--openai-community--gpt2/snapshots/0123abcd";
    setenv("HF_HUB_CACHE", "hub", 1);
    check_found(t, NULL, "$HF_HUB_CACHE moves it further", snapshot, snapshot);
    create("gpt2_124M.bin");
    check_found(t, NULL, "a model without a tokenizer", "gpt2_tokenizer.bin", NULL);
    create("gpt2_tokenizer.bin");
    check_found(t, NULL, "before it gpt2_124M.bin here", "gpt2_124M.bin", "./gpt2_tokenizer.bin");
    create("gpt2_124M_bf16.bin");
    check_found(t, NULL, "before it gpt2_124M_bf16.bin here", "gpt2_124M_bf16.bin", "./gpt2_tokenizer.bin");
    create("gpt2_124M_bf16z.bin");
    check_found(t, NULL, "before it gpt2_124M_bf16z.bin here", "gpt2_124M_bf16z.bin", "./gpt2_tokenizer.bin");
    setenv("GPT2_MODEL", snapshot, 1);
    check_found(t, NULL, "before it $GPT2_MODEL", snapshot, snapshot);
    setenv("GPT2_MODEL", "missing.bin", 1);
    check_found(t, NULL, "$GPT2_MODEL that names nothing", "$GPT2_MODEL \"missing.bin\"", NULL);
    check_found(t, "gpt2_124M.bin", "before all --model", "gpt2_124M.bin", "./gpt2_tokenizer.bin");
}

static void test_beside(Tests* t) {
    mkdir("other", 0700);
    create("other/tiny.bin");
    check_found(t, "other/tiny.bin", "no tokenizer beside it", "tiny_tokenizer.bin", NULL);
    create("other/tokenizer.json");
    check_found(t, "other", "a directory with tokenizer.json only", "tokenizer.json alone", NULL);
    create("other/vocab.json");
    check_found(t, "other/tiny.bin", "vocab.json without merges.txt", "merges.txt", NULL);
    create("other/merges.txt");
    check_found(t, "other/tiny.bin", "vocab.json and merges.txt beside it", "other/tiny.bin", "other");
    create("other/gpt2_tokenizer.bin");
    check_found(t, "other/tiny.bin", "preferred: gpt2_tokenizer.bin", "other/tiny.bin", "other/gpt2_tokenizer.bin");
    create("other/tiny_tokenizer.bin");
    check_found(t, "other/tiny.bin", "preferred: its own", "other/tiny.bin", "other/tiny_tokenizer.bin");
    check_found(t, "other", "a directory prefers vocab.json", "other", "other");
    create("other/model.safetensors");
    check_found(t, "other/model.safetensors", "and so does a .safetensors file", "other/model.safetensors", "other");
    unlink("other/merges.txt");
    check_found(t, "other", "a directory without merges.txt", "other", "other/gpt2_tokenizer.bin");
    ModelPaths paths;
    Error error = {""};
    bool ok = checkpoint_find(&paths, "other", "gpt2_tokenizer.bin", &error);
    test_check(t, ok && strcmp(paths.tokenizer, "gpt2_tokenizer.bin") == 0, "--tokenizer is taken as it is");
    ok = checkpoint_find(&paths, "other", "missing", &error);
    test_check(t, !ok && strstr(error.text, "missing"), "--tokenizer that names nothing: %s", error.text);
    char name[5000];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    ok = checkpoint_find(&paths, name, NULL, &error);
    test_check(t, !ok && strstr(error.text, "too long"), "a name of %zu bytes: %s", strlen(name), error.text);
}

static void test_finding(Tests* t, const Bench* bench) {
    char directory[300], *kept[NUM_SETTINGS];
    char* before = getcwd(NULL, 0);
    snprintf(directory, sizeof directory, "%s/cwd", bench->directory);
    if (before == NULL || mkdir(directory, 0700) != 0 || chdir(directory) != 0) {
        test_check(t, false, "a working directory for finding: %s", strerror(errno));
        free(before);
        return;
    }
    for (int i = 0; i < NUM_SETTINGS; i++) {
        const char* value = getenv(settings[i]);
        kept[i] = value != NULL ? strdup(value) : NULL;
        unsetenv(settings[i]);
    }
    test_default_order(t);
    test_beside(t);
    for (int i = 0; i < NUM_SETTINGS; i++) {
        if (kept[i] != NULL) setenv(settings[i], kept[i], 1);
        else unsetenv(settings[i]);
        free(kept[i]);
    }
    test_check(t, chdir(before) == 0, "back in the working directory");
    free(before);
}

void test_checkpoint(Tests* t) {
    Bench bench = {.toy = toy_make(toy_config, 1, true)};
    make_directory(bench.directory);
    snprintf(bench.file, sizeof bench.file, "%s/model.bin", bench.directory);
    test_section("checkpoint: llm.c's files");
    test_versions(t, &bench);
    test_mapping(t, &bench);
    test_huge_pages(t, &bench);
    test_conversion(t, &bench);
    test_unfit(t, &bench);
    test_published_sizes(t, &bench);
    test_section("checkpoint: files to be refused");
    test_bad_headers(t, &bench);
    test_bad_sizes(t, &bench);
    test_flipped_bits(t, &bench);
    test_other_files(t, &bench);
    test_section("checkpoint: saving");
    test_saving(t, &bench);
    test_failed_saving(t, &bench);
    test_section("checkpoint: finding");
    test_finding(t, &bench);
    test_image(t);
    test_huggingface(t);
    remove_directory(bench.directory);
    toy_free(&bench.toy);
}
