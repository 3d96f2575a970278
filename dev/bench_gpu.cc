// make bench-gpu: a GPU's time for a token and for a prompt, beside the card's own limits in the same run. The model is
// GPT-2 124M's shape with random weights. What it prints are medians, with the spread between the 5th and 95th
// percentile.
#include <hip/hip_runtime.h>

#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <vector>

#include "../gpt2_kernels.h"
#include "../tests/reference.h"

struct Times {
    std::vector<double> seconds;
    double at(double share) {
        std::sort(seconds.begin(), seconds.end());
        return seconds[(size_t)(share * (double)(seconds.size() - 1))];
    }
};

static void stop_at(bool is_wrong, const char* what) {
    if (!is_wrong) return;
    fprintf(stderr, "bench_gpu: %s\n", what);
    exit(1);
}

// Bytes per second of a copy within the card's memory, read and written.
static double copy_bandwidth(size_t bytes) {
    void *from, *to;
    Times times;
    stop_at(hipMalloc(&from, bytes) != hipSuccess || hipMalloc(&to, bytes) != hipSuccess ||
                hipMemset(from, 1, bytes) != hipSuccess,
            "no memory to measure the card's bandwidth");
    for (int i = 0; i < 20; i++) {
        double start = seconds_now();
        stop_at(hipMemcpyAsync(to, from, bytes, hipMemcpyDeviceToDevice, NULL) != hipSuccess ||
                    hipStreamSynchronize(NULL) != hipSuccess,
                "cannot copy");
        times.seconds.push_back(seconds_now() - start);
    }
    stop_at(hipFree(from) != hipSuccess || hipFree(to) != hipSuccess, "cannot free");
    return 2.0 * (double)bytes / times.at(0.5);
}

int main(int argc, char** argv) {
    const GPT2Config config = {1024, 50257, 50304, 12, 12, 768};
    const int depths[] = {0, 512, 1000 - 24}, prompts[] = {64, 512, 1024};
    GPT2Model model;
    Error error;
    DType dtype = DTYPE_BF16;
    for (int d = 0; argc > 1 && d < NUM_DTYPES; d++) dtype = strcmp(argv[1], dtype_names[d]) == 0 ? (DType)d : dtype;
    stop_at(!reference_model(&model, &config, dtype, 1, &error), error.text);
    DeviceOptions options = {};
    options.max_seq_len = config.max_seq_len, options.max_batch = 1, options.num_threads = 1, options.dtype = dtype;
    Device* device = gpt2_hip.open(&model, &options, &error);
    stop_at(device == NULL, error.text);
    double bandwidth = copy_bandwidth((size_t)256 << 20), bytes = (double)gpt2_bytes_per_token_in(dtype, &config);
    printf("%s; copies at %.0f GB/s\n", gpt2_hip.describe(device), 1e-9 * bandwidth);

    const SamplerOptions greedy = {0, 0, 1, 0, 1};
    Sampler sampler;
    stop_at(!sampler_open(&sampler, &greedy, config.vocab_size, 1, 0, &error), error.text);
    std::vector<int> tokens(1024, 464);
    std::vector<float> logits((size_t)config.vocab_size);
    int slot = 0;
    for (int depth : depths) {
        Times times;
        TokenRun fill = {tokens.data(), &slot, 1, depth, 0};
        stop_at(depth > 0 && !gpt2_hip.forward(device, &fill, 0, NULL, &error), error.text);
        for (int i = 0; i < 24; i++) {
            int token = tokens[0];
            TokenRun step = {&token, &slot, 1, 1, depth + i};
            Choice choice = {&sampler, tokens.data(), (size_t)(depth + i + 1), -1};
            double start = seconds_now();
            stop_at(!gpt2_hip.next(device, &step, &choice, &tokens[0], &error), error.text);
            if (i >= 4) times.seconds.push_back(seconds_now() - start);
        }
        double median = times.at(0.5);
        printf("token at depth %4d: %8.1f us (%.1f to %.1f), %.0f GB/s of weights, %.0f %% of the copy's\n", depth,
               1e6 * median, 1e6 * times.at(0.05), 1e6 * times.at(0.95), 1e-9 * bytes / median,
               100 * bytes / median / bandwidth);
    }
    for (int T : prompts) {
        Times times;
        for (int i = 0; i < 8; i++) {
            TokenRun prompt = {tokens.data(), &slot, 1, T, 0};
            double start = seconds_now();
            stop_at(!gpt2_hip.forward(device, &prompt, 1, logits.data(), &error), error.text);
            if (i >= 2) times.seconds.push_back(seconds_now() - start);
        }
        printf("prompt of %4d tokens: %8.2f ms (%.2f to %.2f), %.0f tokens/s\n", T, 1e3 * times.at(0.5),
               1e3 * times.at(0.05), 1e3 * times.at(0.95), T / times.at(0.5));
    }
    sampler_close(&sampler);
    gpt2_hip.close(device);
    reference_model_free(&model);
    return 0;
}
