#include "checkpoint.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "huggingface.h"
#include "image.h"
#include "llmc.h"
#include "mapped_file.h"
#include "pack.h"
#include "safetensors.h"

// ---------------------------------------------------------------------------------------------------------------------
// Which format is it?

static bool load_file(GPT2Model* model, const char* path, bool keep_dtype, DType dtype, Error* error) {
    MappedFile file;
    if (!map_file(&file, path, error)) return false;
    bool ok;
    if (is_llmc(&file)) {
        ok = load_llmc(model, &file, path, keep_dtype, dtype, error);
    } else if (is_image(&file)) {
        ok = load_image(model, &file, path, keep_dtype, dtype, error);
    } else if (is_safetensors(&file, path)) {
        ok = load_safetensors(model, &file, path, keep_dtype, dtype, error);
    } else {
        ok = fail(error, "%s: not a checkpoint: %s", path, guess_file_kind(&file));
    }
    unmap_file(&file);
    return ok;
}

// From the file or directory into a model that holds nothing yet but, perhaps, a place for its contents.
static bool load_path(GPT2Model* model, const char* path, bool keep_dtype, DType dtype, Error* error) {
    struct stat status;
    bool is_directory = stat(path, &status) == 0 && S_ISDIR(status.st_mode);
    bool ok = is_directory ? load_hf_directory(model, path, keep_dtype, dtype, error)
                           : load_file(model, path, keep_dtype, dtype, error);
    if (!ok) checkpoint_free(model);
    return ok;
}

bool checkpoint_load(GPT2Model* model, const char* path, bool keep_dtype, DType dtype, Error* error) {
    *model = (GPT2Model){0};
    return load_path(model, path, keep_dtype, dtype, error);
}

bool checkpoint_load_shown(GPT2Model* model, const char* path, bool keep_dtype, DType dtype, Error* error) {
    *model = (GPT2Model){.shows_progress = true};
    return load_path(model, path, keep_dtype, dtype, error);
}

bool checkpoint_load_contents(GPT2Model* model, CheckpointContents* contents, const char* path, Error* error) {
    *contents = (CheckpointContents){0};
    *model = (GPT2Model){.contents = contents};
    if (load_path(model, path, true, DTYPE_F32, error)) return true;
    checkpoint_contents_free(contents);
    return false;
}

void checkpoint_contents_free(CheckpointContents* contents) {
    for (size_t i = 0; i < contents->num_files; i++) free(contents->files[i]);
    free(contents->files);
    free(contents->places);
    *contents = (CheckpointContents){0};
}

void checkpoint_free(GPT2Model* model) {
    if (model->mapping != NULL) munmap(model->mapping, model->mapping_bytes);
    free(model->block);
    pack_free(model);
    *model = (GPT2Model){0};
}

// ---------------------------------------------------------------------------------------------------------------------
// Writing

bool checkpoint_write(OutputFile* out, const GPT2Model* model, Error* error) {
    bool is_llmc_type = model->dtype == DTYPE_F32 || model->dtype == DTYPE_BF16;
    return is_llmc_type ? llmc_write(out, model, error) : image_write(out, model, error);
}

bool checkpoint_save(const GPT2Model* model, const char* path, Error* error) {
    OutputFile out;
    if (!output_open(&out, path, error)) return false;
    if (checkpoint_write(&out, model, error)) return output_close(&out, error);
    output_abandon(&out);
    return false;
}
