#include "operation_table.h"

#include "print.h"

double row_roof(const ProfileRow* row, const Roof* rates) {
    return operation_roof(row->operation, &row->cost, rates);
}

size_t estimate_rows(ProfileRow rows[MAX_PASS_PARTS], const GPT2Config* config, DType dtype, CallShape pass,
                     const Roof* rates) {
    PassPart parts[MAX_PASS_PARTS];
    int n = pass_parts(parts, config, pass);
    for (int i = 0; i < n; i++) {
        const PassPart* part = &parts[i];
        ProfileRow* row = &rows[i];
        *row = (ProfileRow){.operation = part->operation, .calls = (size_t)part->calls};
        row->cost = operation_cost(part->operation, config, dtype, part->shape);
        row->cost.flops *= part->calls;
        row->cost.bytes *= part->calls;
        row->seconds = row_roof(row, rates);
        row->median = row->seconds / part->calls;
    }
    return (size_t)n;
}

double phase_operations(const Phase* phase) {
    double sum = 0;
    for (size_t r = 0; r < phase->num_rows; r++) sum += phase->rows[r].seconds;
    return sum;
}

double phase_roof(const Phase* phase, const Roof* rates) {
    double sum = 0;
    for (size_t r = 0; r < phase->num_rows; r++) sum += row_roof(&phase->rows[r], rates);
    return sum;
}

// ---------------------------------------------------------------------------------------------------------------------
// Text.

void print_machine(FILE* out, const Roof* rates) {
    fprintf(out, "roof: %.1f GB/s", 1e-9 * rates->bandwidth);
    if (rates->working_set > 0) fprintf(out, ", reading %.1f MB over and over", 1e-6 * (double)rates->working_set);
    fprintf(out, "; %.0f GFLOP/s in products, %.0f GFLOP/s in f32\n", 1e-9 * rates->products, 1e-9 * rates->f32);
}

static void print_shape(FILE* out, const OperationCost* cost) {
    char text[40];
    if (cost->K > 0) snprintf(text, sizeof text, "%.0f x %.0f x %.0f", cost->M, cost->N, cost->K);
    else snprintf(text, sizeof text, "%.0f", cost->M);
    fprintf(out, "  %-18s", text);
}

static void print_row(FILE* out, const ProfileRow* row, double wall, const Roof* rates, bool is_measured) {
    const OperationCost* cost = &row->cost;
    fprintf(out, "%-12s %6zu", operation_name(row->operation), row->calls);
    print_shape(out, cost);
    fprintf(out, " %6.1f %%", 100 * row->seconds / wall);
    fprintf(out, " %10.1f", 1e6 * (is_measured ? row->median : row->seconds / (double)row->calls));
    fprintf(out, " %8.1f %7.1f %8.3f %8.1f", 1e-9 * cost->flops / row->seconds, 1e-9 * cost->bytes / row->seconds,
            1e-6 * cost->bytes / (double)row->calls, cost->flops / cost->bytes);
    if (is_measured) {
        fprintf(out, " %5.0f %% %5.1f %%", 100 * row_roof(row, rates) / row->seconds, 100 * row->waited / row->seconds);
    }
    fprintf(out, "  %s\n", is_bound_by_memory(row->operation, &row->cost, rates) ? "memory" : "arithmetic");
}

static void print_total(FILE* out, const char* name, double seconds, const Phase* phase) {
    fprintf(out, "%-40s %6.1f %% %10.1f us\n", name, 100 * seconds / phase->wall, 1e6 * seconds / phase->tokens);
}

void print_phase(FILE* out, const Phase* phase, const Roof* rates, bool is_measured) {
    double operations = phase_operations(phase);
    fprintf(out, "\n%s: %d token%s, %.3f ms, %.1f tokens/s\n", phase->name, phase->tokens,
            phase->tokens == 1 ? "" : "s", 1e3 * phase->wall, phase->tokens / phase->wall);
    fprintf(out, "%-12s %6s  %-18s %8s %10s %8s %7s %8s %8s", "operation", "calls", "M x N x K", "share",
            is_measured ? "median us" : "us", "GFLOP/s", "GB/s", "MB", "FLOP/B");
    if (is_measured) fprintf(out, " %7s %7s", "of roof", "waiting");
    fprintf(out, "  bound by\n");
    for (size_t r = 0; r < phase->num_rows; r++) print_row(out, &phase->rows[r], phase->wall, rates, is_measured);
    print_total(out, "all operations, per token", operations, phase);
    if (!is_measured) return;
    print_total(out, "overhead, per token", phase->wall - operations, phase);
    print_total(out, "wall time, per token", phase->wall, phase);
    print_total(out, "wall time in a run without the profile", phase->unprofiled, phase);
    fprintf(out, "%-40s %6.1f %%\n", "the roof's time / wall time", 100 * phase_roof(phase, rates) / phase->wall);
}

// ---------------------------------------------------------------------------------------------------------------------
// JSON.

void json_machine(FILE* out, const Roof* rates) {
    fputs("\"machine\": {", out);
    json_number(out, "gb_per_second", 1e-9 * rates->bandwidth, ", ");
    if (rates->working_set > 0) fprintf(out, "\"working_set\": %zu, ", rates->working_set);
    json_number(out, "products_gflop_per_second", 1e-9 * rates->products, ", ");
    json_number(out, "f32_gflop_per_second", 1e-9 * rates->f32, "}");
}

static void json_row(FILE* out, const ProfileRow* row, double wall, const Roof* rates) {
    const OperationCost* cost = &row->cost;
    fprintf(out, "{\"operation\": \"%s\", \"calls\": %zu, ", operation_name(row->operation), row->calls);
    json_number(out, "M", cost->M, ", ");
    json_number(out, "N", cost->N, ", ");
    json_number(out, "K", cost->K, ",\n       ");
    json_number(out, "ms", 1e3 * row->seconds, ", ");
    json_number(out, "share", row->seconds / wall, ", ");
    json_number(out, "median_us", 1e6 * row->median, ", ");
    json_number(out, "wait_ms", 1e3 * row->waited, ", ");
    json_number(out, "flops", cost->flops, ", ");
    json_number(out, "bytes", cost->bytes, ",\n       ");
    json_number(out, "gflop_per_second", 1e-9 * cost->flops / row->seconds, ", ");
    json_number(out, "gb_per_second", 1e-9 * cost->bytes / row->seconds, ", ");
    json_number(out, "intensity", cost->flops / cost->bytes, ", ");
    json_number(out, "roof_ms", 1e3 * row_roof(row, rates), ", ");
    json_number(out, "of_roof", row_roof(row, rates) / row->seconds, ", ");
    fprintf(out, "\"bound\": \"%s\"}", is_bound_by_memory(row->operation, &row->cost, rates) ? "memory" : "arithmetic");
}

void json_phase(FILE* out, const Phase* phase, const Roof* rates) {
    double operations = phase_operations(phase);
    fprintf(out, "{\"name\": \"%s\", \"tokens\": %d, ", phase->name, phase->tokens);
    json_number(out, "wall_ms", 1e3 * phase->wall, ", ");
    json_number(out, "operations_ms", 1e3 * operations, ", ");
    json_number(out, "overhead_ms", 1e3 * (phase->wall - operations), ", ");
    if (phase->unprofiled > 0) json_number(out, "unprofiled_ms", 1e3 * phase->unprofiled, ", ");
    json_number(out, "roof_ms", 1e3 * phase_roof(phase, rates), ",\n     \"operations\": [");
    for (size_t r = 0; r < phase->num_rows; r++) {
        fputs(r == 0 ? "\n      " : ",\n      ", out);
        json_row(out, &phase->rows[r], phase->wall, rates);
    }
    fputs("]}", out);
}
