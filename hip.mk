# The GPU path: gpt2_kernels.hip, one source built in four ways. Included by the Makefile.
#   HIP=amd    hipcc, the product; the default where hipcc is found in PATH or /opt/rocm/bin
#   HIP=cuda   nvcc with dev/hip_cuda, for an NVIDIA card
#   HIP=host   g++ with dev/hip_host, which runs the kernels on the CPU
#   HIP=0      none; the default elsewhere
# make test runs every kernel on the host harness wherever there is a g++, whatever HIP says.

HIPCC := $(or $(shell command -v hipcc 2>/dev/null),$(wildcard /opt/rocm/bin/hipcc))
NVCC  ?= $(or $(shell command -v nvcc 2>/dev/null),$(wildcard /usr/local/cuda/bin/nvcc))
ifeq ($(origin CXX),default)
CXX := $(subst clang,clang++,$(subst gcc,g++,$(CC)))
endif
# not when building for another machine
HIP      ?= $(if $(and $(HIPCC),$(filter $(ARCH),$(shell uname -m))),amd,0)
HIP_TEST ?= $(if $(filter $(MACHINE),$(shell $(CXX) -dumpmachine 2>/dev/null)),host,0)
# this machine's card, else H100 and H200; asked for only where nvcc is called
CUDA_ARCH ?= $(or $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sed -n '1s/^\([0-9]*\)\.\([0-9]\)$$/sm_\1\2/p'),sm_90)

# as WERROR in the Makefile, for hipcc 5.2.3 and clang 19
HIP_WERROR  = $(if $(shell "$(HIPCC)" --version 2>/dev/null | grep -E 'clang version (15|19)\.'),-Werror)
# for nvcc 13 with gcc 12 behind it: "all-warnings" are the host compiler's as well
CUDA_WERROR = $(if $(filter 13-12,$(shell echo __CUDACC_VER_MAJOR__-__GNUC__ | $(NVCC) -Xcompiler -P -E -x cu - 2>/dev/null | tail -n 1 | tr -d ' ')),-Werror all-warnings)

# No vectors made of neighbouring scalars on AMD: they kept arrays in memory that belong into registers (gfx942).
# No contraction into fused operations but where the source says so: the same sums from every compiler.
HIP_FLAGS_amd   = -std=gnu++11 -O3 -fno-slp-vectorize -Wall -Wextra $(HIP_WERROR) -Wno-error=pass-failed -ffp-contract=off -fno-strict-aliasing $(GPU_LIB_FLAGS)
HIP_FLAGS_cuda  = -x cu -arch=$(CUDA_ARCH) -std=c++17 -O3 -fmad=false $(CUDA_WERROR) -Idev/hip_cuda -Xcompiler -Wall,-Wextra
HIP_FLAGS_host  = -x c++ -std=c++17 -Wall -Wextra $(WERROR) -Wno-unknown-pragmas -Wno-pass-failed -ffp-contract=off -fno-strict-aliasing \
                  -Idev/hip_host $(CFLAGS) $(if $(SAN),-fsanitize=address$(COMMA)undefined -fno-sanitize-recover=all)
# hipcc may be a link into ROCm; where none of these has the library the linker knows where it lies, as on Debian
HIP_LIB_DIR     = $(abspath $(dir $(firstword $(wildcard $(addsuffix /libamdhip64.so,$(addsuffix /lib,$(ROCM_PATH)) \
                  $(addsuffix ../lib,$(dir $(HIPCC) $(realpath $(HIPCC)))) /opt/rocm/lib)))))
HIP_LIBS_amd    = $(HIP_LIB_DIR:%=-L%) $(HIP_LIB_DIR:%=-Wl$(COMMA)-rpath$(COMMA)%) -lamdhip64 -lstdc++
# nvcc may be a link or a script: it says itself where its libraries lie
HIP_LIBS_cuda   = $(shell $(NVCC) --dryrun -x cu /dev/null 2>&1 | sed -n 's/.* LIBRARIES= *//p') -lcudart_static -lpthread -ldl -lrt -lstdc++
HIP_LIBS_host   = -rdynamic -lpthread -lstdc++
HIP_COMPILER_amd  = $(HIPCC)
HIP_COMPILER_cuda = $(NVCC)
HIP_COMPILER_host = $(CXX)
COMMA := ,

# asked for once, and only where hipcc is called
HIP_TARGETS = $(eval HIP_TARGETS := $$(shell dev/hip_targets.sh "$(HIPCC)" $(GPU_TARGETS)))$(HIP_TARGETS)

# what KFD calls these, for the program to compare with the machine's
HIP_CODE = $(patsubst --offload-arch=%,%,$(filter --offload-arch=%,$(HIP_TARGETS)))

# $(call hip_compile,how,source,object); hipcc 5.2.3 leaves empty directories in TMPDIR
hip_compile = $(if $(filter amd,$(1)),TMPDIR=$(BUILD)) $(HIP_COMPILER_$(1)) $(HIP_FLAGS_$(1)) $(if $(filter amd,$(1)),$(HIP_TARGETS) '-DHIP_CODE="$(HIP_CODE)"') -c $(2) -o $(3)

HIP_SOURCES := gpt2_kernels.hip gpt2_matrix.h gpt2_kernels.h gpt2.h dtype.h bf16z.h kfd.h operations.h profile.h sampler.h utils.h $(wildcard dev/hip_*/hip/*.h) dev/hip_host/amd_code.h dev/hip_targets.sh dev/hip_device_library.sh hip.mk
# what an object of the host harness is linked with: AMD machine code on a model of the chip
AMD_MODEL := $(patsubst %,$(BUILD)/dev/hip_host/amd_%.o,code vector scalar memory run)
ifneq ($(HIP),0)
ALL_CFLAGS += -DGPT2_HIP
PROGRAM    += $(BUILD)/gpt2_kernels.o $(if $(filter host,$(HIP)),$(AMD_MODEL))
HIP_LIBS   := $(HIP_LIBS_$(HIP))
endif
ifneq ($(HIP_TEST),0)
TESTER        += $(BUILD)/tests/test_hip.o $(if $(filter host,$(HIP_TEST)),$(AMD_MODEL))
HIP_TEST_LIBS := $(HIP_LIBS_$(HIP_TEST))
else ifneq ($(HIP),0)
TESTER        += $(BUILD)/gpt2_kernels.o
HIP_TEST_LIBS := $(HIP_LIBS_$(HIP))
endif

# As $(STAMP): another compiler, card or flag builds what stands for the GPU anew, in the program and in the tests.
$(BUILD)/flags_hip:      HOW = $(HIP)
$(BUILD)/flags_hip_test: HOW = $(HIP_TEST)
$(BUILD)/flags_hip $(BUILD)/flags_hip_test: FORCE
	@mkdir -p $(BUILD)/tests
	@echo $(call hip_compile,$(HOW)) > $@.new; if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(BUILD)/gpt2_kernels.o: $(HIP_SOURCES) $(BUILD)/flags_hip
	@echo "  $(HIP)      gpt2_kernels.hip"
	$(Q)$(call hip_compile,$(HIP),$<,$@)

$(BUILD)/dev/hip_host/amd_%.o: dev/hip_host/amd_%.cc dev/hip_host/amd_code.h dev/hip_host/amd_wave.h dev/hip_host/amd_instructions.h dtype.h bf16z.h $(STAMP)
	@echo "  host     $<"
	$(Q)mkdir -p $(@D)
	$(Q)$(CXX) $(HIP_FLAGS_host) -c $< -o $@

$(BUILD)/tests/test_hip.o: tests/test_hip.cc tests/test.h tests/reference.h $(HIP_SOURCES) $(BUILD)/flags_hip_test
	@echo "  $(HIP_TEST)     $<"
	$(Q)$(call hip_compile,$(HIP_TEST),$<,$@)

# not for the stamp, which is made for it as well
$(BUILD)/test_gpt2.o: private ALL_CFLAGS += $(if $(filter-out 0,$(HIP_TEST)),-DHAVE_TEST_HIP)

.PHONY: found-hip test-hip test-hip-san test-hip-asan test-hip-tsan test-hip-code test-gpu bench-gpu hip-report gpu-model
found: found-hip
found-hip:
	@echo "gpu        $(if $(filter amd,$(HIP)),HIP with $(HIPCC)$(COMMA) targets $(HIP_CODE),$(if $(filter 0,$(HIP)),none: $(or $(call off_by_user,HIP),no hipcc in PATH or /opt/rocm/bin (Debian: hipcc libamdhip64-dev rocm-device-libs))$(if $(NVCC),; HIP=cuda builds for an NVIDIA card with $(NVCC)),$(if $(filter cuda,$(HIP)),nvcc for $(CUDA_ARCH),$(HIP))))"

# The kernels on the host harness alone; plainly, and under the sanitizers.
test-hip: $(BUILD)/test_gpt2
	$(BUILD)/test_gpt2 hip

test-hip-san: test-hip-asan test-hip-tsan
test-hip-asan:
	$(MAKE) BUILD=$(BUILD)/hip_asan HIP=0 HIP_TEST=host SAN=1 test-hip
test-hip-tsan:
	$(MAKE) BUILD=$(BUILD)/hip_tsan HIP=0 HIP_TEST=host OPENMP=0 CFLAGS="-O1 -g -fsanitize=thread" test-hip

# The machine code that hipcc makes of them, instruction by instruction on a model of each chip.
test-hip-code: $(BUILD)/test_gpt2
	dev/test_hip_code.sh "$(HIPCC)" "$(HIP_FLAGS_amd)" $(BUILD)/test_gpt2 $(BUILD)/code $(GPU_TARGETS)

# On a real card: nvcc where there is no hipcc. GPU_BUILD=amd|cuda overrides. In folders of their own, for each builds with
# other settings.
GPU_BUILD ?= $(if $(HIPCC),amd,cuda)
test-gpu:
	$(if $(filter cuda,$(GPU_BUILD)),@echo "nvcc       $(or $(NVCC),none: set NVCC=...) for $(CUDA_ARCH)")
	$(MAKE) BUILD=$(BUILD)/test_$(GPU_BUILD) HIP=0 HIP_TEST=$(GPU_BUILD) test-hip

$(BUILD)/bench_gpu.o: dev/bench_gpu.cc dev/gpu_plain.h $(HIP_SOURCES) $(BUILD)/flags_hip
	$(Q)$(call hip_compile,$(HIP),$<,$@)

$(BUILD)/bench_gpu: $(BUILD)/bench_gpu.o $(BUILD)/tests/reference.o $(LIBRARY) $(if $(filter host,$(HIP)),$(AMD_MODEL))
	$(Q)$(CC) $(ALL_CFLAGS) $^ -o $@ $(LIBS) $(HIP_LIBS)

bench-gpu:
	$(MAKE) BUILD=$(BUILD)/bench_$(GPU_BUILD) HIP=$(GPU_BUILD) $(BUILD)/bench_$(GPU_BUILD)/bench_gpu
	$(BUILD)/bench_$(GPU_BUILD)/bench_gpu $(BENCH)

# What the compiler made of each kernel, for each target.
hip-report:
	dev/hip_report.sh "$(HIPCC)" "$(HIP_FLAGS_amd)" $(GPU_TARGETS)

# What published figures of GPUs would give.
$(BUILD)/gpu_model: $(BUILD)/dev/gpu_model.o $(BUILD)/chips.o $(LIBRARY)
	$(Q)$(CC) $(ALL_CFLAGS) $^ -o $@ $(LIBS)

gpu-model: $(BUILD)/gpu_model
	$(BUILD)/gpu_model
