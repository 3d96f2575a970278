// Three parts: loading a vocabulary, cutting text into words as GPT-2 does, merging the bytes of a word into tokens.
#include "tokenizer.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef HAVE_JANSSON
#include <jansson.h>
#endif

#include "mapped_file.h"
#include "unicode_classes.h"
#include "utf8.h"

#define EOT_TEXT   "<|endoftext|>"
#define EOT_LENGTH (sizeof EOT_TEXT - 1)
#define NO_TOKEN   UINT32_MAX
#define NO_MERGE   UINT32_MAX

enum { MAX_TOKENS = 1 << 24 }; // ids stay below it, as vocab_size in gpt2_config_check() does

// Longest run of occupied slots that a hash table of this file may have. A search ends with the run at the latest. In
// tables at most half full, runs of honest keys stay below 5.2 ln(size), 90 for the largest; only keys made to collide
// exceed the limit, and they are refused before they can make loading or encoding slow.
enum { MAX_RUN = 512 };

// A slot of the index from bytes to ids. The tag is the low half of the hash: it spares most comparisons of bytes.
typedef struct {
    uint32_t tag;
    uint32_t id; // NO_TOKEN: the slot is empty
} TokenSlot;

// A slot of the table of merges of merges.txt.
typedef struct {
    uint64_t pair; // left id << 32 | right id
    uint32_t rank; // NO_MERGE: the slot is empty
} PairSlot;

struct Tokenizer {
    int vocab_size;
    int eot;                  // id of <|endoftext|>, or -1
    char* bytes;              // all tokens, one after the other
    uint32_t* start;          // (vocab_size + 1) offset of each token in bytes
    uint64_t* hash;           // (vocab_size) polynomial hash of each token
    uint64_t* power;          // (longest + 1) HASH_BASE to the n
    size_t longest;           // bytes of the longest token
    uint32_t byte_token[256]; // id of each single byte
    TokenSlot* index;         // (index_mask + 1) open addressing, at most half full
    size_t index_mask;
    // Hugging Face only, else NULL: a pair merges when it is listed, and the rank is its line in merges.txt
    PairSlot* pairs; // (pairs_mask + 1) open addressing, at most half full
    size_t pairs_mask;
    uint32_t* merged_id; // (merges) rank -> id of the joined token
};

void tokenizer_free(Tokenizer* tokenizer) {
    if (tokenizer == NULL) return;
    free(tokenizer->bytes);
    free(tokenizer->start);
    free(tokenizer->hash);
    free(tokenizer->power);
    free(tokenizer->index);
    free(tokenizer->pairs);
    free(tokenizer->merged_id);
    free(tokenizer);
}

int tokenizer_vocab_size(const Tokenizer* tokenizer) {
    return tokenizer->vocab_size;
}

int tokenizer_eot(const Tokenizer* tokenizer) {
    return tokenizer->eot;
}

static size_t token_length(const Tokenizer* t, uint32_t id) {
    return t->start[id + 1] - t->start[id];
}

const char* tokenizer_decode(const Tokenizer* tokenizer, int id, size_t* length) {
    *length = token_length(tokenizer, (uint32_t)id);
    return tokenizer->bytes + tokenizer->start[id];
}

// ---------------------------------------------------------------------------------------------------------------------
// The vocabulary as an index from bytes to ids
//
// hash(b_1 .. b_n) = sum of (b_i + 1) * HASH_BASE^(n - i) mod 2^64, so that the hash of two tokens joined follows from
// theirs without looking at their bytes: hash(xy) = hash(x) * HASH_BASE^|y| + hash(y).

#define HASH_BASE 0x9E3779B97F4A7C15u

// Where the search for a hash begins. The low bits of a polynomial hash know only the last bytes; the product's high
// bits know all.
static size_t slot_of(uint64_t hash, size_t mask) {
    return (size_t)((hash ^ hash >> 32) * 0xD6E8FEB86659FD93u >> 32) & mask;
}

// Smallest table, a power of two, that n entries leave at least half empty.
static size_t table_size(size_t n) {
    size_t size = 16;
    while (size < 2 * n) size *= 2;
    return size;
}

// Number of the free slot nearest to where the search for a hash begins, or SIZE_MAX when it is too far.
static size_t free_slot(const Tokenizer* t, uint64_t hash) {
    size_t first = slot_of(hash, t->index_mask);
    for (size_t i = 0; i < MAX_RUN; i++) {
        size_t s = (first + i) & t->index_mask;
        if (t->index[s].id == NO_TOKEN) return s;
    }
    return SIZE_MAX;
}

static bool fail_collisions(const char* where, Error* error) {
    return fail(error, "%s: more than %d entries collide in a hash table, which only a file made for it does", where,
                MAX_RUN);
}

// Id of the token with these bytes, given in two parts whose joined hash is `hash`; NO_TOKEN when there is none.
static uint32_t find_token(const Tokenizer* t, uint64_t hash, const char* a, size_t na, const char* b, size_t nb) {
    for (size_t s = slot_of(hash, t->index_mask);; s = (s + 1) & t->index_mask) {
        uint32_t id = t->index[s].id;
        if (id == NO_TOKEN) return NO_TOKEN;
        if (t->index[s].tag != (uint32_t)hash || token_length(t, id) != na + nb) continue;
        const char* bytes = t->bytes + t->start[id];
        if (memcmp(bytes, a, na) == 0 && memcmp(bytes + na, b, nb) == 0) return id;
    }
}

// Id of the token whose bytes are those of left and right joined, or NO_TOKEN.
static uint32_t find_joined(const Tokenizer* t, uint32_t left, uint32_t right) {
    size_t nl = token_length(t, left), nr = token_length(t, right);
    if (nl + nr > t->longest) return NO_TOKEN;
    uint64_t hash = t->hash[left] * t->power[nr] + t->hash[right];
    return find_token(t, hash, t->bytes + t->start[left], nl, t->bytes + t->start[right], nr);
}

static uint64_t hash_of(const char* bytes, size_t n) {
    uint64_t hash = 0;
    for (size_t i = 0; i < n; i++) hash = hash * HASH_BASE + (unsigned char)bytes[i] + 1;
    return hash;
}

static uint32_t find_bytes(const Tokenizer* t, const char* bytes, size_t n) {
    return find_token(t, hash_of(bytes, n), bytes, n, bytes, 0);
}

// Every token is there with its bytes: enters all into the index and finds the single bytes and <|endoftext|>.
// False when two tokens are equal or a byte is missing.
static bool index_tokens(Tokenizer* t, const char* where, Error* error) {
    size_t n = (size_t)t->vocab_size, size = table_size(n);
    for (size_t i = 0; i < n; i++) {
        size_t length = token_length(t, (uint32_t)i);
        if (length > t->longest) t->longest = length;
    }
    t->index_mask = size - 1;
    t->index = allocate(size, sizeof *t->index, "tokenizer: index of tokens", error);
    t->hash = allocate(n, sizeof *t->hash, "tokenizer: hashes of tokens", error);
    t->power = allocate(t->longest + 1, sizeof *t->power, "tokenizer: powers of the hash", error);
    if (t->index == NULL || t->hash == NULL || t->power == NULL) return false;
    memset(t->index, 0xFF, size * sizeof *t->index); // every slot NO_TOKEN
    t->power[0] = 1;
    for (size_t i = 1; i <= t->longest; i++) t->power[i] = t->power[i - 1] * HASH_BASE;

    for (uint32_t id = 0; id < n; id++) {
        const char* bytes = t->bytes + t->start[id];
        size_t length = token_length(t, id);
        uint64_t hash = t->hash[id] = hash_of(bytes, length);
        size_t s = free_slot(t, hash);
        if (s == SIZE_MAX) return fail_collisions(where, error);
        uint32_t twin = find_token(t, hash, bytes, length, bytes, 0);
        if (twin != NO_TOKEN) {
            return fail(error, "%s: tokens %u and %u are the same %zu bytes; the file is damaged", where, twin, id,
                        length);
        }
        t->index[s] = (TokenSlot){(uint32_t)hash, id};
    }
    size_t run = 0;
    for (size_t s = 0; s < size; s++) {
        run = t->index[s].id == NO_TOKEN ? 0 : run + 1;
        if (run > MAX_RUN) return fail_collisions(where, error);
    }
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        t->byte_token[b] = find_bytes(t, &byte, 1);
        if (t->byte_token[b] == NO_TOKEN) {
            return fail(error, "%s: no token is the single byte 0x%02X; a byte-level vocabulary has all 256", where,
                        (unsigned)b);
        }
    }
    uint32_t eot = find_bytes(t, EOT_TEXT, EOT_LENGTH);
    t->eot = eot == NO_TOKEN ? -1 : (int)eot;
    return true;
}

// The slot of a pair of ids in the table of merges: its own, or the empty one where it belongs; NULL when that is too
// far, which makes the file one that is refused.
static PairSlot* pair_slot(const Tokenizer* t, uint64_t pair) {
    size_t first = slot_of(pair, t->pairs_mask);
    for (size_t i = 0; i <= MAX_RUN; i++) {
        PairSlot* slot = &t->pairs[(first + i) & t->pairs_mask];
        if (slot->rank == NO_MERGE || slot->pair == pair) return slot;
    }
    return NULL;
}

// ---------------------------------------------------------------------------------------------------------------------
// llm.c's tokenizer .bin

enum { BIN_MAGIC = 20240328, MODEL_MAGIC = 20240326, BIN_HEADER = 256 * 4 }; // header in bytes

static uint32_t little_endian_32(const unsigned char* b) {
    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

// Is this a header of a tokenizer, of a version that is known?
static bool check_bin_kind(const MappedFile* file, const char* path, Error* error) {
    uint32_t magic = file->size >= 4 ? little_endian_32(file->bytes) : 0;
    if (magic == MODEL_MAGIC) {
        return fail(error, "%s: no tokenizer: it is a model; give it to --model and its tokenizer to --tokenizer",
                    path);
    }
    if (magic == __builtin_bswap32(BIN_MAGIC)) {
        return fail(error, "%s: no tokenizer: it is one in big-endian byte order, which no version of llm.c writes",
                    path);
    }
    if (magic != BIN_MAGIC) return fail(error, "%s: no tokenizer: %s", path, guess_file_kind(file));
    if (file->size < BIN_HEADER) {
        return fail(error, "%s: %zu bytes, but the header alone has %d; fetch it again", path, file->size, BIN_HEADER);
    }
    uint32_t version = little_endian_32(file->bytes + 4);
    if (version != 1 && version != 2) {
        return fail(error, "%s: version %u of the tokenizer format is unknown; 1 and 2 can be read", path, version);
    }
    return true;
}

// Reads the numbers of the header: *count tokens, and in version 2 the id of <|endoftext|>, else *eot stays.
static bool read_bin_header(const MappedFile* file, int* count, int* eot, const char* path, Error* error) {
    if (!check_bin_kind(file, path, error)) return false;
    int32_t n = (int32_t)little_endian_32(file->bytes + 8), named_eot = (int32_t)little_endian_32(file->bytes + 12);
    if (n < 256 || n > MAX_TOKENS) {
        return fail(error, "%s: the header says %d tokens, it must be 256 to %d; the file is damaged", path, n,
                    MAX_TOKENS);
    }
    if (little_endian_32(file->bytes + 4) == 2) {
        if (named_eot < 0 || named_eot >= n) {
            return fail(error, "%s: the header's id of " EOT_TEXT " is %d, it must be 0 to %d; the file is damaged",
                        path, named_eot, n - 1);
        }
        *eot = named_eot;
    }
    *count = n;
    return true;
}

// Takes the tokens out of the file.
static bool parse_bin(Tokenizer* t, const MappedFile* file, const char* path, Error* error) {
    int named_eot = -1;
    if (!read_bin_header(file, &t->vocab_size, &named_eot, path, error)) return false;
    size_t n = (size_t)t->vocab_size, in = BIN_HEADER, out = 0;
    if (file->size > BIN_HEADER + 256 * n) {
        return fail(error, "%s: has %zu bytes, more than %zu tokens can fill; the file is damaged", path, file->size,
                    n);
    }
    t->bytes = allocate(file->size, 1, "tokenizer: bytes of tokens", error);
    t->start = allocate(n + 1, sizeof *t->start, "tokenizer: table of tokens", error);
    if (t->bytes == NULL || t->start == NULL) return false;
    for (size_t id = 0; id < n; id++) {
        size_t length = in < file->size ? file->bytes[in] : 0;
        if (in >= file->size || length > file->size - in - 1) {
            return fail(error, "%s: the file ends at byte %zu within token %zu of %zu; fetch it again", path,
                        file->size, id, n);
        }
        if (length == 0) {
            return fail(error, "%s: token %zu at byte %zu has no bytes; the file is damaged", path, id, in);
        }
        t->start[id] = (uint32_t)out; // 2^24 tokens of 255 bytes end below 2^32
        memcpy(t->bytes + out, file->bytes + in + 1, length);
        in += 1 + length;
        out += length;
    }
    t->start[n] = (uint32_t)out;
    if (in != file->size) {
        return fail(error, "%s: the last token ends at byte %zu, but the file has %zu; it is damaged", path, in,
                    file->size);
    }
    if (!index_tokens(t, path, error)) return false;
    if (named_eot >= 0 && named_eot != t->eot) {
        return fail(error,
                    "%s: the header names token %d as " EOT_TEXT ", but that is another token; the file is damaged",
                    path, named_eot);
    }
    return true;
}

// A tokenizer without anything in it; tokenizer_free() takes it at any stage.
static Tokenizer* new_tokenizer(Error* error) {
    Tokenizer* t = allocate(1, sizeof *t, "tokenizer", error);
    if (t != NULL) *t = (Tokenizer){0};
    return t;
}

Tokenizer* tokenizer_load_bin(const char* path, Error* error) {
    MappedFile file = {0};
    Tokenizer* t = new_tokenizer(error);
    if (t == NULL) return NULL;
    bool ok = map_file(&file, path, error) && parse_bin(t, &file, path, error);
    unmap_file(&file);
    if (ok) return t;
    tokenizer_free(t);
    return NULL;
}

// ---------------------------------------------------------------------------------------------------------------------
// Hugging Face's vocab.json and merges.txt

#ifdef HAVE_JANSSON

enum { NUM_STAND_INS = 256 + 68, MAX_TEXT_FILE = 8 << 20 }; // 68 bytes are not printable

// GPT-2's files write every byte as a printable character: itself where Latin-1 can print it, else 256, 257, ... in
// order. byte_of[character] is the byte, or -1.
static void make_stand_ins(int byte_of[NUM_STAND_INS]) {
    int next = 256;
    for (int c = 0; c < NUM_STAND_INS; c++) byte_of[c] = -1;
    for (int b = 0; b < 256; b++) {
        bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        byte_of[printable ? b : next++] = b;
    }
}

// Turns n bytes of stand-ins into the bytes that they stand for; out has room for n. The number of bytes, or SIZE_MAX
// when a character is no stand-in.
static size_t from_stand_ins(char* out, const char* in, size_t n, const int byte_of[NUM_STAND_INS]) {
    size_t length = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned c = (unsigned char)in[i];
        if (c >= 0xC2 && c <= 0xC5 && i + 1 < n && ((unsigned char)in[i + 1] & 0xC0) == 0x80) {
            c = (c & 0x1F) << 6 | ((unsigned char)in[++i] & 0x3F); // two bytes of UTF-8, all that stand-ins need
        } else if (c >= 0x80) {
            return SIZE_MAX;
        }
        if (c >= NUM_STAND_INS || byte_of[c] < 0) return SIZE_MAX;
        out[length++] = (char)byte_of[c];
    }
    return length;
}

// Orders vocab.json's entries by id: keys[id] (vocab_size), borrowed from the JSON object.
static bool order_by_id(const char** keys, json_t* vocab, size_t n, const char* path, Error* error) {
    const char* key;
    json_t* value;
    size_t entry = 0; // counted from 1
    memset(keys, 0, n * sizeof *keys);
    json_object_foreach(vocab, key, value) {
        entry++;
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || (uint64_t)id >= n) {
            return fail(error, "%s: the id of entry %zu is not an integer from 0 to %zu; ids must be dense", path,
                        entry, n - 1);
        }
        if (keys[id] != NULL) {
            return fail(error, "%s: two tokens have the same id %lld; the file is damaged", path, (long long)id);
        }
        keys[id] = key;
    }
    return true;
}

// Fills in the tokens' bytes from keys (vocab_size).
static bool copy_tokens(Tokenizer* t, const char** keys, const char* path, Error* error) {
    size_t n = (size_t)t->vocab_size, total = 0, out = 0;
    int byte_of[NUM_STAND_INS];
    make_stand_ins(byte_of);
    for (size_t id = 0; id < n; id++) total += strlen(keys[id]); // the file's size bounds it, far below 2^32
    t->bytes = allocate(total, 1, "tokenizer: bytes of tokens", error);
    t->start = allocate(n + 1, sizeof *t->start, "tokenizer: table of tokens", error);
    if (t->bytes == NULL || t->start == NULL) return false;
    for (size_t id = 0; id < n; id++) {
        size_t length = from_stand_ins(t->bytes + out, keys[id], strlen(keys[id]), byte_of);
        if (length == SIZE_MAX || length == 0) {
            return fail(error, "%s: token %zu %s; is this GPT-2's vocab.json?", path, id,
                        length == 0 ? "has no bytes" : "holds a character that stands for no byte");
        }
        t->start[id] = (uint32_t)out;
        out += length;
    }
    t->start[n] = (uint32_t)out;
    return true;
}

// Maps a text file. GPT-2's have 1 MB; parsed JSON can take 80 times the memory of its text.
static bool map_text(MappedFile* file, const char* path, Error* error) {
    if (!map_file(file, path, error)) return false;
    if (file->size == 0) return fail(error, "%s: the file is empty; fetch it again", path);
    if (file->size <= MAX_TEXT_FILE) return true;
    return fail(error, "%s: %zu bytes is too large, a vocabulary has at most %d", path, file->size, MAX_TEXT_FILE);
}

static bool parse_vocab(Tokenizer* t, const MappedFile* file, const char* path, Error* error) {
    json_error_t json_error = {0};
    json_t* vocab = json_loadb((const char*)file->bytes, file->size, JSON_REJECT_DUPLICATES, &json_error);
    if (vocab == NULL) {
        // the text quotes the file: keep its control characters off the terminal
        for (char* c = json_error.text; *c != '\0'; c++) *c = (unsigned char)*c < ' ' || *c == 0x7F ? '?' : *c;
        const char* problem = json_error.text[0] != '\0' ? json_error.text : "no memory to read the JSON text";
        return fail(error, "%s: byte %d: %s; fetch the file again", path, json_error.position, problem);
    }
    bool ok = false;
    size_t n = json_object_size(vocab); // 0 also for what is no object
    const char** keys = NULL;
    if (n < 256 || n > MAX_TOKENS) {
        fail(error, "%s: %zu tokens, it must be an object of 256 to %d; is this GPT-2's vocab.json?", path, n,
             MAX_TOKENS);
    } else if ((keys = allocate(n, sizeof *keys, "tokenizer: vocab.json by id", error)) != NULL) {
        t->vocab_size = (int)n;
        ok = order_by_id(keys, vocab, n, path, error) && copy_tokens(t, keys, path, error) &&
             index_tokens(t, path, error);
    }
    free(keys);
    json_decref(vocab);
    return ok;
}

// Enters the merge of one line, "LEFT RIGHT", as number `rank`. `bytes` is scratch memory as long as the line.
static bool add_merge(Tokenizer* t, const char* line, size_t n, uint32_t rank, const int byte_of[NUM_STAND_INS],
                      char* bytes, const char** problem) {
    const char* space = memchr(line, ' ', n);
    uint32_t id[2];
    *problem = "is not two tokens with one space between";
    if (space == NULL || memchr(space + 1, ' ', n - (size_t)(space + 1 - line)) != NULL) return false;
    for (int side = 0; side < 2; side++) {
        const char* part = side == 0 ? line : space + 1;
        size_t length =
            from_stand_ins(bytes, part, side == 0 ? (size_t)(space - line) : (size_t)(line + n - part), byte_of);
        *problem = "holds a character that stands for no byte";
        if (length == SIZE_MAX) return false;
        *problem = "names a token that is not in vocab.json";
        if (length > t->longest || (id[side] = find_bytes(t, bytes, length)) == NO_TOKEN) return false;
    }
    uint64_t pair = (uint64_t)id[0] << 32 | id[1];
    PairSlot* slot = pair_slot(t, pair);
    *problem = "makes a token that is not in vocab.json";
    if ((t->merged_id[rank] = find_joined(t, id[0], id[1])) == NO_TOKEN) return false;
    *problem = "collides with too many others in a hash table, which only a file made for it does";
    if (slot == NULL) return false;
    *problem = "is there twice";
    if (slot->rank != NO_MERGE) return false;
    *slot = (PairSlot){pair, rank};
    return true;
}

// Enters the lines of merges.txt. The first may be a comment, "#version: 0.2".
static bool parse_merges(Tokenizer* t, const char* text, size_t size, const char* path, Error* error) {
    size_t lines = 1, number = 0;
    uint32_t rank = 0;
    int byte_of[NUM_STAND_INS];
    make_stand_ins(byte_of);
    for (size_t i = 0; i < size; i++) lines += text[i] == '\n';
    t->pairs_mask = table_size(lines) - 1;
    t->pairs = allocate(t->pairs_mask + 1, sizeof *t->pairs, "tokenizer: table of merges", error);
    t->merged_id = allocate(lines, sizeof *t->merged_id, "tokenizer: merged tokens", error);
    char* bytes = allocate(size, 1, "tokenizer: a line of merges.txt", error);
    bool ok = t->pairs != NULL && t->merged_id != NULL && bytes != NULL;
    if (ok) memset(t->pairs, 0xFF, (t->pairs_mask + 1) * sizeof *t->pairs); // every slot NO_MERGE
    for (const char *line = text, *end = text + size; ok && line < end;) {
        const char* newline = memchr(line, '\n', (size_t)(end - line));
        const char* next = newline != NULL ? newline + 1 : end;
        size_t n = (size_t)((newline != NULL ? newline : end) - line);
        const char* problem;
        if (n > 0 && line[n - 1] == '\r') n--;
        number++;
        if (number > 1 || n < 8 || memcmp(line, "#version", 8) != 0) {
            ok = add_merge(t, line, n, rank++, byte_of, bytes, &problem);
            if (!ok) fail(error, "%s: line %zu %s; the file is damaged", path, number, problem);
        }
        line = next;
    }
    free(bytes);
    size_t run = 0;
    for (size_t s = 0; ok && s <= t->pairs_mask; s++) {
        run = t->pairs[s].rank == NO_MERGE ? 0 : run + 1;
        if (run > MAX_RUN) ok = fail_collisions(path, error);
    }
    return ok;
}

Tokenizer* tokenizer_load_hf(const char* vocab_path, const char* merges_path, Error* error) {
    MappedFile vocab = {0}, merges = {0};
    Tokenizer* t = new_tokenizer(error);
    if (t == NULL) return NULL;
    bool ok = map_text(&vocab, vocab_path, error) && parse_vocab(t, &vocab, vocab_path, error) &&
              map_text(&merges, merges_path, error) &&
              parse_merges(t, (const char*)merges.bytes, merges.size, merges_path, error);
    unmap_file(&vocab);
    unmap_file(&merges);
    if (ok) return t;
    tokenizer_free(t);
    return NULL;
}

#else

Tokenizer* tokenizer_load_hf(const char* vocab_path, const char* merges_path, Error* error) {
    (void)merges_path;
    fail(error,
         "%s: this program was built without libjansson, which reads vocab.json; install libjansson-dev and "
         "run make again, or give a tokenizer .bin with -T",
         vocab_path);
    return NULL;
}

#endif

// ---------------------------------------------------------------------------------------------------------------------
// Words: GPT-2 merges within the matches of
//     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// where the first alternative that matches wins.
//
// Text need not be UTF-8. A byte at which no valid sequence begins (a stray continuation byte, a lead byte whose
// sequence is cut short, overlong, a surrogate or above U+10FFFF) is a symbol of its own, of class CLASS_OTHER.

// Class of the symbol at p < end; *length is its number of bytes.
static inline int symbol_class(const unsigned char* p, const unsigned char* end, size_t* length) {
    uint32_t c = p[0];
    *length = 1;
    if (c < 0x80) return unicode_blocks[0][c / 32] >> c % 32 * 2 & 3; // the first block of the table is ASCII
    int n = utf8_length(p, (size_t)(end - p));
    if (n < 1) return CLASS_OTHER;
    *length = (size_t)n;
    c &= 0x7Fu >> n;
    for (int i = 1; i < n; i++) c = c << 6 | (p[i] & 0x3F);
    if (c >= UNICODE_CLASSES_LIMIT) return CLASS_OTHER;
    return unicode_blocks[unicode_block_index[c / 128]][c % 128 / 32] >> c % 32 * 2 & 3;
}

// Bytes of 's 't 'm 'd 're 've 'll at p, or 0.
static size_t contraction_length(const unsigned char* p, const unsigned char* end) {
    if (*p != '\'' || end - p < 2) return 0;
    if (p[1] == 's' || p[1] == 't' || p[1] == 'm' || p[1] == 'd') return 2;
    if (end - p < 3) return 0;
    return (p[1] == 'r' && p[2] == 'e') || (p[1] == 'v' && p[2] == 'e') || (p[1] == 'l' && p[2] == 'l') ? 3 : 0;
}

// End of the word that begins at p < end.
static const unsigned char* word_end(const unsigned char* p, const unsigned char* end) {
    size_t n = contraction_length(p, end);
    if (n > 0) return p + n;
    int class = symbol_class(p, end, &n);
    const unsigned char* q = p + n;
    if (*p == ' ' && q < end) {
        class = symbol_class(q, end, &n);
        if (class != CLASS_SPACE) q += n;
    }
    if (class != CLASS_SPACE) {
        while (q < end && symbol_class(q, end, &n) == class) q += n;
        return q;
    }
    const unsigned char* last = p; // where the last white space of the run begins
    for (; q < end && symbol_class(q, end, &n) == CLASS_SPACE; q += n) last = q;
    // \s+(?!\S) gives the last one back to the word that follows, unless it is the only one: then \s+ takes it
    return q == end || last == p ? q : last;
}

// ---------------------------------------------------------------------------------------------------------------------
// Merging: as long as some adjacent pair of a word can merge, the pair of lowest rank does, the leftmost of equals.
// <|endoftext|> never comes of it, whatever the vocabulary: a word that held its bytes would have been cut there.

// A word of at most 15 bytes and 4 tokens.
typedef struct {
    uint64_t key[2]; // the word's bytes, zeros, and its length in the last byte; all zero: the slot is empty
    int ids[4];      // its tokens, then -1
} CachedWord;

// A token of a long word while it is merged.
typedef struct {
    uint32_t id;
    uint32_t previous, next; // neighbours; the first has itself, the last has the word's length
    uint32_t rank;           // of the merge with next, or NO_MERGE
} Symbol;

// What one call of tokenizer_encode() needs.
typedef struct {
    const Tokenizer* tokenizer;
    int* tokens; // (capacity) the result, num_tokens so far
    size_t num_tokens, capacity;
    CachedWord* cache; // (1 << cache_bits) the words met last
    int cache_bits;
    // for long words, kept from one to the next
    Symbol* symbols; // (long_capacity)
    uint64_t* heap;  // (2 * long_capacity)
    size_t long_capacity;
} Encoder;

enum { SHORT_WORD = 64 }; // bytes up to which looking at all pairs is faster than a heap

// Rank of the merge of two adjacent tokens, or NO_MERGE.
static uint32_t merge_rank(const Tokenizer* t, uint32_t left, uint32_t right) {
    if (t->pairs == NULL) return find_joined(t, left, right);
    const PairSlot* slot = pair_slot(t, (uint64_t)left << 32 | right);
    return slot != NULL ? slot->rank : NO_MERGE;
}

static uint32_t merge_result(const Tokenizer* t, uint32_t rank) {
    return t->pairs != NULL ? t->merged_id[rank] : rank;
}

// Merges a word of n <= SHORT_WORD bytes into out (n); the number of tokens. Every step looks at all pairs.
static size_t merge_short(const Tokenizer* t, const unsigned char* word, size_t n, int* out) {
    uint32_t id[SHORT_WORD], rank[SHORT_WORD]; // rank[i]: of the pair i, i + 1
    for (size_t i = 0; i < n; i++) id[i] = t->byte_token[word[i]];
    for (size_t i = 0; i + 1 < n; i++) rank[i] = merge_rank(t, id[i], id[i + 1]);
    for (;;) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) best = rank[i] < rank[best] ? i : best;
        if (n < 2 || rank[best] == NO_MERGE) break;
        id[best] = merge_result(t, rank[best]);
        n--;
        memmove(id + best + 1, id + best + 2, (n - best - 1) * sizeof *id);
        memmove(rank + best, rank + best + 1, (n - best - 1) * sizeof *rank);
        if (best + 1 < n) rank[best] = merge_rank(t, id[best], id[best + 1]);
        if (best > 0) rank[best - 1] = merge_rank(t, id[best - 1], id[best]);
    }
    for (size_t i = 0; i < n; i++) out[i] = (int)id[i];
    return n;
}

enum { ARITY = 8 }; // children of a key in the heap: one cache line is read where a binary heap would read three

// Lets heap[i] sink to its place in a heap of n whose smallest key is on top; the children of i are ARITY * i + 1 and
// on.
static void heap_sink(uint64_t* heap, size_t n, size_t i) {
    uint64_t key = heap[i];
    for (size_t child; (child = ARITY * i + 1) < n; i = child) {
        size_t end = child + ARITY < n ? child + ARITY : n;
        for (size_t c = child + 1; c < end; c++) child = heap[c] < heap[child] ? c : child;
        if (heap[child] >= key) break;
        heap[i] = heap[child];
    }
    heap[i] = key;
}

static void heap_push(uint64_t* heap, size_t* n, uint64_t key) {
    size_t i = (*n)++;
    for (; i > 0 && heap[(i - 1) / ARITY] > key; i = (i - 1) / ARITY) heap[i] = heap[(i - 1) / ARITY];
    heap[i] = key;
}

// Looks up the pair that begins at symbol i and, if it can merge, enters it into the heap.
static void offer_pair(const Tokenizer* t, Symbol* symbols, uint32_t i, uint64_t* heap, size_t* n) {
    symbols[i].rank = merge_rank(t, symbols[i].id, symbols[symbols[i].next].id);
    if (symbols[i].rank != NO_MERGE) heap_push(heap, n, (uint64_t)symbols[i].rank << 32 | i);
}

// The same for a word of any length in O(n log n): symbols in a linked list, pairs in a heap ordered by rank, then by
// position. A pair that has changed since it was entered is known by its rank and passed over. Of n bytes there are
// n - 1 pairs at first, and a merge takes one key out of the heap and adds at most two: 2 n keys are room enough.
static size_t merge_long(const Tokenizer* t, const unsigned char* word, uint32_t n, int* out, Symbol* symbols,
                         uint64_t* heap) {
    size_t heap_size = 0, num_tokens = 0;
    for (uint32_t i = 0; i < n; i++) symbols[i] = (Symbol){t->byte_token[word[i]], i > 0 ? i - 1 : 0, i + 1, NO_MERGE};
    for (uint32_t i = 0; i + 1 < n; i++) {
        symbols[i].rank = merge_rank(t, symbols[i].id, symbols[i + 1].id);
        if (symbols[i].rank != NO_MERGE) heap[heap_size++] = (uint64_t)symbols[i].rank << 32 | i;
    }
    size_t parents = (heap_size + ARITY - 2) / ARITY;
    for (size_t i = parents; i-- > 0;) heap_sink(heap, heap_size, i);
    while (heap_size > 0) {
        uint32_t i = (uint32_t)heap[0], rank = (uint32_t)(heap[0] >> 32);
        heap[0] = heap[--heap_size];
        heap_sink(heap, heap_size, 0);
        if (symbols[i].rank != rank) continue;
        uint32_t right = symbols[i].next, after = symbols[right].next;
        symbols[i].id = merge_result(t, rank);
        symbols[i].next = after;
        symbols[i].rank = symbols[right].rank = NO_MERGE;
        if (after < n) {
            symbols[after].previous = i;
            offer_pair(t, symbols, i, heap, &heap_size);
        }
        if (i > 0) offer_pair(t, symbols, symbols[i].previous, heap, &heap_size);
    }
    for (uint32_t i = 0; i < n; i = symbols[i].next) out[num_tokens++] = (int)symbols[i].id;
    return num_tokens;
}

// Merges one word and appends its tokens, for which there is room.
static bool encode_word(Encoder* e, const unsigned char* word, size_t n, Error* error) {
    int* out = e->tokens + e->num_tokens;
    if (n <= SHORT_WORD) {
        e->num_tokens += merge_short(e->tokenizer, word, n, out);
        return true;
    }
    if (n > UINT32_MAX - 1) return fail(error, "a word of %zu bytes is too long to tokenize; put spaces into it", n);
    if (n > e->long_capacity) {
        free(e->symbols);
        free(e->heap);
        e->long_capacity = 0;
        e->symbols = allocate(n, sizeof *e->symbols, "tokenizer: a long word", error);
        e->heap = allocate(n, 2 * sizeof *e->heap, "tokenizer: a long word", error);
        if (e->symbols == NULL || e->heap == NULL) return false;
        e->long_capacity = n;
    }
    e->num_tokens += merge_long(e->tokenizer, word, (uint32_t)n, out, e->symbols, e->heap);
    return true;
}

// Makes room for n more tokens.
static bool reserve(Encoder* e, size_t n, Error* error) {
    if (e->capacity - e->num_tokens >= n) return true;
    size_t capacity = e->capacity + e->capacity / 2 + n;
    int* tokens = capacity <= SIZE_MAX / sizeof *tokens ? realloc(e->tokens, capacity * sizeof *tokens) : NULL;
    if (tokens == NULL) return fail(error, "no memory for %zu tokens; a shorter text needs less", capacity);
    e->tokens = tokens;
    e->capacity = capacity;
    return true;
}

// The cache's slot for a word of n <= 15 bytes, and the key that it has if the word is in it.
static CachedWord* cache_slot(const Encoder* e, const unsigned char* word, size_t n, uint64_t key[2]) {
    unsigned char bytes[16] = {0};
    memcpy(bytes, word, n);
    bytes[15] = (unsigned char)n;
    memcpy(key, bytes, sizeof bytes);
    uint64_t hash = (key[0] ^ key[1] >> 29) * 0x9E3779B97F4A7C15u ^ key[1] * 0xD6E8FEB86659FD93u;
    return &e->cache[(hash ^ hash >> 32) * 0x9E3779B97F4A7C15u >> (64 - e->cache_bits)];
}

// Appends the tokens of a stretch of text that holds no <|endoftext|>.
static bool encode_text(Encoder* e, const unsigned char* p, const unsigned char* end, Error* error) {
    for (const unsigned char* next; p < end; p = next) {
        next = word_end(p, end);
        size_t n = (size_t)(next - p), first = e->num_tokens;
        if (!reserve(e, n + 4, error)) return false; // 4: a cached word is copied whole
        if (n > 15) {
            if (!encode_word(e, p, n, error)) return false;
            continue;
        }
        uint64_t key[2];
        CachedWord* cached = cache_slot(e, p, n, key);
        if (cached->key[0] == key[0] && cached->key[1] == key[1]) {
            const int* ids = cached->ids;
            memcpy(e->tokens + first, ids, sizeof cached->ids);
            e->num_tokens += (size_t)(1 + (ids[1] >= 0) + (ids[2] >= 0) + (ids[3] >= 0));
            continue;
        }
        if (!encode_word(e, p, n, error)) return false;
        size_t num_tokens = e->num_tokens - first;
        if (num_tokens > 4) continue;
        memcpy(cached->key, key, sizeof key);
        for (size_t i = 0; i < 4; i++) cached->ids[i] = i < num_tokens ? e->tokens[first + i] : -1;
    }
    return true;
}

static bool encode_all(Encoder* e, const unsigned char* text, size_t length, Error* error) {
    const unsigned char *end = text + length, *p = text;
    e->cache_bits = 6;
    while (e->cache_bits < 15 && (size_t)16 << e->cache_bits < length) e->cache_bits++;
    e->cache = allocate((size_t)1 << e->cache_bits, sizeof *e->cache, "tokenizer: cache of words", error);
    if (e->cache == NULL || !reserve(e, length / 3 + 16, error)) return false;
    memset(e->cache, 0, sizeof *e->cache << e->cache_bits);
    for (;;) {
        const unsigned char* special = NULL;
        if (e->tokenizer->eot >= 0) special = memmem(p, (size_t)(end - p), EOT_TEXT, EOT_LENGTH);
        if (!encode_text(e, p, special != NULL ? special : end, error)) return false;
        if (special == NULL) return true;
        if (!reserve(e, 1, error)) return false;
        e->tokens[e->num_tokens++] = e->tokenizer->eot;
        p = special + EOT_LENGTH;
    }
}

bool tokenizer_encode(const Tokenizer* tokenizer, const char* text, size_t length, int** tokens, size_t* num_tokens,
                      Error* error) {
    Encoder e = {.tokenizer = tokenizer};
    bool ok = encode_all(&e, (const unsigned char*)text, length, error);
    free(e.cache);
    free(e.symbols);
    free(e.heap);
    if (!ok) {
        free(e.tokens);
        return false;
    }
    int* fitted = realloc(e.tokens, (e.num_tokens + 1) * sizeof *fitted); // gives back what was not needed
    *tokens = fitted != NULL ? fitted : e.tokens;
    *num_tokens = e.num_tokens;
    return true;
}
