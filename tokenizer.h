// GPT-2's byte-level byte-pair encoding: bytes to token ids and back, exact and lossless.
#ifndef TOKENIZER_H
#define TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>

#include "utils.h"

typedef struct Tokenizer Tokenizer;

// Reads llm.c's tokenizer .bin (versions 1 and 2). Format: 256 little-endian int32 [20240328, version, number of
// tokens, id of <|endoftext|> (version 2)], then per token one length byte and the bytes. Ids are merge ranks, so
// that adjacent tokens merge when their joined bytes are a token, lowest id first. The caller frees the result.
Tokenizer* tokenizer_load_bin(const char* path, Error* error);

// Reads Hugging Face's vocab.json and merges.txt; pairs merge in the order of merges.txt. The caller frees the result.
// Without libjansson at build time: an error that says so.
Tokenizer* tokenizer_load_hf(const char* vocab_path, const char* merges_path, Error* error);

void tokenizer_free(Tokenizer* tokenizer);

// Number of tokens: ids are 0 .. vocab_size - 1.
int tokenizer_vocab_size(const Tokenizer* tokenizer);

// Id of <|endoftext|>, or -1 where the vocabulary has none.
int tokenizer_eot(const Tokenizer* tokenizer);

// The bytes of a token; *length is set. The memory is the tokenizer's. `id` must be valid.
const char* tokenizer_decode(const Tokenizer* tokenizer, int id, size_t* length);

// Encodes length bytes of text, any bytes at all, NUL included. Sets *tokens to a new array that the caller frees with
// free() (never NULL on success, even for no text) and *num_tokens to its length. "<|endoftext|>" in the text becomes
// the special token. Bytes that are not UTF-8 are kept: each is a symbol of its own for the pre-tokenizer.
// decode(encode(x)) == x for every x. Time is O(n log n) in the worst case.
bool tokenizer_encode(const Tokenizer* tokenizer, const char* text, size_t length, int** tokens, size_t* num_tokens,
                      Error* error);

#endif
