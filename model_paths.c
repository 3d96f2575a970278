// Where the model is: checkpoint_find().
#include "checkpoint.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mapped_file.h"

enum { PATH_SIZE = sizeof((ModelPaths*)0)->model };

// A path; empty when it would have been too long, so that nothing exists there.
typedef struct {
    char text[PATH_SIZE];
} Path;

static Path path_of(const char* format, ...) __attribute__((format(printf, 1, 2)));

static Path path_of(const char* format, ...) {
    Path path;
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(path.text, sizeof path.text, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof path.text) path.text[0] = '\0';
    return path;
}

static bool exists(const char* path) {
    return access(path, F_OK) == 0;
}

static bool is_directory(const char* path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

// The value of an environment variable, NULL when it is unset or empty.
static const char* setting(const char* name) {
    const char* value = getenv(name);
    return value != NULL && value[0] != '\0' ? value : NULL;
}

// ---------------------------------------------------------------------------------------------------------------------
// The tokenizer beside a model

// Copies a path that is known to be short enough; true, so that a search can end with it.
static bool choose(char out[PATH_SIZE], const char* path) {
    memcpy(out, path, strlen(path) + 1);
    return true;
}

// vocab.json and merges.txt in a directory.
static bool find_hf_tokenizer(ModelPaths* paths, const char* directory) {
    return exists(path_of("%s/vocab.json", directory).text) && exists(path_of("%s/merges.txt", directory).text) &&
           choose(paths->tokenizer, directory);
}

static bool find_bin_tokenizer(ModelPaths* paths, const char* directory, const char* prefix) {
    Path path = path_of("%s/%stokenizer.bin", directory, prefix);
    return exists(path.text) && choose(paths->tokenizer, path.text);
}

// For dir/NAME.bin: the directory, and NAME_ as the prefix of its own tokenizer. For a directory: itself and no prefix.
static void split_model(const char* model, Path* directory, Path* prefix) {
    *directory = path_of("%s", model);
    *prefix = path_of("%s", "");
    if (is_directory(model)) return;
    const char* slash = strrchr(model, '/');
    const char* name = slash != NULL ? slash + 1 : model;
    const char* dot = strrchr(name, '.');
    *prefix = path_of("%.*s_", dot != NULL ? (int)(dot - name) : (int)strlen(name), name);
    *directory = slash != NULL ? path_of("%.*s", slash == model ? 1 : (int)(slash - model), model) : path_of(".");
}

static bool find_tokenizer(ModelPaths* paths, Error* error) {
    Path directory, prefix;
    split_model(paths->model, &directory, &prefix);
    size_t length = strlen(paths->model);
    bool is_bin = length > 4 && strcmp(paths->model + length - 4, ".bin") == 0;
    if ((!is_bin && find_hf_tokenizer(paths, directory.text)) ||
        find_bin_tokenizer(paths, directory.text, prefix.text) || find_bin_tokenizer(paths, directory.text, "gpt2_") ||
        find_hf_tokenizer(paths, directory.text)) {
        return true;
    }
    bool has_json = exists(path_of("%s/tokenizer.json", directory.text).text);
    bool has_own_name = prefix.text[0] != '\0' && strcmp(prefix.text, "gpt2_") != 0;
    return fail(error,
                "%s: no tokenizer beside it (%s%sgpt2_tokenizer.bin, or vocab.json with merges.txt%s); "
                "--tokenizer names one, scripts/download_gpt2.sh fetches GPT-2's",
                paths->model, has_own_name ? prefix.text : "", has_own_name ? "tokenizer.bin, " : "",
                has_json ? "; tokenizer.json alone is not read" : "");
}

// ---------------------------------------------------------------------------------------------------------------------
// The model

// A model that the user named, by the flag or, when that is NULL, by the environment.
static bool use_named_model(ModelPaths* paths, const char* flag, const char* environment, Error* error) {
    const char *model = flag != NULL ? flag : environment, *source = flag != NULL ? "--model" : "$GPT2_MODEL";
    if (strlen(model) >= sizeof paths->model) return fail(error, "%s: the path is too long", source);
    if (exists(model)) return choose(paths->model, model);
    return fail(error, "%s \"%s\": %s; scripts/download_gpt2.sh fetches GPT-2", source, model, strerror(errno));
}

// Hugging Face's cache: $HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub; empty when HOME is unset too.
static Path hub_cache(void) {
    const char *cache = setting("HF_HUB_CACHE"), *hf_home = setting("HF_HOME"), *home = setting("HOME");
    if (cache != NULL) return path_of("%s", cache);
    if (hf_home != NULL) return path_of("%s/hub", hf_home);
    return home != NULL ? path_of("%s/.cache/huggingface/hub", home) : path_of("%s", "");
}

// The commit that refs/main of a cached repository names, as hexadecimal digits; empty when there is none.
static Path read_commit(const char* repository) {
    Path commit = {{0}};
    MappedFile file;
    Error ignored;
    if (!map_file(&file, path_of("%s/refs/main", repository).text, &ignored)) return commit;
    char text[66] = "";
    size_t length = file.size < sizeof text ? file.size : sizeof text - 1;
    if (length > 0) memcpy(text, file.bytes, length);
    unmap_file(&file);
    size_t digits = strspn(text, "0123456789abcdef");
    if (digits == 0 || digits > 64 || strcspn(text + digits, "\r\n") != 0) return commit;
    return path_of("%.*s", (int)digits, text);
}

static bool find_in_hub_cache(ModelPaths* paths) {
    // from_pretrained("gpt2") caches under the short name, from_pretrained("openai-community/gpt2") under the long one
    static const char* const repositories[] = {"models--openai-community--gpt2", "models--gpt2"};
    Path cache = hub_cache();
    for (size_t i = 0; cache.text[0] != '\0' && i < sizeof repositories / sizeof *repositories; i++) {
        Path repository = path_of("%s/%s", cache.text, repositories[i]);
        Path commit = read_commit(repository.text);
        if (commit.text[0] == '\0') continue;
        Path snapshot = path_of("%s/snapshots/%s", repository.text, commit.text);
        if (exists(path_of("%s/config.json", snapshot.text).text) &&
            exists(path_of("%s/model.safetensors", snapshot.text).text)) {
            return choose(paths->model, snapshot.text);
        }
    }
    return false;
}

// The directory of the running program; the working directory when /proc does not say.
static Path program_directory(void) {
    Path path;
    ssize_t length = readlink("/proc/self/exe", path.text, sizeof path.text);
    if (length <= 0 || (size_t)length >= sizeof path.text) return path_of(".");
    path.text[length] = '\0';
    char* slash = strrchr(path.text, '/');
    if (slash == NULL) return path_of(".");
    *slash = '\0';
    return path;
}

static bool find_bundled(ModelPaths* paths) {
    Path program = program_directory();
    const Path candidates[] = {
        path_of("%s/models/fairytales.bin", program.text),
        path_of("%s/../share/gpt2/models/fairytales.bin", program.text),
        path_of("models/fairytales.bin"),
    };
    for (size_t i = 0; i < sizeof candidates / sizeof *candidates; i++) {
        if (!exists(candidates[i].text)) continue;
        paths->is_bundled = true;
        return choose(paths->model, candidates[i].text);
    }
    return false;
}

static bool find_model(ModelPaths* paths, const char* wish, Error* error) {
    const char* from_environment = setting("GPT2_MODEL");
    if (wish != NULL || from_environment != NULL) return use_named_model(paths, wish, from_environment, error);
    static const char* const files[] = {"gpt2_124M_bf16z.bin", "gpt2_124M_bf16.bin", "gpt2_124M.bin"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (exists(files[i])) return choose(paths->model, files[i]);
    }
    if (find_in_hub_cache(paths) || find_bundled(paths)) return true;
    return fail(error,
                "no model: looked for $GPT2_MODEL, gpt2_124M_bf16z.bin, gpt2_124M_bf16.bin and gpt2_124M.bin here, "
                "openai-community/gpt2 in the Hugging Face cache (%s) and models/fairytales.bin beside the program; "
                "scripts/download_gpt2.sh "
                "fetches GPT-2, --model names another",
                hub_cache().text);
}

bool checkpoint_find(ModelPaths* paths, const char* model, const char* tokenizer, Error* error) {
    *paths = (ModelPaths){0};
    if (!find_model(paths, model, error)) return false;
    if (tokenizer == NULL) return find_tokenizer(paths, error);
    if (strlen(tokenizer) >= sizeof paths->tokenizer) return fail(error, "--tokenizer: the path is too long");
    if (!exists(tokenizer)) {
        return fail(error, "--tokenizer \"%s\": %s; without it, what lies beside the model is used", tokenizer,
                    strerror(errno));
    }
    return choose(paths->tokenizer, tokenizer);
}
