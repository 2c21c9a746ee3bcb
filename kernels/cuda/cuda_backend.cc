#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/status_macros.h"
#include "kernels/block.h"
#include "kernels/cuda/launchers.h"
#include "kernels/op_check.h"

namespace mnemosyne::kernels::cuda {
namespace {

constexpr size_t kAlignment = 64;

size_t AlignUp(size_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

absl::Status ToStatus(cudaError_t error) {
  if (error == cudaSuccess) return absl::OkStatus();
  return Internal("device fault: {}", cudaGetErrorString(error));
}

absl::Status OutOfMemory(size_t size) {
  cudaGetLastError();  // The runtime remembers the error otherwise.
  return ResourceExhausted("out of memory: {} bytes", size);
}

MemoryArgsOnDevice OnDevice(const MemoryArgs& args) {
  return {args.steps, args.heads,  args.sizes,   args.discounts, args.phi_q,
          args.phi_k, args.values, args.content, args.out};
}

}  // namespace

int CudaBackend::Count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

absl::StatusOr<std::unique_ptr<Backend>> CudaBackend::Create(int ordinal) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    return FailedPrecondition("device not available: cuda:{}: {}", ordinal,
                              cudaGetErrorString(error));
  }
  if (ordinal >= count) {
    return FailedPrecondition("device not available: cuda:{}, this machine has {}", ordinal, count);
  }
  cudaDeviceProp properties;
  cudaStream_t stream = nullptr;
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaGetDeviceProperties(&properties, ordinal)));
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal)));
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking)));
  return std::unique_ptr<Backend>(new CudaBackend(
      ordinal, properties.name, static_cast<unsigned>(properties.multiProcessorCount), stream));
}

CudaBackend::CudaBackend(int ordinal, std::string description, unsigned processors,
                         cudaStream_t stream)
    : ordinal_(ordinal),
      name_(fmt::format("cuda:{}", ordinal)),
      description_(std::move(description)),
      stream_(stream),
      coordinate_(*this, stream),
      mnemosyne_(*this, stream, processors),
      flt_kernels_(stream),
      flt_(*this, flt_kernels_) {}

CudaBackend::~CudaBackend() {
  cudaSetDevice(ordinal_);
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
}

std::optional<size_t> CudaBackend::FreeMemory() const {
  size_t available = 0;
  size_t total = 0;
  if (cudaSetDevice(ordinal_) != cudaSuccess) return 0;
  return cudaMemGetInfo(&available, &total) == cudaSuccess ? available : 0;
}

absl::StatusOr<Buffer> CudaBackend::Allocate(size_t size) {
  if (size == 0) return Buffer();
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_)));
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, size);
  if (error == cudaErrorMemoryAllocation || error == cudaErrorInvalidValue) {
    return OutOfMemory(size);
  }
  MNEMO_RETURN_IF_ERROR(ToStatus(error));
  Buffer buffer(static_cast<std::byte*>(data), size, [ordinal = ordinal_](std::byte* freed) {
    cudaSetDevice(ordinal);
    cudaFree(freed);
  });
  // Any thread may allocate: its own stream keeps out of the way of the executor's.
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaMemsetAsync(data, 0, size, cudaStreamPerThread)));
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(cudaStreamPerThread)));
  return buffer;
}

absl::StatusOr<Buffer> CudaBackend::AllocateHost(size_t size) {
  if (size == 0) return Buffer();
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_)));
  void* data = nullptr;
  if (cudaHostAlloc(&data, size, cudaHostAllocPortable) != cudaSuccess) return OutOfMemory(size);
  std::memset(data, 0, size);
  return Buffer(static_cast<std::byte*>(data), size, [](std::byte* freed) { cudaFreeHost(freed); });
}

absl::Status CudaBackend::Upload(const std::byte* host, std::byte* device, size_t size) {
  if (size == 0) return absl::OkStatus();
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_)));
  MNEMO_RETURN_IF_ERROR(
      ToStatus(cudaMemcpyAsync(device, host, size, cudaMemcpyHostToDevice, stream_)));
  return Synchronize();  // `host` is the caller's again.
}

absl::Status CudaBackend::Download(const std::byte* device, std::byte* host, size_t size) {
  if (size == 0) return absl::OkStatus();
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_)));
  MNEMO_RETURN_IF_ERROR(
      ToStatus(cudaMemcpyAsync(host, device, size, cudaMemcpyDeviceToHost, stream_)));
  return Synchronize();
}

std::byte* CudaBackend::device_extra() const { return workspace_.data() + extra_offset_; }
std::byte* CudaBackend::device_results() const { return workspace_.data() + results_offset_; }

absl::Status CudaBackend::PrepareWorkspace(std::span<const Segment> segments, const void* extra,
                                           size_t extra_size, size_t result_size) {
  CutIntoBlocks(segments, kBlockElements, blocks_);
  extra_offset_ = AlignUp(blocks_.size() * sizeof(Block));
  results_offset_ = extra_offset_ + AlignUp(extra_size);
  const size_t size = results_offset_ + blocks_.size() * result_size;
  if (workspace_.size() < size) {
    workspace_ = Buffer();  // Free before asking for more.
    MNEMO_ASSIGN_OR_RETURN(workspace_, Allocate(size));
  }
  MNEMO_RETURN_IF_ERROR(Upload(reinterpret_cast<const std::byte*>(blocks_.data()),
                               workspace_.data(), blocks_.size() * sizeof(Block)));
  return Upload(static_cast<const std::byte*>(extra), device_extra(), extra_size);
}

absl::Status CudaBackend::MeasureGradients(const GradientStatisticsArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  if (args.segments.empty()) return absl::OkStatus();
  MNEMO_RETURN_IF_ERROR(
      PrepareWorkspace(args.segments, nullptr, 0, sizeof(double) + sizeof(int64_t)));
  auto* const sums = reinterpret_cast<double*>(device_results());
  auto* const counts = reinterpret_cast<int64_t*>(sums + blocks_.size());
  MNEMO_RETURN_IF_ERROR(ToStatus(
      LaunchMeasureGradients(device_blocks(), blocks_.size(), args.values, sums, counts, stream_)));
  partial_.resize(blocks_.size());
  counts_.resize(blocks_.size());
  MNEMO_RETURN_IF_ERROR(Download(reinterpret_cast<const std::byte*>(sums),
                                 reinterpret_cast<std::byte*>(partial_.data()),
                                 blocks_.size() * sizeof(double)));
  MNEMO_RETURN_IF_ERROR(Download(reinterpret_cast<const std::byte*>(counts),
                                 reinterpret_cast<std::byte*>(counts_.data()),
                                 blocks_.size() * sizeof(int64_t)));
  std::fill(args.statistics.begin(), args.statistics.end(), GradientStatistics());
  for (size_t i = 0; i < blocks_.size(); ++i) {
    args.statistics[blocks_[i].segment].square_sum += partial_[i];
    args.statistics[blocks_[i].segment].non_finite_count += counts_[i];
  }
  return absl::OkStatus();
}

absl::Status CudaBackend::ZeroNonFinite(std::span<const Segment> segments, float* values) {
  MNEMO_RETURN_IF_ERROR(CheckSegments(segments, values));
  if (segments.empty()) return absl::OkStatus();
  MNEMO_RETURN_IF_ERROR(PrepareWorkspace(segments, nullptr, 0, 0));
  return ToStatus(LaunchZeroNonFinite(device_blocks(), blocks_.size(), values, stream_));
}

absl::Status CudaBackend::SetZero(std::span<const Segment> segments, float* values) {
  MNEMO_RETURN_IF_ERROR(CheckSegments(segments, values));
  if (segments.empty()) return absl::OkStatus();
  MNEMO_RETURN_IF_ERROR(PrepareWorkspace(segments, nullptr, 0, 0));
  return ToStatus(LaunchSetZero(device_blocks(), blocks_.size(), values, stream_));
}

template <typename Launch>
absl::Status CudaBackend::Launched(const Launch& launch) {
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_)));
  return ToStatus(launch());
}

template <typename Args, typename Launch>
absl::Status CudaBackend::RunStep(const Args& args, const Launch& launch) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  if (args.segments.empty()) return absl::OkStatus();
  using Coefficients = typename decltype(args.coefficients)::value_type;
  MNEMO_RETURN_IF_ERROR(PrepareWorkspace(args.segments, args.coefficients.data(),
                                         args.coefficients.size_bytes(), sizeof(double)));
  MNEMO_RETURN_IF_ERROR(ToStatus(launch(reinterpret_cast<const Coefficients*>(device_extra()),
                                        reinterpret_cast<double*>(device_results()))));
  partial_.resize(blocks_.size());
  MNEMO_RETURN_IF_ERROR(Download(device_results(), reinterpret_cast<std::byte*>(partial_.data()),
                                 blocks_.size() * sizeof(double)));
  SumBlocks(blocks_, partial_, args.square_sums);
  return absl::OkStatus();
}

absl::Status CudaBackend::SgdStep(const SgdStepArgs& args) {
  return RunStep(args, [&](const SgdCoefficients* coefficients, double* square_sums) {
    return LaunchSgdStep(device_blocks(), blocks_.size(), coefficients, args.replay, args.values,
                         args.momentum, square_sums, stream_);
  });
}

absl::Status CudaBackend::AdamStep(const AdamStepArgs& args) {
  return RunStep(args, [&](const AdamCoefficients* coefficients, double* square_sums) {
    return LaunchAdamStep(device_blocks(), blocks_.size(), coefficients, args.replay, args.values,
                          args.first_moment, args.second_moment, square_sums, stream_);
  });
}

absl::Status CudaBackend::LionStep(const LionStepArgs& args) {
  return RunStep(args, [&](const LionCoefficients* coefficients, double* square_sums) {
    return LaunchLionStep(device_blocks(), blocks_.size(), coefficients, args.replay, args.values,
                          args.momentum, args.signs, square_sums, stream_);
  });
}

absl::Status CudaBackend::LstmStep(const LstmStepArgs& args) {
  return RunStep(args, [&](const LstmCoefficients* coefficients, double* square_sums) {
    return LaunchLstmStep(device_blocks(), blocks_.size(), coefficients, args.sizes, args.weights,
                          args.replay, args.values, args.hidden, args.cell, args.mean, args.square,
                          square_sums, stream_);
  });
}

absl::Status CudaBackend::DenseLayer(const DenseLayerArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  if (args.rows == 0) return absl::OkStatus();
  return Launched([&] {
    return LaunchDenseLayer(args.sizes, args.rows, args.x, args.weights, args.bias, args.y,
                            stream_);
  });
}

absl::Status CudaBackend::FeatureMap(const FeatureMapArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  if (args.rows == 0) return absl::OkStatus();
  return Launched([&] {
    return LaunchFeatureMap(args.sizes, args.rows, args.x, args.weights, args.bias, args.phi,
                            stream_);
  });
}

absl::Status CudaBackend::BidirectionalAttention(const BidirectionalAttentionArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  if (args.group_starts.size() < 2) return absl::OkStatus();
  MNEMO_RETURN_IF_ERROR(
      PrepareWorkspace({}, args.group_starts.data(), args.group_starts.size_bytes(), 0));
  return Launched([&] {
    return LaunchBidirectionalAttention(
        reinterpret_cast<const size_t*>(device_extra()), args.group_starts.size() - 1, args.sizes,
        args.phi_q, args.phi_k, args.values, args.row_weights, args.out, stream_);
  });
}

absl::Status CudaBackend::AdditiveMemory(const AdditiveMemoryArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  if (args.memory.memories == 0) return absl::OkStatus();
  return Launched([&] {
    return LaunchAdditiveMemory(OnDevice(args.memory), args.memory.memories, args.normalizer,
                                stream_);
  });
}

absl::Status CudaBackend::DeltaMemory(const DeltaMemoryArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  if (args.memory.memories == 0) return absl::OkStatus();
  return Launched([&] {
    return LaunchDeltaMemory(OnDevice(args.memory), args.memory.memories, args.betas, stream_);
  });
}

absl::Status CudaBackend::CoordinateStep(const CoordinateStepArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_)));
  return coordinate_.Step(args);
}

absl::Status CudaBackend::MnemosyneContext(const MnemosyneContextArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_)));
  return mnemosyne_.Context(args);
}

absl::Status CudaBackend::MnemosyneStep(const MnemosyneStepArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_)));
  return mnemosyne_.Step(args);
}

absl::Status CudaBackend::FltAttention(const FltAttentionArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_)));
  return flt_.Attend(args);
}

absl::Status CudaBackend::FltAttentionBackward(const FltBackwardArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_)));
  return flt_.Differentiate(args);
}

absl::Status CudaBackend::Synchronize() {
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_)));
  return ToStatus(cudaStreamSynchronize(stream_));
}

// What ends a context shows in every call after it; it says nothing of work still to be done.
absl::Status CudaBackend::Fault() const {
  if (const cudaError_t error = cudaSetDevice(ordinal_); error != cudaSuccess) {
    return ToStatus(error);
  }
  const cudaError_t error = cudaStreamQuery(stream_);
  return error == cudaErrorNotReady ? absl::OkStatus() : ToStatus(error);
}

}  // namespace mnemosyne::kernels::cuda
