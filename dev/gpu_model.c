// make gpu-model: a MODEL of GPT-2 124M's time for a token and for a prompt on GPUs that are not here. Nothing in it
// was measured by this project. What it adds up:
//   bytes, operations   operation_cost() over the figures that the chips' makers publish (chips.c): the least time
//   launches            kernels of a pass, as gpt2_kernels.hip enqueues them, times what others saw between two of a graph
//   hand-overs          of the persistent kernel: stages that wait for the one before, times what others saw a wait take
// No cache, no tile at the edge and no clock below its boost is in it.
#include <stdio.h>

#include "../chips.h"

enum { PROMPT = 512, DECODE_STAGES = 5, PREFILL_KERNELS = 7 }; // the last two for each layer

// Seconds. Hazy Research saw 1.3 us between kernels of a graph on an H100, Kog 0.9 us for a barrier by polling on an
// MI300X.
static const double between_kernels = 1.3e-6, hand_over = 0.9e-6;

static void print_model(const GPT2Config* config, DType dtype) {
    int L = config->num_layers, stages = DECODE_STAGES * L + 1; // and the head
    int token_kernels = 1 + stages + 1;                         // embedding before, choice behind
    int prompt_kernels = 1 + PREFILL_KERNELS * L + 2;
    const CallShape token = {.B = 1, .T = 1, .position = PROMPT}, prompt = {.B = 1, .T = PROMPT, .position = 0};
    printf("\nMODEL, %s: %.1f MB of weights a token; a graph of %d kernels a token, or one kernel with %d hand-overs; "
           "%d kernels "
           "a prompt\n",
           dtype_names[dtype], 1e-6 * (double)gpt2_bytes_per_token_in(dtype, config), token_kernels, stages,
           prompt_kernels);
    printf("%-34s %10s %10s %12s %10s %10s %12s\n", "", "token us:", "graph", "one kernel", "512 ms:", "", "");
    printf("%-34s %10s %10s %12s %10s %10s %12s\n", "chip", "least", "", "", "least", "launched", "tokens/s");
    for (int i = 0; i < NUM_CHIPS; i++) {
        Roof rates = chip_rates(&chips[i], dtype);
        double token_least = pass_roof(config, dtype, token, &rates),
               prompt_least = pass_roof(config, dtype, prompt, &rates);
        double prompt_time = prompt_least + prompt_kernels * between_kernels;
        printf("%-34s %10.0f %10.0f %12.0f %10.3f %10.3f %12.0f\n", chips[i].name, 1e6 * token_least,
               1e6 * (token_least + token_kernels * between_kernels), 1e6 * (token_least + stages * hand_over),
               1e3 * prompt_least, 1e3 * prompt_time, PROMPT / prompt_time);
    }
}

int main(void) {
    const GPT2Config config = {1024, 50257, 50304, 12, 12, 768};
    puts(
        "What published bandwidths and rates would give GPT-2 124M, at depth 512. A model: nothing here was measured.");
    print_model(&config, DTYPE_BF16);
    print_model(&config, DTYPE_Q8);
    return 0;
}
