// Files made to do harm, as the loaders meet them: what test_checkpoint.c, test_huggingface.c and test_tokenizer.c do
// not have already. Then a long life of one process.
#include <dirent.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../checkpoint.h"
#include "../gpt2_kernels.h"
#include "../sampler.h"
#include "../tokenizer.h"
#include "../weights.h"
#include "test.h"
#include "toy_checkpoint.h"

typedef struct {
    Tests* t;
    char directory[256];
} Bench;

static const char* path_in(const Bench* bench, const char* name, char path[512]) {
    snprintf(path, 512, "%s/%s", bench->directory, name);
    return path;
}

// Both loaders on a path. Are both refusals one line that names the path and says `model` and `tokenizer`?
static void check_both_refuse(const Bench* bench, const char* path, const char* what, const char* model,
                              const char* tokenizer) {
    GPT2Model loaded;
    Error a = {"(loaded)"}, b = {"(loaded)"};
    double start = seconds_now();
    bool ok = !checkpoint_load(&loaded, path, true, DTYPE_F32, &a);
    Tokenizer* t = tokenizer_load_bin(path, &b);
    double seconds = seconds_now() - start;
    ok = ok && t == NULL && strstr(a.text, model) != NULL && strstr(b.text, tokenizer) != NULL && seconds < 5;
    ok = ok && strncmp(a.text, path, strlen(path)) == 0 && strncmp(b.text, path, strlen(path)) == 0;
    ok = ok && strchr(a.text, '\n') == NULL && strchr(b.text, '\n') == NULL;
    const char* slash = strrchr(a.text, '/');
    test_check(bench->t, ok, "%s is neither a model nor a tokenizer: %s", what, slash != NULL ? slash + 1 : a.text);
}

// ---------------------------------------------------------------------------------------------------------------------
// Formats that are recognised by name

static void test_kinds(const Bench* bench) {
#define START(text) text, sizeof text - 1
    static const struct {
        const char *what, *start;
        size_t length, at;
        const char* said;
    } kinds[] = {
        {"a GGUF file", START("GGUF\3"), 0, "GGUF"},
        {"an old ggml file", START("lmgg"), 0, "ggml"},
        {"a ggjt file", START("tjgg"), 0, "ggjt"},
        {"a llama2.c checkpoint", START("24ka"), 0, "llama2.c"},
        {"a PyTorch file", START("PK\3\4"), 0, "PyTorch"},
        {"a pickle of protocol 2", START("\x80\2}"), 0, "pickle"},
        {"a pickle of protocol 3", START("\x80\3}"), 0, "pickle"},
        {"a pickle of protocol 4", START("\x80\4\x95"), 0, "pickle"},
        {"a pickle of protocol 5", START("\x80\5\x95"), 0, "pickle"},
        {"a gzip file", START("\x1f\x8b\x08"), 0, "gunzip"},
        {"an xz file",
         START("\xfd"
               "7zXZ\0"),
         0, "unxz"},
        {"a zstd file", START("\x28\xb5\x2f\xfd"), 0, "unzstd"},
        {"a bzip2 file", START("BZh9"), 0, "bunzip2"},
        {"a 7z archive", START("7z\xbc\xaf\x27\x1c"), 0, "7z"},
        {"a tar archive", START("ustar"), 257, "tar"},
        {"a git-lfs pointer", START("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"), 0,
         "git lfs"},
        {"a NumPy array", START("\x93NUMPY\1"), 0, "NumPy"},
        {"an HDF5 file", START("\x89HDF\r\n"), 0, "HDF5"},
        {"a TensorFlow Lite model", START("TFL3"), 4, "TensorFlow"},
        {"a program",
         START("\x7f"
               "ELF\2"),
         0, "program"},
        {"an old ggmf file", START("fmgg"), 0, "ggmf"},
        {"a PNG picture", START("\x89PNG\r\n"), 0, "picture"},
        {"a JPEG picture", START("\xff\xd8\xff\xe0"), 0, "picture"},
        {"a PDF", START("%PDF-1.7"), 0, "PDF"},
        {"a web page", START("<!DOCTYPE html><title>404"), 0, "web page"},
        {"an XML error of a file server", START("<?xml version=\"1.0\"?><Error><Code>AccessDenied"), 0, "web page"},
        {"a message in plain text", START("Entry not found, sorry"), 0, "download"},
        {"a big-endian llm.c model", START("\x01\x34\xd7\xc6"), 0, "big-endian"},
    };
    char path[512];
    unsigned char content[2048];
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        memset(content, 0, sizeof content);
        memcpy(content + kinds[i].at, kinds[i].start, kinds[i].length);
        bool is_text = kinds[i].length > 20; // these are only themselves without zeros behind them
        write_file(path_in(bench, "kind.bin", path), content, is_text ? kinds[i].length : sizeof content);
        check_both_refuse(bench, path, kinds[i].what, kinds[i].said, kinds[i].said);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Places that hold no file

static void test_places(const Bench* bench) {
    char path[512];
#ifdef HAVE_JANSSON
    const char* lacking = "config.json"; // a directory is taken for Hugging Face's
#else
    const char* lacking = "libjansson";
#endif
    check_both_refuse(bench, bench->directory, "a directory", lacking, "is a directory");
    if (mkfifo(path_in(bench, "fifo", path), 0600) == 0)
        check_both_refuse(bench, path, "a pipe that nobody writes into", "is a pipe", "is a pipe");
    if (symlink("loop", path_in(bench, "loop", path)) == 0)
        check_both_refuse(bench, path, "a link to itself", "symbolic links", "symbolic links");
    if (symlink("missing", path_in(bench, "dangling", path)) == 0)
        check_both_refuse(bench, path, "a link to nothing", "No such file", "No such file");
    static const char* const devices[] = {"/dev/zero", "/dev/null", "/dev/full"};
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        if (access(devices[i], F_OK) == 0)
            check_both_refuse(bench, devices[i], devices[i], "is a device", "is a device");
    }
    if (access("/proc/self/maps", R_OK) == 0)
        check_both_refuse(bench, "/proc/self/maps", "a file of /proc", "is empty", "is empty");
    write_file(path_in(bench, "secret", path), "x", 1);
    if (geteuid() != 0 && chmod(path, 0) == 0)
        check_both_refuse(bench, path, "a file that may not be read", "Permission denied", "Permission denied");
    write_file(path_in(bench, "sparse.bin", path), "", 0);
    if (truncate(path, (off_t)1 << 40) == 0)
        check_both_refuse(bench, path, "a terabyte of zeros", "no known format", "no known format");
    unlink(path);
}

// A header of an absurd model before as many zeros as it promises, of which none takes room on the disk.
static void test_absurd_model(const Bench* bench) {
    static const int32_t header[8] = {20240326, 3, 16, 260, 64, 1, 16384, 260};
    const off_t parameters = 206176616448; // L (12 C^2 + 13 C) + (V + maxT + 2) C
    unsigned char bytes[1024] = {0};
    char path[512];
    memcpy(bytes, header, sizeof header);
    write_file(path_in(bench, "absurd.bin", path), bytes, sizeof bytes);
    if (truncate(path, (off_t)sizeof bytes + 4 * parameters) == 0) {
        check_both_refuse(bench, path, "a file of 206 billion zeros that fits its header", "206176616448 parameters",
                          "it is a model");
    }
    unlink(path);
}

// A name with line feeds and the terminal's commands in it.
static void test_odd_name(const Bench* bench) {
    char path[512];
    GPT2Model model;
    Error error;
    bool ok = !checkpoint_load(&model, path_in(bench, "a\nb\x1b[2J\xc2\x9b", path), true, DTYPE_F32, &error);
    const char* slash = strrchr(error.text, '/');
    test_check(bench->t, ok && slash != NULL && strncmp(slash, "/a?b?[2J??: ", 12) == 0,
               "what would break the line or command the terminal is shown as question marks: %s",
               slash != NULL ? slash + 1 : error.text);
}

// A cache whose refs/main is a pipe must not make the search wait.
static void test_cache_with_pipe(const Bench* bench) {
    static const char* const levels[] = {"hub", "hub/models--gpt2", "hub/models--gpt2/refs"};
    char path[512], kept[4096] = "";
    bool ok = true;
    for (size_t i = 0; i < 3; i++) ok = ok && mkdir(path_in(bench, levels[i], path), 0700) == 0;
    if (!ok || mkfifo(path_in(bench, "hub/models--gpt2/refs/main", path), 0600) != 0) return;
    const char* before = getenv("HF_HUB_CACHE");
    if (before != NULL) snprintf(kept, sizeof kept, "%s", before);
    setenv("HF_HUB_CACHE", path_in(bench, "hub", path), 1);
    ModelPaths paths;
    Error error;
    double start = seconds_now();
    bool found = checkpoint_find(&paths, NULL, NULL, &error);
    double seconds = seconds_now() - start;
    bool is_from_cache = found && strncmp(paths.model, path, strlen(path)) == 0;
    test_check(bench->t, !is_from_cache && seconds < 5, "a pipe as refs/main is passed over after %.3f s", seconds);
    if (before != NULL) setenv("HF_HUB_CACHE", kept, 1);
    else unsetenv("HF_HUB_CACHE");
}

// ---------------------------------------------------------------------------------------------------------------------
// Vocabularies whose entries are made to collide in the tables of tokenizer.c. The formulas are repeated here, as an
// attacker would; where they no longer agree, what is built here loads, and the checks fail.

static uint64_t polynomial(const unsigned char* bytes, size_t n) {
    uint64_t hash = 0;
    for (size_t i = 0; i < n; i++) hash = hash * 0x9E3779B97F4A7C15u + bytes[i] + 1;
    return hash;
}

static size_t slot_of(uint64_t hash, size_t mask) {
    return (size_t)((hash ^ hash >> 32) * 0xD6E8FEB86659FD93u >> 32) & mask;
}

enum { COLLIDING = 700, SLOTS = 2048 }; // the table of 256 + 700 tokens

static void put_header(unsigned char* file, int num_tokens) {
    const int32_t header[3] = {20240328, 1, num_tokens};
    memset(file, 0, 1024);
    memcpy(file, header, sizeof header);
    for (int b = 0; b < 256; b++) file[1024 + 2 * b] = 1, file[1024 + 2 * b + 1] = (unsigned char)b;
}

// Tokens of 3 bytes; with `collide` only such as begin their search within the same few slots.
static double load_made_vocabulary(const Bench* bench, bool collide, Error* error, bool* loaded) {
    static unsigned char file[1024 + 512 + 4 * COLLIDING];
    char path[512];
    put_header(file, 256 + COLLIDING);
    size_t at = 1024 + 512, made = 0;
    for (uint32_t i = 0; i < 1u << 24 && made < COLLIDING; i++) {
        unsigned char token[3] = {(unsigned char)i, (unsigned char)(i >> 8), (unsigned char)(i >> 16)};
        if (collide && slot_of(polynomial(token, 3), SLOTS - 1) >= 8) continue;
        file[at++] = 3;
        memcpy(file + at, token, 3);
        at += 3;
        made++;
    }
    write_file(path_in(bench, "made.bin", path), file, at);
    double start = seconds_now();
    Tokenizer* tokenizer = tokenizer_load_bin(path, error);
    *loaded = tokenizer != NULL;
    tokenizer_free(tokenizer);
    return seconds_now() - start;
}

static void test_collisions(const Bench* bench) {
    Error error = {""};
    bool loaded;
    load_made_vocabulary(bench, false, &error, &loaded);
    test_check(bench->t, loaded, "a vocabulary of %d tokens of 3 bytes loads %s", COLLIDING, error.text);
    double seconds = load_made_vocabulary(bench, true, &error, &loaded);
    test_check(bench->t, !loaded && strstr(error.text, "collide") != NULL && seconds < 1,
               "one whose tokens are made to collide is refused after %.4f s: %s", seconds,
               strrchr(error.text, '/') != NULL ? strrchr(error.text, '/') + 1 : error.text);
}

#ifdef HAVE_JANSSON

// Appends a byte as vocab.json's stand-in for it, in UTF-8.
static void put_stand_in(FILE* out, int byte) {
    int c = byte, next = 256;
    for (int b = 0; b <= byte; b++) {
        bool printable = (b > 32 && b < 127) || (b > 160 && b != 173);
        if (b == byte && !printable) c = next;
        next += !printable;
    }
    if (c < 128) fputc(c, out);
    else fprintf(out, "%c%c", 0xc0 | c >> 6, 0x80 | (c & 0x3f));
}

static void put_key(FILE* out, const int* bytes, int n, int id) {
    fprintf(out, id == 0 ? "{\"" : ",\"");
    for (int i = 0; i < n; i++) {
        if (bytes[i] == '"' || bytes[i] == '\\') fputc('\\', out);
        put_stand_in(out, bytes[i]);
    }
    fprintf(out, "\":%d", id);
}

// Pairs of bytes that merge, so chosen that they collide in the table of merges.
static bool load_made_merges(const Bench* bench, bool collide, Error* error) {
    char vocab_path[512], merges_path[512];
    FILE* vocab = fopen(path_in(bench, "vocab.json", vocab_path), "wb");
    FILE* merges = fopen(path_in(bench, "merges.txt", merges_path), "wb");
    if (vocab == NULL || merges == NULL) return false;
    for (int b = 0; b < 256; b++) put_key(vocab, &b, 1, b);
    int id = 256;
    for (int i = 0; i < 1 << 16 && id < 256 + COLLIDING; i++) {
        int pair[2] = {i >> 8, i & 255};
        if (collide && slot_of((uint64_t)pair[0] << 32 | (uint64_t)pair[1], SLOTS - 1) >= 25) continue;
        put_key(vocab, pair, 2, id++);
        put_stand_in(merges, pair[0]);
        fputc(' ', merges);
        put_stand_in(merges, pair[1]);
        fputc('\n', merges);
    }
    fputc('}', vocab);
    if (fclose(vocab) != 0 || fclose(merges) != 0) return false;
    Tokenizer* tokenizer = tokenizer_load_hf(vocab_path, merges_path, error);
    tokenizer_free(tokenizer);
    return tokenizer != NULL;
}

static void test_colliding_merges(const Bench* bench) {
    Error error = {""};
    test_check(bench->t, load_made_merges(bench, false, &error), "merges.txt of %d merges loads %s", COLLIDING,
               error.text);
    bool loaded = load_made_merges(bench, true, &error);
    test_check(bench->t, !loaded && strstr(error.text, "collide") != NULL,
               "one whose merges are made to collide is refused: %s",
               strrchr(error.text, '/') != NULL ? strrchr(error.text, '/') + 1 : error.text);
}

// ---------------------------------------------------------------------------------------------------------------------
// JSON

// `unit` again and again between start and end, about `size` bytes in all.
static Bytes repeated(const char* start, const char* unit, const char* end, size_t size) {
    Bytes text = {malloc(size + strlen(start) + strlen(unit) + strlen(end) + 1), 0};
    if (text.data == NULL) return text;
    char* at = stpcpy((char*)text.data, start);
    while ((size_t)(at - (char*)text.data) < size) at = stpcpy(at, unit);
    at = stpcpy(at, end);
    text.size = (size_t)(at - (char*)text.data);
    return text;
}

// Heavy, deep and empty JSON in every file that holds JSON.
static void test_json(const Bench* bench) {
    static const struct {
        const char *what, *start, *unit, *end;
        size_t size;
        const char *said, *said_of_vocabulary;
    } cases[] = {
        {"9 MiB of JSON", "{\"a\":[0", ",0", "]}", 9 << 20, "bytes of JSON", "too large"},
        {"JSON 100,000 deep", "{\"a\":", "[", "", 100000, "depth", "depth"},
        {"a million open objects", "", "{\"a\":", "", 5 << 18, "depth", "depth"},
        {"JSON that ends within a string", "{\"", "a", "", 1000, "end", "end"},
        {"an empty object", "{", "", "}", 1, "vocab_size", "256 to"},
    };
    char directory[512], path[640];
    path_in(bench, "json", directory);
    if (mkdir(directory, 0700) != 0) return;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Bytes text = repeated(cases[i].start, cases[i].unit, cases[i].end, cases[i].size);
        GPT2Model model;
        Error error = {"(loaded)"}, header = {"(loaded)"}, vocabulary = {"(loaded)"};
        snprintf(path, sizeof path, "%s/config.json", directory);
        write_file(path, text.data, text.size);
        bool ok = !checkpoint_load(&model, directory, true, DTYPE_F32, &error) && strstr(error.text, cases[i].said);
        Tokenizer* tokenizer = tokenizer_load_hf(path, path, &vocabulary);
        ok = ok && tokenizer == NULL && strstr(vocabulary.text, cases[i].said_of_vocabulary) != NULL;
        Safetensors file = {(char*)text.data, {(unsigned char*)"", 0}};
        Bytes tensors = safetensors_bytes(&file);
        unlink(path);
        snprintf(path, sizeof path, "%s/x.safetensors", directory);
        write_file(path, tensors.data, tensors.size);
        const char* said = i == 4 ? "channels" : cases[i].said; // without config.json the tensors must tell
        ok = ok && !checkpoint_load(&model, path, true, DTYPE_F32, &header) &&
             (strstr(header.text, said) != NULL || strstr(header.text, "no GPT-2") != NULL);
        test_check(bench->t, ok, "%s is refused as config.json, as vocab.json and as a header: %s", cases[i].what,
                   strrchr(header.text, '/') != NULL ? strrchr(header.text, '/') + 1 : header.text);
        free(tensors.data);
        free(text.data);
    }
}

#else

static void test_colliding_merges(const Bench* bench) {
    test_skip(bench->t, "built without libjansson: no hostile merges.txt");
}

static void test_json(const Bench* bench) {
    test_skip(bench->t, "built without libjansson: no hostile JSON");
}

#endif

// ---------------------------------------------------------------------------------------------------------------------
// Damaged weights, as the search for them sees them

static void test_damage(const Bench* bench) {
    static const GPT2Config config = {8, 40, 40, 2, 2, 32};
    char path[512];
    Toy toy = toy_make(config, 7, true);
    int right = 0;
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &config);
        size_t layer = shape.layers - 1, element = shape.rows * shape.cols - 1;
        float* weight = toy_tensor(&toy, (ParameterId)id, layer) + element;
        float kept = *weight;
        *weight = id % 2 == 0 ? __builtin_nanf("") : __builtin_inff();
        Bytes bytes = toy_llmc(&toy, 3);
        *weight = kept;
        write_file(path_in(bench, "damaged.bin", path), bytes.data, bytes.size);
        free(bytes.data);
        GPT2Model model;
        Error error, found = {""};
        char expected[128];
        snprintf(expected, sizeof expected, "%s holds", shape.name);
        if (checkpoint_load(&model, path, true, DTYPE_F32, &error)) {
            right += weights_find_damage(&model, &found) && strncmp(found.text, expected, strlen(expected)) == 0;
        }
        checkpoint_free(&model);
    }
    test_check(bench->t, right == NUM_PARAMETERS, "a NaN or an infinity is found and named in %d of %d tensors", right,
               NUM_PARAMETERS);
    Bytes bytes = toy_llmc(&toy, 5);
    GPT2Model model;
    Error error, found;
    write_file(path, bytes.data, bytes.size);
    test_check(bench->t, checkpoint_load(&model, path, true, DTYPE_F32, &error) && !weights_find_damage(&model, &found),
               "and none where there is none");
    checkpoint_free(&model);
    free(bytes.data);
    toy_free(&toy);
}

// ---------------------------------------------------------------------------------------------------------------------
// What the fuzzers start from and what they found, again: each input must be taken as they would have it.

int replay_checkpoint(const uint8_t* data, size_t size);
int replay_options(const uint8_t* data, size_t size);
int replay_text(const uint8_t* data, size_t size);
int replay_tokenizer(const uint8_t* data, size_t size);

static int replay_directory(const char* name, int (*replay)(const uint8_t*, size_t)) {
    DIR* directory = opendir(name);
    if (directory == NULL) return 0;
    int n = 0;
    // cppcheck-suppress readdirCalled
    for (struct dirent* entry; (entry = readdir(directory)) != NULL;) {
        char path[512];
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", name, entry->d_name);
        Bytes input = read_file(path);
        replay(input.data, input.size); // ends the program where the fuzzer's claims do not hold
        free(input.data);
        n++;
    }
    closedir(directory);
    return n;
}

static void test_replays(Tests* t) {
    static const struct {
        const char* name;
        int (*replay)(const uint8_t*, size_t);
    } targets[] = {{"checkpoint", replay_checkpoint},
                   {"options", replay_options},
                   {"text", replay_text},
                   {"tokenizer", replay_tokenizer}};
    if (access("dev/fuzz/seeds", R_OK) != 0) {
        test_skip(t, "no dev/fuzz in the working directory");
        return;
    }
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        char seeds[64], found[64];
        snprintf(seeds, sizeof seeds, "dev/fuzz/seeds/%s", targets[i].name);
        snprintf(found, sizeof found, "dev/fuzz/regressions/%s", targets[i].name);
        int n = replay_directory(seeds, targets[i].replay), m = replay_directory(found, targets[i].replay);
        test_check(t, n > 0, "the fuzzer of %s: %d seeds and %d inputs found before are taken as they should be",
                   targets[i].name, n, m);
    }
}

void test_hostile(Tests* t) {
    Bench bench = {.t = t};
    make_directory(bench.directory);
    test_section("hostile files");
    test_kinds(&bench);
    test_places(&bench);
    test_absurd_model(&bench);
    test_odd_name(&bench);
    test_cache_with_pipe(&bench);
    test_collisions(&bench);
    test_colliding_merges(&bench);
    test_json(&bench);
    test_damage(&bench);
    test_replays(t);
    remove_directory(bench.directory);
}

// ---------------------------------------------------------------------------------------------------------------------
// A long life: everything that a program around these modules would do again and again in one process.

enum { LONG_T = 16, LONG_B = 2, LONG_V = 258 };

// Loads, generates LONG_T tokens for LONG_B samples, frees; the hash of tokens and logits.
static bool generate_once(const char* model_path, const char* tokenizer_path, unsigned long long* hash, Error* error) {
    GPT2Model model;
    if (!checkpoint_load(&model, model_path, true, DTYPE_F32, error)) return false;
    Tokenizer* tokenizer = tokenizer_load_bin(tokenizer_path, error);
    int *prompt = NULL, slots[LONG_B] = {0, 1}, next[LONG_B], taken[LONG_B * LONG_T] = {0};
    size_t num_prompt = 0;
    float* logits = malloc(sizeof(float) * LONG_B * LONG_V);
    const DeviceOptions options = {.max_seq_len = 32, .max_batch = LONG_B, .num_threads = 1};
    Device* device = gpt2_cpu.open(&model, &options, error);
    Sampler samplers[LONG_B] = {{.V = 0}};
    const SamplerOptions sampling = {.temperature = 1, .top_k = 20, .top_p = 0.9f, .repeat_penalty = 1.1f};
    bool ok = tokenizer != NULL && logits != NULL && device != NULL &&
              tokenizer_encode(tokenizer, "the ab\xff", 7, &prompt, &num_prompt, error);
    for (int b = 0; ok && b < LONG_B; b++) ok = sampler_open(&samplers[b], &sampling, LONG_V, 1, (uint64_t)b, error);
    TokenRun run = {prompt, slots, 1, (int)num_prompt, 0};
    ok = ok && gpt2_cpu.forward(device, &run, 1, logits, error) &&
         gpt2_cpu.copy_cache(device, 1, 0, (int)num_prompt, error);
    if (ok) memmove(logits + LONG_V, logits, LONG_V * sizeof *logits);
    for (int t = 0; ok && t < LONG_T; t++) {
        for (int b = 0; b < LONG_B; b++) {
            next[b] = sampler_next(&samplers[b], logits + b * LONG_V, taken + b * LONG_T, (size_t)t);
            taken[b * LONG_T + t] = next[b];
        }
        run = (TokenRun){next, slots, LONG_B, 1, (int)num_prompt + t};
        ok = gpt2_cpu.forward(device, &run, 1, logits, error);
    }
    if (ok) *hash = hash_bytes(taken, sizeof taken) ^ hash_bytes(logits, sizeof(float) * LONG_B * LONG_V);
    for (int b = 0; b < LONG_B; b++) sampler_close(&samplers[b]);
    if (device != NULL) gpt2_cpu.close(device);
    free(logits);
    free(prompt);
    tokenizer_free(tokenizer);
    checkpoint_free(&model);
    return ok;
}

static size_t bytes_in_use(void) {
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33) && !defined(__SANITIZE_ADDRESS__)
    return mallinfo2().uordblks;
#else
    return 0;
#endif
}

static long resident_pages(void) {
    long total = 0, resident = 0;
    FILE* file = fopen("/proc/self/statm", "r");
    if (file == NULL) return 0;
    if (fscanf(file, "%ld %ld", &total, &resident) != 2) resident = 0;
    fclose(file);
    return resident;
}

// GPT2_LONG_RUNS says how often, 1000 times unless it does; the least is 3.
void test_long(Tests* t) {
    test_section("a long life in one process");
    const char* wish = getenv("GPT2_LONG_RUNS");
    int n = wish != NULL && atoi(wish) >= 3 ? atoi(wish) : 1000, same = 0;
    char model[512], tokenizer[512];
    Bench bench = {.t = t};
    make_directory(bench.directory);
    Toy toy = toy_make((GPT2Config){32, LONG_V, LONG_V, 2, 2, 16}, 3, true);
    Bytes bytes = toy_llmc(&toy, 5);
    write_file(path_in(&bench, "toy.bin", model), bytes.data, bytes.size);
    unsigned char vocabulary[1024 + 512 + 3 + 4];
    put_header(vocabulary, LONG_V);
    memcpy(vocabulary + 1024 + 512, "\2th\3the", 7);
    write_file(path_in(&bench, "toy_tokenizer.bin", tokenizer), vocabulary, sizeof vocabulary);
    unsigned long long first = 0, hash = 0;
    size_t early = 0;
    long early_pages = 0;
    Error error = {""};
    double start = seconds_now();
    for (int i = 0; i < n; i++) {
        if (!generate_once(model, tokenizer, &hash, &error)) break;
        if (i == 0) first = hash;
        same += hash == first;
        if (i == n / 10) early = bytes_in_use();
        if (i == n / 10) early_pages = resident_pages();
    }
    long grown = (long)bytes_in_use() - (long)early, grown_pages = resident_pages() - early_pages;
    test_check(t, same == n,
               "%d of %d generations, each from loading to freeing, are the first one to the bit (%.1f s) %s", same, n,
               seconds_now() - start, error.text);
    // what OpenMP keeps of threads that come and go is less than a byte a generation
    test_check(t, grown < n - n / 10, "after the first %d the heap grew by %ld bytes", n / 10 + 1, grown);
    if (n >= 1000 && bytes_in_use() > 0) test_check(t, grown_pages < 256, "and the process by %ld pages", grown_pages);
    else test_skip(t, "under valgrind or sanitizers, or in a short run, the size of the process is not the program's");
    free(bytes.data);
    toy_free(&toy);
    remove_directory(bench.directory);
}
