// Where the time of forward passes goes: devices record every operation, each thread on a lane of its own.
#ifndef PROFILE_H
#define PROFILE_H

#include "operations.h"

#ifdef __cplusplus
extern "C" {
#endif

// One operation as one thread saw it, from the end of the operation before it to its own end, the wait for the other
// threads included.
typedef struct {
    Operation operation;
    CallShape shape;
    double seconds;
    double waited; // of these, at barriers
} ProfileCall;

// What one thread records. Lanes are on cache lines of their own, so that recording disturbs no other thread.
typedef struct {
    ProfileCall* calls; // (capacity)
    size_t num_calls, capacity;
    double latest; // when the latest operation ended
    double waited; // at barriers since then
    bool is_lost;  // memory was short: the record is incomplete
} __attribute__((aligned(64))) ProfileLane;

// A recording. Every thread of a device records the same sequence of operations, so that call i is the same one on all
// lanes. A device without threads records on lane 0.
typedef struct {
    ProfileLane* lanes; // (num_lanes)
    int num_lanes;
} Profile;

// An empty recording with num_lanes lanes. False with the error filled in when memory is short. Release with
// profile_close(), which frees what was recorded and is harmless after that or after a failed profile_open().
bool profile_open(Profile* profile, int num_lanes, Error* error);
void profile_close(Profile* profile);

// Forgets what was recorded.
void profile_reset(Profile* profile);

// For devices, on the lane of the calling thread. profile_start() begins a run of operations, profile_waited() adds
// time at a barrier, profile_end() ends an operation; profile_add() records one that was timed elsewhere (a GPU's
// events).
void profile_start(Profile* profile, int lane);
void profile_waited(Profile* profile, int lane, double seconds);
void profile_end(Profile* profile, int lane, Operation operation, CallShape shape);
void profile_add(Profile* profile, int lane, Operation operation, CallShape shape, double seconds, double waited);

// The calls of one operation with one number of rows, added up.
typedef struct {
    Operation operation;
    size_t calls;
    OperationCost cost; // M, N, K on average; flops and bytes of all calls together
    double seconds;     // of all calls, on lane 0
    double median;      // seconds of a call
    double waited;      // the part of `seconds` at barriers, by its share of the time of all lanes together
} ProfileRow;

// Adds the recording up into rows, in the order of first occurrence. The caller frees *rows.
// False with the error filled in when memory is or was short, or the lanes do not agree.
bool profile_rows(ProfileRow** rows, size_t* num_rows, const Profile* profile, const GPT2Config* config, DType dtype,
                  Error* error);

#ifdef __cplusplus
}
#endif

#endif
