// HIP on a machine without a GPU: gpt2_kernels.hip compiled by g++ with -Idev/hip_host runs every kernel as it stands.
//
// One fiber per GPU thread, one OS thread per resident block. A fiber runs until it has to wait for others (a shuffle,
// __syncthreads, the end of the kernel) and then hands over to the next in the block's ring. Fibers run one after the
// other and, on request, in reverse order, so code that counts on lock step reads stale values and gives wrong numbers.
//   memory      hipMalloc places buffers against an unmapped page: a read or write past the end stops the program with
//               the name of the kernel, the block and the thread. New memory holds NaNs
//   ASan        sees the exact buffers, and each switch of fibers (-fsanitize=address)
//   TSan        sees each GPU thread as a thread of its own, ordered only by launches and barriers, so it finds a
//               missing __syncthreads and a race between blocks (-fsanitize=thread)
//   matrices    the matrix instructions of each family of chips are modelled in matrix_instructions.h
//   machine     HIP_HOST_CODE names the files of AMD machine code that is executed instead of the kernels
//               (../amd_code.h)
//   errors      hip_host::state() can take away the device, its memory, its code, a block of a cooperative launch, or
//               fail the n-th call
// A shuffle or barrier that not every thread of its group reaches is reported instead of hanging.
#ifndef HIP_HOST_RUNTIME_H
#define HIP_HOST_RUNTIME_H

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>
#include <type_traits>
#include <vector>

#include "../amd_code.h"

#ifndef __x86_64__
#include <ucontext.h>
#endif

#ifdef __clang__ // says what g++ says, in other words
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define HIP_HOST_RELEASE(tag) __tsan_release(tag)
#define HIP_HOST_ACQUIRE(tag) __tsan_acquire(tag)
#else
#define HIP_HOST_RELEASE(tag) (void)(tag)
#define HIP_HOST_ACQUIRE(tag) (void)(tag)
#endif
// The scheduler itself is invisible to TSan: what it shares between fibers must neither race nor order anything.
#define HIP_HOST_UNSEEN __attribute__((no_sanitize("thread"), noinline))

// ---------------------------------------------------------------------------------------------------------------------
// Words of the language

#define __global__
#define __device__
#define __host__
#define __shared__           static thread_local
#define __forceinline__      inline
#define __launch_bounds__(n) // the number of threads is checked nowhere else: see hip_host::launch

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct __attribute__((may_alias, aligned(8))) float2 {
    float x, y;
};
struct __attribute__((may_alias, aligned(16))) float4 {
    float x, y, z, w;
};
struct __attribute__((may_alias, aligned(16))) uint4 {
    unsigned x, y, z, w;
};
static inline float2 make_float2(float x, float y) {
    return {x, y};
}
static inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}

enum hipError_t {
    hipSuccess = 0,
    hipErrorInvalidValue = 1,
    hipErrorOutOfMemory = 2,
    hipErrorNotInitialized = 3,
    hipErrorInsufficientDriver = 35,
    hipErrorInvalidDeviceFunction = 98,
    hipErrorNoDevice = 100,
    hipErrorInvalidDevice = 101,
    hipErrorNoBinaryForGpu = 209,
    hipErrorSharedObjectInitFailed = 303,
    hipErrorLaunchFailure = 719,
    hipErrorCooperativeLaunchTooLarge = 720,
    hipErrorNotSupported = 801
};
enum hipMemcpyKind { hipMemcpyHostToDevice = 1, hipMemcpyDeviceToHost = 2, hipMemcpyDeviceToDevice = 3 };
enum hipStreamCaptureMode { hipStreamCaptureModeThreadLocal = 1 };
enum hipDeviceAttribute_t {
    hipDeviceAttributeMemoryClockRate,
    hipDeviceAttributeMemoryBusWidth,
    hipDeviceAttributeCooperativeLaunch
};
enum hipFuncAttribute { hipFuncAttributeMaxDynamicSharedMemorySize };
enum { hipHostMallocDefault = 0 };
struct hipDeviceProp_t {
    char name[256];
    size_t totalGlobalMem;
    int warpSize, multiProcessorCount;
    char gcnArchName[256];
};
struct hipGraph {
    std::vector<std::function<hipError_t()>> nodes;
};
struct hipStream {
    hipGraph* capturing;
};
struct hipEvent {
    std::chrono::steady_clock::time_point time;
};
typedef hipEvent* hipEvent_t;
typedef hipGraph* hipGraph_t;
typedef hipGraph* hipGraphExec_t;
typedef hipStream* hipStream_t;

namespace hip_host {

#ifdef __SANITIZE_THREAD__ // each fiber counts as a thread, and TSan's costs grow with their number
enum { COMPUTE_UNITS = 2 };
#else
enum { COMPUTE_UNITS = 4 };
#endif
enum { MAX_BLOCK_THREADS = 1024, MAX_SHARED_BYTES = 65536 };
const size_t STACK_BYTES = 128 * 1024;
const long MAX_WAIT_SECONDS = 100;

// A setting from the environment, for programs that are run as they are.
inline long from_environment(const char* name, long otherwise) {
    const char* value = getenv(name);
    return value != nullptr ? atol(value) : otherwise;
}

// The machine code that runs in place of the kernels as g++ compiled them: nullptr unless HIP_HOST_CODE names its
// files. With HIP_HOST_COUNT, what it has executed is printed at the end.
inline amd::Code* machine_code() {
    static amd::Code* code = getenv("HIP_HOST_CODE") != nullptr ? new amd::Code(getenv("HIP_HOST_CODE")) : nullptr;
    static bool is_counted = code != nullptr && getenv("HIP_HOST_COUNT") != nullptr &&
                             atexit([] { machine_code()->print_counts(stderr); }) == 0;
    (void)is_counted;
    return code;
}

// What a test sets and reads.
struct State {
    int wave_size = machine_code() != nullptr ? (int)machine_code()->wave_size()
                                              : (int)from_environment("HIP_HOST_WAVE", 32); // of the device: 32 or 64
    bool reverse = false; // run the threads of a block from the last to the first
    int num_devices = (int)from_environment("HIP_HOST_DEVICES", 1); // 0: hipGetDeviceCount gives hipErrorNoDevice
    int compute_units = COMPUTE_UNITS;                              // as the device says: at most COMPUTE_UNITS
    const char* arch = nullptr;                                     // of the device; without one: its wave size
    int memory_clock_khz = 0, memory_bus_bits = 0;                  // as the device says; 0: it does not know
    bool has_code = true;                                           // false: every launch gives hipErrorNoBinaryForGpu
    size_t memory = 1u << 30;                                       // of the device, bytes
    size_t memory_used = 0, memory_peak = 0;
    long calls = 0, launches = 0;                                  // since the start
    long fail_call = from_environment("HIP_HOST_FAIL_CALL", -1);   // the call with this number fails
    bool is_lost_then = from_environment("HIP_HOST_LOST", 0) != 0; // and all that follow it
    hipError_t fail_with = hipErrorLaunchFailure;
    hipError_t last_error = hipSuccess;
    long absent_block = from_environment("HIP_HOST_ABSENT", -1); // of cooperative launches: the block with this number
    bool is_late = false;                                        // runs when all others have ended, true, or not at all
    std::mutex mutex;                                            // of the allocations
    std::map<const char*, size_t> device, host;                  // live allocations and their bytes
};
inline State& state() {
    static State s;
    return s;
}

// ---------------------------------------------------------------------------------------------------------------------
// Fibers

struct Fiber {
#ifdef __x86_64__
    void* stack_pointer;
#else
    ucontext_t context;
#endif
    char* stack;
    size_t stack_bytes;
    void* asan_stack;
    void* tsan_fiber;
    unsigned index; // of the thread in its block
    dim3 thread;
    bool started;
};

// The place where the threads of one group meet for a shuffle or a barrier. Two generations are kept apart, so that a
// thread may go on to the next meeting before the last one has left this one.
struct Meeting {
    unsigned arrived, generation;
};

// What a lane brings to a matrix instruction: its numbers of the first factor, then of the second.
struct Operands {
    uint16_t numbers[32];
};

// One block in flight, and everything that its OS thread keeps from one block to the next.
struct Block {
    dim3 index, dim, grid;
    unsigned num_threads, live;
    Fiber fibers[MAX_BLOCK_THREADS];
    unsigned next[MAX_BLOCK_THREADS], previous[MAX_BLOCK_THREADS]; // the ring of live fibers
    Fiber main;
    Fiber* current;
    unsigned long looks, pauses; // in this launch
    time_t paused_since;
    unsigned idle; // failed attempts to go on since something last happened
    Meeting barrier;
    char barrier_tags[2], start_tag, end_tag; // what TSan orders barriers, the block's start and its end by
    Meeting groups[MAX_BLOCK_THREADS];        // by the group's first thread
    uint64_t values[2][MAX_BLOCK_THREADS];    // exchanged by shuffles
    Meeting waves[MAX_BLOCK_THREADS];         // the same for matrix instructions, whose groups are whole waves
    Operands operands[2][MAX_BLOCK_THREADS];
    char* shared; // dynamic shared memory
    const char* kernel;
    const std::function<void()>* body;
};
inline Block*& block() {
    static thread_local Block* b = nullptr;
    return b;
}

#ifdef __x86_64__
// Saves the callee-saved registers on this stack and takes them from the other (System V ABI).
__attribute__((naked, noinline, unused)) static void switch_stacks(void** /* save */, void* /* load */) {
    asm volatile("pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
                 "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
                 "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret");
}
#endif

HIP_HOST_UNSEEN inline void switch_to(Fiber* to) {
    Block* b = block();
    Fiber* from = b->current;
    if (from == to) return;
    b->current = to;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&from->asan_stack, to->stack, to->stack_bytes);
#endif
#ifdef __SANITIZE_THREAD__
    __tsan_switch_to_fiber(to->tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef __x86_64__
    switch_stacks(&from->stack_pointer, to->stack_pointer);
#else
    swapcontext(&from->context, &to->context);
#endif
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(from->asan_stack, nullptr, nullptr);
#endif
}

[[noreturn]] inline void give_up(const char* what) {
    Block* b = block();
    fprintf(stderr, "hip_host: %s: %s: block (%u,%u,%u), thread (%u,%u,%u)\n", b->kernel, what, b->index.x, b->index.y,
            b->index.z, b->current->thread.x, b->current->thread.y, b->current->thread.z);
    _exit(1);
}

HIP_HOST_UNSEEN inline void leave_ring() {
    Block* b = block();
    unsigned i = b->current->index;
    b->next[b->previous[i]] = b->next[i];
    b->previous[b->next[i]] = b->previous[i];
    b->live--;
    b->idle = 0;
    switch_to(b->live > 0 ? &b->fibers[b->next[i]] : &b->main);
}

// A fiber lives as long as its OS thread and runs one GPU thread after the other.
HIP_HOST_UNSEEN inline void fiber_main() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
    for (;;) {
        HIP_HOST_ACQUIRE(&block()->start_tag);
        (*block()->body)();
        HIP_HOST_RELEASE(&block()->end_tag);
        leave_ring();
    }
}

// Waits until `count` threads have come to the meeting. Returns the generation's parity.
HIP_HOST_UNSEEN inline unsigned meet(Meeting* meeting, unsigned count) {
    Block* b = block();
    unsigned generation = meeting->generation;
    b->idle = 0;
    if (++meeting->arrived == count) {
        meeting->arrived = 0;
        meeting->generation++;
        return generation & 1;
    }
    while (meeting->generation == generation) {
        if (++b->idle > 2 * b->live) give_up("a shuffle or __syncthreads that not every thread reaches");
        switch_to(&b->fibers[b->next[b->current->index]]);
    }
    return generation & 1;
}

HIP_HOST_UNSEEN inline uint64_t exchange(uint64_t value, unsigned source, unsigned width) {
    Block* b = block();
    unsigned self = b->current->index, first = self / width * width;
    Meeting* meeting = &b->groups[first];
    if (first + width > b->num_threads) give_up("a shuffle in a group that is not whole");
    b->values[meeting->generation & 1][self] = value;
    unsigned parity = meet(meeting, width);
    return b->values[parity][first + source];
}

// Lets other blocks go on. One that waits for minutes waits in vain.
HIP_HOST_UNSEEN inline void pause_block() {
    Block* b = block();
    if (b->pauses++ == 0) b->paused_since = time(nullptr);
    if (time(nullptr) - b->paused_since > MAX_WAIT_SECONDS) give_up("a wait for what nobody writes");
    std::this_thread::yield();
}

// Lets the other threads of the block go on, and from time to time other blocks.
HIP_HOST_UNSEEN inline void pause() {
    Block* b = block();
    if (++b->looks % 64 == 0) pause_block();
    b->idle = 0;
    switch_to(&b->fibers[b->next[b->current->index]]);
}

// What each lane of a wave brings to a matrix instruction, (width) of it: valid until this lane comes to the next one.
HIP_HOST_UNSEEN inline const Operands* gather(const Operands& mine, unsigned width) {
    Block* b = block();
    unsigned self = b->current->index, first = self / width * width;
    Meeting* meeting = &b->waves[first];
    if (first + width > b->num_threads) give_up("a matrix instruction in a wave that is not whole");
    b->operands[meeting->generation & 1][self] = mine;
    return &b->operands[meet(meeting, width)][first];
}

template <class T> T shuffle(T value, unsigned source, unsigned width) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "shuffles move up to 8 bytes");
    if (width > (unsigned)state().wave_size) give_up("a shuffle wider than the wave");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = exchange(bits, source % width, width);
    memcpy(&value, &bits, sizeof value);
    return value;
}

inline unsigned lane(unsigned width) {
    return block()->current->index % width;
}

inline void new_fiber(Fiber* fiber, unsigned index) {
    fiber->index = index;
    fiber->started = true;
    fiber->stack_bytes = STACK_BYTES;
    fiber->stack = (char*)mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fiber->stack == MAP_FAILED) perror("hip_host: stack of a fiber"), _exit(1);
#ifdef __SANITIZE_THREAD__
    fiber->tsan_fiber = __tsan_create_fiber(0);
#endif
#ifdef __x86_64__
    void** top = (void**)(void*)(fiber->stack + STACK_BYTES) - 1; // where a call would have left its return address
    *--top = (void*)fiber_main;
    fiber->stack_pointer = top - 6; // six registers
#else
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = STACK_BYTES;
    makecontext(&fiber->context, fiber_main, 0);
#endif
}

// ---------------------------------------------------------------------------------------------------------------------
// Launches

struct Launch {
    const char* kernel;
    dim3 grid, dim;
    size_t shared_bytes;
    std::function<void()> body;
    bool is_cooperative;
    const amd::Kernel* code;     // nullptr: the body is run
    std::vector<char> arguments; // of the code
};

inline Block* new_block() {
    Block* b = new Block();
    pthread_attr_t attributes;
    void* stack;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &stack, &b->main.stack_bytes);
    pthread_attr_destroy(&attributes);
    b->main.stack = (char*)stack;
#ifdef __SANITIZE_THREAD__
    b->main.tsan_fiber = __tsan_get_current_fiber();
#endif
    return b;
}

HIP_HOST_UNSEEN inline void run_block(const Launch& launch, size_t number) {
    Block* b = block();
    dim3 grid = launch.grid, dim = launch.dim;
    b->grid = grid, b->dim = dim, b->kernel = launch.kernel, b->body = &launch.body;
    b->index =
        dim3((unsigned)(number % grid.x), (unsigned)(number / grid.x % grid.y), (unsigned)(number / grid.x / grid.y));
    b->num_threads = b->live = dim.x * dim.y * dim.z;
    b->idle = 0, b->looks = 0, b->pauses = 0;
    b->current = &b->main;
    if (launch.code != nullptr) {
        amd::run_block(*launch.code, launch.arguments, {b->index.x, b->index.y, b->index.z}, {grid.x, grid.y, grid.z},
                       {dim.x, dim.y, dim.z}, launch.shared_bytes, state().reverse, pause_block);
        return;
    }
    b->shared = launch.shared_bytes > 0 ? (char*)malloc(launch.shared_bytes) : nullptr;
    if (b->shared != nullptr) memset(b->shared, 0xff, launch.shared_bytes);
    unsigned n = b->num_threads;
    for (unsigned i = 0; i < n; i++) {
        if (!b->fibers[i].started) new_fiber(&b->fibers[i], i);
        b->fibers[i].thread = dim3(i % dim.x, i / dim.x % dim.y, i / dim.x / dim.y);
        b->next[i] = state().reverse ? (i + n - 1) % n : (i + 1) % n;
        b->previous[i] = state().reverse ? (i + 1) % n : (i + n - 1) % n;
    }
    HIP_HOST_RELEASE(&b->start_tag);
    switch_to(&b->fibers[state().reverse ? n - 1 : 0]);
    HIP_HOST_ACQUIRE(&b->end_tag);
    if (b->barrier.arrived > 0) give_up("__syncthreads that not every thread reaches");
    free(b->shared);
}

inline void report_fault(int, siginfo_t* info, void*) {
    if (block() != nullptr) {
        fprintf(stderr, "hip_host: address %p is in no buffer\n%s\n", info->si_addr,
                amd::current_instruction().c_str());
        give_up("a read or write past the end of a buffer");
    }
    signal(SIGSEGV, SIG_DFL);
}

// The compute units: OS threads that take the blocks of a launch one after the other.
class Pool {
  public:
    Pool() {
#ifndef __SANITIZE_ADDRESS__ // which reports better
        struct sigaction action = {};
        action.sa_sigaction = report_fault;
        action.sa_flags = SA_SIGINFO;
        sigaction(SIGSEGV, &action, nullptr);
#endif
        for (int i = 0; i < COMPUTE_UNITS; i++) threads.emplace_back([this] { work(); });
    }
    ~Pool() {
        {
            std::lock_guard<std::mutex> lock(mutex);
            stop = true;
        }
        wake.notify_all();
        for (std::thread& thread : threads) thread.join();
    }
    void run(const Launch& launch) {
        std::unique_lock<std::mutex> lock(mutex);
        job = &launch;
        num_blocks = (size_t)launch.grid.x * launch.grid.y * launch.grid.z;
        taken = finished = 0;
        wake.notify_all();
        done.wait(lock, [this] { return finished == num_blocks; });
        job = nullptr;
    }

  private:
    void work() {
        block() = new_block();
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            wake.wait(lock, [this] { return stop || (job != nullptr && taken < num_blocks); });
            if (stop) break;
            const Launch* launch = job;
            size_t number = taken++;
            bool is_absent = launch->is_cooperative && (long)number == state().absent_block;
            if (is_absent) done.wait(lock, [this] { return finished == num_blocks - 1; });
            lock.unlock();
            if (!is_absent || state().is_late) run_block(*launch, number);
            lock.lock();
            if (++finished + 1 >= num_blocks) done.notify_all();
        }
        lock.unlock();
        for (Fiber& fiber : block()->fibers) {
            if (!fiber.started) continue;
#ifdef __SANITIZE_THREAD__
            __tsan_destroy_fiber(fiber.tsan_fiber);
#endif
            munmap(fiber.stack, STACK_BYTES);
        }
        delete block();
    }
    std::mutex mutex;
    std::condition_variable wake, done;
    std::vector<std::thread> threads;
    const Launch* job = nullptr;
    size_t num_blocks = 0, taken = 0, finished = 0;
    bool stop = false;
};
inline Pool& pool() {
    static Pool p;
    return p;
}

// Creates the file that HIP_HOST_FAIL_MARK names, if it does: a program that looks on learns that the call was reached.
inline void leave_mark() {
    const char* mark = getenv("HIP_HOST_FAIL_MARK");
    FILE* file = mark != nullptr ? fopen(mark, "w") : nullptr;
    if (file != nullptr) fclose(file);
}

// Every call of the API begins here: it is counted, and fails if a test said so.
inline hipError_t call() {
    State& s = state();
    long number = s.calls++;
    if (number == s.fail_call) leave_mark();
    bool fails = number == s.fail_call || (s.is_lost_then && s.fail_call >= 0 && number > s.fail_call);
    return fails ? s.last_error = s.fail_with : hipSuccess;
}

inline hipError_t enqueue(hipStream_t stream, std::function<hipError_t()> work) {
    if (stream != nullptr && stream->capturing != nullptr) {
        stream->capturing->nodes.push_back(work);
        return hipSuccess;
    }
    return work();
}

// The allocation that an address lies in, as bytes from the address to its end; 0 when it lies in none.
inline size_t room(const std::map<const char*, size_t>& allocations, const void* address) {
    std::lock_guard<std::mutex> lock(state().mutex);
    auto after = allocations.upper_bound((const char*)address);
    if (after == allocations.begin()) return 0;
    auto at = std::prev(after);
    size_t offset = (size_t)((const char*)address - at->first);
    return offset < at->second ? at->second - offset : 0;
}

// A kernel may be handed pointers to device memory only. (What a struct among the arguments holds is not looked at.)
template <class T> bool argument_ok(const T&) {
    return true;
}
template <class T> bool argument_ok(T* const& pointer) {
    return pointer == nullptr || room(state().device, (const void*)pointer) > 0;
}

inline hipError_t launch_check(const Launch& launch) {
    State& s = state();
    hipError_t status = call();
    if (status != hipSuccess) return status;
    size_t threads = (size_t)launch.dim.x * launch.dim.y * launch.dim.z;
    size_t blocks = (size_t)launch.grid.x * launch.grid.y * launch.grid.z;
    if (!s.has_code) return s.last_error = hipErrorNoBinaryForGpu;
    if (threads == 0 || threads > MAX_BLOCK_THREADS || blocks == 0 || launch.grid.y > 65535 || launch.grid.z > 65535 ||
        launch.shared_bytes > MAX_SHARED_BYTES) {
        return s.last_error = hipErrorInvalidValue;
    }
    return hipSuccess;
}

// The machine code of a kernel of this program. Kernels that are compiled for each family of chips here have the one
// family of the chip there.
inline const amd::Kernel* code_of(void* kernel) {
    Dl_info info;
    if (dladdr(kernel, &info) == 0 || info.dli_sname == nullptr) return nullptr;
    std::string symbol = info.dli_sname;
    for (const char* shape : {"6Wmma11", "6Wmma12", "4Mfma"}) {
        size_t at = symbol.find(shape);
        if (at != std::string::npos) symbol.replace(at, strlen(shape), "11NativeShape");
    }
    return machine_code()->kernel(symbol);
}

// Appends an argument where C would place it in a struct.
template <class T> void add_argument(std::vector<char>* bytes, const T& value) {
    bytes->resize((bytes->size() + alignof(T) - 1) / alignof(T) * alignof(T));
    bytes->insert(bytes->end(), (const char*)&value, (const char*)&value + sizeof value);
}

template <class... P, class... A>
hipError_t launch(const char* name, bool is_cooperative, dim3 grid, dim3 dim, size_t shared_bytes, hipStream_t stream,
                  void (*kernel)(P...), A... arguments) {
    std::tuple<P...> values(arguments...);
    Launch launch = {name, grid, dim, shared_bytes, [=] { std::apply(kernel, values); }, is_cooperative, nullptr, {}};
    hipError_t status = launch_check(launch);
    if (status != hipSuccess) return status;
    if (machine_code() != nullptr) {
        launch.code = code_of((void*)kernel);
        if (launch.code == nullptr) {
            fprintf(stderr, "hip_host: %s has no machine code\n", name);
            return state().last_error = hipErrorInvalidDeviceFunction;
        }
        std::apply([&launch](const P&... each) { (add_argument(&launch.arguments, each), ...); }, values);
    }
    if (!std::apply([](const P&... each) { return (argument_ok(each) && ...); }, values)) {
        fprintf(stderr, "hip_host: %s was handed a pointer to host memory\n", name);
        return state().last_error = hipErrorLaunchFailure;
    }
    return enqueue(stream, [=] {
        state().launches++;
        pool().run(launch);
        return hipSuccess;
    });
}

template <class... P, size_t... I> std::tuple<P...> unpack_arguments(void** arguments, std::index_sequence<I...>) {
    return std::tuple<P...>(*(typename std::remove_reference<P>::type*)arguments[I]...);
}

// Device memory ends at a page that may not be touched (ASan has its own red zones), and is full of NaNs at first.
inline char* guarded_bytes(size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
    char* memory = (char*)aligned_alloc(16, (bytes + 15) / 16 * 16);
    ASAN_POISON_MEMORY_REGION(memory + bytes, (bytes + 15) / 16 * 16 - bytes);
#else
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (bytes + page - 1) / page * page;
    char* map = (char*)mmap(nullptr, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED || mprotect(map + whole, page, PROT_NONE) != 0) return nullptr;
    char* memory = map + (whole - (bytes + 15) / 16 * 16);
#endif
    memset(memory, 0xff, bytes);
    return memory;
}

inline void guarded_free(char* memory, size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
    (void)bytes;
    free(memory);
#else
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (bytes + page - 1) / page * page;
    munmap(memory + (bytes + 15) / 16 * 16 - whole, whole + page);
#endif
}

inline hipError_t allocate(std::map<const char*, size_t>& allocations, void** memory, size_t bytes) {
    if (bytes == 0) bytes = 1;
    char* guarded = guarded_bytes(bytes);
    if (guarded == nullptr) return hipErrorOutOfMemory;
    std::lock_guard<std::mutex> lock(state().mutex);
    allocations[guarded] = bytes;
    *memory = guarded;
    return hipSuccess;
}

inline hipError_t release(std::map<const char*, size_t>& allocations, void* memory) {
    if (memory == nullptr) return hipSuccess;
    std::lock_guard<std::mutex> lock(state().mutex);
    auto at = allocations.find((const char*)memory);
    if (at == allocations.end()) return hipErrorInvalidValue;
    if (&allocations == &state().device) state().memory_used -= at->second;
    guarded_free((char*)memory, at->second);
    allocations.erase(at);
    return hipSuccess;
}

// Are the ends of a copy where its kind says?
inline bool copy_ok(void* to, const void* from, size_t bytes, hipMemcpyKind kind) {
    State& s = state();
    bool to_device = kind != hipMemcpyDeviceToHost, from_device = kind != hipMemcpyHostToDevice;
    return (to_device ? room(s.device, to) >= bytes : room(s.device, to) == 0) &&
           (from_device ? room(s.device, from) >= bytes : room(s.device, from) == 0);
}

} // namespace hip_host

#include "matrix_instructions.h"

// ---------------------------------------------------------------------------------------------------------------------
// Names that kernels use

#define threadIdx                      (hip_host::block()->current->thread)
#define blockIdx                       (hip_host::block()->index)
#define blockDim                       (hip_host::block()->dim)
#define gridDim                        (hip_host::block()->grid)
#define HIP_DYNAMIC_SHARED(type, name) type* name = (type*)(void*)hip_host::block()->shared;

static const struct {
    operator int() const { return hip_host::state().wave_size; }
} warpSize __attribute__((unused));

inline void __syncthreads() {
    hip_host::Block* b = hip_host::block();
    char* tag = &b->barrier_tags[b->barrier.generation & 1];
    HIP_HOST_RELEASE(tag);
    hip_host::meet(&b->barrier, b->num_threads);
    HIP_HOST_ACQUIRE(tag);
}
inline void __threadfence() {
    std::atomic_thread_fence(std::memory_order_seq_cst);
}
template <class T> T __shfl(T value, int source, int width) {
    return hip_host::shuffle(value, (unsigned)source, (unsigned)width);
}
template <class T> T __shfl_xor(T value, int mask, int width) {
    return hip_host::shuffle(value, hip_host::lane((unsigned)width) ^ (unsigned)mask, (unsigned)width);
}
template <class T> T atomicAdd(T* address, T value) {
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
template <class T> T atomicMax(T* address, T value) {
    T before = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (before < value &&
           !__atomic_compare_exchange_n(address, &before, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return before;
}

// What a thread calls between two looks at memory that another block will write.
inline void __nanosleep(unsigned) {
    hip_host::pause();
}
using std::max;
using std::min;

// ---------------------------------------------------------------------------------------------------------------------
// Names that host code uses

#define hipLaunchKernelGGL(kernel, grid, dim, shared_bytes, stream, ...)                                               \
    (void)hip_host::launch(#kernel, false, grid, dim, shared_bytes, stream, kernel, __VA_ARGS__)

// All blocks run at the same time, one on each compute unit, so they may wait for each other.
template <class... P>
hipError_t hipLaunchCooperativeKernel(void (*kernel)(P...), dim3 grid, dim3 dim, void** arguments,
                                      unsigned shared_bytes, hipStream_t stream) {
    if ((size_t)grid.x * grid.y * grid.z > hip_host::COMPUTE_UNITS) return hipErrorCooperativeLaunchTooLarge;
    std::tuple<P...> values = hip_host::unpack_arguments<P...>(arguments, std::index_sequence_for<P...>());
    return std::apply(
        [&](P... each) {
            return hip_host::launch("cooperative kernel", true, grid, dim, shared_bytes, stream, kernel, each...);
        },
        values);
}
inline hipError_t hipFuncSetAttribute(const void*, hipFuncAttribute, int bytes) {
    return bytes <= hip_host::MAX_SHARED_BYTES ? hip_host::call() : hipErrorInvalidValue;
}
template <class F> hipError_t hipOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, F, int, size_t) {
    *blocks = 1;
    return hip_host::call();
}

inline const char* hipGetErrorString(hipError_t status) {
    switch (status) {
    case hipSuccess: return "no error";
    case hipErrorOutOfMemory: return "out of memory";
    case hipErrorNoDevice: return "no ROCm-capable device is detected";
    case hipErrorNoBinaryForGpu: return "no kernel image is available for execution on the device";
    case hipErrorLaunchFailure: return "unspecified launch failure";
    default: return "error of the host harness";
    }
}
inline hipError_t hipGetLastError() {
    hipError_t status = hip_host::state().last_error;
    hip_host::state().last_error = hipSuccess;
    return status;
}
inline hipError_t hipGetDeviceCount(int* count) {
    hipError_t status = hip_host::call();
    *count = status == hipSuccess ? hip_host::state().num_devices : 0;
    return status == hipSuccess && *count == 0 ? hipErrorNoDevice : status;
}
inline hipError_t hipSetDevice(int device) {
    if (device < 0 || device >= hip_host::state().num_devices) return hipErrorInvalidDevice;
    return hip_host::call();
}
inline hipError_t hipGetDeviceProperties(hipDeviceProp_t* properties, int) {
    *properties = hipDeviceProp_t();
    snprintf(properties->name, sizeof properties->name, "host harness");
    const hip_host::State& s = hip_host::state();
    std::string arch = "wave" + std::to_string(s.wave_size);
    if (hip_host::machine_code() != nullptr) arch = hip_host::machine_code()->chip();
    if (s.arch != nullptr) arch = s.arch;
    snprintf(properties->gcnArchName, sizeof properties->gcnArchName, "%s", arch.c_str());
    properties->totalGlobalMem = s.memory;
    properties->warpSize = s.wave_size;
    properties->multiProcessorCount = s.compute_units;
    return hip_host::call();
}
inline hipError_t hipDeviceGetAttribute(int* value, hipDeviceAttribute_t attribute, int) {
    const hip_host::State& s = hip_host::state();
    *value = attribute == hipDeviceAttributeCooperativeLaunch;
    if (attribute == hipDeviceAttributeMemoryClockRate) *value = s.memory_clock_khz;
    if (attribute == hipDeviceAttributeMemoryBusWidth) *value = s.memory_bus_bits;
    return hip_host::call();
}
inline hipError_t hipMemGetInfo(size_t* free_bytes, size_t* total) {
    *total = hip_host::state().memory;
    *free_bytes = *total - hip_host::state().memory_used;
    return hip_host::call();
}
inline hipError_t hipMalloc(void** memory, size_t bytes) {
    hip_host::State& s = hip_host::state();
    hipError_t status = hip_host::call();
    if (status != hipSuccess) return status;
    if (bytes > s.memory - s.memory_used) return hipErrorOutOfMemory;
    status = hip_host::allocate(s.device, memory, bytes);
    if (status == hipSuccess) s.memory_used += s.device[(const char*)*memory];
    s.memory_peak = std::max(s.memory_peak, s.memory_used);
    return status;
}
inline hipError_t hipFree(void* memory) {
    return hip_host::release(hip_host::state().device, memory);
}
inline hipError_t hipHostMalloc(void** memory, size_t bytes, unsigned) {
    hipError_t status = hip_host::call();
    return status != hipSuccess ? status : hip_host::allocate(hip_host::state().host, memory, bytes);
}
inline hipError_t hipHostFree(void* memory) {
    return hip_host::release(hip_host::state().host, memory);
}
inline hipError_t hipMemcpyAsync(void* to, const void* from, size_t bytes, hipMemcpyKind kind, hipStream_t stream) {
    hipError_t status = hip_host::call();
    if (status != hipSuccess) return status;
    if (!hip_host::copy_ok(to, from, bytes, kind)) return hipErrorInvalidValue;
    return hip_host::enqueue(stream, [=] {
        memcpy(to, from, bytes);
        return hipSuccess;
    });
}
inline hipError_t hipMemcpy(void* to, const void* from, size_t bytes, hipMemcpyKind kind) {
    return hipMemcpyAsync(to, from, bytes, kind, nullptr);
}
inline hipError_t hipMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                                   size_t height, hipMemcpyKind kind, hipStream_t stream) {
    hipError_t status = hip_host::call();
    if (status != hipSuccess) return status;
    if (width > to_pitch || width > from_pitch) return hipErrorInvalidValue;
    for (size_t row = 0; row < height; row++) { // the end of the last row is the end of the copy
        if (!hip_host::copy_ok((char*)to + row * to_pitch, (const char*)from + row * from_pitch, width, kind)) {
            return hipErrorInvalidValue;
        }
    }
    return hip_host::enqueue(stream, [=] {
        for (size_t row = 0; row < height; row++) {
            memcpy((char*)to + row * to_pitch, (const char*)from + row * from_pitch, width);
        }
        return hipSuccess;
    });
}
inline hipError_t hipMemset(void* memory, int value, size_t bytes) {
    hipError_t status = hip_host::call();
    if (status != hipSuccess) return status;
    if (hip_host::room(hip_host::state().device, memory) < bytes) return hipErrorInvalidValue;
    memset(memory, value, bytes);
    return hipSuccess;
}
inline hipError_t hipStreamCreate(hipStream_t* stream) {
    hipError_t status = hip_host::call();
    if (status == hipSuccess) *stream = new hipStream();
    return status;
}
inline hipError_t hipStreamDestroy(hipStream_t stream) {
    delete stream;
    return hipSuccess;
}
inline hipError_t hipStreamSynchronize(hipStream_t) {
    return hip_host::call();
}
// What is enqueued runs at once, so an event is the time at which it is recorded.
inline hipError_t hipEventCreate(hipEvent_t* event) {
    hipError_t status = hip_host::call();
    if (status == hipSuccess) *event = new hipEvent();
    return status;
}
inline hipError_t hipEventDestroy(hipEvent_t event) {
    delete event;
    return hipSuccess;
}
inline hipError_t hipEventRecord(hipEvent_t event, hipStream_t stream) {
    hipError_t status = hip_host::call();
    return status != hipSuccess ? status : hip_host::enqueue(stream, [=] {
        event->time = std::chrono::steady_clock::now();
        return hipSuccess;
    });
}
inline hipError_t hipEventElapsedTime(float* milliseconds, hipEvent_t from, hipEvent_t to) {
    *milliseconds = std::chrono::duration<float, std::milli>(to->time - from->time).count();
    return hip_host::call();
}
inline hipError_t hipStreamBeginCapture(hipStream_t stream, hipStreamCaptureMode) {
    hipError_t status = hip_host::call();
    if (status == hipSuccess) stream->capturing = new hipGraph();
    return status;
}
inline hipError_t hipStreamEndCapture(hipStream_t stream, hipGraph_t* graph) {
    *graph = stream->capturing;
    stream->capturing = nullptr;
    hipError_t status = hip_host::call();
    if (status != hipSuccess) {
        delete *graph;
        *graph = nullptr;
    }
    return status;
}
inline hipError_t hipGraphInstantiate(hipGraphExec_t* executable, hipGraph_t graph, void*, char*, size_t) {
    hipError_t status = hip_host::call();
    if (status == hipSuccess) *executable = new hipGraph(*graph);
    return status;
}
inline hipError_t hipGraphLaunch(hipGraphExec_t executable, hipStream_t) {
    hipError_t status = hip_host::call();
    for (size_t i = 0; i < executable->nodes.size() && status == hipSuccess; i++) status = executable->nodes[i]();
    return status;
}
inline hipError_t hipGraphDestroy(hipGraph_t graph) {
    delete graph;
    return hipSuccess;
}
inline hipError_t hipGraphExecDestroy(hipGraphExec_t executable) {
    delete executable;
    return hipSuccess;
}

#endif
