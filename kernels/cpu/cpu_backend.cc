#include "kernels/cpu/cpu_backend.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <thread>

#include "base/error.h"
#include "base/status_macros.h"
#include "kernels/cpu/flt_attention.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/mnemosyne_chunk.h"
#include "kernels/op_check.h"

namespace mnemosyne::kernels::cpu {
namespace {

// Elements of a block, a multiple of every vector and of kSignsPerWord: long enough that the sums
// at its end cost nothing, short enough to spread a small model over threads.
constexpr size_t kBlockElements = size_t{1} << 14;

// The same for an LSTM, of which an element costs thousands of operations: a few tiles.
constexpr size_t kLstmBlockElements = 8 * kLstmTile;

// The same for the coordinate-wise optimizer.
constexpr size_t kCoordinateBlockElements = 16 * kCoordinateTile;

// Multiply-adds that a thread takes at once: some 10 us.
constexpr size_t kTaskOperations = size_t{1} << 17;

RowsIn From(const RowsIn& rows, size_t row) { return {rows.data + row * rows.stride, rows.stride}; }
RowsOut From(const RowsOut& rows, size_t row) {
  return {rows.data + row * rows.stride, rows.stride};
}

// Chunks whose contents are added up together, in the order of their blocks.
constexpr size_t kContextChunks = 64;

// Elements that a thread takes at once where an element costs some tens of operations.
constexpr size_t kChunkTaskElements = size_t{1} << 12;

// Aligned workspace of this thread, at least `count` floats.
float* Scratch(size_t count) {
  struct Line {
    alignas(64) float floats[16];
  };
  thread_local std::vector<Line> lines;
  const size_t needed = count / 16 + 1;
  if (lines.size() < needed) lines.resize(needed);
  return lines[0].floats;
}

// Adds up what the chunks of each tensor have decided.
void SumChunks(const MnemosyneMemory& memory, std::span<MnemosyneTensorSums> sums) {
  for (size_t t = 0; t < memory.tensors.size(); ++t) {
    const MnemosyneTensor& tensor = memory.tensors[t];
    double square = 0, shrink = 0;
    for (size_t c = tensor.first_chunk; c < tensor.first_chunk + tensor.chunk_count; ++c) {
      square += static_cast<double>(memory.choices[c].mean_square) * memory.chunks[c].count;
      shrink += static_cast<double>(memory.choices[c].shrink);
    }
    sums[t].mean_square = square / static_cast<double>(tensor.count);
    sums[t].shrink = std::min(shrink / static_cast<double>(tensor.chunk_count), kShrinkMax);
  }
}

constexpr size_t kCacheLine = 64;
constexpr size_t kHugePage = size_t{2} << 20;

// The system promises more memory than it has, and kills whoever comes to use it.
size_t PhysicalMemory() {
  return static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

absl::StatusOr<CpuBackend::Parts> CpuBackend::FindParts(const CpuOptions& options) {
  if (options.threads < 0) {
    return InvalidArgument("wrong number of threads: {}, expected at least 0", options.threads);
  }
  MNEMO_ASSIGN_OR_RETURN(const KernelTable* kernels, FindKernels(options.isa));
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return Parts{kernels, options.threads == 0 ? cores : options.threads};
}

absl::StatusOr<std::unique_ptr<Backend>> CpuBackend::Create(const CpuOptions& options) {
  MNEMO_ASSIGN_OR_RETURN(const Parts parts, FindParts(options));
  return std::unique_ptr<Backend>(new CpuBackend(parts));
}

std::string CpuBackend::description() const {
  return fmt::format("{}, {} threads", kernels_.name, runner_.threads());
}

absl::StatusOr<Buffer> CpuBackend::Allocate(size_t size) {
  CountAllocation();
  if (size == 0) return Buffer();
  const size_t alignment = size >= 2 * kHugePage ? kHugePage : kCacheLine;
  void* data = nullptr;
  if (size <= PhysicalMemory()) {
    data = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  }
  if (data == nullptr) return ResourceExhausted("out of memory: {} bytes", size);
  // A hint, of which it does not matter whether it is taken.
  if (alignment == kHugePage) madvise(data, size, MADV_HUGEPAGE);
  // Also touches every page, so that a later step cannot be the one that finds no memory.
  std::memset(data, 0, size);
  return Buffer(static_cast<std::byte*>(data), size, [](std::byte* freed) { std::free(freed); });
}

absl::Status CpuBackend::Upload(const std::byte* host, std::byte* device, size_t size) {
  if (size > 0) std::memcpy(device, host, size);
  return absl::OkStatus();
}

absl::Status CpuBackend::Download(const std::byte* device, std::byte* host, size_t size) {
  if (size > 0) std::memcpy(host, device, size);
  return absl::OkStatus();
}

template <typename Work>
void CpuBackend::ForEachBlock(std::span<const Segment> segments, const Work& work) {
  CutIntoBlocks(segments, kBlockElements, blocks_);
  runner_.Run(blocks_, [&](size_t i) { work(blocks_[i]); });
}

template <typename Work>
void CpuBackend::SumOverBlocks(std::span<const Segment> segments, std::span<double> sums,
                               const Work& work) {
  CutIntoBlocks(segments, kBlockElements, blocks_);
  partial_.resize(blocks_.size());
  runner_.Run(blocks_, [&](size_t i) { partial_[i] = work(blocks_[i]); });
  SumBlocks(blocks_, partial_, sums);
}

absl::Status CpuBackend::MeasureGradients(const GradientStatisticsArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  CutIntoBlocks(args.segments, kBlockElements, blocks_);
  partial_.resize(blocks_.size());
  counts_.resize(blocks_.size());
  runner_.Run(blocks_, [&](size_t i) {
    kernels_.measure_gradients(args.values + blocks_[i].offset, blocks_[i].count, &partial_[i],
                               &counts_[i]);
  });
  std::fill(args.statistics.begin(), args.statistics.end(), GradientStatistics());
  for (size_t i = 0; i < blocks_.size(); ++i) {
    args.statistics[blocks_[i].segment].square_sum += partial_[i];
    args.statistics[blocks_[i].segment].non_finite_count += counts_[i];
  }
  return absl::OkStatus();
}

absl::Status CpuBackend::ZeroNonFinite(std::span<const Segment> segments, float* values) {
  MNEMO_RETURN_IF_ERROR(CheckSegments(segments, values));
  ForEachBlock(segments, [&](const Block& block) {
    kernels_.zero_non_finite(values + block.offset, block.count);
  });
  return absl::OkStatus();
}

absl::Status CpuBackend::SetZero(std::span<const Segment> segments, float* values) {
  MNEMO_RETURN_IF_ERROR(CheckSegments(segments, values));
  ForEachBlock(segments,
               [&](const Block& block) { std::fill_n(values + block.offset, block.count, 0.0F); });
  return absl::OkStatus();
}

absl::Status CpuBackend::SgdStep(const SgdStepArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  SumOverBlocks(args.segments, args.square_sums, [&](const Block& block) {
    return kernels_.sgd_step(args.coefficients[block.segment], args.replay, block.count,
                             args.values + block.offset, args.momentum + block.offset);
  });
  return absl::OkStatus();
}

absl::Status CpuBackend::AdamStep(const AdamStepArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  SumOverBlocks(args.segments, args.square_sums, [&](const Block& block) {
    return kernels_.adam_step(args.coefficients[block.segment], args.replay, block.count,
                              args.values + block.offset, args.first_moment + block.offset,
                              args.second_moment + block.offset);
  });
  return absl::OkStatus();
}

absl::Status CpuBackend::LionStep(const LionStepArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  SumOverBlocks(args.segments, args.square_sums, [&](const Block& block) {
    return kernels_.lion_step(args.coefficients[block.segment], args.replay, block.count,
                              args.values + block.offset, args.momentum + block.offset,
                              args.signs + block.offset / kSignsPerWord);
  });
  return absl::OkStatus();
}

absl::Status CpuBackend::LstmStep(const LstmStepArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  const size_t numbers = LstmStateCount(args.sizes);
  CutIntoBlocks(args.segments, kLstmBlockElements, blocks_);
  partial_.resize(blocks_.size());
  const auto work = [&](size_t i) {
    const Block& block = blocks_[i];
    const size_t mean_offset = args.sizes.normalized ? block.offset : 0;
    partial_[i] = kernels_.lstm_step(
        args.sizes, args.coefficients[block.segment], args.weights, args.replay, block.count,
        args.values + block.offset, args.hidden + block.offset * numbers,
        args.cell + block.offset * numbers, args.mean + mean_offset, args.square + mean_offset);
  };
  runner_.Run(blocks_, work, args.replay ? BlockRunner::kTaskElements : kLstmBlockElements);
  SumBlocks(blocks_, partial_, args.square_sums);
  return absl::OkStatus();
}

absl::Status CpuBackend::CoordinateStep(const CoordinateStepArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  const CoordinateSizes& sizes = args.model.sizes;
  // What of the arguments is a block's own.
  const auto run_of = [&](const Block& block) {
    CoordinateRun run = {};
    run.tensor = &args.tensors[block.segment];
    run.count = block.count;
    run.values = args.values + block.offset;
    run.update = args.update + block.offset;
    if (args.replay) return run;
    run.fast = args.fast + block.offset;
    run.slow = args.slow + block.offset;
    run.square = args.square + block.offset;
    run.log_step = args.log_step + block.offset;
    run.content = args.content + block.offset * CoordinateContentCount(sizes);
    run.mass = args.mass + block.offset * CoordinateMassCount(sizes);
    return run;
  };
  if (!args.replay) {
    ForEachBlock(args.segments,
                 [&](const Block& block) { kernels_.coordinate_moments(run_of(block)); });
    means_.Measure(args.segments, args.tensors, args.square, runner_);
  }
  CutIntoBlocks(args.segments, kCoordinateBlockElements, blocks_);
  partial_.resize(blocks_.size());
  const auto work = [&](size_t i) {
    const Block& block = blocks_[i];
    float factored[kCoordinateBlockElements];
    CoordinateRun run = run_of(block);
    if (!args.replay) {
      means_.Factored(block.segment, block.offset - args.segments[block.segment].offset,
                      block.count, factored);
      run.factored = factored;
      run.mean_square = means_.mean(block.segment);
      run.told = args.told.data() + block.segment * sizes.hidden;
    }
    partial_[i] = kernels_.coordinate_step(args.model, args.weights, args.replay, run);
  };
  runner_.Run(blocks_, work, args.replay ? BlockRunner::kTaskElements : kCoordinateBlockElements);
  SumBlocks(blocks_, partial_, args.square_sums);
  return absl::OkStatus();
}

template <typename Work>
void CpuBackend::ForEachRows(size_t rows, size_t cost, const Work& work) {
  const size_t part = std::max<size_t>(1, kTaskOperations / std::max<size_t>(cost, 1));
  const Segment all = {0, rows};
  CutIntoBlocks({&all, 1}, part, blocks_);
  runner_.Run(
      blocks_, [&](size_t i) { work(blocks_[i].offset, blocks_[i].count); }, part);
}

template <typename Work>
void CpuBackend::ForEachMemory(const MemoryArgs& args, const Work& work) {
  const size_t cost = args.steps * args.sizes.features * args.sizes.width;
  ForEachRows(args.memories, cost, [&](size_t first, size_t count) {
    for (size_t memory = first; memory < first + count; ++memory) {
      for (size_t step = 0; step < args.steps; ++step) work(memory, step);
    }
  });
}

absl::Status CpuBackend::DenseLayer(const DenseLayerArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  ForEachRows(args.rows, args.sizes.inputs * args.sizes.outputs, [&](size_t first, size_t count) {
    kernels_.dense_layer(args.sizes, count, From(args.x, first), args.weights, args.bias,
                         From(args.y, first));
  });
  return absl::OkStatus();
}

absl::Status CpuBackend::FeatureMap(const FeatureMapArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  constexpr size_t kExponentialCost = 20;
  const size_t cost = (args.sizes.inputs + kExponentialCost) * args.sizes.features;
  ForEachRows(args.rows, cost, [&](size_t first, size_t count) {
    kernels_.feature_map(args.sizes, count, From(args.x, first), args.weights, args.bias,
                         From(args.phi, first));
  });
  return absl::OkStatus();
}

absl::Status CpuBackend::BidirectionalAttention(const BidirectionalAttentionArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  blocks_.clear();
  for (size_t group = 0; group + 1 < args.group_starts.size(); ++group) {
    const size_t first = args.group_starts[group];
    blocks_.push_back({group, first, args.group_starts[group + 1] - first});
  }
  const size_t cost = 2 * args.sizes.features * args.sizes.width;
  const auto work = [&](size_t i) {
    const size_t first = blocks_[i].offset;
    const float* const row_weights =
        args.row_weights == nullptr ? nullptr : args.row_weights + first;
    kernels_.bidirectional_attention(args.sizes, blocks_[i].count, From(args.phi_q, first),
                                     From(args.phi_k, first), From(args.values, first), row_weights,
                                     From(args.out, first));
  };
  runner_.Run(blocks_, work, std::max<size_t>(1, kTaskOperations / cost));
  return absl::OkStatus();
}

absl::Status CpuBackend::AdditiveMemory(const AdditiveMemoryArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  const MemoryArgs& all = args.memory;
  const size_t features = all.sizes.features, width = all.sizes.width;
  ForEachMemory(all, [&](size_t memory, size_t step) {
    const size_t row = memory * all.steps + step;
    kernels_.additive_memory_step(all.sizes, all.discounts[memory % all.heads],
                                  all.phi_q + row * features, all.phi_k + row * features,
                                  all.values + (memory / all.heads * all.steps + step) * width,
                                  all.content + memory * features * width,
                                  args.normalizer + memory * features, all.out + row * width);
  });
  return absl::OkStatus();
}

absl::Status CpuBackend::DeltaMemory(const DeltaMemoryArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  const MemoryArgs& all = args.memory;
  const size_t features = all.sizes.features, width = all.sizes.width;
  ForEachMemory(all, [&](size_t memory, size_t step) {
    const size_t row = memory * all.steps + step;
    kernels_.delta_memory_step(all.sizes, all.discounts[memory % all.heads], args.betas[row],
                               all.phi_q + row * features, all.phi_k + row * features,
                               all.values + (memory / all.heads * all.steps + step) * width,
                               all.content + memory * features * width, all.out + row * width);
  });
  return absl::OkStatus();
}

absl::Status CpuBackend::MnemosyneContext(const MnemosyneContextArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  const MnemosyneSizes& sizes = args.model.sizes;
  const MnemosyneMemory& memory = args.memory;
  const size_t tensors = memory.tensors.size(), features = sizes.context_map.features;
  const size_t count = ContextContentCount(sizes);
  blocks_.clear();
  for (size_t t = 0; t < tensors; ++t) {
    const MnemosyneTensor& tensor = memory.tensors[t];
    for (size_t c = 0; c < tensor.chunk_count; c += kContextChunks) {
      blocks_.push_back(
          {t, tensor.first_chunk + c, std::min(kContextChunks, tensor.chunk_count - c)});
    }
  }
  // The contents of each block, of its tensor and of all.
  contents_.assign(2 * count * blocks_.size(), 0);
  const auto work = [&](size_t i) {
    float* const own = contents_.data() + 2 * count * i;
    const size_t first = blocks_[i].offset;
    kernels_.mnemosyne_context(args.model, blocks_[i].count,
                               memory.tokens + first * sizes.token_width,
                               memory.context_queries + 2 * first * features, own, own + count);
  };
  runner_.Run(blocks_, work, kContextChunks);

  partial_.assign(2 * count, 0);  // Of the tensor at hand, and of all.
  const std::span own = std::span(partial_).first(count), all = std::span(partial_).last(count);
  const auto put = [&](std::span<const double> sums, size_t t) {
    for (size_t k = 0; k < count; ++k) {
      memory.context_contents[t * count + k] = static_cast<float>(sums[k]);
    }
  };
  for (size_t i = 0; i < blocks_.size(); ++i) {
    if (i == 0 || blocks_[i].segment != blocks_[i - 1].segment) std::ranges::fill(own, 0.0);
    for (size_t k = 0; k < count; ++k) {
      own[k] += static_cast<double>(contents_[2 * count * i + k]);
      all[k] += static_cast<double>(contents_[2 * count * i + count + k]);
    }
    const bool last = i + 1 == blocks_.size() || blocks_[i + 1].segment != blocks_[i].segment;
    if (last) put(own, blocks_[i].segment);
  }
  put(all, tensors);
  SumChunks(memory, args.sums);
  return absl::OkStatus();
}

absl::Status CpuBackend::MnemosyneStep(const MnemosyneStepArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  blocks_.clear();
  for (size_t k = 0; k < args.parameters.size(); ++k) {
    const MnemosyneTensor& tensor = args.memory.tensors[args.parameters[k]];
    for (size_t c = tensor.first_chunk; c < tensor.first_chunk + tensor.chunk_count; ++c) {
      blocks_.push_back({k, c, args.memory.chunks[c].count});
    }
  }
  partial_.resize(blocks_.size());
  // Chunks of any parameters, a few at a time: positions in blocks_.
  batches_.clear();
  for (size_t first = 0; first < blocks_.size(); first += kMnemosyneBatch) {
    const size_t end = std::min(first + kMnemosyneBatch, blocks_.size());
    size_t elements = 0;
    for (size_t i = first; i < end; ++i) elements += blocks_[i].count;
    batches_.push_back({end - first, first, elements});
  }
  const size_t scratch_count = kernels_.mnemosyne_scratch_count(args.model.sizes);
  // Floats that the memories of a chunk of 16 bits are unpacked to.
  const size_t half_count = args.memory.is_half() ? 3 * kMnemosyneChunkMax : 0;
  const auto work = [&](size_t batch) {
    const size_t first = batches_[batch].offset, count = batches_[batch].segment;
    MnemosyneChunkStep steps[kMnemosyneBatch];
    std::optional<HalfChunk> halves[kMnemosyneBatch];
    float* const scratch = Scratch(scratch_count + kMnemosyneBatch * half_count);
    for (size_t r = 0; r < count; ++r) {
      const auto& [k, c, elements] = blocks_[first + r];
      steps[r] = ChunkStep(args, k, c);
      if (half_count == 0) continue;
      halves[r].emplace(args, k, c, scratch + scratch_count + r * half_count, steps[r]);
    }
    kernels_.mnemosyne_update(args.model, steps, count, args.replay, scratch,
                              partial_.data() + first);
    for (size_t r = 0; r < count && half_count > 0 && !args.replay; ++r) halves[r]->PutBack();
  };
  runner_.Run(batches_, work, args.replay ? BlockRunner::kTaskElements : kChunkTaskElements);
  SumBlocks(blocks_, partial_, args.square_sums);
  std::ranges::fill(args.capped, size_t{0});
  for (const Block& block : blocks_) {
    if (args.memory.choices[block.offset].cap < 1) ++args.capped[block.segment];
  }
  return absl::OkStatus();
}

absl::Status CpuBackend::FltAttention(const FltAttentionArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  return FltForward(kernels_.flt, runner_, args);
}

absl::Status CpuBackend::FltAttentionBackward(const FltBackwardArgs& args) {
  MNEMO_RETURN_IF_ERROR(Check(args));
  return FltBackward(kernels_.flt, runner_, args);
}

absl::Status CpuBackend::Synchronize() { return absl::OkStatus(); }

}  // namespace mnemosyne::kernels::cpu
