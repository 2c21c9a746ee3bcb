#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/status_macros.h"
#include "kernels/block.h"
#include "kernels/cuda/launchers.h"
#include "kernels/op_check.h"

namespace mnemosyne::kernels::cuda {
namespace {

absl::Status ToStatus(cudaError_t error) {
  if (error == cudaSuccess) return absl::OkStatus();
  return Internal("device fault: {}", cudaGetErrorString(error));
}

// What allocating more than there is ends in; absurd sizes are invalid values.
bool IsOutOfMemory(cudaError_t error) {
  return error == cudaErrorMemoryAllocation || error == cudaErrorInvalidValue;
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
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaGetDeviceProperties(&properties, ordinal)));
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal)));
  auto resources = std::make_shared<Resources>();
  MNEMO_RETURN_IF_ERROR(
      ToStatus(cudaStreamCreateWithFlags(&resources->stream, cudaStreamNonBlocking)));
  {
    MutexLock lock(&resources->mutex);
    MNEMO_RETURN_IF_ERROR(
        ToStatus(cudaStreamCreateWithFlags(&resources->allocating, cudaStreamNonBlocking)));
  }
  cudaMemPoolProps pool = {};
  pool.allocType = cudaMemAllocationTypePinned;
  pool.location = {.type = cudaMemLocationTypeDevice, .id = ordinal};
  if (const cudaError_t made = cudaMemPoolCreate(&resources->pool, &pool); made != cudaSuccess) {
    cudaGetLastError();
    return FailedPrecondition("device not available: cuda:{} has no pools of memory: {}", ordinal,
                              cudaGetErrorString(made));
  }
  uint64_t kept = std::numeric_limits<uint64_t>::max();
  MNEMO_RETURN_IF_ERROR(
      ToStatus(cudaMemPoolSetAttribute(resources->pool, cudaMemPoolAttrReleaseThreshold, &kept)));
  return std::unique_ptr<Backend>(
      new CudaBackend(ordinal, properties.name,
                      static_cast<unsigned>(properties.multiProcessorCount), std::move(resources)));
}

absl::StatusOr<std::unique_ptr<Backend>> CudaBackend::CreateTrapping(int uploads) {
  MNEMO_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, Create(0));
  static_cast<CudaBackend&>(*backend).uploads_left_ = uploads;
  return backend;
}

CudaBackend::Resources::~Resources() {
  MutexLock lock(&mutex);
  cudaStreamSynchronize(stream);
  if (pool != nullptr) cudaMemPoolDestroy(pool);
  if (allocating != nullptr) cudaStreamDestroy(allocating);
  cudaStreamDestroy(stream);
}

CudaBackend::CudaBackend(int ordinal, std::string description, unsigned processors,
                         std::shared_ptr<Resources> resources)
    : ordinal_(ordinal),
      name_(fmt::format("cuda:{}", ordinal)),
      description_(std::move(description)),
      resources_(std::move(resources)),
      stream_(resources_->stream),
      coordinate_(*this, stream_),
      mnemosyne_(*this, stream_, processors),
      flt_kernels_(stream_),
      flt_(*this, flt_kernels_) {}

CudaBackend::~CudaBackend() { cudaSetDevice(ordinal_); }

std::optional<size_t> CudaBackend::FreeMemory() const {
  size_t available = 0, total = 0;
  uint64_t reserved = 0, used = 0;
  if (cudaSetDevice(ordinal_) != cudaSuccess) return 0;
  if (cudaMemGetInfo(&available, &total) != cudaSuccess) return 0;
  cudaMemPoolGetAttribute(resources_->pool, cudaMemPoolAttrReservedMemCurrent, &reserved);
  cudaMemPoolGetAttribute(resources_->pool, cudaMemPoolAttrUsedMemCurrent, &used);
  return available + reserved - used;
}

absl::StatusOr<Buffer> CudaBackend::Allocate(size_t size) {
  CountAllocation();
  if (size == 0) return Buffer();
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_)));
  MutexLock lock(&resources_->mutex);
  const cudaStream_t stream = resources_->allocating;
  void* data = nullptr;
  const cudaError_t error = cudaMallocFromPoolAsync(&data, size, resources_->pool, stream);
  if (IsOutOfMemory(error)) return OutOfMemory(size);
  MNEMO_RETURN_IF_ERROR(ToStatus(error));
  // What is queued may still use it when it is freed.
  Buffer buffer(static_cast<std::byte*>(data), size,
                [ordinal = ordinal_, resources = resources_](std::byte* freed) {
                  cudaSetDevice(ordinal);
                  cudaFreeAsync(freed, resources->stream);
                });
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaMemsetAsync(data, 0, size, stream)));
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(stream)));
  return buffer;
}

absl::StatusOr<Buffer> CudaBackend::AllocateHost(size_t size) {
  CountAllocation();
  if (size == 0) return Buffer();
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_)));
  void* data = nullptr;
  const cudaError_t error = cudaHostAlloc(&data, size, cudaHostAllocPortable);
  if (IsOutOfMemory(error)) return OutOfMemory(size);
  MNEMO_RETURN_IF_ERROR(ToStatus(error));
  std::memset(data, 0, size);
  return Buffer(static_cast<std::byte*>(data), size, [](std::byte* freed) { cudaFreeHost(freed); });
}

void CudaBackend::CountUpload() {
  if (uploads_left_ > 0 && --uploads_left_ == 0) LaunchTrap(stream_);
}

absl::Status CudaBackend::Upload(const std::byte* host, std::byte* device, size_t size) {
  CountUpload();
  if (size == 0) return absl::OkStatus();
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_)));
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaMemcpyAsync(device, host, size, cudaMemcpyDefault, stream_)));
  return Synchronize();  // `host` is the caller's again.
}

absl::Status CudaBackend::Download(const std::byte* device, std::byte* host, size_t size) {
  if (size == 0) return absl::OkStatus();
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_)));
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaMemcpyAsync(host, device, size, cudaMemcpyDefault, stream_)));
  return Synchronize();
}

absl::Status CudaBackend::UploadLater(const std::byte* host, std::byte* device, size_t size) {
  CountUpload();
  if (size == 0) return absl::OkStatus();
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_)));
  return ToStatus(cudaMemcpyAsync(device, host, size, cudaMemcpyHostToDevice, stream_));
}

absl::Status CudaBackend::DownloadLater(const std::byte* device, std::byte* host, size_t size) {
  if (size == 0) return absl::OkStatus();
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_)));
  return ToStatus(cudaMemcpyAsync(host, device, size, cudaMemcpyDeviceToHost, stream_));
}

absl::Status CudaBackend::PrepareWorkspace(std::span<const Segment> segments, const void* extra,
                                           size_t extra_size, size_t result_size) {
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_)));
  const auto same = [](const Segment& a, const Segment& b) {
    return a.offset == b.offset && a.count == b.count;
  };
  if (!std::ranges::equal(segments, segments_, same)) {
    segments_.clear();
    CutIntoBlocks(segments, kBlockElements, blocks_);
    block_table_.Clear();
    block_table_.Add(blocks_);
    MNEMO_RETURN_IF_ERROR(block_table_.Upload(*this));
    segments_.assign(segments.begin(), segments.end());
  }
  extra_.Clear();
  extra_.Add(std::span(static_cast<const std::byte*>(extra), extra_size));
  MNEMO_RETURN_IF_ERROR(extra_.Upload(*this));
  MNEMO_ASSIGN_OR_RETURN(results_, results_reserve_.Get(*this, blocks_.size() * result_size));
  return landing_.Prepare(*this, blocks_.size() * result_size);
}

absl::Status CudaBackend::MeasureGradients(const GradientStatisticsArgs& args) {
  return MeasureManyGradients({&args, 1});
}

absl::Status CudaBackend::MeasureManyGradients(std::span<const GradientStatisticsArgs> all) {
  for (const GradientStatisticsArgs& args : all) {
    MNEMO_RETURN_IF_ERROR(Check(args));
    std::fill(args.statistics.begin(), args.statistics.end(), GradientStatistics());
  }
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_)));
  MNEMO_ASSIGN_OR_RETURN(const StepBlocks* const table, step_blocks_.Get(*this, all));
  const std::span<const StepBlock> blocks = table->blocks();
  if (blocks.empty()) return absl::OkStatus();
  const size_t size = blocks.size() * (sizeof(double) + sizeof(int64_t));
  MNEMO_ASSIGN_OR_RETURN(results_, results_reserve_.Get(*this, size));
  auto* const sums = reinterpret_cast<double*>(results_);
  auto* const counts = reinterpret_cast<int64_t*>(sums + blocks.size());
  MNEMO_RETURN_IF_ERROR(
      ToStatus(LaunchMeasureGradients(table->on_device(), blocks.size(), sums, counts, stream_)));
  MNEMO_ASSIGN_OR_RETURN(const std::span<const std::byte> fetched,
                         landing_.Fetch<std::byte>(*this, sums, size));
  const auto* const host_sums = reinterpret_cast<const double*>(fetched.data());
  const auto* const host_counts = reinterpret_cast<const int64_t*>(host_sums + blocks.size());
  size_t i = 0, first_segment = 0;
  for (const GradientStatisticsArgs& args : all) {
    const size_t end = first_segment + args.segments.size();
    for (; i < blocks.size() && blocks[i].segment < end; ++i) {
      GradientStatistics& statistics = args.statistics[blocks[i].segment - first_segment];
      statistics.square_sum += host_sums[i];
      statistics.non_finite_count += host_counts[i];
    }
    first_segment = end;
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
absl::Status CudaBackend::RunSteps(std::span<const Args> all, const Launch& launch) {
  using Coefficients = typename decltype(Args::coefficients)::value_type;
  for (const Args& args : all) MNEMO_RETURN_IF_ERROR(Check(args));
  // Those that replay are few, and take their steps alone.
  const auto differs = [&](const Args& args) { return args.replay != all.front().replay; };
  if (std::ranges::any_of(all, differs)) {
    for (const Args& args : all) MNEMO_RETURN_IF_ERROR(RunSteps(std::span(&args, 1), launch));
    return absl::OkStatus();
  }
  size_t segment_count = 0;
  for (const Args& args : all) segment_count += args.segments.size();
  if (segment_count == 0) return absl::OkStatus();
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_)));
  MNEMO_ASSIGN_OR_RETURN(const StepBlocks* const table, step_blocks_.Get(*this, all));
  std::vector<Coefficients> coefficients;
  coefficients.reserve(segment_count);
  for (const Args& args : all) {
    coefficients.insert(coefficients.end(), args.coefficients.begin(), args.coefficients.end());
  }
  extra_.Clear();
  extra_.Add(coefficients);
  MNEMO_RETURN_IF_ERROR(extra_.Upload(*this));
  const std::span<const StepBlock> blocks = table->blocks();
  MNEMO_ASSIGN_OR_RETURN(results_, results_reserve_.Get(*this, blocks.size() * sizeof(double)));
  MNEMO_RETURN_IF_ERROR(landing_.Prepare(*this, blocks.size() * sizeof(double)));
  MNEMO_RETURN_IF_ERROR(ToStatus(launch(
      table->on_device(), blocks.size(), reinterpret_cast<const Coefficients*>(device_extra()),
      all.front().replay, reinterpret_cast<double*>(results_), stream_)));
  MNEMO_ASSIGN_OR_RETURN(const std::span<const double> fetched,
                         landing_.Fetch<double>(*this, results_, blocks.size()));
  sums_.assign(segment_count, 0);
  for (size_t i = 0; i < blocks.size(); ++i) sums_[blocks[i].segment] += fetched[i];
  auto next = sums_.begin();
  for (const Args& args : all) {
    const auto count = static_cast<std::ptrdiff_t>(args.segments.size());
    std::copy(next, next + count, args.square_sums.begin());
    next += count;
  }
  return absl::OkStatus();
}

absl::Status CudaBackend::SgdSteps(std::span<const SgdStepArgs> all) {
  return RunSteps(all, &LaunchSgdStep);
}
absl::Status CudaBackend::AdamSteps(std::span<const AdamStepArgs> all) {
  return RunSteps(all, &LaunchAdamStep);
}
absl::Status CudaBackend::LionSteps(std::span<const LionStepArgs> all) {
  return RunSteps(all, &LaunchLionStep);
}
absl::Status CudaBackend::SgdStep(const SgdStepArgs& args) { return SgdSteps({&args, 1}); }
absl::Status CudaBackend::AdamStep(const AdamStepArgs& args) { return AdamSteps({&args, 1}); }
absl::Status CudaBackend::LionStep(const LionStepArgs& args) { return LionSteps({&args, 1}); }

absl::Status CudaBackend::LstmStep(const LstmStepArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  if (args.segments.empty()) return absl::OkStatus();
  MNEMO_RETURN_IF_ERROR(PrepareWorkspace(args.segments, args.coefficients.data(),
                                         args.coefficients.size_bytes(), sizeof(double)));
  MNEMO_RETURN_IF_ERROR(ToStatus(LaunchLstmStep(
      device_blocks(), blocks_.size(), reinterpret_cast<const LstmCoefficients*>(device_extra()),
      args.sizes, args.weights, args.replay, args.values, args.hidden, args.cell, args.mean,
      args.square, reinterpret_cast<double*>(device_results()), stream_)));
  MNEMO_ASSIGN_OR_RETURN(const std::span<const double> fetched,
                         landing_.Fetch<double>(*this, device_results(), blocks_.size()));
  SumBlocks(blocks_, fetched, args.square_sums);
  return absl::OkStatus();
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

absl::Status CudaBackend::MnemosyneUpdates(const MnemosyneModel& model,
                                           std::span<const MnemosyneUpdateArgs> all) {
  for (const MnemosyneUpdateArgs& args : all) MNEMO_RETURN_IF_ERROR(Check(model, args));
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaSetDevice(ordinal_)));
  return mnemosyne_.Updates(model, all);
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
  MNEMO_RETURN_IF_ERROR(ToStatus(cudaStreamSynchronize(stream_)));
  ++wait_count_;
  return absl::OkStatus();
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
