// make bench-gpu: the ladder of a decode step on this machine's GPU (dev/GPU.md), each rung checked against the one
// before and timed beside the card's own limits in the same run; then prompts. GPT-2 124M's shape with random weights,
// or with `small` a shape that the host harness can run. What it prints are medians, with the 5th and the 95th
// percentile; a time is that of the whole call, from the program's side. Exit status 1 when a rung gives other results
// than the one before.
//   bench_gpu [f32|bf16|f16|q8] [small]
#include "../gpt2_kernels.hip"

#include <algorithm>
#include <vector>

extern "C" {
#include "../tests/reference.h"
}
#include "gpu_plain.h"

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
    const int copies = 8; // without a wait in between
    for (int i = 0; i < 20; i++) {
        double start = seconds_now();
        for (int j = 0; j < copies; j++) {
            stop_at(hipMemcpyAsync(to, from, bytes, hipMemcpyDeviceToDevice, NULL) != hipSuccess, "cannot copy");
        }
        stop_at(hipStreamSynchronize(NULL) != hipSuccess, "cannot copy");
        times.seconds.push_back(seconds_now() - start);
    }
    stop_at(hipFree(from) != hipSuccess || hipFree(to) != hipSuccess, "cannot free");
    return 2.0 * copies * (double)bytes / times.at(0.5);
}

// ---------------------------------------------------------------------------------------------------------------------
// What passing numbers between blocks costs by itself

// `rounds` times every block writes a number and reads those of all, as the stages of decode_token do. *stuck becomes 1
// when one does not come.
__global__ void __launch_bounds__(DECODE_THREADS) exchange_words(float* words, int* stuck, int rounds) {
    enum { N = 12 };
    int blocks = (int)gridDim.x, row = (blocks + 1) / 2 * 2, lane = (int)threadIdx.x % GROUP;
    if (threadIdx.x == 0) set_patience(PATIENCE);
    __syncthreads();
    for (int round = 0; round < rounds; round++, words += row) {
        if (threadIdx.x == 0) leave<true>(words + blockIdx.x, (float)round);
        for (int at = 2 * lane; threadIdx.x < GROUP && at < blocks; at += N * 2 * GROUP) {
            float2 pairs[N];
            const float* here = words;
            take<true, N>(pairs, [=](int i) { return place_in(here, at + i * 2 * GROUP, blocks); });
        }
        block_barrier();
    }
    if (threadIdx.x == 0 && patience_left() == 0) *stuck = 1;
}

// The usual barrier instead: a counter that every block adds to and then watches.
__global__ void __launch_bounds__(DECODE_THREADS) count_arrivals(float* words, int* stuck, int rounds) {
    int* counter = (int*)(void*)words;
    if (threadIdx.x == 0) set_patience(PATIENCE);
    for (int round = 1; round <= rounds; round++) {
        __syncthreads();
        if (threadIdx.x == 0) {
            int looks = 0;
            agent_arrive(counter);
            while ((int)(unsigned)agent_load(words) < round * (int)gridDim.x && look_again(++looks)) {}
        }
        __syncthreads();
    }
    if (threadIdx.x == 0 && patience_left() == 0) *stuck = 1;
}

__global__ void __launch_bounds__(DECODE_THREADS) do_nothing(int*) {}

// Seconds from the launch of `kernel` to the end of waiting for it, the median of several. Before each all of words is
// `clear`, and behind its `bytes` lies the word that says whether the blocks stood still.
static double cooperative_seconds(void (*kernel)(float*, int*, int), float* words, size_t bytes, int clear, int rounds,
                                  int blocks) {
    Times times;
    int *stuck = (int*)(void*)((char*)words + bytes), is_stuck = 0;
    void* arguments[] = {(void*)&words, (void*)&stuck, (void*)&rounds};
    for (int i = 0; i < 12; i++) {
        stop_at(hipMemset(words, clear, bytes) != hipSuccess || hipMemset(stuck, 0, sizeof *stuck) != hipSuccess ||
                    hipStreamSynchronize(NULL) != hipSuccess,
                "cannot clear");
        double start = seconds_now();
        stop_at(hipLaunchCooperativeKernel(kernel, dim3((unsigned)blocks), dim3(DECODE_THREADS), arguments, 0, NULL) !=
                        hipSuccess ||
                    hipStreamSynchronize(NULL) != hipSuccess,
                "cannot run blocks together");
        if (i >= 2) times.seconds.push_back(seconds_now() - start);
        stop_at(hipMemcpy(&is_stuck, stuck, sizeof is_stuck, hipMemcpyDeviceToHost) != hipSuccess || is_stuck != 0,
                "blocks waited for each other in vain");
    }
    return times.at(0.5);
}

static void measure_overheads(int blocks, int rounds) {
    Times launch;
    void* memory;
    size_t bytes = (size_t)rounds * (size_t)((blocks + 1) / 2 * 2) * sizeof(float);
    stop_at(hipMalloc(&memory, bytes + sizeof(int)) != hipSuccess, "no memory");
    for (int i = 0; i < 30; i++) {
        double start = seconds_now();
        hipLaunchKernelGGL(do_nothing, dim3((unsigned)blocks), dim3(DECODE_THREADS), 0, NULL, (int*)memory);
        stop_at(hipStreamSynchronize(NULL) != hipSuccess, "cannot launch");
        if (i >= 5) launch.seconds.push_back(seconds_now() - start);
    }
    double words = cooperative_seconds(exchange_words, (float*)memory, bytes, 0xff, rounds, blocks) -
                   cooperative_seconds(exchange_words, (float*)memory, bytes, 0xff, 1, blocks);
    double counted = cooperative_seconds(count_arrivals, (float*)memory, bytes, 0, rounds, blocks) -
                     cooperative_seconds(count_arrivals, (float*)memory, bytes, 0, 1, blocks);
    printf("alone: a launch and the wait for it %.1f us; among %d blocks an exchange of words %.2f us, a counting "
           "barrier %.2f us\n",
           1e6 * launch.at(0.5), blocks, 1e6 * words / (rounds - 1), 1e6 * counted / (rounds - 1));
    stop_at(hipFree(memory) != hipSuccess, "cannot free");
}

// ---------------------------------------------------------------------------------------------------------------------
// The ladder

static const char* const rungs[] = {"1 plain", "2 launches", "3 graph", "4 persistent"};
enum { NUM_RUNGS = 4, DEPTHS = 3 };

static bool run_plain(Device* d, int token, int position, int* next, Error* error) {
    d->host_step[0] = position, d->host_step[1] = 0, d->host_step[1 + d->options.max_batch] = token;
    bool ok = false;
    switch (d->options.dtype) {
    case DTYPE_F32: ok = plain_step<DTYPE_F32>(d, error); break;
    case DTYPE_BF16: ok = plain_step<DTYPE_BF16>(d, error); break;
    case DTYPE_F16: ok = plain_step<DTYPE_F16>(d, error); break;
    default: ok = plain_step<DTYPE_Q8>(d, error); break;
    }
    ok = ok && synchronise(d, error);
    *next = d->host_next[0];
    return ok;
}

// Runs `tokens` steps behind `depth` tokens by one rung, times them and returns the last logits. All rungs are given
// the same tokens, whatever they pick.
static std::vector<float> run_rung(Device* d, int rung, int depth, int tokens, Times* times) {
    const SamplerOptions greedy = {0, 0, 1, 0, 1};
    int V = d->model->config.vocab_size, slot = 0;
    Error error;
    Sampler sampler;
    std::vector<int> text((size_t)(depth + tokens), 464 % V);
    std::vector<float> logits((size_t)V);
    stop_at(!sampler_open(&sampler, &greedy, V, 1, 0, &error), error.text);
    TokenRun fill = {text.data(), &slot, 1, depth, 0};
    stop_at(depth > 0 && !gpt2_hip.forward(d, &fill, 0, NULL, &error), error.text);
    for (int i = 0; i < tokens; i++) {
        int given = (1 + 7919 * i) % V, token;
        TokenRun step = {&given, &slot, 1, 1, depth + i};
        Choice choice = {&sampler, text.data(), (size_t)(depth + i), -1};
        double start = seconds_now();
        if (rung == 0) stop_at(!run_plain(d, given, depth + i, &token, &error), error.text);
        else stop_at(!gpt2_hip.next(d, &step, &choice, &token, &error), error.text);
        if (i >= tokens / 5) times->seconds.push_back(seconds_now() - start);
    }
    stop_at(!gpt2_hip.fetch_logits(d, 0, logits.data(), &error), error.text);
    sampler_close(&sampler);
    return logits;
}

// The largest difference, relative to the largest logit.
static double difference(const std::vector<float>& a, const std::vector<float>& b) {
    double worst = 0, largest = 0;
    for (size_t i = 0; i < a.size(); i++) {
        worst = fmax(worst, fabs((double)a[i] - (double)b[i])), largest = fmax(largest, fabs((double)b[i]));
    }
    return worst / largest;
}

// Does every rung give what the one before gives?
static bool climb(const GPT2Model* model, DType dtype, double bandwidth, int most_tokens) {
    int maxT = model->config.max_seq_len;
    const int depths[DEPTHS] = {0, maxT / 2, maxT * 1000 / 1024};
    double bytes = (double)gpt2_bytes_per_token_in(dtype, &model->config);
    std::vector<float> before[DEPTHS];
    bool is_right = true;
    printf("%-13s %6s %10s %22s %8s %8s   %s\n", "rung", "depth", "us/token", "5 % to 95 %", "GB/s", "of copy",
           "against the rung before");
    for (int rung = 0; rung < NUM_RUNGS; rung++) {
        DeviceOptions options = {};
        Error error;
        options.max_seq_len = maxT, options.max_batch = 1, options.num_threads = 1, options.dtype = dtype;
        options.kernels = route_names[rung == 0 ? ROUTE_LAUNCHES : rung - 1];
        Device* d = gpt2_hip.open(model, &options, &error);
        if (d == NULL) {
            printf("%-13s does not run here: %s\n", rungs[rung], error.text);
            continue;
        }
        for (int i = 0; i < DEPTHS; i++) {
            Times times;
            std::vector<float> logits = run_rung(d, rung, depths[i], std::min(most_tokens, maxT - depths[i]), &times);
            double median = times.at(0.5), off = before[i].empty() ? 0 : difference(logits, before[i]);
            bool is_ok = rung == 0 || (rung == 1 ? off < 1e-3 : logits == before[i]);
            if (before[i].empty()) is_ok = true; // the rung before does not run here
            is_right &= is_ok;
            printf("%-13s %6d %10.1f %10.1f to %8.1f %8.0f %6.0f %%   ", rungs[rung], depths[i], 1e6 * median,
                   1e6 * times.at(0.05), 1e6 * times.at(0.95), 1e-9 * bytes / median, 100 * bytes / median / bandwidth);
            if (before[i].empty()) printf("-\n");
            else if (rung == 1) printf("%s, %.1e\n", is_ok ? "close" : "WRONG", off);
            else printf("%s\n", is_ok ? "the same bits" : "WRONG");
            before[i] = logits;
        }
        if (rung == NUM_RUNGS - 1 && d->max_blocks[1] == 0) printf("the persistent kernel was left on the way\n");
        gpt2_hip.close(d);
    }
    return is_right;
}

static void time_prompts(const GPT2Model* model, Device* device) {
    int maxT = model->config.max_seq_len, slot = 0;
    Error error;
    std::vector<int> tokens((size_t)maxT, 464 % model->config.vocab_size);
    std::vector<float> logits((size_t)model->config.vocab_size);
    for (int T : {maxT / 16, maxT / 2, maxT}) {
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
}

int main(int argc, char** argv) {
    const GPT2Config whole = {1024, 50257, 50304, 12, 12, 768}, part = {64, 301, 320, 2, 3, 96};
    bool is_small = false;
    GPT2Model model;
    Error error;
    DType dtype = DTYPE_BF16;
    for (int i = 1; i < argc; i++) {
        bool is_known = strcmp(argv[i], "small") == 0;
        is_small |= is_known;
        for (int d = 0; d < NUM_GPU_DTYPES; d++) {
            if (strcmp(argv[i], dtype_names[d]) == 0) dtype = (DType)d, is_known = true;
        }
        stop_at(!is_known, "usage: bench_gpu [f32|bf16|f16|q8] [small]");
    }
    stop_at(!reference_model(&model, is_small ? &part : &whole, dtype, 1, &error), error.text);
    DeviceOptions options = {};
    options.max_seq_len = model.config.max_seq_len, options.max_batch = 1, options.num_threads = 1,
    options.dtype = dtype;
    Device* device = gpt2_hip.open(&model, &options, &error);
    stop_at(device == NULL, error.text);
    double bandwidth = copy_bandwidth((size_t)(is_small ? 1 : 256) << 20);
    printf("%s\ncopies at %.0f GB/s, %.1f MB of weights a token\n", gpt2_hip.describe(device), 1e-9 * bandwidth,
           1e-6 * (double)gpt2_bytes_per_token_in(dtype, &model.config));
    measure_overheads(device->compute_units, is_small ? 20 : 1000);
    bool is_right = climb(&model, dtype, bandwidth, is_small ? 4 : 100);
    printf("the program takes: %s\n", route_names[device->route]);
    time_prompts(&model, device);
    gpt2_hip.close(device);
    reference_model_free(&model);
    stop_at(!is_right, "a rung gives other results than the one before");
    return 0;
}
