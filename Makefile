# make            builds ./gpt2 and says what it found
# make run        writes a paragraph with the small model of the repository
# make test       checks everything that needs no download
# make help       lists the other targets

ifeq ($(origin CC),default)
CC := gcc
endif
PREFIX ?= /usr/local
# not from the environment, where these names may mean something else
BUILD  := build
GPT2   := gpt2
Q      := $(if $(V),,@)

MAKEFLAGS += --no-builtin-rules
# All processors, unless -j says otherwise or what is built would be removed at the same time.
ifeq ($(filter -j%,$(MAKEFLAGS))$(filter clean,$(MAKECMDGOALS)),)
MAKEFLAGS += -j$(shell nproc 2>/dev/null || echo 1)
endif
.DEFAULT_GOAL := all

# ---------------------------------------------------------------------------------------------------------------------
# what is here

# "yes" when the compiler builds a program with these flags that includes this header
probe = $(shell printf '$(HASH)include <$(1)>\nint main(void) { return 0; }\n' | \
          $(CC) -x c - -o /dev/null $(2) 2>/dev/null && echo yes)
HASH := \#

MACHINE := $(shell $(CC) -dumpmachine)
ARCH    := $(firstword $(subst -, ,$(MACHINE)))
# A setting of the user's is what "off" says.
off_by_user = $(if $(filter command% environment,$(origin $(1))),off by $(1)=$($(1)))
ifndef OPENMP
OPENMP  := $(if $(call probe,omp.h,-fopenmp),1,0)
endif
ifndef JANSSON
JANSSON := $(if $(call probe,jansson.h,$(shell pkg-config --cflags --libs jansson 2>/dev/null || echo -ljansson)),1,0)
endif

# ---------------------------------------------------------------------------------------------------------------------
# flags

# with sanitizers -O3 takes the compiler longer than all tests take
OPTIMIZE := $(if $(SAN),-O1,-O3) -fno-math-errno -fno-trapping-math
CFLAGS   ?= $(OPTIMIZE) -g
# A warning ends the build with the compilers that this is checked with, gcc 12 and clang 14; another may know new ones.
compiler_is = $(filter $(2),$(shell echo __clang_major__-__GNUC__ | $(1) -E -P -x c - 2>/dev/null | tr -d ' '))
WERROR   := $(if $(call compiler_is,$(CC),__clang_major__-12 14-4),-Werror)
ALL_CFLAGS = -std=gnu11 -D_GNU_SOURCE -Wall -Wextra $(WERROR) $(CFLAGS)
LIBS     := -lm
ifeq ($(OPENMP),1)
ALL_CFLAGS += -fopenmp
else
ALL_CFLAGS += -Wno-unknown-pragmas
endif
ifeq ($(JANSSON),1)
ALL_CFLAGS += -DHAVE_JANSSON $(shell pkg-config --cflags jansson 2>/dev/null)
LIBS       += $(shell pkg-config --libs jansson 2>/dev/null || echo -ljansson)
endif
ifdef SAN
ALL_CFLAGS += -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
endif

# The kernels of the CPU, once for each instruction set; cpu_variants.h holds the condition of each.
KERNEL_FLAGS := -ffp-contract=fast
FLAGS_portable :=
ifeq ($(ARCH),x86_64)
VARIANTS         := portable avx2 avxvnni avx512 avx512vnni avx512bf16
FLAGS_avx2       := -mavx2 -mfma -mf16c
FLAGS_avxvnni    := $(FLAGS_avx2) -mavxvnni
FLAGS_avx512     := $(FLAGS_avx2) -mavx512f -mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512
FLAGS_avx512vnni := $(FLAGS_avx512) -mavx512vnni
FLAGS_avx512bf16 := $(FLAGS_avx512vnni) -mavx512bf16
else ifeq ($(ARCH),aarch64)
VARIANTS         := portable dotprod
FLAGS_dotprod    := -march=armv8.2-a+dotprod
else
VARIANTS         := portable
endif

# ---------------------------------------------------------------------------------------------------------------------
# files

MODULES  := bf16z checkpoint device dtype file_header gpt2_cpu huggingface image kfd llmc mapped_file model model_paths operations \
            output_file pack processors profile progress safetensors sampler team tokenizer utils weights
FRONT    := chips estimate info list_devices machine npy open_device operation_table options print profile_report prompt report \
            report_json score text_output trace verify
TESTS    := checkpoint cli dtype hostile huggingface image inside kernels loading model sampler surroundings threads tokenizer
SUPPORT  := reference toy_checkpoint
KERNELS  := $(VARIANTS:%=$(BUILD)/cpu_kernels_%.o)
LIBRARY  := $(MODULES:%=$(BUILD)/%.o) $(KERNELS)
PROGRAM  := $(BUILD)/gpt2.o $(FRONT:%=$(BUILD)/%.o)
FUZZERS  := checkpoint options text tokenizer
TESTER   := $(BUILD)/test_gpt2.o $(TESTS:%=$(BUILD)/tests/test_%.o) $(SUPPORT:%=$(BUILD)/tests/%.o) \
            $(FUZZERS:%=$(BUILD)/replay_%.o)

STAMP    := $(BUILD)/flags

include hip.mk

.PHONY: all run test check bench ladder fuzz install uninstall clean help FORCE
all: found $(GPT2)

.PHONY: found
found:
	@echo "compiler   $(CC), $(MACHINE)"
	@echo "threads    $(if $(filter 1,$(OPENMP)),OpenMP,one: $(or $(call off_by_user,OPENMP),no OpenMP (Debian: libgomp comes with gcc; clang: libomp-dev)))"
	@echo "kernels    $(VARIANTS), chosen at run time"
	@echo "formats    llm.c$(if $(filter 1,$(JANSSON)), and Hugging Face (libjansson), only: $(or $(call off_by_user,JANSSON),no libjansson (Debian: libjansson-dev) to read Hugging Face directories))"

# A change of compiler or flags rebuilds everything.
$(STAMP): FORCE
	@mkdir -p $(BUILD)/tests $(BUILD)/dev
	@echo '$(CC) $(ALL_CFLAGS) $(KERNEL_FLAGS) $(LIBS)' | cmp -s - $@ || echo '$(CC) $(ALL_CFLAGS) $(KERNEL_FLAGS) $(LIBS)' > $@

COMPILE = $(CC) $(ALL_CFLAGS) -MMD -MP

$(BUILD)/cpu_kernels_%.o: cpu_kernels.c $(STAMP)
	@echo "  cc       $< ($*)"
	$(Q)$(COMPILE) $(KERNEL_FLAGS) -DVARIANT=$* $(FLAGS_$*) -c $< -o $@

# A fuzzer's judgement as a function of the tests, which replay its seeds and what it found.
$(BUILD)/replay_%.o: dev/fuzz_%.c $(STAMP)
	@echo "  cc       $< (replay)"
	$(Q)$(COMPILE) -I. -DLLVMFuzzerTestOneInput=replay_$* -DLLVMFuzzerInitialize=replay_$*_start -c $< -o $@

$(BUILD)/%.o: %.c $(STAMP)
	@echo "  cc       $<"
	$(Q)$(COMPILE) -c $< -o $@

$(GPT2): $(PROGRAM) $(LIBRARY)
	@echo "  link     $@"
	$(Q)$(CC) $(ALL_CFLAGS) $^ -o $@ $(LIBS) $(HIP_LIBS)

$(BUILD)/test_gpt2: $(TESTER) $(LIBRARY) $(FRONT:%=$(BUILD)/%.o)
	@echo "  link     $@"
	$(Q)$(CC) $(ALL_CFLAGS) $^ -o $@ $(LIBS) $(HIP_TEST_LIBS)

BENCH_PARTS := $(BUILD)/dev/bench_measure.o $(BUILD)/dev/bench_model.o $(BUILD)/machine.o
$(BUILD)/bench: $(BUILD)/dev/bench.o $(BUILD)/dev/bench_peer.o $(BUILD)/dev/bench_process.o $(BENCH_PARTS) $(LIBRARY)
	@echo "  link     $@"
	$(Q)$(CC) $(ALL_CFLAGS) $^ -o $@ $(LIBS)

$(BUILD)/ladder: $(BUILD)/dev/ladder.o $(BENCH_PARTS) $(LIBRARY)
	@echo "  link     $@"
	$(Q)$(CC) $(ALL_CFLAGS) $^ -o $@ $(LIBS)

$(BUILD)/tokenize: $(BUILD)/dev/tokenize.o $(LIBRARY)
	@echo "  link     $@"
	$(Q)$(CC) $(ALL_CFLAGS) $^ -o $@ $(LIBS)

# The fuzzers are built whole, with clang, so that every line under them is instrumented. SECONDS is the time of each.
SECONDS ?= $(or $(FUZZ_SECONDS),60)
$(BUILD)/fuzz_%: dev/fuzz_%.c $(MODULES:%=%.c) options.c text_output.c tests/toy_checkpoint.c $(STAMP)
	@echo "  fuzzer   $@"
	$(Q)clang -std=gnu11 -D_GNU_SOURCE $(if $(filter 1,$(JANSSON)),-DHAVE_JANSSON) -DVARIANT=portable -g -O1 -I. \
	  -Wno-unknown-pragmas -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
	  $(filter-out %gpt2_cpu.c,$(filter %.c,$^)) -o $@ $(filter-out -fopenmp,$(LIBS))

# Thousands of small files are written: into memory, where the system has a place for that.
SCRATCH := $(if $(TMPDIR),,$(if $(wildcard /dev/shm),TMPDIR=/dev/shm))

# New inputs go to the first directory; the seeds and what was found before are only read.
.PHONY: $(FUZZERS:%=fuzz-%)
fuzz: $(FUZZERS:%=fuzz-%)
$(FUZZERS:%=fuzz-%): fuzz-%: $(BUILD)/fuzz_%
	@mkdir -p $(BUILD)/corpus_$*
	$(SCRATCH) $(BUILD)/fuzz_$* $(BUILD)/corpus_$* dev/fuzz/seeds/$* -dict=dev/fuzz/$*.dict -max_total_time=$(SECONDS) \
	  -timeout=10 -max_len=8192 -artifact_prefix=$(BUILD)/found_$*_ -print_final_stats=1

# The program with faults in it: dev/faults.c stands between it and the functions that can fail.
WRAPPED := malloc calloc realloc posix_memalign strdup realpath open_memstream fdopen fopen open mmap stat fstat read \
           write fwrite fflush fsync fclose rename
$(BUILD)/gpt2_faults: $(PROGRAM) $(LIBRARY) $(BUILD)/dev/faults.o
	@echo "  link     $@"
	$(Q)$(CC) $(ALL_CFLAGS) $^ -o $@ $(WRAPPED:%=-Wl,--wrap=%) $(patsubst -ljansson,-Wl$(COMMA)-Bstatic -ljansson -Wl$(COMMA)-Bdynamic,$(LIBS)) $(HIP_LIBS)

$(BUILD)/test_faults: $(BUILD)/dev/test_faults.o $(SUPPORT:%=$(BUILD)/tests/%.o) $(LIBRARY)
	@echo "  link     $@"
	$(Q)$(CC) $(ALL_CFLAGS) $^ -o $@ $(LIBS)

.PHONY: test-faults faults-here
faults-here: $(BUILD)/gpt2_faults $(BUILD)/test_faults
	$(SCRATCH) $(BUILD)/test_faults $(BUILD)/gpt2_faults

# With the host harness as the GPU where there is a g++.
test-faults:
	$(MAKE) faults-here SAN=1 OPENMP=0 HIP=$(HIP_TEST) HIP_TEST=0 BUILD=$(BUILD)/faults

-include $(wildcard $(BUILD)/*.d $(BUILD)/tests/*.d $(BUILD)/dev/*.d)

# ---------------------------------------------------------------------------------------------------------------------
# what users ask for

run: all
	./gpt2 -m models/fairytales.bin -p "Once upon a time" -n 120 --temp 0.8 --top-p 0.9 -s 15

GPT2_PATH = $(if $(filter /%,$(GPT2)),$(GPT2),$(CURDIR)/$(GPT2))
test: all $(BUILD)/test_gpt2
	GPT2_PROGRAM="$(GPT2_PATH)" $(BUILD)/test_gpt2

check: test

bench: all $(BUILD)/bench
	$(BUILD)/bench $(if $(PEER),--peer $(PEER) --peer-model $(PEER_MODEL)) $(BENCH)

ladder: $(BUILD)/ladder
	$(BUILD)/ladder

install: all
	install -d "$(DESTDIR)$(PREFIX)/bin" "$(DESTDIR)$(PREFIX)/share/gpt2/models" "$(DESTDIR)$(PREFIX)/share/man/man1"
	install -m 755 gpt2 "$(DESTDIR)$(PREFIX)/bin/gpt2"
	install -m 644 models/fairytales.bin models/fairytales_tokenizer.bin "$(DESTDIR)$(PREFIX)/share/gpt2/models"
	install -m 644 gpt2.1 "$(DESTDIR)$(PREFIX)/share/man/man1/gpt2.1"

uninstall:
	rm -f "$(DESTDIR)$(PREFIX)/bin/gpt2" "$(DESTDIR)$(PREFIX)/share/man/man1/gpt2.1"
	rm -rf "$(DESTDIR)$(PREFIX)/share/gpt2"

clean:
	rm -rf $(BUILD) gpt2

help:
	@echo "make            build ./gpt2 and say what was found"
	@echo "make run        write a paragraph with the small model of the repository"
	@echo "make test       check everything that needs no download"
	@echo "make bench      measure tokens per second beside the machine's limits; BENCH=\"--dtype q8 -t 1\" for options,"
	@echo "                PEER=llama-bench PEER_MODEL=x.gguf for llama.cpp in turn; make ladder: from naive to final (dev/CPU.md)"
	@echo "make test-hip, test-hip-san   the GPU's kernels on the CPU, plainly and under the sanitizers (needs g++)"
	@echo "make test-gpu, bench-gpu      on this machine's card: hipcc, or nvcc"
	@echo "make test-hip-code            the same on the machine code that hipcc makes, instruction by instruction (GPU_TARGETS, needs hipcc)"
	@echo "make hip-report, gpu-model    what the compiler made of each GPU kernel, for each target; what published figures of GPUs would give"
	@echo "make fuzz       try to break the readers of files, text and options; SECONDS=60 for each (needs clang)"
	@echo "make test-faults  memory, files, pipes and signals fail at every point of short runs (minutes; needs sanitizers)"
	@echo "make install    PREFIX=$(PREFIX) DESTDIR=$(DESTDIR); make uninstall removes it"
	@echo "make clean      remove what was built"
	@echo "Settings: CC=clang  CFLAGS=...  SAN=1 (sanitizers)  OPENMP=0  JANSSON=0  HIP=0  GPU_TARGETS=\"gfx90a gfx1100\"  BUILD=dir  V=1 (show commands)"
