#include "safetensors.h"

#include <stdint.h>
#include <string.h>

bool is_safetensors(const MappedFile* file, const char* path) {
    static const char suffix[] = ".safetensors";
    size_t length = strlen(path), suffix_length = sizeof suffix - 1;
    if (length >= suffix_length && strcmp(path + length - suffix_length, suffix) == 0) return true;
    return looks_like_safetensors(file);
}

#ifdef HAVE_JANSSON
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_HEADER_BYTES = 100000000, MAX_JSON_BYTES = 4 << 20 };

PrintableName printable(const char* name) {
    PrintableName p = {{0}};
    for (size_t i = 0; i < sizeof p.text - 1 && name[i] != '\0'; i++) {
        p.text[i] = name[i] >= ' ' && name[i] <= '~' ? name[i] : '?';
    }
    return p;
}

json_t* parse_json_object(const void* bytes, size_t size, const char* path, Error* error) {
    json_error_t problem = {0};
    if (size > MAX_JSON_BYTES) {
        fail(error, "%s: has %zu bytes of JSON, at most %d are read; it is damaged or no GPT-2", path, size,
             MAX_JSON_BYTES);
        return NULL;
    }
    json_t* root = size > 0 ? json_loadb(bytes, size, JSON_REJECT_DUPLICATES, &problem) : NULL;
    if (root == NULL) {
        if (size == 0) snprintf(problem.text, sizeof problem.text, "it is empty");
        if (problem.text[0] == '\0') snprintf(problem.text, sizeof problem.text, "no memory to read it");
        fail(error, "%s: is not valid JSON: %s", path, printable(problem.text).text);
    } else if (!json_is_object(root)) {
        fail(error, "%s: its JSON is not an object ({...})", path);
        json_decref(root);
        root = NULL;
    }
    return root;
}

// Bytes of one element, 0 for a dtype that the format does not have.
static size_t element_bytes(const char* dtype) {
    static const struct {
        const char* name;
        size_t bytes;
    } dtypes[] = {
        {"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"I64", 8},  {"I32", 4},
        {"I16", 2}, {"I8", 1},  {"U64", 8}, {"U32", 4},  {"U16", 2},     {"U8", 1},      {"BOOL", 1},
    };
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        if (strcmp(dtype, dtypes[i].name) == 0) return dtypes[i].bytes;
    }
    return 0;
}

// A non-negative JSON integer; false for anything else.
static bool read_size(const json_t* value, size_t* out) {
    if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
    *out = (size_t)json_integer_value(value);
    return true;
}

// Sets rank and shape; false when the shape is no array of at most SAFETENSORS_MAX_RANK sizes.
static bool read_shape(SafetensorsEntry* entry, const json_t* shape) {
    if (!json_is_array(shape) || json_array_size(shape) > SAFETENSORS_MAX_RANK) return false;
    entry->rank = json_array_size(shape);
    for (size_t i = 0; i < entry->rank; i++) {
        if (!read_size(json_array_get(shape, i), &entry->shape[i])) return false;
    }
    return true;
}

// Bytes that dtype and shape ask for; false when they do not fit into a size_t.
static bool expected_bytes(const SafetensorsEntry* entry, size_t* bytes) {
    *bytes = element_bytes(entry->dtype);
    for (size_t i = 0; i < entry->rank; i++) {
        if (__builtin_mul_overflow(*bytes, entry->shape[i], bytes)) return false;
    }
    return true;
}

// One tensor of the header, given `data` of data_size bytes.
static bool read_entry(SafetensorsEntry* entry, const char* name, const json_t* info, const unsigned char* data,
                       size_t data_size, const char* path, Error* error) {
    const json_t* offsets = json_object_get(info, "data_offsets");
    size_t begin, end, bytes;
    *entry = (SafetensorsEntry){.name = name, .dtype = json_string_value(json_object_get(info, "dtype"))};
    if (entry->dtype == NULL || element_bytes(entry->dtype) == 0) {
        return fail(error, "%s: tensor %s has the dtype %s, which is not one of the format", path, printable(name).text,
                    entry->dtype == NULL ? "(none)" : printable(entry->dtype).text);
    }
    if (!read_shape(entry, json_object_get(info, "shape"))) {
        return fail(error, "%s: tensor %s: its shape must be a list of at most %d sizes", path, printable(name).text,
                    SAFETENSORS_MAX_RANK);
    }
    if (json_array_size(offsets) != 2 || !read_size(json_array_get(offsets, 0), &begin) ||
        !read_size(json_array_get(offsets, 1), &end) || begin > end || end > data_size) {
        return fail(error,
                    "%s: tensor %s: its data_offsets must be two ascending numbers within the %zu bytes of data; "
                    "the file is cut short or damaged",
                    path, printable(name).text, data_size);
    }
    if (!expected_bytes(entry, &bytes) || bytes != end - begin) {
        return fail(error,
                    "%s: tensor %s: its shape and dtype do not make the %zu bytes that data_offsets give; the file "
                    "is damaged",
                    path, printable(name).text, end - begin);
    }
    if (begin % element_bytes(entry->dtype) != 0) {
        return fail(error,
                    "%s: tensor %s begins at byte %zu of the data, which is misaligned for %s; the file is damaged",
                    path, printable(name).text, begin, entry->dtype);
    }
    entry->data = data + begin;
    entry->bytes = bytes;
    return true;
}

static bool check_metadata(const json_t* metadata, const char* path, Error* error) {
    if (!json_is_object(metadata)) return fail(error, "%s: __metadata__ is not an object; the file is damaged", path);
    const char* key;
    json_t* value;
    json_object_foreach((json_t*)metadata, key, value) {
        if (!json_is_string(value)) {
            return fail(error, "%s: __metadata__ holds %s, which is not a string; the file is damaged", path,
                        printable(key).text);
        }
    }
    return true;
}

static int compare_places(const void* left, const void* right) {
    const SafetensorsEntry *a = left, *b = right;
    if (a->data != b->data) return a->data < b->data ? -1 : 1;
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes; // empty tensors come before the one at the same place
}

// Sorts the entries by place; they must fill the data.
static bool check_places(SafetensorsFile* tensors, const unsigned char* data, size_t data_size, const char* path,
                         Error* error) {
    qsort(tensors->entries, tensors->num_entries, sizeof *tensors->entries, compare_places);
    size_t offset = 0;
    for (size_t i = 0; i < tensors->num_entries; i++) {
        const SafetensorsEntry* entry = &tensors->entries[i];
        size_t begin = (size_t)(entry->data - data);
        if (begin != offset) {
            return fail(error,
                        "%s: tensor %s begins at byte %zu of the data where %zu is due (%s); the file is damaged", path,
                        printable(entry->name).text, begin, offset, begin > offset ? "a hole" : "an overlap");
        }
        offset += entry->bytes;
    }
    if (offset == data_size) return true;
    return fail(error, "%s: %zu bytes follow the last tensor; the file is damaged", path, data_size - offset);
}

// The length of the header, once it is known to lie within the file and to begin like one.
static bool read_header_length(size_t* length, const MappedFile* file, const char* path, Error* error) {
    if (file->size <= 8 || file->bytes[8] != '{') {
        return fail(error, "%s: not a safetensors file: %s", path, guess_file_kind(file));
    }
    uint64_t header = 0;
    for (int i = 7; i >= 0; i--) header = header << 8 | file->bytes[i];
    if (header > MAX_HEADER_BYTES) {
        return fail(error, "%s: its header would have %llu bytes, the format allows %d; the file is damaged", path,
                    (unsigned long long)header, MAX_HEADER_BYTES);
    }
    if (header > file->size - 8) {
        return fail(error, "%s: is cut short within its header; download or copy it again", path);
    }
    *length = (size_t)header;
    return true;
}

static bool read_entries(SafetensorsFile* tensors, const unsigned char* data, size_t data_size, const char* path,
                         Error* error) {
    size_t capacity = json_object_size(tensors->header);
    tensors->entries = allocate(capacity, sizeof *tensors->entries, path, error);
    if (tensors->entries == NULL) return false;
    const char* name;
    json_t* info;
    json_object_foreach(tensors->header, name, info) {
        if (strcmp(name, "__metadata__") == 0) {
            if (!check_metadata(info, path, error)) return false;
        } else {
            SafetensorsEntry* entry = &tensors->entries[tensors->num_entries++];
            if (!read_entry(entry, name, info, data, data_size, path, error)) return false;
        }
    }
    return check_places(tensors, data, data_size, path, error);
}

bool safetensors_parse(SafetensorsFile* tensors, const MappedFile* file, const char* path, Error* error) {
    size_t length = 0;
    *tensors = (SafetensorsFile){0};
    if (!read_header_length(&length, file, path, error)) return false;
    tensors->header = parse_json_object(file->bytes + 8, length, path, error);
    if (tensors->header == NULL) return false;
    if (!read_entries(tensors, file->bytes + 8 + length, file->size - 8 - length, path, error)) {
        safetensors_free(tensors);
        return false;
    }
    for (size_t i = 0; i < tensors->num_entries; i++) {
        tensors->entries[i].offset = (size_t)(tensors->entries[i].data - file->bytes);
    }
    return true;
}

void safetensors_free(SafetensorsFile* tensors) {
    json_decref(tensors->header);
    free(tensors->entries);
    *tensors = (SafetensorsFile){0};
}
#endif
