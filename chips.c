#include "chips.h"

// From AMD's and NVIDIA's data sheets: compute units x operations per clock and unit x boost clock. gfx1151's bandwidth
// is what others have measured, the other ones are the memory's nominal ones.
const Chip chips[NUM_CHIPS] = {
    {"gfx1151 (Radeon 8060S, 40 units)", 212, 40 * 512 * 2.9, 40 * 256 * 2.9},
    {"gfx1100 (RX 7900 XTX, 96 units)", 960, 96 * 512 * 2.5, 96 * 256 * 2.5},
    {"gfx942 (MI300X, 304 units)", 5300, 304 * 2048 * 2.1, 304 * 256 * 2.1},
    {"sm_90 (H200, 132 units)", 4800, 132 * 4096 * 1.83, 132 * 256 * 1.98},
};

// f16, bf16 and q8 weights go through the matrix instructions, the last widened.
Roof chip_rates(const Chip* chip, DType dtype) {
    double products = dtype == DTYPE_F32 ? chip->f32 : chip->matrix;
    return (Roof){.bandwidth = 1e9 * chip->bandwidth,
                  .f32 = 1e9 * chip->f32,
                  .products = 1e9 * products,
                  .attention = 1e9 * products};
}
