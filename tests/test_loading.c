#include "test_loading.h"

#include "../checkpoint.h"

long load_and_compare(const Toy* toy, const char* path, bool keep_dtype, DType dtype, Error* error) {
    GPT2Model model;
    if (!checkpoint_load(&model, path, keep_dtype, dtype, error)) return -1;
    long differences = (long)toy_differences(toy, &model);
    if (model.dtype != (keep_dtype ? model.file_dtype : dtype)) differences++;
    checkpoint_free(&model);
    return differences;
}

void check_refused(Tests* t, const char* path, const char* what, const char* reason) {
    GPT2Model model;
    Error error = {"(it was loaded)"};
    bool loaded = checkpoint_load(&model, path, true, DTYPE_F32, &error);
    bool is_named = strncmp(error.text, path, strlen(path)) == 0;
    bool ok = !loaded && is_named && strstr(error.text, reason) != NULL && strchr(error.text, '\n') == NULL &&
              model.block == NULL && model.mapping == NULL;
    // the directory's name changes from run to run
    test_check(t, ok, "refuses %s%s", what, is_named ? error.text + strlen(path) : error.text);
    if (loaded) checkpoint_free(&model);
}
