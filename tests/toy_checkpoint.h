// Small GPT-2 models made of random numbers, and the bytes of every file format that holds one: written here by code
// that shares nothing with the readers under test.
#ifndef TOY_CHECKPOINT_H
#define TOY_CHECKPOINT_H

#include "../gpt2.h"

typedef struct {
    GPT2Config config; // padded_vocab_size == vocab_size
    float* weights;    // every parameter in the order of GPT2_PARAMETERS, without padding
} Toy;

// With is_exact the weights are multiples of 1/64 below 2, which f32, bf16 and f16 all hold; otherwise any floats.
Toy toy_make(GPT2Config config, unsigned long long seed, bool is_exact);
void toy_free(Toy* toy);

// The first weight of a parameter's layer.
float* toy_tensor(const Toy* toy, ParameterId id, size_t layer);

// How many weights of a loaded model are not the toy's, bit for bit; all of them when the configurations differ.
size_t toy_differences(const Toy* toy, const GPT2Model* model);

typedef struct {
    unsigned char* data;
    size_t size;
} Bytes;

// An llm.c model file of version 1, 3 or 5; the last two padded with zero rows to a multiple of 128.
Bytes toy_llmc(const Toy* toy, int version);

// An image (image.h) of type F16, Q8 or BF16Z; in BF16Z weights of magnitudes from 1/32 up to 1/8 are rare.
Bytes toy_image(const Toy* toy, DType dtype);

// What a .safetensors file is to be like.
typedef struct {
    const char* prefix;    // before every name: "" or "transformer."
    const char* dtypes[3]; // tensor i is dtypes[i % 3]: "F32", "F16" or "BF16"
    bool has_masks;        // attn.bias and attn.masked_bias in every layer
    bool has_head;         // lm_head.weight, a copy of wte
    int shard, num_shards; // of the tensors, those with i % num_shards == shard; 0, 1 for all of them
} SafetensorsStyle;

// A .safetensors file in its two parts, so that tests can spoil either.
typedef struct {
    char* header;
    Bytes data;
} Safetensors;

Safetensors toy_safetensors(const Toy* toy, const SafetensorsStyle* style);
void safetensors_release(Safetensors* file);

// The file: header length, header, data.
Bytes safetensors_bytes(const Safetensors* file);
void safetensors_write(const char* path, const Safetensors* file);

// The toy as a .safetensors file.
void toy_write_safetensors(const char* path, const Toy* toy, const SafetensorsStyle* style);

// The toy in f32 as model-00001-of-0000n.safetensors, ... and their index in a directory; returns the index's text.
char* toy_write_shards(const Toy* toy, const char* directory, int n);

// config.json as transformers writes it.
char* toy_config_json(const Toy* toy);

// A directory for the files of a test, and what goes into it. Any failure of these ends the program.
void make_directory(char directory[256]);
void remove_directory(const char* directory);
void write_file(const char* path, const void* data, size_t size);
Bytes read_file(const char* path);

// A copy of text with the first occurrence of `from` replaced; the program ends when there is none.
char* replaced(const char* text, const char* from, const char* to);

#endif
