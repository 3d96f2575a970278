// Every file format of weights, into one GPT2Model.
#ifndef CHECKPOINT_H
#define CHECKPOINT_H

#include "gpt2.h"
#include "output_file.h"

// Where a model was found and what lies beside it.
typedef struct {
    char model[4096];     // .bin or .safetensors file, or a Hugging Face directory
    char tokenizer[4096]; // tokenizer .bin, or the directory that holds vocab.json and merges.txt
    bool is_bundled;      // nothing else was found: the small model of the repository
} ModelPaths;

// Decides which model to load. `model` and `tokenizer` are what the user asked for, or NULL. Without a model, the
// search order is: $GPT2_MODEL, gpt2_124M_bf16z.bin, gpt2_124M_bf16.bin, gpt2_124M.bin, openai-community/gpt2 in the
// Hugging Face cache ($HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub; refs/main names the snapshot),
// then the bundled model: models/ beside the program, then share/gpt2/models beside the program's bin/, then models/ of
// the working directory. The tokenizer lies beside the model. For NAME.bin it is NAME_tokenizer.bin, else
// gpt2_tokenizer.bin, else vocab.json with merges.txt; for a .safetensors file or a directory vocab.json with
// merges.txt come first.
bool checkpoint_find(ModelPaths* paths, const char* model, const char* tokenizer, Error* error);

// Loads the checkpoint at `path` (what ModelPaths.model holds). The matrices end up as `dtype`, or, when keep_dtype is
// set, in the file's type. llm.c files and images (image.h) already in that dtype are mapped and used in place; all
// else is converted into one block. Everything in the file is checked before it is used; nothing of `model` needs
// freeing on failure.
bool checkpoint_load(GPT2Model* model, const char* path, bool keep_dtype, DType dtype, Error* error);

// The same, showing progress on a terminal when it takes long.
bool checkpoint_load_shown(GPT2Model* model, const char* path, bool keep_dtype, DType dtype, Error* error);

// Unmaps and frees the memory that the model owns, and clears it; harmless when it is clear already. model->contents
// stays the caller's.
void checkpoint_free(GPT2Model* model);

// Where one layer of a parameter lies in a checkpoint.
typedef struct {
    size_t file;          // number of its file
    size_t offset, bytes; // of its data (scales or rare weights lie elsewhere), from the start of that file
    DType dtype;
    bool is_transposed; // (cols, rows), as Hugging Face keeps linear layers
} TensorPlace;

// What a checkpoint consists of.
typedef struct CheckpointContents {
    char format[96];
    char configuration[4096]; // the file that it is from, or how it was found
    char** files;             // (num_files) that hold weights
    size_t num_files;
    TensorPlace* places; // (NUM_PARAMETERS, L), the layers of one parameter side by side
} CheckpointContents;

// checkpoint_load() with the matrices in the file's type, and the contents as well. The caller frees both.
bool checkpoint_load_contents(GPT2Model* model, CheckpointContents* contents, const char* path, Error* error);
void checkpoint_contents_free(CheckpointContents* contents);

// Writes a model in the format that suits its dtype: an llm.c checkpoint (F32, BF16) or an image (image.h).
bool checkpoint_write(OutputFile* out, const GPT2Model* model, Error* error);

// The same into a file at `path`, which is opened and closed here; see output_open().
bool checkpoint_save(const GPT2Model* model, const char* path, Error* error);

#endif
