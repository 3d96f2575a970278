#include "profile.h"

#include <stdlib.h>

bool profile_open(Profile* profile, int num_lanes, Error* error) {
    *profile = (Profile){.num_lanes = num_lanes};
    profile->lanes = allocate((size_t)num_lanes, sizeof *profile->lanes, "profile", error);
    if (profile->lanes == NULL) return false;
    for (int i = 0; i < num_lanes; i++) profile->lanes[i] = (ProfileLane){0};
    return true;
}

void profile_close(Profile* profile) {
    for (int i = 0; profile->lanes != NULL && i < profile->num_lanes; i++) free(profile->lanes[i].calls);
    free(profile->lanes);
    *profile = (Profile){0};
}

void profile_reset(Profile* profile) {
    for (int i = 0; i < profile->num_lanes; i++) profile->lanes[i].num_calls = 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Recording.

void profile_start(Profile* profile, int lane) {
    profile->lanes[lane].latest = seconds_now();
    profile->lanes[lane].waited = 0;
}

void profile_waited(Profile* profile, int lane, double seconds) {
    profile->lanes[lane].waited += seconds;
}

static bool lane_grow(ProfileLane* lane) {
    size_t capacity = lane->capacity > 0 ? 2 * lane->capacity : 1024;
    ProfileCall* calls = realloc(lane->calls, capacity * sizeof *calls);
    if (calls == NULL) return false;
    lane->calls = calls;
    lane->capacity = capacity;
    return true;
}

void profile_add(Profile* profile, int lane_number, Operation operation, CallShape shape, double seconds,
                 double waited) {
    ProfileLane* lane = &profile->lanes[lane_number];
    if (lane->num_calls == lane->capacity && !lane_grow(lane)) {
        lane->is_lost = true;
        return;
    }
    lane->calls[lane->num_calls++] = (ProfileCall){operation, shape, seconds, waited};
}

void profile_end(Profile* profile, int lane_number, Operation operation, CallShape shape) {
    ProfileLane* lane = &profile->lanes[lane_number];
    double now = seconds_now();
    profile_add(profile, lane_number, operation, shape, now - lane->latest, lane->waited);
    lane->latest = now;
    lane->waited = 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Adding up.

// A device may have run fewer threads than there are lanes: those recorded nothing.
static bool check_lanes(const Profile* profile, Error* error) {
    for (int i = 0; i < profile->num_lanes; i++) {
        const ProfileLane* lane = &profile->lanes[i];
        if (lane->is_lost) return fail(error, "profile: no memory for the record of every operation; try fewer tokens");
        if (lane->num_calls > 0 && lane->num_calls != profile->lanes[0].num_calls) {
            return fail(error, "profile: thread %d ran %zu operations, thread 0 %zu", i, lane->num_calls,
                        profile->lanes[0].num_calls);
        }
    }
    return true;
}

static bool same_row(const ProfileCall* a, const ProfileCall* b) {
    return a->operation == b->operation && a->shape.B * a->shape.T == b->shape.B * b->shape.T;
}

// The row of all calls like call `first`. times is scratch.
static ProfileRow add_up(const Profile* profile, size_t first, const GPT2Config* config, DType dtype, double* times) {
    const ProfileLane* lanes = profile->lanes;
    const ProfileCall* like = &lanes[0].calls[first];
    ProfileRow row = {.operation = like->operation};
    double waited = 0, spent = 0; // of all lanes: threads start at different times, so one's wait is another's work
    for (size_t i = first; i < lanes[0].num_calls; i++) {
        const ProfileCall* call = &lanes[0].calls[i];
        if (!same_row(call, like)) continue;
        OperationCost cost = operation_cost(call->operation, config, dtype, call->shape);
        row.cost.M += cost.M, row.cost.N += cost.N, row.cost.K += cost.K;
        row.cost.flops += cost.flops, row.cost.bytes += cost.bytes;
        row.seconds += call->seconds;
        times[row.calls++] = call->seconds;
        for (int lane = 0; lane < profile->num_lanes; lane++) {
            if (lanes[lane].num_calls == 0) continue;
            waited += lanes[lane].calls[i].waited;
            spent += lanes[lane].calls[i].seconds;
        }
    }
    if (spent > 0) row.waited = row.seconds * waited / spent;
    double calls = (double)row.calls;
    row.cost.M /= calls, row.cost.N /= calls, row.cost.K /= calls;
    sort_numbers(times, row.calls);
    row.median = quantile(times, row.calls, 0.5);
    return row;
}

bool profile_rows(ProfileRow** rows, size_t* num_rows, const Profile* profile, const GPT2Config* config, DType dtype,
                  Error* error) {
    *rows = NULL;
    *num_rows = 0;
    if (!check_lanes(profile, error)) return false;
    const ProfileLane* lane = &profile->lanes[0];
    double* times = allocate(lane->num_calls, sizeof *times, "profile", error);
    ProfileRow* found = allocate(lane->num_calls, sizeof *found, "profile", error);
    const ProfileCall** firsts = allocate(lane->num_calls, sizeof *firsts, "profile", error); // of each row
    bool ok = times != NULL && found != NULL && firsts != NULL;
    for (size_t i = 0; ok && i < lane->num_calls; i++) {
        size_t r = 0;
        while (r < *num_rows && !same_row(firsts[r], &lane->calls[i])) r++;
        if (r < *num_rows) continue;
        firsts[r] = &lane->calls[i];
        found[(*num_rows)++] = add_up(profile, i, config, dtype, times);
    }
    free(times);
    free((void*)firsts);
    if (ok) *rows = found;
    else free(found);
    return ok;
}
