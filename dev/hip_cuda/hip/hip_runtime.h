// HIP on an NVIDIA card: the names of HIP that gpt2_kernels.hip and its tests use, in CUDA's words.
//   nvcc -x cu -arch=sm_90 -Idev/hip_cuda gpt2_kernels.hip
// For checks and measurements on real hardware where no AMD card is at hand.
#ifndef HIP_CUDA_RUNTIME_H
#define HIP_CUDA_RUNTIME_H

#include <cuda_runtime.h>
#include <stdio.h>

#define hipError_t                     cudaError_t
#define hipSuccess                     cudaSuccess
#define hipErrorOutOfMemory            cudaErrorMemoryAllocation
#define hipErrorNotInitialized         cudaErrorInitializationError
#define hipErrorInsufficientDriver     cudaErrorInsufficientDriver
#define hipErrorInvalidDeviceFunction  cudaErrorInvalidDeviceFunction
#define hipErrorNoDevice               cudaErrorNoDevice
#define hipErrorNoBinaryForGpu         cudaErrorNoKernelImageForDevice
#define hipErrorSharedObjectInitFailed cudaErrorSharedObjectInitFailed
#define hipGetErrorString              cudaGetErrorString
#define hipGetLastError                cudaGetLastError

#define hipGetDeviceCount                   cudaGetDeviceCount
#define hipSetDevice                        cudaSetDevice
#define hipDeviceGetAttribute               cudaDeviceGetAttribute
#define hipDeviceAttributeMemoryClockRate   cudaDevAttrMemoryClockRate
#define hipDeviceAttributeMemoryBusWidth    cudaDevAttrGlobalMemoryBusWidth
#define hipDeviceAttributeCooperativeLaunch cudaDevAttrCooperativeLaunch
#define hipMemGetInfo                       cudaMemGetInfo

#define hipMalloc               cudaMalloc
#define hipFree                 cudaFree
#define hipHostMalloc           cudaHostAlloc
#define hipHostMallocDefault    cudaHostAllocDefault
#define hipHostFree             cudaFreeHost
#define hipMemset               cudaMemset
#define hipMemcpy               cudaMemcpy
#define hipMemcpyAsync          cudaMemcpyAsync
#define hipMemcpy2DAsync        cudaMemcpy2DAsync
#define hipMemcpyHostToDevice   cudaMemcpyHostToDevice
#define hipMemcpyDeviceToHost   cudaMemcpyDeviceToHost
#define hipMemcpyDeviceToDevice cudaMemcpyDeviceToDevice

#define hipStream_t                                       cudaStream_t
#define hipStreamCreate                                   cudaStreamCreate
#define hipStreamDestroy                                  cudaStreamDestroy
#define hipStreamSynchronize                              cudaStreamSynchronize
#define hipStreamBeginCapture                             cudaStreamBeginCapture
#define hipStreamEndCapture                               cudaStreamEndCapture
#define hipStreamCaptureModeThreadLocal                   cudaStreamCaptureModeThreadLocal
#define hipEvent_t                                        cudaEvent_t
#define hipEventCreate                                    cudaEventCreate
#define hipEventRecord                                    cudaEventRecord
#define hipEventElapsedTime                               cudaEventElapsedTime
#define hipEventDestroy                                   cudaEventDestroy
#define hipGraph_t                                        cudaGraph_t
#define hipGraphExec_t                                    cudaGraphExec_t
#define hipGraphInstantiate(exec, graph, node, log, size) cudaGraphInstantiate(exec, graph, 0)
#define hipGraphLaunch                                    cudaGraphLaunch
#define hipGraphDestroy                                   cudaGraphDestroy
#define hipGraphExecDestroy                               cudaGraphExecDestroy

#define hipLaunchCooperativeKernel                   cudaLaunchCooperativeKernel
#define hipOccupancyMaxActiveBlocksPerMultiprocessor cudaOccupancyMaxActiveBlocksPerMultiprocessor
#define hipFuncSetAttribute                          cudaFuncSetAttribute
#define hipFuncAttributeMaxDynamicSharedMemorySize   cudaFuncAttributeMaxDynamicSharedMemorySize

#define HIP_DYNAMIC_SHARED(type, name) extern __shared__ type name[];

#define hipLaunchKernelGGL(kernel, grid, block, shared_bytes, stream, ...)                                             \
    kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)

// CUDA names no architecture; "sm_90" stands where AMD has "gfx1100".
struct hipDeviceProp_t {
    char name[256], gcnArchName[256];
    size_t totalGlobalMem;
    int warpSize, multiProcessorCount;
};
static inline cudaError_t hipGetDeviceProperties(hipDeviceProp_t* out, int device) {
    cudaDeviceProp in;
    cudaError_t status = cudaGetDeviceProperties(&in, device);
    if (status != cudaSuccess) return status;
    snprintf(out->name, sizeof out->name, "%s", in.name);
    snprintf(out->gcnArchName, sizeof out->gcnArchName, "sm_%d%d", in.major, in.minor);
    out->totalGlobalMem = in.totalGlobalMem, out->warpSize = in.warpSize,
    out->multiProcessorCount = in.multiProcessorCount;
    return cudaSuccess;
}

#ifdef __CUDACC__
// HIP's shuffles name no mask: the whole group takes part.
#define __shfl(value, lane, width)     __shfl_sync(0xffffffffu, value, lane, width)
#define __shfl_xor(value, mask, width) __shfl_xor_sync(0xffffffffu, value, mask, width)
#endif

#endif
