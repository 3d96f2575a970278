// Images, the files that --save makes of types that llm.c's format does not know: read, written, spoiled.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "../checkpoint.h"
#include "test_loading.h"

typedef struct {
    char directory[256], file[300];
    Toy toy;     // exact in every type but Q8
    Toy rounded; // the same with its matrices as Q8 has them
} Bench;

static const GPT2Config toy_config = {5, 37, 37, 2, 3, 36};
static const DType image_types[] = {DTYPE_F16, DTYPE_Q8, DTYPE_BF16Z};
enum { NUM_IMAGE_TYPES = sizeof image_types / sizeof *image_types };

static void round_to_q8(Toy* toy) {
    int8_t row[160]; // 4C of the toy is 144, whole blocks of 32 are 160
    uint16_t scales[5];
    for (int id = 0; id < NUM_PARAMETERS; id++) {
        ParameterShape shape = gpt2_parameter_shape((ParameterId)id, &toy->config);
        float* weights = toy_tensor(toy, (ParameterId)id, 0);
        for (size_t r = 0; shape.kind != VECTOR && r < shape.layers * shape.rows; r++, weights += shape.cols) {
            row_from_f32(row, scales, weights, DTYPE_Q8, shape.cols);
            q8_row_to_f32(weights, row, scales, shape.cols);
        }
    }
}

static const Toy* expected(const Bench* bench, DType dtype) {
    return dtype == DTYPE_Q8 ? &bench->rounded : &bench->toy;
}

static void write_image(const Bench* bench, DType dtype) {
    Bytes bytes = toy_image(&bench->toy, dtype);
    write_file(bench->file, bytes.data, bytes.size);
    free(bytes.data);
}

// ---------------------------------------------------------------------------------------------------------------------
// Right ones

static void test_reading(Tests* t, const Bench* bench) {
    for (int i = 0; i < NUM_IMAGE_TYPES; i++) {
        DType held = image_types[i];
        const char* name = dtype_names[held];
        write_image(bench, held);
        GPT2Model m;
        Error error = {""};
        if (!test_check(t, checkpoint_load(&m, bench->file, true, DTYPE_F32, &error), "an image in %s loads %s", name,
                        error.text)) {
            continue;
        }
        size_t wrong = toy_differences(expected(bench, held), &m);
        test_check(t, wrong == 0 && m.mapping != NULL && m.block == NULL && m.packed.block == NULL && m.dtype == held,
                   "%s: where the file has it, nothing is copied; %zu weights differ", name, wrong);
        checkpoint_free(&m);
        for (int as = 0; as < NUM_DTYPES; as++) {
            if (held == DTYPE_Q8 && as != DTYPE_F32 && as != DTYPE_Q8) continue; // its numbers fit no other type
            if (held != DTYPE_Q8 && as == DTYPE_Q8) continue;
            long differ = load_and_compare(expected(bench, held), bench->file, false, (DType)as, &error);
            test_check(t, differ == 0, "%s loaded as %s: %ld weights differ%s", name, dtype_names[as], differ,
                       differ < 0 ? error.text : "");
        }
    }
}

// A toy with so many magnitudes, powers of 2, that some are rare whatever the table.
static Toy toy_of_many_magnitudes(void) {
    Toy toy = toy_make(toy_config, 2, true);
    size_t n = gpt2_num_parameters(&toy.config);
    for (size_t i = 0; i < n; i += 3) toy.weights[i] = f32_from_bits((uint32_t)(87 + i % 40) << 23);
    return toy;
}

static void test_writing(Tests* t, const Bench* bench) {
    char saved[300];
    snprintf(saved, sizeof saved, "%s/saved.bin", bench->directory);
    for (int i = 0; i < NUM_IMAGE_TYPES; i++) {
        DType dtype = image_types[i];
        Toy toy = dtype == DTYPE_BF16Z ? toy_of_many_magnitudes() : bench->toy;
        Bytes source = toy_llmc(&toy, 1), due = toy_image(&toy, dtype);
        write_file(bench->file, source.data, source.size);
        GPT2Model m;
        Error error = {""};
        bool ok = checkpoint_load(&m, bench->file, false, dtype, &error) && checkpoint_save(&m, saved, &error);
        size_t num_rare = m.packed.num_rare;
        checkpoint_free(&m);
        Bytes file = ok ? read_file(saved) : (Bytes){0};
        if (dtype == DTYPE_BF16Z) { // another table than the toy's is as good
            long differ = ok ? load_and_compare(&toy, saved, true, DTYPE_F32, &error) : -1;
            test_check(t, differ == 0 && num_rare > 0, "bf16z, saved and read: %ld weights differ, %zu are rare %s",
                       differ, num_rare, error.text);
            toy_free(&toy);
        } else {
            ok = ok && file.size == due.size && memcmp(file.data, due.data, due.size) == 0;
            test_check(t, ok, "%s is saved as it should be, byte for byte (%zu of %zu) %s", dtype_names[dtype],
                       file.size, due.size, error.text);
        }
        free(file.data);
        free(source.data);
        free(due.data);
    }
    unlink(saved);
}

// An image saved as llm.c's checkpoint, and that as an image again.
static void test_back_and_forth(Tests* t, const Bench* bench) {
    GPT2Model m;
    Error error = {""};
    write_image(bench, DTYPE_BF16Z);
    long differ = -1;
    bool ok = true;
    for (int i = 0; ok && i < 2; i++) {
        ok = checkpoint_load(&m, bench->file, false, i == 0 ? DTYPE_BF16 : DTYPE_BF16Z, &error) &&
             checkpoint_save(&m, bench->file, &error);
        checkpoint_free(&m);
    }
    if (ok && checkpoint_load(&m, bench->file, true, DTYPE_F32, &error)) {
        differ = m.file_dtype == DTYPE_BF16Z ? (long)toy_differences(&bench->toy, &m) : -1;
        checkpoint_free(&m);
    }
    test_check(t, differ == 0, "bf16z to bf16 and back, each over the file it was read from: %ld weights differ %s",
               differ, error.text);
}

// ---------------------------------------------------------------------------------------------------------------------
// Wrong ones

// Where the rare weights of wte begin, row by row, in the BF16Z image of the toy: behind 37 blocks and the table.
enum { HEADER = 1024, STARTS = HEADER + 37 * 192 + 64 };

static uint32_t word_at(const Bytes* bytes, size_t at) {
    uint32_t word;
    memcpy(&word, bytes->data + at, sizeof word);
    return word;
}

static void check_spoiled(Tests* t, const Bench* bench, const Bytes* bytes, size_t at, uint32_t word, const char* what,
                          const char* reason) {
    uint32_t before = word_at(bytes, at);
    memcpy(bytes->data + at, &word, sizeof word);
    write_file(bench->file, bytes->data, bytes->size);
    check_refused(t, bench->file, what, reason);
    memcpy(bytes->data + at, &before, sizeof before);
}

static void test_wrong_headers(Tests* t, const Bench* bench, const Bytes* packed) {
    static const struct {
        size_t field;
        int value;
        const char *what, *reason;
    } cases[] = {
        {1, 2, "version 2", "version 2 of gpt2's images"},
        {2, 0, "no positions", "max_seq_len"},
        {3, 38, "more tokens than rows", "padded_vocab_size"},
        {4, 3, "a layer more", "cut short"},
        {5, 5, "36 channels in 5 heads", "num_heads"},
        {6, 1 << 20, "channels without end", "channels"},
        {8, DTYPE_F32, "weights in f32, which are llm.c's", "unknown type 0"},
        {8, NUM_DTYPES, "weights of a type that there is not", "unknown type 5"},
        {8, -1, "weights of a negative type", "unknown type -1"},
        {8, DTYPE_F16, "f16 with rare weights", "rare weights"},
        {9, -1, "four thousand million rare weights", "cut short"},
        {9, 0, "rare weights that the header does not know", "appended"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_spoiled(t, bench, packed, cases[i].field * 4, (uint32_t)cases[i].value, cases[i].what, cases[i].reason);
    }
    const size_t sizes[] = {4, HEADER - 1, HEADER, STARTS, packed->size - 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        write_file(bench->file, packed->data, sizes[i]);
        check_refused(t, bench->file, "an image that is cut short", "cut short");
    }
}

// What kernels would follow out of the file, or out of a row.
static void test_wrong_rare(Tests* t, const Bench* bench, const Bytes* packed) {
    uint32_t num_rare = word_at(packed, 36);
    size_t rare = packed->size - 4 * (size_t)num_rare, row = 0;
    while (row < 36 && word_at(packed, STARTS + 4 * row) + 2 > word_at(packed, STARTS + 4 * (row + 1))) row++;
    size_t at = rare + 4 * (size_t)word_at(packed, STARTS + 4 * row); // its first
    size_t last = rare + 4 * (size_t)word_at(packed, STARTS + 4 * (row + 1)) - 4;
    test_check(t, row < 36 && word_at(packed, at) >> 8 < word_at(packed, at + 4) >> 8,
               "row %zu of wte has rare weights, "
               "the first two in columns %u and %u",
               row, word_at(packed, at) >> 8, word_at(packed, at + 4) >> 8);
    const char* reason = "not where they can be";
    check_spoiled(t, bench, packed, STARTS + 4 * 37, num_rare + 1, "a row that ends behind the last", reason);
    check_spoiled(t, bench, packed, STARTS, num_rare, "a row that ends before it begins", reason);
    check_spoiled(t, bench, packed, STARTS + 4 * row, UINT32_MAX, "a row that begins nowhere", reason);
    check_spoiled(t, bench, packed, last, 36 << 8, "a column behind the row", reason);
    check_spoiled(t, bench, packed, last, UINT32_MAX, "a column far behind it", reason);
    check_spoiled(t, bench, packed, at + 4, word_at(packed, at), "a column twice", reason);
    write_file(bench->file, packed->data, packed->size);
    Error error = {""};
    long differ = load_and_compare(&bench->toy, bench->file, true, DTYPE_F32, &error);
    test_check(t, differ == 0, "unspoiled it is read: %ld weights differ %s", differ, error.text);
}

// A row that begins at the list's end and goes on. Only that tells it from a right one: zeros stand there in memory,
// which is what a rare weight in column 0 may look like.
static void test_list_end(Tests* t, const Bench* bench) {
    Toy toy = toy_make(toy_config, 1, true);
    float* last = toy_tensor(&toy, FCPROJW, 1) + 35 * 144;
    for (int i = 0; i < 144; i++) last[i] = 0.5f; // common
    Bytes packed = toy_image(&toy, DTYPE_BF16Z);
    uint32_t num_rare = word_at(&packed, 36);
    // behind the 73 starts of fcprojw lie fcprojb (2, 36), lnfw (36) and lnfb (36), each at a multiple of 64 bytes
    size_t starts = packed.size - 4 * (size_t)num_rare - (192 + 192 + 320 + 320);
    bool is_empty = word_at(&packed, starts + 4 * 71) == num_rare && word_at(&packed, starts + 4 * 72) == num_rare;
    test_check(t, is_empty, "the last row of the last matrix has no rare weights, all %u are before it", num_rare);
    check_spoiled(t, bench, &packed, starts + 4 * 72, num_rare + 1, "a row beyond the list", "not where they can be");
    free(packed.data);
    toy_free(&toy);
}

// Any bit of what is not weights: refused, or a model whose every weight can be read (sanitizers look on).
static void test_flipped_bits(Tests* t, const Bench* bench, const Bytes* packed) {
    int loaded = 0, tried = 0;
    for (size_t at = 0; at < STARTS + 4 * 38; at = at == 39 ? STARTS : at + 1) { // the header's fields, then the starts
        for (int bit = 0; bit < 8; bit++, tried++) {
            Error error = {""};
            packed->data[at] ^= (unsigned char)(1 << bit);
            write_file(bench->file, packed->data, packed->size);
            loaded += load_and_compare(&bench->toy, bench->file, true, DTYPE_F32, &error) >= 0;
            packed->data[at] ^= (unsigned char)(1 << bit);
        }
    }
    test_check(t, loaded < tried / 4, "of %d flipped bits in header and lists %d leave a model", tried, loaded);
}

void test_image(Tests* t) {
    Bench bench = {.toy = toy_make(toy_config, 1, true), .rounded = toy_make(toy_config, 1, true)};
    round_to_q8(&bench.rounded);
    make_directory(bench.directory);
    snprintf(bench.file, sizeof bench.file, "%s/image.bin", bench.directory);
    test_section("checkpoint: images");
    test_reading(t, &bench);
    test_writing(t, &bench);
    test_back_and_forth(t, &bench);
    test_section("checkpoint: images to be refused");
    Bytes packed = toy_image(&bench.toy, DTYPE_BF16Z);
    test_wrong_headers(t, &bench, &packed);
    test_wrong_rare(t, &bench, &packed);
    test_list_end(t, &bench);
    test_flipped_bits(t, &bench, &packed);
    free(packed.data);
    remove_directory(bench.directory);
    toy_free(&bench.toy);
    toy_free(&bench.rounded);
}
